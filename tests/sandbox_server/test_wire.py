"""The wire carries every value of `jobs` unchanged, and refuses what it cannot hold."""

from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_server import wire
from sandbox_server.errors import Broken, InvalidJob
from sandbox_server.jobs import (
    AssertionFailure,
    Assurance,
    File,
    Job,
    Judge,
    LimitsRequest,
    Outcome,
    ProgramError,
    TestReport,
    Usage,
    Verdict,
)
from sandbox_server.v1 import sandbox_pb2 as pb
from sandbox_server.wire import MOST_FIELDS, request_from_bytes, requests_from_bytes
from tests.fakes import INFO

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
COUNTS = st.integers(0, 2**31 - 1)
FILES = st.lists(st.builds(File, TEXT, st.binary(max_size=20), st.booleans()), max_size=3).map(tuple)
LIMITS = st.builds(LimitsRequest, *(st.none() | st.integers(-(2**63), 2**63 - 1) for _ in wire.LIMIT_FIELDS))
JOBS = st.builds(
    Job,
    code=TEXT,
    tests=TEXT,
    argv=st.lists(TEXT, max_size=3).map(tuple),
    request_id=TEXT,
    runtime=TEXT.filter(bool),
    expect_tests=st.booleans(),
    stdin=st.binary(max_size=20),
    files=FILES,
    env=st.dictionaries(TEXT, TEXT, max_size=3).map(lambda env: tuple(sorted(env.items()))),
    collect=st.lists(TEXT, max_size=3).map(tuple),
    limits=LIMITS,
    judge=st.sampled_from(Judge),
    entry_point=TEXT,
    random_seed=st.none() | st.integers(0, 2**64 - 1),
    repeat=st.integers(1, 2**32 - 1),
    cache=st.booleans(),
)
FLOATS = st.floats(0, 1e9)
FAILURES = st.builds(AssertionFailure, COUNTS, TEXT, TEXT, TEXT, TEXT, TEXT)
OUTCOMES = st.builds(
    Outcome,
    verdict=st.sampled_from(Verdict),
    assurance=st.sampled_from(Assurance),
    request_id=TEXT,
    exit_code=st.none() | st.integers(0, 255),
    signal=st.none() | st.integers(1, 64),
    stdout=st.binary(max_size=20),
    stderr=st.binary(max_size=20),
    stdout_truncated=st.booleans(),
    stderr_truncated=st.booleans(),
    usage=st.builds(Usage, FLOATS, FLOATS, COUNTS, FLOATS),
    tests=st.none() | st.builds(TestReport, COUNTS, COUNTS, st.booleans(), st.none() | FAILURES),
    error=st.none() | st.builds(ProgramError, TEXT, TEXT, TEXT, COUNTS),
    files=FILES,
    files_refused=st.lists(TEXT, max_size=3).map(tuple),
    runtime_fingerprint=TEXT,
    repeat_verdicts=st.lists(st.sampled_from(Verdict), max_size=3).map(tuple),
    flaky=st.booleans(),
    cached=st.booleans(),
)


@given(JOBS)
@settings(max_examples=50)
def test_a_job_survives_the_wire(job: Job) -> None:
    message = pb.ExecuteRequest.FromString(wire.job_to_wire(job).SerializeToString())
    assert wire.job_from_wire(message) == job


@given(OUTCOMES)
@settings(max_examples=50)
def test_an_outcome_survives_the_wire(outcome: Outcome) -> None:
    message = pb.ExecuteResponse.FromString(wire.outcome_to_wire(outcome).SerializeToString())
    assert wire.outcome_from_wire(message) == outcome


def test_info_survives_the_wire() -> None:
    message = pb.GetInfoResponse.FromString(wire.info_to_wire(INFO).SerializeToString())
    assert wire.info_from_wire(message) == INFO


@pytest.mark.parametrize(
    ("enum", "message", "to_wire"),
    [
        (Verdict, pb.Verdict, wire.VERDICT_TO_WIRE),
        (Assurance, pb.Assurance, wire.ASSURANCE_TO_WIRE),
        (Judge, pb.Judge, wire.JUDGE_TO_WIRE),
    ],
)
def test_every_value_of_an_enum_has_its_own_number_and_none_is_left_over(enum, message, to_wire) -> None:
    assert set(to_wire) == set(enum)
    assert sorted(to_wire.values()) == sorted(set(message.values()) - {0})


def test_the_fields_of_job_and_outcome_are_those_of_the_messages() -> None:
    job_fields = {field.name for field in dataclasses.fields(Job)}
    assert job_fields | {"timeout_ms", "cancel"} == set(pb.ExecuteRequest.DESCRIPTOR.fields_by_name)
    outcome_fields = {field.name for field in dataclasses.fields(Outcome)}
    assert outcome_fields | {"refusal"} == set(pb.ExecuteResponse.DESCRIPTOR.fields_by_name)


