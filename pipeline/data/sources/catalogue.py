"""What a source of samples has, before anything is loaded."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from pipeline.data.modality import Factor, Sample, SplitName
from pipeline.data.refusal import Refusal, Refused


@runtime_checkable
class Load(Protocol):
    """Makes the samples of neighbouring entries, in any process.

    Exactly one result comes per entry, in order. It is given some entries at once so that a source whose
    samples lie behind each other reads them in one go.
    """

    def __call__(self, entries: Sequence[Any]) -> Iterator[Sample | Refusal]:
        """Load some neighbouring entries."""


@dataclass(frozen=True)
class OneByOne:
    """A `Load` for sources whose samples have nothing to do with each other.

    Attributes:
        load: Makes the sample of one entry; raises `Refused` if it cannot be used.
    """

    load: Callable[[Any], Sample]

    def __call__(self, entries: Sequence[Any]) -> Iterator[Sample | Refusal]:
        """Load some entries, each for itself."""
        for entry in entries:
            try:
                yield self.load(entry)
            except Refused as refused:
                yield Refusal(str(entry), refused.reason, refused.detail, refused.remedy)


@dataclass(frozen=True)
class Catalogue:
    """Samples by entry, and how to load some of them in any process.

    Attributes:
        entries: One per sample, small enough to send to a process. Their `str` is what people call the
            sample. May be made when asked for: a million of them need not be in memory.
        splits: One per entry.
        load: Makes the samples of some entries.
        class_names: In the order of the labels; None if they are known only from the labels.
        factors: What every sample is known by.
        depth_scale_m: Metres per unit of a depth PNG.
        whole_depth: Whether every depth is a whole number of those units below 65536, so that a depth PNG
            loses nothing.
        rendered: Whether we made the scenes ourselves, so that there is nothing to suspect.
        description: For `dataset.json`.
        notes: What a person should know before it starts.
    """

    entries: Sequence[Any]
    splits: Sequence[SplitName]
    load: Load
    class_names: tuple[str, ...] | None
    factors: tuple[Factor, ...] = ()
    depth_scale_m: float = 0.001
    whole_depth: bool = False
    rendered: bool = False
    description: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
