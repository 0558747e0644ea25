"""The candidate's side of a fork: take the request, become the program, report."""

import os
import sys
from typing import Any

from . import judging, wire

WORK = "/work"

# Bound before the program can replace them in their modules.
_exit, _getpid, _write = os._exit, os.getpid, os.write


def main(request_fd: int, report_fd: int) -> None:
    """Run what `request_fd` holds and write the report to `report_fd`. Ends the process; never returns."""
    me = _getpid()
    header, blobs = wire.unpack(_read_all(request_fd))
    os.close(request_fd)
    parts = iter(blobs)
    code, tests = next(parts), next(parts)
    os.umask(0o022)
    os.chdir("/work")
    for path, executable in header["files"]:
        _place(path, next(parts), executable)
    os.environ.update(header["env"])
    sys.dont_write_bytecode = True
    if header["argv"]:
        os.close(report_fd)
        _execute(header["argv"])
    _seed(header["seed"])
    sys.argv = [judging.CODE_FILE]
    sys.path.insert(0, WORK)
    sys.path_importer_cache.clear()
    report = judging.run_program(
        code.decode("utf-8", "surrogatepass"),
        tests.decode("utf-8", "surrogatepass"),
        header["expect_tests"],
        header["entry_point"],
    )
    if _getpid() != me:  # a fork of the program that came back: it ends like any process, and reports nothing
        _finish(report)
        _exit(report["code"])
    _finish(report)
    report["nonce"] = header["nonce"]
    view = memoryview(wire.pack(report, []))
    while view:
        view = view[_write(report_fd, view) :]
    _exit(report["code"])


def _finish(report: dict[str, Any]) -> None:
    """What the interpreter does at its end: wait for threads, call atexit's functions, flush."""
    threading = sys.modules.get("threading")
    try:
        if threading is not None:
            threading._shutdown()
        import atexit

        atexit._run_exitfuncs()
    except BaseException as error:
        judging.print_error(error)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:
            pass  # closed by the program, or its reader's cap was reached


def _read_all(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    parts = []
    offset = 0
    while offset < size:
        part = os.pread(fd, size - offset, offset)
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def _place(path: str, content: bytes, executable: bool) -> None:
    folder = os.path.dirname(path)
    if folder:
        os.makedirs(folder, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o755 if executable else 0o644)
    with open(fd, "wb") as file:
        file.write(content)


def _seed(seed: "int | None") -> None:
    """Every fork of a zygote would draw the same numbers."""
    import random

    random.seed(seed)


def _execute(argv: list[str]) -> None:
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)
