"""Checks that are code: tests that run after the program, counted and judged by the sandbox."""

from __future__ import annotations

import ast
import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from generator.seeds.extract import parse_quietly
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
    """

    __test__ = False  # not a test class, whatever pytest makes of its name

    tests: str
    entry_point: str = ""

    async def score(self, code: str, name: str, bench: Bench) -> Scored:
        """Run program and tests; see `Check.score`."""
        job = Job(
            request_id=name,
            runtime=bench.runtime,
            code=as_imported(code),
            tests=self.tests,
            entry_point=self.entry_point,
            limits=bench.limits,
            judge=bench.judge,
        )
        outcome = await run(job, bench)
        return Scored(outcome.verdict, details_of(outcome))


PARAMETERS = {"main_guard": "left out"}
"""What `Tests` does to programs that changes verdicts, for an evaluation's causes."""


def as_imported(code: str) -> str:
    """What an import of `code` runs: all but what stands under ``if __name__ == "__main__":``, line for line.

    The benchmarks' own harnesses never run that, and answers often put there what reads input or ends the process.
    """
    if "__main__" not in code:
        return code
    try:
        body = parse_quietly(code).body
    except SyntaxError:
        return code
    lines = re.split(r"\r\n|\r|\n", code)  # as Python counts them
    for node in body:
        if isinstance(node, ast.If) and not node.orelse and ast.unparse(node.test) in _GUARDS:
            end = node.end_lineno or node.lineno
            lines[node.lineno - 1 : end] = ["pass", *[""] * (end - node.lineno)]
    return "\n".join(lines)


_GUARDS = ("__name__ == '__main__'", "'__main__' == __name__")


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
