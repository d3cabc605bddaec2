"""The exceptions a person is meant to read, and what the system's own mean to them."""

import errno
import os
import signal

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""What people, schedulers and clouds send when they want a run to end: a terminal that closes sends
SIGHUP, SLURM can be told to send SIGUSR1 some minutes early."""

DISK_FULL_WORDS = ("No space left on device", "Disk quota exceeded")


class InputError(ValueError):
    """Something outside the program is wrong: a config, a file, a directory, a flag.

    The message names the thing, its value and the remedy; commands print it without a
    traceback and exit with code 2.
    """


class Interrupted(Exception):  # noqa: N818 (not an error: what was done is saved)
    """A stage was asked to stop, has saved what it did, and can be continued; exit code 75."""


class Failed(Exception):  # noqa: N818 (said as a fact)
    """A stage cannot go on, and the message says why and what to change; no traceback, exit code 1."""


class Overtaken(Exception):  # noqa: N818 (not an error: there is nothing left to do)
    """The first process of a stage came to its end without this one, whose work was done before."""


class PeerFailed(Exception):  # noqa: N818 (said as a fact)
    """Another process of the stage failed, and has said and recorded why; there is nothing to wait for."""


def command_name() -> str:
    """What a person types to call us: launch.sh says how it was called."""
    return os.environ.get("TRIPTYCH_COMMAND", "triptych")


def as_input_error(error: BaseException) -> InputError | None:
    """The message for what a person can put right outside the program, or None.

    A full disk is recognised by its words too: libraries wrap the system's error in their own.
    """
    if isinstance(error, InputError):
        return error
    path = getattr(error, "filename", None)
    thing = f"{path}: " if path else ""
    code = error.errno if isinstance(error, OSError) else None
    if code in (errno.ENOSPC, errno.EDQUOT) or any(word in str(error) for word in DISK_FULL_WORDS):
        return InputError(
            f"{thing}the disk is full; free some space (`{command_name()} clean CONFIG` removes superseded "
            "results) or choose another disk with --root, then run the same command again; nothing "
            "finished is lost"
        )
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        why = "the file system is read-only" if code == errno.EROFS else "permission denied"
        return InputError(f"{thing}{why}; make it writable or choose another directory with --root")
    return None
