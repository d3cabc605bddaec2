"""One modality of one scene as a picture, the same in every figure and on every page."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

from pipeline.analysis.colour import depth_image, depth_range_m, rgb_image, seg_image
from pipeline.analysis.grid import Tile
from pipeline.analysis.views import Views
from pipeline.data.modality import IGNORE_INDEX, DatasetInfo

CAPTIONS = {"rgb": "RGB", "depth": "depth", "seg": "segmentation"}
"""What modalities are called in figures."""

Picture = UInt8[np.ndarray, "height width 3"]


def scene_pictures(views: Views, scene: int, info: DatasetInfo) -> dict[str, Picture]:
    """One scene in the colours of its dataset, per modality that the views have."""
    pictures: dict[str, Picture] = {}
    if views.rgb is not None:
        pictures["rgb"] = rgb_image(np.nan_to_num(views.rgb[scene]))
    if views.depth_m is not None and info.depth is not None:
        depth_m = views.depth_m[scene]
        pictures["depth"] = depth_image(depth_m, np.isfinite(depth_m), *depth_range_m(info.depth))
    if views.labels is not None:
        pictures["seg"] = seg_image(views.labels[scene])
    return pictures


def is_known(views: Views, scene: int, modality: str) -> bool:
    """Whether at least one pixel of the scene has a value."""
    match modality:
        case "rgb":
            return views.rgb is not None and bool(np.isfinite(views.rgb[scene]).any())
        case "depth":
            return views.depth_m is not None and bool(np.isfinite(views.depth_m[scene]).any())
        case _:
            return views.labels is not None and bool((views.labels[scene] != IGNORE_INDEX).any())


def scene_tile(views: Views, scene: int, modality: str, info: DatasetInfo) -> Tile:
    """One modality of one scene, blank where nothing of it is known."""
    if not is_known(views, scene, modality):
        return Tile(None)
    return Tile(scene_pictures(views, scene, info).get(modality))
