"""Files in a folder or behind a URL: which there are, and parts of them, patiently where a network fails.

A root without `://` is a folder of this machine and is read without fsspec; everything else is what
fsspec makes of it (https, s3, gs, hf, memory, ...). Nothing here is written or executed.
"""

import fnmatch
import io
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from pipeline.errors import InputError

Result = TypeVar("Result")
Option = str | int | float | bool

MOST_FILES = 100_000
"""More names than this from one pattern are a mistake in the pattern."""

_AT_ONCE = 8
_COUNTED = re.compile(r"\{(-?\d{1,18})\.\.(-?\d{1,18})")
_VERSION_FIELDS = (
    "etag",
    "content-md5",
    "digest",
    "checksum",
    "md5",
    "md5hash",
    "sha256",
    "blob_id",
    "mtime",
    "last_modified",
    "lastmodified",
    "created",
    "generation",
)
_ASKED_IN_VAIN = (
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    ValueError,
    ImportError,
)
_WORTH_ASKING_AGAIN = (408, 425, 429)


@dataclass(frozen=True)
class FileState:
    """What tells one state of a file from another without reading it.

    Attributes:
        size: In bytes.
        version: Modification time, entity tag or whatever else its storage gives; empty if nothing.
    """

    size: int
    version: str


@dataclass(frozen=True)
class Storage:
    """A folder, or a URL that names lie below.

    Attributes:
        root: A path or a URL.
        options: For the file system behind a URL (`anon`, `endpoint_url`).
        retries: How often a failed request is repeated.
        pause_s: Before the first repetition; doubled with every further one.
        field: What the root is called in the config, for messages.
    """

    root: str
    options: Mapping[str, Option] = field(default_factory=dict)
    retries: int = 5
    pause_s: float = 0.5
    field: str = "data.source.root"

    @property
    def is_remote(self) -> bool:
        """Whether fsspec reads it."""
        return "://" in self.root

    def path(self, name: str) -> str:
        """The full path or URL of a name."""
        if self.is_remote:
            return f"{self.root.rstrip('/')}/{name}"
        return str(Path(self.root).expanduser() / name)

    def names(self, patterns: Iterable[str], setting: str) -> list[str]:
        """The files that patterns stand for: `{000..012}` counts, `{a,b}` chooses, `*` matches what is there.

        Args:
            patterns: Relative to the root.
            setting: What they are called in the config, for messages.

        Returns:
            Names below the root, in the order of the patterns, each once.

        Raises:
            InputError: If a pattern leaves the root or stands for no file, or the root is not there.
        """
        found: dict[str, None] = {}
        for pattern in patterns:
            for one in _expand(pattern, setting):
                if one.startswith("/") or "://" in one or ".." in PurePosixPath(one).parts:
                    raise InputError(
                        f"{setting}: {one!r} leads out of {self.root}; name files below {self.field}"
                    )
                found.update(dict.fromkeys(self._matching(one, setting)))
        return list(found)

    def states(self, names: Sequence[str]) -> list[FileState]:
        """Size and version of files, in order.

        Raises:
            InputError: If one is not there or cannot be asked about.
        """
        if not self.is_remote:
            return [self._local_state(name) for name in names]
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            return list(threads.map(self._remote_state, names))

    def read(self, name: str, start: int, end: int) -> bytes:
        """The bytes from `start` up to `end` of a file, or fewer where it ends before.

        Raises:
            InputError: If it cannot be read, however often it is tried.
        """
        path = self.path(name)
        if not self.is_remote:
            try:
                with Path(path).open("rb", buffering=0) as file:
                    return _read_at(file.fileno(), start, end)
            except OSError as error:
                raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
        file_system, location = self._file_system(path)
        content: bytes = self.patiently(lambda: file_system.cat_file(location, start=start, end=end), path)
        if len(content) > end - start:
            raise InputError(
                f"{path}: the server sends whole files where a part is asked for (no HTTP ranges); "
                "download the files, or use a server that supports ranges"
            )
        return content

    def read_whole(self, name: str) -> bytes:
        """All of a file; its size is asked for first, since some make room for all they might read.

        Raises:
            InputError: If it is not there, or cannot be read however often it is tried.
        """
        return self.read(name, 0, self.states([name])[0].size)

    def open(self, name: str, buffer: int) -> io.BufferedReader:
        """A file to read and seek in.

        Args:
            name: Below the root.
            buffer: Bytes fetched at once.

        Raises:
            InputError: If it is not there.
        """
        size = self.states([name])[0].size
        return io.BufferedReader(_Ranges(self, name, size), buffer)

    def patiently(self, action: Callable[[], Result], path: str) -> Result:
        """What an action returns; it is repeated, with longer and longer pauses, while the network fails.

        Raises:
            InputError: If it keeps failing, or fails for a reason that will not pass.
        """
        attempt = 0
        while True:
            try:
                return action()
            except InputError:
                raise
            except Exception as raised:  # noqa: BLE001 (every file system has exceptions of its own)
                error = _reason(raised)
                if not _may_pass(error):
                    raise InputError(f"{path}: cannot be read: {_told(error)}") from None
                if attempt == self.retries:
                    raise InputError(
                        f"{path}: cannot be read, tried {attempt + 1} times: {_told(error)}; check the "
                        "connection and run the same command again"
                    ) from None
                time.sleep(self.pause_s * 2**attempt)
                attempt += 1

    def _matching(self, pattern: str, setting: str) -> list[str]:
        if not any(mark in pattern for mark in "*?["):
            if not self.is_remote and not Path(self.path(pattern)).is_file():
                self._root_is_there()
                raise InputError(f"{setting}: there is no file {self.path(pattern)}")
            return [pattern]
        matches = self._remote_glob(pattern) if self.is_remote else self._local_glob(pattern)
        if not matches:
            raise InputError(
                f"{setting}: no file matches {self.path(pattern)}; check the pattern and {self.field}"
            )
        if len(matches) > MOST_FILES:
            raise InputError(f"{setting}: {pattern!r} matches {len(matches):,} files; at most {MOST_FILES:,}")
        return sorted(matches)

    def _root_is_there(self) -> None:
        if not Path(self.root).expanduser().is_dir():
            raise InputError(
                f"{self.field}: there is no folder {self.root} (looked in {Path.cwd()}); "
                f"name it with --set {self.field}=FOLDER"
            )

    def _local_glob(self, pattern: str) -> list[str]:
        self._root_is_there()
        root = Path(self.root).expanduser()
        return [path.relative_to(root).as_posix() for path in root.glob(pattern) if path.is_file()]

    def _remote_glob(self, pattern: str) -> list[str]:
        path = self.path(pattern)
        file_system, location = self._file_system(path)
        top = location.removesuffix(pattern)
        found = self.patiently(lambda: file_system.glob(location), path)
        return [name.removeprefix(top) for name in found]

    def _local_state(self, name: str) -> FileState:
        try:
            status = Path(self.path(name)).stat()
        except OSError as error:
            raise InputError(f"{self.path(name)}: {error.strerror}") from None
        return FileState(status.st_size, str(status.st_mtime_ns))

    def _remote_state(self, name: str) -> FileState:
        path = self.path(name)
        file_system, location = self._file_system(path)
        told = self.patiently(lambda: file_system.info(location), path)
        if told.get("size") is None:
            raise InputError(f"{path}: the server does not say how large it is; download it")
        version = {key.lower(): told[key] for key in told if key.lower() in _VERSION_FIELDS and told[key]}
        return FileState(int(told["size"]), json.dumps(version, sort_keys=True, default=str))

    def _file_system(self, path: str) -> tuple[Any, str]:
        import fsspec

        try:
            file_system, location = fsspec.core.url_to_fs(path, **self.options)
        except (ImportError, ValueError, TypeError) as error:
            raise InputError(f"{self.field}: {path}: {error}") from None
        return file_system, location


