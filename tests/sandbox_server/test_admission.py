"""The queue before the slots: bounded, fair between clients, and honest about deadlines."""

from __future__ import annotations

import asyncio

import pytest

from sandbox_server.admission import Admission
from sandbox_server.errors import DeadlineExceeded, Overloaded


class Line:
    """Clients that ask for places, and the order in which they got them."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.order: list[str] = []

    async def enter(self, client: str, remaining_s: float | None = None, patient: bool = False, size: int = 1) -> None:
        await self.admission.enter(client, size, remaining_s, patient)
        self.order.append(client)

    async def start(self, *clients: str, **options) -> list[asyncio.Task[None]]:
        tasks = [asyncio.create_task(self.enter(client, **options)) for client in clients]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return tasks

    async def serve_all(self, run_s: float = 0.001) -> None:
        while self.admission.running:
            self.admission.leave(1, run_s)
            await asyncio.sleep(0)
            await asyncio.sleep(0)


async def test_places_go_out_at_once_while_there_are_any() -> None:
    line = Line(Admission(2, 0, 100))
    await line.start("a", "b")
    assert (line.order, line.admission.running, line.admission.waiting) == (["a", "b"], 2, 0)


async def test_one_more_than_the_queue_holds_is_refused_at_once() -> None:
    line = Line(Admission(1, 2, 100))
    await line.start("a", "a", "a")
    with pytest.raises(Overloaded, match="queue is full: 2 requests wait") as caught:
        await line.enter("a")
    assert caught.value.retry_after_ms >= 10
    await line.serve_all()
    assert line.order == ["a", "a", "a"]


async def test_clients_take_turns_whatever_each_has_waiting() -> None:
    line = Line(Admission(1, 100, 100))
    await line.start("a", "a", "a", "a", "b", "b", "c")
    await line.serve_all()
    assert line.order == ["a", "a", "b", "c", "a", "b", "a"]


async def test_a_newcomer_takes_the_youngest_place_of_the_longest_line() -> None:
    line = Line(Admission(1, 3, 100))
    *_, youngest = await line.start("a", "a", "a", "a")
    await line.start("b")
    with pytest.raises(Overloaded, match="other clients have fewer"):
        await youngest
    await line.serve_all()
    assert line.order == ["a", "a", "b", "a"]


async def test_streams_wait_where_single_calls_are_refused() -> None:
    line = Line(Admission(1, 0, 100))
    await line.start("a")
    await line.start("a", "a", patient=True)
    with pytest.raises(Overloaded):
        await line.enter("b")
    assert line.admission.waiting == 2
    await line.serve_all()
    assert line.order == ["a", "a", "a"]


async def test_requests_that_hold_too_much_memory_are_refused() -> None:
    line = Line(Admission(1, 100, 100))
    await line.start("a", size=60)
    with pytest.raises(Overloaded, match="memory"):
        await line.enter("b", size=60)
    await line.start("b", size=40)
    line.admission.leave(60, 0.1)
    await asyncio.sleep(0)
    line.admission.leave(40, 0.1)
    await line.start("c", size=1000)  # alone, it is let through: it can be no larger than a message
    assert line.order == ["a", "b", "c"]


async def test_a_queue_longer_than_the_deadline_is_told_at_once() -> None:
    line = Line(Admission(1, 100, 100))
    await line.start("a")
    line.admission.leave(1, 2.0)  # runs take 2 s here
    await line.start("a", "a", "a")
    assert line.admission.expected_wait_s() == pytest.approx(6.0)
    with pytest.raises(Overloaded, match="longer than the deadline") as caught:
        await line.enter("b", remaining_s=5.0)
    assert caught.value.retry_after_ms == 3000
    await line.start("b", remaining_s=7.0)
    assert line.admission.waiting == 3


async def test_a_run_that_cannot_finish_before_its_deadline_is_never_started() -> None:
    line = Line(Admission(1, 100, 100))
    await line.start("a")
    line.admission.leave(1, 0.2)  # the fastest run ever seen took 0.2 s
    with pytest.raises(DeadlineExceeded):
        await line.enter("a", remaining_s=0.1)
    assert line.admission.running == 0
    await line.start("a")
    (late,) = await line.start("b", remaining_s=0.45)
    await asyncio.sleep(0.3)
    line.admission.leave(1, 0.2)
    with pytest.raises(DeadlineExceeded, match="turn came too late"):
        await late
    assert (line.admission.running, line.admission.waiting) == (0, 0)


async def test_who_gives_up_waiting_leaves_no_trace() -> None:
    line = Line(Admission(1, 100, 100))
    await line.start("a")
    first, second, third = await line.start("b", "b", "c")
    second.cancel()
    await asyncio.sleep(0)
    line.admission.leave(1, 0.001)
    first.cancel()  # at the very moment in which it gets its place
    await asyncio.gather(first, second, return_exceptions=True)
    await third
    line.admission.leave(1, 0.001)
    assert line.order == ["a", "c"]
    assert (line.admission.running, line.admission.waiting) == (0, 0)
    await asyncio.wait_for(line.enter("d", size=100), 1)  # no memory is counted as held either


async def test_held_back_they_run_one_at_a_time() -> None:
    line = Line(Admission(3, 100, 100))
    await line.start("a", "a", "a")
    line.admission.hold_back(True)
    await line.start("b", "b", "b")
    line.admission.leave(1, 0.1)
    line.admission.leave(1, 0.1)
    await asyncio.sleep(0)
    assert line.admission.running == 1
    line.admission.leave(1, 0.1)
    await asyncio.sleep(0)
    assert (line.order[3:], line.admission.running, line.admission.waiting) == (["b"], 1, 2)
    line.admission.hold_back(False)
    await asyncio.sleep(0)
    assert (line.admission.running, line.admission.waiting) == (3, 0)
