"""Work that goes beside its caller."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from sandbox_server.tasks import meanwhile


class Place:
    """A context that is slow to enter; holds a timeout of its own, which must be left by the task that entered it."""

    def __init__(self, enter: Exception | None = None, leave: Exception | None = None) -> None:
        self.go = asyncio.Event()
        self.seen: list[str] = []
        self._enter, self._leave = enter, leave

    @contextlib.asynccontextmanager
    async def entered(self) -> AsyncIterator[str]:
        self.seen.append("begun")
        try:
            await self.go.wait()
            if self._enter:
                raise self._enter
            async with asyncio.timeout(60):
                yield "given"
            self.seen.append("left")
            if self._leave:
                raise self._leave
        finally:
            self.seen.append("over")


async def fail_meanwhile(place: Place) -> None:
    async with meanwhile(place.entered()):
        await asyncio.sleep(0.01)
        raise KeyError("mine")


async def test_the_caller_goes_on_while_it_is_entered() -> None:
    place = Place()
    async with meanwhile(place.entered()) as waiting:
        await asyncio.sleep(0)
        assert place.seen == ["begun"]
        place.go.set()
        assert await waiting == "given"
        assert place.seen == ["begun"]
    assert place.seen == ["begun", "left", "over"]


async def test_an_error_of_entering_reaches_who_waits() -> None:
    place = Place(enter=ValueError("closed"))
    place.go.set()
    with pytest.raises(ValueError, match="closed"):
        async with meanwhile(place.entered()) as waiting:
            await waiting
    assert place.seen == ["begun", "over"]


async def test_a_caller_that_fails_before_waits_for_nothing() -> None:
    place = Place()
    with pytest.raises(KeyError, match="mine"):
        await fail_meanwhile(place)
    assert place.seen == ["begun", "over"]


async def test_a_callers_own_error_stands_where_entering_failed_too() -> None:
    place = Place(enter=ValueError("closed"))
    place.go.set()
    with pytest.raises(KeyError, match="mine"):
        await fail_meanwhile(place)
    assert place.seen == ["begun", "over"]


async def test_an_error_of_leaving_is_raised() -> None:
    place = Place(leave=ValueError("jammed"))
    place.go.set()
    with pytest.raises(ValueError, match="jammed"):
        async with meanwhile(place.entered()) as waiting:
            await waiting


async def test_a_caller_that_is_cancelled_while_it_waits_cancels_the_entering() -> None:
    place = Place()

    async def call() -> None:
        async with meanwhile(place.entered()) as waiting:
            await waiting

    caller = asyncio.create_task(call())
    await asyncio.sleep(0.01)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert place.seen == ["begun", "over"]


async def test_a_caller_that_is_cancelled_later_leaves() -> None:
    place = Place()
    place.go.set()

    async def call() -> None:
        async with meanwhile(place.entered()) as waiting:
            await waiting
            await asyncio.Event().wait()

    caller = asyncio.create_task(call())
    await asyncio.sleep(0.01)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert place.seen == ["begun", "left", "over"]
