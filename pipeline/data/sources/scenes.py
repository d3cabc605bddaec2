"""The built-in scenes as a source."""

import numpy as np

from pipeline.config.data import Data
from pipeline.config.sources import RoomsSource, TabletopSource
from pipeline.data.modality import SplitName
from pipeline.data.scenes import rooms, tabletop
from pipeline.data.scenes.samples import RoomSamples, TabletopSamples
from pipeline.data.sources.catalogue import Catalogue, OneByOne
from pipeline.data.splits import held_out_values, keep_apart, split_by_blocks

_SCENE_DEPTH_SCALE_M = 0.0002


def open_rooms(config: Data, source: RoomsSource) -> Catalogue:
    """The rooms that are drawn."""
    numbers = rooms.draw_rooms(source.count, source.seed)
    held_out = np.zeros(len(numbers), bool)
    values = rooms.factor_grid(numbers)
    apart = held_out_values(config.held_out.factors, rooms.FACTORS)
    for column, factor in enumerate(rooms.FACTORS):
        held_out |= np.isin(values[:, column], sorted(apart.get(factor.name, ())))
    kept = _within_limit(held_out, config.held_out.limit)
    load = RoomSamples(source.seed, source.nuisance, config.image_size, source.antialias, source.sensor_noise)
    return Catalogue(
        entries=numbers[kept].tolist(),
        splits=_splits(config, held_out[kept]),
        load=OneByOne(load),
        class_names=rooms.CLASS_NAMES,
        factors=rooms.FACTORS,
        depth_scale_m=_SCENE_DEPTH_SCALE_M,
        rendered=True,
        description=source.model_dump(mode="json"),
    )


def open_tabletop(config: Data, source: TabletopSource) -> Catalogue:
    """The tables that are drawn."""
    factors = tabletop.factors(source.max_objects)
    apart = held_out_values(config.held_out.factors, factors).get("objects", frozenset())
    load = TabletopSamples(
        source.seed, source.max_objects, config.image_size, source.antialias, source.sensor_noise
    )
    held_out = np.zeros(source.count, bool)
    if apart:
        counts = (
            len(tabletop.tabletop(n, source.seed, source.max_objects).solids) for n in range(source.count)
        )
        held_out = np.fromiter((count - 1 in apart for count in counts), bool, source.count)
    kept = _within_limit(held_out, config.held_out.limit)
    return Catalogue(
        entries=np.flatnonzero(kept).tolist(),
        splits=_splits(config, held_out[kept]),
        load=OneByOne(load),
        class_names=tabletop.CLASS_NAMES,
        factors=factors,
        depth_scale_m=_SCENE_DEPTH_SCALE_M,
        rendered=True,
        description=source.model_dump(mode="json"),
    )


def _within_limit(held_out: np.ndarray, limit: int | None) -> np.ndarray:
    """False for held-out scenes beyond the first `limit`."""
    return ~held_out | (np.cumsum(held_out) <= (limit or len(held_out)))


def _splits(config: Data, held_out: np.ndarray) -> list[SplitName]:
    rest = int((~held_out).sum())
    return keep_apart(held_out, split_by_blocks(rest, config.block, config.test_fraction, config.split_seed))
