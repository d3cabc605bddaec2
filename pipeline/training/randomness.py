"""Noise that is a function of what it is for: the same for any number of processes, and after any restart.

Every number is a hash of (seed, step, global row, stream, column). There is no generator whose state
would have to be saved, and the row a process holds draws the same noise whichever process that is.
"""

from hashlib import blake2b

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

GOLDEN_GAMMA = 0x9E3779B97F4A7C15
MIXERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
MASK_64 = (1 << 64) - 1


def uniform(
    seed: int, step: int, rows: Int[Tensor, " row"], stream: str, width: int
) -> Float64[Tensor, "row width"]:
    """Independent numbers in the open interval (0, 1), with 53 random bits.

    Args:
        seed: Of the run.
        step: Optimiser update the noise is for.
        rows: Row numbers within the global batch.
        stream: What the noise is for; two streams are independent.
        width: How many numbers per row.

    Source: Steele, Lea & Flood 2014, "Fast Splittable Pseudorandom Number Generators" (SplitMix64), used
        as a counter-based generator in the manner of Salmon et al. 2011.
    """
    name = int.from_bytes(blake2b(stream.encode(), digest_size=8).digest(), "little")
    key = _mix(_mix(_mix(seed + GOLDEN_GAMMA) + name) + step * GOLDEN_GAMMA)
    by_row = _mix_tensor((rows.cpu().long() + 1) * _signed(GOLDEN_GAMMA) + _signed(key))
    column = (torch.arange(width) + 1) * _signed(GOLDEN_GAMMA)
    bits = _shift_right(_mix_tensor(by_row[:, None] + column), 11)
    return (bits.double() + 0.5) * 2.0**-53


def normal(
    seed: int, step: int, rows: Int[Tensor, " row"], stream: str, width: int
) -> Float[Tensor, "row width"]:
    """Independent draws from N(0, 1), by the inverse distribution function of `uniform` (float64)."""
    draws: Tensor = torch.special.ndtri(uniform(seed, step, rows, stream, width))
    return draws


def _mix(value: int) -> int:
    value &= MASK_64
    value = ((value ^ (value >> 30)) * MIXERS[0]) & MASK_64
    value = ((value ^ (value >> 27)) * MIXERS[1]) & MASK_64
    return value ^ (value >> 31)


def _mix_tensor(value: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """The same as `_mix`, on 64-bit integers whose products wrap around."""
    value = (value ^ _shift_right(value, 30)) * _signed(MIXERS[0])
    value = (value ^ _shift_right(value, 27)) * _signed(MIXERS[1])
    return value ^ _shift_right(value, 31)


def _shift_right(value: Int[Tensor, "*shape"], bits: int) -> Int[Tensor, "*shape"]:
    """Shift in zeros, not the sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
