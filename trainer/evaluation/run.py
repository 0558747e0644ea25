"""One evaluation: obtain each sample, run it in the sandbox, store its verdict, add up."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from generator.store import Database
from sandbox_server.errors import InvalidJob, Unsupported
from sandbox_server.jobs import Job, Judge, LimitsRequest, Outcome, SandboxInfo
from sandbox_server.sandbox import Sandbox
from trainer.evaluation.benchmarks import Benchmark, Problem
from trainer.evaluation.passk import mean_pass_at_k
from trainer.evaluation.rows import EvaluationRows, ScoredSample
from trainer.evaluation.samples import SampleSource

REPORTED_K = (1, 10, 100)


class CannotScore(Exception):
    """A sample cannot be run at all; the message names it and says why. Nothing is scored for it."""


@dataclass(frozen=True, slots=True)
class Report:
    """What an evaluation found.

    Attributes:
        evaluation: key of the row.
        scores: problems, samples, passed, verdicts, and "pass@k" for every k that the samples allow.
        samples: every one of them, in the benchmark's order.
        ran: how many were run now; the others had their verdict from an earlier run.
    """

    evaluation: str
    benchmark: str
    subject: str
    scores: dict[str, Any]
    samples: tuple[ScoredSample, ...]
    ran: int


async def evaluate(
    benchmark: Benchmark,
    problems: Sequence[Problem],
    source: SampleSource,
    sandbox: Sandbox,
    database: Database,
    *,
    training_id: str | None = None,
    limits: LimitsRequest,
    judge: Judge = Judge.SAME_INTERPRETER,
    concurrency: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Score samples. Each finished one is stored at once; a second call with the same causes runs only the others.

    Args:
        benchmark: names the data.
        problems: those of the benchmark to score.
        source: of the samples.
        sandbox: where programs run.
        database: where verdicts are stored.
        training_id: the training whose checkpoint is scored, if it is one of ours.
        limits: of each run; what is None takes the sandbox's default.
        judge: where the tests run.
        concurrency: runs in flight; 0 means twice the sandbox's slots.
        progress: told how many samples are finished, out of how many.

    Raises:
        SandboxError: the sandbox's own trouble, which its client has tried to outlast. It is no verdict: finished
            samples stay stored, and the others are run when the evaluation is asked for again.
        CannotScore: a sample that the sandbox refuses to run.
    """
    info = await sandbox.info()
    rows = EvaluationRows(
        database,
        benchmark=benchmark.name,
        subject=source.subject,
        parameters={**_parameters(benchmark, problems, info, limits, judge), **source.parameters},
        training_id=training_id,
    )
    wanted = [(problem, index) for problem in problems for index in range(source.count(problem))]
    finished = rows.finished()
    todo = iter([pair for pair in wanted if (pair[0].task_id, pair[1]) not in finished])
    ran = 0
    progress(len(finished), len(wanted))

    async def work() -> None:
        nonlocal ran
        for problem, index in todo:
            scored = await _score(problem, index, source, sandbox, limits, judge)
            rows.add(scored)
            finished[problem.task_id, index] = scored
            ran += 1
            progress(len(finished), len(wanted))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency or 2 * info.slots):
                group.create_task(work())
    except ExceptionGroup as failures:
        # One worker's failure cancels the others: the first is the story.
        raise failures.exceptions[0] from None
    samples = tuple(finished[problem.task_id, index] for problem, index in wanted)
    scores = add_up(samples)
    rows.finish(scores)
    return Report(rows.id, benchmark.name, source.subject, scores, samples, ran)


def add_up(samples: Sequence[ScoredSample]) -> dict[str, Any]:
    """Count verdicts and estimate pass@k; a mapping that can be stored as JSON."""
    drawn = Counter(sample.task_id for sample in samples)
    passed = Counter(sample.task_id for sample in samples if sample.passed)
    counts = [(drawn[task_id], passed[task_id]) for task_id in drawn]
    rates = {f"pass@{k}": mean_pass_at_k(counts, k) for k in REPORTED_K}
    return {
        "problems": len(drawn),
        "samples": len(samples),
        "passed": sum(passed.values()),
        **{name: rate for name, rate in rates.items() if rate is not None},
        "verdicts": dict(Counter(sample.verdict for sample in samples).most_common()),
    }


def _parameters(
    benchmark: Benchmark, problems: Sequence[Problem], info: SandboxInfo, limits: LimitsRequest, judge: Judge
) -> dict[str, Any]:
    asked = {name: value for name, value in dataclasses.asdict(limits).items() if value is not None}
    runtime = next(runtime for runtime in info.runtimes if runtime.name == Job().runtime)
    return {
        "data_md5": benchmark.md5,
        "problems": len(problems),
        "limits": dataclasses.asdict(info.default_limits) | asked,
        "judge": judge.value,
        "runtime": runtime.fingerprint,
    }


async def _score(
    problem: Problem, index: int, source: SampleSource, sandbox: Sandbox, limits: LimitsRequest, judge: Judge
) -> ScoredSample:
    sample = await source.sample(problem, index)
    job = Job(
        request_id=f"{problem.task_id}#{index}",
        code=sample.code,
        tests=problem.tests,
        entry_point=problem.entry_point,
        limits=limits,
        judge=judge,
    )
    try:
        outcome = await sandbox.run(job)
    except (InvalidJob, Unsupported) as error:
        raise CannotScore(f"sample {index} of {problem.task_id} cannot be run: {error}") from error
    return ScoredSample(
        problem.task_id, index, sample.completion, sample.code, outcome.verdict.value, _details(outcome)
    )


def _details(outcome: Outcome) -> dict[str, Any]:
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
