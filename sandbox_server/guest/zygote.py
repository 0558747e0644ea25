"""The jail's first process: forks programs, waits for them, and tells the server how they ended.

The process that becomes the next program is forked while nothing runs. It enters its namespaces and waits for the
server's word itself, so that a run begins without the zygote, and without what a world costs to make.

The zygote never holds a program's bytes: a fork inherits all of its memory, so what it has read, the next program could
read.
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

from . import candidate, hide, kernel, sockets, uncalled, visible, wire, world

_MAX_MESSAGE = 1 << 16
_MAX_FDS = 8
_REAP_MS = 20  # in a jail for one program its orphans fall to us
_WARM_UPS = 20  # more than the adaptive interpreter wants to see before it specialises
_POOL_BYTES, _POOL_HEADER_BYTES = 16 << 10, 48  # of CPython's allocator for small objects
_SMALL_BYTES = range(48, 513, 16)  # the sizes that it tells apart, but for those below that of any bytes
_MOST_HOLES = 5000  # of one size; more than an interpreter leaves
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

        become, rehearse = side.main, side.rehearse
    else:
        become, rehearse = candidate.main, candidate.rehearse
    Zygote(_socket.socket(fileno=control_fd), nested, become, rehearse).serve()


class Zygote:
    """One jail's parent of programs."""

    def __init__(
        self,
        control: "_socket.socket",
        nested: bool,
        become: Callable[[int, int, int], None],
        rehearse: Callable[[int], None],
    ) -> None:
        self._control = control
        self._nested = nested
        self._become = become
        self._rehearse = rehearse
        self._init = kernel.SleepingInit()
        self._own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY)
        self._begun = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._number = 0
        self._to_collect: list[int] = []  # the request's descriptor, and where the files go
        self._sockets = sockets.Sockets()
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        hello = {"python": ".".join(map(str, sys.version_info[:3])), "build": sys.version}
        control.send(json.dumps(hello).encode())
        program_filter, (jobs,) = _receive(control)
        self._filter = kernel.Filter(program_filter)
        self._jobs = _socket.socket(fileno=jobs)
        # nsjail's was made before the server put us into our group: its path, with the server's pid, would show.
        kernel.unshare(kernel.CLONE_NEWCGROUP)

    def serve(self) -> None:
        """Run what comes."""
        world.settle()
        sys.path[:] = [entry for entry in sys.path if entry != "/sandbox"]
        self._rehearse(_WARM_UPS if self._nested else 1)  # for one program alone it costs more than it saves
        if self._nested:
            from . import huge  # not for one program alone, whose jail starts with each run

            huge.move_code()
        _settle()
        while True:
            self._run()
            if not self._nested:  # a jail for one program: wait for its end
                self._control.recv(1)
                return

    def _run(self) -> None:
        """Have the next program's process wait for it, and tell how it ended."""
        self._number += 1
        box = world.new_box()
        init = init_fd = -1
        if self._nested:
            init = self._init.start()
            init_fd = os.pidfd_open(init)
            kernel.set_namespace(init_fd, kernel.CLONE_NEWPID)
        child = os.fork()
        if child == 0:
            try:
                self._be_program(box)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(125)
        if self._nested:
            kernel.set_namespace(self._own_pids, kernel.CLONE_NEWPID)
        killed = self._await(child)
        _, status, usage = os.wait4(child, 0)
        ended = time.monotonic_ns()
        if self._nested:
            _signal.pidfd_send_signal(init_fd, _signal.SIGKILL)
        else:
            _kill_all_others()
        cpu = int((usage.ru_utime + usage.ru_stime) * 1e9)
        full = world.is_full(box)
        if self._nested:
            os.waitpid(init, 0)  # returns when the namespace's last process is dead
            os.close(init_fd)
        if not self._has_begun():
            if not killed:
                os._exit(1)  # a world that cannot be made, and nothing that the program did
            self._drop_job()
        if self._to_collect:
            self._collect(box)
        os.close(box)
        # A jail for one program takes its sockets along.
        stuck = self._nested and not self._sockets.are_gone()
        self._control.send(wire.DONE.pack(status, ended, cpu, usage.ru_maxrss, full, stuck))

    def _be_program(self, box: int) -> None:
        """Wait in a world of our own for a program, and become it."""
        world.furnish(box, self._nested)
        message, descriptors = _receive(self._jobs)
        if not message:
            os._exit(0)  # the server is gone
        os.eventfd_write(self._begun, 1)
        _, _, _, open_files, _, disk_bytes, flags = wire.SETTINGS.unpack(message)
        request, report, stdout, stderr, *more = descriptors
        stdin = more.pop(0) if flags & wire.HAS_STDIN else 0
        link = more.pop(0) if flags & wire.HAS_LINK else -1
        world.resize(disk_bytes)
        places = world.place_descriptors(open_files, request, report, stdin, stdout, stderr, link)
        world.confine(message, self._filter)
        self._become(*places)

    def _has_begun(self) -> bool:
        """Had the process that died taken a program?"""
        try:
            os.eventfd_read(self._begun)
        except BlockingIOError:
            return False
        return True

    def _drop_job(self) -> None:
        """Forget a program that was killed before its process took it: the next process must not."""
        try:
            _, descriptors = _receive(self._jobs, _socket.MSG_DONTWAIT)
        except BlockingIOError:
            return  # it was just taken
        for descriptor in descriptors:
            os.close(descriptor)

    def _await(self, child: int) -> bool:
        """Wait until `child` ends; kill it when the server says so, and answer whether it did."""
        pidfd = os.pidfd_open(child)
        poll = self._poll
        poll.register(pidfd, select.POLLIN)
        killed = False
        while True:
            ready = [fd for fd, _ in poll.poll(None if self._nested else _REAP_MS)]
            if ready == [pidfd]:  # orders come first: one to collect files was given before the program began
                break
            if not self._nested:
                _reap_all_but(child)
            if not ready:
                continue
            message, descriptors = _receive(self._control)
            if not message:
                os._exit(0)  # the server is gone; all below the jail's first process dies with it
            order, number = wire.ORDER.unpack(message)
            if number != self._number:
                continue  # it came too late to kill that run
            if order == wire.COLLECT:
                self._to_collect = descriptors
            else:
                killed = True
                _signal.pidfd_send_signal(pidfd, _signal.SIGKILL)
        poll.unregister(pidfd)
        os.close(pidfd)
        return killed

    def _collect(self, box: int) -> None:
        """Have a process of its own return the program's files: we must not hold their bytes."""
        request, out = self._to_collect
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
        self._to_collect = []
        os.close(request)
        os.close(out)


