"""MLflow as a mirror of the run directory, kept by the process that supervises the stages.

Stages only write files. A thread here uploads what appears, so nothing ever waits for a server, an
outage only delays, and `triptych sync` does later whatever was left.
"""

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from pipeline.config import Config
from pipeline.errors import InputError, command_name
from pipeline.orchestration import mirror_events as events
from pipeline.orchestration.mirror import Upload
from pipeline.orchestration.mirror_cursor import CURSOR, CursorFile, only_mirror
from pipeline.orchestration.mirror_notes import links
from pipeline.orchestration.mirror_reach import server_answers
from pipeline.orchestration.mlflow_store import Store, Target, reason, target_of
from pipeline.orchestration.origin import read_origin
from pipeline.orchestration.stage import StageName

Ending = Literal["FINISHED", "FAILED", "KILLED"]

POLL_S = 2.0
FIRST_RETRY_S = 5.0
LONGEST_RETRY_S = 60.0

RECONCILE_S = 10.0
"""How long `status` may correct what MLflow shows; an idle database of its own takes 3 s."""


def start_mirror(run_directory: Path, config: Config) -> "Mirror | NoMirror":
    """Begin to mirror a run. Costs nothing until a stage runs or something waits to be uploaded.

    Args:
        run_directory: `<root>/<name>`; exists.
        config: The run's config.
    """
    if not config.tracking.enabled:
        return NoMirror([])
    holds = ExitStack()
    if not holds.enter_context(only_mirror(run_directory)):
        return NoMirror(["MLflow: another process uploads this run just now"])
    try:
        return Mirror(run_directory, config, holds)
    except InputError as error:
        holds.close()
        return NoMirror([f"MLflow: {error}"])


def sync(run_directory: Path, config: Config) -> list[str]:
    """Upload what waits.

    Args:
        run_directory: `<root>/<name>`.
        config: The run's config.

    Returns:
        Lines for a person.

    Raises:
        InputError: If the run does not exist, another process uploads it, or the server cannot be reached.
    """
    if not run_directory.is_dir():
        raise InputError(f"{run_directory}: no such run; start it with `{command_name()} run CONFIG`")
    if not config.tracking.enabled:
        raise InputError("tracking.enabled is false, so there is nothing to upload; set it to true")
    with only_mirror(run_directory) as free:
        if not free:
            raise InputError(
                f"{run_directory}: another process uploads this run just now; nothing is left to do here"
            )
        target = target_of(config, run_directory.parent)
        upload = _open_upload(run_directory, config, target)
        events.settle(upload, adopt=True)
        count = upload.waiting()
        if count:
            _push_once(upload, target)
        said = f"{_items(count)} uploaded" if count else "nothing waited"
        return [f"MLflow: {said}", *_where(target, upload)]


