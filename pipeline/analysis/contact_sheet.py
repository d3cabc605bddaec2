"""A dataset at a glance, in pictures: samples of every split, and their modalities laid over each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Integer
from PIL import Image

from pipeline.analysis.colour import depth_image, depth_range_m, seg_image
from pipeline.analysis.grid import Columns, Legend, Row, Tile, draw_grid, resized, scene_legend
from pipeline.analysis.lettering import NOTE_PX, font, text_width
from pipeline.analysis.scene import CAPTIONS, Picture
from pipeline.data.modality import IGNORE_INDEX, SPLITS, DatasetInfo, Sample

TILE_PX = 160
SIDE_BY_SIDE = 2
"""Samples in a row of the sheet."""

ROWS = 3
"""Rows of a split, at most."""

TINT = 0.35
"""Share of a label's colour over RGB."""

EDGE = (0, 255, 208)
"""Borders between labels over depth: a colour that its colour map never is."""

NO_DEPTH_MARK = (60, 60, 64)
"""Dots on the grey of pixels without depth, so that they stand out from near and far."""

JUMP = 0.06
"""Neighbours whose depth differs by this share lie on different surfaces."""


def draw_contact_sheet(
    info: DatasetInfo,
    samples: Sequence[tuple[str, Sample]],
    depth_m: tuple[float, float] | None = None,
    title: str = "",
) -> Image.Image:
    """Draw some samples of each split: every modality, and what shows whether they are aligned.

    Labels tint RGB, and their borders are drawn over depth in a scale of its own; where a sample has no
    labels, jumps of its depth are drawn over RGB instead. A modality that a sample lacks says so.

    Args:
        info: The dataset.
        samples: Some of each split, with its name; at least one.
        depth_m: Depths that the colour map spans; None: those of all the dataset's pictures.
        title: Stands above.
    """
    names = (*info.modalities, *_overlays(info))
    if depth_m is None and info.depth is not None:
        depth_m = depth_range_m(info.depth)
    rows: list[Row] = []
    for split in SPLITS:
        here = [sample for name, sample in samples if name == split]
        for first in range(0, len(here), SIDE_BY_SIDE):
            part = here[first : first + SIDE_BY_SIDE]
            tiles = [tile for sample in part for tile in _tiles(sample, info, depth_m)]
            tiles += [Tile(None, blank="")] * (SIDE_BY_SIDE * len(names) - len(tiles))
            rows.append(Row(tuple(tiles), group=split))
    columns = [Columns(tuple(_caption(name) for name in names))] * SIDE_BY_SIDE
    legend = _legend(info, [sample for _, sample in samples], depth_m)
    return draw_grid(rows, columns, legend, title, TILE_PX)


def _overlays(info: DatasetInfo) -> tuple[str, ...]:
    has = set(info.modalities)
    over_rgb = ("over rgb",) if "rgb" in has and len(has) > 1 else ()
    return (*over_rgb, "over depth") if {"depth", "seg"} <= has else over_rgb


def _caption(name: str) -> str:
    part, _, modality = name.rpartition(" ")
    return f"{part} {CAPTIONS[modality]}".strip()


def _tiles(sample: Sample, info: DatasetInfo, depth_m: tuple[float, float] | None) -> list[Tile]:
    """Every modality of one sample, then what is laid over what."""
    notes = {info.modalities[0]: _fitted(sample.key), "depth": _depth_note(sample)}
    depth = None if sample.depth is None or depth_m is None else _depth_picture(sample.depth, *depth_m)
    pictures = {
        "rgb": sample.rgb,
        "depth": depth,
        "seg": None if sample.seg is None else seg_image(sample.seg),
    }
    tiles = [Tile(pictures[name], notes.get(name, ""), "missing") for name in info.modalities]
    for name in _overlays(info):
        tiles.append(Tile(_over_rgb(sample)) if name == "over rgb" else _over_depth(sample))
    return tiles


def _depth_picture(depth_m: np.ndarray, low_m: float, high_m: float) -> Picture:
    """At the size of a tile, dots where there is no depth."""
    known = _enlarged(depth_m, resized(np.zeros((*depth_m.shape, 3), np.uint8), TILE_PX).width)
    valid = np.isfinite(known)
    picture = depth_image(known, valid, low_m, high_m)
    row, column = np.indices(valid.shape)
    picture[~valid & ((row + column) % 2 == 0)] = NO_DEPTH_MARK
    return picture


