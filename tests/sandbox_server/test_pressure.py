"""A host that is short of something runs programs one at a time, and says so."""

from __future__ import annotations

import asyncio
import logging

from sandbox_server import pressure
from sandbox_server.admission import Admission

TOLD = "some avg10={} avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"


async def test_programs_are_held_back_and_let_go_again(tmp_path, monkeypatch, caplog) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(pressure, "PRESSURE", tmp_path)
    monkeypatch.setattr(pressure, "_LOOK_AGAIN_S", 0.01)
    (tmp_path / "memory").write_text(TOLD.format("12.00"))
    admission = Admission(4, 10, 1000)

    async def places() -> int:
        """How many can run at once now."""
        entered = 0
        while not admission.waiting:
            task = asyncio.create_task(admission.enter("a", 1, None))
            await asyncio.sleep(0)
            entered += task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for _ in range(entered):
            admission.leave(1, 0.1)
        return entered

    async def until(message: str) -> None:
        while message not in caplog.messages:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async with pressure.watching_pressure(admission, {"memory": 60.0, "cpu": 0.0}), asyncio.timeout(20):
        assert await places() == 4
        (tmp_path / "memory").write_text(TOLD.format("75.50"))
        await until("the host is short of memory: programs run one at a time")
        assert await places() == 1
        (tmp_path / "memory").write_text(TOLD.format("3.00"))
        await until("the host has enough again")
        assert await places() == 4


async def test_a_kernel_that_does_not_tell_is_never_short(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(pressure, "PRESSURE", tmp_path)
    for text in (None, "", "some", "some avg10=x"):
        if text is not None:
            (tmp_path / "memory").write_text(text)
        assert pressure.stalled_percent("memory") == -1.0
        tasks = len(asyncio.all_tasks())
        async with pressure.watching_pressure(Admission(1, 1, 1), {"memory": 1.0}):
            assert len(asyncio.all_tasks()) == tasks


def test_this_kernels_own_words_are_read() -> None:
    for resource in ("memory", "cpu"):
        assert (pressure.PRESSURE / resource).exists() == (pressure.stalled_percent(resource) >= 0)
