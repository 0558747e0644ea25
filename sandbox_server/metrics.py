"""Prometheus metrics, on a port of their own. Needs the extra `metrics`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sandbox_server.admission import Admission
from sandbox_server.records import CallRecord, Listener
from sandbox_server.sandbox import CountsJails, Sandbox
from sandbox_server.settings import SettingsError

# From a warm run on an idle machine to a run at its wall time limit.
_BUCKETS_S = (0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.125, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300)


@contextlib.contextmanager
def exposing(address: str, admission: Admission, sandbox: Sandbox) -> Iterator[Listener]:
    """Serve metrics at ``http://address/metrics`` and yield what feeds them.

    Raises:
        SettingsError: prometheus-client is not installed, or the address cannot be bound.
    """
    try:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
    except ImportError as error:
        raise SettingsError("metrics_address: needs prometheus-client: pip install 'selfalign[metrics]'") from error
    registry = CollectorRegistry()
    runs = Counter("sandbox_runs", "Programs that ran to a verdict.", ["runtime", "verdict"], registry=registry)
    hits = Counter("sandbox_cache_hits", "Answers from the verdict cache.", registry=registry)
    refusals = Counter("sandbox_refusals", "Requests without a verdict, by status.", ["status"], registry=registry)
    waits = Histogram(
        "sandbox_queue_wait_seconds", "From a request to its slot.", buckets=_BUCKETS_S, registry=registry
    )
    times = Histogram("sandbox_run_seconds", "In the slot.", ["runtime"], buckets=_BUCKETS_S, registry=registry)
    Gauge("sandbox_queue_length", "Requests that wait.", registry=registry).set_function(lambda: admission.waiting)
    Gauge("sandbox_running", "Programs that run.", registry=registry).set_function(lambda: admission.running)

    if isinstance(sandbox, CountsJails):
        started = Gauge(
            "sandbox_jails_started", "Jails started since the server was, renewed ones included.", registry=registry
        )
        started.set_function(lambda: sandbox.jails_started)
        lost = Gauge("sandbox_jails_lost", "Jails that broke and were replaced.", registry=registry)
        lost.set_function(lambda: sandbox.jails_lost)

    def listen(record: CallRecord) -> None:
        if record.status != "OK":
            refusals.labels(record.status).inc()
            return
        if record.cached:
            hits.inc()
            return
        runs.labels(record.runtime, record.verdict).inc()
        waits.observe(record.queue_wait_s)
        times.labels(record.runtime).observe(record.run_s)

    host, _, port = address.rpartition(":")
    try:
        server, thread = start_http_server(int(port), host.strip("[]"), registry)
    except (OSError, ValueError, OverflowError) as error:
        raise SettingsError(f"metrics_address: {address!r} cannot be bound: {error}") from error
    try:
        yield listen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
