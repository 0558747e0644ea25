"""One evaluation: obtain each sample, run it in the sandbox, store its verdict, add up."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generator.store import Database
from sandbox_server.jobs import Judge, LimitsRequest, SandboxInfo
from sandbox_server.sandbox import Sandbox
from trainer.evaluation.calls import VERSION, CannotJudge, CannotScore
from trainer.evaluation.passk import mean_pass_at_k, wilson_interval
from trainer.evaluation.problems import Bench, Benchmark, Problem
from trainer.evaluation.reference import References
from trainer.evaluation.rows import UNJUDGED, EvaluationRows, ScoredSample
from trainer.evaluation.samples import SampleSource

__all__ = ["GOES_ON", "CannotScore", "Report", "add_up", "evaluate"]

REPORTED_K = (1, 10, 100)

GOES_ON = "verdicts that were reached are stored; the same command goes on from there"
"""A note on what ends an evaluation in its middle."""


@dataclass(frozen=True, slots=True)
class Report:
    """What an evaluation found.

    Attributes:
        evaluation: key of the row.
        scores: see `add_up`.
        samples: every one of them, in the benchmark's order.
        ran: how many were run now; the others had their verdict from an earlier run.
        data_version: see `Benchmark.version`.
    """

    evaluation: str
    benchmark: str
    subject: str
    scores: dict[str, Any]
    samples: tuple[ScoredSample, ...]
    ran: int
    data_version: str = ""


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
    runtime: str = "python",
    references: Path | None = None,
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
        judge: where the tests run, of benchmarks whose tests are code.
        runtime: name of the sandbox's runtime.
        references: folder that keeps the outputs of reference programs; None for the user's cache.
        concurrency: samples in flight; 0 means twice the sandbox's slots, or as many as the source makes at once.
        progress: told how many samples are finished, out of how many.

    Raises:
        SandboxError: the sandbox's own trouble, which its client has tried to outlast. It is no verdict: finished
            samples stay stored, and the others are run when the evaluation is asked for again.
        CannotScore: a sample that the sandbox refuses to run.
        ReferenceBroken: a reference program fails on its own inputs.
    """
    info = await sandbox.info()
    if all(runtime != known.name for known in info.runtimes):
        known_names = ", ".join(known.name for known in info.runtimes)
        raise CannotScore(f"the sandbox has no runtime {runtime!r}; it has {known_names}")
    if judge not in info.judges:
        raise CannotScore(f"the sandbox does not judge {judge.value}; it offers {', '.join(info.judges)}")
    bench = Bench(sandbox, info, limits, judge, runtime, References(sandbox, info, runtime, references))
    rows = EvaluationRows(
        database,
        benchmark=benchmark.name,
        subject=source.subject,
        parameters={**_parameters(benchmark, problems, bench), **source.parameters},
        training_id=training_id,
    )
    wanted = [(problem, index) for problem in problems for index in range(source.count(problem))]
    finished = rows.finished()
    # What takes longest goes first, so that no slot waits for it in the end.
    costs = {problem.task_id: bench.references.known_cost_us(problem.check) for problem in problems}
    unfinished = [pair for pair in wanted if (pair[0].task_id, pair[1]) not in finished]
    todo = iter(sorted(unfinished, key=lambda pair: -costs[pair[0].task_id]))
    ran = 0
    progress(len(finished), len(wanted))

    async def work() -> None:
        nonlocal ran
        for problem, index in todo:
            sample = await source.sample(problem, index)
            name = f"{problem.task_id}#{index}"
            try:
                found = await problem.check.score(sample.code, name, bench)
                verdict, details = found.verdict.value, found.details
            except CannotJudge as error:
                verdict, details = UNJUDGED, {"reason": str(error)}
            scored = ScoredSample(problem.task_id, index, sample.completion, sample.code, verdict, details)
            rows.add(scored)
            finished[problem.task_id, index] = scored
            ran += 1
            progress(len(finished), len(wanted))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency or max(2 * info.slots, source.concurrency)):
                group.create_task(work())
    except ExceptionGroup as failures:
        # One worker's failure cancels the others: the first is the story.
        first = failures.exceptions[0]
        first.add_note(GOES_ON)
        raise first from None
    samples = tuple(finished[problem.task_id, index] for problem, index in wanted)
    scores = add_up(samples)
    rows.finish(scores)
    return Report(rows.id, benchmark.name, source.subject, scores, samples, ran, benchmark.version)


def add_up(samples: Sequence[ScoredSample]) -> dict[str, Any]:
    """Count verdicts and estimate pass@k.

    Returns:
        JSON-able: problems, samples, passed, "pass@k" for every k that the samples allow, each with a 95 % interval
        under "intervals", verdicts; and, where each sample has a verdict on the original benchmark's inputs as well,
        "base" with passed, "pass@k" and "intervals" on those. Samples that the separate judge could not judge count as
        not passed, so that a score is never too high; "unjudged" says how many, where there are any.
    """
    scores: dict[str, Any] = {
        "problems": len({sample.task_id for sample in samples}),
        "samples": len(samples),
        **_rates(samples, [sample.passed for sample in samples]),
        "verdicts": dict(Counter(sample.verdict for sample in samples).most_common()),
    }
    unjudged = sum(sample.verdict == UNJUDGED for sample in samples)
    if unjudged:
        scores["unjudged"] = unjudged
    if samples and all("base" in sample.details for sample in samples):
        scores["base"] = _rates(samples, [sample.details["base"] == "PASSED" for sample in samples])
    return scores


def _rates(samples: Sequence[ScoredSample], right: Sequence[bool]) -> dict[str, Any]:
    drawn = Counter(sample.task_id for sample in samples)
    passed = Counter(sample.task_id for sample, holds in zip(samples, right, strict=True) if holds)
    counts = [(drawn[task_id], passed[task_id]) for task_id in drawn]
    found = ((f"pass@{k}", mean_pass_at_k(counts, k)) for k in REPORTED_K)
    rates = {name: rate for name, rate in found if rate is not None}
    intervals = {name: wilson_interval(rate, len(counts)) for name, rate in rates.items()}
    return {"passed": sum(passed.values()), **rates, "intervals": intervals}


def _parameters(benchmark: Benchmark, problems: Sequence[Problem], bench: Bench) -> dict[str, Any]:
    asked = {name: value for name, value in dataclasses.asdict(bench.limits).items() if value is not None}
    return {
        "data_md5": benchmark.md5,
        "data_version": benchmark.version,
        "problems": len(problems),
        "limits": dataclasses.asdict(bench.info.default_limits) | asked,
        "judge": bench.judge.value,
        "runtime": _fingerprint(bench.info, bench.runtime),
        "calls": VERSION,
        **benchmark.parameters,
    }


def _fingerprint(info: SandboxInfo, runtime: str) -> str:
    return next(known.fingerprint for known in info.runtimes if known.name == runtime)
