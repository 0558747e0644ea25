"""Doing many things at once, a bounded number at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


async def for_each(pages: Iterator[list[T]], work: Callable[[T], Awaitable[None]], concurrency: int) -> None:
    """Do `work` on every item, at most `concurrency` at a time.

    Args:
        pages: asked for the next page, in a thread, only when the last one is used up.
        work: what to do with an item.
        concurrency: how many items may be in work.

    Raises:
        Exception: the first that `work` or `pages` raised; what else was in work is cancelled.
    """
    waiting: list[T] = []
    exhausted = False
    fetching: asyncio.Task[None] | None = None

    async def fetch() -> None:
        nonlocal waiting, exhausted, fetching
        page = await asyncio.to_thread(next, pages, None)
        exhausted = page is None
        waiting = list(reversed(page or []))
        fetching = None

    async def worker(group: asyncio.TaskGroup) -> None:
        nonlocal fetching
        while True:
            while not waiting and not exhausted:
                # All wait for one task, and go on together: rows that are finished together share a commit.
                fetching = fetching or group.create_task(fetch())
                await fetching
            if not waiting:
                return
            await work(waiting.pop())

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(worker(group))
    except BaseExceptionGroup as failures:
        # Several workers usually fail for the same reason, such as a server that went away.
        raise failures.exceptions[0] from None