def _over_rgb(sample: Sample) -> Picture | None:
    """Labels as a tint with sharp borders; without labels the jumps of depth."""
    if sample.rgb is None or (sample.seg is None and sample.depth is None):
        return None
    picture = np.asarray(resized(sample.rgb, TILE_PX)).astype(np.float32)
    if sample.seg is not None:
        labels = _enlarged(sample.seg, picture.shape[0])
        colours = seg_image(labels).astype(np.float32)
        tinted = (1 - TINT) * picture + TINT * colours
        picture = np.where((labels != IGNORE_INDEX)[..., None], tinted, picture)
        borders = _borders(labels)
        picture[borders] = colours[borders]
    else:
        assert sample.depth is not None
        picture[_jumps(_enlarged(sample.depth, picture.shape[0]))] = EDGE
    return np.rint(picture).astype(np.uint8)


def _over_depth(sample: Sample) -> Tile:
    """Borders of labels over depth, in a scale of its own so that low things show too."""
    if sample.seg is None or sample.depth is None or not np.isfinite(sample.depth).any():
        return Tile(None)
    low_m, high_m = np.nanquantile(sample.depth, (0.02, 0.98))
    picture = _depth_picture(sample.depth, float(low_m), max(float(high_m), float(low_m) + 1e-3))
    picture[_borders(_enlarged(sample.seg, picture.shape[0]))] = EDGE
    return Tile(picture, f"scale {low_m:.2f}\N{EN DASH}{high_m:.2f} m")


def _enlarged(array: np.ndarray, side_px: int) -> np.ndarray:
    """At exactly this side, each pixel the one it came from or, when reduced, one in its middle."""
    places = (np.arange(side_px) * 2 + 1) * len(array) // (2 * side_px)
    return array[np.ix_(places, places)]


def _borders(labels: Integer[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """Pixels whose right or lower neighbour has another label."""
    border = np.zeros(labels.shape, bool)
    border[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    border[:-1] |= labels[:-1] != labels[1:]
    return border


def _jumps(depth_m: np.ndarray) -> Bool[np.ndarray, "height width"]:
    """Pixels whose right or lower neighbour is on another surface; none beside pixels without depth."""
    jump = np.zeros(depth_m.shape, bool)
    jump[:, :-1] |= _apart(depth_m[:, :-1], depth_m[:, 1:])
    jump[:-1] |= _apart(depth_m[:-1], depth_m[1:])
    return jump


def _apart(one: np.ndarray, other: np.ndarray) -> Bool[np.ndarray, "height width"]:
    apart: Bool[np.ndarray, "height width"] = np.abs(one - other) > JUMP * np.minimum(one, other)
    return apart


def _depth_note(sample: Sample) -> str:
    if sample.depth is None:
        return ""
    valid = sample.depth[np.isfinite(sample.depth)]
    if not len(valid):
        return ""
    share = 100.0 * len(valid) / sample.depth.size
    holes = "" if len(valid) == sample.depth.size else f", {min(share, 99.9):.3g} %"
    return f"{valid.min():.2f}\N{EN DASH}{valid.max():.2f} m{holes}"


def _fitted(key: str) -> str:
    """The end of a key, which tells it from its neighbours, as far as it fits under a tile."""
    if text_width(key, font(NOTE_PX)) <= TILE_PX - 40:
        return key
    while key and text_width(f"…{key}", font(NOTE_PX)) > TILE_PX - 40:
        key = key[1:]
    return f"…{key}"


def _legend(info: DatasetInfo, samples: Sequence[Sample], depth_m: tuple[float, float] | None) -> Legend:
    """Of what is to be seen in these samples."""
    labels: set[int] = set()
    for sample in samples:
        if sample.seg is not None:
            labels |= set(np.unique(sample.seg).tolist())
    holes = any(sample.depth is not None and bool(np.isnan(sample.depth).any()) for sample in samples)
    legend = scene_legend(info, labels - {IGNORE_INDEX}, holes=holes, unlabelled=IGNORE_INDEX in labels)
    return replace(legend, depth_m=depth_m)
