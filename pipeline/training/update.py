"""One update: a step of the autoencoder, then one of the discriminators that judge it."""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.config.model import Model
from pipeline.config.objective import Objective
from pipeline.config.training import Train
from pipeline.data.batch import Batch
from pipeline.models.autoencoder import SharedLatentAutoencoder
from pipeline.models.variables import Output
from pipeline.objectives.perceptual import PerceptualNetwork
from pipeline.training.checkpoint import TrainingState
from pipeline.training.draws import Place, draw
from pipeline.training.ema import update_average
from pipeline.training.losses import Judged, Pass, discriminators_loss, model_loss
from pipeline.training.peers import Peers
from pipeline.training.players import build_discriminators, frozen, make_discriminator_optimizer
from pipeline.training.schedule import learning_rate_share, warm_up

Update = Callable[[Batch], dict[str, float]]
"""Learn from this process's rows of the next global batch; what it reports is the same in every process."""

ACTIVE_VARIANCE = 0.01
"""Variance over samples of a latent's posterior mean from which on the latent counts as active.

Source: Burda, Grosse & Salakhutdinov 2015 (arXiv:1509.00519), section 5.2.
"""


@dataclass(frozen=True)
class Rules:
    """What an update depends on beside the state and the data.

    Attributes:
        model: Fusion, and which subsets are seen.
        objective: What is minimised.
        train: Optimisation.
        seed: Of the noise.
        bf16: Run the networks under bfloat16 autocast.
        rank: This process.
        world_size: Number of processes.
        dataset_size: Training samples.
    """

    model: Model
    objective: Objective
    train: Train
    seed: int
    bf16: bool = False
    rank: int = 0
    world_size: int = 1
    dataset_size: int = 1

    def place(self, step: int) -> Place:
        """Of this process in an update."""
        return Place(self.seed, step, self.rank, self.train.batch // self.world_size, self.world_size)


def make_optimizer(model: SharedLatentAutoencoder, train: Train) -> torch.optim.AdamW:
    """Adam with decoupled decay of weight matrices only, and a rate of their own for the scales.

    Source: Kingma & Ba 2015 (arXiv:1412.6980); Loshchilov & Hutter 2019 (arXiv:1711.05101).
    """
    scales = list(model.log_scales.parameters())
    rest = [parameter for name, parameter in model.named_parameters() if not name.startswith("log_scales.")]
    groups = [
        {
            "params": [p for p in rest if p.ndim > 1],
            "peak": train.learning_rate,
            "weight_decay": train.weight_decay,
        },
        {"params": [p for p in rest if p.ndim <= 1], "peak": train.learning_rate, "weight_decay": 0.0},
        {"params": scales, "peak": train.scale_learning_rate, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=train.learning_rate, betas=train.adam_betas, fused=True)


def start(model: SharedLatentAutoencoder, objective: Objective, train: Train, seed: int) -> TrainingState:
    """A new training of a model: nothing seen yet, discriminators that know nothing."""
    discriminators = build_discriminators(objective, model, seed)
    return TrainingState(
        model,
        copy.deepcopy(model),
        make_optimizer(model, train),
        discriminators=discriminators,
        discriminator_optimizer=make_discriminator_optimizer(discriminators, objective, train),
    )


def make_update(
    state: TrainingState,
    wrapped: nn.Module,
    rules: Rules,
    peers: Peers | None = None,
    wrapped_discriminators: Mapping[str, nn.Module] | None = None,
    perceptual: PerceptualNetwork | None = None,
) -> Update:
    """The update of one state.

    Args:
        state: Weights, average and moments are changed in place by every update; samples_seen is read.
        wrapped: Its model behind whatever averages its gradients over processes.
        rules: What else it depends on.
        peers: The other processes; None: there are none.
        wrapped_discriminators: Its discriminators behind whatever averages their gradients; None: nothing.
        perceptual: For the perceptual term of the objective, if it has one.
    """
    model, train, objective = state.model, rules.train, rules.objective
    peers = peers or Peers()
    judges = dict(state.discriminators.items()) if wrapped_discriminators is None else wrapped_discriminators
    device = next(model.parameters()).device

    def update(batch: Batch) -> dict[str, float]:
        samples_seen = state.samples_seen + train.batch
        share = learning_rate_share(
            samples_seen,
            samples=train.samples,
            warmup_samples=train.warmup_samples,
            final_share=train.final_learning_rate,
        )
        _set_rates(state, share)
        warmth = warm_up(samples_seen, objective.beta_warmup_samples)

        place = rules.place(state.samples_seen // train.batch)
        batch = batch.to(device)
        draws = draw(model, batch, rules.model, objective, place)
        with torch.autocast(device.type, torch.bfloat16, enabled=rules.bf16):
            output = wrapped(batch, draws.views.given, draws.noise, draws.prior)
        done = Pass(output, batch, draws, place, samples_seen)
        with frozen(state.discriminators):
            loss = model_loss(
                model,
                state.discriminators,
                done,
                objective,
                peers,
                warmth=warmth,
                dataset_size=rules.dataset_size,
                bf16=rules.bf16,
                perceptual=perceptual,
            )
            norm = _backward(loss, state.optimizer, rules.world_size)
        judged = discriminators_loss(
            model, state.discriminators, judges, done, loss.pairs, objective, peers, bf16=rules.bf16
        )
        norms = {"gradient_norm": norm}
        if judged:
            assert state.discriminator_optimizer is not None
            norms["discriminator_gradient_norm"] = _backward(
                judged, state.discriminator_optimizer, rules.world_size
            )

        values = _report(loss, judged, output, peers)
        values |= {"beta": objective.beta * warmth, "learning_rate": train.learning_rate * share}
        values |= {name: norm.item() for name, norm in norms.items()}
        _refuse_non_finite(values, state.samples_seen)

        if train.clip_gradient_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(list(model.parameters()), train.clip_gradient_norm, norm)
        state.optimizer.step()
        if judged and state.discriminator_optimizer:
            state.discriminator_optimizer.step()
        update_average(
            state.average,
            model,
            samples_seen=samples_seen,
            batch=train.batch,
            half_life_samples=train.ema_half_life_samples,
        )
        return values

    return update


def _set_rates(state: TrainingState, share: float) -> None:
    for optimizer in (state.optimizer, state.discriminator_optimizer):
        for group in optimizer.param_groups if optimizer else ():
            group["lr"] = group["peak"] * share


def _backward(loss: Judged, optimizer: torch.optim.Optimizer, world_size: int) -> Float[Tensor, ""]:
    """Gradients of a loss, averaged over processes by what wraps the player; returns their norm."""
    optimizer.zero_grad()
    torch.autograd.backward(loss.total * world_size)  # the wrapper divides by it again
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


def _report(loss: Judged, judged: Judged | None, output: Output, peers: Peers) -> dict[str, float]:
    """Losses and terms added up over processes, and active latents counted."""
    parts = {"loss": loss.total.detach(), **loss.terms, **(judged.terms if judged else {})}
    mean = output.posterior.shared.mean.detach()
    moments = [mean.sum(dim=0), mean.square().sum(dim=0)] if output.decoded is not None else []
    local = [torch.stack(list(parts.values())), *moments]
    totals = peers.total(torch.cat([part.double() for part in local]))
    values = dict(zip(parts, totals[: len(parts)].tolist(), strict=True))
    if moments:
        first, second = (totals[len(parts) :] / (len(mean) * peers.size)).chunk(2)
        values["active_units"] = float(((second - first.square()) > ACTIVE_VARIANCE).sum())
    return values | {name: float(factor) for name, factor in loss.factors.items()}


def _refuse_non_finite(values: dict[str, float], samples_seen: int) -> None:
    bad = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise FloatingPointError(
            f"after {samples_seen} samples training produced {', '.join(bad)}; the last checkpoint is kept; "
            "lower train.learning_rate, lengthen train.warmup_samples or set train.clip_gradient_norm"
        )
