"""What Linux says about this machine: networks, file systems, limits; elsewhere little is known."""

import fcntl
import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

NETWORK_FILE_SYSTEMS = frozenset((
    "nfs",
    "nfs4",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "cifs",
    "smb3",
    "9p",
    "glusterfs",
    "orangefs",
    "pvfs2",
))
"""As /proc/mounts calls them; FUSE ones are named there `fuse.NAME` and count too."""

MOUNTS = Path("/proc/mounts")
ROUTES = Path("/proc/net/route")
SIOCGIFADDR = 0x8915
CPU_LIMITS = (Path("/sys/fs/cgroup/cpu.max"), Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"))


@dataclass(frozen=True)
class FileSystem:
    """Where a directory lies.

    Attributes:
        kind: As the system calls it: `ext4`, `nfs4`, `fuse.sshfs`.
        mount: Where it is mounted.
    """

    kind: str
    mount: str

    @property
    def is_shared(self) -> bool:
        """Whether other machines can mount the same."""
        return self.kind in NETWORK_FILE_SYSTEMS or self.kind.startswith("fuse.")


def existing(path: Path) -> Path:
    """The nearest directory on the way to `path` that is there."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())


def file_system(path: Path) -> FileSystem | None:
    """The file system of a directory that may not be there yet; None where the system does not say."""
    place = existing(path).resolve()
    try:
        mounted = [line.split() for line in MOUNTS.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return None
    holding = [words for words in mounted if len(words) > 2 and place.is_relative_to(_unescaped(words[1]))]
    if not holding:
        return None
    nearest = max(enumerate(holding), key=lambda item: (len(_unescaped(item[1][1])), item[0]))[1]
    return FileSystem(nearest[2], _unescaped(nearest[1]))


def _unescaped(word: str) -> str:
    """/proc/mounts writes a space as backslash 040."""
    return word.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")


def interfaces() -> dict[str, str]:
    """Network interfaces that have an IPv4 address, and that address."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:
                continue  # it has none
            found[name] = socket.inet_ntoa(answer[20:24])
    return found


def default_interface() -> str | None:
    """The interface that leads out of this machine: other machines are most often reached through it."""
    try:
        rows = [line.split() for line in ROUTES.read_text(encoding="ascii").splitlines()[1:]]
    except OSError:
        return None
    leading_out = [row for row in rows if len(row) > 6 and row[1] == "00000000"]
    return min(leading_out, key=lambda row: int(row[6]))[0] if leading_out else None


def cores_allowed() -> float | None:
    """How many cores a container may use, which counting them does not show; None without a limit."""
    newer, older = CPU_LIMITS
    try:
        if newer.exists():
            quota, period = newer.read_text(encoding="ascii").split()
        else:
            quota = older.read_text(encoding="ascii").strip()
            period = older.with_name("cpu.cfs_period_us").read_text(encoding="ascii").strip()
        return int(quota) / int(period) if quota.isdigit() else None
    except (OSError, ValueError):
        return None


def shared_memory_gib() -> float | None:
    """The size of /dev/shm, through which loader processes and NCCL hand over data; None without it."""
    try:
        shm = os.statvfs("/dev/shm")
    except OSError:
        return None
    return shm.f_blocks * shm.f_frsize / 2**30
