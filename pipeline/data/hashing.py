"""Random numbers as a pure function of integers: no state, any order, the same on every machine.

Source: Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators" (SplitMix64).
"""

import numpy as np
from jaxtyping import Float64, Int64, UInt64

GAMMA = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def key_of(*words: int) -> int:
    """One 64-bit key for a tuple of integers; the order of the words matters."""
    key = 0
    for word in words:
        key = _scramble_one(((key ^ (word & _MASK)) + GAMMA) & _MASK)
    return key


def keys_of(*words: int | Int64[np.ndarray, " count"]) -> UInt64[np.ndarray, " count"]:
    """`key_of` for many tuples at once; a word is the same in all of them or an array."""
    keys = np.zeros(1, np.uint64)
    for word in words:
        mixed_in = np.uint64(word & _MASK) if isinstance(word, int) else word.astype(np.uint64)
        keys = _scramble((keys ^ mixed_in) + np.uint64(GAMMA))
    return keys


def bits(key: int, count: int) -> UInt64[np.ndarray, " count"]:
    """The first `count` outputs of SplitMix64 started at `key`."""
    state = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GAMMA) + np.uint64(key)
    return _scramble(state)


def uniform(key: int, count: int) -> Float64[np.ndarray, " count"]:
    """Independent numbers of the uniform distribution over [0, 1)."""
    return (bits(key, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(count: int, key: int) -> Int64[np.ndarray, " count"]:
    """The numbers 0..count-1 in a random order."""
    return np.argsort(bits(key, count), kind="stable").astype(np.int64)


def _scramble(state: UInt64[np.ndarray, " count"]) -> UInt64[np.ndarray, " count"]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(_MULTIPLIERS[0])
    state = (state ^ (state >> np.uint64(27))) * np.uint64(_MULTIPLIERS[1])
    scrambled: UInt64[np.ndarray, " count"] = state ^ (state >> np.uint64(31))
    return scrambled


def _scramble_one(word: int) -> int:
    word = ((word ^ (word >> 30)) * _MULTIPLIERS[0]) & _MASK
    word = ((word ^ (word >> 27)) * _MULTIPLIERS[1]) & _MASK
    return word ^ (word >> 31)
