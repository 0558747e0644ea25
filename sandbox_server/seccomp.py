"""The system call filter of programs, compiled to BPF once in the server and installed by the guest.

Three lists, because an allow-list that kills has cost other sandboxes random failures: what is certainly an attack
kills the process (the verdict is KILLED), what a program may try in good faith gets EPERM or ENOSYS, and the rest is
allowed. Calls that are newer than this file get ENOSYS, which programs know how to handle.

The filter is a binary search over ranges of call numbers. The kernel evaluates a new filter once for every call number
to learn which are always allowed, so a long chain of comparisons would cost every run tens of microseconds.
"""

from __future__ import annotations

import errno
import platform
import struct
from dataclasses import dataclass
from typing import NamedTuple

from sandbox_server.errors import HostUnfit

_ALLOW = 0x7FFF0000
_KILL = 0x80000000
_ERRNO = 0x00050000

_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_SET, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER, _ARCH = 0, 4  # offsets in struct seccomp_data

_NAMESPACE_FLAGS = 0x7E020000 | 0x80  # CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET,TIME}
# A child of the zygote's, which waits for none but those it made: this one, dead, would keep the namespace from ending.
_CLONE_PARENT = 0x8000
_UNIX, _INET, _INET6 = 1, 2, 10
_STREAM, _DGRAM = 1, 2
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_SHRINK_PIPE, _NOTIFY = 1031, 1026  # F_SETPIPE_SZ, F_NOTIFY
_SOL_IPV6, _FLOWLABEL_MGR = 41, 32
# Pages of the host's own pool, which no control group counts: MAP_HUGETLB, MFD_HUGETLB.
_MAP_HUGE, _MEMFD_HUGE = 0x40000, 0x4
# Pages joined with others' equal ones, so that the time of a write tells of them: MADV_MERGEABLE, PR_SET_MEMORY_MERGE.
_MERGEABLE, _MERGE_ALL = 12, 67
# PR_SET_SECCOMP, PR_SET_MM: a program's own filters could stall or confuse what watches it. PR_SCHED_CORE: would keep
# others off the processors beside its own.
_REFUSED_OPTIONS = (22, 35, 62, _MERGE_ALL)


class _Instruction(NamedTuple):
    code: int
    then: int
    otherwise: int
    value: int


@dataclass(frozen=True, slots=True)
class _Machine:
    audit: int
    killed: dict[str, int]
    refused: dict[str, int]  # watches tell of other programs, which open the same image; io_setup's room is the host's
    ignored: dict[str, int]  # answered with success: they would have the host write all that it has to write
    socket: int
    socketpair: int
    setsockopt: int
    clone: int
    mmap: int
    madvise: int
    memfd_create: int
    ioctl: int
    fcntl: int
    prctl: int
    personality: int


