"""Existing tars: what is made of their members, how series are joined, and what is read of them."""

import io
import pickle
import sys
import tarfile
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import webdataset as wds
from container_views import (
    CLASSES,
    check,
    depth_mm,
    labels,
    loaded,
    members,
    npy,
    only,
    opened,
    png,
    refusals,
    rgb,
    tar_of,
    tar_of_samples,
    write,
)
from PIL import Image

from pipeline.data.modality import Sample
from pipeline.data.sources.rows import Names, Rows
from pipeline.data.sources.tar_index import Places, Series
from pipeline.data.sources.tar_load import TarIndex
from pipeline.data.storage import Storage
from pipeline.errors import InputError


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


def test_samples_are_right_in_every_pixel_and_in_the_order_of_the_tars(tmp_path: Path) -> None:
    catalogue = opened(source(write_tars(tmp_path)))
    assert [str(entry) for entry in catalogue.entries] == [f"room/{number:04d}" for number in range(6)]
    for number, sample in enumerate(loaded(catalogue)):
        check(sample, number)
        assert isinstance(sample, Sample)
        assert sample.key == f"room_{number:04d}"
    assert catalogue.class_names == CLASSES
    assert (catalogue.depth_scale_m, catalogue.whole_depth) == (0.001, True)


def test_tars_that_webdataset_wrote_are_read(tmp_path: Path) -> None:
    with wds.TarWriter(str(tmp_path / "a.tar")) as writer:
        for number in range(3):
            writer.write({"__key__": f"{number:06d}", **members(number), "cls": 3, "json": {"a": 1}})
    catalogue = opened(source(tmp_path))
    for number, sample in enumerate(loaded(catalogue)):
        check(sample, number)
    assert "6 other members are not read: .cls, .json" in catalogue.notes


def test_braces_count_and_only_named_tars_are_taken(tmp_path: Path) -> None:
    write_tars(tmp_path, tars=4)
    catalogue = opened(source(tmp_path, shards="part-{001..002}.tar"))
    assert [str(entry) for entry in catalogue.entries] == [f"room/{number:04d}" for number in range(3, 9)]


def test_one_series_per_modality_is_joined_by_name_not_by_place(tmp_path: Path) -> None:
    order = {"rgb": [0, 1, 2, 3], "depth": [3, 1, 0], "seg": [2, 3, 1, 0]}
    for modality, numbers in order.items():
        content = [(f"{number}.png", members(number)[f"{modality}.png"]) for number in numbers]
        write(tmp_path / modality / "000.tar", tar_of(content[:2]))
        write(tmp_path / modality / "001.tar", tar_of(content[2:]))
    catalogue = opened(source(tmp_path, shards={modality: f"{modality}/*.tar" for modality in order}))
    samples = loaded(catalogue)
    for number in (0, 1, 3):
        check(samples[number], number)
    check(samples[2], 2, leave_out=["depth"])
    assert "1 of 4 samples lack a modality; it counts as missing there" in catalogue.notes


def test_names_that_repeat_from_tar_to_tar_are_told_apart_by_the_tar(tmp_path: Path) -> None:
    for tar in range(2):
        for modality in ("rgb", "depth", "seg"):
            content = [(f"{n}.png", members(2 * tar + n)[f"{modality}.png"]) for n in range(2)]
            write(tmp_path / modality / f"{tar}.tar", tar_of(content))
    shards = {modality: f"{modality}/*.tar" for modality in ("rgb", "depth", "seg")}
    catalogue = opened(source(tmp_path, shards=shards))
    assert [str(entry) for entry in catalogue.entries] == ["rgb/0/0", "rgb/0/1", "rgb/1/0", "rgb/1/1"]
    for number, sample in enumerate(loaded(catalogue)):
        check(sample, number)
    (tmp_path / "depth/1.tar").unlink()
    with pytest.raises(
        InputError, match="different tars use the same names inside, and the series have 2, 1, 2 tars"
    ):
        opened(source(tmp_path, shards=shards))


