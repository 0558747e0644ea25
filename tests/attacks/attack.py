"""One hostile program: what it is, how it must end, and what must be true of what it saw."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from sandbox_server.jobs import Job, LimitsRequest, Outcome, Verdict

MIB = 1 << 20

Check = Callable[[Outcome], None]

# Small, so that an attack meets them soon; an attack that has to meet one sooner says so.
SMALL = LimitsRequest(
    wall_time_ms=30_000,  # a backstop: a loaded machine must not make a time limit of what is none
    cpu_time_ms=2_000,
    memory_bytes=128 * MIB,
    processes=32,
    open_files=64,
    file_size_bytes=8 * MIB,
    disk_bytes=16 * MIB,
    output_bytes=64 * 1024,
)

# Prepended to programs that look around: `attempt` prints what an action came to, `call` is a raw system call.
KIT = """\
import ctypes, errno, os, platform, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
X86 = platform.machine() == "x86_64"
def attempt(name, action):
    try:
        result = action()
    except OSError as error:
        result = errno.errorcode.get(error.errno, error.errno)
    print(f"{name}={result}", flush=True)
def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result
def call(x86, arm, *arguments):
    return check(libc.syscall(x86 if X86 else arm, *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)))
def read(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""
def exists(path):
    try:
        os.stat(path)
        return "yes"
    except OSError as error:
        return errno.errorcode[error.errno]
"""


@dataclass(frozen=True, slots=True)
class Attack:
    """One row of the catalogue.

    Args:
        name: says the attack; unique in its group.
        code: the program. ``@NAME@`` stands for a fact of the host, see `host.Host.facts`.
        verdict: how it must end; several only where the truth is not one, and then the row says why.
        checks: what must be true of its outcome besides.
        tests: its tests, if any.
        limits: what it may use.
        first: a program that runs just before it in the same slot.
        job: further fields of its `Job`.
    """

    name: str
    code: str
    verdict: Verdict | tuple[Verdict, ...]
    checks: tuple[Check, ...] = ()
    tests: str = ""
    limits: LimitsRequest = SMALL
    first: str = ""
    job: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The closed set of right verdicts."""
        return self.verdict if isinstance(self.verdict, tuple) else (self.verdict,)

    def jobs(self, facts: Mapping[str, str]) -> list[Job]:
        """What to run, in this order; the last is the attack."""
        main = Job(code=self.code, tests=self.tests, limits=self.limits, **self.job)
        jobs = [Job(code=self.first, limits=SMALL), main] if self.first else [main]
        return [_filled(job, facts) for job in jobs]


def _filled(job: Job, facts: Mapping[str, str]) -> Job:
    code, tests = job.code, job.tests
    for name, value in facts.items():
        code, tests = code.replace(f"@{name}@", value), tests.replace(f"@{name}@", value)
    return dataclasses.replace(job, code=code, tests=tests)


def limits(**changes: int) -> LimitsRequest:
    """`SMALL` with some of them changed."""
    return dataclasses.replace(SMALL, **changes)


def findings(outcome: Outcome) -> dict[str, str]:
    """What the program printed as ``name=value`` lines."""
    lines = outcome.stdout.decode("utf-8", "replace").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def found(**expected: str | Collection[str]) -> Check:
    """It printed these findings; a collection holds the values that are right."""

    def check(outcome: Outcome) -> None:
        seen = findings(outcome)
        for name, value in expected.items():
            allowed = (value,) if isinstance(value, str) else tuple(value)
            assert seen.get(name) in allowed, f"{name}={seen.get(name)}, expected one of {allowed}; all: {seen}"

    return check


def ended_with(exit_code: int) -> Check:
    """It ended by itself with this status."""

    def check(outcome: Outcome) -> None:
        assert (outcome.exit_code, outcome.signal) == (exit_code, None), (outcome.exit_code, outcome.signal)

    return check


def killed_by(number: int) -> Check:
    """A signal ended it, and the outcome names it."""

    def check(outcome: Outcome) -> None:
        assert (outcome.exit_code, outcome.signal) == (None, number), (outcome.exit_code, outcome.signal)
        assert outcome.error is not None, "KILLED says nothing of why"

    return check


def raised(name: str) -> Check:
    """An exception of this class ended it."""

    def check(outcome: Outcome) -> None:
        assert outcome.error is not None, "no error in the outcome"
        assert outcome.error.type == name, (outcome.error.type, outcome.error.message[:200])

    return check


def wrote(stdout: bytes) -> Check:
    """Its stdout is exactly this."""

    def check(outcome: Outcome) -> None:
        assert outcome.stdout == stdout, outcome.stdout[:500]

    return check


def never_wrote(*parts: bytes) -> Check:
    """None of these is in what it wrote."""

    def check(outcome: Outcome) -> None:
        for part in parts:
            assert part not in outcome.stdout + outcome.stderr, part

    return check


def used_cpu_ms(least: float) -> Check:
    """The usage counts what the whole process tree burnt."""

    def check(outcome: Outcome) -> None:
        assert outcome.usage.cpu_time_ms >= least, outcome.usage

    return check


def small_answer(most_bytes: int = 256 * 1024) -> Check:
    """No part of the answer grew with what the program made."""

    def check(outcome: Outcome) -> None:
        error, failure = outcome.error, outcome.tests.first_failure if outcome.tests else None
        texts = [*dataclasses.astuple(error)] if error else []
        texts += [*dataclasses.astuple(failure)] if failure else []
        size = sum(len(text) for text in texts if isinstance(text, str)) + len(outcome.stdout) + len(outcome.stderr)
        assert size <= most_bytes, size

    return check


def collected(expected: Mapping[str, bytes]) -> Check:
    """Exactly these files came back, with these bytes."""

    def check(outcome: Outcome) -> None:
        files = {file.path: file.content for file in outcome.files}
        assert files == dict(expected), ({path: content[:80] for path, content in files.items()}, outcome.files_refused)

    return check


def refused(*paths: str) -> Check:
    """Each of these paths is named among the files that were not returned."""

    def check(outcome: Outcome) -> None:
        for path in paths:
            assert any(path in line for line in outcome.files_refused), (path, outcome.files_refused)

    return check
