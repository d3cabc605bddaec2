"""A tar file whose bytes depend on its members alone."""

import hashlib
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_BLOCK, _RECORD = 512, 10240
_BUFFER = 1 << 20

_NAME, _NO_SIZE = 100, b"00000000000"


def _template() -> bytes:
    empty = tarfile.TarInfo("")
    empty.mode = 0o644
    return empty.tobuf(tarfile.USTAR_FORMAT)


_TEMPLATE = _template()
_TEMPLATE_SUM = sum(_TEMPLATE) - sum(_TEMPLATE[148:156]) + 8 * ord(" ")


@dataclass(frozen=True)
class Shard:
    """A finished tar file."""

    samples: int
    bytes: int
    sha256: str


def header(name: str, size: int) -> bytes:
    """The 512 bytes before a member's content: what tarfile writes, made from a template and much faster.

    Args:
        name: Of the member; at most 100 characters, ASCII.
        size: Of its content in bytes, below 8 GiB.

    Source: POSIX.1-1988, ustar: name at byte 0, size in octal at 124, and at 148 the sum of all bytes,
        counting those of the sum itself as spaces.
    """
    named, sized = name.encode("ascii"), b"%011o" % size
    assert len(named) <= _NAME
    assert len(sized) == len(_NO_SIZE)
    total = _TEMPLATE_SUM + sum(named) + sum(sized) - sum(_NO_SIZE)
    return b"".join((
        named, _TEMPLATE[len(named) : 124], sized, _TEMPLATE[135:148], b"%06o\0" % total, _TEMPLATE[155:],
    ))  # fmt: skip


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
        self._write(header(name, len(content)))
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
