"""Codes of which it is known how they relate to the factors, drawn the same on every machine."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

FACTOR_SIZES = (3, 4, 6, 8)
TRAIN, TEST, SEED = 3000, 1500, 20240


@dataclass(frozen=True)
class Planted:
    codes: np.ndarray
    factors: np.ndarray
    test_codes: np.ndarray
    test_factors: np.ndarray


def planted(name: str) -> Planted:
    """One of `CASES`: 3000 samples to learn from, 1500 to test on, four independent factors."""
    # RandomState, not Generator: its stream is frozen, and the reference values hang on it
    factor_stream = np.random.RandomState(SEED)
    factors, test_factors = draw_factors(TRAIN, factor_stream), draw_factors(TEST, factor_stream)
    code_stream = np.random.RandomState(SEED + 1)
    codes, test_codes = (CASES[name](values, code_stream) for values in (factors, test_factors))
    return Planted(codes, factors, test_codes, test_factors)


def draw_factors(samples: int, stream: np.random.RandomState) -> np.ndarray:
    return np.stack([stream.randint(size, size=samples) for size in FACTOR_SIZES], axis=1).astype(np.int64)


def standardised(factors: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance over the grid."""
    sizes = np.array(FACTOR_SIZES, dtype=np.float64)
    return (factors - (sizes - 1) / 2) / np.sqrt((sizes**2 - 1) / 12)


def checksum(array: np.ndarray) -> str:
    rounded = np.ascontiguousarray(np.round(np.asarray(array, np.float64), 9))
    return hashlib.sha256(rounded.tobytes()).hexdigest()[:16]


def _permuted_and_scaled(factors: np.ndarray, stream: np.random.RandomState) -> np.ndarray:
    scale, shift = np.array([2.0, -0.5, 1.0, -3.0]), np.array([1.0, -2.0, 0.0, 5.0])
    return standardised(factors)[:, [2, 0, 3, 1]] * scale + shift


def _duplicated(factors: np.ndarray, stream: np.random.RandomState) -> np.ndarray:
    code = standardised(factors)
    return np.concatenate([code[:, :1], code], axis=1)


def _half_inactive(factors: np.ndarray, stream: np.random.RandomState) -> np.ndarray:
    return np.concatenate([standardised(factors), np.zeros((len(factors), len(FACTOR_SIZES)))], axis=1)


def _noisy(factors: np.ndarray, stream: np.random.RandomState) -> np.ndarray:
    return standardised(factors) + 0.3 * stream.randn(len(factors), len(FACTOR_SIZES))


def _two_in_one(factors: np.ndarray, stream: np.random.RandomState) -> np.ndarray:
    """Latent 0 holds factors 0 and 1 without loss, the last one is noise."""
    merged = (factors[:, 0] * FACTOR_SIZES[1] + factors[:, 1]).astype(float)
    merged = (merged - 5.5) / np.sqrt((144 - 1) / 12)
    code = standardised(factors)
    return np.stack([merged, code[:, 2], code[:, 3], stream.randn(len(factors))], axis=1)


def _full_rotation() -> np.ndarray:
    q, r = np.linalg.qr(np.random.RandomState(7).randn(4, 4))
    return q * np.sign(np.diag(r))


_HALF = 1 / np.sqrt(2.0)
_QUARTER_TURNS = np.array([
    [_HALF, -_HALF, 0, 0],
    [_HALF, _HALF, 0, 0],
    [0, 0, _HALF, -_HALF],
    [0, 0, _HALF, _HALF],
])

CASES: dict[str, Callable[[np.ndarray, np.random.RandomState], np.ndarray]] = {
    "perfect": lambda factors, stream: standardised(factors),
    "perm_scale": _permuted_and_scaled,
    "rot45_pairs": lambda factors, stream: standardised(factors) @ _QUARTER_TURNS.T,
    "rot_full": lambda factors, stream: standardised(factors) @ _full_rotation().T,
    "noise": lambda factors, stream: stream.randn(len(factors), len(FACTOR_SIZES)),
    "duplicate_one": _duplicated,
    "half_inactive_zero": _half_inactive,
    "noisy_0.3": _noisy,
    "merged_two": _two_in_one,
}
