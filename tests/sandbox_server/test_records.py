"""What is told of every call: to the log, to Prometheus, to an OpenTelemetry collector."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import urllib.request
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from sandbox_server import errors, logs
from sandbox_server.client import ClientConfig, connect
from sandbox_server.config import ServerConfig
from sandbox_server.jail import SandboxConfig, open_sandbox
from sandbox_server.jobs import Job, Outcome, Verdict
from sandbox_server.server import serving
from sandbox_server.settings import SettingsError
from sandbox_server.v1 import sandbox_pb2 as pb
from sandbox_server.v1 import sandbox_pb2_grpc as pb_grpc
from tests.fakes import FakeSandbox, passes

JOB = Job(code="1", request_id="a")


async def one_fails(job: Job) -> Outcome:
    return Outcome(Verdict.FAILED) if job.code == "fails" else await passes(job)


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def test_prometheus_sees_runs_refusals_hits_and_the_queue(tmp_path) -> None:
    metrics = f"127.0.0.1:{free_port()}"
    config = ServerConfig(address=f"unix:{tmp_path}/s.sock", metrics_address=metrics)
    async with serving(FakeSandbox(one_fails), config) as address, connect(address) as sandbox:
        for code, cache in (("1", True), ("1", True), ("1", False), ("fails", False)):
            await sandbox.run(Job(code=code, cache=cache))
        with pytest.raises(errors.InvalidJob):
            await sandbox.run(Job(code="1", repeat=1000))
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://{metrics}/metrics").read().decode())
    lines = text.splitlines()
    for line in (
        'sandbox_runs_total{runtime="python",verdict="PASSED"} 2.0',
        'sandbox_runs_total{runtime="python",verdict="FAILED"} 1.0',
        "sandbox_cache_hits_total 1.0",
        'sandbox_refusals_total{status="INVALID_ARGUMENT"} 1.0',
        "sandbox_queue_wait_seconds_count 3.0",
        'sandbox_run_seconds_count{runtime="python"} 3.0',
        "sandbox_queue_length 0.0",
        "sandbox_running 0.0",
    ):
        assert line in lines


def kill_jails() -> None:
    for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split():
        if b"nsjail" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(int(pid), signal.SIGKILL)


@pytest.mark.nsjail
async def test_prometheus_sees_a_jail_that_breaks(tmp_path) -> None:
    metrics = f"127.0.0.1:{free_port()}"
    config = ServerConfig(address=f"unix:{tmp_path}/s.sock", metrics_address=metrics)
    jails = await open_sandbox(SandboxConfig(slots=1))
    try:
        async with serving(jails, config) as address, connect(address, ClientConfig(retry_for_s=0)) as sandbox:
            run = asyncio.create_task(sandbox.run(Job(code="import time; time.sleep(60)")))
            await asyncio.sleep(0.5)
            kill_jails()
            with pytest.raises(errors.Unavailable):
                await run
            assert (await sandbox.run(JOB)).verdict is Verdict.EXITED
            text = await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://{metrics}/metrics").read().decode())
    finally:
        await jails.close()
    assert "sandbox_jails_lost 1.0" in text.splitlines()


async def test_a_name_that_nobody_serves_makes_no_new_series(tmp_path) -> None:
    metrics = f"127.0.0.1:{free_port()}"
    config = ServerConfig(address=f"unix:{tmp_path}/s.sock", metrics_address=metrics)
    async with serving(FakeSandbox(), config) as address, connect(address) as sandbox:
        for number in range(5):
            with pytest.raises(errors.InvalidJob):
                await sandbox.run(Job(code="1", runtime=f"made-up-{number}"))
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://{metrics}/metrics").read().decode())
    assert "made-up" not in text


async def test_a_metrics_address_in_use_or_none_is_refused(tmp_path) -> None:
    async with serving(FakeSandbox(), ServerConfig(address="127.0.0.1:0")) as taken:
        for bad in (taken, "127.0.0.1:x", "nowhere.invalid:1", "127.0.0.1:99999"):
            config = ServerConfig(address=f"unix:{tmp_path}/s.sock", metrics_address=bad)
            with pytest.raises(SettingsError, match=r"metrics_address: .* cannot be bound"):
                async with serving(FakeSandbox(), config):
                    pytest.fail("served")


async def test_the_log_has_a_record_for_every_run_when_asked(tmp_path, caplog) -> None:
    caplog.set_level(logging.INFO)
    config = ServerConfig(address=f"unix:{tmp_path}/s.sock", log_runs=True)
    async with serving(FakeSandbox(one_fails), config) as address, connect(address) as sandbox:
        await sandbox.run(JOB)
        with pytest.raises(errors.InvalidJob):
            await sandbox.run(Job(code="1", request_id="b", repeat=1000))
    ran, refused = [record for record in caplog.records if record.message == "run"]
    assert (ran.request_id, ran.status, ran.verdict, ran.runtime) == ("a", "OK", "PASSED", "python")
    assert (refused.request_id, refused.status, refused.verdict) == ("b", "INVALID_ARGUMENT", "")


def test_a_log_line_is_one_json_object_whatever_is_in_it() -> None:
    record = logging.makeLogRecord(
        {"msg": "said %s", "args": ("a\nb\x1b[31m",), "levelname": "INFO", "request_id": "\ud800\n"}
    )
    line = logs.JsonFormatter().format(record)
    assert "\n" not in line
    assert "\x1b" not in line
    entry = json.loads(line)
    assert (entry["message"], entry["request_id"], entry["level"]) == ("said a\nb\x1b[31m", "\ud800\n", "info")


class Collector:
    """An OTLP collector over gRPC that keeps the spans."""

    def __init__(self) -> None:
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as messages
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service

        self.spans = []

        class Servicer(service.TraceServiceServicer):
            def Export(_self, request, _context):  # noqa: N802, N805
                for resource in request.resource_spans:
                    for scope in resource.scope_spans:
                        self.spans.extend(scope.spans)
                return messages.ExportTraceServiceResponse()

        self.server = grpc.server(futures.ThreadPoolExecutor(1))
        service.add_TraceServiceServicer_to_server(Servicer(), self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")

    @contextlib.contextmanager
    def listening(self):
        self.server.start()
        try:
            yield f"http://127.0.0.1:{self.port}"
        finally:
            self.server.stop(None).wait()


async def test_a_run_is_a_span_in_the_callers_trace(tmp_path) -> None:
    collector = Collector()
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    with collector.listening() as endpoint:
        config = ServerConfig(address=f"unix:{tmp_path}/s.sock", trace_endpoint=endpoint)
        async with serving(FakeSandbox(), config) as address, grpc.aio.insecure_channel(address) as channel:
            metadata = [("traceparent", f"00-{trace}-{parent}-01")]
            request = pb.ExecuteRequest(code="1", request_id="a")
            await pb_grpc.SandboxServiceStub(channel).Execute(request, metadata=metadata)
    (span,) = collector.spans
    assert (span.name, span.trace_id.hex(), span.parent_span_id.hex()) == ("sandbox.run", trace, parent)
    attributes = {attribute.key: attribute.value.string_value for attribute in span.attributes}
    assert (attributes["sandbox.request_id"], attributes["sandbox.verdict"]) == ("a", "PASSED")
    assert span.end_time_unix_nano >= span.start_time_unix_nano


@pytest.mark.parametrize(
    ("settings", "package"),
    [
        ({"metrics_address": "127.0.0.1:0"}, "prometheus_client"),
        ({"trace_endpoint": "http://127.0.0.1:1"}, "opentelemetry.sdk.trace"),
    ],
)
async def test_an_extra_that_is_not_installed_is_named(tmp_path, monkeypatch, settings, package) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(SettingsError, match=r"pip install 'selfalign\[(metrics|tracing)\]'"):
        async with serving(FakeSandbox(), ServerConfig(address=f"unix:{tmp_path}/s.sock", **settings)):
            pytest.fail("served")
