"""What each player of an update minimises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from pipeline.config.objective import ImageAdversary, Objective
from pipeline.data.batch import Batch
from pipeline.models.autoencoder import SharedLatentAutoencoder
from pipeline.models.discriminator import SceneDiscriminator
from pipeline.models.variables import Decoded, Output
from pipeline.objectives.adversarial import Ramp, adaptive_weight, ramp
from pipeline.objectives.elbo import Loss, negative_elbo
from pipeline.objectives.perceptual import PerceptualNetwork, perceptual_distance
from pipeline.training.adversary import (
    Pairs,
    Pull,
    choose_fakes,
    decoded_tensors,
    gradient_at,
    learn_to_tell,
    pair_up,
    pull_on_decoders,
    scene_events,
    squared_norm,
)
from pipeline.training.draws import Draws, Place
from pipeline.training.peers import Peers
from pipeline.training.players import IMAGE, LATENT
from pipeline.training.regularise import regularise, teach_latent_player


@dataclass(frozen=True)
class Pass:
    """One pass of the model and what it was about.

    Attributes:
        output: Of the model.
        batch: What it is to predict, and what its encoders saw of it.
        draws: What was drawn for it.
        place: Which update this is.
        samples_seen: Including this update.
    """

    output: Output
    batch: Batch
    draws: Draws
    place: Place
    samples_seen: int

    @property
    def global_batch(self) -> int:
        """Rows over all processes."""
        return self.place.local_batch * self.place.size


@dataclass(frozen=True)
class Judged:
    """A player's loss: this process's part of it.

    Attributes:
        total: What is minimised.
        terms: What it is made of: detached, reduced like the total.
        factors: Numbers that are the same in every process, such as adaptive weights.
        pairs: Scenes that the image discriminator compares; None where it has no part in this update.
    """

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]
    factors: dict[str, Float[Tensor, ""]]
    pairs: Pairs | None = None


def model_loss(
    model: SharedLatentAutoencoder,
    discriminators: nn.ModuleDict,
    done: Pass,
    objective: Objective,
    peers: Peers,
    *,
    warmth: float,
    dataset_size: int,
    bf16: bool,
    perceptual: PerceptualNetwork | None = None,
    adaptive: Float[Tensor, ""] | None = None,
) -> Judged:
    """The autoencoder's loss; the discriminators' parameters are frozen meanwhile.

    Args:
        model: Unwrapped.
        discriminators: Unwrapped.
        done: The pass.
        objective: What to minimise.
        peers: The other processes.
        warmth: Share of beta's warm-up that is over.
        dataset_size: Training samples.
        bf16: Run discriminators of images under bfloat16 autocast.
        perceptual: What else compares RGB; None: nothing.
        adaptive: `adaptive_factor` of the whole batch, of which this pass is a part; None: it is the whole.
    """
    output = done.output
    parts: list[Tensor] = []
    terms: dict[str, Tensor] = {}
    if output.decoded is not None:
        bound = _bound(model, done, objective, warmth, peers)
        parts.append(bound.total)
        terms |= bound.terms
        if perceptual is not None and objective.rgb.perceptual is not None:
            distance = _perceptual(perceptual, model, done)
            parts.append(objective.rgb.perceptual.weight * distance)
            terms["perceptual"] = distance.detach()
        extra = regularise(
            model,
            discriminators[LATENT] if LATENT in discriminators else None,
            output,
            done.batch.inputs(),
            objective,
            done.place,
            peers,
            warmth=warmth,
            dataset_size=dataset_size,
        )
        if extra:
            parts.append(extra.total)
            terms |= extra.terms
    stage, pairs = _stage(objective, done.samples_seen), None
    factors: dict[str, Tensor] = {}
    if IMAGE in discriminators and stage.learns:
        adversary = objective.adversary
        assert isinstance(adversary, ImageAdversary)
        fakes = choose_fakes(adversary.fakes, output.decoded, output.generated)
        pairs = pair_up(model, done.batch, fakes, adversary.label_smoothing)
        if stage.weight > 0.0:
            pull = _pull(discriminators, pairs, fakes, adversary, done, bf16=bf16)
            if adaptive is None:
                adaptive = _adaptive(model, adversary, pull, parts, output, peers)
            factor = adaptive * adversary.weight * stage.weight
            parts.append(factor * pull.term())
            terms["generator"] = pull.loss
            factors["adversary_weight"] = factor
    return Judged(torch.stack(parts).sum(), terms, factors, pairs)


def discriminators_loss(
    model: SharedLatentAutoencoder,
    discriminators: nn.ModuleDict,
    wrapped: Mapping[str, nn.Module],
    done: Pass,
    pairs: Pairs | None,
    objective: Objective,
    peers: Peers,
    *,
    bf16: bool,
) -> Judged | None:
    """The loss of all discriminators together, which share no parameter; None if none of them learns now.

    Args:
        model: Unwrapped.
        discriminators: Unwrapped.
        wrapped: The same behind whatever averages their gradients over processes.
        done: The pass.
        pairs: From `model_loss`.
        objective: What to minimise.
        peers: The other processes.
        bf16: Run discriminators of images under bfloat16 autocast where they have no penalty.
    """
    parts: list[Tensor] = []
    terms: dict[str, Tensor] = {}
    if pairs is not None:
        adversary, player = objective.adversary, discriminators[IMAGE]
        assert isinstance(adversary, ImageAdversary)
        assert isinstance(player, SceneDiscriminator)
        told = learn_to_tell(
            player, wrapped[IMAGE], pairs, adversary, global_batch=done.global_batch, bf16=bf16
        )
        parts.append(told.total)
        terms |= told.terms
    if LATENT in discriminators:
        taught = teach_latent_player(
            model, wrapped[LATENT], done.output, done.batch.inputs(), objective, done.place, peers
        )
        parts.append(taught.total)
        terms |= taught.terms
    return Judged(torch.stack(parts).sum(), terms, {}) if parts else None


def _perceptual(network: PerceptualNetwork, model: SharedLatentAutoencoder, done: Pass) -> Float[Tensor, ""]:
    """Distance of RGB to its targets as features of a network see it, reduced like the bound."""
    views, rgb = done.draws.views, done.batch.modalities["rgb"].repeated(done.draws.views.count)
    assert done.output.decoded is not None
    assert done.output.decoded.rgb is not None
    targets = views.targets[model.modalities.index("rgb")]
    valid = rgb.valid & targets[:, None, None]
    rows = perceptual_distance(network, done.output.decoded.rgb, rgb.value, valid)
    return (views.weight.to(rows.dtype) * rows).sum() / done.global_batch


def wants_factor(model: SharedLatentAutoencoder, objective: Objective, samples_seen: int) -> bool:
    """Whether the pull of the discriminator is scaled by norms over the whole batch in this update."""
    adversary = objective.adversary
    if not isinstance(adversary, ImageAdversary) or model.posterior_kind == "none":
        return False
    return adversary.adaptive and _stage(objective, samples_seen).weight > 0.0


def pull_squares(
    model: SharedLatentAutoencoder,
    discriminators: nn.ModuleDict,
    done: Pass,
    objective: Objective,
    *,
    warmth: float,
    bf16: bool,
) -> Float64[Tensor, " player"]:
    """What `adaptive_factor` adds up over the parts of a batch; no gradient reaches a parameter.

    Args:
        model: Unwrapped.
        discriminators: Unwrapped, their parameters frozen.
        done: A pass over some rows, reconstructions among what it decoded.
        objective: With an image adversary.
        warmth: Share of beta's warm-up that is over.
        bf16: Run it under bfloat16 autocast.
    """
    adversary, output = objective.adversary, done.output
    assert isinstance(adversary, ImageAdversary)
    assert output.decoded is not None
    fakes = choose_fakes(adversary.fakes, output.decoded, output.generated)
    pairs = pair_up(model, done.batch, fakes, adversary.label_smoothing)
    pull = _pull(discriminators, pairs, fakes, adversary, done, bf16=bf16)
    return _squares(_bound(model, done, objective, warmth, Peers()).total, pull, output.decoded)


def adaptive_factor(
    model: SharedLatentAutoencoder, squares: Float64[Tensor, " player"], peers: Peers
) -> Float[Tensor, ""]:
    """Factor that makes two gradients alike in norm, from their squared norms over this process's rows."""
    reconstruction, adversarial = peers.total(squares).sqrt()
    return adaptive_weight(reconstruction, adversarial, scene_events(model)).float()


