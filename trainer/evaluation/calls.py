"""Call a program's function with many inputs in one run of the sandbox; what comes back is data, read here.

The values that the outputs are compared with never enter the sandbox, and nothing that comes out of it is executed,
unpickled or trusted: `inside.calls` writes typed JSON, bounded in size, and `decode_value` parses a line when its value
is asked for.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.resources
import importlib.util
import json
import marshal
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sandbox_server.errors import InvalidJob, Unsupported
from sandbox_server.guest.separate.values import CannotCross, Codec, Malformed
from sandbox_server.jobs import File, Job, Limits, LimitsRequest, Outcome, SandboxInfo, Verdict
from sandbox_server.sandbox import Sandbox
from trainer.evaluation.inside import calls as inside

_MAX_LINE_BYTES = 1 << 20
_WALL_PER_CPU = 6  # the backstop for programs that sleep; a loaded host must not reach it with one that computes


class CannotScore(Exception):
    """A sample cannot be run at all; the message names it and says why. Nothing is scored for it."""


class CannotJudge(Exception):
    """The separate judge cannot judge these tests of this program; the message says why. The next sample may do."""


class Opaque:
    """A value that did not come out of its interpreter, having no form outside or too long a one: unequal to all."""

    def __init__(self, type_name: str) -> None:
        self.type_name = type_name

    def __repr__(self) -> str:
        return f"<{self.type_name}>"


class Unreadable(Exception):
    """A line of answers is not what `inside.calls` writes."""


_HERE = importlib.resources.files("trainer.evaluation.inside").joinpath("calls.py").read_bytes()
_CODEC = importlib.resources.files("sandbox_server.guest.separate").joinpath("values.py").read_bytes()
VERSION = hashlib.sha256(_HERE + _CODEC).hexdigest()[:16]
"""Changes with all that decides what answers a program gives."""


@functools.cache
def _modules(interpreter: str) -> tuple[File, ...]:
    """What the sandbox imports: compiled, if its interpreter is the one that runs this, which halves a run's start."""
    same = interpreter == f"{platform.python_implementation()} {platform.python_version()}"
    files = []
    for name, source in ((inside.DRIVER, _HERE), (inside.CODEC, _CODEC)):
        if same:
            code = compile(source, f"{name}.py", "exec", dont_inherit=True, optimize=0)
            header = importlib.util.MAGIC_NUMBER + bytes(12)
            files.append(File(f"{name}.pyc", header + marshal.dumps(code)))
        else:
            files.append(File(f"{name}.py", source))
    return tuple(files)


@dataclass(frozen=True, slots=True)
class Calls:
    """Inputs for one function.

    Attributes:
        entry_point: its name.
        inputs: the arguments of each call, as `encode_inputs` writes them.
        number: of calls.
        typed: they are the codec's nodes, not plain JSON.
        base: the answers to the first so many are kept even if a later call ends the process.
    """

    entry_point: str
    inputs: bytes
    number: int
    typed: bool
    base: int


@dataclass(frozen=True, slots=True)
class Answers:
    """What a program answered.

    Attributes:
        loaded: it ran to its end and has the function.
        values: the line of each value, in the order of the calls, up to the first call without one.
        stopped: why there are fewer than calls; None when there are not.
        error: type and message, where `stopped` is ERROR or SYNTAX_ERROR.
        cpu_time_us: of each call; empty when there are fewer values than calls. The program's own claim.
        outcome: the run's.
        paused: it asked to have these looked at before it goes on.
    """

    loaded: bool
    values: tuple[bytes, ...]
    stopped: Verdict | None
    error: dict[str, Any] | None
    cpu_time_us: tuple[int, ...]
    outcome: Outcome
    paused: bool = False


def encode_inputs(inputs: Sequence[Sequence[Any]], *, typed: bool) -> bytes:
    """Write inputs as one JSON array.

    Args:
        inputs: arguments of each call.
        typed: some are of types that JSON does not have; else it carries them as they are, which is cheaper.
    """
    nodes = [Codec(1).encode(list(arguments)) for arguments in inputs] if typed else inputs
    return json.dumps(nodes, separators=(",", ":")).encode()


def decode_value(line: bytes) -> Any:
    """The value of one line of `Answers.values`.

    Raises:
        Unreadable: no driver wrote it.
    """
    codec = Codec(1)
    try:
        message = codec.loads(line)
        match message:
            case ["=", node]:
                return codec.decode(node)
            case ["x", str() as type_name]:
                return Opaque(type_name[:200])
            case ["#", str() as digest, int() as length]:
                return Opaque(f"long, {length}, hash {digest[:32]}")
    except (Malformed, CannotCross, RecursionError, MemoryError) as error:
        raise Unreadable(str(error)) from None
    raise Unreadable("neither a value nor a type")


