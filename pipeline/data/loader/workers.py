"""Batches made by other processes, in order, in memory that all of them see.

A worker is a fresh Python that imports neither torch nor the program that started it. It is sent tasks
and slot numbers through a socket and fills the slots. It ends when the socket closes, so it outlives
nobody, however this process ends. A request to stop that reaches it too, as from `scancel --full`, it
leaves to this process, which may want some batches more before it saves.
"""

import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol, TypeVar

from pipeline.data.loader.arrays import Arrays, Slots
from pipeline.data.loader.filling import Filler, Memory, Recipe, Task, shared_memory
from pipeline.errors import STOP_SIGNALS

HELD = 3
"""Batches that whoever asks for them may keep before they are copied."""

_PAGE = 4096
_END_S = 5.0
_PROGRAM = """
import sys
sys.path[:] = sys.argv[2:]  # not by PYTHONPATH: a script's neighbours would hide Python's own modules
from pipeline.data.loader.workers import main
main()
"""


class HasTask(Protocol):
    """Something to make a batch of."""

    @property
    def task(self) -> Task:
        """How to make it."""


Plan = TypeVar("Plan", bound=HasTask)


@dataclass(frozen=True)
class _Start:
    """The first thing a worker is sent."""

    recipe: Recipe
    memory: Memory
    slot_bytes: int
    slots: int


def made_by_workers(
    plans: Iterator[Plan], recipe: Recipe, workers: int, ahead: int
) -> Generator[tuple[Plan, Arrays]]:
    """Carry out plans in processes; results come in order.

    Args:
        plans: What to do, without end.
        recipe: What they refer to.
        workers: Number of processes.
        ahead: Batches in the making beside the one that is waited for.

    Raises:
        RuntimeError: If a worker died.
        Exception: What a worker raised.
    """
    slot_bytes = -(-recipe.layout.bytes_for(recipe.rows) // _PAGE) * _PAGE
    count = ahead + 1 + HELD
    with ExitStack() as stack:
        memory = shared_memory(slot_bytes * count)
        stack.callback(os.close, memory.descriptor)
        view = memoryview(memory.open())
        slots = Slots([view[slot * slot_bytes : (slot + 1) * slot_bytes] for slot in range(count)])
        start = _Start(recipe, memory, slot_bytes, count)
        team = [stack.enter_context(_Worker(start)) for _ in range(workers)]
        waiting: deque[tuple[_Worker, int, Plan]] = deque()
        for turn, plan in enumerate(plans):
            slot = slots.take()
            assert slot is not None
            team[turn % workers].send(slot, plan.task)
            waiting.append((team[turn % workers], slot, plan))
            if len(waiting) > ahead:
                worker, slot, done = waiting.popleft()
                worker.await_done()
                yield done, _delivered(slots, recipe, slot)


def _delivered(slots: Slots, recipe: Recipe, slot: int) -> Arrays:
    """The arrays of a slot; a copy of them when batches are kept until no other slot is free."""
    lent = slots.lend(recipe.layout, recipe.rows, slot)
    if slots.any_free():
        return lent
    return recipe.layout.arrays(bytearray(lent.memory), recipe.rows)


class _Worker:
    """This side of a worker."""

    def __init__(self, start: _Start) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            shared = [start.memory.descriptor]
            shared += [kept.memory.descriptor for kept in start.recipe.kept if kept]
            with _deaf():
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _PROGRAM, str(theirs.fileno()), *sys.path],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno(), *shared],
                    start_new_session=True,
                )
        self._pipe: Any = Connection(ours.detach())
        self._pipe.send(start)

    def send(self, slot: int, task: Task) -> None:
        """Have a slot filled.

        Raises:
            RuntimeError: If it died.
        """
        try:
            self._pipe.send((slot, task))
        except OSError:
            raise self._death() from None

    def await_done(self) -> None:
        """Wait until the oldest task is done.

        Raises:
            RuntimeError: If it died.
            Exception: What it raised.
        """
        try:
            error = self._pipe.recv()
        except (EOFError, OSError):
            raise self._death() from None
        if error is not None:
            raise error

    def _death(self) -> RuntimeError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        code = self._process.returncode
        how = f"was ended by {signal.Signals(-code).name}" if code and code < 0 else f"ended with code {code}"
        return RuntimeError(
            f"data worker {self._process.pid} {how}; out of memory? try fewer with train.loading.workers"
        )

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *exception: object) -> None:
        self._pipe.close()
        self._process.kill()
        self._process.wait()


@contextmanager
def _deaf() -> Iterator[None]:
    """Start what will never hear a request to stop, from its first moment on: masks are inherited."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def main() -> None:
    """What a worker does until nobody sends any more."""
    pipe: Any = Connection(int(sys.argv[1]))
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        start: _Start = pipe.recv()
        view = memoryview(start.memory.open())
        size, recipe = start.slot_bytes, start.recipe
        slots = [
            recipe.layout.arrays(view[slot * size : (slot + 1) * size], recipe.rows)
            for slot in range(start.slots)
        ]
        filler = Filler(recipe)
        while True:
            slot, task = pipe.recv()
            pipe.send(_attempt(filler, task, slots[slot]))


def _attempt(filler: Filler, task: Task, arrays: Arrays) -> Exception | None:
    try:
        filler.fill(task, arrays)
    except Exception as error:  # noqa: BLE001 (raised again by whoever waits)
        return error
    return None
