"""Whether a job makes sense, told before it costs anything.

Every refusal is an `InvalidJob` that names the field as the proto spells it, says what was expected, and is raised
before a slot is taken. What the job's program does is never judged here.
"""

from __future__ import annotations

from collections.abc import Iterable

from sandbox_server.errors import InvalidJob, Unsupported
from sandbox_server.jobs import File, Job, Judge, LimitsRequest, RuntimeInfo, SandboxInfo

MAX_REQUEST_ID_CHARACTERS = 256
MAX_REPEAT = 100
MAX_FILES = 1_000
MAX_COLLECT_GLOBS = 100
MAX_ARGUMENTS = 1_000
# Linux refuses an execve with one string of 128 KiB, or with 2 MiB of arguments and environment together.
MAX_STRING_BYTES = 128 * 1024 - 1
MAX_ENVIRONMENT_BYTES = 256 * 1024
MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 1024

# Variables that make a loader or an interpreter run something of the caller's before the sandbox's own first line.
_FORBIDDEN_ENV_PREFIXES = ("LD_", "PYTHON")
_FORBIDDEN_ENV = frozenset(
    {"GLIBC_TUNABLES", "GCONV_PATH", "BASH_ENV", "ENV", "SHELLOPTS", "BASHOPTS", "NODE_OPTIONS", "PERL5OPT", "RUBYOPT"}
)


def validate(job: Job, info: SandboxInfo) -> None:
    """Refuse a job that cannot be run as it stands.

    Args:
        job: what is asked.
        info: the sandbox that would run it; its runtimes, maximum limits and judges are the bounds.

    Raises:
        InvalidJob: a field is malformed or beyond a bound.
        Unsupported: the job is well-formed, but this sandbox does not offer what it asks.
    """
    if len(job.request_id) > MAX_REQUEST_ID_CHARACTERS:
        raise InvalidJob("request_id", f"is {len(job.request_id)} characters long; at most {MAX_REQUEST_ID_CHARACTERS}")
    runtime = _runtime(job, info)
    if job.argv:
        _check_command(job)
    else:
        _check_program(job, runtime)
    if job.judge not in info.judges:
        raise Unsupported(f"judge: {job.judge} is not offered by this server; it offers {', '.join(info.judges)}")
    if not 1 <= job.repeat <= MAX_REPEAT:
        raise InvalidJob("repeat", f"{job.repeat} is not between 1 and {MAX_REPEAT}")
    if job.random_seed is not None and not 0 <= job.random_seed < 2**64:
        raise InvalidJob("random_seed", f"{job.random_seed} is not an unsigned 64-bit integer")
    if job.limits is not _NO_LIMITS:
        check_limits(job.limits, info)
    if job.env:
        _check_env(job.env)
    if job.collect:
        _check_collect(job.collect)
    if job.files:
        default = info.default_limits
        _check_files(
            job.files,
            job.limits.file_size_bytes or default.file_size_bytes,
            job.limits.disk_bytes or default.disk_bytes,
        )


def check_limits(limits: LimitsRequest, info: SandboxInfo) -> None:
    """Refuse limits that are not positive or above the sandbox's maximum."""
    for name in LimitsRequest.__slots__:
        value = getattr(limits, name)
        if value is None:
            continue
        maximum = getattr(info.maximum_limits, name)
        if value <= 0:
            raise InvalidJob(f"limits.{name}", f"{value} is not positive; leave it out for the default")
        if value > maximum:
            raise InvalidJob(f"limits.{name}", f"{value} is above this server's maximum, {maximum}")


def check_path(field: str, path: str) -> None:
    """Refuse a path that is not plainly below the working directory."""
    if not path:
        raise InvalidJob(field, "is empty; expected a relative path")
    if "\0" in path:
        raise InvalidJob(field, "holds a NUL character")
    if path.startswith("/"):
        raise InvalidJob(field, f"{path[:80]!r} is absolute; expected a path below the working directory")
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise InvalidJob(field, f"{path[:80]!r} holds an empty part, '.' or '..'; expected a plain relative path")
    if len(path.encode("utf-8", "replace")) > MAX_PATH_BYTES:
        raise InvalidJob(field, f"is longer than {MAX_PATH_BYTES} bytes")
    if any(len(part.encode("utf-8", "replace")) > MAX_NAME_BYTES for part in parts):
        raise InvalidJob(field, f"holds a name longer than {MAX_NAME_BYTES} bytes")


_NO_LIMITS = LimitsRequest()


def _runtime(job: Job, info: SandboxInfo) -> RuntimeInfo:
    for runtime in info.runtimes:
        if runtime.name == job.runtime:
            return runtime
    known = ", ".join(runtime.name for runtime in info.runtimes)
    raise InvalidJob("runtime", f"there is no runtime {job.runtime[:80]!r}; there are: {known}")