async def call(
    program: str,
    calls: Calls,
    *,
    cpu_limits_ms: Sequence[int],
    task_cpu_limit_ms: int,
    limits: LimitsRequest,
    sandbox: Sandbox,
    info: SandboxInfo,
    runtime: str,
    name: str,
    pause_after_ms: int = 0,
    pause_at: int = 0,
) -> Answers:
    """Run `program` and call its function with every input, until one raises or its time is up.

    Args:
        program: whole; it runs as a module, not as ``__main__``.
        calls: what to call.
        cpu_limits_ms: CPU time that each call may take.
        task_cpu_limit_ms: CPU time of the whole run.
        limits: what is given here is not chosen by this function.
        sandbox: where it runs.
        info: what it can do.
        runtime: name of one of its runtimes.
        name: of the sample, for messages.
        pause_after_ms: CPU time after which the answers so far are returned; 0 for never.
        pause_at: number of calls after which they are; 0 for none.

    Raises:
        CannotScore: the sandbox refuses the job.
        SandboxError: the sandbox's own trouble.
    """
    settings = {
        "entry_point": calls.entry_point,
        "typed": calls.typed,
        "base": calls.base,
        "cpu_limits_ms": list(cpu_limits_ms),
        "max_line_bytes": _MAX_LINE_BYTES,
        "pause_after_ms": pause_after_ms,
        "pause_at": pause_at,
    }
    content = json.dumps(settings).encode()[:-1] + b',"inputs":' + calls.inputs + b"}"
    job = Job(
        request_id=name,
        runtime=runtime,
        code=f"import {inside.DRIVER}\n{inside.DRIVER}.main()\n",
        files=(
            *_modules(_interpreter(info, runtime)),
            File(inside.PROGRAM, program.encode("utf-8", "surrogatepass")),
            File(inside.CALLS, content),
        ),
        collect=(inside.ANSWERS,),
        limits=with_defaults(
            limits,
            info.maximum_limits,
            cpu_time_ms=task_cpu_limit_ms,
            wall_time_ms=_WALL_PER_CPU * task_cpu_limit_ms,
            memory_bytes=4 << 30,
        ),
    )
    try:
        outcome = await sandbox.run(job)
    except (InvalidJob, Unsupported) as error:
        raise CannotScore(f"{name} cannot be run: {error}") from error
    return read_answers(outcome, calls.number)


def _interpreter(info: SandboxInfo, runtime: str) -> str:
    return next((one.interpreter for one in info.runtimes if one.name == runtime), "")


def with_defaults(limits: LimitsRequest, maximum: Limits, **wanted: int) -> LimitsRequest:
    """`limits`, where they leave something out completed by `wanted`, as far as the sandbox allows."""
    missing = {
        name: min(value, getattr(maximum, name)) for name, value in wanted.items() if getattr(limits, name) is None
    }
    return dataclasses.replace(limits, **missing)


def read_answers(outcome: Outcome, number: int) -> Answers:
    """Read what a run left, whatever its program made of the file.

    Args:
        outcome: of the run, with the collected file.
        number: of calls.
    """
    content = next((file.content for file in outcome.files if file.path == inside.ANSWERS), b"")
    lines = content.split(b"\n")
    loaded = lines[0] == b'["loaded"]'
    values: list[bytes] = []
    for line in lines[1:] if loaded else ():
        if len(values) == number or not line.startswith((b'["=",', b'["#",', b'["x",')):
            break
        values.append(line)
    rest = lines[len(values) + loaded] if len(values) + loaded < len(lines) else b""
    if len(values) == number:
        return Answers(True, tuple(values), None, None, _cpu_times(rest, number), outcome)
    stopped, error = _reason(rest, outcome)
    return Answers(loaded, tuple(values), stopped, error, (), outcome, paused=rest == b'["pause"]')


def _cpu_times(line: bytes, number: int) -> tuple[int, ...]:
    match _parse(line):
        case ["done", *used] if len(used) == number and all(type(item) is int and item >= 0 for item in used):
            return tuple(used)
    return ()


def _reason(line: bytes, outcome: Outcome) -> tuple[Verdict, dict[str, Any] | None]:
    """Why no further value came: what was seen from outside, else what the program's side says."""
    if outcome.verdict not in (Verdict.EXITED, Verdict.ERROR):
        error = dataclasses.asdict(outcome.error) if outcome.error else None
        return outcome.verdict, error
    match _parse(line):
        case ["!", str() as kind, str() as message]:
            return Verdict.ERROR, {"type": kind[:200], "message": message[:500]}
        case ["syntax", str() as message, int() as where]:
            return Verdict.SYNTAX_ERROR, {"type": "SyntaxError", "message": message[:500], "line": where}
        case ["time"]:
            return Verdict.TIME_LIMIT, None
    return Verdict.INCOMPLETE, None


def _parse(line: bytes) -> Any:
    if len(line) > 1 << 20:
        return None
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
