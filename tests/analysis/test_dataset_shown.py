"""A survey as a person sees it: text in a terminal, pictures, and the command that makes both."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.analysis import contact_sheet
from pipeline.analysis.colour import NO_DEPTH, class_colour
from pipeline.analysis.contact_sheet import EDGE, NO_DEPTH_MARK
from pipeline.analysis.dataset import survey
from pipeline.analysis.dataset_pictures import draw_survey, leave_pictures
from pipeline.analysis.dataset_text import bar, percent, size, survey_text
from pipeline.analysis.grid import Row, Tile, draw_grid
from pipeline.data.modality import DatasetInfo, DepthStatistics, Factor, Sample
from pipeline.data.refusal import Refusal
from pipeline.data.shards.dataset import write_dataset
from stages.__main__ import main
from tests.analysis.planted_dataset import CLASSES, SIZE, Silent, scene, write

CHECKOUT = Path(__file__).parents[2]
INFO = DatasetInfo(
    ("rgb", "depth", "seg"), CLASSES, SIZE, {"train": 1}, depth=DepthStatistics(1.5, 0.5, 1.0, 2.0, 0.3, 0.2)
)


def text_of(directory: Path, limit: int = 100) -> str:
    return survey_text(survey(directory, limit, Silent()))


def test_the_text_says_what_was_planted(tmp_path: Path) -> None:
    said = text_of(write(tmp_path / "d"))
    for line in (
        "11 samples of 16 x 16 px, RGB + depth + segmentation",
        "not seen: unicorn",
        "Known factors: 2 of 6 combinations occur (33.3 %)",
        "Refused: 3",
        "2 truncated, such as rgb/7.png: ends after 12 bytes",
        "remedy: save labels as PNG",
        "equal in every pixel: none",
        "samples by share of valid pixels: above 90 %: 9",
    ):
        assert line in said
    (train,) = [line for line in said.splitlines() if line.strip().startswith("train")]
    assert "2 (25.0 %)" in train


def test_the_text_says_how_much_was_looked_at(tmp_path: Path) -> None:
    directory = write(tmp_path / "d", train=200, test=40, shard_samples=50)
    assert "classes and depth: of 66 evenly spread over each split" in text_of(directory, 60)
    assert "classes and depth: of all 240;" in text_of(directory, 240)


def test_no_line_is_wider_than_a_terminal(tmp_path: Path) -> None:
    names = [f"class with a rather long name, number {label}" for label in range(60)]
    rng = np.random.default_rng(0)
    long = "a very long remark about what is wrong " * 6

    def samples():  # type: ignore[no-untyped-def]
        for number in range(40):
            labels = rng.integers(0, 60, (8, 8)).astype(np.uint8)
            depth = rng.uniform(0.001, 5000.0, (8, 8)).astype(np.float32)
            split = ("train", "val", "test", "heldout")[number % 4]
            key = f"{number:03d}" + "k" * 70
            yield split, Sample(key, seg=labels, depth=depth, factors={"f" * 40: number % 3}, origin=long)
        yield Refusal("a/long/path/" * 12, "truncated", long, long)

    factors = (Factor("f" * 40, ("v" * 40, "w" * 40, "x" * 40)),)
    write_dataset(tmp_path / "d", samples(), class_names=names, image_size=8, factors=factors)
    said = text_of(tmp_path / "d")
    assert max(map(len, said.splitlines())) <= 100
    assert "and 20 classes more, see --json" in said


def test_damage_is_the_first_thing_said(tmp_path: Path) -> None:
    directory = write(tmp_path / "d")
    (directory / "test-000000.tar").unlink()
    said = text_of(directory)
    assert said.index("DAMAGED: 2 found; make the dataset again") < said.index("Splits")


@pytest.mark.parametrize(
    ("share", "drawn"), [(0.0, ""), (0.0001, "▏"), (0.5, "████"), (0.56, "████▌"), (1.0, "████████")]
)
def test_bars_are_as_long_as_their_share(share: float, drawn: str) -> None:
    assert bar(share, 8) == drawn.ljust(8)


def test_a_little_is_neither_nothing_nor_all() -> None:
    assert [percent(part, 100_000) for part in (0, 1, 500, 99_999, 100_000)] == [
        "0 %",
        "<0.1 %",
        "0.5 %",
        ">99.9 %",
        "100 %",
    ]
    assert [size(count) for count in (999, 12_400, 381_000_000)] == ["999 B", "12.4 kB", "381 MB"]


def tiles(sample: Sample) -> dict[str, np.ndarray | None]:
    """The pictures of a sample on the sheet by what they show."""
    drawn = contact_sheet._tiles(sample, INFO, (1.0, 2.0))
    names = ("rgb", "depth", "seg", "over rgb", "over depth")
    return {name: tile.image for name, tile in zip(names, drawn, strict=True)}


def box(picture: np.ndarray | None, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """First and last row, first and last column that have a colour."""
    assert picture is not None
    rows, columns = np.nonzero((picture == colour).all(axis=2))
    return int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())


SCALE = contact_sheet.TILE_PX // SIZE
CUP = (4 * SCALE - 1, 8 * SCALE - 1, 4 * SCALE - 1, 8 * SCALE - 1)
"""Where the borders of the planted cup are on a tile."""


def test_borders_of_labels_lie_where_the_labels_are() -> None:
    cropped = {
        name: picture[: 12 * SCALE] for name, picture in tiles(scene(0)).items() if picture is not None
    }
    assert box(cropped["over depth"], EDGE) == CUP
    assert box(cropped["over rgb"], class_colour(1))[1::2] == CUP[1::2]
    assert box(cropped["seg"], class_colour(1)) == (4, 7, 4, 7)


def test_labels_that_are_not_aligned_are_seen_beside_what_they_name() -> None:
    one = scene(0)
    assert one.seg is not None
    moved = tiles(Sample("moved", one.rgb, one.depth, np.roll(one.seg, 3, axis=1)))["over depth"]
    assert moved is not None
    top, bottom, left, right = box(moved[: 12 * SCALE], EDGE)
    assert (top, bottom, left, right) == (CUP[0], CUP[1], CUP[2] + 3 * SCALE, CUP[3] + 3 * SCALE)
    near = moved[6 * SCALE, 4 * SCALE + 2]
    assert (near == moved[6 * SCALE, 7 * SCALE - 3]).all(), "the cup itself is where it was"
    assert not (near == moved[6 * SCALE, 10 * SCALE]).all()


def test_pixels_without_depth_are_marked() -> None:
    depth = tiles(scene(0))["depth"]
    assert depth is not None
    marks = {tuple(colour) for colour in depth[:, -SCALE:].reshape(-1, 3).tolist()}
    assert marks == {NO_DEPTH, NO_DEPTH_MARK}
    assert not (depth[:, :-SCALE] == NO_DEPTH).all(axis=2).any()


def test_a_missing_modality_is_a_blank_that_says_so() -> None:
    drawn = contact_sheet._tiles(scene(0, depth=False), INFO, (1.0, 2.0))
    assert [(tile.image is None, tile.blank) for tile in drawn[:3]] == [
        (False, "missing"),
        (True, "missing"),
        (False, "missing"),
    ]
    assert drawn[4].image is None
    whole, word, mark = (
        np.asarray(draw_grid([Row((Tile(np.zeros((SIZE, SIZE, 3), np.uint8)), tile))]))
        for tile in (Tile(None, blank=""), Tile(None, blank="missing"), Tile(None))
    )
    assert (word != whole).sum() > 3 * (mark != whole).sum() > 0


def test_without_labels_the_jumps_of_depth_are_drawn_over_rgb() -> None:
    assert box(tiles(scene(0, seg=False))["over rgb"], EDGE) == CUP


@pytest.mark.parametrize("lacks", ["rgb", "depth", "seg"])
def test_datasets_with_fewer_modalities_are_drawn(tmp_path: Path, lacks: str) -> None:
    samples = [("train", scene(number, **{lacks: False})) for number in range(5)]
    names = CLASSES if lacks != "seg" else None
    factors = (Factor("hue", ("red", "green")), Factor("shape", ("cube",)))
    write_dataset(tmp_path / "d", iter(samples), class_names=names, image_size=SIZE, factors=factors)
    metrics = leave_pictures(tmp_path / "d", Silent())
    drawn = {path.name for path in (tmp_path / "d" / "pictures").iterdir()}
    assert drawn == {"contact_sheet.png"} | ({"classes.png"} if lacks != "seg" else set()) | (
        {"depth.png"} if lacks != "depth" else set()
    )
    assert f"missing/{lacks}" not in metrics


def test_the_same_dataset_gives_the_same_pictures(tmp_path: Path) -> None:
    found = survey(write(tmp_path / "d"), 100, Silent())
    first, second = (
        [path.read_bytes() for path in draw_survey(found, tmp_path / name)] for name in ("one", "two")
    )
    assert len(first) == 3
    assert first == second


def test_inspect_says_draws_and_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = write(tmp_path / "d")
    assert main(["inspect", str(directory), "--output", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "Refused: 3" in said
    assert str(tmp_path / "out" / "contact_sheet.png") in said
    with Image.open(tmp_path / "out" / "contact_sheet.png") as sheet:
        assert min(sheet.size) > 500
    assert main(["inspect", str(directory), "--json", "--limit", "4"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["splits"]["train"]["samples"] == 8
    assert not values["looked_at"]["all"]


def test_inspect_of_a_damaged_dataset_ends_with_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = write(tmp_path / "d")
    (directory / "test-000000.tar").unlink()
    assert main(["inspect", str(directory)]) == 1
    assert "test-000000.tar: No such file" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["nowhere"], "nowhere: there is no such directory; name a dataset directory or a config (.yaml)"),
        (["."], "dataset.json: no such file; . is not a dataset directory"),
        (["mine.yaml"], "its dataset is not there (no result yet); `triptych shard mine.yaml` makes it"),
    ],
)
def test_inspect_of_what_is_no_dataset_says_what_to_do(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    answer: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRIPTYCH_COMMAND", raising=False)
    (tmp_path / "mine.yaml").write_text("name: mine\ndata: {source: {kind: rooms, count: 20}}\n")
    assert main(["inspect", *words]) == 2
    assert answer in capsys.readouterr().err


def test_bars_become_plain_where_the_terminal_has_no_blocks(tmp_path: Path) -> None:
    directory = write(tmp_path / "d")
    command = [sys.executable, "-m", "stages", "inspect", str(directory)]
    answer = subprocess.run(
        command, capture_output=True, cwd=CHECKOUT, env={"PYTHONIOENCODING": "ascii", "PATH": ""}, check=True
    )
    assert b"########" in answer.stdout


def test_inspect_imports_neither_torch_nor_pandas(tmp_path: Path) -> None:
    directory = write(tmp_path / "d")
    script = (
        "import sys\nfrom stages.__main__ import main\n"
        f"main(['inspect', {str(directory)!r}, '--output', {str(tmp_path / 'out')!r}])\nprint(*sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=CHECKOUT, check=True
    )
    loaded = set(answer.stdout.splitlines()[-1].split())
    assert "numpy" in loaded
    assert loaded.isdisjoint({"torch", "mlflow", "pandas", "sklearn", "scipy", "webdataset"})
