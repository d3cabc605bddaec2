"""What a latent regulariser that is no divergence of each row's posterior adds to an update."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.config.objective import (
    AdversarialRegulariser,
    AvbRegulariser,
    MmdRegulariser,
    Objective,
    TotalCorrelation,
)
from pipeline.data.batch import Batch
from pipeline.models.autoencoder import SharedLatentAutoencoder
from pipeline.models.gaussian import Gaussian
from pipeline.models.latent_discriminator import seen_scene
from pipeline.models.variables import Output
from pipeline.objectives.latent_adversary import (
    aae_discriminator_loss,
    aae_encoder_loss,
    avb_discriminator_loss,
    avb_kl,
    density_ratio_loss,
)
from pipeline.objectives.mmd import mmd
from pipeline.objectives.total_correlation import (
    decompose,
    permute_latents,
    total_correlation_from_logit,
)
from pipeline.training.draws import Place, code_draws, contrast_draws, permutation_draws
from pipeline.training.peers import Peers


@dataclass(frozen=True)
class Term:
    """This process's part of a term of the loss; parts add up over processes.

    Attributes:
        total: Weighted.
        terms: Unweighted and detached, for the report.
    """

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]] = field(default_factory=dict)


def regularise(
    model: SharedLatentAutoencoder,
    player: nn.Module | None,
    output: Output,
    batch: Batch,
    objective: Objective,
    place: Place,
    peers: Peers,
    *,
    warmth: float,
    dataset_size: int,
) -> Term | None:
    """The model's term: None for regularisers that `negative_elbo` holds.

    Args:
        model: Unwrapped.
        player: The discriminator of latents, its parameters frozen; None if the regulariser has none.
        output: Of the model for this batch, one view per row.
        batch: What was encoded.
        objective: With the regulariser and beta.
        place: Which update this is.
        peers: Terms that couple rows take those of all processes.
        warmth: Share of the warm-up of beta that is over.
        dataset_size: Training samples.
    """
    rows = place.local_batch * place.size
    beta = objective.beta * warmth
    match objective.regulariser:
        case TotalCorrelation(estimator="minibatch", weight=weight):
            posterior = output.posterior.shared
            gathered = Gaussian(peers.gather(posterior.mean), peers.gather(posterior.logvar))
            parts = decompose(peers.gather(output.shared), gathered, dataset_size)
            each = {
                "total_correlation": parts.total_correlation.mean() / peers.size,
                "mutual_information": parts.mutual_information.mean() / peers.size,
                "dimension_kl": parts.dimension_kl.mean() / peers.size,
            }
            return _term((weight - objective.beta) * warmth, "total_correlation", each)
        case TotalCorrelation(weight=weight):
            assert player is not None
            estimate = total_correlation_from_logit(player(output.shared)).sum() / rows
            return _term(
                (weight - objective.beta) * warmth, "total_correlation", {"total_correlation": estimate}
            )
        case MmdRegulariser(weight=weight, kernel=kernel, statistic=statistic):
            everyone = peers.gather(codes_of(output))
            prior = code_draws(model, place, place.everyone()).to(everyone)
            distance = mmd(everyone, prior, kernel, statistic) / peers.size
            return _term(weight * beta, "mmd", {"mmd": distance})
        case AdversarialRegulariser(weight=weight):
            assert player is not None
            fooling = aae_encoder_loss(player, codes_of(output)).sum() / rows
            return _term(weight * beta, "encoder_adversarial", {"encoder_adversarial": fooling})
        case AvbRegulariser(adaptive_contrast=adaptive):
            assert player is not None
            moments = output.posterior.shared if adaptive else None
            each_kl = avb_kl(player, scene_seen(model, output, batch), output.shared, moments)
            seen = (output.given & output.experts.present).any(dim=0)
            return _term(beta, "kl", {"kl": torch.where(seen, each_kl, 0.0).sum() / rows})
        case _:
            return None


def teach_latent_player(
    model: SharedLatentAutoencoder,
    wrapped: nn.Module,
    output: Output,
    batch: Batch,
    objective: Objective,
    place: Place,
    peers: Peers,
) -> Term:
    """What the discriminator of latents minimises; nothing in it is attached to the model.

    Args:
        model: Unwrapped.
        wrapped: The discriminator behind whatever averages its gradients over processes.
        output: Of the model for this batch.
        batch: What was encoded.
        objective: With the regulariser.
        place: Which update this is.
        peers: A permutation is one of the rows of all processes.
    """
    own = place.own(len(batch))
    match objective.regulariser:
        case AdversarialRegulariser():
            loss = aae_discriminator_loss(
                wrapped, codes_of(output), code_draws(model, place, own).to(output.shared)
            )
        case AvbRegulariser(adaptive_contrast=adaptive):
            noise = contrast_draws(place, own, model.latent).to(output.shared)
            moments = output.posterior.shared if adaptive else None
            with torch.no_grad():
                scene = scene_seen(model, output, batch)
            loss = avb_discriminator_loss(wrapped, scene, output.shared, noise, moments)
        case _:
            drawn = output.shared.detach()
            uniform = permutation_draws(place, model.latent).to(drawn)
            loss = density_ratio_loss(
                wrapped, drawn, permute_latents(peers.gather(drawn), uniform)[own.to(drawn.device)]
            )
    total = loss.sum() / (place.local_batch * place.size)
    return Term(total, {"latent_discriminator": total.detach()})


def codes_of(output: Output) -> Float[Tensor, "rows code"]:
    """The draw of the shared latent, then of every private one."""
    return torch.cat([output.shared, *output.private.values()], dim=1)


def scene_seen(
    model: SharedLatentAutoencoder, output: Output, batch: Batch
) -> Float[Tensor, "batch channel height width"]:
    """What each row's posterior saw, as one image."""
    images = {name: model.network_input(name, modality) for name, modality in batch.modalities.items()}
    return seen_scene(images, output.given & output.experts.present)


def _term(factor: float, name: str, each: dict[str, Float[Tensor, ""]]) -> Term:
    return Term(factor * each[name], {name: value.detach() for name, value in each.items()})
