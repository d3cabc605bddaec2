"""Copies of remote tars, fetched before they are needed."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from pipeline.data.loader.copies import Copies
from pipeline.data.loader.verified import Verified

_AT_ONCE = 4


class Fetching:
    """Fetches tars in threads of its own."""

    def __init__(self, copies: Copies, verified: Verified) -> None:
        self._copies, self._verified = copies, verified
        self._threads: ThreadPoolExecutor | None = None
        self._expected: dict[str, Future[object]] = {}

    def expect(self, names: Sequence[str]) -> None:
        """Begin to fetch tars; forget those that are no longer named."""
        if self._expected.keys() == set(names):
            return
        for name in self._expected.keys() - set(names):
            self._expected.pop(name).cancel()
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_AT_ONCE, "fetch")
        for name in names:
            if name not in self._expected:
                self._expected[name] = self._threads.submit(self._copies.verified_path, name, self._verified)

    def wait_for(self, name: str) -> None:
        """Until a whole copy is here.

        Raises:
            InputError: If it cannot be fetched, or is not the one that the index was made for.
        """
        if name in self._expected:
            self._expected[name].result()
        else:
            self._copies.verified_path(name, self._verified)

    def close(self) -> None:
        """Fetch nothing more."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None
        self._expected.clear()
