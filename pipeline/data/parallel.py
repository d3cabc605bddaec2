"""The same function over many items, in several processes, results in order.

Whatever the number of processes, results are the same. Workers are forked from a small server that
has imported nothing but what it needs, leave requests to stop to this process, and end when it does,
however it ends.
Results are handed over in unlinked temporary files and only announced through pipes: a pipe that
fills makes both sides wait for each other many times per result.
"""

import contextlib
import ctypes
import multiprocessing
import os
import pickle
import signal
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import FileIO
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import STOP_SIGNALS

Item = TypeVar("Item")
Result = TypeVar("Result")

IN_FLIGHT = 4
"""Items a worker holds: one in work, the others waiting for it or done."""

KEPT_BYTES = 64 << 20
"""Freed memory that a process keeps for what it needs next."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 << 20

_JOIN_S = 5.0
_DIED = "a data worker died; was it killed, or out of memory?"


def processor_count() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Let this process keep the memory of one sample's pictures for those of the next.

    By default glibc gives it back after each, and the kernel has to clear every page anew: a fifth of the
    time of decoding, scaling and encoding a sample. Other C libraries are left as they are.
    """
    with contextlib.suppress(AttributeError, OSError):
        allocator = ctypes.CDLL(None)
        allocator.mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        allocator.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)


def ordered_map(function: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    """Apply a function to every item, in order.

    Args:
        function: Importable by name, or a frozen dataclass with `__call__`.
        items: What to apply it to; an item should be worth at least some milliseconds.
        workers: Processes; 0 takes one per processor. With 1, or few items, no process is started.

    Raises:
        RuntimeError: If a worker died.
        Exception: What the function raised.
    """
    count = min(workers or processor_count(), len(items))
    if count <= 1:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__])
    processes: list[ForkServerProcess] = []
    with ExitStack() as open_files:
        try:
            workers_ready = []
            with tempfile.TemporaryDirectory() as directory:
                for number in range(count):
                    slots = [Path(directory) / f"{number}-{slot}" for slot in range(IN_FLIGHT)]
                    files = [open_files.enter_context(slot.open("w+b", buffering=0)) for slot in slots]
                    ours, theirs = context.Pipe()
                    open_files.callback(ours.close)
                    process = context.Process(target=_work, args=(theirs, function, slots), daemon=True)
                    process.start()
                    processes.append(process)
                    theirs.close()
                    workers_ready.append(_Worker(ours, files))
                for worker in workers_ready:
                    worker.await_start()
            yield from _gather(workers_ready, items)
        finally:
            for process in processes:
                process.kill()
    for process in processes:
        process.join(_JOIN_S)


@dataclass
class _Worker:
    """This side of a worker: where to send items, and where it leaves results.

    Attributes:
        pipe: Items go out, and word that one is done comes in.
        slots: Files it opened; the result of its item number i is in the one numbered i modulo their number.
        taken: Results taken so far.
    """

    pipe: Connection
    slots: list[FileIO]
    taken: int = 0

    def await_start(self) -> None:
        """Wait until its files are open."""
        self._receive()

    def send(self, item: Any) -> None:
        """Give it an item.

        Raises:
            RuntimeError: If it died.
        """
        try:
            self.pipe.send(item)
        except OSError as error:
            raise RuntimeError(_DIED) from error

    def take(self) -> Any:
        """The result of the oldest item that was sent and not taken."""
        succeeded, size = self._receive()
        slot = self.slots[self.taken % len(self.slots)]
        self.taken += 1
        value = pickle.loads(os.pread(slot.fileno(), size, 0))
        if not succeeded:
            raise value
        return value

    def _receive(self) -> Any:
        try:
            return self.pipe.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError(_DIED) from error


def _gather(workers: list[_Worker], items: Sequence[Any]) -> Iterator[Any]:
    """Item i goes to worker i modulo their number; results come back in the same turn."""
    waiting: deque[_Worker] = deque()
    for number, item in enumerate(items):
        if len(waiting) == IN_FLIGHT * len(workers):
            yield waiting.popleft().take()
        worker = workers[number % len(workers)]
        worker.send(item)
        waiting.append(worker)
    while waiting:
        yield waiting.popleft().take()


def _work(pipe: Connection, function: Callable[[Any], Any], slots: list[Path]) -> None:
    """What a worker does until nobody sends any more."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    keep_freed_memory()
    with ExitStack() as open_files:
        files = [open_files.enter_context(slot.open("r+b", buffering=0)) for slot in slots]
        done = 0
        try:
            pipe.send(True)
            while True:
                item = pipe.recv()
                succeeded, value = _attempt(function, item)
                slot = files[done % len(files)]
                done += 1
                slot.seek(0)
                size = slot.write(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))
                pipe.send((succeeded, size))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return


def _attempt(function: Callable[[Any], Any], item: Any) -> tuple[bool, Any]:
    try:
        return True, function(item)
    except Exception as error:  # noqa: BLE001 (raised again by the parent)
        return False, error
