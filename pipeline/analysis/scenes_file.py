"""A few scenes as numbers, so that figures can be made of several runs."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from pipeline.analysis.views import Views
from pipeline.durable import write_bytes
from pipeline.errors import InputError

SCENES = "scenes.npz"
_PARTS = ("rgb", "depth_m", "labels")


def save_scenes(path: Path, named: Mapping[str, Views]) -> None:
    """Write views under their names; RGB at half precision, which keeps 8 bits and the gaps."""
    arrays = {}
    for name, views in named.items():
        for part in _PARTS:
            values = getattr(views, part)
            if values is not None:
                arrays[f"{name}.{part}"] = values.astype(np.float16) if part == "rgb" else values
    buffer = BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def load_scenes(path: Path) -> dict[str, Views]:
    """What `save_scenes` wrote.

    Raises:
        InputError: If it is damaged.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    try:
        with np.load(BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            for key in arrays.files:
                name, _, part = key.rpartition(".")
                values = arrays[key]
                found.setdefault(name, {})[part] = values.astype(np.float32) if part == "rgb" else values
        return {name: Views(**parts) for name, parts in found.items()}
    except (ValueError, TypeError, KeyError, BadZipFile, EOFError) as error:
        raise InputError(f"{path}: damaged ({error}); make it again with --force evaluate") from None
