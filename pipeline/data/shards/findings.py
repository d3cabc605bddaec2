"""What became of the samples of a source, and when there is too little to go on with."""

from collections import Counter
from statistics import median

from pipeline.data.refusal import Refusal
from pipeline.data.shards.members import EncodedSample
from pipeline.errors import InputError

NEAREST_PLAUSIBLE_M, FARTHEST_PLAUSIBLE_M = 0.1, 100.0
"""A typical depth outside suggests a wrong unit."""


class Findings:
    """Counts samples as they pass."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._splits: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._first: dict[str, Refusal] = {}
        self._mean_depths_m: list[float] = []

    def accept(self, split: str, sample: EncodedSample) -> None:
        """Count a sample."""
        self._splits[split] += 1
        if sample.depth.count:
            self._mean_depths_m.append(sample.depth.total / sample.depth.count)

    def refuse(self, refusal: Refusal) -> None:
        """Count a refusal.

        Raises:
            InputError: As soon as more than half of all samples are refused.
        """
        self._reasons[refusal.reason] += 1
        self._first.setdefault(refusal.reason, refusal)
        if 2 * self._reasons.total() > self._total:
            raise InputError(
                f"more than half of the {self._total} samples cannot be used, mostly {self._most_often()}"
            )

    def lines(self) -> list[str]:
        """What a person should know at the end, one line each.

        Raises:
            InputError: If nothing is left for training or for testing.
        """
        for split in ("train", "test"):
            if not self._splits[split]:
                raise InputError(
                    f"no sample is left for split {split} (there are {dict(self._splits)}); {self._advice()}"
                )
        lines = []
        for reason, count in self._reasons.most_common():
            first = self._first[reason]
            example = f"such as {first.origin} ({first.detail})"
            lines.append(
                f"{count} refused, {reason}, {example}; {first.remedy}; all are in quarantine.parquet"
            )
        if self._mean_depths_m:
            typical_m = median(self._mean_depths_m)
            if not NEAREST_PLAUSIBLE_M <= typical_m <= FARTHEST_PLAUSIBLE_M:
                lines.append(
                    f"warning: depth is typically {typical_m:.3g} m; is data.source.depth.unit right?"
                )
        return lines

    def _most_often(self) -> str:
        reason, count = self._reasons.most_common(1)[0]
        first = self._first[reason]
        return f"{count} {reason}, such as {first.origin}: {first.detail}; {first.remedy}"

    def _advice(self) -> str:
        if self._reasons:
            return f"refused: {self._most_often()}"
        return "hold out less (data.held_out), use smaller blocks (data.block) or give more samples"
