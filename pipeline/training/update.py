"""One update: a step of the autoencoder, then one of the discriminators that judge it.

Neither player moves before both have their gradients, so the passes of several micro-batches add up to
those of the whole batch.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.config.model import Model
from pipeline.config.objective import Objective
from pipeline.config.training import Train
from pipeline.data.batch import Batch
from pipeline.models.autoencoder import SharedLatentAutoencoder
from pipeline.objectives.perceptual import PerceptualNetwork
from pipeline.training.checkpoint import TrainingState
from pipeline.training.draws import Place, draw
from pipeline.training.ema import update_average
from pipeline.training.failures import describe_samples, not_finite, refuse_non_finite
from pipeline.training.losses import (
    Judged,
    Pass,
    adaptive_factor,
    discriminators_loss,
    model_loss,
    pull_squares,
    wants_factor,
)
from pipeline.training.micro_batches import Tally, gradients_stay, micro_batches
from pipeline.training.peers import Peers
from pipeline.training.players import build_discriminators, frozen, make_discriminator_optimizer
from pipeline.training.schedule import learning_rate_share, warm_up
from pipeline.training.sharding import NETWORKS, average_whole_gradients, clip, gradient_norm

Update = Callable[[Batch], dict[str, float]]
"""Learn from this process's rows of the next global batch; what it reports is the same in every process."""

