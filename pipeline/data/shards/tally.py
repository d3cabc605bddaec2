"""How many samples were refused and why, for people, and when that is too many to go on."""

from collections import Counter

from pipeline.data.refusal import Refusal
from pipeline.errors import InputError


class Tally:
    """Counts refusals as they come."""

    def __init__(self, total: int, most: float = 1.0, *, strict: bool = False) -> None:
        """Begin counting.

        Args:
            total: How many samples the source has.
            most: Largest share of them that may be refused.
            strict: Let none be refused.
        """
        self._total, self._most, self._strict = total, most, strict
        self._reasons: Counter[str] = Counter()
        self._first: dict[str, Refusal] = {}

    def add(self, refusal: Refusal, count: int = 1) -> None:
        """Count one, or several alike.

        Raises:
            InputError: If it is one too many.
        """
        self._reasons[refusal.reason] += count
        self._first.setdefault(refusal.reason, refusal)
        if self._strict:
            raise InputError(
                f"{refusal.origin} is refused, {refusal.reason}: {refusal.detail}; {refusal.remedy} "
                "(--strict stops at the first; without it such samples are left out and listed)"
            )
        refused = self._reasons.total()
        if refused > self._most * self._total:
            raise InputError(
                f"{refused} of {self._total} samples are refused already, more than data.max_bad_fraction "
                f"({self._most:g}) allows; {self.mostly()}. Put that right, or raise data.max_bad_fraction"
            )

    @property
    def reasons(self) -> dict[str, int]:
        """Refused samples per reason."""
        return dict(sorted(self._reasons.items()))

    def lines(self) -> list[str]:
        """What a person should know, a line per reason, the most frequent first."""
        return [
            f"{count} refused, {reason}, such as {first.origin} ({first.detail}); {first.remedy}; "
            "all are in quarantine.parquet"
            for reason, count in self._reasons.most_common()
            for first in [self._first[reason]]
        ]

    def mostly(self) -> str:
        """The most frequent reason with an example and its remedy; empty if nothing was refused."""
        if not self._reasons:
            return ""
        reason, count = self._reasons.most_common(1)[0]
        first = self._first[reason]
        return f"mostly {reason} ({count}), such as {first.origin}: {first.detail}; {first.remedy}"
