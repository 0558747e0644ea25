"""What a real model wrote, tests and all, gets one verdict from both judges."""

from __future__ import annotations

import asyncio
import json
import lzma
from pathlib import Path

import pytest

from generator.stages import ParseError, ResponsesStage
from sandbox_server.client import connect
from sandbox_server.errors import Unsupported
from sandbox_server.jobs import Job, Judge, LimitsRequest
from sandbox_server.sandbox import Sandbox

pytestmark = pytest.mark.nsjail

RECORDINGS = Path(__file__).parents[2] / "generator/recordings/qwen2.5-coder-1.5b-instruct.jsonl.xz"
LIMITS = LimitsRequest(cpu_time_ms=700)


def answers() -> list[tuple[str, str]]:
    """Code and tests of the demo's recorded answers, each once."""
    found = {}
    with lzma.open(RECORDINGS, "rt") as lines:
        for line in lines:
            try:
                fields = ResponsesStage().read(json.loads(line).get("text", ""))
            except ParseError:
                continue  # of another stage, or not usable
            found[fields.code, fields.test_code] = None
    return list(found)


async def verdict(sandbox: Sandbox, code: str, tests: str, judge: Judge) -> str:
    try:
        return (await sandbox.run(Job(code, tests, judge=judge, limits=LIMITS))).verdict.value
    except Unsupported:
        return "UNJUDGED"


async def test_the_demos_answers_get_the_same_verdict_apart_wherever_both_judge() -> None:
    """206 of the 210 programs that the demo runs can be judged apart; four ask what cannot cross."""
    programs = answers()
    async with connect("embedded") as sandbox:
        together, apart = [
            await asyncio.gather(*(verdict(sandbox, code, tests, judge) for code, tests in programs)) for judge in Judge
        ]

    assert len(programs) > 200
    differing = {
        (first, second): code
        for (code, _), first, second in zip(programs, together, apart, strict=True)
        if second not in (first, "UNJUDGED")
        # One of them grows for ever: which limit it meets first is the machine's to say.
        and not (first.endswith("_LIMIT") and second.endswith("_LIMIT"))
    }
    assert differing == {}
    assert apart.count("UNJUDGED") <= 4
    assert together.count("PASSED") > 30
