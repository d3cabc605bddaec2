"""One optimiser update of the autoencoder."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from einops import rearrange
from jaxtyping import Float, Float64
from torch import Tensor, nn

from pipeline.config.model import Model
from pipeline.config.objective import KlRegulariser, Objective
from pipeline.config.training import Train
from pipeline.data.batch import Batch
from pipeline.models.autoencoder import SharedLatentAutoencoder
from pipeline.models.variables import Noise
from pipeline.models.views import Views, choose_views
from pipeline.objectives.elbo import negative_elbo
from pipeline.training.checkpoint import TrainingState
from pipeline.training.ema import update_average
from pipeline.training.randomness import normal, uniform
from pipeline.training.schedule import learning_rate_share, warm_up

Update = Callable[[Batch], dict[str, float]]
"""Learn from this process's rows of the next global batch; what it reports is the same in every process."""


@dataclass(frozen=True)
class Rules:
    """What an update depends on beside the state and the data.

    Attributes:
        model: Fusion.
        objective: Likelihoods, beta.
        train: Optimisation.
        seed: Of the noise.
        bf16: Run the networks under bfloat16 autocast.
        rank: This process.
        world_size: Number of processes.
    """

    model: Model
    objective: Objective
    train: Train
    seed: int
    bf16: bool = False
    rank: int = 0
    world_size: int = 1


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


def make_update(
    state: TrainingState,
    wrapped: nn.Module,
    rules: Rules,
    sum_over_ranks: Callable[[Float64[Tensor, " value"]], Float64[Tensor, " value"]] = lambda values: values,
) -> Update:
    """The update of one state.

    Args:
        state: Weights, average and moments are changed in place by every update; samples_seen is read.
        wrapped: Its model behind whatever averages its gradients over processes.
        rules: What else it depends on.
        sum_over_ranks: Adds up what the processes report.
    """
    model, train, objective = state.model, rules.train, rules.objective
    parameters = list(model.parameters())
    device = parameters[0].device

    def update(batch: Batch) -> dict[str, float]:
        samples_seen = state.samples_seen + train.batch
        share = learning_rate_share(
            samples_seen,
            samples=train.samples,
            warmup_samples=train.warmup_samples,
            final_share=train.final_learning_rate,
        )
        for group in state.optimizer.param_groups:
            group["lr"] = group["peak"] * share
        beta = objective.beta * warm_up(samples_seen, objective.beta_warmup_samples)

        views, noise = draw(model, batch, rules, step=state.samples_seen // train.batch)
        batch = batch.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=rules.bf16):
            output = wrapped(batch, views.given, noise)
        loss = negative_elbo(model, output, batch, objective, views, beta=beta, global_batch=train.batch)
        state.optimizer.zero_grad()
        torch.autograd.backward(loss.total * rules.world_size)  # the wrapper divides by it again
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])

        report = {"loss": loss.total.detach(), **loss.terms}
        totals = sum_over_ranks(torch.stack([value.double() for value in report.values()]))
        values = dict(zip(report, totals.tolist(), strict=True))
        values |= {"beta": beta, "learning_rate": train.learning_rate * share, "gradient_norm": norm.item()}
        _refuse_non_finite(values, state.samples_seen)

        if train.clip_gradient_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, train.clip_gradient_norm, norm)
        state.optimizer.step()
        update_average(
            state.average,
            model,
            samples_seen=samples_seen,
            batch=train.batch,
            half_life_samples=train.ema_half_life_samples,
        )
        return values

    return update


def draw(model: SharedLatentAutoencoder, batch: Batch, rules: Rules, step: int) -> tuple[Views, Noise]:
    """What each row's posterior sees and the noise of its draws, by the row's place in the global batch."""
    config, seed = rules.model, rules.seed
    local_batch = rules.train.batch // rules.world_size
    rows = torch.arange(rules.rank * local_batch, rules.rank * local_batch + len(batch))
    parameter = next(model.parameters())

    subsets = config.seen_in_training
    choices = config.subsampled_terms if subsets == "subsampled" else 1
    choice = uniform(seed, step, rows, "subset", choices)
    views = choose_views(config.fusion, subsets, batch.present().cpu(), choice)
    views = views.repeated(_draws(rules.objective)).to(parameter.device)

    def normals(stream: str, width: int) -> Float[Tensor, "rows width"]:
        numbers = normal(seed, step, rows, stream, width * views.count)
        return _by_view(numbers, views.count).to(parameter.device, parameter.dtype)

    def uniforms(name: str, blocks: int, width: int) -> Float[Tensor, "rows width"]:
        numbers = uniform(seed, step, rows, f"dropout/{name}", width * blocks)
        return _by_view(numbers, blocks).to(parameter.device, parameter.dtype)

    private = {name: normals(f"private/{name}", width) for name, width in model.private.items()}
    dropped: dict[str, Tensor] = {}
    if config.dropout:
        networks = {"encode": (model.encoders, 1), "decode": (model.decoders, views.count)}
        for verb, (parts, blocks) in networks.items():
            for name, part in parts.items():
                dropped[f"{verb}/{name}"] = uniforms(f"{verb}/{name}", blocks, cast(int, part.innermost))
    return views, Noise(normals("shared", model.latent), private, dropped)


def _draws(objective: Objective) -> int:
    """Importance samples per view."""
    regulariser = objective.regulariser
    return regulariser.importance_samples if isinstance(regulariser, KlRegulariser) else 1


def _by_view(numbers: Tensor, views: int) -> Tensor:
    """A row's numbers for all its views, as one block of rows per view."""
    return numbers if views == 1 else rearrange(numbers, "row (view width) -> (view row) width", view=views)


def _refuse_non_finite(values: dict[str, float], samples_seen: int) -> None:
    bad = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise FloatingPointError(
            f"after {samples_seen} samples training produced {', '.join(bad)}; the last checkpoint is kept; "
            "lower train.learning_rate, lengthen train.warmup_samples or set train.clip_gradient_norm"
        )
