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
        split: Where it would have gone; empty if nobody said.
    """

    origin: str
    reason: str
    detail: str
    remedy: str
    split: str = ""


def printable(name: str) -> str:
    """A name with what no text may hold (bytes of a file name that are not UTF-8) written as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()
