"""One behaviour, three sandboxes: in this process, behind gRPC, and the stand-in of the other tests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from sandbox_server import errors
from sandbox_server.client import connect
from sandbox_server.config import ServerConfig
from sandbox_server.jail import SandboxConfig, open_sandbox
from sandbox_server.jobs import File, Job, LimitsRequest, Outcome, Verdict
from sandbox_server.sandbox import Sandbox
from sandbox_server.server import serving
from tests.fakes import FakeSandbox, passes


@contextlib.asynccontextmanager
async def in_process(_folder) -> AsyncIterator[Sandbox]:
    sandbox = await open_sandbox(SandboxConfig(slots=1))
    try:
        yield sandbox
    finally:
        await sandbox.close()


@contextlib.asynccontextmanager
async def remote(folder) -> AsyncIterator[Sandbox]:
    async with (
        in_process(folder) as sandbox,
        serving(sandbox, ServerConfig(address=f"unix:{folder}/s.sock", drain_grace_s=5)) as address,
        connect(address) as client,
    ):
        yield client


@contextlib.asynccontextmanager
async def fake(_folder) -> AsyncIterator[Sandbox]:
    async def behaviour(job: Job) -> Outcome:
        if "sleep" in job.code:
            await asyncio.Event().wait()
        return await passes(job)

    yield FakeSandbox(behaviour)


REAL = [pytest.param(in_process, marks=pytest.mark.nsjail), pytest.param(remote, marks=pytest.mark.nsjail)]


@pytest.fixture(params=[*REAL, fake])
async def sandbox(request, tmp_path) -> AsyncIterator[Sandbox]:
    async with request.param(tmp_path) as opened:
        yield opened


@pytest.fixture(params=REAL)
async def real_sandbox(request, tmp_path) -> AsyncIterator[Sandbox]:
    async with request.param(tmp_path) as opened:
        yield opened


async def test_a_right_program_passes(sandbox: Sandbox) -> None:
    outcome = await sandbox.run(Job(code="def f(): return 1", tests="assert f() == 1", request_id="mine"))
    assert (outcome.verdict, outcome.exit_code) == (Verdict.PASSED, 0)
    assert outcome.tests is not None
    assert (outcome.tests.assertions_run, outcome.tests.reached_end) == (1, True)
    fingerprints = [runtime.fingerprint for runtime in (await sandbox.info()).runtimes]
    assert outcome.runtime_fingerprint in fingerprints


async def test_many_at_once_are_each_answered_as_themselves(sandbox: Sandbox) -> None:
    jobs = [Job(code="x = 1", tests="assert x == 1", request_id=str(number)) for number in range(12)]
    outcomes = await asyncio.gather(*map(sandbox.run, jobs))
    assert {outcome.verdict for outcome in outcomes} == {Verdict.PASSED}


async def test_cancelling_kills_and_the_next_run_is_as_good_as_any(sandbox: Sandbox) -> None:
    task = asyncio.create_task(sandbox.run(Job(code="import time; time.sleep(60)")))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(30):
        outcome = await sandbox.run(Job(code="x = 1", tests="assert x == 1"))
    assert outcome.verdict is Verdict.PASSED


@pytest.mark.parametrize(
    ("code", "tests", "verdict"),
    [
        ("def f(): return 2", "assert f() == 1", Verdict.FAILED),
        ("def f(): return 1 / 0", "assert f() == 1", Verdict.ERROR),
        ("def f(:", "assert f() == 1", Verdict.SYNTAX_ERROR),
        ("import os; os._exit(0)", "assert False", Verdict.INCOMPLETE),
        ("x = 1", "pass", Verdict.NO_TESTS),
        ("print('x')", "", Verdict.EXITED),
    ],
)
async def test_the_verdict_is_the_same_near_and_far(real_sandbox: Sandbox, code, tests, verdict) -> None:
    assert (await real_sandbox.run(Job(code=code, tests=tests))).verdict is verdict


async def test_everything_a_job_can_carry_arrives_and_comes_back(real_sandbox: Sandbox) -> None:
    code = (
        "import os, sys\n"
        "print(sys.stdin.read(), open('in/a.txt').read(), os.environ['NAME'], end='')\n"
        "open('out.txt', 'wb').write(b'\\xff\\x00')\n"
    )
    job = Job(
        code=code,
        stdin=b"stdin",
        files=(File("in/a.txt", b"file"),),
        env=(("NAME", "env"),),
        collect=("*.txt",),
        limits=LimitsRequest(wall_time_ms=10_000),
    )
    outcome = await real_sandbox.run(job)
    assert (outcome.verdict, outcome.stdout) == (Verdict.EXITED, b"stdin file env")
    assert [(file.path, file.content) for file in outcome.files] == [("out.txt", b"\xff\x00")]
    assert outcome.usage.wall_time_ms > 0


async def test_a_random_seed_makes_runs_alike(real_sandbox: Sandbox) -> None:
    job = Job(code="import random; print(random.random(), hash('a'))", random_seed=7)
    first, second = [await real_sandbox.run(job) for _ in range(2)]
    assert first.stdout == second.stdout


async def test_repeating_tells_what_is_flaky(real_sandbox: Sandbox) -> None:
    flaky = Job(code="import random", tests="assert random.random() < 0.5", repeat=20)
    outcome = await real_sandbox.run(flaky)
    assert len(outcome.repeat_verdicts) == 20
    assert (outcome.flaky, outcome.verdict) == (True, Verdict.FAILED)


async def test_the_cache_answers_what_it_has_seen_only_when_asked(tmp_path) -> None:
    fake_sandbox = FakeSandbox()
    config = ServerConfig(address=f"unix:{tmp_path}/s.sock")
    async with serving(fake_sandbox, config) as address, connect(address) as client:
        cached, not_cached = Job(code="1", cache=True), Job(code="1")
        answers = [(await client.run(job)).cached for job in (not_cached, cached, cached, not_cached)]
    assert answers == [False, False, True, False]
    assert len([job for job in fake_sandbox.started if job.code == "1"]) == 3


async def test_a_limit_above_the_maximum_is_refused_near_and_far(real_sandbox: Sandbox) -> None:
    with pytest.raises(errors.InvalidJob) as caught:
        await real_sandbox.run(Job(code="1", limits=LimitsRequest(processes=10**6)))
    assert caught.value.field == "limits.processes"
