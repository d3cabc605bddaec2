"""Work ahead of whoever consumes it."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Generic, TypeVar

Item = TypeVar("Item")

_LOOK_AROUND_S = 0.1


@dataclass(frozen=True)
class _Ready(Generic[Item]):
    item: Item


@dataclass(frozen=True)
class _Ended:
    error: BaseException | None


def prefetched(items: Iterator[Item], ahead: int) -> Generator[Item]:
    """The same items, made by a thread that stays up to `ahead` items ahead.

    What goes wrong in the thread is raised here. Closing this generator ends the thread.

    Raises:
        BaseException: Whatever `items` raised.
    """
    ready: Queue[_Ready[Item] | _Ended] = Queue(ahead)
    unwanted = Event()
    thread = Thread(target=_fill, args=(items, ready, unwanted), name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            match ready.get():
                case _Ready(item):
                    yield item
                case _Ended(error):
                    if error is not None:
                        raise error
                    return
    finally:
        unwanted.set()
        while True:
            try:
                ready.get_nowait()
            except Empty:
                break
        thread.join()


def _fill(items: Iterator[Item], ready: Queue[_Ready[Item] | _Ended], unwanted: Event) -> None:
    error: BaseException | None = None
    try:
        for item in items:
            if not _put(ready, _Ready(item), unwanted):
                return
    except BaseException as raised:  # noqa: BLE001 (raised again by the consumer)
        error = raised
    _put(ready, _Ended(error), unwanted)


def _put(ready: Queue[_Ready[Item] | _Ended], entry: _Ready[Item] | _Ended, unwanted: Event) -> bool:
    while not unwanted.is_set():
        try:
            ready.put(entry, timeout=_LOOK_AROUND_S)
        except Full:
            continue
        return True
    return False