def _check_program(job: Job, runtime: RuntimeInfo) -> None:
    if not runtime.interpreter:
        raise InvalidJob("argv", f"is empty; runtime {runtime.name!r} runs commands, not code")
    if not job.code and not job.tests and not job.expect_tests:
        raise InvalidJob("code", "is empty, and there are neither tests nor argv; give a program to run")
    if job.expect_tests and job.tests:
        raise InvalidJob("expect_tests", "means that the tests are inside code; leave it out, or leave out tests")
    if job.judge is Judge.SEPARATE and not job.tests:
        raise InvalidJob("tests", "are empty; judge SEPARATE needs them apart from the code")
    if job.entry_point and not job.entry_point.isidentifier():
        raise InvalidJob("entry_point", f"{job.entry_point[:80]!r} is not the name of a function")


def _check_command(job: Job) -> None:
    for field in ("code", "tests", "entry_point"):
        if getattr(job, field):
            raise InvalidJob(field, "cannot be given together with argv")
    if job.expect_tests:
        raise InvalidJob("expect_tests", "cannot be given together with argv")
    if job.judge is not Judge.SAME_INTERPRETER:
        raise InvalidJob("judge", "cannot be given together with argv: a command has no tests")
    if not job.argv[0]:
        raise InvalidJob("argv[0]", "is empty; expected a command")
    if len(job.argv) > MAX_ARGUMENTS:
        raise InvalidJob("argv", f"holds {len(job.argv)} arguments; at most {MAX_ARGUMENTS}")
    _check_strings("argv[{}]", job.argv)
    total = sum(len(argument) for argument in job.argv)
    if total > MAX_ENVIRONMENT_BYTES:
        raise InvalidJob("argv", f"holds {total} characters together; at most {MAX_ENVIRONMENT_BYTES}")


def _check_env(env: tuple[tuple[str, str], ...]) -> None:
    seen: set[str] = set()
    for name, value in env:
        if not name or "=" in name or "\0" in name:
            raise InvalidJob("env", f"{name[:80]!r} is not a variable's name: it is empty or holds '=' or NUL")
        if name in seen:
            raise InvalidJob("env", f"names {name[:80]!r} twice")
        seen.add(name)
        if name in _FORBIDDEN_ENV or name.startswith(_FORBIDDEN_ENV_PREFIXES):
            raise InvalidJob("env", f"{name[:80]!r} is refused: it changes how the interpreter or the loader starts")
        _check_strings("env", (name, value))
    total = sum(len(name) + len(value) for name, value in env)
    if total > MAX_ENVIRONMENT_BYTES:
        raise InvalidJob("env", f"holds {total} characters together; at most {MAX_ENVIRONMENT_BYTES}")


def _check_strings(field: str, texts: Iterable[str]) -> None:
    for index, text in enumerate(texts):
        if "\0" in text:
            raise InvalidJob(field.format(index), "holds a NUL character")
        if len(text) > MAX_STRING_BYTES or len(text.encode("utf-8", "replace")) > MAX_STRING_BYTES:
            raise InvalidJob(field.format(index), f"is longer than {MAX_STRING_BYTES} bytes")


def _check_collect(globs: tuple[str, ...]) -> None:
    if len(globs) > MAX_COLLECT_GLOBS:
        raise InvalidJob("collect", f"holds {len(globs)} globs; at most {MAX_COLLECT_GLOBS}")
    for index, glob in enumerate(globs):
        check_path(f"collect[{index}]", glob)


def _check_files(files: tuple[File, ...], file_size_bytes: int, disk_bytes: int) -> None:
    if len(files) > MAX_FILES:
        raise InvalidJob("files", f"holds {len(files)} files; at most {MAX_FILES}")
    paths: set[str] = set()
    for index, file in enumerate(files):
        check_path(f"files[{index}].path", file.path)
        if file.path in paths:
            raise InvalidJob(f"files[{index}].path", f"{file.path[:80]!r} is given twice")
        paths.add(file.path)
        if len(file.content) > file_size_bytes:
            raise InvalidJob(
                f"files[{index}].content",
                f"holds {len(file.content)} bytes, more than limits.file_size_bytes, {file_size_bytes}",
            )
    for index, file in enumerate(files):
        parent = file.path.rpartition("/")[0]
        while parent:
            if parent in paths:
                raise InvalidJob(f"files[{index}].path", f"{file.path[:80]!r} lies below {parent[:80]!r}, a file")
            parent = parent.rpartition("/")[0]
    total = sum(len(file.content) for file in files)
    if total > disk_bytes:
        raise InvalidJob("files", f"hold {total} bytes together, more than limits.disk_bytes, {disk_bytes}")
