"""Checkpoints written behind the back of the loop: it waits for the copy to the host's memory and no more.

One save is in flight at a time. What becomes due meanwhile is decided like this:

- a checkpoint that is due by samples or by the clock stays due, and is taken after the first update that
  finds the writer idle: late, never dropped, and of a newer state;
- the best model so far is copied at once and waits its turn; a better one takes its place. So at most two
  copies of a state exist, and a third of a best one that a full disk refused;
- the last save, and that of a stop, wait until what is in flight is done and they are on the disk themselves.

Where weights are divided among processes each has such a thread, and all of them take the same snapshots: a
save waits until every one of them is idle.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from pipeline.errors import InputError, as_input_error
from pipeline.training.checkpoint import Snapshot, TrainingState, take_snapshot
from pipeline.training.checkpoint_files import Keep, newest_name, unfinished, write_checkpoint
from pipeline.training.checkpoint_sharded import Writers
from pipeline.training.loop import Order
from pipeline.training.peers import Peers

TURN_S = 2.0
"""How long the other processes wait for the one that writes before they ask again."""

PATIENCE_S = 60.0
"""How long a training that failed waits for the save in flight."""


class Saver:
    """A thread that writes snapshots, and the decision when to take one.

    A save that fails is said once; the last good checkpoint stays, and the next one that is due is tried
    again. Only the last save has to succeed.

    Args:
        root: Directory of checkpoints.
        keep: Which of them stay.
        minutes: Most minutes between two checkpoints; None: samples alone decide.
        before_write: Done first by the thread: puts on the disk what a checkpoint counts on.
        say: Told what a person should know.
        clock: Seconds that only rise.
        writers: The threads of all processes, where each writes its part; None: this one writes everything.
    """

    def __init__(
        self,
        root: Path,
        keep: Keep,
        *,
        minutes: float | None,
        before_write: Callable[[], None],
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        writers: Writers | None = None,
    ) -> None:
        self._writers = writers
        self._root, self._keep, self._before_write = root, keep, before_write
        self._interval_s = None if minutes is None else 60.0 * minutes
        self._say, self._clock = say, clock
        self._due, self._taken_s = False, clock()
        self._changed = threading.Condition()
        self._waiting: Snapshot | None = None
        self._unsaved_best: Snapshot | None = None
        self._busy, self._closing, self._silent = False, False, False
        self._failure: OSError | None = None
        self._crash: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
        self._thread.start()

    def due(self, by_samples: bool) -> bool:
        """Whether to take a snapshot now: one is due, and the writer is idle."""
        self._report()
        late = self._interval_s is not None and self._clock() - self._taken_s >= self._interval_s
        self._due = self._due or by_samples or late
        return self._due and not self.is_busy()

    def is_busy(self) -> bool:
        """Whether a snapshot is being written or waits."""
        with self._changed:
            return self._busy or self._waiting is not None

    def save(self, snapshot: Snapshot) -> None:
        """Hand a snapshot over; one that waits already gives way to it."""
        self._report()
        self._due, self._taken_s = False, self._clock()
        with self._changed:
            self._waiting = snapshot
            self._changed.notify_all()

    def wait(self, timeout_s: float) -> bool:
        """Wait until nothing is left to write.

        Returns:
            Whether something still is, after so long.
        """
        with self._changed:
            idle = self._changed.wait_for(lambda: not self._busy and self._waiting is None, timeout_s)
        return not idle

    def require(self) -> None:
        """Refuse to go on if the last save failed.

        Raises:
            InputError: With what to do about it.
        """
        self._raise_crash()
        error = self._failure
        if error is None:
            return
        refused = as_input_error(error)
        why = str(refused) if refused else f"{error}; when that is mended, run the same command again"
        raise InputError(f"{why} (the checkpoint could not be written; {self._last_good()})") from error

    def close(self, timeout_s: float = PATIENCE_S) -> None:
        """Let the thread finish what it does, and end it."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while (snapshot := self._next()) is not None:
            best, self._unsaved_best = self._unsaved_best, None
            try:
                if best and not snapshot.best:
                    self._write(best, late=True)
                self._write(snapshot)
            except BaseException as crash:  # noqa: BLE001 (a thread's own end; the loop raises it)
                self._crash = crash
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _next(self) -> Snapshot | None:
        """What to write, as soon as there is something; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is not None or self._closing)
            snapshot, self._waiting = self._waiting, None
            self._busy = snapshot is not None
            return snapshot

    def _write(self, snapshot: Snapshot, *, late: bool = False) -> None:
        try:
            if self._writers:
                directory = unfinished(self._root, snapshot.samples_seen)
                finish = partial(self._write_files, snapshot, late=late)
                self._writers.write(snapshot.parts, directory, finish)
            else:
                self._write_files(snapshot, None, late=late)
        except OSError as error:
            self._failure = error
            if snapshot.best:
                self._unsaved_best = snapshot
        else:
            self._failure = None

    def _write_files(self, snapshot: Snapshot, parts: Callable[[Path], None] | None, *, late: bool) -> None:
        self._before_write()
        write_checkpoint(
            self._root,
            snapshot.samples_seen,
            snapshot.files(),
            self._keep,
            snapshot.best,
            late=late,
            parts=parts,
        )

    def _report(self) -> None:
        """Say once that saving fails, and once that it works again; raise what is nobody's disk."""
        self._raise_crash()
        failure = self._failure
        if failure is not None and not self._silent:
            self._say(
                f"a checkpoint could not be written ({failure}); training goes on and tries again with the "
                f"next one; {self._last_good()}"
            )
        elif failure is None and self._silent and not self.is_busy():
            self._say(f"checkpoints can be written again; {self._last_good()}")
        else:
            return
        self._silent = failure is not None

    def _raise_crash(self) -> None:
        if self._crash is not None:
            raise RuntimeError("the thread that writes checkpoints failed") from self._crash

    def _last_good(self) -> str:
        try:
            name = newest_name(self._root)
        except OSError:
            name = None
        return f"the last good one is {name}" if name else "there is none yet"


