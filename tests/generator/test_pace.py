"""As many requests are in flight as the server takes without complaint."""

from __future__ import annotations

import asyncio

from generator.engines.pace import Pace


async def test_never_more_than_allowed_are_in_flight() -> None:
    pace, now, most = Pace(3), 0, 0

    async def work() -> None:
        nonlocal now, most
        async with pace.turn() as turn:
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.001)
            now -= 1
            turn.answered()

    await asyncio.gather(*(work() for _ in range(20)))
    assert most == 3
    assert now == 0


async def test_a_complaint_halves_once_for_all_that_were_sent_before_it() -> None:
    pace = Pace(32)
    async with pace.turn() as first, pace.turn() as second:
        first.complained()
        second.complained()
        assert pace.allowed == 16
    async with pace.turn() as third:
        third.complained()
    assert pace.allowed == 8


async def test_it_never_falls_below_one_and_never_rises_above_the_most() -> None:
    pace = Pace(4)
    for _ in range(9):
        async with pace.turn() as turn:
            turn.complained()
    assert pace.allowed == 1
    for _ in range(99):
        async with pace.turn() as turn:
            turn.answered()
    assert pace.allowed == 4


async def test_a_round_of_answers_adds_about_one() -> None:
    pace = Pace(100)
    async with pace.turn() as turn:
        turn.complained()
    assert pace.allowed == 50
    for _ in range(51):
        pace.answered()
    assert pace.allowed == 51


async def test_who_gives_up_waiting_leaves_the_turn_to_the_next() -> None:
    pace = Pace(1)
    order: list[str] = []

    async def work(name: str) -> None:
        async with pace.turn():
            order.append(name)
            await asyncio.sleep(0.01)

    tasks = [asyncio.create_task(work(name)) for name in "abc"]
    await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == ["a", "c"]


async def test_a_turn_offered_to_one_who_is_cancelled_is_not_lost() -> None:
    pace = Pace(1)

    async def work() -> str:
        async with pace.turn():
            return "done"

    async with pace.turn():
        waiting = [asyncio.create_task(work()) for _ in range(2)]
        await asyncio.sleep(0)
    waiting[0].cancel()
    done = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
    assert done[1] == "done"


async def test_turns_come_in_the_order_of_asking() -> None:
    pace, order = Pace(1), []

    async def work(number: int) -> None:
        async with pace.turn():
            order.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*(work(number) for number in range(10)))
    assert order == list(range(10))
