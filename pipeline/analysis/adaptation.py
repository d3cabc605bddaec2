"""The picture of a few-shot adaptation: real scenes, and the model's before and after."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from pipeline.analysis.grid import Columns, Row, Tile, draw_grid
from pipeline.analysis.legend import scene_legend
from pipeline.analysis.scene import CAPTIONS, scene_tile
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
            tuple(tile for views in parts for tile in _tiles(views, modality, info, columns)),
            CAPTIONS[modality],
            group,
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
    tiles = [scene_tile(views, scene, modality, info) for scene in range(min(columns, len(views)))]
    return [*tiles, *[Tile(None)] * (columns - len(tiles))]
