"""Tars from elsewhere: fetched whole, checked, kept until room is needed for others.

Processes of a machine share the copies: whoever needs a tar first locks its name and fetches it. A copy
is there whole or not at all. Deleting one that is being read does no harm, since open files stay.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from pipeline.data.loader.location import Location
from pipeline.data.loader.verified import Verified
from pipeline.data.shards.tar import Shard
from pipeline.data.storage import Storage
from pipeline.errors import InputError

GIB = 2**30

_AT_ONCE = 16 << 20
_TRIES = 3


@dataclass(frozen=True)
class Copies:
    """Copies of the tars of one dataset.

    Attributes:
        location: Where the tars are, and where copies of them lie.
        shards: Their sizes and digests.
    """

    location: Location
    shards: dict[str, Shard]

    def path(self, name: str) -> Path:
        """A whole copy of a tar, fetched if there is none; now the one used last.

        Raises:
            InputError: If it cannot be fetched, or is not the one that the index was made for.
        """
        path = self.location.copies() / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(path):
                if not path.exists():
                    self._fetch(name, path)
        with suppress(OSError):
            os.utime(_lock_of(path))
        return path

    def verified_path(self, name: str, verified: Verified) -> Path:
        """The same; a copy that was damaged since is fetched again.

        Raises:
            InputError: If it cannot be fetched, or is not the one that the index was made for.
        """
        path = self.path(name)
        try:
            verified.verify(name, self.shards[name])
        except InputError:
            path.unlink(missing_ok=True)
            path = self.path(name)
            verified.verify(name, self.shards[name])
        return path

    def _fetch(self, name: str, path: Path) -> None:
        shard = self.shards[name]
        storage = Storage(self.location.shards, field="data.source.path")
        self._make_room(shard.bytes)
        partial = path.with_name(f".{name}.partial")
        for _ in range(_TRIES):
            digest, size = sha256(), 0
            with partial.open("wb") as file:
                while piece := storage.read(name, size, min(size + _AT_ONCE, shard.bytes + 1)):
                    file.write(piece)
                    digest.update(piece)
                    size += len(piece)
                    if size > shard.bytes or (len(piece) < _AT_ONCE and size >= shard.bytes):
                        break
            if size == shard.bytes and digest.hexdigest() == shard.sha256:
                partial.replace(path)
                return
        partial.unlink()
        what = f"{size} bytes instead of {shard.bytes}" if size != shard.bytes else "another SHA-256"
        raise InputError(
            f"{storage.path(name)}: has {what}, so it is not the tar that the index was made for "
            f"(fetched {_TRIES} times); upload the dataset again"
        )

    def _make_room(self, size: int) -> None:
        limit = self.location.cache_gib * GIB
        copies = sorted(_copies(self.location.home))
        total = sum(file_size for _, file_size, _ in copies) + size
        for _, file_size, path in copies:
            if total <= limit:
                return
            path.unlink(missing_ok=True)
            total -= file_size


def _copies(cache: Path) -> Iterator[tuple[float, int, Path]]:
    """All copies with the time of their last use and their size."""
    for path in cache.glob("*/*.tar"):
        with suppress(OSError):
            yield _lock_of(path).stat().st_mtime, path.stat().st_size, path


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with _lock_of(path).open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