def _receive(connection: "_socket.socket", flags: int = 0) -> "tuple[bytes, list[int]]":
    message, ancillary, _, _ = connection.recvmsg(_MAX_MESSAGE, _socket.CMSG_SPACE(_MAX_FDS * 4), flags)
    descriptors: list[int] = []
    for level, kind, data in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            descriptors += struct.unpack(f"{len(data) // 4}i", data)
    return message, descriptors


_fillers: list[bytes] = []


def _fill_holes() -> None:
    """Fill the memory pools that are partly used, so that forks allocate from whole ones.

    What a fork allocates from the rest of a pool costs it a copy of the page, and the rests are spread over many: a
    program took 5 % longer. The allocator hands out the blocks of a whole pool in order, so two neighbours, the first
    right behind a pool's header, are the sign that the rests are used up. An allocator that works otherwise shows no
    such sign, and what was taken is given back.
    """
    for size in _SMALL_BYTES:
        taken: list[bytes] = []
        last = 0
        while len(taken) < _MOST_HOLES:
            taken.append(bytes(size - bytes.__basicsize__))
            place = id(taken[-1])
            if place - last == size and last % _POOL_BYTES == _POOL_HEADER_BYTES:
                _fillers.extend(taken)
                break
            last = place


def _settle() -> None:
    """After the rehearsal, leave the interpreter as a fresh one would be found."""
    builtins.exit = _sitebuiltins.Quitter("exit", "Ctrl-D (i.e. EOF)")
    builtins.quit = _sitebuiltins.Quitter("quit", "Ctrl-D (i.e. EOF)")
    hide()
    gc.collect()
    _fill_holes()
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
