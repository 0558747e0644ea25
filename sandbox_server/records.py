"""What is told of every call once it is over: to the log, to Prometheus, to a tracer. Nobody listens by default."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One program that was asked to run.

    Attributes:
        request_id: the caller's.
        client: who asked, as fairness sees it.
        runtime: what it asked for.
        status: "OK", or the name of the status that it was refused with.
        verdict: how the program ended; empty when it did not run to an end.
        cached: answered from the cache.
        started_ns: when it arrived, nanoseconds since the epoch.
        queue_wait_s: until it had a slot.
        run_s: in the slot.
        traceparent: W3C trace context of the caller; may be empty.
    """

    request_id: str
    client: str
    runtime: str
    status: str
    verdict: str
    cached: bool
    started_ns: int
    queue_wait_s: float
    run_s: float
    traceparent: str


Listener = Callable[[CallRecord], None]


def log_call(record: CallRecord) -> None:
    """Write one structured line."""
    logger.info(
        "run",
        extra={
            "request_id": record.request_id,
            "client": record.client,
            "runtime": record.runtime,
            "status": record.status,
            "verdict": record.verdict,
            "cached": record.cached,
            "queue_wait_ms": round(record.queue_wait_s * 1000, 3),
            "run_ms": round(record.run_s * 1000, 3),
        },
    )