def test_an_empty_request_means_the_defaults() -> None:
    assert wire.job_from_wire(pb.ExecuteRequest()) == Job()


def test_a_judge_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(InvalidJob, match=r"^judge: 77 is not a judge"):
        wire.job_from_wire(pb.ExecuteRequest(judge=77))


@pytest.mark.parametrize(
    ("job", "field"),
    [
        (Job(code="x = '\ud800'"), "code"),
        (Job(code="1", tests="\udfff"), "tests"),
        (Job(code="1", files=(File("a", b""), File("\ud800", b""))), "files[1]"),
        (Job(code="1", env=(("A", "\ud800"),)), "env"),
        (Job(code="1", env=(("A", "1"), ("A", "2"))), "env"),
        (Job(code="1", repeat=-1), "repeat"),
        (Job(code="1", random_seed=2**64), "random_seed"),
        (Job(code="1", limits=LimitsRequest(memory_bytes=2**63)), "limits.memory_bytes"),
        (Job(code="1", stdin="text"), "stdin"),  # type: ignore[arg-type]
    ],
)
def test_a_value_that_no_message_can_hold_is_refused_by_field(job: Job, field: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        wire.job_to_wire(job)
    assert caught.value.field == field


def test_text_of_a_program_that_is_not_unicode_is_escaped() -> None:
    outcome = Outcome(Verdict.ERROR, error=ProgramError("ValueError", "bad \ud800 text"), stdout=b"\xff")
    back = wire.outcome_from_wire(wire.outcome_to_wire(outcome))
    assert back.error == ProgramError("ValueError", "bad \\ud800 text")
    assert back.stdout == b"\xff"


def test_bytes_that_are_no_request_become_a_refusal() -> None:
    assert isinstance(wire.request_from_bytes(b"\xff\xff\xff"), InvalidJob)
    not_utf8 = b"\x1a\x02\xff\xfe"  # field 3, `code`
    assert isinstance(wire.request_from_bytes(not_utf8), InvalidJob)


def test_a_verdict_of_a_newer_server_is_broken_and_not_guessed() -> None:
    with pytest.raises(Broken, match="verdict 99"):
        wire.outcome_from_wire(pb.ExecuteResponse(verdict=99, assurance=1))
    with pytest.raises(Broken, match="verdict 0"):
        wire.outcome_from_wire(pb.ExecuteResponse())


def test_messages_of_very_many_fields_are_refused_before_they_are_parsed() -> None:
    empty_file = pb.ExecuteRequest(files=[pb.File()]).SerializeToString()
    empty_request = pb.ExecuteRequests(requests=[pb.ExecuteRequest()]).SerializeToString()
    arguments = pb.ExecuteRequest(argv=[""] * MOST_FIELDS)
    refusal = request_from_bytes(empty_file * (MOST_FIELDS + 1))
    assert isinstance(refusal, InvalidJob)
    assert str(refusal) == f"request: more than {MOST_FIELDS} fields in one message"
    assert isinstance(requests_from_bytes(empty_request * (MOST_FIELDS + 1)), InvalidJob)
    assert isinstance(requests_from_bytes(pb.ExecuteRequests(requests=[arguments]).SerializeToString()), InvalidJob)
    few = requests_from_bytes(empty_request * 1000)
    assert isinstance(few, pb.ExecuteRequests)
    assert len(few.requests) == 1000


@pytest.mark.parametrize("seed", range(20))
def test_fields_are_counted_as_the_parser_finds_them(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    message = pb.ExecuteRequests()
    fields = 0
    for _ in range(chance.randrange(1, 6)):
        request = message.requests.add(
            request_id="x" * chance.randrange(3),
            code="y" * chance.choice((0, 1, 200, 70_000)),
            argv=[""] * chance.randrange(4),
            repeat=chance.randrange(300),
            timeout_ms=chance.randrange(-5, 5),
            env={str(number): "" for number in range(chance.randrange(4))},
        )
        for _ in range(chance.randrange(4)):
            request.files.add(path="a")
        fields += (
            1 + sum(map(bool, (request.request_id, request.code, request.repeat))) + 1
        )  # timeout_ms is always there
        fields += len(request.argv) + len(request.env) + len(request.files)
    data = message.SerializeToString()
    monkeypatch.setattr(wire, "_LEAST_FIELD_BYTES", 0)
    monkeypatch.setattr(wire, "MOST_FIELDS", fields)
    assert isinstance(requests_from_bytes(data), pb.ExecuteRequests)
    monkeypatch.setattr(wire, "MOST_FIELDS", fields - 1)
    assert isinstance(requests_from_bytes(data), InvalidJob)
    for broken in (data[:-1], b"\xff" * (1 << 20)):  # the parser's own refusal
        assert isinstance(requests_from_bytes(broken), InvalidJob)
