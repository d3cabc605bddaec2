"""A machine that follows: joins the stages that the lead calls it to, and ends with the run."""

import os
import re
import socket
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.config import Config
from pipeline.errors import InputError, Interrupted, command_name
from pipeline.orchestration.job import read_job, relocated, write_job
from pipeline.orchestration.nodes import Meeting, Nodes, address_towards
from pipeline.orchestration.nodes_board import (
    BEAT_S,
    Board,
    Call,
    LeadNotice,
    NodeNotice,
    Pulse,
)
from pipeline.orchestration.nodes_greeting import Greeting, greet
from pipeline.orchestration.nodes_lead import digest_of
from pipeline.orchestration.processes import (
    STOPPED,
    Interruption,
    Verdict,
    say,
    worker_command,
    worker_environment,
)

POLL_S = 0.5
LAST_WORDS_S = 15.0
"""How long processes go on after the lead's have ended."""

JOB = ".job.json"


class RunFailed(Exception):  # noqa: N818 (said as a fact)
    """The run that this machine followed failed, or nobody leads it any more."""


def follow(config: Config, root: Path, nodes: Nodes, worker: str, processes: int) -> None:
    """Take part in a run until its lead says that it ended.

    Args:
        config: The run's.
        root: The directory of all runs; the lead's own, on a file system that both share.
        nodes: The machines.
        worker: Module that does one job in a process.
        processes: To start here for a stage.

    Raises:
        InputError: If no lead can be found, or it cannot use this machine.
        Interrupted: If this machine or another was asked to stop.
        RunFailed: If the run failed or its lead was lost.
    """
    with Interruption() as interruption:
        follower = _Follower(config, root, nodes, worker, processes, interruption)
        try:
            follower.find_lead()
            follower.work()
        finally:
            follower.leave()