def matches_any(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name, or its last part, fits one of some patterns."""
    last = PurePosixPath(name).name
    return any(fnmatch.fnmatchcase(name, one) or fnmatch.fnmatchcase(last, one) for one in patterns)


class _Ranges(io.RawIOBase):
    """A file as ranges of it, each asked for by itself."""

    def __init__(self, storage: Storage, name: str, size: int) -> None:
        self._storage, self._name, self._size, self._position = storage, name, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(start + offset, 0)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        end = min(self._position + len(buffer), self._size)
        if end <= self._position:
            return 0
        content = self._storage.read(self._name, self._position, end)
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)


def _read_at(descriptor: int, start: int, end: int) -> bytes:
    parts = []
    while start < end and (part := os.pread(descriptor, end - start, start)):
        parts.append(part)
        start += len(part)
    return b"".join(parts) if len(parts) != 1 else parts[0]


def _expand(pattern: str, setting: str) -> list[str]:
    from braceexpand import UnbalancedBracesError, braceexpand  # type: ignore[attr-defined]

    counted = [abs(int(last) - int(first)) + 1 for first, last in _COUNTED.findall(pattern)]
    if math.prod(counted) > MOST_FILES:
        raise InputError(f"{setting}: {pattern!r} stands for more than {MOST_FILES:,} files")
    try:
        return list(islice(braceexpand(pattern), MOST_FILES))
    except UnbalancedBracesError:
        raise InputError(
            f"{setting}: {pattern!r} has a brace without its partner; write train-{{000..012}}.tar"
        ) from None


def _reason(error: Exception) -> Exception:
    """What really happened: fsspec calls a web file missing whatever went wrong when it asked about it."""
    while isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


def _may_pass(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        return status >= 500 or status in _WORTH_ASKING_AGAIN
    return not isinstance(error, _ASKED_IN_VAIN)


def _told(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
