"""No request can crash or hang the server: bounded fuzzing of the wire, before a fake and before the real sandbox."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import Iterator

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox_server.client import connect_blocking
from sandbox_server.config import ServerConfig
from sandbox_server.jobs import Job, Limits, Verdict
from sandbox_server.server import serving
from sandbox_server.v1 import sandbox_pb2 as pb
from sandbox_server.wire import SERVICE
from tests.fakes import FakeSandbox

Code = grpc.StatusCode
# INTERNAL, UNKNOWN and UNAVAILABLE are the server's fault, whatever it was sent.
CALLERS_FAULT = {Code.INVALID_ARGUMENT, Code.UNIMPLEMENTED}
FIELDS = "|".join((*pb.ExecuteRequest.DESCRIPTOR.fields_by_name, "request"))
NAMES_A_FIELD = re.compile(rf"^({FIELDS})(\[\d+\])?(\.\w+)?: ")
WAIT_S = 60

EVIL = st.sampled_from(
    ["", "\0", "../x", "/etc/passwd", "a/../../b", "a\nb", "\x1b[31m", "\u202e", "𐏿" * 200, "-rf", "*", "[", "python"]
)
TEXT = st.one_of(EVIL, st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
INT64 = st.one_of(st.sampled_from([0, -1, 1, 2**31, 2**63 - 1, -(2**63)]), st.integers(-(2**63), 2**63 - 1))
PROGRAM = st.one_of(
    TEXT,
    st.sampled_from(
        [
            "import os; os._exit(0)",
            "raise SystemExit(7)",
            "1/0",
            "def f(:",
            "# coding: nonsense\nx",
            "print('x' * 100000)",
            "assert False",
            "(" * 5000,
            "import sys; sys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
        ]
    ),
)


def message(cls, **fields):
    return st.fixed_dictionaries({}, optional=fields).map(lambda given: cls(**given))


REQUESTS = message(
    pb.ExecuteRequest,
    request_id=TEXT,
    runtime=st.one_of(st.just("python"), TEXT),
    code=PROGRAM,
    tests=PROGRAM,
    expect_tests=st.booleans(),
    argv=st.lists(TEXT, max_size=3),
    stdin=st.binary(max_size=100),
    files=st.lists(message(pb.File, path=TEXT, content=st.binary(max_size=50), executable=st.booleans()), max_size=3),
    env=st.dictionaries(TEXT, TEXT, max_size=3),
    collect=st.lists(TEXT, max_size=3),
    limits=message(pb.Limits, **dict.fromkeys(Limits.__slots__, INT64)),
    judge=st.integers(-(2**31), 2**31 - 1) | st.integers(0, 2),
    entry_point=TEXT,
    random_seed=st.integers(0, 2**64 - 1),
    repeat=st.one_of(st.integers(0, 3), st.integers(0, 2**32 - 1)),
    cache=st.booleans(),
    timeout_ms=INT64,
    cancel=st.booleans(),
)


@contextlib.contextmanager
def a_channel(address: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(address) as channel:
        yield channel


@pytest.fixture(scope="module")
def fake_server(tmp_path_factory) -> Iterator[grpc.Channel]:
    address = f"unix:{tmp_path_factory.mktemp('fuzz')}/s.sock"
    started, stop = threading.Event(), asyncio.Event()
    loops = []

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        async with serving(FakeSandbox(), ServerConfig(address=address, drain_grace_s=1)):
            started.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    assert started.wait(20)
    with a_channel(address) as channel:
        yield channel
    loops[0].call_soon_threadsafe(stop.set)
    thread.join()


@pytest.fixture(scope="module")
def real_server() -> Iterator[grpc.Channel]:
    with connect_blocking("embedded") as sandbox, a_channel(sandbox.address) as channel:
        yield channel
        outcome = sandbox.run(Job(code="def f(): return 1", tests="assert f() == 1"))
        assert outcome.verdict is Verdict.PASSED  # it still does what it is for


def execute(channel: grpc.Channel, data: bytes) -> Code:
    """Send bytes as one call; answers the status, after checking that a refusal names the field."""
    call = channel.unary_unary(f"/{SERVICE}/Execute", response_deserializer=pb.ExecuteResponse.FromString)
    try:
        response = call(data, timeout=WAIT_S)
    except grpc.RpcError as error:
        code, details = error.code(), error.details()
    else:
        code, details = Code.OK, ""
    if code is Code.INVALID_ARGUMENT:
        assert NAMES_A_FIELD.match(details), details
    if code is not Code.OK:
        return code
    assert response.verdict in pb.Verdict.values()
    assert response.verdict
    assert response.assurance
    return Code.OK


def stream(channel: grpc.Channel, requests: list[bytes]) -> list[pb.ExecuteResponse]:
    """Send all as one stream; answers what came back."""
    call = channel.stream_stream(f"/{SERVICE}/ExecuteStream", response_deserializer=pb.ExecuteResponse.FromString)
    return list(call(iter(requests), timeout=WAIT_S))


@given(st.binary(max_size=200))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_answered(fake_server, data) -> None:
    assert execute(fake_server, data) in CALLERS_FAULT | {Code.OK}


@given(REQUESTS)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_request_is_answered(fake_server, request_) -> None:
    assert execute(fake_server, request_.SerializeToString()) in CALLERS_FAULT | {Code.OK}


@given(st.lists(st.one_of(st.binary(max_size=60), REQUESTS.map(pb.ExecuteRequest.SerializeToString)), max_size=8))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_stream_is_answered_one_for_one(fake_server, requests) -> None:
    wanted = 0
    for data in requests:
        try:
            wanted += not pb.ExecuteRequest.FromString(data).cancel
        except Exception:
            wanted += 1
    answers = stream(fake_server, requests)
    assert len(answers) == wanted
    faults = {code.value[0] for code in CALLERS_FAULT | {Code.CANCELLED, Code.DEADLINE_EXCEEDED}}
    assert {answer.refusal.code for answer in answers if answer.HasField("refusal")} <= faults


@given(st.lists(st.one_of(st.binary(max_size=60), st.lists(REQUESTS, max_size=4)), max_size=4))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_batches_are_answered_one_for_one(fake_server, messages) -> None:
    sent, wanted = [], 0
    for message in messages:
        data = message if isinstance(message, bytes) else pb.ExecuteRequests(requests=message).SerializeToString()
        sent.append(data)
        try:
            wanted += sum(not request.cancel for request in pb.ExecuteRequests.FromString(data).requests)
        except Exception:
            wanted += 1
    method = f"/{SERVICE}/ExecuteBatches"
    call = fake_server.stream_stream(method, response_deserializer=pb.ExecuteResponses.FromString)
    answers = [answer for message in call(iter(sent), timeout=WAIT_S) for answer in message.responses]
    assert len(answers) == wanted
    faults = {code.value[0] for code in CALLERS_FAULT | {Code.CANCELLED, Code.DEADLINE_EXCEEDED}}
    assert {answer.refusal.code for answer in answers if answer.HasField("refusal")} <= faults


@pytest.mark.nsjail
@given(REQUESTS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_request_is_answered_by_the_real_one(real_server, request_) -> None:
    for name in ("wall_time_ms", "cpu_time_ms"):  # what is asked for here is not patience
        if getattr(request_.limits, name) > 2000:
            setattr(request_.limits, name, 2000)
    assert execute(real_server, request_.SerializeToString()) in CALLERS_FAULT | {Code.OK}


@pytest.mark.nsjail
@given(st.lists(PROGRAM, min_size=1, max_size=6))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_program_gets_a_verdict_of_the_real_one(real_server, programs) -> None:
    requests = [
        pb.ExecuteRequest(request_id=str(number), code=program, tests="assert f() == 1")
        for number, program in enumerate(programs)
    ]
    answers = stream(real_server, [request.SerializeToString() for request in requests])
    assert sorted(answer.request_id for answer in answers) == [str(number) for number in range(len(programs))]
    assert all(answer.verdict for answer in answers)
