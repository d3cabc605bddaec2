"""How the averaged weights do on a few samples that are not trained on: what the best model is chosen by."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.config.objective import ImageAdversary
from pipeline.config.system import posterior_kind
from pipeline.data.batch import Batch
from pipeline.objectives.adversarial import ramp
from pipeline.objectives.elbo import negative_elbo
from pipeline.training.checkpoint import TrainingState
from pipeline.training.checkpoint_files import Score
from pipeline.training.draws import Place, draw
from pipeline.training.update import Rules

ROWS = 32
"""Samples at once. Part of what is measured: free bits and capacities are averages over them."""

BEFORE_TRAINING = -1
"""The update whose noise is used: one that training never comes to."""

NAME = "val_loss"


@dataclass(frozen=True)
class Chunk:
    """Some of the samples.

    Attributes:
        number: Which part of all of them, from 0.
        load: Its rows, where the model is; `ROWS` of them, or what is left for the last part.
        counts: False: another process counts it; this one computes it only because all processes have to
            run a model that is divided among them equally often.
    """

    number: int
    load: Callable[[], Batch]
    counts: bool = True


@dataclass(frozen=True)
class Validation:
    """What a validation found.

    Attributes:
        values: For the history; empty if there is nothing to measure.
        best: Whether no model so far was better.
    """

    values: dict[str, float]
    best: bool


def validation_rows(available: int, wanted: int) -> list[int]:
    """Row numbers of an evenly spaced part of a split."""
    count = min(available, wanted)
    return [number * available // count for number in range(count)]


def own_chunks(chunks: Sequence[Chunk], rank: int, size: int) -> list[Chunk]:
    """Those of a process: equally many in each, the last ones perhaps without counting."""
    own = list(chunks[rank::size])
    if len(own) < -(-len(chunks) // size):
        own.append(replace(chunks[0], counts=False))
    return own


def is_validated(rules: Rules) -> bool:
    """Whether the system has a loss on samples: one without encoders reconstructs none."""
    return posterior_kind(rules.model, rules.objective) != "none"


def validate(
    state: TrainingState, rules: Rules, chunks: Sequence[Chunk], total: Callable[[Tensor], Tensor]
) -> Validation:
    """Measure the averaged weights and remember the best.

    The loss is the bound that training minimises with its warm-ups over: reconstruction, and beta times
    the divergences where the posterior has a density. What a discriminator judges is not in it, because
    its yardstick changes as it learns; nor is what couples the rows of a batch. Where a discriminator
    pulls at the decoders, models count as candidates from the end of its ramp on: before, they reconstruct
    better and are not what is wanted.

    Args:
        state: Its average is measured; `best` is replaced by a better score.
        rules: What training depends on.
        chunks: This process's parts.
        total: Adds up over processes.

    Returns:
        `val_loss` in nats per sample, and whether it is the lowest so far.
    """
    sums = total(_sums(state, rules, chunks))
    loss = float(f"{sums[0].item() / max(1.0, sums[1].item()):.8g}")
    if not sums[1] or not math.isfinite(loss):
        return Validation({}, best=False)
    best = _is_candidate(rules, state.samples_seen) and (state.best is None or loss < state.best.val_loss)
    if best:
        state.best = Score(state.samples_seen, loss)
    return Validation({NAME: loss}, best)


@torch.no_grad()
def _sums(state: TrainingState, rules: Rules, chunks: Sequence[Chunk]) -> Tensor:
    """The loss added up over samples, and their number; double precision."""
    model, objective = state.average, rules.objective
    device = next(model.parameters()).device
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    training = model.training
    model.eval()
    try:
        for chunk in chunks:
            batch = chunk.load()
            place = Place(rules.seed, BEFORE_TRAINING, chunk.number, ROWS, 1)
            draws = draw(model, batch, rules.model, objective, place)
            noise = replace(draws.noise, dropped={})
            with torch.autocast(device.type, torch.bfloat16, enabled=rules.bf16):
                output = model(batch, draws.views.given, noise)
            loss = negative_elbo(
                model,
                output,
                batch,
                objective,
                draws.views,
                beta=objective.beta,
                global_batch=1,
                samples_seen=rules.train.samples + 10**12,
            )
            if chunk.counts:
                sums += torch.stack([
                    loss.total.double(),
                    torch.tensor(float(len(batch)), device=device).double(),
                ])
    finally:
        model.train(training)
    return sums


def _is_candidate(rules: Rules, samples_seen: int) -> bool:
    adversary = rules.objective.adversary
    return not isinstance(adversary, ImageAdversary) or ramp(samples_seen, adversary).weight >= 1.0
