"""The pictures of an evaluation: reconstructions, translations, samples, and one figure of all three."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Bool
from PIL import Image

from pipeline.analysis.grid import Columns, Legend, Row, Tile, draw_grid, scene_legend
from pipeline.analysis.scene import CAPTIONS, scene_tile
from pipeline.analysis.views import Views
from pipeline.data.modality import IGNORE_INDEX, DatasetInfo

OVERVIEW_SCENES = 6


def draw_reconstructions(info: DatasetInfo, real: Views, reconstructed: Views) -> Image.Image:
    """A column per scene: what the model saw above what it made of it."""
    rows = _scene_rows(info, real, "Input") + _scene_rows(info, reconstructed, "Reconstruction")
    return draw_grid(rows, legend=_legend(info, (real, reconstructed)))


def draw_translations(info: DatasetInfo, real: Views, translated: Mapping[str, Views]) -> Image.Image:
    """A column per scene: the truth above what the model makes of one modality alone.

    Args:
        info: The dataset.
        real: The scenes.
        translated: For each modality that was given, everything decoded from it; unknown where a scene
            lacks that modality.
    """
    rows = _scene_rows(info, real, "Truth")
    for given, views in translated.items():
        rows += _scene_rows(info, views, f"From {CAPTIONS[given]}")
    return draw_grid(rows, legend=_legend(info, (real, *translated.values())))


def draw_samples(info: DatasetInfo, samples: Views, columns: int) -> Image.Image:
    """Scenes drawn from the prior, so many side by side, block below block."""
    rows: list[Row] = []
    for first in range(0, len(samples), columns):
        last = min(first + columns, len(samples))
        block = _scene_rows(info, samples[first:last], f"Samples {first + 1}\N{EN DASH}{last}")
        rows += [
            Row((*row.tiles, *[Tile(None)] * (columns - last + first)), row.label, row.group) for row in block
        ]
    return draw_grid(rows, legend=_legend(info, (samples,)))


def draw_overview(
    info: DatasetInfo, real: Views, reconstructed: Views, translated: Views | None, samples: Views
) -> Image.Image:
    """A row per scene, left to right: input, reconstruction, from the first modality alone, prior sample.

    Args:
        info: The dataset.
        real: The scenes; the first six are shown.
        reconstructed: From all modalities.
        translated: From the first modality alone; None where there is no other one.
        samples: From the prior; they have nothing to do with the scene they stand beside.
    """
    modalities = info.modalities
    parts = [("Input", real, modalities), ("Reconstruction", reconstructed, modalities)]
    if translated is not None:
        parts.append((f"From {CAPTIONS[modalities[0]]} alone", translated, modalities[1:]))
    parts.append(("Sample from the prior" if len(modalities) > 1 else "Sample", samples, modalities))
    count = min(OVERVIEW_SCENES, len(real), len(samples))
    rows = [
        Row(tuple(scene_tile(views, scene, name, info) for _, views, names in parts for name in names))
        for scene in range(count)
    ]
    columns = [Columns(tuple(CAPTIONS[name] for name in names), caption) for caption, _, names in parts]
    return draw_grid(rows, columns, _legend(info, [views[:count] for _, views, _ in parts]))


def known_only(views: Views, known: Bool[np.ndarray, " scene"]) -> Views:
    """The same scenes, with nothing known of the others."""
    rows = known[:, None, None]
    return Views(
        None if views.rgb is None else np.where(rows[..., None], views.rgb, np.float32(np.nan)),
        None if views.depth_m is None else np.where(rows, views.depth_m, np.float32(np.nan)),
        None if views.labels is None else np.where(rows, views.labels, np.uint8(IGNORE_INDEX)),
    )


def _scene_rows(info: DatasetInfo, views: Views, group: str) -> list[Row]:
    return [
        Row(tuple(scene_tile(views, scene, name, info) for scene in range(len(views))), CAPTIONS[name], group)
        for name in info.modalities
    ]


def _legend(info: DatasetInfo, shown: Iterable[Views]) -> Legend:
    """Of what is to be seen in these scenes."""
    labels: set[int] = set()
    holes = False
    for views in shown:
        if views.labels is not None:
            labels |= {int(label) for scene in views.labels if _partly(scene) for label in np.unique(scene)}
        if views.depth_m is not None:
            unknown = np.isnan(views.depth_m).mean(axis=(1, 2))
            holes |= bool(((unknown > 0) & (unknown < 1)).any())
    return scene_legend(info, labels - {IGNORE_INDEX}, holes=holes, unlabelled=IGNORE_INDEX in labels)


def _partly(labels: np.ndarray) -> bool:
    return bool((labels != IGNORE_INDEX).any())
