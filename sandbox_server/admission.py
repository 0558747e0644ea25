"""Who runs next: a bounded queue before the slots, fair between clients and honest about deadlines.

Clients take turns, whatever each has waiting (round robin, as in Nagle's fair queueing, RFC 970). When the queue is
full, whoever has the most waiting loses his youngest place to a newcomer who has fewer, so that a client who floods the
server shuts out nobody but himself.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from dataclasses import dataclass

from sandbox_server.errors import DeadlineExceeded, Overloaded

_SMOOTHING = 0.05  # weight of the newest run in the running mean
_FORGETTING = 1.02  # by how much each run lets go of the fastest one ever seen


@dataclass(slots=True, eq=False)
class _Waiter:
    client: str
    size_bytes: int
    deadline_s: float  # on the loop's clock
    patient: bool
    turn: asyncio.Future[None]


class Admission:
    """A place for each slot, and a queue before them.

    Attributes:
        running: places that are taken.
        waiting: requests that wait for one.

    Args:
        places: runs at once.
        queue_size: how many may wait and be refused. Streams are not counted: they are held back by not reading on.
        queue_bytes: how much those that wait and run may hold together.
    """

    def __init__(self, places: int, queue_size: int, queue_bytes: int) -> None:
        self._all_places = places
        self._places = places  # fewer while the host is under pressure
        self._queue_size = queue_size
        self._queue_bytes = queue_bytes
        self._queues: OrderedDict[str, deque[_Waiter]] = OrderedDict()  # the next client first
        self._impatient = 0
        self._held_bytes = 0
        self._mean_run_s = 0.0
        self._fastest_run_s = math.inf
        self.waiting = 0
        self.running = 0
        self._clock = asyncio.get_running_loop().time

    def expected_wait_s(self) -> float:
        """How long a newcomer is likely to wait."""
        return (self.waiting + 1) * self._mean_run_s / self._places if self.running >= self._places else 0.0

    def hold_back(self, held_back: bool) -> None:
        """Let no more than one run go at a time, or as many as there are places again."""
        self._places = 1 if held_back else self._all_places
        self._admit()

    async def enter(self, client: str, size_bytes: int, remaining_s: float | None, patient: bool = False) -> None:
        """Wait for a place. Whoever returns from here must `leave`.

        Args:
            client: who asks; clients take turns.
            size_bytes: what the request holds in memory.
            remaining_s: until its deadline, if it has one.
            patient: wait even when the queue is full, because whoever sent it is held back in another way.

        Raises:
            Overloaded: the queue is full, or longer than the deadline is far.
            DeadlineExceeded: its turn came too late for even the fastest run to finish.
        """
        if remaining_s is not None and self.expected_wait_s() > remaining_s:
            raise self._overloaded("the queue is longer than the deadline is far")
        if self._held_bytes and self._held_bytes + size_bytes > self._queue_bytes and not patient:
            raise self._overloaded("the requests that wait hold as much memory as they may")
        deadline_s = math.inf if remaining_s is None else self._clock() + remaining_s
        if self.running < self._places and not self.waiting:
            if self._too_late(deadline_s):
                raise DeadlineExceeded("the deadline is too near for a run to finish")
            self.running += 1
            self._held_bytes += size_bytes
            return
        if not patient and self._impatient >= self._queue_size:
            self._make_room(client)
        turn = asyncio.get_running_loop().create_future()
        waiter = _Waiter(client, size_bytes, deadline_s, patient, turn)
        self._append(waiter)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.leave(size_bytes, None)  # the place came at the same moment: pass it on
            elif waiter in self._queues.get(client, ()):
                self._remove(waiter)
            raise

    def leave(self, size_bytes: int, run_s: float | None) -> None:
        """Give a place back.

        Args:
            size_bytes: as given to `enter`.
            run_s: how long the place was taken; None for a run that was not finished.
        """
        if run_s is not None:
            self._mean_run_s += (run_s - self._mean_run_s) * (_SMOOTHING if self._mean_run_s else 1.0)
            self._fastest_run_s = min(run_s, self._fastest_run_s * _FORGETTING)
        self._held_bytes -= size_bytes
        self.running -= 1
        self._admit()

    def _admit(self) -> None:
        while self.running < self._places and self.waiting:
            self._admit_next()

    def _admit_next(self) -> None:
        client, queue = next(iter(self._queues.items()))
        waiter = queue[0]
        self._remove(waiter)
        if client in self._queues:
            self._queues.move_to_end(client)
        if waiter.turn.done():  # it was cancelled, and its task has not noticed yet
            return
        if self._too_late(waiter.deadline_s):
            waiter.turn.set_exception(DeadlineExceeded("its turn came too late for a run to finish"))
            return
        self.running += 1
        self._held_bytes += waiter.size_bytes
        waiter.turn.set_result(None)

    def _make_room(self, client: str) -> None:
        """Let the youngest of the client with the most waiting go, unless that is the newcomer himself."""
        own = len(self._queues.get(client, ()))
        longest = max(self._queues.values(), key=len, default=deque())
        victim = next((waiter for waiter in reversed(longest) if not waiter.patient), None)
        if victim is None or len(longest) <= own + 1:
            raise self._overloaded(f"the queue is full: {self._impatient} requests wait")
        self._remove(victim)
        if not victim.turn.done():
            victim.turn.set_exception(self._overloaded("the queue is full, and other clients have fewer waiting"))

    def _append(self, waiter: _Waiter) -> None:
        self._queues.setdefault(waiter.client, deque()).append(waiter)
        self.waiting += 1
        self._impatient += not waiter.patient
        self._held_bytes += waiter.size_bytes

    def _remove(self, waiter: _Waiter) -> None:
        queue = self._queues[waiter.client]
        if queue[0] is waiter:
            queue.popleft()
        else:
            queue.remove(waiter)
        if not queue:
            del self._queues[waiter.client]
        self.waiting -= 1
        self._impatient -= not waiter.patient
        self._held_bytes -= waiter.size_bytes

    def _too_late(self, deadline_s: float) -> bool:
        if deadline_s == math.inf:
            return False
        fastest_s = self._fastest_run_s if self._fastest_run_s < math.inf else 0.0
        return self._clock() + fastest_s >= deadline_s

    def _overloaded(self, problem: str) -> Overloaded:
        half_s = self.expected_wait_s() / 2
        return Overloaded(problem, retry_after_ms=round(min(5.0, max(0.01, half_s)) * 1000))
