"""A tar file whose bytes depend on its members alone."""

import hashlib
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_BLOCK, _RECORD = 512, 10240
_BUFFER = 1 << 20


@dataclass(frozen=True)
class Shard:
    """A finished tar file."""

    samples: int
    bytes: int
    sha256: str


class TarWriter:
    """Writes members one after another: no dates, no owners, POSIX ustar."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self.samples = 0
        self._file: IO[bytes] = path.open("xb", buffering=_BUFFER)
        self._hash = hashlib.sha256()
        self._end = 0

    def add(self, name: str, content: bytes) -> int:
        """Append a member and return the offset of its content."""
        header = tarfile.TarInfo(name)
        header.size, header.mode = len(content), 0o644
        self._write(header.tobuf(tarfile.USTAR_FORMAT))
        offset = self._end
        self._write(content)
        self._write(bytes(-len(content) % _BLOCK))
        return offset

    def finish(self) -> Shard:
        """Write the end of the archive and wait until it is on disk."""
        with self._file:
            self._write(bytes(2 * _BLOCK))
            self._write(bytes(-self._end % _RECORD))
            self._file.flush()
            os.fsync(self._file.fileno())
        return Shard(self.samples, self._end, self._hash.hexdigest())

    def abandon(self) -> None:
        """Let go of the file as it is."""
        self._file.close()

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._hash.update(content)
        self._end += len(content)
