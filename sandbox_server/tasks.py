"""What must come to its end however often its caller is cancelled: jails that are started, killed and put back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def to_the_end(work: Awaitable[T]) -> T:
    """Wait for `work` even while the caller is cancelled; the cancellation is raised when it is over.

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