def test_endings_are_configurable_and_what_is_named_for_one_is_not_guessed_for_another(
    tmp_path: Path,
) -> None:
    jpeg = io.BytesIO()
    Image.fromarray(rgb(1)).save(jpeg, "JPEG", quality=95)
    content = {
        "jpg": jpeg.getvalue(),
        "png": png(labels(1)),
        "d.npy": npy(depth_mm(1).astype(np.float32) / 1000),
    }
    write(tmp_path / "a.tar", tar_of_samples({"one": content, "two": content}))
    sections = {"depth": {"unit": "m", "members": "d.npy"}, "seg": {"members": ["png"]}}
    catalogue = opened(source(tmp_path, **sections))
    sample = only(catalogue)
    assert sample.rgb is not None
    assert np.abs(sample.rgb.astype(int) - rgb(1)[:, 8:40]).mean() < 60
    check(Sample(sample.key, rgb(1)[:, 8:40], sample.depth, sample.seg), 1)
    assert (catalogue.depth_scale_m, catalogue.whole_depth) == (0.001, False)
    with pytest.raises(InputError, match=r"members \.png cannot be both depth and seg"):
        opened(source(tmp_path, depth={"unit": "m", "members": "png"}, seg={"members": "png"}))


def test_zst_members_are_unpacked(tmp_path: Path) -> None:
    packed = {
        number: {
            f"{ending}.zst": pa.compress(content, "zstd", asbytes=True)
            for ending, content in members(number).items()
        }
        for number in range(2)
    }
    write(tmp_path / "a.tar", tar_of_samples({str(number): there for number, there in packed.items()}))
    for number, sample in enumerate(loaded(opened(source(tmp_path)))):
        check(sample, number)


