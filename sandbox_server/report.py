"""Read the report that came out of a jail. Its writer shares a process with the program, so nothing in it is trusted.

A report is one frame of `guest.wire` without blobs. Anything else (too long, two frames, another nonce, a field of the
wrong type) is no report at all: the run is then judged as one that never came to its end.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sandbox_server.jobs import AssertionFailure, File, ProgramError, TestReport

_LENGTH = struct.Struct(">I")
_MAX_BYTES = 1 << 20
_MAX_TEXT = 20_000
_MAX_COUNT = 1 << 53

# "refused" and "lost" are a separate judge's: these tests cannot be judged so; the program was gone before their end.
End = Literal["done", "syntax", "error", "exit", "refused", "lost"]
_ENDS = frozenset(get_args(End))


@dataclass(frozen=True, slots=True)
class Report:
    """What the guest says of a program."""

    end: End
    exit_code: int
    reached_end: bool
    tests: TestReport | None
    error: ProgramError | None
    reason: str = ""


def parse(data: bytes, nonce: str) -> Report | None:
    """The report in `data`, or None when it holds none.

    Args:
        data: all that came through the report's pipe.
        nonce: what this run's report must carry.
    """
    if not _LENGTH.size < len(data) <= _MAX_BYTES or _LENGTH.unpack_from(data)[0] != len(data) - _LENGTH.size:
        return None
    try:
        fields = json.loads(data[_LENGTH.size :])
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict) or fields.get("nonce") != nonce:
        return None
    try:
        end = fields["end"]
        if end not in _ENDS:
            return None
        return Report(
            end=end,
            exit_code=_count(fields["code"]),
            reached_end=fields.get("reached") is True,
            tests=_tests(fields.get("tests"), fields.get("reached") is True),
            error=_error(fields.get("error")),
            reason=_text(fields.get("reason", "")),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _tests(value: Any, reached_end: bool) -> TestReport | None:
    if value is None:
        return None
    first = value["first"]
    failure = None
    if first is not None:
        failure = AssertionFailure(
            line=_line(first["line"]),
            assertion=_text(first["assertion"]),
            left=_text(first.get("left", "")),
            operator=_text(first["operator"]),
            right=_text(first.get("right", "")),
            message=_text(first.get("message", "")),
        )
    return TestReport(
        assertions_run=_count(value["run"]),
        assertions_failed=_count(value["failed"]),
        reached_end=reached_end,
        first_failure=failure,
    )


def _error(value: Any) -> ProgramError | None:
    if value is None:
        return None
    return ProgramError(
        type=_text(value["type"]),
        message=_text(value["message"]),
        traceback=_text(value["traceback"]),
        line=_line(value["line"]),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    # A lone surrogate cannot be sent or stored as UTF-8.
    return value[:_MAX_TEXT].encode("utf-8", "backslashreplace").decode()


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_COUNT:
        raise TypeError
    return value


def _line(value: Any) -> int:
    return min(_count(value), 2**31 - 1)


def collected(data: bytes) -> tuple[tuple[File, ...], tuple[str, ...]]:
    """The files that a run left, and the paths that were not returned with the reason.

    The collector runs no code of the program's, but reads what a program made, so its answer is checked all the same.
    """
    try:
        (length,) = _LENGTH.unpack_from(data)
        start = _LENGTH.size + length
        header = json.loads(data[_LENGTH.size : start])
        files = []
        for (path, executable), size in zip(header["files"], header["sizes"], strict=True):
            end = start + _count(size)
            if end > len(data):
                raise ValueError("cut short")
            files.append(File(_text(path), data[start:end], executable is True))
            start = end
        return tuple(files), tuple(_text(line) for line in header["refused"])
    except (struct.error, KeyError, TypeError, ValueError, RecursionError):
        return (), ("*: the files could not be collected",)
