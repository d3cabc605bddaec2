"""The training loop."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline.data.batch import Batch
from pipeline.errors import Interrupted
from pipeline.training.checkpoint import TrainingState
from pipeline.training.history import Interval
from pipeline.training.update import Update


@dataclass(frozen=True)
class Cadence:
    """Counted in samples over all processes.

    Attributes:
        samples: Length of training, rounded up to whole updates.
        batch: Per update.
        log: Between two lines of the history.
        checkpoint: Between two checkpoints.
    """

    samples: int
    batch: int
    log: int
    checkpoint: int


def optimise(
    state: TrainingState,
    update: Update,
    batches: Iterator[Batch],
    cadence: Cadence,
    *,
    log: Callable[[int, dict[str, float]], None],
    save: Callable[[], None],
    stop_requested: Callable[[], bool],
    advance: Callable[[dict[str, float]], None],
) -> None:
    """Update until enough samples are seen; log, save and stop on the way.

    Args:
        state: Where training stands; changed in place.
        update: One optimiser update.
        batches: Global batches from `state.samples_seen` on, this process's rows of each.
        cadence: How long, and how often what.
        log: Given samples_seen and averages since the last call.
        save: Saves the state.
        stop_requested: Asked after every update; the same answer in every process.
        advance: Told what every update reported.

    Raises:
        Interrupted: If stopped before the end; the state is saved.
    """
    while state.samples_seen < cadence.samples:
        values = update(next(batches))
        before, state.samples_seen = state.samples_seen, state.samples_seen + cadence.batch
        done = state.samples_seen >= cadence.samples
        advance(values)

        state.interval.add(values)
        if done or _crossed(before, state.samples_seen, cadence.log):
            log(state.samples_seen, state.interval.mean())
            state.interval = Interval()

        stop = stop_requested() and not done
        if done or stop or _crossed(before, state.samples_seen, cadence.checkpoint):
            save()
        if stop:
            raise Interrupted(
                f"stopped after {state.samples_seen} of {cadence.samples} samples; a checkpoint is saved"
            )


def _crossed(before: int, after: int, interval: int) -> bool:
    return after // interval > before // interval
