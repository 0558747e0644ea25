"""The system call filter, evaluated as the kernel would, for both processors."""

from __future__ import annotations

import errno
import platform
import struct

import pytest

from sandbox_server import seccomp
from sandbox_server.errors import HostUnfit

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
X86, ARM, I386 = 0xC000003E, 0xC00000B7, 0x40000003


def evaluate(program: bytes, number: int, *arguments: int, audit: int) -> int:
    """What a classic BPF program answers for one system call."""
    data = struct.pack("=IIQ6Q", number, audit, 0, *arguments, *[0] * (6 - len(arguments)))
    code = [struct.unpack_from("=HBBI", program, offset) for offset in range(0, len(program), 8)]
    accumulator = counter = steps = 0
    while True:
        operation, then, otherwise, value = code[counter]
        counter += 1
        steps += 1
        assert steps < 64, "a call takes too many steps"
        if operation == 0x20:
            accumulator = struct.unpack_from("=I", data, value)[0]
        elif operation == 0x54:
            accumulator &= value
        elif operation == 0x06:
            return value
        else:
            test = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[operation]
            counter += then if test else otherwise


def refused(number: int) -> int:
    return ERRNO | number


@pytest.fixture(params=["x86_64", "aarch64"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name = str(request.param)
    monkeypatch.setattr(platform, "machine", lambda: name)
    return name


def ask(machine: str, number: int, *arguments: int) -> int:
    return evaluate(seccomp.candidate_filter(), number, *arguments, audit=X86 if machine == "x86_64" else ARM)


def test_what_programs_need_is_allowed(machine: str) -> None:
    everyday = {
        "x86_64": (0, 1, 2, 3, 9, 11, 12, 13, 39, 57, 59, 60, 61, 202, 231, 257, 318),
        "aarch64": (56, 57, 63, 64, 93, 94, 98, 172, 214, 215, 221, 222, 278),
    }
    for number in everyday[machine]:
        assert ask(machine, number) == ALLOW, number


def test_every_listed_attack_kills_and_every_listed_refusal_refuses(machine: str) -> None:
    here = seccomp.machine()
    for name, number in here.killed.items():
        assert ask(machine, number) == KILL, name
    for name, number in here.refused.items():
        assert ask(machine, number) == refused(errno.EPERM), name
    for name, number in here.ignored.items():
        assert ask(machine, number) == refused(0), name


def test_calls_of_the_future_do_not_exist(machine: str) -> None:
    for number in (453, 500, 1 << 30, 0x40000000 | 59):  # the last is x32's execve
        assert ask(machine, number) == refused(errno.ENOSYS)


def test_options_of_sockets_are_free_but_for_labels_that_outlive_a_program(machine: str) -> None:
    setsockopt = seccomp.machine().setsockopt
    assert ask(machine, setsockopt, 3, 41, 32) == refused(errno.EPERM)
    high = 1 << 32  # the kernel takes the low half
    assert ask(machine, setsockopt, 3, high | 41, high | 32) == refused(errno.EPERM)
    assert ask(machine, setsockopt, 3, 41, 26) == ALLOW
    assert ask(machine, setsockopt, 3, 1, 32) == ALLOW


def test_clone_makes_threads_and_children_but_no_namespaces_and_no_siblings(machine: str) -> None:
    clone = seccomp.machine().clone
    assert ask(machine, clone, 0x3D0F00) == ALLOW  # a thread of glibc's
    assert ask(machine, clone, 17) == ALLOW
    for flag in (0x80, 0x8000, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert ask(machine, clone, flag | 17) == refused(errno.EPERM), hex(flag)
    assert ask(machine, 435) == refused(errno.ENOSYS)


def test_sockets_are_local_or_go_nowhere(machine: str) -> None:
    socket, pair = seccomp.machine().socket, seccomp.machine().socketpair
    for family in (1, 2, 10):
        assert ask(machine, socket, family, 1 | 0o2000000, 0) == ALLOW
        assert ask(machine, socket, family, 2, 17) == ALLOW
        assert ask(machine, socket, family, 3, 0) == refused(errno.EPROTONOSUPPORT)
        assert ask(machine, socket, family, 1, 132) == refused(errno.EPROTONOSUPPORT)
    for family in (0, 3, 15, 16, 17, 31, 38, 40, 44):
        assert ask(machine, socket, family, 1, 0) == refused(errno.EAFNOSUPPORT), family
    assert ask(machine, pair, 1, 1, 0) == ALLOW
    assert ask(machine, pair, 2, 1, 0) == refused(errno.EAFNOSUPPORT)


def test_arguments_are_looked_at(machine: str) -> None:
    here = seccomp.machine()
    assert ask(machine, here.ioctl, 0, 0x5401) == ALLOW
    assert ask(machine, here.ioctl, 0, 0x5412) == refused(errno.EPERM)  # types into a terminal
    assert ask(machine, here.fcntl, 1, 3) == ALLOW
    assert ask(machine, here.fcntl, 1, 1031) == refused(errno.EPERM)  # the size of a pipe
    assert ask(machine, here.fcntl, 1, 1026) == refused(errno.EPERM)  # signals when others open a folder's files
    assert ask(machine, here.prctl, 15) == ALLOW
    for option in (22, 35, 62, 67):
        assert ask(machine, here.prctl, option) == refused(errno.EPERM)
    assert ask(machine, here.madvise, 0, 4096, 4) == ALLOW
    assert ask(machine, here.madvise, 0, 4096, 12) == refused(errno.EPERM)  # pages joined with others' equal ones
    assert ask(machine, here.mmap, 0, 4096, 3, 0x22) == ALLOW
    assert ask(machine, here.mmap, 0, 4096, 3, 0x40022) == refused(errno.ENOMEM)  # pages that no group counts
    assert ask(machine, here.memfd_create, 0, 1) == ALLOW
    assert ask(machine, here.memfd_create, 0, 5) == refused(errno.ENOMEM)
    assert ask(machine, here.personality, 0xFFFFFFFF) == ALLOW
    assert ask(machine, here.personality, 0x0400000) == refused(errno.EPERM)


def test_other_machines_calls_kill(machine: str) -> None:
    assert evaluate(seccomp.candidate_filter(), 1, audit=I386) == KILL


def test_an_unknown_processor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "vax")

    with pytest.raises(HostUnfit, match="vax"):
        seccomp.candidate_filter()
