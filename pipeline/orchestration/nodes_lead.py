"""The lead's side of several machines: who is there, who stops, who is lost."""

import hashlib
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.config import Config
from pipeline.errors import Interrupted
from pipeline.orchestration.nodes import Meeting, Nodes, address_towards
from pipeline.orchestration.nodes_board import (
    BEAT_S,
    Board,
    Call,
    LeadNotice,
    NodeNotice,
    Pulse,
)
from pipeline.orchestration.nodes_greeting import Greeting, answering
from pipeline.orchestration.processes import FAILED_ELSEWHERE, STOPPED, Interruption, Verdict, say
from pipeline.orchestration.stage import StageName

POLL_S = 0.25
LAST_WORDS_S = 10.0
"""How long the lead's processes go on when those of another machine failed: to say why they fail too."""


class MachineMissing(Exception):  # noqa: N818 (said as a fact)
    """Machines did not come, or did not come back.

    Attributes:
        names: Of the missing.
        present: How many are there, the lead included.
        waited_s: How long they were waited for.
    """

    def __init__(self, names: list[str], present: int, waited_s: int) -> None:
        super().__init__(", ".join(names))
        self.names = names
        self.present = present
        self.waited_s = waited_s


def digest_of(config: Config) -> str:
    """What machines compare, to be sure that they were given the same config."""
    return hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:16]


