"""Framing between server and guest: a JSON header and the bytes that it speaks of.

Layout: 4 bytes header length (big-endian), the header, then the blobs one after another; the header's ``sizes`` tells
their lengths. The same few lines run on both sides; what comes out of a jail is parsed by `sandbox_server.report`,
which trusts nothing.
"""

import json
import struct
from json.encoder import c_make_encoder, encode_basestring_ascii  # type: ignore[attr-defined]
from typing import Any

from . import BUILTINS

__builtins__ = BUILTINS  # type: ignore[assignment]

# json.dumps is Python, and a program can replace its parts, which would then see and change the report: this is C.
_encode = c_make_encoder(None, None, encode_basestring_ascii, None, ":", ",", False, False, False)
_LENGTH = struct.Struct(">I")
# What the server tells the zygote of a run: memory_bytes, cpu_seconds and processes (0: a control group limits memory
# or processes), open_files, file_size_bytes, disk_bytes, and which descriptors come along besides every run's four.
SETTINGS = struct.Struct("<QQQQQQB")
# What the server tells the zygote while a run is under way: what to do, and which run it means, counted from 1.
ORDER = struct.Struct("<cQ")
KILL, COLLECT = b"K", b"C"
HAS_STDIN, HAS_LINK = 1, 2
# What the zygote tells of its end: wait status, when it was seen (CLOCK_MONOTONIC, ns), CPU time ns of what was waited
# for, largest resident set KiB, whether the program's tmpfs is full, whether a socket of it is left that will not go.
DONE = struct.Struct("<iQQQ??")


def pack(header: dict[str, Any], blobs: list[bytes]) -> bytes:
    """One message."""
    return b"".join((pack_head(header, [len(blob) for blob in blobs]), *blobs))


def pack_head(header: dict[str, Any], sizes: list[int]) -> bytes:
    """A message without its blobs, which must follow and have these sizes."""
    header["sizes"] = sizes
    head = "".join(_encode(header, 0)).encode("ascii")
    return _LENGTH.pack(len(head)) + head


def unpack(message: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """The header and the blobs of one trusted message."""
    (length,) = _LENGTH.unpack_from(message)
    start = _LENGTH.size + length
    header = json.loads(message[_LENGTH.size : start])
    blobs = []
    for size in header["sizes"]:
        blobs.append(message[start : start + size])
        start += size
    return header, blobs


# Most requests are a program and its tests and nothing else; they do without JSON. A header's length never begins with
# this byte.
PLAIN = 1
_PLAIN = struct.Struct(">B?32sII")


def pack_plain(nonce: str, code: bytes, tests: bytes, expect_tests: bool) -> bytes:
    """A request of a program and its tests."""
    return b"".join((_PLAIN.pack(PLAIN, expect_tests, nonce.encode(), len(code), len(tests)), code, tests))


def unpack_plain(message: bytes) -> tuple[str, bytes, bytes, bool]:
    """Nonce, code, tests, and whether the tests are in the code."""
    _, expect_tests, nonce, code_bytes, tests_bytes = _PLAIN.unpack_from(message)
    start = _PLAIN.size + code_bytes
    return nonce.decode(), message[_PLAIN.size : start], message[start : start + tests_bytes], expect_tests
