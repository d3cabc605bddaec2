"""The dependence between latents, as a part of the KL to the prior that can have a weight of its own.

With q(z) the mean over the dataset of q(z | x), the KL has three parts (nats):

    E_x KL(q(z|x) || p(z)) = I(x; z) + KL(q(z) || prod_d q(z_d)) + sum_d KL(q(z_d) || p(z_d))

mutual information, total correlation, and how far each latent alone is from its prior.

Source: Chen, Li, Grosse & Duvenaud 2018 (arXiv:1802.04942), equation 2; Hoffman & Johnson 2016.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.models.fusion import at_least_float32
from pipeline.models.gaussian import Gaussian


@dataclass(frozen=True)
class Decomposition:
    """The parts of the KL, in nats per row of the global batch.

    Each is an estimate from one draw per row and may be negative there. Their sum is
    log q(z_i | x_i) - log p(z_i) exactly, whatever the error of the estimated q(z).

    Attributes:
        mutual_information: log q(z | x) - log q(z).
        total_correlation: log q(z) - sum over latents of log q(z_d).
        dimension_kl: Sum over latents of log q(z_d) - log p(z_d).
    """

    mutual_information: Float[Tensor, " batch"]
    total_correlation: Float[Tensor, " batch"]
    dimension_kl: Float[Tensor, " batch"]


def decompose(z: Float[Tensor, "batch latent"], posterior: Gaussian, dataset_size: int) -> Decomposition:
    """Split the KL to N(0, I) with q(z) estimated from the batch, as beta-TCVAE does.

    Every row takes part in the terms of every other: z and posterior are of the whole global batch,
    with their gradients, and in the same order. Memory grows with batch^2 * latent.

    Args:
        z: One draw from each row's posterior.
        posterior: q(z | x) of each row.
        dataset_size: Samples that q(z) is the mean over.

    Returns:
        Nats per row, to be averaged over the global batch.

    Raises:
        ValueError: If there are fewer than two rows or no samples.
    """
    z = at_least_float32(z)
    each = log_densities(z, posterior)
    joint = log_aggregate(each.sum(dim=2), dataset_size)
    marginals = log_aggregate(each, dataset_size).sum(dim=1)
    given_x = each.diagonal().sum(dim=0)
    prior = -0.5 * (z.square() + math.log(2.0 * math.pi)).sum(dim=1)
    return Decomposition(given_x - joint, joint - marginals, marginals - prior)


def log_densities(
    z: Float[Tensor, "batch latent"], posterior: Gaussian
) -> Float[Tensor, "batch batch latent"]:
    """Entry (i, j, d) is log q(z_i's latent d | x_j), in nats."""
    z, mean, logvar = (at_least_float32(part) for part in (z, posterior.mean, posterior.logvar))
    distance = (z[:, None] - mean[None]).square() * torch.exp(-logvar)
    return -0.5 * (math.log(2.0 * math.pi) + logvar + distance)


def log_aggregate(
    log_density: Float[Tensor, "batch batch *latent"], dataset_size: int
) -> Float[Tensor, " batch *latent"]:
    """Log q(z_i) from log q(z_i | x_j), where the batch is all that is known of the dataset.

    z_i came from x_i, which is therefore in every batch that z_i is in; the other rows stand for the
    N - 1 other samples:

        q(z_i) ~ 1/N q(z_i | x_i) + (N - 1)/N * mean over j != i of q(z_i | x_j)

    Over batches this is unbiased for q(z_i), and with the whole dataset as the batch it is q(z_i).
    (Its logarithm is, on average, too low.) Chen et al. give the weight that remains to one arbitrary
    row; this is the mean over the choice of that row, so less noisy, and independent of the order of
    rows. A batch larger than the dataset, which holds samples several times, counts as the dataset.

    Args:
        log_density: Entry (i, j, ...) is log q(z_i | x_j).
        dataset_size: N.

    Raises:
        ValueError: If there are fewer than two rows or no samples.

    Source: Chen et al. 2018 (arXiv:1802.04942), equation S6, minibatch stratified sampling.
    """
    batch = len(log_density)
    if batch < 2 or dataset_size < 1:
        raise ValueError(
            f"q(z) cannot be estimated from {batch} rows of {dataset_size} samples: at least 2 rows and "
            "1 sample are needed"
        )
    samples = max(dataset_size, batch)
    others = math.log(samples - 1) - math.log(samples) - math.log(batch - 1)
    weight = torch.full((batch, batch), others, dtype=log_density.dtype, device=log_density.device)
    weight = weight.fill_diagonal_(-math.log(samples))
    weighted = log_density + weight.view(batch, batch, *(1,) * (log_density.ndim - 2))
    return weighted.logsumexp(dim=1)


def permute_latents(
    z: Float[Tensor, "batch latent"], uniform: Float[Tensor, "batch latent"]
) -> Float[Tensor, "batch latent"]:
    """Give every latent an order of rows of its own: from draws of q(z) to draws of prod_d q(z_d).

    Args:
        z: Of the whole global batch: a permutation within part of it would not be the same one.
        uniform: Independent numbers, whose order in each column is that latent's permutation.

    Source: Kim & Mnih 2018 (arXiv:1802.05983), algorithm 1.
    """
    return z.gather(0, uniform.argsort(dim=0))


def total_correlation_from_logit(logit: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Log q(z) - log prod_d q(z_d) of each row, as a discriminator between the two says it, in nats.

    Args:
        logit: Of draws from q(z), by a discriminator trained with
            `density_ratio_loss(discriminator, z, permute_latents(z, uniform))`, frozen here.

    Source: Kim & Mnih 2018 (arXiv:1802.05983), the density-ratio trick.
    """
    return at_least_float32(logit)
