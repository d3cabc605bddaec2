"""The training loop."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline.data.batch import Batch
from pipeline.errors import Interrupted
from pipeline.training.checkpoint import TrainingState
from pipeline.training.history import Interval
from pipeline.training.update import Update
from pipeline.training.validation import Validation

NOT_NOW = Validation({}, best=False)


@dataclass(frozen=True)
class Cadence:
    """Counted in samples over all processes; no value changes what is trained.

    Attributes:
        samples: Length of training, rounded up to whole updates.
        batch: Per update.
        log: Between two lines of the history.
        checkpoint: Between two checkpoints, if the clock does not ask for one earlier, and two validations.
        milestone: Between two checkpoints that are kept for good; None: none.
    """

    samples: int
    batch: int
    log: int
    checkpoint: int
    milestone: int | None = None


@dataclass(frozen=True)
class Order:
    """What every process does after an update.

    Attributes:
        save: Take a checkpoint.
        stop: Take one and end.
    """

    save: bool
    stop: bool


def optimise(
    state: TrainingState,
    update: Update,
    batches: Iterator[Batch],
    cadence: Cadence,
    *,
    log: Callable[[int, dict[str, float]], None],
    validate: Callable[[], Validation],
    consult: Callable[[bool], Order],
    save: Callable[[bool], None],
    advance: Callable[[dict[str, float]], None],
) -> None:
    """Update until enough samples are seen; log, validate, save and stop on the way.

    Validation is at fixed samples, so that the history does not depend on when checkpoints are written.

    Args:
        state: Where training stands; changed in place.
        update: One optimiser update.
        batches: Global batches from `state.samples_seen` on, this process's rows of each.
        cadence: How long, and how often what.
        log: Given samples_seen and averages since the last call, or a validation, or both.
        validate: Measures the averaged weights; the same answer in every process.
        consult: Asked after every update and told whether samples ask for a checkpoint; the same
            answer in every process.
        save: Takes the state; told whether it is the last time, when it has to be on the disk afterwards.
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
        line: dict[str, float] = {}
        if done or _crossed(before, state.samples_seen, cadence.log):
            line, state.interval = state.interval.mean(), Interval()
        due = _crossed(before, state.samples_seen, cadence.checkpoint)
        found = validate() if done or due else NOT_NOW
        if line or found.values:
            log(state.samples_seen, line | found.values)

        order = consult(due or _crossed(before, state.samples_seen, cadence.milestone))
        stop = order.stop and not done
        if done or stop or order.save or found.best:
            save(done or stop)
        if stop:
            raise Interrupted(
                f"stopped after {state.samples_seen} of {cadence.samples} samples; a checkpoint is saved"
            )


def _crossed(before: int, after: int, interval: int | None) -> bool:
    return interval is not None and after // interval > before // interval
