"""What adaptation gained: held-out NLL under any Gaussian prior, and whether samples copy the support."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from pipeline.config.objective import Objective
from pipeline.data.batch import Batch
from pipeline.metrics.fidelity import Prediction
from pipeline.models.autoencoder import SharedLatentAutoencoder
from pipeline.models.gaussian import Gaussian
from pipeline.models.prior import LatentDensity, LatentPrior
from pipeline.models.prior_gaussian import FullGaussian
from pipeline.models.variables import Posterior
from pipeline.objectives.likelihood import nll, reported_nll

FEATURE_SIDE = 16
"""Scenes are compared at this height and width."""


@dataclass(frozen=True)
class Proposal:
    """K latents per row drawn from its posterior, kept so that models are compared on the same draws.

    Attributes:
        shared: Draws of the shared latent.
        private: Draws of the private latents.
        log_density: log q of each draw, private latents of absent modalities left out.
        present: Rows that have the modality, for each private latent.
    """

    shared: Float[Tensor, "draw batch latent"]
    private: dict[str, Float[Tensor, "draw batch _"]]
    log_density: Float[Tensor, "draw batch"]
    present: dict[str, Bool[Tensor, " batch"]]


def draw_proposal(
    posterior: Posterior, present: Mapping[str, Bool[Tensor, " batch"]], draws: int, seed: int
) -> Proposal:
    """Draw from posteriors.

    Args:
        posterior: One per row, given all that is present in it.
        present: Rows that have the modality, for each private latent.
        draws: K, draws per row.
        seed: Decides the draws.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(gaussian: Gaussian) -> tuple[Tensor, Tensor]:
        rows = Gaussian(gaussian.mean.repeat(draws, 1), gaussian.logvar.repeat(draws, 1))
        latent = rows.sample(torch.randn(rows.mean.shape, generator=generator))
        log_density = rows.log_prob(latent).sum(dim=1)
        return latent.view(draws, *gaussian.mean.shape), log_density.view(draws, -1)

    shared, log_density = draw(posterior.shared)
    private: dict[str, Tensor] = {}
    for name, gaussian in posterior.private.items():
        private[name], own = draw(gaussian)
        log_density = log_density + torch.where(present[name], own, 0.0)
    return Proposal(shared, private, log_density, {name: present[name] for name in private})


@torch.no_grad()
def reconstruction_nll(
    model: SharedLatentAutoencoder, objective: Objective, batch: Batch, proposal: Proposal, part: int = 64
) -> dict[str, Float[Tensor, "draw batch"]]:
    """-log p(x_m | z) of every draw and modality, in nats of 8-bit RGB and metric depth."""
    draws: list[dict[str, Tensor]] = []
    for k in range(len(proposal.shared)):
        parts = []
        for start in range(0, len(batch), part):
            rows = batch.rows(start, start + part)
            private = {name: latent[k, start : start + part] for name, latent in proposal.private.items()}
            decoded = model.decode(proposal.shared[k, start : start + part], private)
            parts.append(reported_nll(model, nll(model, decoded, rows, objective), rows))
        draws.append({name: torch.cat([p[name] for p in parts]) for name in parts[0]})
    return {name: torch.stack([draw[name] for draw in draws]) for name in draws[0]}


def nll_under_prior(
    reconstruction: Mapping[str, Float[Tensor, "draw batch"]], proposal: Proposal, prior: LatentPrior
) -> Float[Tensor, " batch"]:
    """-log (1/K) sum_k p(x | z_k) p(z_k) / q(z_k | x) in nats: an upper bound on -log p(x), per row.

    Args:
        reconstruction: `reconstruction_nll` of the proposal.
        proposal: The draws.
        prior: p(z), which need not be the one that training assumed.

    Source: Burda et al. 2015 (arXiv:1509.00519), the bound of K samples.
    """
    log_weight = -torch.stack([term.double() for term in reconstruction.values()]).sum(dim=0)
    log_weight = log_weight - proposal.log_density
    log_weight = log_weight + _per_draw(prior.shared, proposal.shared)
    for name, latent in proposal.private.items():
        own = _per_draw(prior.private[name], latent)
        log_weight = log_weight + torch.where(proposal.present[name], own, 0.0)
    return math.log(len(log_weight)) - log_weight.logsumexp(dim=0)


@dataclass(frozen=True)
class Memorisation:
    """How much nearer generated samples lie to the support than to scenes never seen.

    Attributes:
        share: Of samples whose nearest among the k support and k unseen scenes is a support scene;
            0.5 when nothing is copied, 1 when everything is.
        distance_ratio: Mean distance to the nearest support scene over mean distance to the nearest of
            k unseen ones; 1 when nothing is copied, 0 for exact copies.
    """

    share: float
    distance_ratio: float


def memorisation(
    samples: Float[np.ndarray, "sample feature"],
    support: Float[np.ndarray, "shot feature"],
    unseen: Float[np.ndarray, "query feature"],
) -> Memorisation:
    """Compare with the support and with every disjoint set of as many unseen scenes, averaged.

    Args:
        samples: Features of generated scenes (`scene_features`).
        support: Of the k scenes adapted to.
        unseen: Of at least k other scenes from the same source.

    Raises:
        ValueError: If there are fewer unseen scenes than support scenes.
    """
    shots = len(support)
    if len(unseen) < shots:
        raise ValueError(
            f"memorisation needs at least as many unseen scenes as support: {len(unseen)} < {shots}"
        )
    to_support = _distances(samples, support).min(axis=1)
    sets = len(unseen) // shots
    to_unseen = _distances(samples, unseen[: sets * shots]).reshape(len(samples), sets, shots).min(axis=2)
    nearer = (to_support[:, None] < to_unseen) + 0.5 * (to_support[:, None] == to_unseen)
    typical = to_unseen.mean()
    return Memorisation(float(nearer.mean()), float(to_support.mean() / typical) if typical > 0 else 1.0)


def scene_features(
    scenes: Prediction, depth_std_m: float, classes: int
) -> Float[np.ndarray, "batch feature"]:
    """Scenes averaged down to 16 x 16: RGB in 0..1, depth in standard deviations, labels as class shares."""
    maps = []
    if scenes.rgb is not None:
        maps.append(scenes.rgb)
    if scenes.depth_m is not None:
        maps.append(scenes.depth_m / depth_std_m)
    if scenes.seg is not None:
        maps.append((scenes.seg[:, None] == torch.arange(classes)[:, None, None]).float())
    features: np.ndarray = F.adaptive_avg_pool2d(torch.cat(maps, dim=1), FEATURE_SIDE).flatten(1).numpy()
    return features


def real_scenes(batch: Batch) -> Prediction:
    """Real scenes in the form of decoded ones; what is absent or invalid is 0, or no class."""
    parts = {name: modality.value for name, modality in batch.modalities.items()}
    return Prediction(parts.get("rgb"), parts.get("depth"), parts.get("seg"))


def _distances(
    first: Float[np.ndarray, "first feature"], second: Float[np.ndarray, "second feature"]
) -> Float[np.ndarray, "first second"]:
    squared = (first**2).sum(1)[:, None] - 2.0 * first @ second.T + (second**2).sum(1)[None]
    distance: np.ndarray = np.sqrt(np.maximum(squared, 0.0))
    return distance


def _per_draw(prior: LatentDensity, latent: Float[Tensor, "draw batch _"]) -> Float[Tensor, "draw batch"]:
    assert isinstance(prior, FullGaussian), "adaptation fits Gaussians"
    return prior.log_prob(latent.flatten(0, 1)).view(latent.shape[:2])
