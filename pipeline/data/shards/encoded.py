"""From the entries of a source to what is written, wherever that is done."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config.data import Data
from pipeline.data.modality import Sample
from pipeline.data.refusal import Refusal, Refused
from pipeline.data.shards.members import EncodedSample, Encoding, encode, encoding_for
from pipeline.data.sources.catalogue import Catalogue, Load


@dataclass(frozen=True)
class LoadAndEncode:
    """Loads neighbouring entries and encodes them.

    Attributes:
        load: Makes the samples of some entries.
        encoding: How arrays are stored.
        depth_scale_m: Metres per unit of a depth PNG.
    """

    load: Load
    encoding: Encoding
    depth_scale_m: float

    def __call__(self, entries: Sequence[Any]) -> list[EncodedSample | Refusal]:
        """Load and encode some entries, in order."""
        return [self._encoded(sample) for sample in self.load(entries)]

    def _encoded(self, sample: Sample | Refusal) -> EncodedSample | Refusal:
        if isinstance(sample, Refusal):
            return sample
        try:
            return encode(sample, self.encoding, self.depth_scale_m)
        except Refused as refused:
            return Refusal(sample.origin or sample.key, refused.reason, refused.detail, refused.remedy)


def loader_for(catalogue: Catalogue, config: Data) -> LoadAndEncode:
    """What turns the entries of a catalogue into what is written."""
    return LoadAndEncode(
        catalogue.load, encoding_for(config.encoding, config.image_size), catalogue.depth_scale_m
    )
