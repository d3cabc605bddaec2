"""Samples of several splits that show the same: equal ones, and ones that merely look alike.

Of such samples the one in test stays, then the one in val, then heldout, then train. Nothing here compares
every sample with every other, and there is no object per sample.
"""

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt64

from pipeline.data.modality import SPLITS

LARGEST_DISTANCE = 3
"""Bits of 128 in which two looks may differ and still be alike."""

KEPT_FIRST = ("test", "val", "heldout", "train")
"""Of equal samples in two splits the one in the earlier of these stays."""

_BANDS = LARGEST_DISTANCE + 1
_FEW, _BLOCK = 48, 1024
_BITS, _WORD = 128, 64
_ROW_BITS = 40


def rank_of(split: UInt8[np.ndarray, " row"]) -> Int64[np.ndarray, " row"]:
    """Who stays of samples that are alike, from each one's number in `SPLITS`: the smaller."""
    return np.array([KEPT_FIRST.index(name) for name in SPLITS], np.int64)[split]


def equal_elsewhere(
    content: UInt64[np.ndarray, " row"], rank: Int64[np.ndarray, " row"]
) -> Int64[np.ndarray, " row"]:
    """For every row an equal one of a smaller rank, or -1.

    Args:
        content: Equal where samples are.
        rank: The smaller stays.
    """
    found = np.full(len(content), -1, np.int64)
    if len(content):
        order = np.lexsort((rank, content))
        first = np.flatnonzero(np.diff(content[order], prepend=~content[order[:1]]) != 0)
        kept = np.repeat(order[first], np.diff(np.append(first, len(order))))
        found[order] = np.where(rank[kept] < rank[order], kept, -1)
    return found


def alike_elsewhere(
    look: UInt64[np.ndarray, "row 2"], rank: Int64[np.ndarray, " row"]
) -> Int64[np.ndarray, " row"]:
    """For every row one of a smaller rank whose look differs in at most three bits, or -1.

    Two such looks agree in at least one of four bands of bits (four pigeonholes, three differences), so only
    those that share a band are compared; a band that very many share is divided again by the bits
    outside it. A look of zeros is alike nothing.

    Args:
        look: 128 bits as two words.
        rank: The smaller stays.
    """
    found = np.full(len(look), -1, np.int64)
    seen = np.flatnonzero(look.any(axis=1))
    if not len(seen):
        return found
    order = seen[np.lexsort((rank[seen], look[seen, 1], look[seen, 0]))]
    new = (np.diff(look[order], axis=0) != 0).any(axis=1)
    first = np.flatnonzero(np.concatenate([[True], new]))
    number = np.cumsum(np.concatenate([[0], new.astype(np.int64)]))
    lowest, highest = rank[order[first]], np.maximum.reduceat(rank[order], first)
    best = (lowest << _ROW_BITS) | np.arange(len(first))
    _compare(look[order[first]], lowest, highest, best, np.arange(len(first)), np.arange(_BITS))
    chosen = best[number]
    kept = order[first[chosen & ((1 << _ROW_BITS) - 1)]]
    found[order] = np.where(chosen >> _ROW_BITS < rank[order], kept, -1)
    return found


def _compare(
    look: UInt64[np.ndarray, "unique 2"],
    lowest: Int64[np.ndarray, " unique"],
    highest: Int64[np.ndarray, " unique"],
    best: Int64[np.ndarray, " unique"],
    rows: Int64[np.ndarray, " group"],
    free: Int64[np.ndarray, " bit"],
) -> None:
    """Let every row of a group know the best of those alike it.

    Args:
        look: Every look once.
        lowest: Smallest rank of each.
        highest: Largest rank of each.
        best: Rank and number of the best that is alike; changed in place.
        rows: The group.
        free: The bits that the group does not agree in already.
    """
    if len(rows) < 2 or lowest[rows].min() == highest[rows].max():
        return
    if len(rows) <= _BLOCK:
        one, other = np.triu_indices(len(rows), 1)
        _note(look, lowest, best, rows[one], rows[other])
        return
    for band in np.array_split(free, _BANDS):
        part = look[rows] & _mask(band)
        order = np.lexsort((part[:, 1], part[:, 0]))
        ordered, part = rows[order], part[order]
        edges = np.flatnonzero((np.diff(part, axis=0) != 0).any(axis=1)) + 1
        starts = np.concatenate([[0], edges])
        sizes = np.diff(np.append(starts, len(rows)))
        size = np.repeat(sizes, sizes)
        left = np.repeat(starts + sizes, sizes) - np.arange(len(rows))
        for ahead in range(1, min(_FEW, int(sizes.max()))):
            here = np.flatnonzero((left > ahead) & (size <= _FEW))
            _note(look, lowest, best, ordered[here], ordered[here + ahead])
        rest = np.setdiff1d(free, band)
        for start, count in zip(starts[sizes > _FEW], sizes[sizes > _FEW], strict=True):
            _compare(look, lowest, highest, best, ordered[start : start + count], rest)


def _note(
    look: UInt64[np.ndarray, "unique 2"],
    lowest: Int64[np.ndarray, " unique"],
    best: Int64[np.ndarray, " unique"],
    one: Int64[np.ndarray, " pair"],
    other: Int64[np.ndarray, " pair"],
) -> None:
    near = _distance(look[one], look[other]) <= LARGEST_DISTANCE
    one, other = one[near], other[near]
    np.minimum.at(best, one, (lowest[other] << _ROW_BITS) | other)
    np.minimum.at(best, other, (lowest[one] << _ROW_BITS) | one)


def _distance(one: UInt64[np.ndarray, "pair 2"], other: UInt64[np.ndarray, "pair 2"]) -> np.ndarray:
    return np.bitwise_count(one ^ other).sum(axis=1)


def _mask(bits: Int64[np.ndarray, " bit"]) -> UInt64[np.ndarray, " 2"]:
    words = [sum(1 << int(bit % _WORD) for bit in bits if bit // _WORD == word) for word in range(2)]
    return np.array(words, np.uint64)


def beyond_a_gap(typical_depth_m: np.ndarray, factor: float) -> Bool[np.ndarray, " row"]:
    """Rows whose depth is another unit's: a gap of at least `factor` lies between them and most rows.

    Args:
        typical_depth_m: NaN where there is no depth; such rows are never beyond.
        factor: Typical depths in one unit are closer together than this.
    """
    beyond = np.zeros(len(typical_depth_m), bool)
    known = np.flatnonzero(typical_depth_m > 0)
    if len(known):
        order = known[np.argsort(typical_depth_m[known], kind="stable")]
        logs = np.log(typical_depth_m[order].astype(np.float64))
        group = np.concatenate([[0], np.cumsum(np.diff(logs) >= np.log(factor))])
        beyond[order] = group != np.bincount(group).argmax()
    return beyond