@dataclass(frozen=True)
class Saving:
    """Checkpoints as all processes see them: the first decides, all of them agree when.

    Attributes:
        saver: Writes; None in a process that writes nothing.
        peers: The other processes.
        device: Where numbers are that processes add up.
        follows: Whether this process writes its part of what another one decides on.
        divided: Whether all processes write.
    """

    saver: Saver | None
    peers: Peers
    device: torch.device
    follows: bool = False
    divided: bool = False

    def consult(self, due: bool, *, stop: bool) -> Order:
        """What all do after an update; the one exchange that asks for stops carries the saves too."""
        if self.follows:
            save, busy = False, self.saver is not None and self.saver.is_busy()
        else:
            save, busy = self.saver is not None and self.saver.due(due), False
        if self.peers.size == 1:
            return Order(save, stop)
        asked = self._total([float(save), float(busy), float(stop)])
        return Order(asked[0] > 0 and not asked[1], asked[2] > 0)

    def save(self, state: TrainingState, *, last: bool) -> None:
        """Take the state; the last time, wait until it is on the disk.

        Other processes wait in short turns, so that none is left alone in an exchange for long.

        Raises:
            InputError: If it is the last time and it could not be written.
        """
        if last or self.divided:
            self._settle()
        if self.saver:
            self.saver.save(take_snapshot(state))
        if last:
            self._settle()
            if self.saver:
                self.saver.require()

    def close(self) -> None:
        """Let what is being written be written."""
        if self.saver:
            self.saver.close()

    def _settle(self) -> None:
        while self._total([float(self.saver is not None and self.saver.wait(TURN_S))])[0] > 0:
            pass

    def _total(self, flags: list[float]) -> list[float]:
        numbers = torch.tensor(flags, dtype=torch.float64, device=self.device)
        return [float(number) for number in self.peers.total(numbers).tolist()]
