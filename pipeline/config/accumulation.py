"""Which systems can be trained in micro-batches: those whose loss is a sum over rows."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.config.model import Model
from pipeline.config.objective import KlRegulariser, MmdRegulariser, Objective, TotalCorrelation
from pipeline.config.training import Train


def indivisible(model: Model, objective: Objective, train: Train) -> Iterator[str]:
    """Why `train.accumulation` would train another model, one sentence for each reason."""
    count = train.accumulation
    if count == 1:
        return
    where = f"train.accumulation: {count}"
    remedy = "set train.accumulation: 1 and share the batch among more processes"
    if train.batch % count:
        yield (
            f"{where} does not divide train.batch: {train.batch}; choose batch: "
            f"{train.batch + -train.batch % count}, or another accumulation"
        )
    if reason := _coupling(objective):
        yield f"{where} sees a part of the batch at a time, and {reason}; {remedy}"
    if model.norm == "batch":
        yield (
            f"{where} sees a part of the batch at a time, and model.norm: batch takes statistics of all its "
            f"rows; choose model.norm: group, or {remedy}"
        )


def _coupling(objective: Objective) -> str | None:
    """The term that is no sum over rows."""
    name = "objective.regulariser"
    match objective.regulariser:
        case TotalCorrelation(estimator="minibatch"):
            return f"{name}.kind: tc mixes the posteriors of all its rows"
        case TotalCorrelation():
            return f"{name}.kind: tc permutes latents over all its rows"
        case MmdRegulariser():
            return f"{name}.kind: mmd compares all its rows with each other"
        case KlRegulariser(free_bits=nats) if nats:
            return f"{name}.free_bits are counted on the mean over all its rows"
        case KlRegulariser(capacity=nats) if nats is not None:
            return f"{name}.capacity is held on the mean over all its rows"
        case _:
            return None