def _stage(objective: Objective, samples_seen: int) -> Ramp:
    adversary = objective.adversary
    return ramp(samples_seen, adversary) if isinstance(adversary, ImageAdversary) else Ramp(0.0, False)


def _adaptive(
    model: SharedLatentAutoencoder,
    adversary: ImageAdversary,
    pull: Pull,
    parts: list[Tensor],
    output: Output,
    peers: Peers,
) -> Float[Tensor, ""]:
    """Factor that makes the discriminator's pull as strong as the reconstruction's; 1 without either."""
    if not adversary.adaptive or output.decoded is None:
        return torch.ones((), device=pull.loss.device)
    return adaptive_factor(model, _squares(parts[0], pull, output.decoded), peers)


def _squares(bound: Float[Tensor, ""], pull: Pull, decoded: Decoded) -> Float64[Tensor, " player"]:
    """Squared norms of the gradients of the bound and of the pull at what was decoded."""
    gradients = (gradient_at(bound, decoded_tensors(decoded)), pull.gradient)
    return torch.stack([squared_norm(gradient) for gradient in gradients]).double()


def _bound(
    model: SharedLatentAutoencoder, done: Pass, objective: Objective, warmth: float, peers: Peers
) -> Loss:
    return negative_elbo(
        model,
        done.output,
        done.batch,
        objective,
        done.draws.views,
        beta=objective.beta * warmth,
        global_batch=done.global_batch,
        total_over_peers=peers.total,
        samples_seen=done.samples_seen,
    )


def _pull(
    discriminators: nn.ModuleDict,
    pairs: Pairs,
    fakes: Sequence[Decoded],
    adversary: ImageAdversary,
    done: Pass,
    *,
    bf16: bool,
) -> Pull:
    player = discriminators[IMAGE]
    assert isinstance(player, SceneDiscriminator)
    return pull_on_decoders(player, pairs, fakes, adversary.loss, global_batch=done.global_batch, bf16=bf16)
