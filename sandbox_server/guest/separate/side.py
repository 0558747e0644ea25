"""One side of a separate judgement, in its jail."""

from __future__ import annotations

import os
import sys

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
