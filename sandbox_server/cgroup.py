"""Control groups: the memory, processes and CPU time of a slot's whole process tree, on v2, v1 or without either.

Every server has a group of its own, and every slot one below it. A slot's first process enters once; what it forks is
born inside, since moving a process costs 10 to 20 ms. The names carry the server's pid and start time, and the server
holds a lock on the folder, so that the next server to start can remove what one that was killed has left. The lock is
for servers in other pid namespaces, containers say, which see each other's groups but not each other's pids.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

Version = Literal["v2", "v1", "none"]
_PREFIX = "selfalign-"
_UNLIMITED = 1 << 62
_SMALL = 64 << 20  # bytes of memory: a limit below may be less than a jail itself holds
_MARGIN = 1 << 20  # bytes by which a group may miss its limit and be killed for it: it grows by several pages at once
_V1_CONTROLLERS = ("memory", "pids", "cpuacct")
_V2_CONTROLLERS = ("memory", "pids", "cpu")
_REMOVE_SECONDS = 10.0  # a loaded host takes its time to bury the dead
_logger = logging.getLogger(__name__)


class Blame(NamedTuple):
    """How often the kernel stepped in, by whose limit it was: the group's own, or one above it, the host's the last."""

    own: int = 0
    host: int = 0


class Group(Protocol):
    """The control group of one slot."""

    version: Version

    def attach(self, pid: int) -> None:
        """Move a process in; its later children follow."""

    def set_limits(self, memory_bytes: int, processes: int) -> None:
        """Limit the whole tree."""

    def begin(self) -> None:
        """Start measuring a run."""

    def cpu_time_ns(self) -> int:
        """User and system time of all that ever ran inside since `begin`."""
        ...

    def peak_memory_bytes(self) -> int:
        """Highest memory use since `begin`; 0 when unknown."""
        ...

    def memory_kills(self) -> Blame:
        """Processes that the kernel killed for memory since the last call."""
        ...

    def process_refusals(self) -> Blame:
        """Forks refused for a limit since the last call."""
        ...

    def remove(self) -> None:
        """Kill what is inside and remove it."""


class _File:
    """One control file, held open: a run reads several."""

    def __init__(self, path: Path, flags: int) -> None:
        self._fd = os.open(path, flags | os.O_CLOEXEC)

    def read(self) -> bytes:
        return os.pread(self._fd, 4096, 0)

    def number(self) -> int:
        return int(os.pread(self._fd, 64, 0))

    def field(self, name: bytes) -> int:
        for line in os.pread(self._fd, 4096, 0).splitlines():
            if line.startswith(name):
                return int(line[len(name) :])
        return 0

    def write(self, value: int | bytes) -> None:
        os.pwrite(self._fd, value if isinstance(value, bytes) else b"%d" % value, 0)

    def close(self) -> None:
        os.close(self._fd)


class _Counter:
    """How far a counter in a control file has come since the last look."""

    def __init__(self, file: _File, name: bytes) -> None:
        self._file = file
        self._name = name
        self._seen = file.field(name)

    def since_last(self) -> int:
        now = self._file.field(self._name)
        grown, self._seen = now - self._seen, now
        return grown


class _Opening(contextlib.ExitStack):
    """Makes a group's folders and opens its files; leaving closes and removes them, last first."""

    def make(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.callback(_remove, folder)

    def file(self, path: Path, flags: int) -> _File:
        file = _File(path, flags)
        self.callback(file.close)
        return file


class _Refusals:
    """Forks that the kernel refused. Some kernels count here what a group above refused."""

    def __init__(self, opening: _Opening, folder: Path) -> None:
        self._counter = _Counter(opening.file(folder / "pids.events", os.O_RDONLY), b"max ")
        peak = folder / "pids.peak"  # since 6.1; ever, for nothing resets it
        self._peak = opening.file(peak, os.O_RDONLY) if peak.exists() else None

    def since_last(self, limit: int) -> Blame:
        refusals = self._counter.since_last()
        if refusals and self._peak is not None and self._peak.number() < limit:
            return Blame(host=refusals)
        return Blame(own=refusals)


class _GroupV1:
    version: Version = "v1"

    def __init__(self, folders: dict[str, Path]) -> None:
        self._folders = folders
        with _Opening() as opening:
            for folder in folders.values():
                opening.make(folder)
            memory, pids, cpu = folders["memory"], folders["pids"], folders["cpuacct"]
            self._limit = opening.file(memory / "memory.limit_in_bytes", os.O_RDWR)
            swap = memory / "memory.memsw.limit_in_bytes"
            self._swap_limit = opening.file(swap, os.O_RDWR) if swap.exists() else None
            counts = "memory" if self._swap_limit is None else "memory.memsw"  # memory with what of it is swapped out
            self._peak = opening.file(memory / f"{counts}.max_usage_in_bytes", os.O_RDWR)
            self._usage = opening.file(memory / f"{counts}.usage_in_bytes", os.O_RDONLY)
            self._pids_limit = opening.file(pids / "pids.max", os.O_RDWR)
            self._cpu = opening.file(cpu / "cpuacct.usage", os.O_RDONLY)
            self._kills = _Counter(opening.file(memory / "memory.oom_control", os.O_RDONLY), b"oom_kill ")
            self._refusals = _Refusals(opening, pids)
            self._opened = opening.pop_all()
        self._limits = (_UNLIMITED, 0)
        self._cpu_start = self._memory_start = 0

    def attach(self, pid: int) -> None:
        for folder in self._folders.values():
            (folder / "cgroup.procs").write_text(str(pid))

    def set_limits(self, memory_bytes: int, processes: int) -> None:
        if self._limits == (memory_bytes, processes):
            return
        # Memory with swap may never be below memory alone, so the order depends on the direction.
        limits = [self._limit] if self._swap_limit is None else [self._limit, self._swap_limit]
        if memory_bytes > self._limits[0]:
            limits.reverse()
        for limit in limits:
            limit.write(memory_bytes)
        self._pids_limit.write(processes)
        self._limits = (memory_bytes, processes)

    def begin(self) -> None:
        self._memory_start = self._usage.number()
        self._peak.write(0)
        self._cpu_start = self._cpu.number()

    def cpu_time_ns(self) -> int:
        return self._cpu.number() - self._cpu_start

    def peak_memory_bytes(self) -> int:
        # Files that earlier programs read stay in memory, and on the slot's account, until somebody needs the room.
        return max(self._peak.number() - self._memory_start, 1)

    def memory_kills(self) -> Blame:
        kills = self._kills.since_last()  # for a limit above this group's too, and for the host's want
        if kills and self._peak.number() < self._limits[0] - _MARGIN:
            return Blame(host=kills)
        return Blame(own=kills)

    def process_refusals(self) -> Blame:
        return self._refusals.since_last(self._limits[1])

    def remove(self) -> None:
        self._opened.close()


class _GroupV2:
    version: Version = "v2"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._peak: _File | None = None
        with _Opening() as opening:
            opening.make(folder)
            self._limit = opening.file(folder / "memory.max", os.O_RDWR)
            swap = folder / "memory.swap.max"
            if swap.exists():
                swap.write_text("0")
            with contextlib.suppress(OSError):
                # Since 6.12 a write resets the peak for this descriptor; before, it cannot be reset, or is not there.
                peak = opening.file(folder / "memory.peak", os.O_RDWR)
                peak.write(b"reset")
                self._peak = peak
            self._usage = opening.file(folder / "memory.current", os.O_RDONLY)
            self._stat = opening.file(folder / "memory.stat", os.O_RDONLY)
            self._pids_limit = opening.file(folder / "pids.max", os.O_RDWR)
            self._cpu = opening.file(folder / "cpu.stat", os.O_RDONLY)
            events = opening.file(folder / "memory.events", os.O_RDONLY)
            self._kills, self._reached = _Counter(events, b"oom_kill "), _Counter(events, b"oom ")
            self._refusals = _Refusals(opening, folder)
            self._opened = opening.pop_all()
        self._limits = (_UNLIMITED, 0)
        self._cpu_start = self._memory_start = 0

    def attach(self, pid: int) -> None:
        (self._folder / "cgroup.procs").write_text(str(pid))

    def set_limits(self, memory_bytes: int, processes: int) -> None:
        if self._limits == (memory_bytes, processes):
            return
        if memory_bytes < _SMALL and self._stat.field(b"anon ") > memory_bytes:
            # v1 refuses such a limit with this error; here the kernel would kill what is inside.
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        self._limit.write(memory_bytes)
        self._pids_limit.write(processes)
        self._limits = (memory_bytes, processes)

    def begin(self) -> None:
        if self._peak is not None:
            self._memory_start = self._usage.number()
            self._peak.write(b"reset")
        self._cpu_start = self._cpu.field(b"usage_usec ") * 1000

    def cpu_time_ns(self) -> int:
        return self._cpu.field(b"usage_usec ") * 1000 - self._cpu_start

    def peak_memory_bytes(self) -> int:
        return 0 if self._peak is None else max(self._peak.number() - self._memory_start, 1)

    def memory_kills(self) -> Blame:
        kills, reached = self._kills.since_last(), self._reached.since_last()
        return Blame(own=kills) if reached or not kills else Blame(host=kills)

    def process_refusals(self) -> Blame:
        return self._refusals.since_last(self._limits[1])

    def remove(self) -> None:
        self._opened.close()


class _NoGroup:
    """Nothing to hold the tree by: limits are each process's own, and the guest's numbers stand."""

    version: Version = "none"

    def __init__(self) -> None:
        self._kills = _kills_on_host()

    def attach(self, pid: int) -> None: ...

    def set_limits(self, memory_bytes: int, processes: int) -> None: ...

    def begin(self) -> None: ...

    def cpu_time_ns(self) -> int:
        return 0

    def peak_memory_bytes(self) -> int:
        return 0

    def memory_kills(self) -> Blame:
        """Nobody counts the group's own; whose these were is not known, so ask of a program that somebody killed."""
        now = _kills_on_host()
        grown, self._kills = now - self._kills, now
        return Blame(host=grown)

    def process_refusals(self) -> Blame:
        return Blame()

    def remove(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Parent:
    """A process' own group, below which its slots' are; sandboxes of one process share it."""

    version: Version
    folders: dict[str, Path]  # by controller; v2 has one, under ""
    reason: str = ""  # with "none": why there is no better
    _names: set[str] = field(default_factory=set)
    _locks: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        for folder in self.folders.values():
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._locks.append(lock)
            fcntl.flock(lock, fcntl.LOCK_SH)  # shared by the sandboxes of one process

    def group(self, name: str) -> Group:
        """A new group for a slot; no two of a process may have one name."""
        self._names.add(name)
        if self.version == "v1":
            return _GroupV1({controller: folder / name for controller, folder in self.folders.items()})
        if self.version == "v2":
            return _GroupV2(self.folders[""] / name)
        return _NoGroup()

    def remove(self) -> None:
        """Remove what is left of its slots' groups, and itself when no other sandbox of this process is in it."""
        for folder in self.folders.values():
            for name in self._names:
                _remove_tree(folder / name)
            with contextlib.suppress(OSError):
                folder.rmdir()
        while self._locks:
            os.close(self._locks.pop())


def open_parent(wanted: Literal["auto", "v2", "v1", "none"] = "auto") -> Parent:
    """Find what this host offers and make the server's own group there; removes what dead servers left.

    Args:
        wanted: "auto" tries v2, then v1.

    Returns:
        A parent of version "none" when nothing better works; its `reason` says why.
    """
    name = f"{_PREFIX}{os.getpid()}-{_start_time(os.getpid())}"
    reasons = ["control groups were turned off"] if wanted == "none" else []
    for version, attempt in (("v2", _open_v2), ("v1", _open_v1)):
        if wanted in ("auto", version):
            try:
                return attempt(name)
            except (OSError, LookupError) as error:
                reasons.append(f"{version}: {error}")
    return Parent("none", {}, "; ".join(reasons))


def _open_v2(name: str) -> Parent:
    mount = next((point for kind, _, point, _ in _mounts() if kind == "cgroup2"), None)
    if mount is None:
        raise LookupError("not mounted")
    own = mount / _own_path("", mount)
    available = (own / "cgroup.controllers").read_text().split()
    missing = [controller for controller in _V2_CONTROLLERS if controller not in available]
    if missing:
        raise LookupError(f"{own} offers no controller {', '.join(missing)}")
    control = own / "cgroup.subtree_control"
    wanted = " ".join(f"+{controller}" for controller in _V2_CONTROLLERS)
    try:
        control.write_text(wanted)
    except OSError:
        # A group that shares controllers may hold no process itself: move ourselves, and those beside us, to a leaf.
        leaf = own / f"{_PREFIX}server"
        leaf.mkdir(exist_ok=True)
        for pid in (own / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                (leaf / "cgroup.procs").write_text(pid)
        control.write_text(wanted)
    _remove_orphans(own)
    folder = own / name
    folder.mkdir(exist_ok=True)
    (folder / "cgroup.subtree_control").write_text(wanted)
    return Parent("v2", {"": folder})


def _open_v1(name: str) -> Parent:
    folders: dict[str, Path] = {}
    for controller in _V1_CONTROLLERS:
        for kind, options, point, root in _mounts():
            if kind == "cgroup" and controller in options:
                base = point / os.path.relpath("/" + _own_path(controller, point).as_posix().lstrip("/"), root)
                if not base.is_dir():
                    base = point
                _remove_orphans(base)
                folders[controller] = base / name
                break
        else:
            raise LookupError(f"controller {controller} is not mounted")
    try:
        for folder in folders.values():
            folder.mkdir(exist_ok=True)
        return Parent("v1", folders)
    except OSError:  # one of them is read-only, say
        for folder in folders.values():
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _kills_on_host() -> int:
    """Processes that the kernel killed for memory, anywhere; 0 where it does not tell."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _mounts() -> Iterator[tuple[str, list[str], Path, str]]:
    """File system type, super block options, mount point and root of each mount of control groups."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        if kind.startswith("cgroup"):
            yield kind, options.split(","), Path(fields.split()[4]), fields.split()[3]


def _own_path(controller: str, mount: Path) -> Path:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(",") and (controller or not controllers):
            inside = Path(path.lstrip("/"))
            return inside if (mount / inside).is_dir() else Path()
    raise LookupError(f"this process is in no group of {controller or 'v2'}")


def _start_time(pid: int) -> str:
    """When a process started, in clock ticks: a pid alone may be another process by now."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _remove_orphans(base: Path) -> None:
    for folder in base.glob(f"{_PREFIX}*-*"):
        pid, _, started = folder.name.removeprefix(_PREFIX).partition("-")
        if pid.isdigit() and _start_time(int(pid)) != started and not _is_locked(folder):
            _remove_tree(folder)


def _is_locked(folder: Path) -> bool:
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False  # it has gone
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(fd)


def _remove_tree(folder: Path) -> None:
    with contextlib.suppress(OSError):
        for child in folder.iterdir():
            if child.is_dir():
                _remove_tree(child)
    _remove(folder)


def _remove(folder: Path) -> None:
    """Kill all inside and remove; a group of dying processes is busy for a moment."""
    deadline = time.monotonic() + _REMOVE_SECONDS
    while True:
        try:
            folder.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if time.monotonic() > deadline:
                _logger.warning("a control group cannot be removed: %s", error)
                return
        _kill(folder)
        time.sleep(0.005)


def _kill(folder: Path) -> None:
    """Kill all inside: on v2 at once, since Linux 5.14; else one after another."""
    with contextlib.suppress(OSError):
        fd = os.open(folder / "cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"1")
        finally:
            os.close(fd)
        return
    with contextlib.suppress(OSError):
        for pid in (folder / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
