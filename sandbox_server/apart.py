"""Judge a program from outside: it runs in one jail, its tests in another, and a socket joins the two."""

from __future__ import annotations

import asyncio
import socket

from sandbox_server.errors import Unavailable
from sandbox_server.jobs import Limits
from sandbox_server.slot import Evidence, Slot
from sandbox_server.tasks import to_the_end

_GRACE_S = 0.2  # for the program to flush its output once the judge is done


async def run(
    program: Slot, judge: Slot, requests: tuple[bytes, bytes], stdin: bytes, limits: Limits, collect: bool
) -> tuple[Evidence, Evidence]:
    """Run both sides until the judge is done.

    Args:
        program: where the program runs.
        judge: where its tests run; the same limits hold there.
        requests: what the guest reads on either side.
        stdin: the program's.
        limits: complete limits.
        collect: the program's request names files to return.

    Returns:
        What was seen of the program and of the judge.

    Raises:
        Unavailable: a slot was lost.
    """
    sides: list[asyncio.Task[Evidence]] = []
    try:
        here, there = socket.socketpair()
    except OSError as error:
        raise Unavailable(f"no socket for a judge: {error.strerror}; try again") from error
    try:
        with here, there:
            sides += (
                asyncio.ensure_future(program.run(requests[0], stdin, limits, collect, link=here.fileno())),
                asyncio.ensure_future(judge.run(requests[1], b"", limits, False, link=there.fileno())),
            )
            # Each hands its end over in its first step. We must not keep them: a side sees the other's end by end of
            # file.
            await asyncio.sleep(0)
        await asyncio.wait(sides, return_when=asyncio.FIRST_COMPLETED)
        if not sides[1].done():
            await asyncio.wait(sides[1:])  # the program ended first: its judge notices at once
        elif not sides[0].done():
            await asyncio.wait(sides[:1], timeout=_GRACE_S)
            program.stop()
        return await sides[0], await sides[1]
    finally:
        for side in sides:
            side.cancel()
        await to_the_end(asyncio.gather(*sides, return_exceptions=True))  # then both slots are whole again
