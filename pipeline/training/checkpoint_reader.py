"""Reads parts of divided weights without running what a file says: torch's own reader unpickles anything."""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

DESCRIBING = ("torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem")
"""Modules whose classes say where tensors stand."""

OTHERS = {("torch", "Size"), ("torch.serialization", "_get_layout"), ("pathlib", "PosixPath")}


class Reader(FileSystemReader):
    """As torch's, but that `.metadata` may hold descriptions and nothing else."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """What the parts hold.

        Raises:
            pickle.UnpicklingError: If the file names anything that does not describe tensors.
        """
        with (Path(self.path) / ".metadata").open("rb") as file:
            metadata: Metadata = _Descriptions(file).load()
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _Descriptions(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        described = module in DESCRIBING and isinstance(found, type)
        if described or (module, name) in OTHERS or (module == "torch" and isinstance(found, torch.dtype)):
            return found
        raise pickle.UnpicklingError(f".metadata names {module}.{name}, which describes no tensor")
