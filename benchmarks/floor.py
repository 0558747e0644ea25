"""The floor under every warm sandbox: fork, namespaces, a tmpfs, the program, wait. No server, no limits, no verdict.

Reads {"programs": [...], "seconds": s, "zygotes": n} on stdin and prints {"runs": n, "seconds": s}. It enters a user
namespace once, as a slot does, and gives each program pid, mount, uts and ipc namespaces of its own.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import json
import os
import sys
import time

from sandbox_server.guest import zygote  # noqa: F401  # imported for what it imports: the same modules are warm

_LIBC = ctypes.CDLL(None, use_errno=True)
_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000
_REC_PRIVATE = 0x4000 | 0x40000


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _enter_user_namespace() -> None:
    uid, gid = os.getuid(), os.getgid()
    _check(_LIBC.unshare(_NEWUSER | _NEWNS))
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123
            file.write(text)
    _check(_LIBC.mount(None, b"/", None, _REC_PRIVATE, None))


def _run(program: str) -> None:
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        if status:
            raise SystemExit(f"a right program ended with status {status}")
        return
    code = 1
    try:
        _check(_LIBC.unshare(_NEWPID | _NEWNS | _NEWUTS | _NEWIPC))
        first = os.fork()
        if first:
            code = os.waitstatus_to_exitcode(os.waitpid(first, 0)[1])
        else:
            _check(_LIBC.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, b"size=16m"))
            os.chdir("/tmp")
            exec(compile(program, "program.py", "exec"), {"__name__": "__main__"})
            code = 0
    finally:
        os._exit(code)


def _zygote(programs: list[str], seconds: float, first: int) -> int:
    _enter_user_namespace()
    gc.collect()
    gc.freeze()
    started = time.monotonic()
    runs = 0
    for program in itertools.islice(itertools.cycle(programs), first, None):
        if time.monotonic() - started >= seconds:
            break
        _run(program)
        runs += 1
    return runs


def main() -> None:
    """Run the zygotes and add up."""
    asked = json.load(sys.stdin)
    pipes = []
    started = time.monotonic()
    for number in range(asked["zygotes"]):
        read, write = os.pipe()
        if os.fork() == 0:
            first = number * len(asked["programs"]) // asked["zygotes"]
            os.write(write, str(_zygote(asked["programs"], asked["seconds"], first)).encode())
            os._exit(0)
        os.close(write)
        pipes.append(read)
    runs = [int(os.read(pipe, 100) or b"0") for pipe in pipes]
    if not all(runs):
        raise SystemExit("a zygote failed")
    json.dump({"runs": sum(runs), "seconds": time.monotonic() - started}, sys.stdout)


if __name__ == "__main__":
    main()
