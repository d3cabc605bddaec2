"""Which split each file of a source belongs to, told by patterns or by the files' own names."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.config.containers import ListedSplit
from pipeline.config.data import Data
from pipeline.data.modality import SplitName
from pipeline.data.splits import split_by_blocks
from pipeline.data.storage import matches_any
from pipeline.errors import InputError

_WORDS: dict[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
_BETWEEN_WORDS = re.compile(r"[^A-Za-z]+")


@dataclass(frozen=True)
class Partition:
    """Files and what they are for.

    Attributes:
        names: Those that are used, in their order.
        splits: One per name; None where blocks of samples are divided instead.
        notes: What a person should know.
    """

    names: tuple[str, ...]
    splits: tuple[SplitName, ...] | None
    notes: tuple[str, ...] = ()

    def of_samples(self, files: Sequence[int], config: Data) -> list[SplitName]:
        """The split of every sample, given the number of its file.

        Raises:
            InputError: If there are too few samples to divide.
        """
        if self.splits is None:
            return split_by_blocks(len(files), config.block, config.test_fraction, config.split_seed)
        return [self.splits[file] for file in files]


def partition(names: Sequence[str], patterns: Mapping[ListedSplit, Sequence[str]], what: str) -> Partition:
    """Divide files by patterns, or by the words in their names where there are no patterns.

    Args:
        names: Paths of files below the source's root.
        patterns: Per split; `data.source.splits`.
        what: What the files are, for messages.

    Raises:
        InputError: If patterns overlap, match nothing, or leave no file for training or testing.
    """
    return _by_patterns(names, patterns, what) if patterns else _by_words(names, what)


def _by_patterns(names: Sequence[str], patterns: Mapping[ListedSplit, Sequence[str]], what: str) -> Partition:
    chosen: dict[str, SplitName] = {}
    for name in names:
        fitting = [split for split in patterns if matches_any(name, patterns[split])]
        if len(fitting) > 1:
            raise InputError(
                f"data.source.splits: {name} matches those of {' and '.join(fitting)}; a file has one"
            )
        if fitting:
            chosen[name] = fitting[0]
    for split in (*patterns, "train", "test"):
        if split not in chosen.values():
            why = f"matches {', '.join(patterns[split])}" if split in patterns else f"is for {split}"
            raise InputError(f"data.source.splits: none of the {len(names)} {what} {why}; one is {names[0]}")
    left_out = len(names) - len(chosen)
    notes = (f"{left_out} of {len(names)} {what} are in none of data.source.splits and left out",)
    return Partition(tuple(chosen), tuple(chosen.values()), notes if left_out else ())


def _by_words(names: Sequence[str], what: str) -> Partition:
    told = [_told(name) for name in names]
    splits = [split for split in told if split is not None]
    counts = Counter(splits)
    if len(splits) == len(names) and counts["train"] and counts["test"]:
        listed = ", ".join(f"{counts[split]} {split}" for split in ("train", "val", "test") if counts[split])
        return Partition(tuple(names), tuple(splits), (f"names of {what} tell the splits: {listed}",))
    if len(splits) == len(names) and counts["train"] and counts["val"]:
        tested = tuple("test" if split == "val" else split for split in splits)
        note = f"names of {what} tell train and validation but no test: validation is used for testing"
        return Partition(tuple(names), tested, (f"{note}; data.source.splits says otherwise",))
    notes = (f"names of {what} do not tell the split of all of them ({dict(counts)} of {len(names)})",)
    return Partition(tuple(names), None, notes if counts else ())


def _told(name: str) -> SplitName | None:
    """The split that the last of a path's words about splits names."""
    words = [word for word in _BETWEEN_WORDS.split(name.lower()) if word in _WORDS]
    return _WORDS[words[-1]] if words else None
