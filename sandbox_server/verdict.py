"""From what was seen of a run to its verdict: one function, and the order of its questions is the policy.

Evidence from outside comes first (our timers, the kernel's counters, the wait status); the guest's report can only tell
apart what is left, and a missing or malformed one never helps a program.
"""

from __future__ import annotations

import os
import signal

from sandbox_server.jobs import Assurance, Job, Outcome, ProgramError, Usage, Verdict
from sandbox_server.report import Report
from sandbox_server.slot import Evidence

_STOPPED = {"wall": Verdict.TIME_LIMIT, "cpu": Verdict.TIME_LIMIT, "output": Verdict.OUTPUT_LIMIT}
# Uncaught, these say which limit a program ran into; the kernel counts the kills, not the refusals.
_NO_PROCESS = (
    ("BlockingIOError", "[Errno 11] Resource temporarily unavailable"),
    ("RuntimeError", "can't start new thread"),
)
_NO_SPACE = ("[Errno 28]", "[Errno 122]", "[Errno 27]")


def outcome(job: Job, evidence: Evidence, report: Report | None, fingerprint: str) -> Outcome:
    """Judge one run.

    Args:
        job: what was asked.
        evidence: what the sandbox saw.
        report: what the guest said; None when it said nothing, or nothing well-formed.
        fingerprint: the runtime's.
    """
    verdict = _verdict(job, evidence, report)
    tested = bool(job.tests) or job.expect_tests
    exited = os.WIFEXITED(evidence.status)
    return Outcome(
        verdict=verdict,
        assurance=Assurance.TESTS_COMPLETED if tested else Assurance.EXIT_CLEAN,
        request_id=job.request_id,
        exit_code=os.WEXITSTATUS(evidence.status) if exited else None,
        signal=None if exited else os.WTERMSIG(evidence.status),
        stdout=bytes(evidence.stdout),
        stderr=bytes(evidence.stderr),
        stdout_truncated=evidence.stdout_truncated,
        stderr_truncated=evidence.stderr_truncated,
        usage=Usage(evidence.wall_time_ms, evidence.cpu_time_ms, evidence.peak_memory_bytes),
        tests=report.tests if report is not None else None,
        error=_error(verdict, evidence, report),
        runtime_fingerprint=fingerprint,
    )


def apart(job: Job, program: Evidence, judge: Evidence, report: Report | None, fingerprint: str) -> Outcome:
    """Judge one run whose tests ran in a jail of their own.

    Args:
        job: what was asked.
        program: what the sandbox saw of the program.
        judge: what it saw of the judge, whose tests may run into limits too.
        report: what the judge said.
        fingerprint: the runtime's.
    """
    of_program = _from_outside(program)
    verdict = of_program or _from_outside(judge) or _from_report(job, program, report)
    lost = report is not None and report.end == "lost"
    shown = program if of_program or lost else judge
    exited = os.WIFEXITED(shown.status)
    return Outcome(
        verdict=verdict,
        assurance=Assurance.TESTS_JUDGED,
        request_id=job.request_id,
        exit_code=os.WEXITSTATUS(shown.status) if exited else None,
        signal=None if exited else os.WTERMSIG(shown.status),
        stdout=bytes(program.stdout + judge.stdout),
        stderr=bytes(program.stderr + judge.stderr),
        stdout_truncated=program.stdout_truncated or judge.stdout_truncated,
        stderr_truncated=program.stderr_truncated or judge.stderr_truncated,
        usage=Usage(
            max(program.wall_time_ms, judge.wall_time_ms),
            program.cpu_time_ms + judge.cpu_time_ms,
            program.peak_memory_bytes + judge.peak_memory_bytes,
        ),
        tests=report.tests if report is not None else None,
        error=_error(verdict, shown, report),
        runtime_fingerprint=fingerprint,
    )


def _verdict(job: Job, evidence: Evidence, report: Report | None) -> Verdict:
    return _from_outside(evidence) or _from_report(job, evidence, report)


def _from_outside(evidence: Evidence) -> Verdict | None:
    """What our timers, the kernel's counters and the wait status decide, whatever the report says."""
    if evidence.memory_kills:
        return Verdict.MEMORY_LIMIT
    if evidence.stopped in _STOPPED:
        return _STOPPED[evidence.stopped]
    if evidence.stdout_truncated or evidence.stderr_truncated:
        return Verdict.OUTPUT_LIMIT
    if os.WIFSIGNALED(evidence.status) and evidence.stopped != "done":
        number = os.WTERMSIG(evidence.status)
        if number == signal.SIGXCPU and evidence.cpu_limit_reached:  # a program can send it to itself
            return Verdict.TIME_LIMIT
        return Verdict.DISK_LIMIT if number == signal.SIGXFSZ else Verdict.KILLED
    return None


def _from_report(job: Job, evidence: Evidence, report: Report | None) -> Verdict:
    tested = bool(job.tests) or job.expect_tests
    passed = report is not None and report.reached_end and report.end == "done" and tested and _held(report)
    if not passed:
        if evidence.process_refusals:
            return Verdict.PROCESS_LIMIT
        if evidence.disk_full:
            return Verdict.DISK_LIMIT
    if report is None:
        return Verdict.INCOMPLETE if tested else Verdict.EXITED
    if report.end == "syntax":
        return Verdict.SYNTAX_ERROR
    if report.tests is not None and report.tests.assertions_failed:
        return Verdict.FAILED
    if report.end == "error":
        return _limit_behind(report.error, evidence) or Verdict.ERROR
    if not tested:
        return Verdict.EXITED
    if report.end in ("exit", "lost") or not report.reached_end:
        return Verdict.INCOMPLETE
    return Verdict.PASSED if passed else Verdict.NO_TESTS


def _held(report: Report) -> bool:
    tests = report.tests
    return tests is not None and tests.assertions_run > 0 and tests.assertions_failed == 0


def _limit_behind(error: ProgramError | None, evidence: Evidence) -> Verdict | None:
    if error is None:
        return None
    if error.type == "MemoryError":
        return Verdict.MEMORY_LIMIT
    if error.type == "OSError" and error.message.startswith(_NO_SPACE):
        return Verdict.DISK_LIMIT
    if not evidence.counted and (error.type, error.message) in _NO_PROCESS:
        return Verdict.PROCESS_LIMIT
    return None


def _error(verdict: Verdict, evidence: Evidence, report: Report | None) -> ProgramError | None:
    if verdict is Verdict.KILLED:
        number = os.WTERMSIG(evidence.status)
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        told = "a forbidden system call" if number == signal.SIGSYS else signal.strsignal(number) or ""
        return ProgramError(name, told)
    return report.error if report is not None else None
