"""The samples of one tar: members with the same name that follow each other, and what is wrong with them."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any

from pipeline.data.sources.tar_headers import DamagedTarError, Fault, Member, members_of
from pipeline.data.storage import Storage

PICKLES = ("pyd", "pkl", "pickle", "p", "pt", "pth", "joblib")
"""Endings of members that run code when they are opened."""

ZSTD = ".zst"

_SCAN_BUFFER = 1 << 18
_LONGEST_NAME = 1000

_WHY: dict[str, tuple[str, str]] = {
    Fault.LINK: ("is a link; links are not followed", "store the file itself"),
    Fault.DEVICE: ("is a device or another special file", "store regular files only"),
    Fault.SPARSE: ("is stored sparsely", "pack the tar without --sparse"),
    Fault.UNSAFE_NAME: ("has an absolute path, `..` or unprintable characters in its name", "rename it"),
    Fault.TRUNCATED: ("goes on beyond the end of the tar", "download or write the tar again"),
    "pickle": ("is a pickle, which would run code; it is not opened", "store plain arrays and pictures"),
    "repeated": ("is in its tar twice", "give each sample a name of its own and one member per ending"),
}


@dataclass(frozen=True)
class Trouble:
    """Why a sample is refused before anything is loaded; the words of a `Refusal`."""

    reason: str
    detail: str
    remedy: str


@dataclass(frozen=True, slots=True)
class TarSample:
    """One sample, or the place from which a tar cannot be read.

    Attributes:
        name: What its members' names begin with, up to the first dot of their last part.
        members: By what follows that dot, in lower case.
        trouble: Why it must be refused whatever is read of it.
    """

    name: str
    members: dict[str, Member]
    trouble: Trouble | None = None


def trouble_with(reason: str, what: str) -> Trouble:
    """The words for one of the known reasons."""
    why, remedy = _WHY[reason]
    return Trouble(str(reason), f"{what} {why}", remedy)


def samples_of(storage: Storage, tar: str) -> Iterator[TarSample]:
    """The samples of one tar, in order; at the end, perhaps, why there are no more.

    Raises:
        InputError: If the tar is not there or its storage cannot be read.
    """
    size = storage.states([tar])[0].size
    if not size:
        yield _damaged(tar, "is empty")
        return
    with storage.open(tar, _SCAN_BUFFER) as stream:
        named = ((*_split_name(member), member) for member in _until_damage(stream, size))
        for name, group in groupby(named, key=lambda item: item[0]):
            members: dict[str, Member] = {}
            trouble = None
            for _, ending, member in group:
                if isinstance(member, str):
                    yield _damaged(tar, member)
                    return
                if not ending and member.fault is None:
                    continue
                if members.setdefault(ending, member) is not member:
                    trouble = trouble_with("repeated", f"member .{ending}")
            if members:
                yield TarSample(_printable(name), members, trouble or _worst(members))


def _worst(members: dict[str, Member]) -> Trouble | None:
    """What makes a sample unusable whichever of its members are read."""
    for ending, member in members.items():
        what = f"member .{ending}" if ending else "a member"
        if member.fault not in (None, Fault.TRUNCATED):
            return trouble_with(member.fault, what)
        if ending.removesuffix(ZSTD).rpartition(".")[2] in PICKLES:
            return trouble_with("pickle", what)
    return None


def _until_damage(stream: Any, size: int) -> Iterator[Member | str]:
    try:
        yield from members_of(stream, size)
    except DamagedTarError as error:
        yield str(error)


def _split_name(member: Member | str) -> tuple[str, str]:
    """A member's name and ending, divided as webdataset does."""
    if isinstance(member, str):
        return "", ""
    folder, slash, last = member.name.rpartition("/")
    stem, dot, ending = last.partition(".")
    if not stem or not dot:
        return member.name, ""
    return f"{folder}{slash}{stem}", _printable(ending.lower())


def _damaged(tar: str, why: str) -> TarSample:
    trouble = Trouble("damaged_tar", f"{PurePosixPath(tar).name} {why}", "download or write it again")
    return TarSample(tar, {}, trouble)


def _printable(name: str) -> str:
    return (name if name.isprintable() else ascii(name)[1:-1])[:_LONGEST_NAME]
