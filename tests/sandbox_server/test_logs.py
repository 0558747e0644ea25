"""Logs: one JSON object a line, and nobody waits for whoever reads them."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from sandbox_server.logs import Aside, JsonFormatter


def record(message: str) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": message, "levelname": "INFO", "levelno": logging.INFO})


def test_a_log_that_nobody_reads_drops_lines_and_says_how_many() -> None:
    """Whoever logs goes on; what comes out, once somebody reads, is whole lines in order."""
    reading, writing = os.pipe()
    handler = Aside(writing, most=10)
    handler.setFormatter(JsonFormatter())
    messages = [f"{number} " + "x" * 1000 for number in range(200)]  # more than a pipe holds

    for message in messages:
        handler.handle(record(message))

    with os.fdopen(reading) as lines:
        told = []
        while sum(entry.get("dropped", 1) for entry in told) < len(messages):
            told.append(json.loads(lines.readline()))
        handler.close()
        os.close(writing)
        assert lines.read() == ""
    written = [entry["message"] for entry in told if "dropped" not in entry]
    assert written == sorted(written, key=messages.index)
    assert len(written) < len(messages)
    assert any("nobody read it" in entry["message"] for entry in told)


def test_what_cannot_be_written_is_lost_and_nothing_else() -> None:
    with Path("/dev/full").open("wb") as full:
        handler = Aside(full.fileno())
        handler.setFormatter(JsonFormatter())
        handler.handle(record("into nothing"))
        handler.close()
