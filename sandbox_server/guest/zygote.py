"""The jail's first process: forks programs, waits for them, and tells the server how they ended.

It never holds a program's bytes: a fork inherits all of its memory, so what it has read, the next program could read.
"""

import _signal  # type: ignore[import-not-found]
import _sitebuiltins
import _socket
import builtins
import gc
import importlib
import json
import os
import select
import struct
import sys
import time
import traceback
import typing
from collections.abc import Callable

from . import candidate, hide, kernel, uncalled, visible, wire, world

_Parts = tuple[int, int, int, int]  # size of the tmpfs in bytes, its descriptor, the init's pid, its descriptor

_RUN, _KILL = b"R"[0], b"K"[0]
_MAX_MESSAGE = 1 << 16
_MAX_FDS = 8
_REAP_MS = 20  # in a jail for one program its orphans fall to us
_WARM_UPS = 20  # more than the adaptive interpreter wants to see before it specialises
_PRELOADED = (traceback, typing, uncalled)  # what every program's judging needs is imported before the fork


def main(control_fd: int, nested: bool, apart: bool, options: list[str]) -> None:
    """Serve programs until the server hangs up.

    Args:
        control_fd: a SOCK_SEQPACKET connection to the server.
        nested: give each program namespaces of its own; else the jail is for one program.
        apart: programs are sides of a separate judgement, which take more modules.
        options: ``preload=MODULE`` names what else to import before any program.
    """
    libraries = f"{sys.prefix}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    if os.path.isdir(libraries):
        sys.path.append(libraries)
    for option in options:
        if option.startswith("preload="):
            importlib.import_module(option.removeprefix("preload="))
    if apart:
        from .separate import side

        become = side.main
    else:
        become = candidate.main
    Zygote(_socket.socket(fileno=control_fd), nested, become).serve()


class Zygote:
    """One jail's parent of programs."""

    def __init__(self, control: "_socket.socket", nested: bool, become: Callable[[int, int, int], None]) -> None:
        self._control = control
        self._nested = nested
        self._become = become
        self._init = kernel.SleepingInit()
        self._spare: _Parts | None = None
        self._own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY)
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        hello = {"python": ".".join(map(str, sys.version_info[:3])), "build": sys.version}
        control.send(json.dumps(hello).encode())
        self._filter = kernel.Filter(control.recv(_MAX_MESSAGE))
        # nsjail's was made before the server put us into our group: its path, with the server's pid, would show.
        kernel.unshare(kernel.CLONE_NEWCGROUP)

    def serve(self) -> None:
        """Run what comes."""
        world.settle()
        _settle()
        while True:
            message, descriptors = self._receive()
            if not message:
                return
            if message[0] == _RUN:
                self._run(message[1:], descriptors)

    def _receive(self) -> "tuple[bytes, list[int]]":
        message, ancillary, _, _ = self._control.recvmsg(_MAX_MESSAGE, _socket.CMSG_SPACE(_MAX_FDS * 4))
        descriptors: list[int] = []
        for level, kind, data in ancillary:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                descriptors += struct.unpack(f"{len(data) // 4}i", data)
        return message, descriptors

    def _run(self, settings: bytes, descriptors: "list[int]") -> None:
        request, report, stdout, stderr, *more = descriptors
        _, _, _, open_files, _, disk_bytes, flags = wire.SETTINGS.unpack(settings)
        stdin = more.pop(0) if flags & wire.HAS_STDIN else 0
        link = more.pop(0) if flags & wire.HAS_LINK else -1
        box, init, init_fd = self._prepared(disk_bytes)
        if self._nested:
            kernel.set_namespace(init_fd, kernel.CLONE_NEWPID)
        started = time.monotonic_ns()
        child = os.fork()
        if child == 0:
            try:
                world.furnish(box, self._nested)
                places = world.place_descriptors(open_files, request, report, stdin, stdout, stderr, link)
                world.confine(settings, self._filter)
                self._become(*places)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(125)
        if self._nested:
            kernel.set_namespace(self._own_pids, kernel.CLONE_NEWPID)
        self._await(child)
        _, status, usage = os.wait4(child, 0)
        wall = time.monotonic_ns() - started
        if self._nested:
            _signal.pidfd_send_signal(init_fd, _signal.SIGKILL)
        else:
            _kill_all_others()
        cpu = int((usage.ru_utime + usage.ru_stime) * 1e9)
        full = world.is_full(box)
        if self._nested:
            os.waitpid(init, 0)  # returns when the namespace's last process is dead
            os.close(init_fd)
        if flags & wire.HAS_COLLECT:
            self._collect(box, request, more.pop())
        for descriptor in descriptors:
            os.close(descriptor)
        os.close(box)
        self._control.send(wire.DONE.pack(status, wall, cpu, usage.ru_maxrss, full))
        if self._nested:
            self._spare = self._new(disk_bytes)  # while the server looks at this one

    def _new(self, disk_bytes: int) -> _Parts:
        """Make what a world is made of: its tmpfs, and the first process of its pid namespace with a descriptor."""
        box = world.new_box(disk_bytes)
        if not self._nested:
            return disk_bytes, box, -1, -1
        init = self._init.start()
        return disk_bytes, box, init, os.pidfd_open(init)

    def _prepared(self, disk_bytes: int) -> tuple[int, int, int]:
        """The parts of a world, made beforehand if they fit."""
        spare, self._spare = self._spare, None
        if spare is not None and spare[0] != disk_bytes:
            _, box, init, init_fd = spare
            _signal.pidfd_send_signal(init_fd, _signal.SIGKILL)
            os.waitpid(init, 0)
            os.close(init_fd)
            os.close(box)
            spare = None
        return (spare or self._new(disk_bytes))[1:]

    def _await(self, child: int) -> None:
        """Wait until `child` ends; kill it when the server says so."""
        pidfd = os.pidfd_open(child)
        poll = self._poll
        poll.register(pidfd, select.POLLIN)
        while True:
            ready = [fd for fd, _ in poll.poll(None if self._nested else _REAP_MS)]
            if pidfd in ready:
                break
            if not self._nested:
                _reap_all_but(child)
            if not ready:
                continue
            message, _ = self._receive()
            if not message:
                os._exit(0)  # the server is gone; all below the jail's first process dies with it
            if message[0] == _KILL:
                _signal.pidfd_send_signal(pidfd, _signal.SIGKILL)
        poll.unregister(pidfd)
        os.close(pidfd)

    def _collect(self, box: int, request: int, out: int) -> None:
        """Have a process of its own return the program's files: we must not hold their bytes."""
        child = os.fork()
        if child == 0:
            try:
                with visible():
                    from . import collect

                collect.main(box, request, out)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        self._await(child)
        os.waitpid(child, 0)


def _settle() -> None:
    """Go once through all that a program's judging does, then leave the interpreter as a fresh one would be found."""
    sys.path[:] = [entry for entry in sys.path if entry != "/sandbox"]
    builtins.exit = _sitebuiltins.Quitter("exit", "Ctrl-D (i.e. EOF)")
    builtins.quit = _sitebuiltins.Quitter("quit", "Ctrl-D (i.e. EOF)")
    candidate.rehearse(_WARM_UPS)
    hide()
    gc.collect()
    kernel.trim_memory()
    gc.freeze()


def _reap_all_but(child: int) -> None:
    while True:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None or ended.si_pid == child:
            return
        os.waitpid(ended.si_pid, 0)


def _kill_all_others() -> None:
    try:
        os.kill(-1, _signal.SIGKILL)
        while True:
            os.waitpid(-1, 0)
    except (ProcessLookupError, ChildProcessError):
        pass
