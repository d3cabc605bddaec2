"""Samples that are kept out of a dataset, and why."""

from dataclasses import dataclass


class Refused(Exception):  # noqa: N818 (what happens to a sample, not a failure of the program)
    """A sample cannot be used."""

    def __init__(self, reason: str, detail: str, remedy: str) -> None:
        super().__init__(reason, detail, remedy)
        self.reason, self.detail, self.remedy = reason, detail, remedy


@dataclass(frozen=True)
class Refusal:
    """A line of `quarantine.parquet`.

    Attributes:
        origin: What the source calls the sample.
        reason: A code, the same for all samples refused alike.
        detail: What is wrong with this one.
        remedy: What its owner can do.
    """

    origin: str
    reason: str
    detail: str
    remedy: str
