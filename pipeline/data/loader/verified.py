"""Whether a tar is the one that its index was made for.

Its SHA-256 is computed once per state of the file. That it was right is remembered, with size and times
of the file, as a line of `.verified` beside the tars (elsewhere, where that is read-only), so a tar
that did not change costs one look. A byte changed behind its back changes the time of its inode.
"""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from pipeline.data.shards.tar import Shard
from pipeline.errors import InputError

STAMPS = ".verified"

_AT_ONCE = 1 << 20


class Verified:
    """Which tars of a directory are known to be right. Several processes may add to it at once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._places = (directory / STAMPS, _elsewhere(directory))
        self._known = self._read()

    def is_known(self, name: str, shard: Shard) -> bool:
        """Whether the file, as it is now, was found to be right before.

        Raises:
            InputError: If there is no such file, or it has another size.
        """
        return _state(self._directory / name, name, shard) in self._known

    def verify(self, name: str, shard: Shard) -> None:
        """Read the whole file, unless that was done in its present state.

        Raises:
            InputError: If it is not the file that the index was made for.
        """
        path = self._directory / name
        state = _state(path, name, shard)
        if state in self._known:
            return
        self._known |= self._read()
        if state in self._known:
            return
        if sha256_of(path) != shard.sha256:
            raise InputError(
                f"{path}: its content changed since its index was made (SHA-256 differs); write the dataset "
                "again, or copy the file again from where it is whole"
            )
        if _state(path, name, shard) == state:
            self._known.add(state)
            self._note(state)

    def _read(self) -> set[str]:
        lines: set[str] = set()
        for place in self._places:
            with suppress(OSError, UnicodeDecodeError):
                lines.update(place.read_text().splitlines())
        return lines

    def _note(self, state: str) -> None:
        for place in self._places:
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                with place.open("ab", buffering=0) as file:
                    file.write(f"{state}\n".encode())  # one write, so lines of several processes do not mix
            except OSError:
                continue
            return


def sha256_of(path: Path) -> str:
    """The digest of a file's content.

    Raises:
        InputError: If it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as file:
            while piece := file.read(_AT_ONCE):
                digest.update(piece)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    return digest.hexdigest()


def cache_home() -> Path:
    """Where this person's copies and notes lie."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "triptych"


def _elsewhere(directory: Path) -> Path:
    name = hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:16]
    return cache_home() / "verified" / name


def _state(path: Path, name: str, shard: Shard) -> str:
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; the dataset is incomplete, write it again") from None
    if status.st_size != shard.bytes:
        raise InputError(
            f"{path}: {status.st_size} bytes, but its index was made for {shard.bytes}; "
            "write the dataset again"
        )
    return f"{name} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {shard.sha256}"
