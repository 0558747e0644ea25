"""One side of a separate judgement, in its jail."""

from __future__ import annotations

import _socket
import os
import sys
from collections.abc import Callable
from typing import Any

from .. import candidate, judging, wire
from . import host, judge


def main(request_fd: int, report_fd: int, link_fd: int) -> None:
    """Become what the request says, program or judge, with `link_fd` to the other side. Never returns."""
    header, blobs = wire.unpack(candidate._read_all(request_fd))
    os.close(request_fd)
    code, tests = (blob.decode("utf-8", "surrogatepass") for blob in blobs[:2])
    candidate.seed_generators(header["seed"])
    sys.argv = [judging.CODE_FILE]
    sys.path.insert(0, "/work")
    if header["side"] == "program":
        os.close(report_fd)  # its word is not asked
        candidate._take_place(header, blobs)
        host.Host(link_fd, lambda: host.load(code)).serve()
        candidate._finish()
        os._exit(0)
    report = judge.run_tests(link_fd, tests, header["entry_point"])
    candidate._finish()
    report["nonce"] = header["nonce"]
    view = memoryview(wire.pack(report, []))
    while view:
        view = view[os.write(report_fd, view) :]
    os._exit(report["code"])


_CODE = b"def double(x):\n    '''Twice.'''\n    return [y + y for y in x]\nclass Box:\n    pass\n"
_TESTS = b"""def check(candidate):
    for text in ("a", "b"):
        assert candidate([1, 2.5, {text: None}][:2]) == [2, 5.0]
        assert double(x=text) in ([text + text],), "no"
    assert candidate({(1, True)}) == [(1, True, 1, True)] and type(Box()) is Box
"""


def rehearse(times: int) -> None:
    """Judge a small program apart, in either place: see `candidate.rehearse`. The other place is a fork's."""
    with candidate.nothing_left():
        for ours, theirs in ((_judge, _serve), (_serve, _judge)):
            links = [_socket.socketpair() for _ in range(times)]
            child = os.fork()
            for pair in links:
                pair[child != 0].close()
            try:
                for pair in links:
                    _go_through(ours if child else theirs, pair[child == 0])
            finally:
                if child == 0:
                    os._exit(0)
            os.waitpid(child, 0)


def _go_through(part: Callable[[int, str, str], Any], link: _socket.socket) -> None:
    head, blobs = wire.unpack(wire.pack({"side": ""}, [_CODE, _TESTS]))
    code, tests = (blob.decode("utf-8", "surrogatepass") for blob in blobs)
    wire.pack({"report": part(link.fileno(), code, tests), **head}, [])
    link.close()


def _judge(link: int, code: str, tests: str) -> dict[str, Any]:
    return judge.run_tests(link, tests, "")


def _serve(link: int, code: str, tests: str) -> None:
    host.Host(link, lambda: host.load(code)).serve()
