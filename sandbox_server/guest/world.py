"""Make the world that a candidate finds itself in, and give up every power over it."""

import os
import resource

from . import kernel, wire

BOX = "/box"
PROGRAM_UID = 1000

_INODE_BYTES = 4096  # a tmpfs may hold one file for each so many bytes of its size
_LEAST_INODES = 1024
_LAST_DESCRIPTOR = 1 << 20


def mount_box(disk_bytes: int) -> None:
    """Mount an empty tmpfs that holds the working directory, /tmp and /dev/shm."""
    inodes = max(disk_bytes // _INODE_BYTES, _LEAST_INODES)
    kernel.mount(
        "tmpfs", BOX, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, f"size={disk_bytes},nr_inodes={inodes},mode=755"
    )
    for name, mode in (("work", 0o755), ("tmp", 0o1777), ("shm", 0o1777)):
        path = f"{BOX}/{name}"
        os.mkdir(path)
        os.chmod(path, mode)
    if os.getuid() != PROGRAM_UID:
        os.chown(f"{BOX}/work", PROGRAM_UID, PROGRAM_UID)


def is_full() -> bool:
    """Has the program filled its tmpfs?"""
    state = os.statvfs(BOX)
    return state.f_bavail == 0 or state.f_favail == 0


def place_descriptors(
    open_files: int, request: int, report: int, stdin: int, stdout: int, stderr: int
) -> tuple[int, int]:
    """Put the standard streams in place and close all else but the request and the report.

    Returns:
        The new numbers of the request and of the report; both are closed by an exec.
    """
    os.dup2(stdin, 0)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    # Past the program's own limit: out of the way of one that closes or writes to all that it could have opened.
    report_place, request_place = open_files + 1, open_files
    os.dup2(report, report_place, inheritable=False)
    os.dup2(request, request_place, inheritable=False)
    os.closerange(3, request_place)
    os.closerange(report_place + 1, _LAST_DESCRIPTOR)
    return request_place, report_place


def confine(settings: bytes, program_filter: kernel.Filter) -> None:
    """Set the limits, become the program's user, and give up all privilege, for good."""
    memory, cpu_seconds, processes, open_files, file_size, _ = wire.SETTINGS.unpack(settings)
    os.setsid()
    set_limit = resource.setrlimit
    set_limit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
    set_limit(resource.RLIMIT_FSIZE, (file_size, file_size))
    set_limit(resource.RLIMIT_CORE, (0, 0))
    set_limit(resource.RLIMIT_MSGQUEUE, (0, 0))
    if memory:
        set_limit(resource.RLIMIT_AS, (memory, memory))
    if processes:
        set_limit(resource.RLIMIT_NPROC, (processes, processes))
    set_limit(resource.RLIMIT_NOFILE, (open_files, open_files))
    with open("/proc/self/oom_score_adj", "wb", 0) as file:
        file.write(b"1000")
    if os.getuid() != PROGRAM_UID:
        os.setgroups([])
        os.setresgid(PROGRAM_UID, PROGRAM_UID, PROGRAM_UID)
        os.setresuid(PROGRAM_UID, PROGRAM_UID, PROGRAM_UID)
    kernel.drop_capabilities()
    kernel.set_no_new_privileges()
    program_filter.install()
