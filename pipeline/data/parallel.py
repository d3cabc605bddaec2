"""The same function over many items, in several processes, results in order.

Whatever the number of processes, results are the same. Workers are forked from a small server that
has imported nothing but what it needs, ignore Ctrl-C, and end when this process does, however it ends.
"""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_IN_FLIGHT = 2
_JOIN_S = 5.0


def processor_count() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
    started: list[tuple[ForkServerProcess, Connection]] = []
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, function), daemon=True)
            process.start()
            theirs.close()
            started.append((process, ours))
        yield from _gather([pipe for _, pipe in started], items)
    finally:
        for process, pipe in started:
            pipe.close()
            process.terminate()
        for process, _ in started:
            process.join(_JOIN_S)


def _gather(pipes: list[Connection], items: Sequence[Any]) -> Iterator[Any]:
    """Item i goes to worker i modulo their number; results come back in the same turn."""
    waiting: deque[Connection] = deque()
    for number, item in enumerate(items):
        pipe = pipes[number % len(pipes)]
        if len(waiting) == _IN_FLIGHT * len(pipes):
            yield _receive(waiting.popleft())
        _send(pipe, item)
        waiting.append(pipe)
    while waiting:
        yield _receive(waiting.popleft())


def _send(pipe: Connection, item: Any) -> None:
    try:
        pipe.send(item)
    except OSError as error:
        raise RuntimeError("a data worker died; was it killed, or out of memory?") from error


def _receive(pipe: Connection) -> Any:
    try:
        succeeded, value = pipe.recv()
    except (EOFError, OSError) as error:
        raise RuntimeError("a data worker died; was it killed, or out of memory?") from error
    if not succeeded:
        raise value
    return value


def _work(pipe: Connection, function: Callable[[Any], Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            item = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer: tuple[bool, Any] = (True, function(item))
        except Exception as error:  # noqa: BLE001 (raised again by the parent)
            answer = (False, error)
        try:
            pipe.send(answer)
        except OSError:
            return
