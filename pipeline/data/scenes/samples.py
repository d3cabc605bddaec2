"""Scenes as samples: each a function of its number, so any process may render any of them."""

from dataclasses import dataclass

import numpy as np

from pipeline.data.hashing import key_of
from pipeline.data.modality import Sample
from pipeline.data.scenes import rooms, tabletop
from pipeline.data.scenes.render import Picture, render
from pipeline.data.scenes.scene import Scene
from pipeline.data.scenes.sensor import sense

_SENSOR = 3


@dataclass(frozen=True)
class RoomSamples:
    """Renders rooms by their number in the grid."""

    seed: int
    nuisance: float
    image_size: int
    antialias: bool = True
    sensor_noise: bool = False

    def __call__(self, number: int) -> Sample:
        """Render one room."""
        scene = rooms.room(number, self.seed, self.nuisance)
        factors = dict(zip((f.name for f in rooms.FACTORS), rooms.factor_values(number), strict=True))
        noise = key_of(self.seed, number, _SENSOR) if self.sensor_noise else None
        return _sample(f"room-{number:06d}", scene, factors, self.image_size, self.antialias, noise)


@dataclass(frozen=True)
class TabletopSamples:
    """Renders tabletops by their number."""

    seed: int
    max_objects: int
    image_size: int
    antialias: bool = True
    sensor_noise: bool = True

    def __call__(self, number: int) -> Sample:
        """Render one tabletop."""
        scene = tabletop.tabletop(number, self.seed, self.max_objects)
        factors = {"objects": len(scene.solids) - 1}
        noise = key_of(self.seed, number, _SENSOR) if self.sensor_noise else None
        return _sample(f"tabletop-{number:08d}", scene, factors, self.image_size, self.antialias, noise)


def _sample(
    key: str, scene: Scene, factors: dict[str, int], size: int, antialias: bool, noise: int | None
) -> Sample:
    picture: Picture = render(scene, size, antialias)
    if noise is not None:
        picture = sense(picture, noise)
    rgb = (picture.rgb * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    return Sample(key, rgb, picture.depth_m, picture.seg, factors, origin=key)
