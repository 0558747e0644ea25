"""System calls that the standard library does not wrap, through the C library."""

import _signal  # type: ignore[import-not-found]  # the C functions behind `signal`
import ctypes
import errno
import os
import struct

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
# Looked up here, once, and not in every fork that calls them.
_mount, _setns, _unshare = _libc.mount, _libc.setns, _libc.unshare
_syscall.restype = ctypes.c_long

_ON_X86 = os.uname().machine == "x86_64"
_CAPGET = 125 if _ON_X86 else 90
_CAPSET = _CAPGET + 1
_SECCOMP = 317 if _ON_X86 else 277
_RT_SIGACTION = 13 if _ON_X86 else 134
_SCHED_SETATTR = 314 if _ON_X86 else 274
# The same on every machine.
_MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _OPENAT2 = 429, 430, 431, 432, 437

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID = 0x20000, 0x4000000, 0x8000000, 0x20000000
CLONE_NEWCGROUP = 0x2000000
_CLONE_VM = 0x100

MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 2, 4, 8, 32
_AT_FDCWD = -100
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = 1
_FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE = 1, 6
_MOUNT_ATTR_NOSUID, _MOUNT_ATTR_NODEV = 2, 4
_MOVE_MOUNT_F_EMPTY_PATH = 4
RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_XDEV = 8, 4, 2, 1

_PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 4, 24, 38
_CAPABILITY_VERSION_3 = 0x20080522
_SECCOMP_SET_MODE_FILTER = 1
# struct sched_attr: size, policy, flags, nice, priority, runtime, deadline, period.
_SCHED_ATTR = struct.Struct("=IIQiIQQQ")
_SCHED_FLAG_RESET_ON_FORK = 1
_SHORTEST_SLICE_NS = 100_000


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


class Filter:
    """A compiled seccomp filter, laid out in memory once."""

    def __init__(self, program: bytes) -> None:
        self._code = ctypes.create_string_buffer(program, len(program))
        self._program = _FilterProgram(len(program) // 8, ctypes.addressof(self._code))
        self._reference = ctypes.byref(self._program)

    def install(self) -> None:
        """Put it on this thread, for good; needs `set_no_new_privileges`."""
        _check(_syscall(_SECCOMP, _SECCOMP_SET_MODE_FILTER, 0, self._reference))


def reset_signals() -> None:
    """Block none, and give all but SIGPIPE and SIGXFSZ, which every Python ignores, the kernel's own behaviour.

    What the server's own parent had it ignore comes down to us through every exec. The C library keeps two signals to
    itself, so this is the system call.
    """
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    default = bytes(32)  # struct kernel_sigaction: SIG_DFL, no flags, an empty mask of 8 bytes
    for number in range(1, 65):
        if number not in (_signal.SIGKILL, _signal.SIGSTOP, _signal.SIGPIPE, _signal.SIGXFSZ):
            _check(_syscall(_RT_SIGACTION, number, default, None, 8))


def take_short_slices(pass_on: bool) -> None:
    """Ask for the processor in short slices: who wants less of it at a time gets it sooner, and as much of it in all.

    What passes a program on and answers for it should not wait until other programs have used their slices up. Linux
    knows slices of a process's own since 6.12; an older one ignores this, as a host's own choice of scheduling stands.

    Args:
        pass_on: threads and children are to have them too.
    """
    if os.sched_getscheduler(0) == os.SCHED_OTHER:
        flags = 0 if pass_on else _SCHED_FLAG_RESET_ON_FORK
        nice = os.getpriority(os.PRIO_PROCESS, 0)
        attributes = _SCHED_ATTR.pack(_SCHED_ATTR.size, os.SCHED_OTHER, flags, nice, 0, _SHORTEST_SLICE_NS, 0, 0)
        _syscall(_SCHED_SETATTR, 0, attributes, 0)


class SleepingInit:
    """Starts the first process of new pid namespaces: one that sleeps, and whose death takes the namespace along.

    It shares our memory (CLONE_VM) and only ever sits in pause(2), so making one copies no page tables: 0.03 ms where a
    fork costs 0.5. It ignores SIGCHLD, so the kernel reaps the orphans that fall to it; and since a namespace's first
    process receives no signal from inside that it has no handler for, a program can neither kill nor disturb it.
    """

    _STACK_BYTES = 64 << 10

    def __init__(self) -> None:
        self._stack = ctypes.create_string_buffer(self._STACK_BYTES)
        self._top = ctypes.c_void_p((ctypes.addressof(self._stack) + self._STACK_BYTES) & ~15)
        self._pause = ctypes.cast(_libc.pause, ctypes.c_void_p)
        self._flags = _CLONE_VM | CLONE_NEWPID | _signal.SIGCHLD

    def start(self) -> int:
        """Start one; answers its pid. The caller must have no child that could end meanwhile."""
        # The C functions themselves: the module `signal` wraps each call into conversions to its enumerations.
        _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)
        try:
            return _check(_libc.clone(self._pause, self._top, self._flags, None))
        finally:
            _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)


