"""The language of the sandbox: what is asked (`Job`) and what is answered (`Outcome`).

Plain frozen values. Nothing here knows of gRPC, nsjail or processes, and every `Sandbox` speaks it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Verdict(StrEnum):
    """How a program ended. Closed: the sandbox's own trouble is a `SandboxError`, never a verdict."""

    EXITED = "EXITED"
    PASSED = "PASSED"
    FAILED = "FAILED"
    ERROR = "ERROR"
    SYNTAX_ERROR = "SYNTAX_ERROR"
    NO_TESTS = "NO_TESTS"
    INCOMPLETE = "INCOMPLETE"
    TIME_LIMIT = "TIME_LIMIT"
    MEMORY_LIMIT = "MEMORY_LIMIT"
    OUTPUT_LIMIT = "OUTPUT_LIMIT"
    DISK_LIMIT = "DISK_LIMIT"
    PROCESS_LIMIT = "PROCESS_LIMIT"
    KILLED = "KILLED"


class Assurance(StrEnum):
    """How far a verdict can be trusted; see the proto for what each stops."""

    EXIT_CLEAN = "EXIT_CLEAN"
    TESTS_COMPLETED = "TESTS_COMPLETED"
    TESTS_JUDGED = "TESTS_JUDGED"


class Judge(StrEnum):
    """Where the tests run."""

    SAME_INTERPRETER = "SAME_INTERPRETER"
    SEPARATE = "SEPARATE"


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one run; units in the names. A `Limits` inside a sandbox is always complete.

    Attributes:
        wall_time_ms: backstop for programs that sleep or block.
        cpu_time_ms: user and system time of the whole process tree; decides for programs that compute.
        memory_bytes: of the whole process tree, files in the working directory included.
        processes: processes and threads.
        open_files: descriptors of each process.
        file_size_bytes: largest single file.
        disk_bytes: all files together.
        output_bytes: each of stdout and stderr.
    """

    wall_time_ms: int
    cpu_time_ms: int
    memory_bytes: int
    processes: int
    open_files: int
    file_size_bytes: int
    disk_bytes: int
    output_bytes: int


@dataclass(frozen=True, slots=True)
class LimitsRequest:
    """What a caller asks of the limits: None takes the sandbox's default."""

    wall_time_ms: int | None = None
    cpu_time_ms: int | None = None
    memory_bytes: int | None = None
    processes: int | None = None
    open_files: int | None = None
    file_size_bytes: int | None = None
    disk_bytes: int | None = None
    output_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class File:
    """A file that goes in or comes out; `path` is relative to the working directory."""

    path: str
    content: bytes
    executable: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """One program to run. The fields are those of `ExecuteRequest` in the proto, with its meanings."""

    code: str = ""
    tests: str = ""
    argv: tuple[str, ...] = ()
    request_id: str = ""
    runtime: str = "python"
    expect_tests: bool = False
    stdin: bytes = b""
    files: tuple[File, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    collect: tuple[str, ...] = ()
    limits: LimitsRequest = LimitsRequest()
    judge: Judge = Judge.SAME_INTERPRETER
    entry_point: str = ""
    random_seed: int | None = None
    repeat: int = 1
    cache: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """What a run used; the whole process tree's."""

    wall_time_ms: float = 0.0
    cpu_time_ms: float = 0.0
    peak_memory_bytes: int = 0
    queue_wait_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class AssertionFailure:
    """The first assertion that did not hold."""

    line: int
    assertion: str
    left: str = ""
    operator: str = ""
    right: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class TestReport:
    """What the tests did."""

    __test__ = False  # not a test class, whatever pytest makes of its name

    assertions_run: int = 0
    assertions_failed: int = 0
    reached_end: bool = False
    first_failure: AssertionFailure | None = None


@dataclass(frozen=True, slots=True)
class ProgramError:
    """Why a program did not end well: an exception, a signal or a forbidden system call."""

    type: str
    message: str = ""
    traceback: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one job ended. The fields are those of `ExecuteResponse` in the proto, with its meanings."""

    verdict: Verdict
    assurance: Assurance = Assurance.EXIT_CLEAN
    request_id: str = ""
    exit_code: int | None = None
    signal: int | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    usage: Usage = Usage()
    tests: TestReport | None = None
    error: ProgramError | None = None
    files: tuple[File, ...] = ()
    files_refused: tuple[str, ...] = ()
    runtime_fingerprint: str = ""
    repeat_verdicts: tuple[Verdict, ...] = ()
    flaky: bool = False
    cached: bool = False


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """One thing that programs can be run with."""

    name: str
    interpreter: str
    packages: tuple[str, ...]
    fingerprint: str
    warm: bool


@dataclass(frozen=True, slots=True)
class Isolation:
    """What really holds a program in, found by trying."""

    namespaces: tuple[str, ...]
    seccomp: bool
    cgroup: str
    rootless: bool
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SandboxInfo:
    """What a sandbox is and can do."""

    version: str
    runtimes: tuple[RuntimeInfo, ...]
    default_limits: Limits
    maximum_limits: Limits
    slots: int
    queue_size: int
    isolation: Isolation
    judges: tuple[Judge, ...] = field(default=(Judge.SAME_INTERPRETER,))
