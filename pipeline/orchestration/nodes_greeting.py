"""Before the first stage the lead answers on its port, so that others can tell why they do not see it.

A machine that reaches the lead but does not find its notice has another disk under the same path; one that
does not reach it has the wrong address or a firewall in between.
"""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from pipeline.errors import InputError

TIMEOUT_S = 1.0
LONGEST = 4096


@dataclass(frozen=True)
class Greeting:
    """Who answers.

    Attributes:
        lead: Id of the lead.
        run: Name of its run.
    """

    lead: str
    run: str


@contextmanager
def answering(port: int, greeting: Greeting) -> Iterator[None]:
    """Answer whoever asks, for the duration of the block.

    Raises:
        InputError: If another program has the port.
    """
    try:
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        listener = socket.create_server(("", port), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise InputError(
            f"RDZV_ENDPOINT: port {port} cannot be used here ({error.strerror or error}); choose another "
            "on every machine"
        ) from None
    listener.settimeout(TIMEOUT_S / 4)
    done = threading.Event()
    answer = threading.Thread(target=_answer, args=(listener, greeting, done), name="greeting", daemon=True)
    answer.start()
    try:
        yield
    finally:
        done.set()
        answer.join()
        listener.close()


def greet(host: str, port: int) -> Greeting | None:
    """Ask who leads there; None where nobody answers."""
    try:
        with socket.create_connection((host, port), timeout=TIMEOUT_S) as connection:
            text = b""
            while len(text) < LONGEST and (more := connection.recv(LONGEST)):
                text += more
        return Greeting(**json.loads(text))
    except (OSError, ValueError, TypeError):
        return None


def _answer(listener: socket.socket, greeting: Greeting, done: threading.Event) -> None:
    while not done.is_set():
        with contextlib.suppress(OSError):  # nobody asked, or whoever did went away
            connection, _ = listener.accept()
            with connection:
                connection.sendall(json.dumps(asdict(greeting)).encode())
