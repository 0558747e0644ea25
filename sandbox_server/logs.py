"""Structured logs: one JSON object a line, or plain text for a terminal."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import sys
import threading
import time
from typing import Literal

_END_SECONDS = 2.0  # for whoever reads the log to take its end
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


class Aside(logging.Handler):
    """Write lines to a descriptor from a thread of its own: whoever logs never waits for whoever reads.

    A pipe that nobody reads takes no more after 64 KiB. Then lines wait, `most` of them; past that they are dropped,
    and when the reader comes back the log says how many. What cannot be written at all, on a full disk say, is lost.
    """

    def __init__(self, descriptor: int, most: int = 10_000) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._lines: queue.Queue[str | None] = queue.Queue(most)
        self._dropped = 0
        self._writer = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._writer.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Take one record."""
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self._dropped += 1
        except Exception:  # of formatting
            self.handleError(record)

    def close(self) -> None:
        """Wait a moment until all is written."""
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=_END_SECONDS)
            self._writer.join(_END_SECONDS)
        super().close()

    def _write_all(self) -> None:
        while (line := self._lines.get()) is not None:
            self._write(line)
            self.acquire()  # `emit` is called under this lock
            dropped, self._dropped = self._dropped, 0
            self.release()
            if dropped:
                told = logging.makeLogRecord(
                    {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING", "dropped": dropped,
                     "msg": "lines of this log were dropped: nobody read it"}
                )  # fmt: skip
                self._write(self.format(told))

    def _write(self, line: str) -> None:
        data = memoryview(line.encode("utf-8", "backslashreplace") + b"\n")
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(self._descriptor, data) :]


def configure(level: str, form: Literal["json", "text"]) -> None:
    """Send the logs of this process, and Python's warnings, to stderr."""
    handler = Aside(sys.__stderr__.fileno() if sys.__stderr__ else 2)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    for former in root.handlers[:]:
        root.removeHandler(former)
        former.close()
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.captureWarnings(True)


def open_standard_streams() -> None:
    """Put /dev/null where a standard descriptor is closed.

    Else the next file or socket takes its number, and what is meant for standard output goes there; a jail gets the
    first three anew, and libuv ends a process that closes one of them.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def finish() -> None:
    """End the log, and drop what the standard streams could not write, on a full disk say: else the status is 120."""
    for handler in logging.getLogger().handlers:
        handler.close()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
