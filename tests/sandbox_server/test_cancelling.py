"""A run that is cancelled at any of its waiting points leaves its jails whole or gone, and nothing else behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Coroutine, Generator
from pathlib import Path
from typing import Any

import pytest

from sandbox_server.jail import SandboxConfig, open_sandbox
from sandbox_server.jobs import Job, Judge, LimitsRequest, Verdict
from sandbox_server.sandbox import Sandbox
from sandbox_server.tasks import to_the_end

MOST_POINTS = 60


class _Counted(Coroutine[Any, Any, Any]):
    """A coroutine that says when it is about to wait."""

    def __init__(self, inner: Coroutine[Any, Any, Any], waits: Any) -> None:
        self._inner = inner
        self._waits = waits

    def send(self, value: Any) -> Any:
        waiting_for = self._inner.send(value)
        self._waits()
        return waiting_for

    def throw(self, *error: Any) -> Any:
        waiting_for = self._inner.throw(*error)
        self._waits()
        return waiting_for

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._inner.__await__()


async def cancel_at(point: int, work: Coroutine[Any, Any, Any], again: bool) -> bool:
    """Run `work`, and cancel it when it or a task of its own waits for the `point`-th time.

    Args:
        point: counted from 1.
        work: what to run.
        again: cancel at each later waiting point, too.

    Returns:
        Whether it got that far.
    """
    loop = asyncio.get_running_loop()
    waited = 0

    def waits() -> None:
        nonlocal waited
        waited += 1
        if waited == point or (again and point < waited < point + MOST_POINTS):
            task.cancel()

    def counting(loop: asyncio.AbstractEventLoop, inner: Any, **options: Any) -> asyncio.Task[Any]:
        return asyncio.Task(_Counted(inner, waits), loop=loop, **options)

    loop.set_task_factory(counting)
    try:
        task = loop.create_task(work)
        with contextlib.suppress(asyncio.CancelledError):
            await task
    finally:
        loop.set_task_factory(None)
    return waited >= point


def children() -> set[int]:
    """Pids of this process' children."""
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # names, not paths


def control_groups() -> list[Path]:
    """Control groups of this process' sandboxes."""
    return list(Path("/sys/fs/cgroup").rglob(f"selfalign-{os.getpid()}-*"))


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    sandbox = await open_sandbox(SandboxConfig(slots=1))
    try:
        yield sandbox
    finally:
        await sandbox.close()


@pytest.mark.nsjail
@pytest.mark.parametrize("again", [False, True], ids=["once", "impatiently"])
@pytest.mark.parametrize("seed", [None, 7], ids=["in warm jails", "in jails of its own"])
@pytest.mark.parametrize("judge", Judge)
async def test_cancelled_at_any_waiting_point(sandbox: Sandbox, judge: Judge, seed: int | None, again: bool) -> None:
    def job(answer: int) -> Job:
        limits = LimitsRequest(wall_time_ms=5_000)
        return Job(f"def f(): return {answer}", "assert f() == 1", judge=judge, random_seed=seed, limits=limits)

    await sandbox.run(job(1))
    jails, files = children(), descriptors()

    for point in range(1, MOST_POINTS):
        reached = await cancel_at(point, sandbox.run(job(2)), again)
        if seed is not None:
            assert children() == jails, f"a jail was left, cancelled at {point}"
        assert (await sandbox.run(job(1))).verdict is Verdict.PASSED, point
        assert len(children()) == len(jails), f"cancelled at {point}"
        assert descriptors() <= files, f"cancelled at {point}"
        if not reached:
            break
    else:
        pytest.fail("a run has more waiting points than this looks at")
    assert point > 1
    assert sandbox.jails_lost == 0  # type: ignore[attr-defined]


@pytest.mark.nsjail
@pytest.mark.parametrize("again", [False, True], ids=["once", "impatiently"])
async def test_opening_and_closing_cancelled_at_any_waiting_point(again: bool) -> None:
    before, files = children(), descriptors()

    async def open_and_close() -> None:
        sandbox = await open_sandbox(SandboxConfig(slots=2))
        await sandbox.close()

    for point in range(1, MOST_POINTS):
        reached = await cancel_at(point, open_and_close(), again)
        assert children() == before, f"a jail was left, cancelled at {point}"
        assert not control_groups(), f"cancelled at {point}"
        if not reached:
            break
    else:
        pytest.fail("opening has more waiting points than this looks at")
    assert point > 1
    assert descriptors() <= files + 4  # the event loop's threads keep theirs


async def test_work_goes_on_to_its_end_and_the_cancellation_is_told_then() -> None:
    ended: list[int] = []

    async def work() -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        ended.append(1)

    task = asyncio.ensure_future(to_the_end(work()))
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [1]


async def test_what_work_raises_is_told_unless_the_caller_was_cancelled() -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await to_the_end(work())
    task = asyncio.ensure_future(to_the_end(work()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
