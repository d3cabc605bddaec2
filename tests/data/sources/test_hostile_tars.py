"""Existing tars: members that are refused, and tars that are damaged."""

import pickle
import sys
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from container_views import (
    check,
    loaded,
    members,
    npy,
    only,
    opened,
    png,
    refusals,
    rgb,
    tar_of_samples,
    write,
)
from tar_views import reads, source, write_tars

from pipeline.data.modality import Sample


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, target
    return header


def special(name: str, kind: bytes) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type = kind
    return header


def with_header(root: Path, header: tarfile.TarInfo, content: bytes = b"") -> Path:
    """A tar of a good sample, a strange member, and another good sample."""
    header.size = len(content)
    strange = header.tobuf(tarfile.PAX_FORMAT) + content + bytes(-len(content) % 512)
    good = [tar_of_samples({str(number): members(number)}).rstrip(b"\0") for number in range(2)]
    first, last = (part + bytes(-len(part) % 512) for part in good)
    write(root / "a.tar", first + strange + last + bytes(1024))
    return root


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return sys.exit, ("a pickle was opened",)


HOSTILE = [
    (link("x.rgb.png", "/etc/passwd"), b"", "link"),
    (link("x.rgb.png", "0.rgb.png", tarfile.LNKTYPE), b"", "link"),
    (link("x.txt", "../../secret"), b"", "link"),
    (special("x.rgb.png", tarfile.CHRTYPE), b"", "device"),
    (special("x.rgb.png", tarfile.FIFOTYPE), b"", "device"),
    (special("dev/sda", tarfile.BLKTYPE), b"", "device"),
    (tarfile.TarInfo("../x.rgb.png"), png(rgb(0)), "unsafe_name"),
    (tarfile.TarInfo("a/../../x.rgb.png"), png(rgb(0)), "unsafe_name"),
    (tarfile.TarInfo("/etc/x.rgb.png"), png(rgb(0)), "unsafe_name"),
    (tarfile.TarInfo("C:/x.rgb.png"), png(rgb(0)), "unsafe_name"),
    (tarfile.TarInfo("x\n.rgb.png"), png(rgb(0)), "unsafe_name"),
    (tarfile.TarInfo("x.pyd"), pickle.dumps(Bomb()), "pickle"),
    (tarfile.TarInfo("x.rgb.pickle"), pickle.dumps(Bomb()), "pickle"),
    (tarfile.TarInfo("x.pth"), pickle.dumps(Bomb()), "pickle"),
    (tarfile.TarInfo("x.meta.pkl.zst"), pickle.dumps(Bomb()), "pickle"),
    (tarfile.TarInfo("x.rgb.png"), pickle.dumps(Bomb()), "pickle"),
    (tarfile.TarInfo("x.depth.npy"), npy(np.array([Bomb()], object), pickled=True), "pickle"),
    (tarfile.TarInfo("x.seg.png"), b"version https://git-lfs.github.com/spec/v1\noid 1\n", "lfs_pointer"),
    (tarfile.TarInfo("x.rgb.png"), png(rgb(0))[:200], "truncated"),
    (tarfile.TarInfo("x.rgb.png.zst"), b"not zstd", "unreadable"),
    (tarfile.TarInfo("x.rgb.png.zst"), pa.compress(png(rgb(0)), "zstd", asbytes=True)[:300], "truncated"),
    (tarfile.TarInfo("0.rgb.png"), png(rgb(0)), "repeated"),
]


@pytest.mark.parametrize(
    ("header", "content", "reason"),
    HOSTILE,
    ids=[f"{reason}-{header.name!a}" for header, _, reason in HOSTILE],
)
def test_hostile_member_is_refused_for_its_reason_and_its_neighbours_are_not(
    tmp_path: Path, header: tarfile.TarInfo, content: bytes, reason: str
) -> None:
    catalogue = opened(source(with_header(tmp_path, header, content)))
    found = refusals(catalogue)
    assert list(found.values()) == [reason]
    good = [item for item in loaded(catalogue) if isinstance(item, Sample)]
    if header.name != "0.rgb.png":
        check(good[0], 0)
    check(good[-1], 1)
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "a.tar"]


def test_array_that_claims_to_be_huge_is_refused_before_it_is_made(
    tmp_path: Path,
) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (100000, 100000), }".ljust(117) + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    catalogue = opened(source(with_header(tmp_path, tarfile.TarInfo("x.depth.npy"), content)))
    assert refusals(catalogue) == {"x": "too_large"}


def test_zst_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.data.sources.unpacked.MOST_BYTES", 1 << 20)
    bomb = pa.compress(bytes(1 << 26), "zstd", asbytes=True)
    assert len(bomb) < 10_000
    catalogue = opened(source(with_header(tmp_path, tarfile.TarInfo("x.rgb.png.zst"), bomb)))
    tracemalloc.start()
    assert refusals(catalogue) == {"x": "too_large"}
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1 << 24


def test_member_that_is_too_large_is_refused_without_being_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.data.sources.tar_load.MOST_BYTES", 300_000)
    catalogue = opened(source(with_header(tmp_path, tarfile.TarInfo("x.rgb.png"), bytes(400_000))))
    asked = reads(monkeypatch)
    assert refusals(catalogue) == {"x": "too_large"}
    assert all(end - start < 400_000 for _, start, end in asked)


def test_tar_that_was_cut_off_keeps_what_came_before(tmp_path: Path) -> None:
    write_tars(tmp_path)
    whole = (tmp_path / "part-000.tar").read_bytes()
    at = whole.index(b"room/0001.seg.png")
    (tmp_path / "part-000.tar").write_bytes(whole[: at + 600])
    catalogue = opened(source(tmp_path))
    assert refusals(catalogue) == {"room/0001": "truncated"}
    check(only(catalogue), 0)
    (tmp_path / "part-000.tar").write_bytes(whole[: at + 300])
    assert refusals(opened(source(tmp_path))) == {"part-000.tar": "damaged_tar"}


def test_tar_that_is_no_tar_is_refused_by_name_and_the_others_are_read(tmp_path: Path) -> None:
    write_tars(tmp_path)
    (tmp_path / "a.tar").write_bytes(b"<html>404</html>" * 100)
    (tmp_path / "b.tar").write_bytes(b"")
    (tmp_path / "c.tar").write_bytes(b"\x1f\x8b\x08" + bytes(600))
    catalogue = opened(source(tmp_path))
    found = {item.origin: item.detail for item in loaded(catalogue) if not isinstance(item, Sample)}
    assert found["a.tar"].startswith("a.tar has no header at byte 0")
    assert found["b.tar"] == "b.tar is empty"
    assert found["c.tar"] == "c.tar is compressed with gzip, so nothing in it can be found; unpack it"
    assert len(loaded(catalogue)) == 9


def test_extended_header_of_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    header = tarfile.TarInfo("././@PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, 1 << 30
    write(tmp_path / "a.tar", header.tobuf(tarfile.USTAR_FORMAT) + bytes(2048))
    write_tars(tmp_path)
    catalogue = opened(source(tmp_path))
    (found,) = [item for item in loaded(catalogue) if not isinstance(item, Sample)]
    assert (found.reason, found.origin) == ("damaged_tar", "a.tar")
    assert "an extended header of 1,073,741,824 bytes" in found.detail
