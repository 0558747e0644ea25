"""The jail's first process: starts programs, waits for them, and tells the server how they ended.

It never holds a program's bytes: a fork inherits all of its memory, so whatever it has read, the next program could read.
"""

import _sitebuiltins
import _socket
import array
import ast  # noqa: F401  here and below: what every program's judging needs is imported once, before the fork
import builtins
import gc
import json
import linecache  # noqa: F401
import os
import random  # noqa: F401
import select
import signal
import sys
import time
import traceback

from . import candidate, instrument, judging, kernel, uncalled, wire, world  # noqa: F401

RUN, KILL = b"R"[0], b"K"[0]
_MAX_MESSAGE = 4096
_MAX_FDS = 8


def main(control_fd: int, runs: int) -> None:
    """Serve `runs` programs (0: until the server hangs up)."""
    control = _socket.socket(fileno=control_fd)
    hello = {"pid": os.getpid(), "python": ".".join(map(str, sys.version_info[:3])), "build": sys.version}
    control.send(json.dumps(hello).encode())
    program_filter = kernel.Filter(control.recv(1 << 16))
    kernel.drop_bounding_set()
    kernel.set_undumpable()
    _tidy()
    served = 0
    while not runs or served < runs:
        message, descriptors = _receive(control)
        if not message:
            break
        if message[0] == RUN:
            _serve(control, message[1:], descriptors, program_filter)
            served += 1


def _tidy() -> None:
    """Leave the interpreter as a program would find a fresh one."""
    sys.path[:] = [entry for entry in sys.path if entry != "/sandbox"]
    builtins.exit = _sitebuiltins.Quitter("exit", "Ctrl-D (i.e. EOF)")
    builtins.quit = _sitebuiltins.Quitter("quit", "Ctrl-D (i.e. EOF)")
    gc.collect()
    gc.freeze()


def _receive(control: "_socket.socket") -> "tuple[bytes, list[int]]":
    message, ancillary, _, _ = control.recvmsg(_MAX_MESSAGE, _socket.CMSG_SPACE(_MAX_FDS * 4))
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return message, descriptors.tolist()


def _serve(control: "_socket.socket", settings: bytes, descriptors: "list[int]", program_filter: kernel.Filter) -> None:
    request, report, stdout, stderr = descriptors[:4]
    stdin = descriptors[4] if len(descriptors) > 4 else 0
    _, _, _, open_files, _, disk_bytes = wire.SETTINGS.unpack(settings)
    world.mount_box(disk_bytes)
    started = time.monotonic_ns()
    child = os.fork()
    if child == 0:
        try:
            request, report = world.place_descriptors(open_files, request, report, stdin, stdout, stderr)
            world.confine(settings, program_filter)
            candidate.main(request, report)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(125)
    for descriptor in descriptors:
        os.close(descriptor)
    pidfd = os.pidfd_open(child)
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(pidfd, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if pidfd in ready:
            break
        message, _ = _receive(control)
        if not message:
            sys.exit()  # the server is gone, and we are the namespace's init: everything dies with us
        if message[0] == KILL:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            poll.unregister(control)
    _, status, usage = os.wait4(child, 0)
    wall = time.monotonic_ns() - started
    os.close(pidfd)
    _kill_the_rest()
    cpu = int((usage.ru_utime + usage.ru_stime) * 1e9)
    done = wire.DONE.pack(status, wall, cpu, usage.ru_maxrss, world.is_full())
    kernel.umount(world.BOX)
    control.send(done)


def _kill_the_rest() -> None:
    try:
        os.kill(-1, signal.SIGKILL)
        while True:
            os.waitpid(-1, 0)
    except (ProcessLookupError, ChildProcessError):
        pass
