"""Whether a tracking server answers at all, found out in a moment and without MLflow."""

import http.client
import threading
from contextlib import closing
from urllib.parse import urlsplit

from pipeline.orchestration.mlflow_store import Target

ANSWER_S = 2.0
"""How long a server may take: for a person who waits, not for an upload."""

ASKS_WHO = (401, 403)
"""Answers of a server that wants a password first."""


def server_answers(target: Target, timeout_s: float = ANSWER_S) -> bool | None:
    """Whether the server answers a request within the time; None where no server is asked over HTTP.

    Never takes longer than `timeout_s`, even where a name is not resolved, an address swallows packets,
    or a server accepts and keeps silent.
    """
    if not target.is_server:
        return None
    answered = threading.Event()
    asking = threading.Thread(target=_ask, args=(target.uri, timeout_s, answered), daemon=True)
    asking.start()
    asking.join(timeout_s)
    return answered.is_set()


def _ask(uri: str, timeout_s: float, answered: threading.Event) -> None:
    parts = urlsplit(uri)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    try:
        with closing(kind(parts.hostname or "", parts.port, timeout=timeout_s)) as connection:
            connection.request("GET", f"{parts.path.rstrip('/')}/health")
            status = connection.getresponse().status
    except (OSError, ValueError, http.client.HTTPException):
        return
    if status < 400 or status in ASKS_WHO:  # else something answers, but no MLflow
        answered.set()
