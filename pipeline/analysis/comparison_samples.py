"""What every system makes of the same scenes: rows are systems, columns what it was given."""

from __future__ import annotations

from collections.abc import Mapping

from PIL import Image

from pipeline.analysis.grid import Columns, Row, Tile, draw_grid, scene_legend
from pipeline.analysis.scene import CAPTIONS, scene_tile
from pipeline.analysis.views import Views
from pipeline.data.modality import DatasetInfo

REAL, RECONSTRUCTED, TRANSLATED, SAMPLES = "real", "reconstructed", "translated", "samples"
"""Names of the views that a run keeps: scenes, what it makes of everything, of one modality, of nothing."""

SCENES, DRAWN = 3, 5
"""Scenes that are reconstructed and translated, and scenes that are drawn, per system."""

TILE_PX = 64

Shown = Mapping[str, Views] | str
"""The views of one system, or why there are none."""


def shown_scenes(
    real: Views, reconstructed: Views, translated: Views | None, samples: Views
) -> dict[str, Views]:
    """As many as the figure has room for; above what is drawn it shows further real scenes."""
    found = {REAL: real[: SCENES + DRAWN], RECONSTRUCTED: reconstructed[:SCENES], SAMPLES: samples[:DRAWN]}
    return found if translated is None else found | {TRANSLATED: translated[:SCENES]}


def draw_systems(info: DatasetInfo, systems: Mapping[str, Shown], title: str = "") -> Image.Image | None:
    """Compose the figure; None where no system has scenes.

    Args:
        info: The dataset.
        systems: In order from top to bottom, with their views.
        title: Stands above.
    """
    first = next((views for views in systems.values() if not isinstance(views, str)), None)
    if first is None:
        return None
    scenes, drawn = min(SCENES, len(first[REAL])), min(DRAWN, len(first[SAMPLES]))
    translates = TRANSLATED in first
    counts = [scenes, *([scenes] if translates else []), drawn]
    rows = [*_real(info, first, counts, translates)]
    for name, views in systems.items():
        if isinstance(views, str):
            tiles = (Tile(None, blank=""),) * sum(counts)
            rows.append(Row(tiles, views, name))
        else:
            rows += _system(info, name, views, counts, translates)
    captions = ["Reconstruction", *([f"From {CAPTIONS[info.modalities[0]]} alone"] if translates else [])]
    columns = [
        Columns(("",) * count, caption) for count, caption in zip(counts, [*captions, "Drawn"], strict=True)
    ]
    return draw_grid(rows, columns, scene_legend(info), title, TILE_PX)


def _real(info: DatasetInfo, views: Mapping[str, Views], counts: list[int], translates: bool) -> list[Row]:
    """The scenes themselves; above what is drawn, the ones after them."""
    real = views[REAL]
    scenes, drawn = counts[0], counts[-1]
    rows = []
    for name in info.modalities:
        tiles = [scene_tile(real, scene, name, info) for scene in range(scenes)] * (2 if translates else 1)
        others = [
            scene_tile(real, scene, name, info) for scene in range(scenes, min(scenes + drawn, len(real)))
        ]
        others += [Tile(None, blank="")] * (drawn - len(others))
        rows.append(Row((*tiles, *others), CAPTIONS[name], "real scenes"))
    return rows


def _system(
    info: DatasetInfo, system: str, views: Mapping[str, Views], counts: list[int], translates: bool
) -> list[Row]:
    """A row per modality; of what a system infers from the first modality, that one is its input."""
    rows = []
    for number, name in enumerate(info.modalities):
        tiles = _tiles(info, views.get(RECONSTRUCTED), name, counts[0])
        if translates:
            tiles += _tiles(info, views[REAL] if number == 0 else views.get(TRANSLATED), name, counts[0])
        tiles += _tiles(info, views.get(SAMPLES), name, counts[-1])
        rows.append(Row(tuple(tiles), CAPTIONS[name], system))
    return rows


def _tiles(info: DatasetInfo, views: Views | None, modality: str, count: int) -> list[Tile]:
    known = min(count, len(views)) if views is not None else 0
    tiles = [scene_tile(views, scene, modality, info) for scene in range(known)] if views is not None else []
    return tiles + [Tile(None)] * (count - known)