def reconcile(run_directory: Path, config: Config, timeout_s: float = RECONCILE_S) -> None:
    """Correct runs that MLflow shows as running although their process is gone, for at most so long.

    A server that does not answer, or not in time, is told later, with the next run or sync.

    Raises:
        InputError: If what was uploaded so far is not known, since `mlflow.json` is damaged.
    """
    problems: list[InputError] = []

    def work() -> None:
        try:
            _reconcile(run_directory, config)
        except InputError as error:
            problems.append(error)
        except OSError:
            pass  # somebody looks who may not write here

    thread = threading.Thread(target=work, name="mlflow-reconcile", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if problems:
        raise problems[0]


def _reconcile(run_directory: Path, config: Config) -> None:
    if not config.tracking.enabled or not (run_directory / CURSOR).is_file():
        return
    with only_mirror(run_directory) as free:
        if not free:
            return
        target = target_of(config, run_directory.parent)
        upload = _open_upload(run_directory, config, target)
        if events.settle(upload, adopt=False):
            try:
                _push_once(upload, target)
            except InputError:
                pass


def run_links(run_directory: Path, config: Config) -> dict[str, str]:
    """Addresses of a run's pages by what they show, as far as they were uploaded."""
    if not config.tracking.enabled or not (run_directory / CURSOR).is_file():
        return {}
    target = target_of(config, run_directory.parent)
    return links(target.base, config.name, CursorFile(run_directory, target.name).cursor)


def tracking_status(run_directory: Path, config: Config) -> dict[str, Any] | None:
    """Whether the tracking server answers, and how much waits for it; from files and one short question.

    Returns:
        `server`, `answers` (null: it is a local file) and `waiting` (items that are not uploaded yet; null
        if nothing tells). None where tracking is off.
    """
    if not config.tracking.enabled:
        return None
    target = target_of(config, run_directory.parent)
    waiting: int | None = 0
    if (run_directory / CURSOR).is_file():
        try:
            waiting = _open_upload(run_directory, config, target).waiting()
        except InputError:
            waiting = None
    return {"server": target.shown, "answers": server_answers(target), "waiting": waiting}


class NoMirror:
    """Mirrors nothing; says why at the end."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def stage_started(self, stage: StageName) -> None:
        """Nothing."""

    def stage_finished(self, stage: StageName, state: Ending) -> None:
        """Nothing."""

    def close(self, timeout_s: float) -> list[str]:
        """Say why."""
        return self._lines


class Mirror:
    """A thread that uploads; the calls only take notes, so they return at once."""

    def __init__(self, run_directory: Path, config: Config, holds: ExitStack) -> None:
        self._target = target_of(config, run_directory.parent)
        self._upload = _open_upload(run_directory, config, self._target)
        self._holds = holds
        self._wake, self._closing = threading.Event(), threading.Event()
        self._problem: str | None = None
        events.settle(self._upload, adopt=True)
        self._thread = threading.Thread(target=self._work, name="mlflow-mirror", daemon=True)
        self._thread.start()

    def stage_started(self, stage: StageName) -> None:
        """Note that a stage runs, as a new execution unless it continues one."""
        self._note(lambda: events.note_start(self._upload, stage))

    def stage_finished(self, stage: StageName, state: Ending) -> None:
        """Note how a stage ended."""
        self._note(lambda: events.note_end(self._upload, stage, state))

    def close(self, timeout_s: float) -> list[str]:
        """Upload the rest for at most so long."""
        self._closing_note()
        self._thread.join(timeout_s)
        waiting = Upload(self._upload.run_directory, self._upload.config, self._upload.file).waiting()
        where = _where(self._target, self._upload)
        if not waiting:
            return where
        why = f" does not work now ({self._problem})" if self._problem else " is slow"
        later = f"`{_command('sync', self._upload)}` uploads what waits: {_items(waiting)}"
        return [f"MLflow at {self._target.shown}{why}; {later}", *where]

    def _closing_note(self) -> None:
        self._note(lambda: events.settle_parent(self._upload))
        self._closing.set()
        self._wake.set()

    def _note(self, edit: Callable[[], None]) -> None:
        try:
            self._upload.file.change(edit)
        except OSError as error:
            self._problem = str(error)
        self._wake.set()

    def _work(self) -> None:
        with self._holds:
            self._upload_until_closed()

    def _upload_until_closed(self) -> None:
        store: Store | None = None
        retry_s = FIRST_RETRY_S
        while True:
            pause_s = POLL_S
            closing = self._closing.is_set()
            self._wake.clear()
            try:
                if events.lack_keys(self._upload):
                    self._upload.file.change(lambda: events.look_up_keys(self._upload))
                if self._upload.waiting():
                    store = store or Store(self._target)
                    self._upload.push(store)
                self._problem, retry_s = None, FIRST_RETRY_S
            except Exception as error:  # noqa: BLE001 (whatever goes wrong with tracking, training goes on)
                self._problem = reason(error)
                pause_s, retry_s = retry_s, min(2 * retry_s, LONGEST_RETRY_S)
            if closing:
                return
            self._sleep(pause_s)

    def _sleep(self, pause_s: float) -> None:
        """Until it is time, or there is news and nothing is wrong."""
        until = time.monotonic() + pause_s
        while not self._closing.is_set() and (left_s := until - time.monotonic()) > 0:
            if self._problem is not None:
                self._closing.wait(left_s)
            elif self._wake.wait(left_s):
                return


def _open_upload(run_directory: Path, config: Config, target: Target) -> Upload:
    return Upload(run_directory, config, CursorFile(run_directory, target.name))


def _push_once(upload: Upload, target: Target) -> None:
    try:
        upload.push(Store(target))
    except Exception as error:  # whatever a server, a driver or a network raises
        waiting = upload.waiting()
        raise InputError(
            f"MLflow at {target.shown} does not work now ({reason(error)}); "
            f"`{_command('sync', upload)}` uploads what waits: {_items(waiting)}"
        ) from error


def _where(target: Target, upload: Upload) -> list[str]:
    found = links(target.base, upload.config.name, upload.file.cursor)
    if not found:
        return []
    head = (
        f"MLflow at {target.shown}" if target.is_server else f"MLflow, once `{_command('ui', upload)}` runs"
    )
    return [f"{head}:", *(f"  {label:<11}{address}" for label, address in found.items())]


def _command(verb: str, upload: Upload) -> str:
    """What to type, as the run was started."""
    origin = read_origin(upload.run_directory)
    return f"{command_name()} {verb} {origin.arguments() if origin else 'CONFIG'}"


def _items(count: int) -> str:
    return "1 item" if count == 1 else f"{count} items"
