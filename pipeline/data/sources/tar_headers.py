"""What lies where in a tar, from its headers alone; nothing is extracted."""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from io import BufferedIOBase
from pathlib import PurePosixPath

BLOCK = 512

MOST_HEADER_BYTES = 1 << 20
"""A longer extended header (it holds a name) is damage or malice."""

_ZEROS = bytes(BLOCK)
_CHECKSUM, _SPACES = slice(148, 156), 8 * 32
_OCTAL = re.compile(rb"[0-7]+")
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_LINKS = (tarfile.LNKTYPE, tarfile.SYMTYPE)
_WITHOUT_DATA = (*_LINKS, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class Fault(StrEnum):
    """Why a member is never read."""

    LINK = "link"
    DEVICE = "device"
    SPARSE = "sparse"
    UNSAFE_NAME = "unsafe_name"
    TRUNCATED = "truncated"


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a tar.

    Attributes:
        name: As stored, without a leading `./`.
        offset: Where its bytes begin.
        size: How many they are.
        fault: Why it must not be read; None if it may.
    """

    name: str
    offset: int
    size: int
    fault: Fault | None = None


class DamagedTarError(ValueError):
    """What follows in a tar cannot be read."""


def members_of(stream: BufferedIOBase, size: int) -> Iterator[Member]:
    """The files in an uncompressed tar, in order; folders are passed over.

    Args:
        stream: The tar, readable and seekable.
        size: Its length in bytes.

    Raises:
        DamagedTarError: Where it goes on with something that is no header, or ends in the middle of one.
    """
    position, extended = 0, dict[str, str]()
    while position < size:
        stream.seek(position)
        block = stream.read(BLOCK)
        if block == _ZEROS:
            return
        header = _header(block, position)
        position += BLOCK
        length = _length(header.size, extended.get("size"))
        following = position + -(-length // BLOCK) * BLOCK
        match header.type:
            case tarfile.XHDTYPE | tarfile.GNUTYPE_LONGNAME | tarfile.SOLARIS_XHDTYPE:
                extended |= _extension(header, _small(stream, length, position))
            case tarfile.GNUTYPE_SPARSE:
                raise DamagedTarError(
                    f"has a sparse member at byte {position - BLOCK:,}; pack it without --sparse"
                )
            case tarfile.XGLTYPE | tarfile.GNUTYPE_LONGLINK | tarfile.DIRTYPE:
                extended = {} if header.type == tarfile.DIRTYPE else extended
            case _:
                name = extended.get("path", header.name).removeprefix("./")
                fault = _fault(header, name, extended, position + length > size)
                if header.type in _WITHOUT_DATA:
                    following = position  # whatever size its header claims
                yield Member(name, position, length, fault)
                extended = {}
        position = following


@dataclass(frozen=True, slots=True)
class _Header:
    """What a header block says of the member after it; only what is needed, for there are millions."""

    name: str
    type: bytes
    size: int


def _header(block: bytes, position: int) -> _Header:
    """Read a block as the `tarfile` module does.

    Raises:
        DamagedTarError: If it is none.
    """
    if len(block) < BLOCK or _number(block[_CHECKSUM]) != _SPACES + sum(block[:148]) + sum(block[156:]):
        for magic, name in _COMPRESSED.items():
            if position == 0 and block.startswith(magic):
                raise DamagedTarError(f"is compressed with {name}, so nothing in it can be found; unpack it")
        raise DamagedTarError(f"has no header at byte {position:,}")
    kind, name, prefix = block[156:157], _text(block[:100]), _text(block[345:500])
    if kind == tarfile.AREGTYPE and name.endswith("/"):
        kind = tarfile.DIRTYPE
    if prefix and kind not in tarfile.GNU_TYPES:
        name = f"{prefix}/{name}"
    return _Header(name, kind, _number(block[124:136]))


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _number(field: bytes) -> int:
    """Octal digits, or a binary number where the first bit is set; -1 if it is neither."""
    if field[0] in (0o200, 0o377):
        return int.from_bytes(field[1:], "big") - (256 ** (len(field) - 1) if field[0] == 0o377 else 0)
    digits = field.partition(b"\0")[0].strip()
    return int(digits or b"0", 8) if not digits or _OCTAL.fullmatch(digits) else -1


def _length(stored: int, extended: str | None) -> int:
    length = int(extended) if extended is not None and extended.isdecimal() else stored
    if length < 0:
        raise DamagedTarError(f"has a member of {length} bytes")
    return length


def _small(stream: BufferedIOBase, length: int, position: int) -> bytes:
    if length > MOST_HEADER_BYTES:
        raise DamagedTarError(f"has an extended header of {length:,} bytes at byte {position:,}")
    return stream.read(length)


def _extension(header: _Header, content: bytes) -> dict[str, str]:
    """The fields that replace those of the next header."""
    if header.type == tarfile.GNUTYPE_LONGNAME:
        return {"path": content.rstrip(b"\0").decode("utf-8", "surrogateescape")}
    fields, at = {}, 0
    while at < len(content):
        digits, space, _ = content[at : at + 20].partition(b" ")
        if not space or not digits.isdigit() or int(digits) <= len(digits):
            break
        record = content[at + len(digits) + 1 : at + int(digits) - 1]
        name, _, value = record.partition(b"=")
        fields[name.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        at += int(digits)
    return fields


def _fault(header: _Header, name: str, extended: dict[str, str], cut: bool) -> Fault | None:
    if header.type in _LINKS:
        return Fault.LINK
    if any(key.startswith("GNU.sparse") for key in extended):
        return Fault.SPARSE
    if header.type not in _FILES:
        return Fault.DEVICE
    if name.startswith("/") or ".." in PurePosixPath(name).parts or not _is_plain(name):
        return Fault.UNSAFE_NAME
    return Fault.TRUNCATED if cut else None


def _is_plain(name: str) -> bool:
    """Whether a name is text without control characters or a drive letter."""
    return name.isprintable() and "\\" not in name and name[1:2] != ":" and bool(name)
