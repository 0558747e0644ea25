"""Structured logs: one JSON object a line, or plain text for a terminal."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import Literal

# What every record carries; whatever else it has was given as `extra` and is logged.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Write a record as one line of JSON: time (UTC, RFC 3339), level, logger, message, and its extra fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record; a value that JSON cannot hold is written as its `str`."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, object] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry.update((key, value) for key, value in vars(record).items() if key not in _STANDARD)
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


class TextFormatter(logging.Formatter):
    """Write a record as a line for people, its extra fields at the end."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the name is logging's
        """Format the first line of one record."""
        extra = (f"{key}={value}" for key, value in vars(record).items() if key not in _STANDARD)
        return " ".join((super().formatMessage(record), *extra))


def is_no_departure(record: logging.LogRecord) -> bool:
    """Whether a record of gRPC's tells more than that a client left while its answer was being sent."""
    return "ExecuteBatchError raised in core by servicer method" not in record.getMessage()


def configure(level: str, form: Literal["json", "text"]) -> None:
    """Send the logs of this process to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def give_up_unwritten() -> None:
    """Drop what the standard streams could not write, on a full disk say; else the process ends with status 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
