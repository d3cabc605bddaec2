"""What machines tell each other: small files in the run's directory, each with one writer.

The lead writes `.nodes/lead.json`, every other machine a file of its own. A file is replaced every second
with a higher number, so that a reader sees whether its writer lives without comparing clocks.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from pipeline.orchestration.stage import StageName

DIRECTORY = ".nodes"
LEAD = "lead.json"

BEAT_S = 1.0

LookState = Literal["works", "stops", "ended"]


@dataclass(frozen=True)
class Call:
    """A stage that the lead calls the others to.

    Attributes:
        stage: Which.
        meeting: Id of the rendezvous.
        processes: On every machine.
        threads: Of every process.
        max_restarts: How often processes are started again.
        members: Ids of the machines that are meant.
    """

    stage: StageName
    meeting: str
    processes: int
    threads: int
    max_restarts: int
    members: tuple[str, ...]


@dataclass(frozen=True)
class LeadNotice:
    """What the lead says.

    Attributes:
        id: Of this start of its command.
        host: Its name.
        beat: Rises.
        state: `stops` asks everybody to save and stop; `ended` says that `exit_code` is the run's.
        exit_code: How the run ended.
        call: What is to be joined now.
        refused: Ids of machines that cannot take part, and why.
    """

    id: str
    host: str
    beat: int = 0
    state: LookState = "works"
    exit_code: int = 0
    call: Call | None = None
    refused: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class NodeNotice:
    """What a machine that follows says.

    Attributes:
        id: Of this start of its command.
        slot: What the file is called.
        name: For people.
        address: Where others reach it.
        processes: How many it would start.
        config: Digest of the config it was given.
        lead: Id of the lead that it follows.
        beat: Rises.
        busy: Id of the meeting that it is in.
        ended: Id of the meeting that it was in last.
        exit_code: How that ended here.
        stops: Whether it was asked to stop.
    """

    id: str
    slot: str
    name: str
    address: str
    processes: int
    config: str
    lead: str = ""
    beat: int = 0
    busy: str = ""
    ended: str = ""
    exit_code: int = 0
    stops: bool = False


_LEAD = TypeAdapter(LeadNotice)
_NODE = TypeAdapter(NodeNotice)
Notice = TypeVar("Notice")


class Board:
    """The directory of notices of one run.

    Args:
        run_directory: `<root>/<name>`.
    """

    def __init__(self, run_directory: Path) -> None:
        self.directory = run_directory / DIRECTORY

    def clear(self) -> None:
        """Forget what earlier starts left; who lives writes again within a second."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for path in self.directory.iterdir():
            path.unlink(missing_ok=True)

    def post_lead(self, notice: LeadNotice) -> None:
        """Replace the lead's notice."""
        self._post(LEAD, asdict(notice))

    def post_node(self, notice: NodeNotice) -> None:
        """Replace a machine's notice."""
        self._post(f"{notice.slot}.json", asdict(notice))

    def take_slot(self, mine: NodeNotice, lead: str) -> str:
        """Make a slot this machine's own under a lead. Only one machine can, however many try at once.

        Who comes first creates a file named after the lead; who finds it dead one named after the dead.

        Returns:
            The name of the machine that has it and lives; empty once it is ours.
        """
        after = lead
        while (holder := self._claim(mine.slot, after, mine.id)) != mine.id:
            before = self.node(mine.slot)
            time.sleep(2.5 * BEAT_S)
            now = self.node(mine.slot)
            holder = holder or self._claim(mine.slot, after, mine.id)  # it was just being written
            if now and now.id == holder and now != before:
                return now.name
            after = holder or "nobody"
        return ""

    def is_succeeded(self, mine: NodeNotice) -> bool:
        """Whether another machine took us for dead, and our slot."""
        return _claim_name(mine.slot, mine.id) in self._names()

    def _claim(self, slot: str, after: str, id: str) -> str:
        path = self.directory / _claim_name(slot, after)
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(id)
        except FileExistsError:
            return path.read_text(encoding="utf-8")
        return id

    def remove_node(self, slot: str) -> None:
        """Take a machine's notice away."""
        with contextlib.suppress(OSError):
            (self.directory / f"{slot}.json").unlink()

    def lead(self) -> LeadNotice | None:
        """The lead's notice, if there is one."""
        self._names()
        return _read(self.directory / LEAD, _LEAD.validate_json)

    def node(self, slot: str) -> NodeNotice | None:
        """A machine's notice, if there is one."""
        self._names()
        return _read(self.directory / f"{slot}.json", _NODE.validate_json)

    def nodes(self) -> list[NodeNotice]:
        """Those of all machines."""
        names = [name for name in self._names() if name.endswith(".json") and name[0] != "." and name != LEAD]
        found = [_read(self.directory / name, _NODE.validate_json) for name in sorted(names)]
        return [notice for notice in found if notice is not None]

    def _names(self) -> list[str]:
        """Listing makes a network file system look afresh at what it remembered."""
        try:
            return os.listdir(self.directory)  # noqa: PTH208 (names only, a hundred times a minute)
        except OSError:
            return []

    def _post(self, name: str, values: dict[str, Any]) -> None:
        temporary = self.directory / f".{name}.{os.getpid()}.tmp"
        with contextlib.suppress(OSError):  # a full disk is for the stage itself to meet
            self.directory.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(values), encoding="utf-8")
            temporary.replace(self.directory / name)


class Pulse:
    """When writers were last seen alive, by the clock of the reader."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}

    def feel(self, id: str, beat: int) -> None:
        """Take note of a notice."""
        known = self._seen.get(id)
        if known is None:
            self._seen[id] = (beat, float("-inf"))  # it may be long dead
        elif known[0] != beat:
            self._seen[id] = (beat, time.monotonic())

    def met(self, id: str, beat: int) -> None:
        """Take note of one that lives for certain."""
        self._seen[id] = (beat, time.monotonic())

    def age_s(self, id: str) -> float:
        """Seconds since it was seen alive; infinite if it never was."""
        _, seen_s = self._seen.get(id, (0, float("-inf")))
        return time.monotonic() - seen_s


def _claim_name(slot: str, after: str) -> str:
    return f"{slot}.{after}.claim"


def _read(path: Path, parse: Callable[[bytes], Notice]) -> Notice | None:
    try:
        return parse(path.read_bytes())
    except (OSError, ValidationError):
        return None
