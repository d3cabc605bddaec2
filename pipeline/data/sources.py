"""Where samples come from: what a source has, and how to load one sample of it in any process."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.config.schema import Data, FolderSource, RoomsSource, TabletopSource
from pipeline.data.catalogue import Catalogue
from pipeline.data.folder import open_folder
from pipeline.data.members import EncodedSample, Encoding, encode, encoding_for
from pipeline.data.modality import Sample, SplitName
from pipeline.data.refusal import Refusal, Refused
from pipeline.data.scenes import rooms, tabletop
from pipeline.data.scenes.samples import RoomSamples, TabletopSamples
from pipeline.data.splits import held_out_values, keep_apart, split_by_blocks


def open_source(config: Data) -> Catalogue:
    """What the configured source has.

    Raises:
        InputError: If the config does not fit the source, or its files are not there.
    """
    source = config.source
    match source:
        case RoomsSource():
            return _rooms(config, source)
        case TabletopSource():
            return _tabletop(config, source)
        case FolderSource():
            return open_folder(config, source)


@dataclass(frozen=True)
class LoadAndEncode:
    """From entries to what is written, wherever that is done.

    Attributes:
        load: Makes the sample of an entry.
        encoding: How arrays are stored.
        depth_scale_m: Metres per unit of a depth PNG.
    """

    load: Callable[[Any], Sample]
    encoding: Encoding
    depth_scale_m: float

    def __call__(self, entries: Sequence[Any]) -> list[EncodedSample | Refusal]:
        """Load and encode some entries, in order."""
        return [self._one(entry) for entry in entries]

    def _one(self, entry: Any) -> EncodedSample | Refusal:
        try:
            return encode(self.load(entry), self.encoding, self.depth_scale_m)
        except Refused as refused:
            return Refusal(str(entry), refused.reason, refused.detail, refused.remedy)


def loader_for(catalogue: Catalogue, config: Data) -> LoadAndEncode:
    """What turns the entries of a catalogue into what is written."""
    return LoadAndEncode(
        catalogue.load, encoding_for(config.encoding, config.image_size), catalogue.depth_scale_m
    )


def _rooms(config: Data, source: RoomsSource) -> Catalogue:
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
        load=load,
        class_names=rooms.CLASS_NAMES,
        factors=rooms.FACTORS,
        depth_scale_m=_SCENE_DEPTH_SCALE_M,
        description=source.model_dump(mode="json"),
    )


def _tabletop(config: Data, source: TabletopSource) -> Catalogue:
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
        load=load,
        class_names=tabletop.CLASS_NAMES,
        factors=factors,
        depth_scale_m=_SCENE_DEPTH_SCALE_M,
        description=source.model_dump(mode="json"),
    )


def _within_limit(held_out: np.ndarray, limit: int | None) -> np.ndarray:
    """False for held-out scenes beyond the first `limit`."""
    return ~held_out | (np.cumsum(held_out) <= (limit or len(held_out)))


def _splits(config: Data, held_out: np.ndarray) -> list[SplitName]:
    rest = int((~held_out).sum())
    return keep_apart(held_out, split_by_blocks(rest, config.block, config.test_fraction, config.split_seed))


_SCENE_DEPTH_SCALE_M = 0.0002
