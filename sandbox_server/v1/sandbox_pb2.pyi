from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Judge(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JUDGE_UNSPECIFIED: _ClassVar[Judge]
    JUDGE_SAME_INTERPRETER: _ClassVar[Judge]
    JUDGE_SEPARATE: _ClassVar[Judge]

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_EXITED: _ClassVar[Verdict]
    VERDICT_PASSED: _ClassVar[Verdict]
    VERDICT_FAILED: _ClassVar[Verdict]
    VERDICT_ERROR: _ClassVar[Verdict]
    VERDICT_SYNTAX_ERROR: _ClassVar[Verdict]
    VERDICT_NO_TESTS: _ClassVar[Verdict]
    VERDICT_INCOMPLETE: _ClassVar[Verdict]
    VERDICT_TIME_LIMIT: _ClassVar[Verdict]
    VERDICT_MEMORY_LIMIT: _ClassVar[Verdict]
    VERDICT_OUTPUT_LIMIT: _ClassVar[Verdict]
    VERDICT_DISK_LIMIT: _ClassVar[Verdict]
    VERDICT_PROCESS_LIMIT: _ClassVar[Verdict]
    VERDICT_KILLED: _ClassVar[Verdict]

class Assurance(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ASSURANCE_UNSPECIFIED: _ClassVar[Assurance]
    ASSURANCE_EXIT_CLEAN: _ClassVar[Assurance]
    ASSURANCE_TESTS_COMPLETED: _ClassVar[Assurance]
    ASSURANCE_TESTS_JUDGED: _ClassVar[Assurance]
JUDGE_UNSPECIFIED: Judge
JUDGE_SAME_INTERPRETER: Judge
JUDGE_SEPARATE: Judge
VERDICT_UNSPECIFIED: Verdict
VERDICT_EXITED: Verdict
VERDICT_PASSED: Verdict
VERDICT_FAILED: Verdict
VERDICT_ERROR: Verdict
VERDICT_SYNTAX_ERROR: Verdict
VERDICT_NO_TESTS: Verdict
VERDICT_INCOMPLETE: Verdict
VERDICT_TIME_LIMIT: Verdict
VERDICT_MEMORY_LIMIT: Verdict
VERDICT_OUTPUT_LIMIT: Verdict
VERDICT_DISK_LIMIT: Verdict
VERDICT_PROCESS_LIMIT: Verdict
VERDICT_KILLED: Verdict
ASSURANCE_UNSPECIFIED: Assurance
ASSURANCE_EXIT_CLEAN: Assurance
ASSURANCE_TESTS_COMPLETED: Assurance
ASSURANCE_TESTS_JUDGED: Assurance

class ExecuteRequests(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[ExecuteRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[ExecuteRequest, _Mapping]]] = ...) -> None: ...

class ExecuteResponses(_message.Message):
    __slots__ = ("responses",)
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    responses: _containers.RepeatedCompositeFieldContainer[ExecuteResponse]
    def __init__(self, responses: _Optional[_Iterable[_Union[ExecuteResponse, _Mapping]]] = ...) -> None: ...

class ExecuteRequest(_message.Message):
    __slots__ = ("request_id", "runtime", "code", "tests", "expect_tests", "argv", "stdin", "files", "env", "collect", "limits", "judge", "entry_point", "random_seed", "repeat", "cache", "timeout_ms", "cancel")
    class EnvEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    TESTS_FIELD_NUMBER: _ClassVar[int]
    EXPECT_TESTS_FIELD_NUMBER: _ClassVar[int]
    ARGV_FIELD_NUMBER: _ClassVar[int]
    STDIN_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    COLLECT_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    JUDGE_FIELD_NUMBER: _ClassVar[int]
    ENTRY_POINT_FIELD_NUMBER: _ClassVar[int]
    RANDOM_SEED_FIELD_NUMBER: _ClassVar[int]
    REPEAT_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    runtime: str
    code: str
    tests: str
    expect_tests: bool
    argv: _containers.RepeatedScalarFieldContainer[str]
    stdin: bytes
    files: _containers.RepeatedCompositeFieldContainer[File]
    env: _containers.ScalarMap[str, str]
    collect: _containers.RepeatedScalarFieldContainer[str]
    limits: Limits
    judge: Judge
    entry_point: str
    random_seed: int
    repeat: int
    cache: bool
    timeout_ms: int
    cancel: bool
    def __init__(self, request_id: _Optional[str] = ..., runtime: _Optional[str] = ..., code: _Optional[str] = ..., tests: _Optional[str] = ..., expect_tests: bool = ..., argv: _Optional[_Iterable[str]] = ..., stdin: _Optional[bytes] = ..., files: _Optional[_Iterable[_Union[File, _Mapping]]] = ..., env: _Optional[_Mapping[str, str]] = ..., collect: _Optional[_Iterable[str]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., judge: _Optional[_Union[Judge, str]] = ..., entry_point: _Optional[str] = ..., random_seed: _Optional[int] = ..., repeat: _Optional[int] = ..., cache: bool = ..., timeout_ms: _Optional[int] = ..., cancel: bool = ...) -> None: ...

class File(_message.Message):
    __slots__ = ("path", "content", "executable")
    PATH_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    EXECUTABLE_FIELD_NUMBER: _ClassVar[int]
    path: str
    content: bytes
    executable: bool
    def __init__(self, path: _Optional[str] = ..., content: _Optional[bytes] = ..., executable: bool = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("wall_time_ms", "cpu_time_ms", "memory_bytes", "processes", "open_files", "file_size_bytes", "disk_bytes", "output_bytes")
    WALL_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    CPU_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    PROCESSES_FIELD_NUMBER: _ClassVar[int]
    OPEN_FILES_FIELD_NUMBER: _ClassVar[int]
    FILE_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_BYTES_FIELD_NUMBER: _ClassVar[int]
    wall_time_ms: int
    cpu_time_ms: int
    memory_bytes: int
    processes: int
    open_files: int
    file_size_bytes: int
    disk_bytes: int
    output_bytes: int
    def __init__(self, wall_time_ms: _Optional[int] = ..., cpu_time_ms: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., processes: _Optional[int] = ..., open_files: _Optional[int] = ..., file_size_bytes: _Optional[int] = ..., disk_bytes: _Optional[int] = ..., output_bytes: _Optional[int] = ...) -> None: ...

class ExecuteResponse(_message.Message):
    __slots__ = ("request_id", "verdict", "assurance", "exit_code", "signal", "stdout", "stderr", "stdout_truncated", "stderr_truncated", "usage", "tests", "error", "files", "files_refused", "runtime_fingerprint", "repeat_verdicts", "flaky", "cached", "refusal")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    ASSURANCE_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    STDOUT_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    STDOUT_TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    STDERR_TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    TESTS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    FILES_REFUSED_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    REPEAT_VERDICTS_FIELD_NUMBER: _ClassVar[int]
    FLAKY_FIELD_NUMBER: _ClassVar[int]
    CACHED_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    verdict: Verdict
    assurance: Assurance
    exit_code: int
    signal: int
    stdout: bytes
    stderr: bytes
    stdout_truncated: bool
    stderr_truncated: bool
    usage: Usage
    tests: TestReport
    error: ProgramError
    files: _containers.RepeatedCompositeFieldContainer[File]
    files_refused: _containers.RepeatedScalarFieldContainer[str]
    runtime_fingerprint: str
    repeat_verdicts: _containers.RepeatedScalarFieldContainer[Verdict]
    flaky: bool
    cached: bool
    refusal: Refusal
    def __init__(self, request_id: _Optional[str] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., assurance: _Optional[_Union[Assurance, str]] = ..., exit_code: _Optional[int] = ..., signal: _Optional[int] = ..., stdout: _Optional[bytes] = ..., stderr: _Optional[bytes] = ..., stdout_truncated: bool = ..., stderr_truncated: bool = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., tests: _Optional[_Union[TestReport, _Mapping]] = ..., error: _Optional[_Union[ProgramError, _Mapping]] = ..., files: _Optional[_Iterable[_Union[File, _Mapping]]] = ..., files_refused: _Optional[_Iterable[str]] = ..., runtime_fingerprint: _Optional[str] = ..., repeat_verdicts: _Optional[_Iterable[_Union[Verdict, str]]] = ..., flaky: bool = ..., cached: bool = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("wall_time_ms", "cpu_time_ms", "peak_memory_bytes", "queue_wait_ms")
    WALL_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    CPU_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    PEAK_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    QUEUE_WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    wall_time_ms: float
    cpu_time_ms: float
    peak_memory_bytes: int
    queue_wait_ms: float
    def __init__(self, wall_time_ms: _Optional[float] = ..., cpu_time_ms: _Optional[float] = ..., peak_memory_bytes: _Optional[int] = ..., queue_wait_ms: _Optional[float] = ...) -> None: ...

class TestReport(_message.Message):
    __slots__ = ("assertions_run", "assertions_failed", "reached_end", "first_failure")
    ASSERTIONS_RUN_FIELD_NUMBER: _ClassVar[int]
    ASSERTIONS_FAILED_FIELD_NUMBER: _ClassVar[int]
    REACHED_END_FIELD_NUMBER: _ClassVar[int]
    FIRST_FAILURE_FIELD_NUMBER: _ClassVar[int]
    assertions_run: int
    assertions_failed: int
    reached_end: bool
    first_failure: AssertionFailure
    def __init__(self, assertions_run: _Optional[int] = ..., assertions_failed: _Optional[int] = ..., reached_end: bool = ..., first_failure: _Optional[_Union[AssertionFailure, _Mapping]] = ...) -> None: ...

class AssertionFailure(_message.Message):
    __slots__ = ("line", "assertion", "left", "operator", "right", "message")
    LINE_FIELD_NUMBER: _ClassVar[int]
    ASSERTION_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_FIELD_NUMBER: _ClassVar[int]
    RIGHT_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    line: int
    assertion: str
    left: str
    operator: str
    right: str
    message: str
    def __init__(self, line: _Optional[int] = ..., assertion: _Optional[str] = ..., left: _Optional[str] = ..., operator: _Optional[str] = ..., right: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class ProgramError(_message.Message):
    __slots__ = ("type", "message", "traceback", "line")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TRACEBACK_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    type: str
    message: str
    traceback: str
    line: int
    def __init__(self, type: _Optional[str] = ..., message: _Optional[str] = ..., traceback: _Optional[str] = ..., line: _Optional[int] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("code", "message", "retry_after_ms")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    retry_after_ms: int
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ..., retry_after_ms: _Optional[int] = ...) -> None: ...

class GetInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetInfoResponse(_message.Message):
    __slots__ = ("version", "runtimes", "default_limits", "maximum_limits", "slots", "queue_size", "isolation", "judges")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RUNTIMES_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_LIMITS_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_LIMITS_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_SIZE_FIELD_NUMBER: _ClassVar[int]
    ISOLATION_FIELD_NUMBER: _ClassVar[int]
    JUDGES_FIELD_NUMBER: _ClassVar[int]
    version: str
    runtimes: _containers.RepeatedCompositeFieldContainer[Runtime]
    default_limits: Limits
    maximum_limits: Limits
    slots: int
    queue_size: int
    isolation: Isolation
    judges: _containers.RepeatedScalarFieldContainer[Judge]
    def __init__(self, version: _Optional[str] = ..., runtimes: _Optional[_Iterable[_Union[Runtime, _Mapping]]] = ..., default_limits: _Optional[_Union[Limits, _Mapping]] = ..., maximum_limits: _Optional[_Union[Limits, _Mapping]] = ..., slots: _Optional[int] = ..., queue_size: _Optional[int] = ..., isolation: _Optional[_Union[Isolation, _Mapping]] = ..., judges: _Optional[_Iterable[_Union[Judge, str]]] = ...) -> None: ...

class Runtime(_message.Message):
    __slots__ = ("name", "interpreter", "packages", "fingerprint", "warm")
    NAME_FIELD_NUMBER: _ClassVar[int]
    INTERPRETER_FIELD_NUMBER: _ClassVar[int]
    PACKAGES_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    WARM_FIELD_NUMBER: _ClassVar[int]
    name: str
    interpreter: str
    packages: _containers.RepeatedScalarFieldContainer[str]
    fingerprint: str
    warm: bool
    def __init__(self, name: _Optional[str] = ..., interpreter: _Optional[str] = ..., packages: _Optional[_Iterable[str]] = ..., fingerprint: _Optional[str] = ..., warm: bool = ...) -> None: ...

class Isolation(_message.Message):
    __slots__ = ("namespaces", "seccomp", "cgroup", "rootless", "warnings")
    NAMESPACES_FIELD_NUMBER: _ClassVar[int]
    SECCOMP_FIELD_NUMBER: _ClassVar[int]
    CGROUP_FIELD_NUMBER: _ClassVar[int]
    ROOTLESS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    namespaces: _containers.RepeatedScalarFieldContainer[str]
    seccomp: bool
    cgroup: str
    rootless: bool
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, namespaces: _Optional[_Iterable[str]] = ..., seccomp: bool = ..., cgroup: _Optional[str] = ..., rootless: bool = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...