Part = tuple[Batch, Place]
"""Some of this process's rows, and which of the global batch they are."""


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
    networks = [p for kind in NETWORKS for p in getattr(model, kind).parameters()]
    known = {id(parameter) for parameter in [*scales, *networks]}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in known]
    rate, decay = train.learning_rate, train.weight_decay
    groups: list[dict[str, Any]] = []
    for some in (networks, rest):  # apart, since networks may be divided among processes
        groups += [
            {"params": [p for p in some if p.ndim > 1], "peak": rate, "weight_decay": decay},
            {"params": [p for p in some if p.ndim <= 1], "peak": rate, "weight_decay": 0.0},
        ]
    groups += [{"params": scales, "peak": train.scale_learning_rate, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=train.learning_rate, betas=train.adam_betas, fused=True)


def start(
    model: SharedLatentAutoencoder,
    objective: Objective,
    train: Train,
    seed: int,
    divide: Callable[[SharedLatentAutoencoder], None] = lambda model: None,
) -> TrainingState:
    """A new training of a model: nothing seen yet, discriminators that know nothing.

    Args:
        model: Whole; becomes part of the state.
        objective: What is minimised.
        train: Optimisation.
        seed: Of the discriminators' weights.
        divide: Given the model and its average before anything is made of their parameters.
    """
    discriminators = build_discriminators(objective, model, seed)
    average = copy.deepcopy(model)
    divide(model)
    divide(average)
    return TrainingState(
        model,
        average,
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
    own = dict(state.discriminators.items())
    judges = own if wrapped_discriminators is None else dict(wrapped_discriminators)
    learning = _Learning(state, wrapped, judges, rules, peers or Peers(), perceptual)
    train, beta = rules.train, rules.objective.beta
    device = next(state.model.parameters()).device

    def update(batch: Batch) -> dict[str, float]:
        samples_seen = state.samples_seen + train.batch
        share = learning_rate_share(
            samples_seen,
            samples=train.samples,
            warmup_samples=train.warmup_samples,
            final_share=train.final_learning_rate,
        )
        _prepare(state, share)
        warmth = warm_up(samples_seen, rules.objective.beta_warmup_samples)
        place = rules.place(state.samples_seen // train.batch)
        parts = list(micro_batches(batch.to(device), place, train.accumulation))
        tally, taught = learning.gradients(parts, warmth)

        average_whole_gradients(state.model, learning.peers)
        norm = _gradient_norm(state.optimizer, learning.peers)
        values = tally.report(learning.peers)
        values |= {"beta": beta * warmth, "learning_rate": train.learning_rate * share}
        values |= {"gradient_norm": norm.item()}
        if taught and state.discriminator_optimizer:
            values["discriminator_gradient_norm"] = _gradient_norm(
                state.discriminator_optimizer, learning.peers
            ).item()
        refuse_non_finite(values, state.samples_seen, lambda: learning.blame(parts))

        if train.clip_gradient_norm is not None:
            clip(list(state.model.parameters()), train.clip_gradient_norm, norm)
        state.optimizer.step()
        if taught and state.discriminator_optimizer:
            state.discriminator_optimizer.step()
        update_average(
            state.average,
            state.model,
            samples_seen=samples_seen,
            batch=train.batch,
            half_life_samples=train.ema_half_life_samples,
        )
        return values

    return update


@dataclass(frozen=True)
class _Learning:
    """The passes of an update.

    Attributes:
        state: Whose gradients are computed; samples_seen is that before the update.
        wrapped: Its model behind whatever averages its gradients over processes.
        judges: Its discriminators likewise.
        rules: What else it depends on.
        peers: The other processes.
        perceptual: For the perceptual term of the objective.
    """

    state: TrainingState
    wrapped: nn.Module
    judges: dict[str, nn.Module]
    rules: Rules
    peers: Peers
    perceptual: PerceptualNetwork | None

    def gradients(self, parts: Sequence[Part], warmth: float) -> tuple[Tally, bool]:
        """Of both players over all parts of a batch; what they report, and whether discriminators learn."""
        factor = self._factor(parts, warmth) if len(parts) > 1 else None
        tally, taught = Tally(), False
        for number, part in enumerate(parts, start=1):
            with gradients_stay([self.wrapped, *self.judges.values()], here=number < len(parts)):
                done = self._decode(self.wrapped, part)
                loss, judged = self._learn(done, warmth, factor)
            tally.add(loss, judged, done.output)
            taught = judged is not None
            del done, loss, judged  # the graph of one part at a time
        return tally, taught

    def blame(self, parts: Sequence[Part]) -> str:
        """Which samples made a number infinite or NaN; nothing has moved since, so they do it again."""
        state, objective = self.state, self.rules.objective
        with torch.no_grad():
            passes = [self._decode(state.model, part) for part in parts]
        bad = [not_finite(state.model, one.output, one.batch, objective, one.draws.views) for one in passes]
        return describe_samples([key for part, _ in parts for key in part.key], torch.cat(bad), self.peers)

    def _decode(self, network: nn.Module, part: Part) -> Pass:
        batch, place = part
        rules, samples_seen = self.rules, self.state.samples_seen + self.rules.train.batch
        draws = draw(self.state.model, batch, rules.model, rules.objective, place)
        with torch.autocast(batch.index.device.type, torch.bfloat16, enabled=rules.bf16):
            output = network(batch, draws.views.given, draws.noise, draws.prior)
        return Pass(output, batch, draws, place, samples_seen)

    def _learn(
        self, done: Pass, warmth: float, factor: Float[Tensor, ""] | None
    ) -> tuple[Judged, Judged | None]:
        """Add the gradients of one pass to those of both players."""
        state, rules = self.state, self.rules
        with frozen(state.discriminators):
            loss = model_loss(
                state.model,
                state.discriminators,
                done,
                rules.objective,
                self.peers,
                warmth=warmth,
                dataset_size=rules.dataset_size,
                bf16=rules.bf16,
                perceptual=self.perceptual,
                adaptive=factor,
            )
            torch.autograd.backward(loss.total * rules.world_size)  # the wrapper divides by it again
        judged = discriminators_loss(
            state.model,
            state.discriminators,
            self.judges,
            done,
            loss.pairs,
            rules.objective,
            self.peers,
            bf16=rules.bf16,
        )
        if judged:
            torch.autograd.backward(judged.total * rules.world_size)
        return loss, judged

    def _factor(self, parts: Sequence[Part], warmth: float) -> Float[Tensor, ""] | None:
        """The adaptive weight, which takes the whole batch: a forward pass over all parts first."""
        state, objective, bf16 = self.state, self.rules.objective, self.rules.bf16
        if not wants_factor(state.model, objective, state.samples_seen + self.rules.train.batch):
            return None
        squares = []
        with frozen(state.discriminators):
            for part in parts:
                done = self._decode(state.model, part)
                squares.append(
                    pull_squares(state.model, state.discriminators, done, objective, warmth=warmth, bf16=bf16)
                )
                del done
        return adaptive_factor(state.model, torch.stack(squares).sum(dim=0), self.peers)


def _prepare(state: TrainingState, share: float) -> None:
    """Forget the last gradients and set learning rates."""
    for optimizer in (state.optimizer, state.discriminator_optimizer):
        if optimizer is None:
            continue
        optimizer.zero_grad()
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * share


def _gradient_norm(optimizer: torch.optim.Optimizer, peers: Peers) -> Float[Tensor, ""]:
    return gradient_norm((p for group in optimizer.param_groups for p in group["params"]), peers)