def set_namespace(fd: int, kind: int) -> None:
    """setns(2)."""
    _check(_setns(fd, kind))


def unshare(kinds: int) -> None:
    """Enter new namespaces of these kinds."""
    _check(_unshare(kinds))


def new_tmpfs(options: "tuple[tuple[bytes, bytes], ...]") -> int:
    """A tmpfs that is mounted nowhere yet; answers a descriptor of its root."""
    context = _check(_syscall(_FSOPEN, b"tmpfs", _FSOPEN_CLOEXEC))
    try:
        for name, value in options:
            _check(_syscall(_FSCONFIG, context, _FSCONFIG_SET_STRING, name, value, 0))
        _check(_syscall(_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0))
        return _check(_syscall(_FSMOUNT, context, _FSMOUNT_CLOEXEC, _MOUNT_ATTR_NOSUID | _MOUNT_ATTR_NODEV))
    finally:
        os.close(context)


def attach_mount(mount: int, target: bytes) -> None:
    """Put a mount that is nowhere yet at `target`."""
    _check(_syscall(_MOVE_MOUNT, mount, b"", _AT_FDCWD, target, _MOVE_MOUNT_F_EMPTY_PATH))


def mount(source: bytes, target: bytes, kind: bytes, flags: int, options: bytes) -> None:
    """Mount a file system of `kind` at `target`."""
    _check(_mount(source, target, kind, ctypes.c_ulong(flags), options))


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_beneath(folder: int, path: bytes, flags: int) -> int:
    """Open `path` below the descriptor `folder`, through no link and onto no other file system."""
    how = _OpenHow(
        flags | os.O_CLOEXEC, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV
    )
    while True:
        fd = _syscall(_OPENAT2, folder, path, ctypes.byref(how), ctypes.sizeof(how))
        if fd >= 0:
            return int(fd)
        if ctypes.get_errno() != errno.EAGAIN:  # a rename raced with the walk; with no process left it cannot last
            _check(fd)


_no_capabilities_header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
_no_capabilities = (ctypes.c_uint32 * 6)()
_no_capabilities_arguments = (ctypes.byref(_no_capabilities_header), ctypes.byref(_no_capabilities))


def drop_bounding_set() -> None:
    """Give up, for all descendants, every capability that exec could bring back."""
    for capability in range(64):
        if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break  # past the last one that this kernel knows


def drop_capabilities() -> None:
    """Give up all capabilities, ambient ones with them."""
    _check(_syscall(_CAPSET, *_no_capabilities_arguments))


def keep_capabilities_from_exec() -> None:
    """Empty our inheritable set, and with it the ambient one; what we hold ourselves stays."""
    sets = (ctypes.c_uint32 * 6)()
    _check(_syscall(_CAPGET, ctypes.byref(_no_capabilities_header), ctypes.byref(sets)))
    sets[2] = sets[5] = 0
    _check(_syscall(_CAPSET, ctypes.byref(_no_capabilities_header), ctypes.byref(sets)))


def set_no_new_privileges() -> None:
    """No exec may ever raise privileges again; a filter needs it."""
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def trim_memory() -> None:
    """Give free memory back, so that a fork need not copy its page tables; only glibc can."""
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(0)


def set_dumpable(dumpable: bool) -> None:
    """May others of our user trace us and read our memory? Our files in /proc are our own only then."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, int(dumpable), 0, 0, 0))
