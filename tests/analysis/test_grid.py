from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.analysis.colour import NO_DEPTH, class_colour
from pipeline.analysis.gallery import draw_overview, draw_reconstructions, draw_samples, draw_translations
from pipeline.analysis.grid import (
    Columns,
    Legend,
    Row,
    Swatch,
    Tile,
    draw_grid,
    resized,
    save_png,
    scene_legend,
)
from pipeline.analysis.legend import round_ticks
from pipeline.analysis.views import Views
from pipeline.data.modality import DatasetInfo, DepthStatistics

RED = np.full((8, 8, 3), (250, 10, 20), np.uint8)
BLUE = np.full((8, 8, 3), (10, 20, 250), np.uint8)


def info(*modalities: str) -> DatasetInfo:
    depth = DepthStatistics(2.0, 0.5, 1.0, 4.0, 0.6, 0.2) if "depth" in modalities else None
    names = ("floor", "wall", "cube") if "seg" in modalities else ()
    return DatasetInfo(modalities, names, 16, {"test": 3}, depth=depth)


def views(scenes: int, *modalities: str, seed: int = 0) -> Views:
    rng = np.random.default_rng(seed)
    return Views(
        rng.random((scenes, 3, 16, 16), np.float32) if "rgb" in modalities else None,
        1.0 + 3.0 * rng.random((scenes, 16, 16), np.float32) if "depth" in modalities else None,
        rng.integers(0, 2, (scenes, 16, 16), np.uint8) if "seg" in modalities else None,
    )


def colours(image: Image.Image) -> set[tuple[int, int, int]]:
    return {tuple(colour) for _, colour in image.getcolors(image.width * image.height)}


def boxes(image: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what has this colour."""
    rows, columns = np.nonzero((np.asarray(image) == colour).all(axis=2))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def test_pictures_stand_in_rows_and_columns_at_a_whole_multiple_of_their_size() -> None:
    grid = draw_grid([Row((Tile(RED), Tile(BLUE)), "first")], tile_px=30)
    red, blue = boxes(grid, (250, 10, 20)), boxes(grid, (10, 20, 250))
    assert (red[2] - red[0], red[3] - red[1]) == (24, 24)
    assert (red[1], red[3]) == (blue[1], blue[3])
    assert blue[0] > red[2]


def test_enlarged_pixels_stay_crisp_and_reduced_ones_are_averaged() -> None:
    checker = np.zeros((4, 4, 3), np.uint8)
    checker[::2, ::2] = checker[1::2, 1::2] = 200
    assert colours(resized(checker, 13)) == {(0, 0, 0), (200, 200, 200)}
    assert resized(checker, 13).size == (12, 12)
    assert colours(resized(checker, 2)) == {(100, 100, 100)}


def test_the_same_figure_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        rows = [
            Row((Tile(RED, "21.0 dB"), Tile(None)), "RGB", "Input"),
            Row((Tile(BLUE), Tile(RED)), "depth", "Output"),
        ]
        legend = Legend((0.5, 4.0), (Swatch("cube", (1, 2, 3)),))
        save_png(tmp_path / name, draw_grid(rows, [Columns(("x", "y"), "both")], legend, "Title"))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_grid_with_nothing_in_it_or_ragged_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="rows of one length"):
        draw_grid([])
    with pytest.raises(ValueError, match=r"not \[1, 2\]"):
        draw_grid([Row((Tile(RED),)), Row((Tile(RED), Tile(RED)))])
    with pytest.raises(ValueError, match="captions"):
        draw_grid([Row((Tile(RED),))], [Columns(("a", "b"))])


def test_everything_in_the_legend_is_drawn_however_narrow_the_figure() -> None:
    palette = [(3 * label, 255 - label, 7) for label in range(40)]
    legend = Legend(
        (1.0, 5.0), tuple(Swatch(f"a rather long name {label}", c) for label, c in enumerate(palette))
    )
    for count in (1, 12):
        grid = draw_grid([Row((Tile(RED),) * count)], legend=legend, tile_px=100)
        assert set(palette) <= colours(grid)
        assert max(boxes(grid, colour)[3] for colour in palette) < grid.height


def test_a_legend_names_only_what_is_shown() -> None:
    full = scene_legend(info("rgb", "depth", "seg"))
    assert [swatch.name for swatch in full.swatches] == ["floor", "wall", "cube"]
    assert full.depth_m == pytest.approx((1.0, 3.25))
    some = scene_legend(info("seg"), {2, 0}, holes=True, unlabelled=True)
    assert [swatch.name for swatch in some.swatches] == ["floor", "cube", "no label", "no depth"]
    assert some.depth_m is None


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (1.58, 7.2, [2, 4, 6]),
        (0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.62, 0.71, [0.62, 0.64, 0.66, 0.68, 0.7]),
        (3.0, 1200.0, [500, 1000]),
    ],
)
def test_the_depth_scale_has_round_numbers(low: float, high: float, ticks: list[float]) -> None:
    assert round_ticks(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize("modalities", [("rgb", "depth", "seg"), ("depth", "seg"), ("rgb",)])
def test_every_figure_is_drawn_of_whatever_modalities_there_are(modalities: tuple[str, ...]) -> None:
    dataset, real, made = info(*modalities), views(3, *modalities), views(3, *modalities, seed=1)
    figures = [
        draw_reconstructions(dataset, real, made),
        draw_translations(dataset, real, dict.fromkeys(modalities, made)),
        draw_samples(dataset, views(5, *modalities), 3),
        draw_overview(dataset, real, made, made if len(modalities) > 1 else None, made),
    ]
    for figure in figures:
        expected = {class_colour(0), class_colour(1)} if "seg" in modalities else set()
        assert expected <= colours(figure)
        assert class_colour(2) not in colours(figure) or "rgb" in modalities


def test_holes_in_depth_are_explained_and_a_missing_modality_is_blank() -> None:
    dataset, real = info("depth", "seg"), views(2, "depth", "seg")
    assert real.depth_m is not None
    without = draw_reconstructions(dataset, real, real)
    real.depth_m[0, :4] = np.nan
    with_holes = draw_reconstructions(dataset, real, views(2, "depth", "seg"))
    assert NO_DEPTH not in colours(without)
    bottom = boxes(with_holes, NO_DEPTH)[3]
    assert (
        bottom > boxes(with_holes, class_colour(0))[3] - 14
    )  # its swatch stands beside those of the classes
    real.depth_m[0] = np.nan
    assert NO_DEPTH not in colours(draw_reconstructions(dataset, real, views(2, "depth", "seg")))