def test_names_of_tars_tell_the_splits(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        write_tars(tmp_path / split, tars=1, name=f"{split}-{{:03d}}.tar")
    catalogue = opened(source(tmp_path, shards="{train,val,test}/*.tar"))
    assert catalogue.splits == ["train"] * 3 + ["val"] * 3 + ["test"] * 3
    assert catalogue.notes[0] == "names of tars tell the splits: 1 train, 1 val, 1 test"
    chosen = {"train": "train-*", "test": "val-*"}
    catalogue = opened(source(tmp_path, shards="{train,val,test}/*.tar", splits=chosen))
    assert catalogue.splits == ["train"] * 3 + ["test"] * 3
    assert catalogue.notes[0] == "1 of 3 tars are in none of data.source.splits and left out"


def test_tars_without_a_split_are_divided_in_blocks(tmp_path: Path) -> None:
    catalogue = opened(source(write_tars(tmp_path)), block=2)
    assert sorted(catalogue.splits) == ["test"] * 2 + ["train"] * 4 or sorted(catalogue.splits).count(
        "test"
    ) in (2, 4)
    assert all(catalogue.splits[place] == catalogue.splits[place + 1] for place in (0, 2, 4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shards": "x-*.tar"}, r"data\.source\.shards: no file matches .*x-\*\.tar; check the pattern"),
        ({"shards": "x.tar"}, r"data\.source\.shards: there is no file .*x\.tar"),
        ({"shards": "../a.tar"}, r"leads out of"),
        ({"shards": "/etc/*.tar"}, r"leads out of"),
        ({"shards": "a-{000..3.tar"}, r"a brace without its partner"),
        ({"shards": "a-{0..99999999}.tar"}, r"stands for more than 100,000 files"),
        (
            {"depth": {"unit": "mm", "members": "d.png"}},
            r"data\.source\.depth: no member .* ends in \.d\.png; others end in \.depth\.png",
        ),
        ({"splits": {"train": "*", "test": "part-000*"}}, r"matches those of train and test; a file has one"),
        (
            {"splits": {"train": "*000*", "test": "val*"}},
            r"none of the 2 tars matches val\*; one is part-000\.tar",
        ),
        ({"root": "nowhere"}, r"data\.source\.root: there is no folder nowhere"),
        (
            {"shards": {"rgb": "part-000.tar", "depth": "part-001.tar"}, "seg": None},
            r"no name in the tars of rgb occurs",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_tars(tmp_path)
    with pytest.raises(InputError, match=message):
        opened(source(tmp_path) | changes)


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


def test_old_and_long_names_are_read_as_the_library_reads_them(tmp_path: Path) -> None:
    for number, form in enumerate((tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT)):
        long = "/".join(["a" * 60] * (2 if form == tarfile.USTAR_FORMAT else 5))
        with tarfile.open(tmp_path / f"{number}.tar", "w", format=form) as tar:
            folder = tarfile.TarInfo("folder")
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
            for ending, content in members(number).items():
                header = tarfile.TarInfo(f"./{long}/é{number}.{ending}")
                header.size = len(content)
                tar.addfile(header, io.BytesIO(content))
    catalogue = opened(source(tmp_path))
    for number, sample in enumerate(loaded(catalogue)):
        check(sample, number)
        assert isinstance(sample, Sample)
        assert sample.origin.endswith(f"/é{number}")


def test_extended_header_of_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    header = tarfile.TarInfo("././@PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, 1 << 30
    write(tmp_path / "a.tar", header.tobuf(tarfile.USTAR_FORMAT) + bytes(2048))
    write_tars(tmp_path)
    catalogue = opened(source(tmp_path))
    (found,) = [item for item in loaded(catalogue) if not isinstance(item, Sample)]
    assert (found.reason, found.origin) == ("damaged_tar", "a.tar")
    assert "an extended header of 1,073,741,824 bytes" in found.detail


def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """What is read from here on, as (name, start, end)."""
    asked = []
    original = Storage.read

    def read(self: Storage, name: str, start: int, end: int) -> bytes:
        asked.append((name, start, end))
        return original(self, name, start, end)

    monkeypatch.setattr(Storage, "read", read)
    return asked


def test_chunk_is_read_at_once_and_nothing_else_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tars(tmp_path, tars=2, samples=40)
    catalogue = opened(source(tmp_path))
    asked = reads(monkeypatch)
    some = catalogue.entries[10:14]
    for number, sample in enumerate(catalogue.load(some), start=10):
        check(sample, number)
    size = sum(len(content) for number in range(10, 14) for content in members(number).values())
    ((name, start, end),) = asked
    assert name == "part-000.tar"
    assert end - start < size + 12 * 1600
    asked.clear()
    assert len(list(catalogue.load(catalogue.entries[38:42]))) == 4
    assert [name for name, _, _ in asked] == ["part-000.tar", "part-001.tar"]


def test_reading_is_divided_where_memory_would_not_be_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.data.sources.tar_load._AT_ONCE_BYTES", 20_000)
    catalogue = opened(source(write_tars(tmp_path, samples=20)))
    asked = reads(monkeypatch)
    for number, sample in enumerate(loaded(catalogue)):
        check(sample, number)
    assert len(asked) > 4
    assert all(end - start < 40_000 for _, start, end in asked)


def test_scanning_keeps_less_than_150_bytes_per_sample(tmp_path: Path) -> None:
    count = 400
    blocks = []
    for number in range(count):
        for ending in ("rgb.png", "depth.png", "seg.png"):
            header = tarfile.TarInfo(f"kitchen/{number:08d}.{ending}")
            header.size = 10
            blocks.append(header.tobuf(tarfile.USTAR_FORMAT) + bytes(512))
    write(tmp_path / "a.tar", b"".join(blocks) + bytes(1024))
    tracemalloc.start()
    catalogue = opened(source(tmp_path))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(catalogue.entries) == count
    assert kept < 150 * count + 100_000


def test_entries_of_a_large_index_are_columns_not_objects() -> None:
    count = 200_000
    names = Names.of(f"kitchen/{number:08d}" for number in range(count))
    column = Places(
        np.zeros(count, np.int32), np.arange(count) * 1000, np.full(count, 900), np.zeros(count, np.int8)
    )
    series = Series(
        names.names, np.zeros(count, np.int32), dict.fromkeys(("rgb", "depth", "seg"), column),
        np.full(count, -1, np.int16), (), Counter(),
    )  # fmt: skip
    index = TarIndex(names, series, {"rgb": ("png",), "depth": ("png",), "seg": ("png",)})
    size = names.names.nbytes + names.keys.nbytes + series.file.nbytes + series.trouble.nbytes
    size += 3 * sum(part.nbytes for part in (column.tar, column.offset, column.size, column.ending))
    assert size / count < 130
    entries = Rows(count, index.entry)
    assert str(entries[123_456]) == "kitchen/00123456"
    assert entries[-1].places["depth"].offset == (count - 1) * 1000
    assert [str(entry) for entry in entries[5:7]] == ["kitchen/00000005", "kitchen/00000006"]
    assert len(pickle.dumps(entries[:32])) < 32 * 400


def test_load_and_entries_travel_to_other_processes(tmp_path: Path) -> None:
    catalogue = opened(source(write_tars(tmp_path)))
    load, entries = pickle.loads(pickle.dumps((catalogue.load, catalogue.entries[1:3])))
    for number, sample in enumerate(load(entries), start=1):
        check(sample, number)
