"""A stage's work in parts: each process makes every so-manieth of them, and all find the results as files.

What a part holds is a function of its number alone, never of how many processes there are, and results are
read in the order of the numbers. So the result of a stage does not depend on the number of processes, and an
interrupted stage goes on with the parts that are there. Nobody waits in a collective: who needs a part looks
whether it is there.

Part n of a task is `.parts/<task>-<8 hex digits>/<n>.part` in the directory the stage works in: arrays in
NumPy's npz format, then the SHA-256 of that. The digits name how the task is cut, so a part of another cut is
never taken for one of this.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path

import numpy as np
import torch

from pipeline.durable import write_bytes
from pipeline.errors import Overtaken, PeerFailed
from pipeline.models.prior import LatentPrior, prior_of, prior_tensors
from pipeline.orchestration.ledger import PARTS, RECORD
from pipeline.orchestration.stage import Context

Result = Mapping[str, np.ndarray]
"""What a part is: named arrays."""

SUFFIX = ".part"
DIGEST_BYTES = 32

SHORTEST_LOOK_S, LONGEST_LOOK_S = 0.02, 1.0
"""Between two looks at what the other processes have finished; a wait begins with the shortest."""

UNSEEN_S = 60.0
"""As long NFS may go on saying that a directory is not there, unless it is told otherwise when mounted."""

GRACE_S = 30.0
"""How long another process's failure must stand before we end: the launcher ends us sooner, and a process
that it started once more needs a moment to say that it runs."""


@dataclass(frozen=True)
class Task:
    """Work that is divided into parts, the same whatever the number of processes.

    Attributes:
        name: What it is called, on the screen and on the disk.
        sizes: How much there is to do in each part.
        make: Makes the part of a number.
        unit: What sizes count.
    """

    name: str
    sizes: Sequence[int]
    make: Callable[[int], Result]
    unit: str = "parts"

    @cached_property
    def folder(self) -> str:
        """Name of the directory that its parts are in."""
        cut = hashlib.sha256(json.dumps([int(size) for size in self.sizes]).encode()).hexdigest()
        return f"{self.name.replace(' ', '-')}-{cut[:8]}"


class Shares:
    """This process's share of a stage's work, and the way to everybody's results.

    Every process makes the same tasks in the same order. Whoever reads results waits for those that are
    not there yet. Whatever is in the stage's directory beside parts the first process writes, alone.
    """

    def __init__(self, context: Context, keep: Sequence[str] = ()) -> None:
        """Begin, or go on.

        Args:
            context: Of the stage.
            keep: What else of an interrupted attempt is of use; the rest is made again.
        """
        self._context = context
        self._directory = context.directory / PARTS
        self._dealt = 0
        self._shown = 0
        if context.world.is_main:
            _clear(context.directory, {PARTS, RECORD, *keep})

    def make(self, task: Task) -> None:
        """Make those of this process's parts that are not there yet.

        Dealing goes on where the task before ended, so that short tasks are not all made by the first.

        Raises:
            Overtaken: If the stage is over: all its parts were there when it began.
        """
        world, first = self._context.world, self._dealt
        self._dealt += len(task.sizes)
        place = self._place(task)
        own = [n for n in range(len(task.sizes)) if (first + n) % world.size == world.rank]
        finished = _finished(place)
        missing = [n for n in own if n not in finished or _read(place, n) is None]
        if not missing:
            return
        self._start(task, finished.difference(missing))
        for number in missing:
            _write(place, number, task.make(number))
            self._show(task, _finished(place))
        self._context.progress.finish()

    def results(self, task: Task) -> Iterator[Result]:
        """The parts of a task in order, each as soon as it and all before it are there.

        Raises:
            Overtaken: If the stage is over meanwhile.
            PeerFailed: If a process that should make one of them has failed.
        """
        place = self._directory / task.folder
        finished: set[int] = set()
        for number in range(len(task.sizes)):
            if number not in finished:
                finished = self._await(task, number)
            found = _read(place, number)
            if found is None and self._is_over():
                raise Overtaken
            yield task.make(number) if found is None else found  # unreadable: whose turn it was may have left

    def once(self, name: str, make: Callable[[], Result]) -> Task:
        """Something that one process makes for all of them: a task of one part."""
        task = Task(name, (1,), lambda _: make(), unit="")
        self.make(task)
        return task

    def only(self, task: Task) -> Result:
        """The result of a task of one part."""
        return next(self.results(task))

    def advance(self, count: int = 1, note: str = "") -> None:
        """Say that so much of the part that is being made is done."""
        self._shown += count
        self._context.progress.advance(count, note)

    def _place(self, task: Task) -> Path:
        """The directory of a task's parts, made by everyone.

        A name once looked for in vain stays unseen for a while on network file systems, and so may the
        stage's own directory, which the first process made a moment ago.

        Raises:
            FileNotFoundError: If the stage's directory is lost.
            Overtaken: If the stage is over.
        """
        place, until_s = self._directory / task.folder, time.monotonic() + UNSEEN_S
        while True:
            if self._is_over():
                raise Overtaken
            try:
                self._directory.mkdir(exist_ok=True)
                place.mkdir(exist_ok=True)
            except FileNotFoundError:
                if self._context.world.is_main or time.monotonic() > until_s:
                    raise
                time.sleep(SHORTEST_LOOK_S)
            else:
                return place

    def _await(self, task: Task, number: int) -> set[int]:
        """Wait for a part; the numbers of all that are there.

        Raises:
            Overtaken: If the stage is over meanwhile.
            PeerFailed: If another process has failed.
        """
        finished = _finished(self._directory / task.folder)
        if number in finished:
            return finished
        self._start(task, finished)
        pause_s, failed_s = SHORTEST_LOOK_S, 0.0
        while number not in finished:
            if self._is_over():
                raise Overtaken
            failure = self._context.peer_failure()
            if failure is not None and failed_s >= GRACE_S:
                raise PeerFailed(failure)
            time.sleep(pause_s)
            failed_s = 0.0 if failure is None else failed_s + pause_s
            pause_s = min(2.0 * pause_s, LONGEST_LOOK_S)
            finished = _finished(self._directory / task.folder)
            self._show(task, finished)
        self._context.progress.finish()
        return finished

    def _start(self, task: Task, finished: set[int]) -> None:
        self._shown = _amount(task, finished)
        self._context.progress.start(task.name, sum(task.sizes), task.unit, self._shown)

    def _show(self, task: Task, finished: set[int]) -> None:
        """Let a person see what all processes together have done."""
        more = _amount(task, finished) - self._shown
        self._context.progress.advance(max(0, more))
        self._shown += max(0, more)

    def _is_over(self) -> bool:
        """Whether the first process has everything and needs us no more."""
        return not self._context.world.is_main and self._context.is_over()


def cut(length: int, size: int) -> list[slice]:
    """Neighbouring parts of so many rows, each of `size` but for the last."""
    return [slice(first, min(first + size, length)) for first in range(0, length, size)]


def sizes(parts: Sequence[slice]) -> list[int]:
    """How many rows each part has."""
    return [part.stop - part.start for part in parts]


def shared_prior(shares: Shares, fit: Callable[[], LatentPrior]) -> LatentPrior:
    """A latent prior that one process fits, for all of them."""

    def arrays() -> Result:
        return {name: tensor.numpy(force=True) for name, tensor in prior_tensors(fit()).items()}

    found = shares.only(shares.once("prior", arrays))
    return prior_of({name: torch.from_numpy(array) for name, array in found.items()})


def _clear(directory: Path, kept: Collection[str]) -> None:
    for path in directory.iterdir():
        if path.name in kept:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _amount(task: Task, finished: set[int]) -> int:
    return sum(task.sizes[number] for number in finished if number < len(task.sizes))


def _finished(place: Path) -> set[int]:
    """The parts that are there, by a listing (which network file systems keep fresh)."""
    try:
        paths = [path for path in place.iterdir() if path.suffix == SUFFIX]
    except FileNotFoundError:  # the stage is over
        return set()
    return {int(path.stem) for path in paths if path.stem.isdecimal()}


def _write(place: Path, number: int, result: Result) -> None:
    buffer = BytesIO()
    np.savez(buffer, **{name: np.asarray(array) for name, array in result.items()})  # type: ignore[arg-type]
    content = buffer.getvalue()
    write_bytes(place / f"{number:06d}{SUFFIX}", content + hashlib.sha256(content).digest())


def _read(place: Path, number: int) -> Result | None:
    """A part; None if it is not there, or not whole."""
    try:
        stored = (place / f"{number:06d}{SUFFIX}").read_bytes()
    except OSError:
        return None
    content, digest = stored[:-DIGEST_BYTES], stored[-DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        return None
    with np.load(BytesIO(content), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}
