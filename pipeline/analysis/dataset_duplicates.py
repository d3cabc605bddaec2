"""Samples that are there more than once, by the hashes in the index."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt64

from pipeline.analysis.dataset_index import Index, read_rows
from pipeline.data.modality import SPLITS
from pipeline.data.shards.alike import alike_elsewhere, rank_of

EXAMPLES = 3
"""Sets that are named, and members of each."""


@dataclass(frozen=True)
class Twins:
    """Samples that are alike in one respect.

    Attributes:
        sets: Sets of two or more samples that are alike.
        samples: Samples in these sets.
        across: How many of the sets two splits share, per pair of splits such as `train+test`.
        examples: `split/key` of a few members of a few sets; sets across splits come first.
    """

    sets: int
    samples: int
    across: dict[str, int]
    examples: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Duplicates:
    """What is there more than once; None where the index does not tell.

    Attributes:
        equal: The same pixels in every modality.
        same_look: RGB whose 128-bit look is the same.
        alike_across: Samples that look like one of another split, up to three bits of 128.
    """

    equal: Twins | None
    same_look: Twins | None
    alike_across: int | None


def find_duplicates(directory: Path, index: Index) -> Duplicates:
    """Compare the hashes of all samples.

    Raises:
        InputError: If the index cannot be read.
    """
    equal = same_look = alike_across = None
    if index.content is not None:
        rows = np.arange(len(index.content))
        equal = _twins(directory, index, rows, np.unique(index.content, return_inverse=True)[1])
    if index.look is not None:
        rows = np.flatnonzero(index.look.any(axis=1))
        same_look = _twins(directory, index, rows, _numbered(index.look[rows]))
        alike_across = int((alike_elsewhere(index.look, rank_of(_in_splits(index))) >= 0).sum())
    return Duplicates(equal, same_look, alike_across)


def _twins(
    directory: Path, index: Index, rows: Int64[np.ndarray, " row"], group: Int64[np.ndarray, " row"]
) -> Twins:
    """Sum up rows of which those with the same group number are alike."""
    repeated = np.bincount(group, minlength=1)[group] > 1
    rows, group = rows[repeated], group[repeated]
    order = np.argsort(group, kind="stable")
    rows, group = rows[order], group[order]
    first = np.diff(group, prepend=-1) != 0
    starts = np.flatnonzero(first)
    split = index.split_of[rows].astype(np.int64)
    present = np.zeros((len(starts), len(index.splits)), bool)
    present[np.cumsum(first) - 1, split] = True
    across = present.sum(axis=1) > 1
    chosen = np.concatenate([np.flatnonzero(across), np.flatnonzero(~across)])[:EXAMPLES]
    sets = np.split(rows, starts[1:])
    return Twins(
        sets=len(starts),
        samples=len(rows),
        across=_pairs(list(index.splits), present),
        examples=tuple(_names(directory, sets[place], index.split_of[sets[place]]) for place in chosen),
    )


def _pairs(names: list[str], present: Bool[np.ndarray, "set split"]) -> dict[str, int]:
    """How many sets two splits share, where they share one."""
    shared = present.astype(np.int64).T @ present.astype(np.int64)
    return {
        f"{names[one]}+{names[other]}": int(shared[one, other])
        for one, other in zip(*np.triu_indices(len(names), 1), strict=True)
        if shared[one, other]
    }


def _names(
    directory: Path, rows: Int64[np.ndarray, " row"], split: UInt8[np.ndarray, " row"]
) -> tuple[str, ...]:
    """Of the first member in each split, and of others while there is room."""
    firsts = np.unique(split, return_index=True)[1]
    others = np.setdiff1d(np.arange(len(rows)), firsts)[:EXAMPLES]
    shown = np.concatenate([firsts, others])[:EXAMPLES]
    return tuple(f"{row['split']}/{row['key']}" for row in read_rows(directory, np.sort(rows[shown])))


def _numbered(look: UInt64[np.ndarray, "row 2"]) -> Int64[np.ndarray, " row"]:
    """The same number for the same look."""
    order = np.lexsort((look[:, 1], look[:, 0]))
    ordered = look[order]
    number = np.empty(len(look), np.int64)
    number[order] = np.cumsum(np.append(False, (ordered[1:] != ordered[:-1]).any(axis=1))[: len(look)])
    return number


def _in_splits(index: Index) -> UInt8[np.ndarray, " row"]:
    """Each row's split as a number in `SPLITS`."""
    place = np.array([SPLITS.index(name) for name in index.splits], np.uint8)
    return np.take(place, index.split_of)
