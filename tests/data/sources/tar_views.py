"""Tars of the views of `container_views`, and what is read of them."""

from pathlib import Path
from typing import Any

import pytest
from container_views import CLASSES, members, tar_of_samples, write

from pipeline.data.storage import Storage


def source(root: Path | str, **changes: Any) -> dict[str, Any]:
    described = {
        "kind": "webdataset",
        "root": str(root),
        "shards": "*.tar",
        "depth": {"unit": "mm"},
        "classes": CLASSES,
    }
    return described | changes


def write_tars(root: Path, *, tars: int = 2, samples: int = 3, name: str = "part-{:03d}.tar") -> Path:
    """Tars of samples 0, 1, ... with a key of their own each."""
    for tar in range(tars):
        numbers = range(tar * samples, (tar + 1) * samples)
        content = tar_of_samples({f"room/{number:04d}": members(number) for number in numbers})
        write(root / name.format(tar), content)
    return root


def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """What is read from here on, as (name, start, end)."""
    asked = []
    original = Storage.read

    def read(self: Storage, name: str, start: int, end: int) -> bytes:
        asked.append((name, start, end))
        return original(self, name, start, end)

    monkeypatch.setattr(Storage, "read", read)
    return asked
