"""How many requests a server is given at once: as many as it takes without complaint."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Pace:
    """Additive increase, multiplicative decrease, as TCP shares a link (Chiu and Jain, 1989).

    A complaint halves the number in flight, once for all requests that were sent before it; every answer raises it by a
    fraction, one more for each full round.

    Args:
        most: never more than this many; also where it starts, since most servers queue well by themselves.
    """

    def __init__(self, most: int) -> None:
        self._most = float(max(1, most))
        self._allowed = self._most
        self._in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._cuts = 0

    @property
    def allowed(self) -> int:
        """How many may be in flight now."""
        return int(self._allowed)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[Turn]:
        """Wait for a turn and hold it as long as the block runs; the longest waiting is next."""
        while self._in_flight >= self.allowed:
            ready = asyncio.get_running_loop().create_future()
            self._waiting.append(ready)
            try:
                await ready
            except asyncio.CancelledError:
                if ready.done() and not ready.cancelled():
                    self._wake()  # the turn was offered here and goes to the next
                raise
        self._in_flight += 1
        try:
            yield Turn(self, self._cuts)
        finally:
            self._in_flight -= 1
            self._wake()

    def answered(self) -> None:
        """The server took a request."""
        self._allowed = min(self._most, self._allowed + 1 / self._allowed)
        self._wake()

    def complained(self, cuts_before: int) -> None:
        """The server is overloaded; what was sent before the last cut does not cut again."""
        if cuts_before == self._cuts:
            self._cuts += 1
            self._allowed = max(1.0, self._allowed / 2)

    def _wake(self) -> None:
        free = self.allowed - self._in_flight
        while free > 0 and self._waiting:
            ready = self._waiting.popleft()
            if not ready.done():
                ready.set_result(None)
                free -= 1


class Turn:
    """One request's place among those in flight."""

    def __init__(self, pace: Pace, cuts: int) -> None:
        self._pace = pace
        self._cuts = cuts

    def answered(self) -> None:
        """The server took the request."""
        self._pace.answered()

    def complained(self) -> None:
        """The server said that it is overloaded."""
        self._pace.complained(self._cuts)
