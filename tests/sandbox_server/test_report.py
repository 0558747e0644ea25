"""What came out of a jail is data, and wrong data is no report."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_server import report
from sandbox_server.guest import wire

NONCE = "n" * 32
WHOLE: dict[str, Any] = {
    "end": "error",
    "code": 1,
    "reached": False,
    "nonce": NONCE,
    "tests": {"run": 3, "failed": 1, "first": {"line": 2, "assertion": "assert x", "operator": ""}},
    "error": {"type": "ValueError", "message": "no", "line": 7, "traceback": "..."},
}


def frame(**changes: Any) -> bytes:
    return wire.pack({**WHOLE, **changes}, [])


def raw(text: str) -> bytes:
    return struct.pack(">I", len(text)) + text.encode()


def test_a_whole_report_is_read() -> None:
    parsed = report.parse(frame(), NONCE)

    assert parsed is not None
    assert (parsed.end, parsed.exit_code, parsed.reached_end) == ("error", 1, False)
    assert parsed.tests is not None
    assert (parsed.tests.assertions_run, parsed.tests.assertions_failed) == (3, 1)
    assert parsed.tests.first_failure is not None
    assert parsed.tests.first_failure.line == 2
    assert parsed.error is not None
    assert (parsed.error.type, parsed.error.line) == ("ValueError", 7)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\0\0",
        frame()[:-1],
        frame() + b"x",
        frame() + frame(),
        struct.pack(">I", 1 << 31) + b"{}",
        struct.pack(">I", 2) + b"[]",
        struct.pack(">I", 4) + b"null",
        struct.pack(">I", 200_000) + b"[" * 200_000,
        frame(nonce="m" * 32),
        frame(nonce=None),
        frame(end="passed"),
        frame(code=-1),
        frame(code=True),
        frame(code=1.5),
        frame(code="0"),
        frame(tests=[]),
        frame(tests={"run": "3", "failed": 0, "first": None}),
        frame(tests={"run": -3, "failed": 0, "first": None}),
        raw(f'{{"end": "done", "code": NaN, "nonce": "{NONCE}"}}'),
        frame(tests={"run": 1 << 60, "failed": 0, "first": None}),
        frame(tests={"run": 1}),
        frame(error={"type": 1, "message": "", "line": 0, "traceback": ""}),
        frame(error="ValueError"),
    ],
)
def test_anything_else_is_no_report(data: bytes) -> None:
    assert report.parse(data, NONCE) is None


def test_reached_must_be_true_itself() -> None:
    for value in (1, "true", [1], None):
        parsed = report.parse(frame(reached=value), NONCE)
        assert parsed is not None
        assert not parsed.reached_end


def test_texts_are_bounded_and_can_be_sent() -> None:
    parsed = report.parse(frame(error={**WHOLE["error"], "message": "\ud800" + "x" * 500_000}), NONCE)

    assert parsed is not None
    assert parsed.error is not None
    assert len(parsed.error.message) < 25_000
    parsed.error.message.encode()


@given(st.binary(max_size=200))
def test_no_bytes_are_taken_for_a_report(data: bytes) -> None:
    assert report.parse(data, NONCE) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(WHOLE)), JSON)
def test_no_field_of_the_wrong_shape_raises(field: str, value: Any) -> None:
    data = json.dumps({**WHOLE, field: value}).encode("utf-8", "surrogatepass")

    parsed = report.parse(struct.pack(">I", len(data)) + data, NONCE)

    assert parsed is None or parsed.end in ("done", "syntax", "error", "exit", "refused", "lost")


def test_collected_files_are_read() -> None:
    data = wire.pack({"files": [("a", False), ("b/c", True)], "refused": ["d: not a regular file"]}, [b"1", b"22"])

    files, refused = report.collected(data)

    assert [(file.path, file.content, file.executable) for file in files] == [("a", b"1", False), ("b/c", b"22", True)]
    assert refused == ("d: not a regular file",)


@given(st.binary(max_size=100))
def test_no_bytes_break_the_collection(data: bytes) -> None:
    files, refused = report.collected(data)

    assert files == ()
    assert refused


def test_a_collection_cut_short_is_none() -> None:
    data = wire.pack({"files": [("a", False)], "refused": []}, [b"12345"])

    assert report.collected(data[:-1]) == ((), ("*: the files could not be collected",))
