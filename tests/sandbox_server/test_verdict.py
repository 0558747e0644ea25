"""From evidence and report to a verdict: the order of the questions."""

from __future__ import annotations

import dataclasses
import signal
from typing import Any

import pytest

from sandbox_server import verdict
from sandbox_server.jobs import Job, ProgramError, TestReport, Verdict
from sandbox_server.report import Report
from sandbox_server.slot import Evidence

TESTED = Job(code="x", tests="assert x")
PLAIN = Job(code="x")
PASSED = Report("done", 0, True, TestReport(1, 0, True), None)


def exited(code: int) -> int:
    return code << 8


def judge(job: Job = TESTED, report: Report | None = PASSED, **evidence: Any) -> Verdict:
    return verdict.outcome(job, Evidence(**evidence), report, "print").verdict


def told(**changes: Any) -> Report:
    return dataclasses.replace(PASSED, **changes)


def raised(name: str, message: str = "") -> Report:
    return told(end="error", exit_code=1, reached_end=False, error=ProgramError(name, message))


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        ({}, Verdict.PASSED),
        ({"stopped": "wall"}, Verdict.TIME_LIMIT),
        ({"stopped": "cpu", "status": signal.SIGKILL}, Verdict.TIME_LIMIT),
        ({"stopped": "output", "status": signal.SIGKILL}, Verdict.OUTPUT_LIMIT),
        ({"stdout_truncated": True}, Verdict.OUTPUT_LIMIT),
        ({"memory_kills": 1}, Verdict.MEMORY_LIMIT),
        ({"memory_kills": 1, "stopped": "wall"}, Verdict.MEMORY_LIMIT),
        ({"status": signal.SIGSEGV}, Verdict.KILLED),
        ({"status": signal.SIGSYS}, Verdict.KILLED),
        ({"status": signal.SIGKILL}, Verdict.KILLED),
        ({"status": signal.SIGXCPU, "cpu_limit_reached": True}, Verdict.TIME_LIMIT),
        ({"status": signal.SIGXCPU}, Verdict.KILLED),
        ({"status": signal.SIGXFSZ}, Verdict.DISK_LIMIT),
        ({"process_refusals": 1}, Verdict.PASSED),  # it met the limit and went on
        ({"disk_full": True}, Verdict.PASSED),
    ],
)
def test_what_was_seen_from_outside_comes_first(evidence: dict[str, Any], expected: Verdict) -> None:
    assert judge(**evidence) is expected


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (None, Verdict.INCOMPLETE),
        (told(end="syntax"), Verdict.SYNTAX_ERROR),
        (told(tests=TestReport(2, 1, True)), Verdict.FAILED),
        (told(end="exit", tests=TestReport(2, 1, False), reached_end=False), Verdict.FAILED),
        (told(tests=TestReport(0, 0, True)), Verdict.NO_TESTS),
        (told(tests=None), Verdict.NO_TESTS),
        (told(end="exit", reached_end=False), Verdict.INCOMPLETE),
        (told(reached_end=False), Verdict.INCOMPLETE),
        (raised("ValueError"), Verdict.ERROR),
        (raised("MemoryError"), Verdict.MEMORY_LIMIT),
        (raised("OSError", "[Errno 28] No space left on device"), Verdict.DISK_LIMIT),
        (raised("OSError", "[Errno 27] File too large"), Verdict.DISK_LIMIT),
        (raised("OSError", "[Errno 2] No such file or directory"), Verdict.ERROR),
    ],
)
def test_the_report_decides_what_is_left(report: Report | None, expected: Verdict) -> None:
    assert judge(report=report) is expected


def test_without_tests_a_program_just_ends() -> None:
    assert judge(PLAIN, told(tests=None)) is Verdict.EXITED
    assert judge(PLAIN, None, status=exited(3)) is Verdict.EXITED
    assert judge(PLAIN, told(end="exit", tests=None, reached_end=False), status=exited(0)) is Verdict.EXITED
    assert judge(PLAIN, raised("ValueError")) is Verdict.ERROR


def test_refused_forks_and_full_disks_count_when_the_program_failed() -> None:
    assert judge(report=raised("BlockingIOError"), process_refusals=3) is Verdict.PROCESS_LIMIT
    assert judge(report=raised("OSError"), disk_full=True) is Verdict.DISK_LIMIT
    assert judge(PLAIN, None, status=exited(1), disk_full=True) is Verdict.DISK_LIMIT


def test_without_a_control_group_the_program_says_which_limit_it_met() -> None:
    refused = raised("BlockingIOError", "[Errno 11] Resource temporarily unavailable")

    assert judge(report=refused, counted=False) is Verdict.PROCESS_LIMIT
    assert judge(report=refused) is Verdict.ERROR


def test_a_report_never_saves_a_program_that_was_stopped() -> None:
    for evidence in ({"stopped": "wall"}, {"memory_kills": 1}, {"stderr_truncated": True}, {"status": signal.SIGABRT}):
        assert judge(**evidence) is not Verdict.PASSED


def test_exit_code_and_signal_exclude_each_other() -> None:
    ended = verdict.outcome(PLAIN, Evidence(status=exited(7)), None, "print")
    killed = verdict.outcome(PLAIN, Evidence(status=signal.SIGSEGV), None, "print")

    assert (ended.exit_code, ended.signal) == (7, None)
    assert (killed.exit_code, killed.signal) == (None, signal.SIGSEGV)
    assert killed.error is not None
    assert killed.error.type == "SIGSEGV"
