"""Maximum mean discrepancy between codes and draws from a prior."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.models.fusion import at_least_float32

SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Widths of the kernels that are summed, relative to the mean squared distance of two prior draws."""


def mmd(
    codes: Float[Tensor, "code latent"],
    prior: Float[Tensor, "draw latent"],
    kernel: Literal["imq", "rbf"],
    statistic: Literal["u", "v"],
) -> Float[Tensor, ""]:
    """MMD^2: the mean kernel among codes, and among draws, less twice that between them.

    With c = 2 * latent * scale, 2 * latent being the mean of |x - y|^2 under N(0, I), summed over scales:

        imq  k(x, y) = c / (c + |x - y|^2)        rbf  k(x, y) = exp(-|x - y|^2 / c)

    It couples all rows: codes are of the whole global batch, with their gradient, and the result is one
    number for it (no unit), which is not divided by the batch again.

    Args:
        codes: From the encoder.
        prior: Independent draws from the prior.
        kernel: Inverse multiquadric, which still pulls at a distance, or Gaussian.
        statistic: `u` leaves out each row's kernel with itself: unbiased, mean 0 where the
            distributions agree, so it may be negative. `v` keeps it: never negative, biased upward.

    Raises:
        ValueError: If the unbiased statistic is asked of fewer than two rows.

    Source: Gretton et al. 2012, "A Kernel Two-Sample Test", JMLR 13, the unbiased and the biased statistic
        (equation 5); Tolstikhin et al. 2018 (arXiv:1711.01558), WAE-MMD, with the scales of its
        implementation.
    """
    if statistic == "u" and min(len(codes), len(prior)) < 2:
        raise ValueError(f"the unbiased MMD needs two rows of each, not {len(codes)} and {len(prior)}")
    codes, prior = at_least_float32(codes), at_least_float32(prior)
    among_codes = _mean(_kernel(codes, codes, kernel), statistic)
    among_draws = _mean(_kernel(prior, prior, kernel), statistic)
    return among_codes + among_draws - 2.0 * _kernel(codes, prior, kernel).mean()


def _kernel(a: Tensor, b: Tensor, kernel: Literal["imq", "rbf"]) -> Float[Tensor, "a b"]:
    # Differences rather than |a|^2 + |b|^2 - 2ab: exactly 0 for a pair of equals, and no matrix product
    # that autocast would round.
    squared = (a[:, None] - b[None]).square().sum(dim=2)
    total = torch.zeros_like(squared)
    for scale in SCALES:
        width = 2.0 * a.shape[1] * scale
        match kernel:
            case "imq":
                total = total + width / (width + squared)
            case "rbf":
                total = total + torch.exp(-squared / width)
    return total


def _mean(gram: Float[Tensor, "a a"], statistic: Literal["u", "v"]) -> Float[Tensor, ""]:
    if statistic == "v":
        return gram.mean()
    count = len(gram)
    return (gram.sum() - gram.diagonal().sum()) / (count * (count - 1))
