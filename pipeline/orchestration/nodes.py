"""Several machines that run one pipeline together: how many, which one this is, and where they meet.

Every machine starts the same command. One is the lead: it plans, keeps the ledger and uploads, as a machine
alone does. The others follow it. docs/design/nodes.md says why.
"""

import errno
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import InputError
from pipeline.orchestration.machine import interfaces

DEFAULT_PORT = 29400

START_TIMEOUT_S = 600
"""How long the machines wait for each other at the start: clusters start them minutes apart."""

RETURN_TIMEOUT_S = 240
"""How long a lost machine is waited for; a process gives up on its peers after 300 s."""

LOST_AFTER_S = 12.0
"""A machine that wrote nothing for so long is lost: network file systems show changes seconds late."""

LEAD_LOST_AFTER_S = 30.0
"""Longer than the lead has patience with others, and shorter than a dead lead's lock lasts."""


@dataclass(frozen=True)
class Nodes:
    """The machines, as the environment of this one tells.

    Attributes:
        count: How many.
        rank: Which one this is, 0 being the lead; None where NODE_RANK is not set.
        is_lead: Whether this one is the lead.
        host: Name or address of the lead, as the others reach it.
        port: Where they meet there.
        run_id: First part of every rendezvous id.
        start_timeout_s: How long they wait for each other at the start.
        return_timeout_s: How long a lost one is waited for.
    """

    count: int
    rank: int | None
    is_lead: bool
    host: str
    port: int
    run_id: str
    start_timeout_s: int = START_TIMEOUT_S
    return_timeout_s: int = RETURN_TIMEOUT_S

    @property
    def endpoint(self) -> str:
        """What RDZV_ENDPOINT says, with the port."""
        return endpoint_text(self.host, self.port)

    @property
    def lost_after_s(self) -> float:
        """Silence after which another machine is lost; shorter where people have less patience."""
        return min(LOST_AFTER_S, self.return_timeout_s / 3)

    @property
    def lead_lost_after_s(self) -> float:
        """Silence after which the lead is."""
        return min(LEAD_LOST_AFTER_S, self.return_timeout_s / 2)


@dataclass(frozen=True)
class Meeting:
    """Where the processes of one attempt at a stage find those of the other machines.

    Attributes:
        nodes: How many machines.
        id: Differs for every stage and attempt, so that nobody meets the dead.
        endpoint: Where the lead's agent listens.
        is_lead: Whether that is this machine.
        address: This machine's, as the others reach it.
        timeout_s: How long to wait for the others.
    """

    nodes: int
    id: str
    endpoint: str
    is_lead: bool
    address: str
    timeout_s: int


def nodes_from(environment: Mapping[str, str], run_name: str) -> Nodes | None:
    """What NNODES, NODE_RANK, RDZV_ENDPOINT, RDZV_ID and RDZV_TIMEOUT say; None for one machine.

    Raises:
        InputError: If one of them cannot be followed.
    """
    count = whole_number(environment, "NNODES", 1, least=1)
    if count == 1:
        return None
    text = environment.get("RDZV_ENDPOINT", "")
    if not text:
        raise InputError(
            f"NNODES={count}, but RDZV_ENDPOINT is not set; set it to HOST:PORT of the lead on every machine "
            f"(the port is {DEFAULT_PORT} where it is left out), or unset NNODES"
        )
    host, port = _host_and_port(text)
    rank = whole_number(environment, "NODE_RANK", 0) if environment.get("NODE_RANK") else None
    if rank is not None and rank >= count:
        raise InputError(
            f"NODE_RANK={rank}: with NNODES={count} it is one of 0 to {count - 1}, 0 being the lead"
        )
    run_id = environment.get("RDZV_ID") or run_name
    if not re.fullmatch(r"[\w.-]+", run_id, re.ASCII):
        raise InputError(f"RDZV_ID={run_id}: letters, digits, '.', '_' and '-' only")
    start_s = whole_number(environment, "RDZV_TIMEOUT", START_TIMEOUT_S, least=1)
    return_s = whole_number(environment, "RDZV_TIMEOUT", RETURN_TIMEOUT_S, least=1)
    is_lead = rank == 0 if rank is not None else _names_this_machine(host, text)
    return Nodes(count, rank, is_lead, host, port, run_id, start_s, return_s)


def whole_number(environment: Mapping[str, str], variable: str, default: int, *, least: int = 0) -> int:
    """A variable's value.

    Raises:
        InputError: If it is not a whole number, or too small.
    """
    text = environment.get(variable, "")
    if not text:
        return default
    if not re.fullmatch("[0-9]+", text) or int(text) < least:
        raise InputError(f"environment variable {variable}={text}: not a whole number of at least {least}")
    return int(text)


def endpoint_text(host: str, port: int) -> str:
    """HOST:PORT, with brackets around an address that has colons itself."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def address_towards(host: str, port: int) -> str:
    """The address that this machine has for another one: where that one reaches it. Nothing is sent.

    Raises:
        OSError: If the other's name or network is not known here.
    """
    family, kind, _, _, there = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(there)
        return str(probe.getsockname()[0])


def interface_of(address: str) -> str | None:
    """The network interface that has an IPv4 address (Linux); None where that cannot be told."""
    return next((name for name, found in interfaces().items() if found == address), None)


def _host_and_port(text: str) -> tuple[str, int]:
    """HOST, HOST:PORT, [IPV6] or [IPV6]:PORT.

    Raises:
        InputError: If it is none of these.
    """
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+)(?::([0-9]{1,5}))?", text, re.ASCII)
    port = int(match[2] or DEFAULT_PORT) if match else 0
    if not match or not 1 <= port <= 65535:
        raise InputError(
            f"RDZV_ENDPOINT={text}: not HOST:PORT as in node0:{DEFAULT_PORT}; put an IPv6 address in brackets"
        )
    return match[1].strip("[]"), port


def _names_this_machine(host: str, text: str) -> bool:
    """Whether a name means this machine: an address can be bound only where it belongs.

    Raises:
        InputError: If the name is not known here, or means every machine itself.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise InputError(
            f"RDZV_ENDPOINT={text}: {host} is not known here ({error.strerror or error}); give the lead's "
            "address, or set NODE_RANK (0 on the lead)"
        ) from None
    if host == "localhost" or all(str(entry[4][0]).startswith("127.0.0.") for entry in found):
        raise InputError(
            f"RDZV_ENDPOINT={text}: on every machine that is the machine itself; give the lead's "
            "address as the others see it, or set NODE_RANK (0 on the lead)"
        )
    return any(_can_bind(entry[0], entry[4]) for entry in found)


def _can_bind(family: int, address: tuple[Any, ...]) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EINVAL):
                raise
            return False
        return True
