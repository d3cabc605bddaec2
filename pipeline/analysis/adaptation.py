"""The picture of a few-shot adaptation: real scenes, and the model's before and after."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from pipeline.analysis.colour import depth_image, depth_range_m, rgb_image, seg_image
from pipeline.analysis.grid import Columns, Row, Tile, draw_grid
from pipeline.analysis.legend import scene_legend
from pipeline.analysis.views import Views
from pipeline.data.modality import DatasetInfo

TILE_PX = 96


def draw_adaptation(
    info: DatasetInfo,
    shots: int,
    generated: tuple[Views, Views, Views],
    reconstructed: tuple[Views, Views, Views],
    columns: int,
) -> Image.Image:
    """Left to right real, before, after; above what is generated, below what is reconstructed.

    Args:
        info: The dataset.
        shots: k.
        generated: Support scenes; samples before and after, from the same noise.
        reconstructed: Held-out scenes; reconstructions before and after.
        columns: Scenes in each of the three parts.
    """
    rows = [
        Row(
            tuple(tile for views in parts for tile in _tiles(views, modality, info, columns)), modality, group
        )
        for group, parts in (("support, samples", generated), ("held out", reconstructed))
        for modality in info.modalities
    ]
    examples = "1 example" if shots == 1 else f"{shots} examples"
    captions = ("real: support above, others below", "before", f"after {examples}")
    return draw_grid(
        rows,
        [Columns(("",) * columns, caption) for caption in captions],
        scene_legend(info),
        tile_px=TILE_PX,
    )


def _tiles(views: Views, modality: str, info: DatasetInfo, columns: int) -> Sequence[Tile]:
    tiles = [_tile(views[row : row + 1], modality, info) for row in range(min(columns, len(views)))]
    return [*tiles, *[Tile(None)] * (columns - len(tiles))]


def _tile(view: Views, modality: str, info: DatasetInfo) -> Tile:
    if modality == "rgb" and view.rgb is not None:
        return Tile(rgb_image(view.rgb[0]))
    if modality == "depth" and view.depth_m is not None and info.depth is not None:
        metres = view.depth_m[0]
        return Tile(depth_image(metres, metres == metres, *depth_range_m(info.depth)))
    return Tile(None if view.labels is None else seg_image(view.labels[0]))
