"""No wrong program is taken for right: never by the separate judge, by the default one only within its limit."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType

import pytest

from sandbox_server.errors import Unsupported
from sandbox_server.jail import SandboxConfig, open_sandbox
from sandbox_server.jobs import Assurance, Job, Judge, LimitsRequest, Verdict
from sandbox_server.sandbox import Sandbox

pytestmark = pytest.mark.nsjail

HERE = Path(__file__).parent
QUICK = LimitsRequest(wall_time_ms=10_000, cpu_time_ms=2_000)
UNJUDGED = "UNJUDGED"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("forgeries", HERE / "forgeries.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["forgeries"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


forgeries = _load()


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    sandbox = await open_sandbox(SandboxConfig())
    yield sandbox
    await sandbox.close()


async def verdicts(sandbox: Sandbox, programs: dict[str, tuple[str, str]], judge: Judge) -> dict[str, str]:
    async def one(code: str, tests: str) -> str:
        try:
            outcome = await sandbox.run(Job(code=code, tests=tests, judge=judge, limits=QUICK))
        except Unsupported:
            return UNJUDGED
        assert outcome.assurance is (Assurance.TESTS_JUDGED if judge is Judge.SEPARATE else Assurance.TESTS_COMPLETED)
        return outcome.verdict.value

    answers = await asyncio.gather(*(one(*program) for program in programs.values()))
    return dict(zip(programs, answers, strict=True))


def forged(tests_of: str) -> dict[str, tuple[str, str]]:
    return {forgery.name: (forgery.code, getattr(forgery.task, tests_of)) for forgery in forgeries.FORGERIES}


def test_there_are_sixty_forgeries_with_names_of_their_own() -> None:
    names = [forgery.name for forgery in forgeries.FORGERIES]

    assert len(set(names)) == len(names) >= 60


@pytest.mark.parametrize("judge", list(Judge))
async def test_right_programs_pass(sandbox: Sandbox, judge: Judge) -> None:
    programs = {f"{index}: {task.entry_point}": (task.right, task.tests) for index, task in enumerate(forgeries.TASKS)}

    assert set((await verdicts(sandbox, programs, judge)).values()) == {Verdict.PASSED}


@pytest.mark.parametrize("tests_of", ["tests", "check"])
async def test_the_separate_judge_believes_no_forgery(sandbox: Sandbox, tests_of: str) -> None:
    """Whether the tests stand alone or in a `check(candidate)`."""
    answers = await verdicts(sandbox, forged(tests_of), Judge.SEPARATE)

    assert [name for name, verdict in answers.items() if verdict == Verdict.PASSED] == []


async def test_the_default_judge_believes_those_within_its_limit_and_no_others(sandbox: Sandbox) -> None:
    answers = await verdicts(sandbox, forged("tests"), Judge.SAME_INTERPRETER)

    believed = {name for name, verdict in answers.items() if verdict == Verdict.PASSED}
    assert believed == {forgery.name for forgery in forgeries.FORGERIES if forgery.limit}


def test_the_documentation_names_the_limit() -> None:
    text = " ".join((HERE.parents[1] / "docs" / "judging.md").read_text().split())

    for limit in (forgeries.EQUALITY, forgeries.FRAMES, forgeries.BUILTINS, forgeries.NAMES, forgeries.SIGNS):
        assert limit in text