class Lead:
    """Writes the lead's notice every second and reads those of the others, while a block lasts.

    Args:
        nodes: The machines.
        run_directory: `<root>/<name>`.
        config: The run's.
        processes: On every machine.
        interruption: Whether this machine was asked to stop.
    """

    def __init__(
        self, nodes: Nodes, run_directory: Path, config: Config, processes: int, interruption: Interruption
    ) -> None:
        self.nodes = nodes
        self._run, self._digest, self._processes = config.name, digest_of(config), processes
        self._interruption = interruption
        self._board, self._pulse = Board(run_directory), Pulse()
        self._notice = LeadNotice(uuid.uuid4().hex, socket.gethostname())
        self._present: list[NodeNotice] = []
        self._names: dict[str, str] = {}
        self._joined: Call | None = None
        self._lost = ""
        self._failed_s: float | None = None
        self._lock, self._done = threading.Lock(), threading.Event()
        self._beating = threading.Thread(target=self._beat, name="lead", daemon=True)

    def __enter__(self) -> "Lead":
        self._board.clear()
        self._beating.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        stopped = kind is not None and issubclass(kind, Interrupted | KeyboardInterrupt)
        code = 0 if kind is None else STOPPED if stopped else 1
        self._done.set()
        self._beating.join()
        self._change(state="ended", exit_code=code, call=None)

    def gather(self) -> None:
        """Wait for all machines at the start.

        Raises:
            InputError: If the port is taken.
            Interrupted: If one of them was asked to stop.
            MachineMissing: If not all of them came in time.
        """
        with answering(self.nodes.port, Greeting(self._notice.id, self._run)):
            self.assemble(self.nodes.start_timeout_s)

    def assemble(self, timeout_s: int) -> list[NodeNotice]:
        """Wait until enough machines are there and at leisure.

        Returns:
            Those to call.

        Raises:
            Interrupted: If one of them was asked to stop.
            MachineMissing: If that takes too long.
        """
        wanted, started_s, announced = self.nodes.count - 1, time.monotonic(), False
        while True:
            if self._interruption.requested or self._asked_to_stop():
                raise Interrupted
            ready = [node for node in self._present if not node.busy]
            if len(ready) >= wanted:
                return ready[:wanted]
            waited_s = time.monotonic() - started_s
            if waited_s > timeout_s:
                raise MachineMissing(self._missing(ready), 1 + len(ready), timeout_s)
            if not announced and waited_s > 3 * BEAT_S:
                say(f"waiting for {', '.join(self._missing(ready))}, {timeout_s} s at most")
                announced = True
            time.sleep(POLL_S)

    @contextmanager
    def calling(
        self, stage: StageName, attempt: int, threads: int, max_restarts: int, members: list[NodeNotice]
    ) -> Iterator[Meeting]:
        """Call machines to join a stage, for the duration of the block."""
        meeting = f"{self.nodes.run_id}-{stage}-{attempt}"
        ids = tuple(node.id for node in members)
        call = Call(stage, meeting, self._processes, threads, max_restarts, ids)
        self._lost, self._failed_s, self._joined = "", None, call
        self._change(call=call)
        address = address_towards(members[0].address, self.nodes.port)
        try:
            yield Meeting(
                self.nodes.count,
                meeting,
                self.nodes.endpoint,
                True,
                address,
                self.nodes.return_timeout_s,
            )
        finally:
            self._change(call=None)

    def watch(self) -> Verdict | None:
        """What the other machines mean for the lead's own processes: stop them, kill them, or nothing."""
        if self._asked_to_stop():
            return "stop"
        call = self._notice.call
        if call is None:
            return None
        self._lost = self._first_gone(call)
        if self._ended_badly(call):
            self._failed_s = self._failed_s or time.monotonic()
        past = self._failed_s is not None and time.monotonic() - self._failed_s > LAST_WORDS_S
        return "kill" if self._lost or past else None

    def lost_member(self) -> str:
        """After a stage failed: the name of a machine that was lost with it; empty if all live."""
        ended_s, call = time.monotonic(), self._joined
        while call and not self._lost and not self._interruption.requested:
            self._lost = self._first_gone(call)
            last_seen_s = time.monotonic() - max(self._pulse.age_s(id) for id in call.members)
            heard = last_seen_s > ended_s + 2 * BEAT_S  # an earlier beat may be read a beat late
            if heard and (not self._busy(call) or time.monotonic() > ended_s + LAST_WORDS_S):
                break
            time.sleep(POLL_S)
        return self._lost

    def failed_member(self) -> str:
        """The name of a machine on which the last stage failed of itself, and how; empty if on none."""
        failed = self._failed()
        return f"{failed.name} (exit code {failed.exit_code})" if failed else ""

    def failed_code(self) -> int:
        """With what exit code of its own the last stage failed on another machine; 0 if on none."""
        failed = self._failed()
        return max(0, failed.exit_code) if failed else 0

    def _failed(self) -> NodeNotice | None:
        ended = self._ended_badly(self._joined) if self._joined else []
        return next((node for node in ended if node.exit_code != FAILED_ELSEWHERE), None)

    def _asked_to_stop(self) -> bool:
        return any(node.stops for node in self._present)

    def _first_gone(self, call: Call) -> str:
        here = {node.id for node in self._present}
        return next((self._names[id] for id in call.members if id not in here), "")

    def _busy(self, call: Call) -> bool:
        """Whether processes of another machine are still at it: they may be about to say why they failed."""
        return any(node.busy == call.meeting for node in self._present)

    def _ended_badly(self, call: Call) -> list[NodeNotice]:
        ended = [node for node in self._present if node.ended == call.meeting]
        return [node for node in ended if node.exit_code not in (0, STOPPED)]

    def _missing(self, ready: list[NodeNotice]) -> list[str]:
        """Machines that are not ready, by the best name there is."""
        here = {node.slot for node in ready}
        number = self.nodes.count - 1 - len(ready)
        ranks = {f"node-{rank}": f"node {rank}" for rank in range(1, self.nodes.count)}
        if here <= ranks.keys():
            expected = ranks | {slot: name for slot, name in self._names.items() if slot in ranks}
        else:
            expected = {slot: name for slot, name in self._names.items() if "." in slot}
        absent = [name for slot, name in expected.items() if slot not in here]
        return absent[:number] or [f"{number} of {self.nodes.count} machines"]

    def _change(self, **values: Any) -> None:
        with self._lock:
            self._notice = replace(self._notice, beat=self._notice.beat + 1, **values)
            self._board.post_lead(self._notice)

    def _beat(self) -> None:
        while not self._done.is_set():
            self._look_around()
            self._change(state="stops" if self._interruption.requested else "works")
            self._done.wait(BEAT_S)

    def _look_around(self) -> None:
        here, refused = [], {}
        for node in self._board.nodes():
            self._pulse.feel(node.id, node.beat)
            if node.lead != self._notice.id or self._pulse.age_s(node.id) > self.nodes.lost_after_s:
                continue
            if reason := self._unfit(node):
                refused[node.id] = reason
                continue
            here.append(node)
            self._names[node.id] = self._names[node.slot] = node.name
        self._present = here
        if refused != self._notice.refused:
            for id in refused.keys() - self._notice.refused.keys():
                say(f"another machine cannot take part: {refused[id]}")
            self._change(refused=refused)

    def _unfit(self, node: NodeNotice) -> str:
        if node.config != self._digest:
            return f"{node.name} was given another config than the lead; give both the same file and --set"
        if node.processes != self._processes:
            return (
                f"{node.name} would start {node.processes} processes and the lead {self._processes}; "
                "give both the same --nproc or NPROC_PER_NODE"
            )
        return ""
