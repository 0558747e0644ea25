"""The candidate's side of a fork: take the request, become the program, report."""

import _signal  # type: ignore[import-not-found]
import contextlib
import linecache
import os
import sys
from collections.abc import Iterator
from typing import Any

from . import BUILTINS, judging, wire

__builtins__ = BUILTINS  # type: ignore[assignment]

# Bound before the program can replace them in their modules.
_exit, _getpid, _write, _pack = os._exit, os.getpid, os.write, wire.pack


def main(request_fd: int, report_fd: int, link_fd: int) -> None:
    """Run what `request_fd` holds and write the report to `report_fd`. Ends the process; never returns."""
    del link_fd  # there is none
    me = _getpid()
    request = _read_all(request_fd)
    os.close(request_fd)
    if request[0] == wire.PLAIN:
        nonce, code, tests, expect_tests = wire.unpack_plain(request)
        seed, entry_point = None, ""
    else:
        header, blobs = wire.unpack(request)
        nonce, (code, tests) = header["nonce"], blobs[:2]
        expect_tests, seed, entry_point = header["expect_tests"], header["seed"], header["entry_point"]
        _take_place(header, blobs)
        if header["argv"]:
            os.close(report_fd)
            _execute(header["argv"])
    if seed is not None or b"random" in code or b"random" in tests:
        seed_generators(seed)
    sys.argv = [judging.CODE_FILE]
    sys.path.insert(0, "/work")
    report = judging.run_program(
        code.decode("utf-8", "surrogatepass"), tests.decode("utf-8", "surrogatepass"), expect_tests, entry_point
    )
    _finish()
    if _getpid() != me:  # a fork of the program that came back: it ends like any process, and reports nothing
        _exit(report["code"])
    report["nonce"] = nonce
    view = memoryview(_pack(report, []))
    while view:
        view = view[_write(report_fd, view) :]
    _exit(report["code"])


def seed_generators(seed: int | None) -> None:
    """Seed what draws random numbers: as asked, or where it came along with the fork, afresh."""
    if seed is not None:
        import random

        random.seed(seed)
    numpy = sys.modules.get("numpy")  # `random` itself asks to be seeded after each fork
    if numpy is not None:
        numpy.random.seed(None if seed is None else seed % 2**32)


def rehearse(times: int) -> None:
    """Judge a small program, so that what the interpreter does once for all is done before the fork.

    Without it each program pays for it again: the types of `ast`, the adaptive interpreter's specialisations, and the
    copies of the memory pages that these change.
    """
    code = b"def double(x):\n    '''Twice.'''\n    return [y + y for y in (x,)][0]\n"
    tests = b"def check(candidate):\n    assert candidate(1) == 2\n    assert double(2) in (4,), 'no'\n"
    with nothing_left():
        for _ in range(times):
            _, code, tests, _ = wire.unpack_plain(wire.pack_plain("", code, tests, False))
            wire.pack(judging.run_program(code.decode(), tests.decode(), False, ""), [])


@contextlib.contextmanager
def nothing_left() -> Iterator[None]:
    """For a rehearsal: what programs leave in the interpreter is gone at its end."""
    modules = dict(sys.modules)
    yield
    del sys.modules["solution"]
    sys.modules.update(modules)
    linecache.clearcache()


def _take_place(header: "dict[str, Any]", blobs: "list[bytes]") -> None:
    for (path, executable), content in zip(header["files"], blobs[2:], strict=True):
        folder = os.path.dirname(path)
        if folder:
            os.makedirs(folder, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o755 if executable else 0o644)
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        os.close(fd)
    if header["env"]:
        os.environ.update(header["env"])


def _finish() -> None:
    """What the interpreter does at its end: wait for threads, call atexit's functions, flush."""
    try:
        threading = sys.modules.get("threading")
        if threading is not None:
            threading._shutdown()
        atexit = sys.modules.get("atexit")
        if atexit is not None:
            atexit._run_exitfuncs()
    except BaseException as error:
        judging.print_error(error)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:  # closed or replaced by the program
            continue


def _read_all(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    parts: list[bytes] = []
    offset = 0
    while offset < size:
        part = os.pread(fd, size - offset, offset)
        parts.append(part)
        offset += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _execute(argv: "list[str]") -> None:
    for number in (_signal.SIGPIPE, _signal.SIGXFSZ):  # the interpreter ignores them, and exec would pass that on
        _signal.signal(number, _signal.SIG_DFL)
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)
