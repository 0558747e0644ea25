"""Work that goes its own way: to its end whatever becomes of its caller, or beside it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

T = TypeVar("T")


async def to_the_end(work: Awaitable[T]) -> T:
    """Wait for `work` even while the caller is cancelled; the cancellation is raised when it is over.

    For jails that are started, killed and put back.

    Raises:
        CancelledError: the caller was cancelled meanwhile; what `work` answered or raised is dropped.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))  # unlike awaiting the task, this does not hand a cancellation on to it
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # or asyncio complains that nobody asked for it
        raise cancelled
    return task.result()


@contextlib.asynccontextmanager
async def meanwhile(context: contextlib.AbstractAsyncContextManager[T]) -> AsyncIterator[Awaitable[T]]:
    """Enter `context` while the caller goes on; leave it when the caller does.

    Yields:
        What to await for what `context` gives, or for the error that entering it ended with. A caller that fails
        before need not wait: entering is cancelled.
    """
    entered: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def hold() -> None:  # entered and left by one task, as those contexts need that hold tasks of their own
        try:
            async with context as given:
                entered.set_result(given)
                await over.wait()
        except Exception as error:
            if entered.done():
                raise
            entered.set_exception(error)

    task = asyncio.create_task(hold())
    waiting = asyncio.shield(entered)  # a caller that is cancelled while it waits must not end what enters
    try:
        yield waiting
    finally:
        over.set()
        if not entered.done():
            task.cancel()
        await to_the_end(asyncio.wait((task,)))
        for future in (entered, waiting):
            if future.done() and not future.cancelled():
                future.exception()  # a caller that failed by itself asked for none, and asyncio would complain
        if not task.cancelled():
            task.result()
