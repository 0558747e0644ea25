"""Make the world that a candidate finds itself in, and give up every power over it.

Two kinds, with the same walls. *Nested*: the zygote lives on, and each program gets pid, mount, ipc and uts namespaces,
a /proc and a tmpfs of its own. *Plain*: the jail serves one program and is that program's world already; for hosts that
allow no further namespaces.
"""

import _signal  # type: ignore[import-not-found]
import os
import resource

from . import kernel, wire

PROGRAM_UID = 1000
_BOX = b"/box"
_UID = os.getuid()
_INODE_BYTES = 4096  # a tmpfs may hold one file for each so many bytes of its size
_LEAST_INODES = 1024
_FIRST_PLACE = 64
_LAST_DESCRIPTOR = 1 << 20
_USUAL_DISK_BYTES = 128 << 20
_MOST_FILES = resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def new_box() -> int:
    """An empty tmpfs for the working directory, /tmp and /dev/shm, mounted nowhere yet; answers its descriptor."""
    box = kernel.new_tmpfs((*_room(_USUAL_DISK_BYTES), (b"mode", b"755")))
    os.mkdir("work", 0o755, dir_fd=box)
    os.mkdir("tmp", 0o1777, dir_fd=box)
    os.mkdir("shm", 0o1777, dir_fd=box)
    if _UID != PROGRAM_UID:
        os.chown("work", PROGRAM_UID, PROGRAM_UID, dir_fd=box)
    return box


def _room(disk_bytes: int) -> tuple[tuple[bytes, bytes], ...]:
    inodes = max(disk_bytes // _INODE_BYTES, _LEAST_INODES)
    return (b"size", b"%d" % disk_bytes), (b"nr_inodes", b"%d" % inodes)


def resize(disk_bytes: int) -> None:
    """Let the mounted box hold so much, if that is not what a new one holds."""
    if disk_bytes != _USUAL_DISK_BYTES:
        options = b",".join(b"=".join(option) for option in _room(disk_bytes))
        kernel.mount(b"tmpfs", _BOX, b"tmpfs", kernel.MS_REMOUNT | kernel.MS_NOSUID | kernel.MS_NODEV, options)


def is_full(box: int) -> bool:
    """Has the program filled its tmpfs?"""
    state = os.fstatvfs(box)
    return state.f_bavail == 0 or state.f_ffree == 0


def furnish(box: int, nested: bool) -> None:
    """Enter namespaces of our own and mount what the program may write to."""
    if nested:
        kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS)
        # The jail's own /proc shows the zygote; it also allows us, in our pid namespace, to mount this one over it.
        kernel.mount(
            b"proc",
            b"/proc",
            b"proc",
            kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC,
            b"hidepid=invisible,subset=pid",
        )
    kernel.attach_mount(box, _BOX)
    os.umask(0o022)
    os.chdir("/box/work")


def place_descriptors(
    open_files: int, request: int, report: int, stdin: int, stdout: int, stderr: int, link: int
) -> "tuple[int, int, int]":
    """Put the standard streams in place and close all but the request, the report and the link (-1: there is none).

    Returns:
        The new numbers of these; all are closed by an exec.
    """
    os.dup2(stdin, 0)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    # Past the program's own limit: out of the way of one that closes or writes to all that it could have opened. And
    # past those that came to us, which must not be overwritten before they are in place.
    request_place = min(max(open_files, _FIRST_PLACE), _MOST_FILES - 3)
    report_place = link_place = request_place + 1
    os.dup2(report, report_place, inheritable=False)
    os.dup2(request, request_place, inheritable=False)
    if link >= 0:
        link_place = report_place + 1
        os.dup2(link, link_place, inheritable=False)
    os.closerange(3, request_place)
    os.closerange(link_place + 1, _LAST_DESCRIPTOR)
    return request_place, report_place, link_place


def confine(settings: bytes, program_filter: kernel.Filter) -> None:
    """Set the limits, become the program's user, and give up all privilege, for good."""
    memory, cpu_seconds, processes, open_files, file_size, _, _ = wire.SETTINGS.unpack(settings)
    os.setsid()
    _signal.signal(_signal.SIGINT, _signal.default_int_handler)
    set_limit = resource.setrlimit
    set_limit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
    set_limit(resource.RLIMIT_FSIZE, (file_size, file_size))
    if memory:
        set_limit(resource.RLIMIT_AS, (memory, memory))
    if processes:
        set_limit(resource.RLIMIT_NPROC, (processes, processes))
    if _UID == PROGRAM_UID:
        kernel.set_dumpable(True)  # or the next file is the host's root's, who is nobody in here
    fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
    os.write(fd, b"1000")
    os.close(fd)
    set_limit(resource.RLIMIT_NOFILE, (open_files, open_files))
    if _UID == PROGRAM_UID:
        kernel.set_dumpable(False)
        kernel.drop_capabilities()
    else:
        os.setgroups(())
        os.setresgid(PROGRAM_UID, PROGRAM_UID, PROGRAM_UID)
        os.setresuid(PROGRAM_UID, PROGRAM_UID, PROGRAM_UID)  # from 0: the kernel drops all capabilities with it
    program_filter.install()


def settle() -> None:
    """Do once, in the zygote, what holds for every program."""
    os.umask(0)
    os.environ.pop("LD_BIND_NOW", None)
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # so that Python's own record says what the next line does
    kernel.reset_signals()  # the sleeping init shares our handlers, and must have none
    kernel.set_no_new_privileges()
    kernel.drop_bounding_set()
    kernel.keep_capabilities_from_exec()
    kernel.set_dumpable(False)
    kernel.take_short_slices(pass_on=False)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MOST_FILES, _MOST_FILES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_MSGQUEUE, (0, 0))
    for kind, most, keep_hard in ((resource.RLIMIT_MEMLOCK, 65536, False), (resource.RLIMIT_STACK, 8 << 20, True)):
        hard = resource.getrlimit(kind)[1]  # the host's, which may be lower
        soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (soft, hard if keep_hard else soft))
