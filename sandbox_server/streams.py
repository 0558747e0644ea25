"""The server's side of a call that carries any number of programs, each answered as it finishes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

import grpc

from sandbox_server.errors import DeadlineExceeded, InvalidJob, Overloaded, Unavailable
from sandbox_server.statuses import Context, status_of
from sandbox_server.v1 import sandbox_pb2 as pb
from sandbox_server.wire import ENVELOPE_BYTES, TOGETHER_BYTES

_CANCELLED_S = 1.0
_TOGETHER_S = 0.016  # that answers wait for others: a few programs' time, where many more wait for a slot

Run = Callable[[pb.ExecuteRequest, float | None], Awaitable[pb.ExecuteResponse]]


class _Answer(NamedTuple):
    """An answer that is to be written, with the bytes of its own and of its request."""

    message: pb.ExecuteResponse
    size: int
    request_size: int


class Stream:
    """One call of ExecuteStream.

    Args:
        run: runs one request; its second argument is the time until the request's deadline, in seconds.
        context: the call.
        window: requests between being read and being answered; then reading stops, and gRPC's flow control stops the
            client.
        window_bytes: what these requests may hold together, one of which is always let through; and what answers may
            that the client has not read, before it must for more to run.
    """

    def __init__(self, run: Run, context: Context, window: int, window_bytes: int) -> None:
        self._run_one = run
        self._context = context
        self._window = window
        self._window_bytes = window_bytes
        self._held = 0
        self._held_bytes = 0
        self._released = asyncio.Event()
        self._answers: deque[_Answer] = deque()
        self._unread_bytes = 0
        self._read = asyncio.Event()
        self._to_write = asyncio.Event()
        self._complete = False
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._cancelled: set[str] = set()
        self._reader: asyncio.Task[None] | None = None
        self._draining = False

    async def serve(self) -> None:
        """Read, run and answer until the client has no more.

        Raises:
            Unavailable: it was drained: what was read is answered, and the client takes the rest elsewhere.
        """
        async with asyncio.TaskGroup() as tasks:
            self._reader = tasks.create_task(self._read_all(tasks))
            tasks.create_task(self._write_all())
            await asyncio.wait([self._reader])
            while self._runs:
                await asyncio.wait(self._runs.values())
            self._complete = True
            self._to_write.set()
        if self._draining:
            raise Unavailable("the server is draining")

    @property
    def is_read(self) -> bool:
        """Whether its client reads its answers; else nothing of it should run, or they would fill the memory."""
        return self._unread_bytes <= self._window_bytes

    async def until_read(self) -> None:
        """Wait for `is_read`."""
        while not self.is_read:
            self._read.clear()
            await self._read.wait()

    def drain(self) -> None:
        """Read no more."""
        self._draining = True
        if self._reader is not None:
            self._reader.cancel()

    async def _read_all(self, tasks: asyncio.TaskGroup) -> None:
        while not self._draining:
            message = await self._context.read()
            if message is grpc.aio.EOF:
                return
            if isinstance(message, InvalidJob):
                await self._hold(0)
                self._answer(_refusal(message), 0)
                continue
            for request in self._requests(message):
                await self._take(request, tasks)

    def _requests(self, message: Any) -> Iterable[pb.ExecuteRequest]:
        """What a message carries."""
        return (message,)

    async def _take(self, request: pb.ExecuteRequest, tasks: asyncio.TaskGroup) -> None:
        request_id = request.request_id
        if request.cancel:
            await asyncio.sleep(0)  # it may have come with its request: a task that has not begun would answer nothing
            if request_id in self._runs and request_id not in self._cancelled:
                self._cancelled.add(request_id)
                self._runs[request_id].cancel()
            return
        size = request.ByteSize()
        await self._hold(size)
        if not request_id or request_id in self._runs:
            problem = "is empty" if not request_id else "is that of another request in flight"
            refusal = _refusal(InvalidJob("request_id", f"{problem}; a stream's answers are told apart by it"))
            refusal.request_id = request_id
            self._answer(refusal, size)
        else:
            self._runs[request_id] = tasks.create_task(self._run(request, size))

    async def _hold(self, size: int) -> None:
        """Wait until there is room for a request, and take it."""
        while self._held and (self._held >= self._window or self._held_bytes + size > self._window_bytes):
            self._released.clear()
            await self._released.wait()
        self._held += 1
        self._held_bytes += size

    async def _run(self, request: pb.ExecuteRequest, size: int) -> None:
        request_id = request.request_id
        try:
            if request.HasField("timeout_ms"):
                answer = await self._run_in_time(request, request.timeout_ms / 1000)
            else:
                answer = await self._run_one(request, None)
        except asyncio.CancelledError:
            if request_id not in self._cancelled:
                raise
            answer = _cancelled()
        except Exception as error:
            answer = _refusal(error, request_id)
        finally:
            del self._runs[request_id]
            self._cancelled.discard(request_id)
        answer.request_id = request_id
        self._answer(answer, size)

    def _answer(self, answer: pb.ExecuteResponse, size: int) -> None:
        self._answers.append(_Answer(answer, answer.ByteSize(), size))
        self._unread_bytes += self._answers[-1].size
        self._to_write.set()

    async def _run_in_time(self, request: pb.ExecuteRequest, timeout_s: float) -> pb.ExecuteResponse:
        if timeout_s <= 0:
            raise InvalidJob("timeout_ms", f"{request.timeout_ms} is not positive; leave it out for none")
        try:
            async with asyncio.timeout(timeout_s):
                return await self._run_one(request, timeout_s)
        except TimeoutError:
            raise DeadlineExceeded(f"timeout_ms, {request.timeout_ms}, passed before the run ended") from None

    async def _write_all(self) -> None:
        while True:
            await self._to_write.wait()
            self._to_write.clear()
            while self._answers:
                try:
                    await self._write_next()
                except grpc.aio.InternalError:
                    await asyncio.sleep(_CANCELLED_S)  # the client has gone, and gRPC is about to cancel us
                    raise
            if self._complete:
                return

    async def _write_next(self) -> None:
        """Write a message."""
        answer = self._answers.popleft()
        await self._context.write(answer.message)
        self._release([answer])

    def _release(self, written: list[_Answer]) -> None:
        self._held -= len(written)
        self._held_bytes -= sum(answer.request_size for answer in written)
        self._unread_bytes -= sum(answer.size for answer in written)
        self._released.set()
        self._read.set()


class BatchStream(Stream):
    """One call of ExecuteBatches: a message carries any number of requests, or of answers.

    Args:
        many: while so many are in flight, answers wait for others to travel with: the slots have work meanwhile, and
            a message costs server and client more than what is in it.
    """

    def __init__(self, run: Run, context: Context, window: int, window_bytes: int, many: int) -> None:
        super().__init__(run, context, window, window_bytes)
        self._many = many

    def _requests(self, message: Any) -> Iterable[pb.ExecuteRequest]:
        requests: Iterable[pb.ExecuteRequest] = message.requests
        return requests

    async def _write_next(self) -> None:
        if len(self._runs) >= self._many:
            await asyncio.sleep(_TOGETHER_S)
        message = pb.ExecuteResponses()
        room = TOGETHER_BYTES
        written: list[_Answer] = []
        while self._answers:
            room -= self._answers[0].size + ENVELOPE_BYTES
            if room < 0 and written:
                break
            written.append(self._answers.popleft())
            message.responses.append(written[-1].message)
        await self._context.write(message)
        self._release(written)


def _refusal(error: Exception, request_id: str = "") -> pb.ExecuteResponse:
    code, sentence = status_of(error, request_id)
    retry_after_ms = error.retry_after_ms if isinstance(error, Overloaded) else None
    refusal = pb.Refusal(code=code.value[0], message=sentence, retry_after_ms=retry_after_ms)
    return pb.ExecuteResponse(request_id=request_id, refusal=refusal)


def _cancelled() -> pb.ExecuteResponse:
    return pb.ExecuteResponse(refusal=pb.Refusal(code=grpc.StatusCode.CANCELLED.value[0], message="cancelled"))
