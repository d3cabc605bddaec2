"""What a source of samples has, before anything is loaded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.data.modality import Factor, Sample, SplitName


@dataclass(frozen=True)
class Catalogue:
    """Samples by entry, and how to load one of them in any process.

    Attributes:
        entries: One per sample, small enough to send to a process.
        splits: One per entry.
        load: Makes the sample of an entry; raises `Refused` if it cannot be used.
        class_names: In the order of the labels; None if they are known only from the labels.
        factors: What every sample is known by.
        depth_scale_m: Metres per unit of a depth PNG that loses nothing this source can hold.
        description: For `dataset.json`.
        notes: What a person should know before it starts.
    """

    entries: Sequence[Any]
    splits: Sequence[SplitName]
    load: Callable[[Any], Sample]
    class_names: tuple[str, ...] | None
    factors: tuple[Factor, ...] = ()
    depth_scale_m: float = 0.001
    description: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
