"""The tars of a dataset as open files."""

import os
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from pipeline.data.loader.copies import Copies
from pipeline.errors import InputError

_OPEN_SHARDS = 64


@dataclass
class ShardFiles:
    """Opens tars when they are read and keeps the latest few open. Safe to share among threads.

    Attributes:
        directory: Where they are.
        names: Of all of them, in the order of `dataset.json`.
        copies: Where they come from if they are copies of what is elsewhere.
    """

    directory: Path
    names: tuple[str, ...]
    copies: Copies | None = None
    _files: OrderedDict[int, int] = field(default_factory=OrderedDict, repr=False)
    _lock: Any = field(default_factory=Lock, repr=False)

    def name(self, shard: int) -> str:
        """What people call a tar."""
        return str(self.directory / self.names[shard])

    def read_into(self, shard: int, pieces: list[Any], offset: int, size: int) -> None:
        """Read a tar into one buffer after the other.

        Raises:
            InputError: If it cannot be opened or ends before.
        """
        with self._lock:
            count = os.preadv(self._open(shard), pieces, offset)
        if count != size:
            raise self._too_short(shard, offset + size)

    def close(self) -> None:
        """Close the files; they open again when they are needed."""
        with self._lock:
            while self._files:
                os.close(self._files.popitem()[1])

    def _open(self, shard: int) -> int:
        if shard not in self._files:
            name = self.names[shard]
            path = self.copies.path(name) if self.copies else self.directory / name
            try:
                self._files[shard] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise InputError(f"{self.name(shard)}: {error.strerror}; write the dataset again") from error
            if len(self._files) > _OPEN_SHARDS:
                os.close(self._files.popitem(last=False)[1])
        self._files.move_to_end(shard)
        return self._files[shard]

    def _too_short(self, shard: int, end: int) -> InputError:
        return InputError(f"{self.name(shard)}: ends before byte {end}; write the dataset again")

    def __getstate__(self) -> dict[str, Any]:
        return {"directory": self.directory, "names": self.names, "copies": self.copies}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __del__(self) -> None:
        for descriptor in getattr(self, "_files", {}).values():
            os.close(descriptor)
