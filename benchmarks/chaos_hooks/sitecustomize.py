"""Loaded by every Python process of a run under test: notes what it does to files, or kills on order.

Python imports a `sitecustomize` that it finds on PYTHONPATH before anything else. This one does nothing
without CHAOS_DIRECTORY in the environment, where it finds `orders.json` and leaves `fired-N.json` (or,
without orders, `events-PID.jsonl`). Only files under CHAOS_ROOT count. It knows nothing of the program but
its processes: those with `--job FILE` in their command line do the stage that the file names, with RANK in
the environment as one of several; those with `--processes` start the ranks; others are the supervisor, or
helpers of whatever started them.
"""

import builtins
import contextlib
import io
import json
import os
import re
import signal
import sys
import threading
from collections import Counter
from pathlib import Path

DIRECTORY, ROOT, ROLE = "CHAOS_DIRECTORY", "CHAOS_ROOT", "CHAOS_ROLE"

BY_THE_CLOCK = re.compile(r"lock|guard|\.progress\.json|mlflow\.db|pyc|__pycache__")
"""Files whose changes depend on time, so that nothing can be counted by them."""

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Hook:
    """What one process knows: who it is, what it was ordered, what it did so far."""

    def __init__(self, directory, root):
        self.directory, self.root = Path(directory), root
        self.role, self._stage = _who()
        self.counts, self.lock, self.torn = Counter(), threading.Lock(), threading.local()
        self.busy = threading.local()
        orders = self.directory / "orders.json"
        self.orders = json.loads(orders.read_text()) if orders.exists() else None

    def stage(self):
        """Which stage this process does, or the supervisor waits for; `between` where there is none."""
        if self._stage is None or self.role == "supervisor":
            jobs = list(Path(self.root).glob("*/.job.json"))
            self._stage = _stage_of(jobs[0]) if jobs else "between"
        return self._stage

    def event(self, operation, path, dir_fd=None):
        """Something is about to happen to a file."""
        if getattr(self.busy, "now", False):
            return
        self.busy.now = True
        try:
            self._event(operation, path, dir_fd)
        finally:
            self.busy.now = False

    def _event(self, operation, path, dir_fd):
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if not isinstance(path, str | os.PathLike):
            return
        full = os.fspath(path)
        if isinstance(dir_fd, int) and dir_fd >= 0 and not full.startswith("/"):
            full = f"{Path(f'/proc/self/fd/{dir_fd}').readlink()}/{full}"
        full = str(Path(full).absolute())
        if not full.startswith(self.root + "/") or BY_THE_CLOCK.search(full):
            return
        name = normalised(full[len(self.root) + 1 :])
        stage = self.stage()
        with self.lock:
            self.counts[stage, operation, name] += 1
            count = self.counts[stage, operation, name]
        if self.orders is None:
            self._note(stage, operation, name)
        elif order := self._matching(stage, operation, name, count):
            if order["how"] == "torn" and getattr(self.torn, "possible", False):
                self.torn.order = order
            else:
                self.fire(order)

    def _note(self, stage, operation, name):
        line = json.dumps([self.role, stage, operation, name]) + "\n"
        with self.lock, (self.directory / f"events-{os.getpid()}.jsonl").open("a") as file:
            file.write(line)

    def _matching(self, stage, operation, name, count):
        """An order that nobody has carried out and whose moment this is."""
        now = (stage, self.role, operation, name, count)
        for number, order in enumerate(self.orders):
            when = tuple(order[part] for part in ("stage", "role", "operation", "path", "count"))
            if when == now and not (self.directory / f"fired-{number}.json").exists():
                return order | {"number": number}
        return None

    def fire(self, order):
        """Kill whom the order names; note it first, so that nobody does it twice."""
        fired = self.directory / f"fired-{order['number']}.json"
        try:
            handle = os.open(fired, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            return
        os.write(handle, json.dumps(order | {"pid": os.getpid()}).encode())
        os.close(handle)
        for pid in victims(order["victim"], str(self.directory)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def victims(what, directory):
    """The processes to kill, this one last if it is among them, and alone where there is none such."""
    me, found = os.getpid(), []
    for pid, command, environment in list(_processes(directory)):
        is_rank = "--job" in command and ("--processes" not in command or b"RANK" in environment)
        match what:
            case "self":
                hit = pid == me
            case "tree":
                hit = True
            case "supervisor":
                hit = ROLE.encode() not in environment
            case "ranks":
                hit = is_rank
            case "agent":
                hit = "--processes" in command and not is_rank
            case _:
                hit = is_rank and environment.get(b"RANK", b"0").decode() == what.removeprefix("rank ")
        if hit:
            found.append(pid)
    return sorted(found or [me], key=lambda pid: pid == me)


def _processes(directory):
    """Processes of this run: number, command line, and the environment they were started with."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                lines = (entry / "environ").read_bytes().split(b"\0")
                environment = dict(line.split(b"=", 1) for line in lines if b"=" in line)
                if environment.get(DIRECTORY.encode()) == directory.encode():
                    command = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                    yield int(entry.name), command, environment


def normalised(name):
    """A path without what differs from run to run: process numbers, digests, identifiers, counts."""
    name = re.sub(r"[0-9a-f]{8,}(-[0-9a-f]{4,})*", "#", name)
    return re.sub(r"tmp\w{8}|\d+", "#", name)


def _who():
    arguments = sys.orig_argv
    if "--job" in arguments:
        stage = _stage_of(arguments[arguments.index("--job") + 1])
        agent = "--processes" in arguments and "RANK" not in os.environ
        role = "agent" if agent else f"rank {os.environ.get('RANK', '0')}"
    elif ROLE in os.environ:
        role, stage = "helper", os.environ.get("CHAOS_STAGE") or None
    else:
        role, stage = "supervisor", None
    os.environ[ROLE] = role
    os.environ["CHAOS_STAGE"] = stage or ""
    return role, stage


def _stage_of(job):
    try:
        return json.loads(Path(job).read_text())["record"]["stage"]
    except (OSError, ValueError, KeyError):
        return None


class Torn(io.FileIO):
    """A file whose first write stops half-way, or which is never closed."""

    def __init__(self, descriptor, mode, hook, order):
        super().__init__(descriptor, mode)
        self._hook, self._order = hook, order

    def write(self, data):
        """Half of it, and the end."""
        half = memoryview(data).cast("B")
        count = super().write(half[: len(half) // 2])
        self._hook.fire(self._order)
        return count

    def close(self):
        """The end, where nothing was written through us."""
        if not self.closed:
            self._hook.fire(self._order)
        super().close()


def install(hook):
    """Listen to everything that Python does to files."""
    audited = {"os.rename": ("rename", 1), "os.remove": ("remove", 0), "os.mkdir": ("mkdir", 0)}
    audited["os.rmdir"] = ("remove", 0)

    def listen(name, arguments):
        if name == "open":
            path, mode, flags = arguments
            writes = any(letter in mode for letter in "wax+") if isinstance(mode, str) else flags & WRITING
            hook.event("write" if writes else "read", path)
        elif name in audited:
            operation, which = audited[name]
            hook.event(operation, arguments[which], arguments[-1])

    real_open, real_sync = builtins.open, os.fsync

    def tearing_open(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, *more, **named):
        hook.torn.possible, hook.torn.order = True, None
        try:
            opened = real_open(file, mode, buffering, encoding, errors, newline, *more, **named)
        finally:
            hook.torn.possible = False
        order = hook.torn.order
        if order is None:
            return opened
        raw = Torn(os.dup(opened.fileno()), "r+b" if "+" in mode else "wb", hook, order)
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

    def sync(descriptor):
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        hook.event("sync", Path(f"/proc/self/fd/{number}").readlink())
        return real_sync(descriptor)

    builtins.open = io.open = tearing_open
    os.fsync = sync
    sys.addaudithook(listen)


if DIRECTORY in os.environ and ROOT in os.environ:
    install(Hook(os.environ[DIRECTORY], os.environ[ROOT]))
