"""The server's side of one ExecuteStream: any number of programs in flight, answered as they finish."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import grpc

from sandbox_server.errors import DeadlineExceeded, InvalidJob, Overloaded, Unavailable
from sandbox_server.statuses import Context, status_of
from sandbox_server.v1 import sandbox_pb2 as pb

Run = Callable[[pb.ExecuteRequest, float | None], Awaitable[pb.ExecuteResponse]]


class Stream:
    """One call of ExecuteStream.

    Args:
        run: runs one request; its second argument is the time until the request's deadline, in seconds.
        context: the call.
        window: requests between being read and being answered; then reading stops, and gRPC's flow control stops the
            client.
        window_bytes: what these requests may hold together; one is always let through.
    """

    def __init__(self, run: Run, context: Context, window: int, window_bytes: int) -> None:
        self._run_one = run
        self._context = context
        self._window = window
        self._window_bytes = window_bytes
        self._held = 0
        self._held_bytes = 0
        self._released = asyncio.Event()
        self._answers: asyncio.Queue[tuple[pb.ExecuteResponse, int] | None] = asyncio.Queue()
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
            self._answers.put_nowait(None)
        if self._draining:
            raise Unavailable("the server is draining")

    def drain(self) -> None:
        """Read no more."""
        self._draining = True
        if self._reader is not None:
            self._reader.cancel()

    async def _read_all(self, tasks: asyncio.TaskGroup) -> None:
        while not self._draining:
            request = await self._context.read()
            if request is grpc.aio.EOF:
                return
            if isinstance(request, InvalidJob):
                await self._room(0)
                self._held += 1
                self._answers.put_nowait((_refusal(request), 0))
                continue
            request_id = request.request_id
            if request.cancel:
                if request_id in self._runs and request_id not in self._cancelled:
                    self._cancelled.add(request_id)
                    self._runs[request_id].cancel()
                continue
            size = request.ByteSize()
            await self._room(size)
            self._held += 1
            self._held_bytes += size
            if not request_id or request_id in self._runs:
                problem = "is empty" if not request_id else "is that of another request in flight"
                refusal = _refusal(InvalidJob("request_id", f"{problem}; a stream's answers are told apart by it"))
                refusal.request_id = request_id
                self._answers.put_nowait((refusal, size))
                continue
            self._runs[request_id] = tasks.create_task(self._run(request, size))

    async def _room(self, size: int) -> None:
        while self._held and (self._held >= self._window or self._held_bytes + size > self._window_bytes):
            self._released.clear()
            await self._released.wait()

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
        self._answers.put_nowait((answer, size))

    async def _run_in_time(self, request: pb.ExecuteRequest, timeout_s: float) -> pb.ExecuteResponse:
        if timeout_s <= 0:
            raise InvalidJob("timeout_ms", f"{request.timeout_ms} is not positive; leave it out for none")
        try:
            async with asyncio.timeout(timeout_s):
                return await self._run_one(request, timeout_s)
        except TimeoutError:
            raise DeadlineExceeded(f"timeout_ms, {request.timeout_ms}, passed before the run ended") from None

    async def _write_all(self) -> None:
        while (entry := await self._answers.get()) is not None:
            answer, size = entry
            await self._context.write(answer)
            self._held -= 1
            self._held_bytes -= size
            self._released.set()


def _refusal(error: Exception, request_id: str = "") -> pb.ExecuteResponse:
    code, sentence = status_of(error, request_id)
    retry_after_ms = error.retry_after_ms if isinstance(error, Overloaded) else None
    refusal = pb.Refusal(code=code.value[0], message=sentence, retry_after_ms=retry_after_ms)
    return pb.ExecuteResponse(request_id=request_id, refusal=refusal)


def _cancelled() -> pb.ExecuteResponse:
    return pb.ExecuteResponse(refusal=pb.Refusal(code=grpc.StatusCode.CANCELLED.value[0], message="cancelled"))
