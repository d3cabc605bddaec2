"""Headers are read as the standard library reads them, whatever is in a tar and wherever it is cut."""

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.sources.tar_headers import DamagedTarError, Fault, members_of

NAMES = st.text("abcé/._- ", min_size=1, max_size=180).map(lambda text: f"x{text}y")
TYPES = st.sampled_from(
    [tarfile.REGTYPE] * 4 + [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE]
)
FORMATS = st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
CONTENTS = st.binary(max_size=1500)


def written(entries: list[tuple[str, bytes, bytes]], form: int) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
        for name, kind, content in entries:
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, "target" * 30
            header.size = len(content) if kind == tarfile.REGTYPE else 0
            tar.addfile(header, io.BytesIO(content))
    return stream.getvalue()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(NAMES, TYPES, CONTENTS), max_size=8), FORMATS)
def test_members_are_those_the_library_finds(entries: list[tuple[str, bytes, bytes]], form: int) -> None:
    content = written(entries, form)
    found = list(members_of(io.BytesIO(content), len(content)))
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        expected = [member for member in tar.getmembers() if not member.isdir()]
    assert [member.name for member in found] == [member.name for member in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.fault is None) == (theirs.isreg() and ".." not in theirs.name.split("/"))
        if theirs.isreg():
            assert (ours.offset, ours.size) == (theirs.offset_data, theirs.size)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(NAMES, TYPES, CONTENTS), min_size=1, max_size=5), FORMATS, st.data())
def test_tar_that_is_cut_anywhere_gives_what_is_whole_and_nothing_else(
    entries: list[tuple[str, bytes, bytes]], form: int, data: st.DataObject
) -> None:
    whole = written(entries, form)
    expected = list(members_of(io.BytesIO(whole), len(whole)))
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    found = []
    try:
        found.extend(members_of(io.BytesIO(cut), len(cut)))
    except DamagedTarError:
        pass
    for ours, theirs in zip(found, expected, strict=False):
        assert (ours.offset, ours.size) == (theirs.offset, theirs.size)
        beyond = ours.offset + ours.size > len(cut)
        assert (ours.fault == Fault.TRUNCATED) == (beyond and theirs.fault is None)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(NAMES, TYPES, CONTENTS), min_size=1, max_size=4), FORMATS, st.data())
def test_damage_ends_in_an_error_we_know_and_never_points_backwards(
    entries: list[tuple[str, bytes, bytes]], form: int, data: st.DataObject
) -> None:
    content = bytearray(written(entries, form))
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    last = 0
    try:
        for member in members_of(io.BytesIO(bytes(content)), len(content)):
            assert member.offset > last
            assert member.size >= 0
            last = member.offset
    except DamagedTarError:
        pass


def with_size(size: bytes) -> bytes:
    header = bytearray(tarfile.TarInfo("a.png").tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1024)


@pytest.mark.parametrize("size", [b"\x80" + b"\xff" * 11, b"77777777777\0"])
def test_member_of_an_impossible_size_is_not_waited_for(size: bytes) -> None:
    content = with_size(size)
    (member,) = members_of(io.BytesIO(content), len(content))
    assert member.fault == Fault.TRUNCATED


def test_member_of_a_negative_size_ends_the_tar() -> None:
    content = with_size(b"\xff" * 12)
    with pytest.raises(DamagedTarError, match="has a member of -1 bytes"):
        list(members_of(io.BytesIO(content), len(content)))
