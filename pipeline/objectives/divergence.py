"""Divergences between what the model believes and what it is pulled towards, in nats per row."""

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.models.gaussian import Gaussian
from pipeline.models.variables import Experts


def kl_to_prior(posterior: Gaussian) -> Float[Tensor, " batch"]:
    """KL(posterior || N(0, I)), summed over latents."""
    return posterior.kl_to_standard().sum(dim=1)


def kl_to_experts(posterior: Gaussian, experts: Experts) -> Float[Tensor, " batch"]:
    """Sum over the modalities present of KL(posterior || expert), summed over latents.

    Absent experts contribute an exact 0 that is still attached to the graph.

    Source: Hwang et al. 2021 (MVTCAE, NeurIPS): the conditional bottleneck terms.
    """
    mask = experts.present[..., None]
    mean, logvar = torch.where(mask, experts.mean, 0.0), torch.where(mask, experts.logvar, 0.0)
    each = [posterior.kl_to(Gaussian(mean[m], logvar[m])).sum(dim=1) for m in range(len(mean))]
    return torch.where(experts.present, torch.stack(each), 0.0).sum(dim=0)


def free_bits(
    kl_per_latent: Float[Tensor, "batch latent"], nats: float, mean: Float[Tensor, " latent"] | None = None
) -> Float[Tensor, " batch"]:
    """Sum over latents of max(nats, mean over the batch of the latent's KL), shared out over the rows.

    Averaged over the global batch, value and gradient are those of the maximum: a latent above is
    pressed as ever, one below not at all and counts `nats` in every row.

    Args:
        kl_per_latent: KL of each row and latent.
        nats: What each latent may cost for nothing.
        mean: Over the rows of the whole global batch, which decides what is below; no gradient goes
            through it. None: these rows are the whole.

    Returns:
        Nats per row, summed over latents.

    Source: Kingma et al. 2016 (arXiv:1606.04934), free bits (their lambda is `nats`).
    """
    mean = kl_per_latent.mean(dim=0) if mean is None else mean
    return torch.where(mean.detach() > nats, kl_per_latent, nats).sum(dim=1)


def capacity(
    kl: Float[Tensor, " batch"], target: float, mean: Float[Tensor, ""] | None = None
) -> Float[Tensor, " batch"]:
    """|mean over the batch of the KL - target|, shared out over the rows.

    Averaged over the global batch, value and gradient are those of the distance; single rows may be
    negative. The average, not each row, is held at the target: samples differ in what there is to say.

    Args:
        kl: KL of each row, summed over latents.
        target: Nats, at this moment of training.
        mean: Over the rows of the whole global batch, which decides the sign; no gradient goes through
            it. None: these rows are the whole.

    Returns:
        Nats per row.

    Source: Burgess et al. 2018 (arXiv:1804.03599), controlled increase of the capacity.
    """
    mean = kl.mean() if mean is None else mean
    return torch.sign(mean.detach() - target) * (kl - target)
