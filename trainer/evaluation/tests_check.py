"""Checks that are code: tests that run after the program, counted and judged by the sandbox."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from sandbox_server.errors import InvalidJob, Unsupported
from sandbox_server.jobs import Job, Judge, Outcome
from trainer.evaluation.calls import CannotJudge, CannotScore
from trainer.evaluation.problems import Bench, Scored


@dataclass(frozen=True, slots=True)
class Tests:
    """Tests to run after the program.

    Attributes:
        tests: `check(candidate)` or plain asserts.
        entry_point: name of the function under test; empty where the tests call it by name.
        before: code that runs before the program.
    """

    __test__ = False  # not a test class, whatever pytest makes of its name

    tests: str
    entry_point: str = ""
    before: str = ""

    async def score(self, code: str, name: str, bench: Bench) -> Scored:
        """Run program and tests; see `Check.score`."""
        job = Job(
            request_id=name,
            runtime=bench.runtime,
            code=self.before + code,
            tests=self.tests,
            entry_point=self.entry_point,
            limits=bench.limits,
            judge=bench.judge,
        )
        outcome = await run(job, bench)
        return Scored(outcome.verdict, details_of(outcome))


async def run(job: Job, bench: Bench) -> Outcome:
    """Run one job.

    Raises:
        CannotJudge: the separate judge refuses its tests.
        CannotScore: the sandbox refuses it.
    """
    try:
        return await bench.sandbox.run(job)
    except (InvalidJob, Unsupported) as error:
        # That it judges apart, and that the runtime is one for programs, was asked before: it is about these tests.
        if isinstance(error, Unsupported) and job.judge is Judge.SEPARATE:
            raise CannotJudge(str(error)) from error
        raise CannotScore(f"{job.request_id} cannot be run: {error}") from error


def details_of(outcome: Outcome) -> dict[str, Any]:
    """What is stored of a run beside its verdict."""
    details: dict[str, Any] = {
        "assurance": outcome.assurance.value,
        "wall_time_ms": outcome.usage.wall_time_ms,
        "cpu_time_ms": outcome.usage.cpu_time_ms,
        "peak_memory_bytes": outcome.usage.peak_memory_bytes,
    }
    if outcome.tests is not None:
        details |= {
            "assertions_run": outcome.tests.assertions_run,
            "assertions_failed": outcome.tests.assertions_failed,
        }
        if outcome.tests.first_failure is not None:
            details["first_failure"] = dataclasses.asdict(outcome.tests.first_failure)
    if outcome.error is not None:
        details["error"] = dataclasses.asdict(outcome.error)
    return details
