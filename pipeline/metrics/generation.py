"""How good generated scenes are as a set: distance to real ones, fidelity, diversity, copying, sharpness.

Every function compares features, one row per scene; `pipeline.metrics.features` says which. Sums are in
float64. docs/metrics.md says the same for readers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

NEIGHBOURS = 5
"""k of density and coverage."""

ROWS_AT_ONCE = 1_000
"""Rows whose distances to all others are held at once."""

SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


@dataclass(frozen=True)
class Density:
    """How much of the generated lies among the real, and how much of the real is covered.

    Attributes:
        density: Mean over generated scenes of the number of real neighbourhoods they lie in, over k:
            1 in expectation for a set from the same distribution; it may exceed 1.
        coverage: Share of real neighbourhoods with a generated scene in them; falls where modes are missing.
    """

    density: float
    coverage: float


def frechet_distance(first: Float[Tensor, "first feature"], second: Float[Tensor, "second feature"]) -> float:
    """Squared 2-Wasserstein distance between the Gaussians with the moments of two sets.

        |m_1 - m_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2))

    S are unbiased covariances. The trace of the root is the sum of the singular values of A_1 A_2^T, where
    the rows of A are the centred features over sqrt(N - 1), so S = A^T A and a singular S needs no care.

    Args:
        first: At least two rows.
        second: At least two rows.

    Raises:
        ValueError: If a set has fewer than two rows.

    Source: Dowson & Landau 1982; as a score of generated images Heusel et al. 2017
        (arXiv:1706.08500).
    """
    _refuse_fewer_than(2, first, second)
    mean_1, root_1 = _moments(first)
    mean_2, root_2 = _moments(second)
    cross = torch.linalg.svdvals(root_1 @ root_2.T).sum()
    distance = (mean_1 - mean_2).square().sum() + root_1.square().sum() + root_2.square().sum() - 2.0 * cross
    return max(float(distance), 0.0)


def kernel_distance(first: Float[Tensor, "first feature"], second: Float[Tensor, "second feature"]) -> float:
    """Squared maximum mean discrepancy with the kernel (x.y / features + 1)^3, unbiased (may be negative).

    All rows are used at once, not subsets of them.

    Raises:
        ValueError: If a set has fewer than two rows.

    Source: Binkowski et al. 2018 (arXiv:1801.01401), the kernel inception distance, with the U-statistic
        of Gretton et al. 2012.
    """
    _refuse_fewer_than(2, first, second)
    return (
        _mean_kernel(first, first, same=True)
        + _mean_kernel(second, second, same=True)
        - 2.0 * _mean_kernel(first, second, same=False)
    )


def density_and_coverage(
    generated: Float[Tensor, "generated feature"], real: Float[Tensor, "real feature"], k: int = NEIGHBOURS
) -> Density:
    """Density and coverage over the neighbourhoods of real scenes: balls up to their k-th real neighbour.

    Args:
        generated: Features of generated scenes.
        real: Features of real ones; more than k.
        k: Neighbours, the scene itself not counted.

    Raises:
        ValueError: If there are not more than k real scenes, or nothing is generated.

    Source: Naeem et al. 2020 (arXiv:2002.09797), density and coverage; the edge of a ball is inside.
    """
    _refuse_fewer_than(1, generated, real)
    if len(real) <= k:
        raise ValueError(f"density with k = {k} needs more than {k} real scenes, not {len(real)}")
    radius = torch.cat([
        rows.kthvalue(k + 1, dim=1).values for rows in _distances(real, real)
    ])  # the nearest is the scene itself
    balls, covered = 0, torch.zeros(len(real), dtype=torch.bool)
    for rows in _distances(generated, real):
        inside = rows <= radius
        balls, covered = balls + int(inside.sum()), covered | inside.any(dim=0)
    return Density(balls / (k * len(generated)), float(covered.double().mean()))


def expected_coverage(generated: int, real: int, k: int = NEIGHBOURS) -> float:
    """Coverage in expectation when both sets are drawn from one distribution.

    Source: Naeem et al. 2020 (arXiv:2002.09797), expected coverage: none of N generated scenes is among the k
        nearest of the other N + M - 1.
    """
    missed = 1.0
    for i in range(k):
        missed *= (real - 1 - i) / (generated + real - 1 - i)
    return 1.0 - missed


def copied_share(
    generated: Float[Tensor, "generated feature"],
    training: Float[Tensor, "training feature"],
    unseen: Float[Tensor, "unseen feature"],
) -> float:
    """How much nearer generated scenes lie to training scenes than to scenes never seen.

    If the training scenes mean no more to the model than n others would, the nearest of n training and
    m unseen scenes is a training scene with chance c = n / (n + m), whatever is generated. With s the
    share for which it is one, the result is 1/2 + (s - c) / (2 (1 - c)): 1/2 when nothing is copied, 1
    when everything is. With n = m it is s itself, as in `pipeline.metrics.fewshot.memorisation`; unequal
    numbers let all of the training set be looked at. A tie counts half.

    Raises:
        ValueError: If a set is empty.

    Source: the two-sample test of nearest neighbours (Schilling 1986), as used for copying by Meehan,
        Chaudhuri & Dasgupta 2020 (arXiv:2004.05675).
    """
    _refuse_fewer_than(1, generated, training)
    _refuse_fewer_than(1, generated, unseen)
    to_training = torch.cat([rows.amin(dim=1) for rows in _distances(generated, training)])
    to_unseen = torch.cat([rows.amin(dim=1) for rows in _distances(generated, unseen)])
    nearer = (to_training < to_unseen).double() + 0.5 * (to_training == to_unseen).double()
    chance = len(training) / (len(training) + len(unseen))
    return 0.5 + (float(nearer.mean()) - chance) / (2.0 * (1.0 - chance))


def edge_energy(images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, " batch"]:
    """Mean square of the gradient of each image, by Sobel's kernels over 8.

    Over pixels that have all eight neighbours, then over channels. Sharpness of one set over another is the
    ratio of its mean energies: 1 for equally sharp edges, less for blurred ones. The kernels average over
    three pixels, so that noise and the grid that decoders leave count for little; second differences,
    which do not, find a blurred scene with a grid in it sharper than a real one.

    Source: Krotkov 1988 ("Focusing", Tenengrad); Pertuz, Puig & Garcia 2013, measure GRA6.
    """
    channels = images.shape[1]
    along = torch.tensor(SOBEL, dtype=images.dtype, device=images.device) / 8.0
    kernels = torch.stack([along, along.T])[:, None].repeat(channels, 1, 1, 1)
    response = F.conv2d(images, kernels, groups=channels)
    return 2.0 * response.double().square().mean(dim=(1, 2, 3))


def _moments(
    features: Float[Tensor, "row feature"],
) -> tuple[Float[Tensor, " feature"], Float[Tensor, "size feature"]]:
    """Mean, and a matrix whose square is the covariance, with no more rows than features."""
    rows = features.double()
    mean = rows.mean(dim=0)
    root = (rows - mean) / (len(rows) - 1) ** 0.5
    if len(root) > root.shape[1]:
        root = torch.linalg.qr(root).R
    return mean, root


def _mean_kernel(
    first: Float[Tensor, "first feature"], second: Float[Tensor, "second feature"], *, same: bool
) -> float:
    """Mean over pairs; of a set with itself over pairs of different rows."""
    x, y = first.double(), second.double()
    total = 0.0
    for start in range(0, len(x), ROWS_AT_ONCE):
        total += float((x[start : start + ROWS_AT_ONCE] @ y.T / x.shape[1] + 1.0).pow(3).sum())
    if not same:
        return total / (len(x) * len(y))
    total -= float((x.square().sum(dim=1) / x.shape[1] + 1.0).pow(3).sum())
    return total / (len(x) * (len(x) - 1))


def _distances(
    first: Float[Tensor, "first feature"], second: Float[Tensor, "second feature"]
) -> list[Float[Tensor, "part second"]]:
    """Euclidean, of a part of the first set to all of the second at a time; 0 exactly for equal rows."""
    parts = torch.split(first.double(), ROWS_AT_ONCE)
    rows = second.double()
    return [torch.cdist(part, rows, compute_mode="donot_use_mm_for_euclid_dist") for part in parts]


def _refuse_fewer_than(
    rows: int, first: Float[Tensor, "first feature"], second: Float[Tensor, "second feature"]
) -> None:
    if min(len(first), len(second)) < rows:
        raise ValueError(f"both sets need at least {rows} scenes, not {len(first)} and {len(second)}")