# Certainly an attack: no program that computes calls these, and the kernel code behind them has a history.
_KILLED_COMMON = {"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427}
# Refused with EPERM; all of the new mount interface, Landlock-like set-up and cross-process access.
_REFUSED_COMMON = {
    "pidfd_send_signal": 424,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_getfd": 438,
    "process_madvise": 440,
    "mount_setattr": 442,
    "quotactl_fd": 443,
    "memfd_secret": 447,
    "process_mrelease": 448,
    "cachestat": 451,  # which files others have read: programs share their image
}
_CLONE3 = 435  # its flags are behind a pointer that a filter cannot read; without it, libraries use clone
_FIRST_UNKNOWN = 453

_MACHINES = {
    "x86_64": _Machine(
        audit=0xC000003E,
        killed={
            "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "bpf": 321, "perf_event_open": 298,
            "userfaultfd": 323, "kexec_load": 246, "kexec_file_load": 320, "init_module": 175, "finit_module": 313,
            "delete_module": 176, "create_module": 174, "mount": 165, "umount2": 166, "pivot_root": 155,
            "setns": 308, "unshare": 272, "reboot": 169, "swapon": 167, "swapoff": 168, "iopl": 172, "ioperm": 173,
            "open_by_handle_at": 304, "kcmp": 312, "lookup_dcookie": 212, "modify_ldt": 154,
        },
        refused={
            "add_key": 248, "request_key": 249, "keyctl": 250, "chroot": 161, "acct": 163, "settimeofday": 164,
            "clock_settime": 227, "clock_adjtime": 305, "adjtimex": 159, "syslog": 103, "quotactl": 179,
            "nfsservctl": 180, "sethostname": 170, "setdomainname": 171, "vhangup": 153, "name_to_handle_at": 303,
            "fanotify_init": 300, "fanotify_mark": 301, "mbind": 237, "set_mempolicy": 238, "get_mempolicy": 239,
            "migrate_pages": 256, "move_pages": 279, "seccomp": 317, "_sysctl": 156, "uselib": 134, "ustat": 136,
            "sysfs": 139, "vmsplice": 278, "inotify_init": 253, "inotify_add_watch": 254, "inotify_init1": 294,
            "io_setup": 206,
        },
        ignored={"sync": 162, "syncfs": 306},
        socket=41, socketpair=53, setsockopt=54, clone=56, mmap=9, madvise=28, memfd_create=319, ioctl=16, fcntl=72,
        prctl=157, personality=135,
    ),
    "aarch64": _Machine(
        audit=0xC00000B7,
        killed={
            "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "bpf": 280, "perf_event_open": 241,
            "userfaultfd": 282, "kexec_load": 104, "kexec_file_load": 294, "init_module": 105, "finit_module": 273,
            "delete_module": 106, "mount": 40, "umount2": 39, "pivot_root": 41, "setns": 268, "unshare": 97,
            "reboot": 142, "swapon": 224, "swapoff": 225, "open_by_handle_at": 265, "kcmp": 272, "lookup_dcookie": 18,
        },
        refused={
            "add_key": 217, "request_key": 218, "keyctl": 219, "chroot": 51, "acct": 89, "settimeofday": 170,
            "clock_settime": 112, "clock_adjtime": 266, "adjtimex": 171, "syslog": 116, "quotactl": 60,
            "nfsservctl": 42, "sethostname": 161, "setdomainname": 162, "vhangup": 58, "name_to_handle_at": 264,
            "fanotify_init": 262, "fanotify_mark": 263, "mbind": 235, "set_mempolicy": 237, "get_mempolicy": 236,
            "migrate_pages": 238, "move_pages": 239, "seccomp": 277, "vmsplice": 75, "inotify_init1": 26,
            "inotify_add_watch": 27, "io_setup": 0,
        },
        ignored={"sync": 81, "syncfs": 267},
        socket=198, socketpair=199, setsockopt=208, clone=220, mmap=222, madvise=233, memfd_create=279, ioctl=29,
        fcntl=25, prctl=167, personality=92,
    ),
}  # fmt: skip


def machine() -> _Machine:
    """The tables of this host's processor.

    Raises:
        HostUnfit: there are none.
    """
    try:
        return _MACHINES[platform.machine()]
    except KeyError:
        known = " or ".join(_MACHINES)
        raise HostUnfit(f"no system call filter for {platform.machine()}; the sandbox needs {known}") from None


def candidate_filter() -> bytes:
    """The program's filter as an array of struct sock_filter."""
    here = machine()
    actions: dict[int, list[_Instruction]] = {}
    for number in (*here.killed.values(), *_KILLED_COMMON.values()):
        actions[number] = [_return(_KILL)]
    for number in (*here.refused.values(), *_REFUSED_COMMON.values()):
        actions[number] = [_return(_ERRNO | errno.EPERM)]
    for number in here.ignored.values():
        actions[number] = [_return(_ERRNO)]
    actions[_CLONE3] = [_return(_ERRNO | errno.ENOSYS)]
    actions[here.clone] = _when_any_bit(0, _NAMESPACE_FLAGS | _CLONE_PARENT, _ERRNO | errno.EPERM)
    actions[here.ioctl] = _when_equal(1, (_TIOCSTI, _TIOCLINUX), _ERRNO | errno.EPERM)
    actions[here.fcntl] = _when_equal(1, (_SHRINK_PIPE, _NOTIFY), _ERRNO | errno.EPERM)
    actions[here.personality] = _unless_equal(0, (0, 0xFFFFFFFF), _ERRNO | errno.EPERM)
    actions[here.prctl] = _when_equal(0, _REFUSED_OPTIONS, _ERRNO | errno.EPERM)
    actions[here.madvise] = _when_equal(2, (_MERGEABLE,), _ERRNO | errno.EPERM)
    actions[here.mmap] = _when_any_bit(3, _MAP_HUGE, _ERRNO | errno.ENOMEM)
    actions[here.memfd_create] = _when_any_bit(1, _MEMFD_HUGE, _ERRNO | errno.ENOMEM)
    sockets = [
        *_unless_equal(0, (_UNIX, _INET, _INET6), _ERRNO | errno.EAFNOSUPPORT)[:-1],
        _load(_argument(1)),
        _Instruction(_AND, 0, 0, 0xF),
        _Instruction(_JUMP_EQUAL, 2, 0, _STREAM),
        _Instruction(_JUMP_EQUAL, 1, 0, _DGRAM),
        _return(_ERRNO | errno.EPROTONOSUPPORT),
        _load(_argument(2)),
        _Instruction(_JUMP_EQUAL, 3, 0, 0),
        _Instruction(_JUMP_EQUAL, 2, 0, 6),
        _Instruction(_JUMP_EQUAL, 1, 0, 17),
        _return(_ERRNO | errno.EPROTONOSUPPORT),
        _return(_ALLOW),
    ]
    actions[here.socket] = sockets
    actions[here.socketpair] = _unless_equal(0, (_UNIX,), _ERRNO | errno.EAFNOSUPPORT)
    # A label stays for a minute after its program, with an address in it: a letter to the slot's next one.
    actions[here.setsockopt] = [
        _load(_argument(1)),
        _Instruction(_JUMP_EQUAL, 0, 3, _SOL_IPV6),
        _load(_argument(2)),
        _Instruction(_JUMP_EQUAL, 0, 1, _FLOWLABEL_MGR),
        _return(_ERRNO | errno.EPERM),
        _return(_ALLOW),
    ]
    program = [
        _load(_ARCH),
        _Instruction(_JUMP_EQUAL, 1, 0, here.audit),
        _return(_KILL),  # i386 and friends: another table of numbers
        _load(_NUMBER),
        *_search(_ranges(actions)),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _ranges(actions: dict[int, list[_Instruction]]) -> list[tuple[int, list[_Instruction]]]:
    """Where each run of equal treatment begins; x32's numbers are above the last known and fall to ENOSYS."""
    starts: list[tuple[int, list[_Instruction]]] = []
    for number in range(_FIRST_UNKNOWN):
        treatment = actions.get(number, [_return(_ALLOW)])
        if not starts or starts[-1][1] != treatment:
            starts.append((number, treatment))
    return [*starts, (_FIRST_UNKNOWN, [_return(_ERRNO | errno.ENOSYS)])]


def _search(ranges: list[tuple[int, list[_Instruction]]]) -> list[_Instruction]:
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    low, high = _search(ranges[:middle]), _search(ranges[middle:])
    if len(low) > 255:
        raise AssertionError("a jump of a filter reaches 255 instructions")
    return [_Instruction(_JUMP_GREATER_EQUAL, len(low), 0, ranges[middle][0]), *low, *high]


def _load(offset: int) -> _Instruction:
    return _Instruction(_LOAD, 0, 0, offset)


def _return(action: int) -> _Instruction:
    return _Instruction(_RETURN, 0, 0, action)


def _argument(index: int) -> int:
    return 16 + 8 * index  # low half; both machines are little-endian


def _when_any_bit(index: int, bits: int, action: int) -> list[_Instruction]:
    return [_load(_argument(index)), _Instruction(_JUMP_SET, 0, 1, bits), _return(action), _return(_ALLOW)]


def _when_equal(index: int, values: tuple[int, ...], action: int) -> list[_Instruction]:
    tests = [_Instruction(_JUMP_EQUAL, len(values) - place, 0, value) for place, value in enumerate(values)]
    return [_load(_argument(index)), *tests, _return(_ALLOW), _return(action)]


def _unless_equal(index: int, values: tuple[int, ...], action: int) -> list[_Instruction]:
    tests = [_Instruction(_JUMP_EQUAL, len(values) - place, 0, value) for place, value in enumerate(values)]
    return [_load(_argument(index)), *tests, _return(action), _return(_ALLOW)]
