"""Divergences between what the model believes and what it is pulled towards, in nats per row."""

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.models.autoencoder import Experts
from pipeline.models.gaussian import Gaussian


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