class _Follower:
    def __init__(
        self,
        config: Config,
        root: Path,
        nodes: Nodes,
        worker: str,
        processes: int,
        interruption: Interruption,
    ) -> None:
        self._root, self._directory, self._run = root, root / config.name, config.name
        self._nodes, self._worker, self._interruption = nodes, worker, interruption
        self._board, self._pulse = Board(self._directory), Pulse()
        self._mine = _introduction(nodes, _address(nodes, interruption), processes, digest_of(config))
        self._lead: LeadNotice | None = None
        self._succeeded = False
        self._beaten_s = 0.0
        self._last_call: tuple[str, str] = ("", "")
        self._dismissed_s: float | None = None

    def find_lead(self) -> None:
        """Wait for a lead that lives.

        Raises:
            InputError: If it is not on the same disk, or leads another run.
            Interrupted: If asked to stop meanwhile.
            RunFailed: If there is none in time.
        """
        started_s, answered_s = time.monotonic(), float("inf")
        while self._lead is None:
            if self._interruption.requested:
                raise Interrupted
            greeting = greet(self._nodes.host, self._nodes.port)
            answered_s = min(answered_s, time.monotonic()) if greeting else float("inf")
            self._adopt(self._board.lead(), self._checked(greeting))
            if self._lead is None:
                self._give_up(time.monotonic() - started_s, time.monotonic() - answered_s)
                time.sleep(POLL_S)
        say(f"{self._mine.name} follows {self._lead.host} ({self._nodes.endpoint})")

    def work(self) -> None:
        """Join what the lead calls to, until the run has ended.

        Raises:
            InputError: If the lead cannot use this machine.
            Interrupted: If the run was stopped.
            RunFailed: If it failed, or the lead was lost.
        """
        while True:
            lead = self._look()
            if reason := lead.refused.get(self._mine.id):
                raise InputError(reason)
            if lead.state == "ended":
                self._end(lead)
                return
            call = lead.call
            if call and lead.state == "works" and self._mine.id in call.members:
                if (lead.id, call.meeting) != self._last_call and not self._interruption.requested:
                    self._join(lead, call)
            time.sleep(POLL_S)

    def leave(self) -> None:
        """Take the notice away."""
        held = self._board.node(self._mine.slot)
        if held and held.id == self._mine.id:
            self._board.remove_node(self._mine.slot)

    def _join(self, lead: LeadNotice, call: Call) -> None:
        """Start this machine's processes of a stage, and wait for them."""
        own = self._directory / f".job.{self._mine.slot}.json"
        try:
            job = read_job(self._directory / JOB)
        except OSError:
            return  # over before it began here, or not yet shown by a network file system
        if job.record.stage != call.stage:
            return
        write_job(own, relocated(job, self._root))
        self._last_call, self._dismissed_s = (lead.id, call.meeting), None
        say(
            f"{call.stage}: joining with {call.processes} {'process' if call.processes == 1 else 'processes'}"
        )
        self._say(busy=call.meeting)
        nodes, address = self._nodes, self._mine.address
        meeting = Meeting(nodes.count, call.meeting, nodes.endpoint, False, address, nodes.return_timeout_s)
        command = worker_command(self._worker, own, call.processes, call.max_restarts, meeting)
        code = self._interruption.run(command, worker_environment(call.threads, address), self._watch)
        own.unlink(missing_ok=True)
        self._say(busy="", ended=call.meeting, exit_code=code)

    def _watch(self) -> Verdict | None:
        """What the lead's notice means for the processes here."""
        lead = self._look(patient=False)
        if self._succeeded:
            return "kill"
        if lead.id != self._last_call[0] or self._pulse.age_s(lead.id) > self._nodes.lead_lost_after_s:
            return "kill"
        if lead.call is None or lead.call.meeting != self._last_call[1]:
            self._dismissed_s = self._dismissed_s or time.monotonic()
            if time.monotonic() - self._dismissed_s > LAST_WORDS_S:
                return "kill"
        return "stop" if lead.state == "stops" else None

    def _look(self, *, patient: bool = True) -> LeadNotice:
        """Show that we live, and see what the lead says.

        Raises:
            InputError: If another machine has our number; neither is raised unless `patient`, since
                processes are to be ended first.
            RunFailed: If it was lost.
        """
        if time.monotonic() - self._beaten_s >= BEAT_S:
            self._say()
        if self._succeeded and patient:
            raise InputError(self._taken("another machine"))
        assert self._lead is not None
        said = self._board.lead()
        if said:
            self._pulse.feel(said.id, said.beat)
            if said.id == self._lead.id:
                self._lead = said
            elif self._pulse.age_s(said.id) < self._nodes.lost_after_s:
                self._adopt(said, said.id)
        if (
            patient
            and self._lead.state != "ended"
            and self._pulse.age_s(self._lead.id) > self._nodes.lead_lost_after_s
        ):
            silence_s, again = self._nodes.lead_lost_after_s, f"NNODES=1 {command_name()} run CONFIG --wait"
            raise RunFailed(
                f"no sign of life from the lead ({self._lead.host}) for {silence_s:.0f} s; what is saved in "
                f"{self._directory} is intact. Start the same command again on every machine, or go on here "
                f"alone with `{again}`"
            )
        return self._lead

    def _checked(self, greeting: Greeting | None) -> str:
        """Id of the lead that answers; empty if none does.

        Raises:
            InputError: If it leads another run.
        """
        if greeting and greeting.run != self._run:
            raise InputError(
                f"{self._nodes.endpoint} leads the run {greeting.run}, not {self._run}; start the same "
                "command with the same config on every machine"
            )
        return greeting.lead if greeting else ""

    def _give_up(self, waited_s: float, answers_s: float) -> None:
        """Look for a lead no longer than makes sense.

        Raises:
            InputError: If the lead's files do not show here.
            RunFailed: If no lead came in time.
        """
        if answers_s > self._nodes.lead_lost_after_s:
            raise InputError(
                f"{self._directory}: what the lead ({self._nodes.host}) writes there does not show here; "
                "--root must name a directory on a file system that all machines share"
            )
        if waited_s > self._nodes.start_timeout_s:
            raise RunFailed(
                f"no lead for {waited_s:.0f} s: {self._nodes.endpoint} does not answer, nor does one write "
                f"in {self._directory}; start the same command there, and see that the address is right, the "
                "port open, and --root shared by all machines"
            )

    def _adopt(self, said: LeadNotice | None, greeted: str) -> None:
        """Follow a lead that lives: its beat changed, or it answered us itself.

        Raises:
            InputError: If another machine has our number.
        """
        if said is None:
            return
        self._pulse.feel(said.id, said.beat)
        if said.id != greeted and (
            said.state == "ended" or self._pulse.age_s(said.id) > self._nodes.lost_after_s
        ):
            return
        if other := self._board.take_slot(self._mine, said.id):
            raise InputError(self._taken(other))
        self._lead = said
        self._pulse.met(said.id, said.beat)
        self._say(lead=said.id, busy="", ended="", exit_code=0)

    def _taken(self, other: str) -> str:
        if self._nodes.rank is None:
            return f"{other} has the same host name and process number as this one; set NODE_RANK on each"
        return f"NODE_RANK={self._nodes.rank}: {other} has that number already; give each its own"

    def _say(self, **values: Any) -> None:
        stops = self._interruption.requested
        self._mine = replace(self._mine, beat=self._mine.beat + 1, stops=stops, **values)
        self._succeeded = self._succeeded or self._board.is_succeeded(self._mine)
        if not self._succeeded:
            self._board.post_node(self._mine)
        self._beaten_s = time.monotonic()

    def _end(self, lead: LeadNotice) -> None:
        if lead.exit_code == STOPPED:
            raise Interrupted
        if lead.exit_code != 0:
            raise RunFailed(f"the run failed; what the lead ({lead.host}) says tells why")
        say("the run is done")


def _address(nodes: Nodes, interruption: Interruption) -> str:
    """This machine's address as the lead reaches it. A lead that a cluster has yet to start has no name.

    Raises:
        InputError: If the lead's address is not known here in time.
        Interrupted: If asked to stop meanwhile.
    """
    started_s, announced = time.monotonic(), False
    while True:
        try:
            return address_towards(nodes.host, nodes.port)
        except OSError as error:
            why = error.strerror or str(error)
        if interruption.requested:
            raise Interrupted
        if time.monotonic() - started_s > nodes.start_timeout_s:
            raise InputError(
                f"RDZV_ENDPOINT={nodes.endpoint}: {nodes.host} cannot be reached from here ({why}); give "
                "the lead's address as this machine sees it"
            )
        if not announced:
            say(f"waiting until {nodes.host} can be reached from here ({why})")
            announced = True
        time.sleep(POLL_S)


def _introduction(nodes: Nodes, address: str, processes: int, digest: str) -> NodeNotice:
    """Who this machine is."""
    host = socket.gethostname()
    plain = re.sub(r"[^\w-]", "-", host)
    slot = f"host.{plain}.{os.getpid()}" if nodes.rank is None else f"node-{nodes.rank}"
    name = f"{host} ({address})" if nodes.rank is None else f"node {nodes.rank} ({host}, {address})"
    return NodeNotice(uuid.uuid4().hex, slot, name, address, processes, digest)
