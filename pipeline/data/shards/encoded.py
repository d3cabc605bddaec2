"""One sample ready to be written, made from the entries of a source wherever that is done."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from pipeline.data.modality import IGNORE_INDEX, MODALITIES, Sample
from pipeline.data.refusal import Refusal, Refused, printable
from pipeline.data.shards.fingerprint import content_of, look_of
from pipeline.data.shards.members import encode_array
from pipeline.data.sources.catalogue import Load
from pipeline.data.statistics import DepthSums, depth_sums, typical_depth_m


@dataclass(frozen=True)
class EncodedSample:
    """A sample ready to be written.

    Attributes:
        key: Its unique name.
        origin: What the source calls it.
        members: Bytes per member suffix (`rgb.npy`), in the order they are written.
        factors: Index of each known factor's value.
        depth: Sums over its valid depth.
        depth_median_m: Its typical depth; NaN without any.
        labels: Classes with at least one pixel.
        content: Hash over all its pixels.
        look: Hash of what its RGB looks like; None without.
    """

    key: str
    origin: str
    members: dict[str, bytes]
    factors: dict[str, int] | None
    depth: DepthSums
    depth_median_m: float
    labels: tuple[int, ...]
    content: int
    look: bytes | None


def encode(sample: Sample, suffixes: Mapping[str, str], depth_scale_m: float) -> EncodedSample:
    """The bytes of every member a sample has, and what the index says of it.

    Args:
        sample: Any of its modalities may be absent.
        suffixes: How each modality is stored.
        depth_scale_m: Metres per unit of a depth PNG.

    Raises:
        Refused: If depth does not fit into a depth PNG of that scale.
    """
    members = {}
    for modality in MODALITIES:
        array = getattr(sample, modality)
        if array is not None:
            suffix = suffixes[modality]
            members[f"{modality}.{suffix}"] = encode_array(modality, suffix, array, depth_scale_m)
    description = {"origin": printable(sample.origin), "factors": sample.factors}
    members["json"] = json.dumps(
        description, ensure_ascii=False, separators=(",", ":"), sort_keys=True
    ).encode()
    return EncodedSample(
        key=sample.key,
        origin=sample.origin,
        members=members,
        factors=sample.factors,
        depth=DepthSums() if sample.depth is None else depth_sums(sample.depth),
        depth_median_m=math.nan if sample.depth is None else typical_depth_m(sample.depth),
        labels=() if sample.seg is None else _labels(sample.seg),
        content=content_of(sample),
        look=None if sample.rgb is None else look_of(sample.rgb),
    )


@dataclass(frozen=True)
class LoadAndEncode:
    """Loads neighbouring entries and encodes them.

    Attributes:
        load: Makes the samples of some entries.
        suffixes: How each modality is stored.
        depth_scale_m: Metres per unit of a depth PNG.
    """

    load: Load
    suffixes: dict[str, str]
    depth_scale_m: float

    def __call__(self, entries: Sequence[Any]) -> list[EncodedSample | Refusal]:
        """Load and encode some entries, in order.

        Raises:
            ValueError: If the source gives more or fewer results than it was given entries.
        """
        results = [self.encoded(sample) for sample in self.load(entries)]
        if len(results) != len(entries):
            raise ValueError(
                f"{type(self.load).__name__} gave {len(results)} results for {len(entries)} entries"
            )
        return results

    def encoded(self, sample: Sample | Refusal) -> EncodedSample | Refusal:
        """A sample encoded, unless it cannot be."""
        if isinstance(sample, Refusal):
            return sample
        try:
            return encode(sample, self.suffixes, self.depth_scale_m)
        except Refused as refused:
            return Refusal(sample.origin or sample.key, refused.reason, refused.detail, refused.remedy)


def _labels(seg: UInt8[np.ndarray, "height width"]) -> tuple[int, ...]:
    counts = np.bincount(seg.ravel(), minlength=IGNORE_INDEX + 1)[:IGNORE_INDEX]
    return tuple(np.flatnonzero(counts).tolist())
