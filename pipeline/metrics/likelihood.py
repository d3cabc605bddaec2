"""How probable a model finds data: an importance-weighted estimate of -log p(x)."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.config.objective import Objective
from pipeline.data.batch import Batch
from pipeline.models.autoencoder import SharedLatentAutoencoder
from pipeline.models.gaussian import Gaussian
from pipeline.models.variables import Noise, Posterior
from pipeline.objectives.likelihood import nll, reported_nll

LogLikelihood = Callable[[Tensor, dict[str, Tensor]], Tensor]
"""log p(x | shared latent, private latents) in nats, one number per row."""


def model_nll(
    model: SharedLatentAutoencoder, batch: Batch, objective: Objective, noise: Sequence[Noise]
) -> Float[Tensor, " batch"]:
    """-log p of all that is present in a row, in nats over grey values 0..255, metres and labels.

    The proposal is the model's own posterior given all that is present, over the shared and the private
    latents; a private latent of an absent modality is drawn from its prior and cancels. Scenes are decoded
    one draw at a time.

    Args:
        model: Trained.
        batch: Samples.
        objective: The densities the model was trained with.
        noise: One per importance sample.
    """
    experts = model.encode(batch)
    posterior = model.posterior(experts, experts.present)

    def log_likelihood(shared: Tensor, private: dict[str, Tensor]) -> Tensor:
        rows = reported_nll(model, nll(model, model.decode(shared, private), batch, objective), batch)
        return -torch.stack([row.double() for row in rows.values()]).sum(dim=0)

    return importance_weighted_nll(posterior, log_likelihood, noise)


def importance_weighted_nll(
    posterior: Posterior, log_likelihood: LogLikelihood, noise: Sequence[Noise]
) -> Float[Tensor, " batch"]:
    """-log of the mean over K draws z_k from q(z | x) of p(x | z_k) p(z_k) / q(z_k | x), with p(z) = N(0, I).

    In expectation an upper bound on -log p(x) that falls with K, and exact for any K where q is the
    exact posterior. Draws come from the very density they are weighted by.

    Args:
        posterior: q(z | x) over shared and private latents.
        log_likelihood: log p(x | z).
        noise: K draws from N(0, I).

    Raises:
        ValueError: If there is no noise.

    Source: Burda, Grosse & Salakhutdinov 2015 (arXiv:1509.00519), the bound of K samples.
    """
    if not noise:
        raise ValueError("noise is empty: an importance-weighted estimate needs at least one draw")
    log_weights = []
    for draw in noise:
        shared = posterior.shared.sample(draw.shared)
        private = {name: q.sample(draw.private[name]) for name, q in posterior.private.items()}
        ratio = _log_prior_over(posterior.shared, shared)
        for name, value in private.items():
            ratio = ratio + _log_prior_over(posterior.private[name], value)
        log_weights.append(log_likelihood(shared, private) + ratio)
    return math.log(len(noise)) - torch.stack(log_weights).logsumexp(dim=0)


def draw_noise(
    model: SharedLatentAutoencoder, rows: int, importance: int, generator: torch.Generator
) -> list[Noise]:
    """What `model_nll` needs for so many rows and importance samples."""

    def normal(width: int) -> Tensor:
        return torch.randn(rows, width, generator=generator)

    return [
        Noise(normal(model.latent), {name: normal(width) for name, width in model.private.items()})
        for _ in range(importance)
    ]


def noise_rows(
    noise: Sequence[Noise], start: int, stop: int, device: torch.device | str = "cpu"
) -> list[Noise]:
    """Some neighbouring rows of every draw, where the model is."""
    return [
        Noise(
            draw.shared[start:stop].to(device),
            {name: value[start:stop].to(device) for name, value in draw.private.items()},
        )
        for draw in noise
    ]


def _log_prior_over(posterior: Gaussian, value: Float[Tensor, "batch latent"]) -> Float[Tensor, " batch"]:
    """Log of N(value; 0, I) over q(value)."""
    prior = Gaussian(torch.zeros_like(value), torch.zeros_like(value))
    return (prior.log_prob(value) - posterior.log_prob(value)).double().sum(dim=1)
