"""Translate between the plain values of `jobs` and the messages of the wire, both ways.

The tables are total over the enums: a verdict that the wire does not know cannot be added unnoticed. `job_from_wire`
refuses what the types of `jobs` cannot hold; whether a job makes sense is `validation`'s subject.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from google.protobuf.message import DecodeError

from sandbox_server.errors import Broken, InvalidJob
from sandbox_server.jobs import (
    AssertionFailure,
    Assurance,
    File,
    Isolation,
    Job,
    Judge,
    Limits,
    LimitsRequest,
    Outcome,
    ProgramError,
    RuntimeInfo,
    SandboxInfo,
    TestReport,
    Usage,
    Verdict,
)
from sandbox_server.v1 import sandbox_pb2 as pb

T = TypeVar("T")

SERVICE = pb.DESCRIPTOR.services_by_name["SandboxService"].full_name
# Metadata. Clients on one machine share an address, so they may say which of them they are; fairness goes by that.
CLIENT_KEY = "sandbox-client"
# How many requests the server holds of one stream, and how large each may be.
WINDOW_KEY = "sandbox-stream-window"
MAX_MESSAGE_KEY = "sandbox-max-message-bytes"
# What a message of several adds to each, and how large it gets before what is left goes into the next.
ENVELOPE_BYTES = 16
TOGETHER_BYTES = 1 << 20
# Fields of a message, repeated ones each by itself and those of requests that travel together included.
MOST_FIELDS = 1 << 18
_LEAST_FIELD_BYTES = 2
_CROWDED = f"more than {MOST_FIELDS} fields in one message"
# How the wire format tells apart what follows a field's key.
_VARINT, _BYTES = 0, 2
_FIXED_BYTES = {1: 8, 5: 4}
_REQUESTS_KEY = pb.ExecuteRequests.REQUESTS_FIELD_NUMBER << 3 | _BYTES
DEFAULT_RUNTIME = "python"
LIMIT_FIELDS = tuple(field.name for field in dataclasses.fields(Limits))

# The values are ints; Any, because the generated stubs give each enum an int type of its own.
VERDICT_TO_WIRE: dict[Verdict, Any] = {verdict: pb.Verdict.Value(f"VERDICT_{verdict.name}") for verdict in Verdict}
VERDICT_FROM_WIRE: dict[int, Verdict] = {number: verdict for verdict, number in VERDICT_TO_WIRE.items()}
ASSURANCE_TO_WIRE: dict[Assurance, Any] = {
    assurance: pb.Assurance.Value(f"ASSURANCE_{assurance.name}") for assurance in Assurance
}
ASSURANCE_FROM_WIRE: dict[int, Assurance] = {number: assurance for assurance, number in ASSURANCE_TO_WIRE.items()}
JUDGE_TO_WIRE: dict[Judge, Any] = {judge: pb.Judge.Value(f"JUDGE_{judge.name}") for judge in Judge}
JUDGE_FROM_WIRE: dict[int, Judge] = {number: judge for judge, number in JUDGE_TO_WIRE.items()}
JUDGE_FROM_WIRE[pb.JUDGE_UNSPECIFIED] = Judge.SAME_INTERPRETER


# ---------------------------------------------------------------------------------------------------------------- jobs


def job_to_wire(job: Job) -> pb.ExecuteRequest:
    """Write a job as a request.

    Raises:
        InvalidJob: a value does not fit its field (text that is not Unicode, a number out of range).
    """
    try:
        request = pb.ExecuteRequest(
            request_id=job.request_id,
            runtime=job.runtime,
            code=job.code,
            tests=job.tests,
            expect_tests=job.expect_tests,
            argv=job.argv,
            stdin=job.stdin,
            env=dict(job.env),
            collect=job.collect,
            entry_point=job.entry_point,
            random_seed=job.random_seed,
            repeat=job.repeat,
            cache=job.cache,
        )
        for file in job.files:
            request.files.add(path=file.path, content=file.content, executable=file.executable)
    except (ValueError, TypeError) as error:
        raise InvalidJob(*_misfit(job, error)) from error
    if len(request.env) != len(job.env):
        raise InvalidJob("env", "names a variable twice")
    if job.judge is not Judge.SAME_INTERPRETER:
        request.judge = JUDGE_TO_WIRE[job.judge]
    if job.limits != _NO_LIMITS:
        _limits_to_wire(job.limits, request.limits)
    return request


def job_from_wire(request: pb.ExecuteRequest) -> Job:
    """Read a request as a job.

    Raises:
        InvalidJob: `judge` holds a number that is no judge.
    """
    judge = JUDGE_FROM_WIRE.get(request.judge)
    if judge is None:
        raise InvalidJob("judge", f"{request.judge} is not a judge; there are {_names(Judge)}")
    return Job(
        code=request.code,
        tests=request.tests,
        argv=tuple(request.argv),
        request_id=request.request_id,
        runtime=request.runtime or DEFAULT_RUNTIME,
        expect_tests=request.expect_tests,
        stdin=request.stdin,
        files=tuple(map(_file_from_wire, request.files)),
        env=tuple(sorted(request.env.items())),
        collect=tuple(request.collect),
        limits=_limits_request_from_wire(request.limits) if request.HasField("limits") else _NO_LIMITS,
        judge=judge,
        entry_point=request.entry_point,
        random_seed=request.random_seed if request.HasField("random_seed") else None,
        repeat=request.repeat or 1,
        cache=request.cache,
    )


def request_from_bytes(data: bytes) -> pb.ExecuteRequest | InvalidJob:
    """Parse a request; bytes that are none become a value, so that the caller gets INVALID_ARGUMENT for them.

    A deserialiser that raises makes gRPC answer INTERNAL, as if the server were at fault.
    """
    if _is_crowded(data):
        return InvalidJob("request", _CROWDED)
    try:
        return pb.ExecuteRequest.FromString(data)
    except DecodeError:
        return InvalidJob("request", "is not an ExecuteRequest: its bytes do not parse, or a text field is not UTF-8")


def requests_from_bytes(data: bytes) -> pb.ExecuteRequests | InvalidJob:
    """The same for requests that travel together."""
    if _is_crowded(data, together=True):
        return InvalidJob("requests", _CROWDED)
    try:
        return pb.ExecuteRequests.FromString(data)
    except DecodeError:
        return InvalidJob("requests", "are not ExecuteRequests: their bytes do not parse, or a text field is not UTF-8")


def _is_crowded(data: bytes, together: bool = False) -> bool:
    """Are there more fields than an honest message has? Asked of the bytes, because parsing them is what costs.

    An empty file, argument or request is two bytes here, and a hundred times as many when it is parsed.

    Args:
        data: a message.
        together: of several requests, whose own fields count too.
    """
    if len(data) <= MOST_FIELDS * _LEAST_FIELD_BYTES:
        return False
    place = request_end = 0
    try:
        for _ in range(MOST_FIELDS):
            if place >= len(data):
                return False
            key, place = _varint(data, place)
            kind = key & 7
            if kind == _VARINT:
                _, place = _varint(data, place)
            elif kind == _BYTES:
                size, place = _varint(data, place)
                if together and place > request_end and key == _REQUESTS_KEY:
                    request_end = place + size
                else:
                    place += size
            else:
                place += _FIXED_BYTES.get(kind, 0)
    except IndexError:  # cut short, or no number: the parser will say so
        return False
    return place < len(data)


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """The number at `place`, and where it ends."""
    value = 0
    for shift in range(0, 64, 7):
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise IndexError("no number is longer")


# ------------------------------------------------------------------------------------------------------------ outcomes


def outcome_to_wire(outcome: Outcome) -> pb.ExecuteResponse:
    """Write an outcome as a response. Text that is not Unicode (a program can make any) is written with escapes."""
    try:
        return _outcome_to_wire(outcome)
    except ValueError:  # UnicodeEncodeError is one
        return _outcome_to_wire(_scrubbed(outcome))


def outcome_from_wire(response: pb.ExecuteResponse) -> Outcome:
    """Read a response as an outcome.

    Raises:
        Broken: the server answered with a verdict or an assurance that this client does not know.
    """
    return Outcome(
        verdict=_known(VERDICT_FROM_WIRE, response.verdict, "verdict"),
        assurance=_known(ASSURANCE_FROM_WIRE, response.assurance, "assurance"),
        request_id=response.request_id,
        exit_code=response.exit_code if response.HasField("exit_code") else None,
        signal=response.signal if response.HasField("signal") else None,
        stdout=response.stdout,
        stderr=response.stderr,
        stdout_truncated=response.stdout_truncated,
        stderr_truncated=response.stderr_truncated,
        usage=Usage(
            response.usage.wall_time_ms,
            response.usage.cpu_time_ms,
            response.usage.peak_memory_bytes,
            response.usage.queue_wait_ms,
        ),
        tests=_tests_from_wire(response.tests) if response.HasField("tests") else None,
        error=_error_from_wire(response.error) if response.HasField("error") else None,
        files=tuple(map(_file_from_wire, response.files)),
        files_refused=tuple(response.files_refused),
        runtime_fingerprint=response.runtime_fingerprint,
        repeat_verdicts=tuple(_known(VERDICT_FROM_WIRE, number, "verdict") for number in response.repeat_verdicts),
        flaky=response.flaky,
        cached=response.cached,
    )


def _outcome_to_wire(outcome: Outcome) -> pb.ExecuteResponse:
    usage = outcome.usage
    response = pb.ExecuteResponse(
        request_id=outcome.request_id,
        verdict=VERDICT_TO_WIRE[outcome.verdict],
        assurance=ASSURANCE_TO_WIRE[outcome.assurance],
        exit_code=outcome.exit_code,
        signal=outcome.signal,
        stdout=outcome.stdout,
        stderr=outcome.stderr,
        stdout_truncated=outcome.stdout_truncated,
        stderr_truncated=outcome.stderr_truncated,
        usage=pb.Usage(
            wall_time_ms=usage.wall_time_ms,
            cpu_time_ms=usage.cpu_time_ms,
            peak_memory_bytes=usage.peak_memory_bytes,
            queue_wait_ms=usage.queue_wait_ms,
        ),
        files_refused=outcome.files_refused,
        runtime_fingerprint=outcome.runtime_fingerprint,
        repeat_verdicts=[VERDICT_TO_WIRE[verdict] for verdict in outcome.repeat_verdicts],
        flaky=outcome.flaky,
        cached=outcome.cached,
    )
    if outcome.tests is not None:
        _tests_to_wire(outcome.tests, response.tests)
    if outcome.error is not None:
        error = outcome.error
        response.error.CopyFrom(
            pb.ProgramError(type=error.type, message=error.message, traceback=error.traceback, line=error.line)
        )
    for file in outcome.files:
        response.files.add(path=file.path, content=file.content, executable=file.executable)
    return response


def _tests_to_wire(report: TestReport, message: pb.TestReport) -> None:
    message.assertions_run = report.assertions_run
    message.assertions_failed = report.assertions_failed
    message.reached_end = report.reached_end
    message.SetInParent()  # an all-zero report is still a report
    failure = report.first_failure
    if failure is not None:
        message.first_failure.CopyFrom(
            pb.AssertionFailure(
                line=failure.line,
                assertion=failure.assertion,
                left=failure.left,
                operator=failure.operator,
                right=failure.right,
                message=failure.message,
            )
        )


def _tests_from_wire(message: pb.TestReport) -> TestReport:
    failure = None
    if message.HasField("first_failure"):
        first = message.first_failure
        failure = AssertionFailure(first.line, first.assertion, first.left, first.operator, first.right, first.message)
    return TestReport(message.assertions_run, message.assertions_failed, message.reached_end, failure)


def _error_from_wire(message: pb.ProgramError) -> ProgramError:
    return ProgramError(message.type, message.message, message.traceback, message.line)


def _scrubbed(value: Any) -> Any:
    """Copy a value of `jobs` with every text made encodable: lone surrogates become backslash escapes."""
    if type(value) is str:
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, tuple):
        return tuple(map(_scrubbed, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changes = {field.name: _scrubbed(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **changes)
    return value


# ---------------------------------------------------------------------------------------------------------------- info


def info_to_wire(info: SandboxInfo) -> pb.GetInfoResponse:
    """Write what a sandbox is."""
    response = pb.GetInfoResponse(
        version=info.version,
        slots=info.slots,
        queue_size=info.queue_size,
        isolation=pb.Isolation(**{f.name: getattr(info.isolation, f.name) for f in dataclasses.fields(Isolation)}),
        judges=[JUDGE_TO_WIRE[judge] for judge in info.judges],
    )
    for runtime in info.runtimes:
        response.runtimes.add(**{f.name: getattr(runtime, f.name) for f in dataclasses.fields(RuntimeInfo)})
    _limits_to_wire(info.default_limits, response.default_limits)
    _limits_to_wire(info.maximum_limits, response.maximum_limits)
    return response


def info_from_wire(response: pb.GetInfoResponse) -> SandboxInfo:
    """Read what a sandbox is. Judges that this client does not know are left out: it cannot ask for them."""
    isolation = response.isolation
    return SandboxInfo(
        version=response.version,
        runtimes=tuple(
            RuntimeInfo(runtime.name, runtime.interpreter, tuple(runtime.packages), runtime.fingerprint, runtime.warm)
            for runtime in response.runtimes
        ),
        default_limits=_limits_from_wire(response.default_limits),
        maximum_limits=_limits_from_wire(response.maximum_limits),
        slots=response.slots,
        queue_size=response.queue_size,
        isolation=Isolation(
            tuple(isolation.namespaces),
            isolation.seccomp,
            isolation.cgroup,
            isolation.rootless,
            tuple(isolation.warnings),
        ),
        judges=tuple(JUDGE_FROM_WIRE[number] for number in response.judges if number in JUDGE_FROM_WIRE),
    )


# -------------------------------------------------------------------------------------------------------------- shared

_NO_LIMITS = LimitsRequest()


def _limits_to_wire(limits: Limits | LimitsRequest, message: pb.Limits) -> None:
    for name in LIMIT_FIELDS:
        value = getattr(limits, name)
        if value is not None:
            try:
                setattr(message, name, value)
            except (ValueError, TypeError) as error:
                raise InvalidJob(f"limits.{name}", f"{value!r} is not a 64-bit integer") from error


def _limits_request_from_wire(message: pb.Limits) -> LimitsRequest:
    return LimitsRequest(*(getattr(message, name) if message.HasField(name) else None for name in LIMIT_FIELDS))


def _limits_from_wire(message: pb.Limits) -> Limits:
    return Limits(*(getattr(message, name) for name in LIMIT_FIELDS))


def _file_from_wire(message: pb.File) -> File:
    return File(message.path, message.content, message.executable)


def _known(table: dict[int, T], number: int, what: str) -> T:
    try:
        return table[number]
    except KeyError:
        raise Broken(f"the server answered with {what} {number}, which this client does not know: update it") from None


def _names(enum: type[Judge]) -> str:
    return ", ".join(enum)


def _misfit(job: Job, error: Exception) -> tuple[str, str]:
    """Find the field of `job` that no message can hold, and say what is wrong with it."""
    attempts: list[tuple[str, Callable[[], object]]] = [
        (field.name, lambda name=field.name: pb.ExecuteRequest(**{name: getattr(job, name)}))  # type: ignore[misc]
        for field in dataclasses.fields(Job)
        if field.name not in ("files", "env", "limits", "judge")
    ]
    attempts.append(("env", lambda: pb.ExecuteRequest(env=dict(job.env))))
    attempts.extend(
        (f"files[{index}]", lambda file=file: pb.File(path=file.path, content=file.content))  # type: ignore[misc]
        for index, file in enumerate(job.files)
    )
    for name, attempt in attempts:
        try:
            attempt()
        except UnicodeError:
            return name, "holds a lone surrogate, which is not Unicode text"
        except (ValueError, TypeError) as misfit:
            return name, str(misfit)
    return "request", str(error)
