"""The one table between errors and gRPC statuses: the server reads it in one direction, the client in the other."""

from __future__ import annotations

import asyncio
import functools
import logging
import uuid
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Never, TypeVar

import grpc

from sandbox_server.errors import (
    Broken,
    DeadlineExceeded,
    HostUnfit,
    InvalidJob,
    Overloaded,
    SandboxError,
    Unauthenticated,
    Unavailable,
    Unsupported,
)

S = TypeVar("S")
M = TypeVar("M")
R = TypeVar("R")
Context = grpc.aio.ServicerContext[Any, Any]

logger = logging.getLogger(__name__)

STATUS_OF: dict[type[SandboxError], grpc.StatusCode] = {
    InvalidJob: grpc.StatusCode.INVALID_ARGUMENT,
    Unsupported: grpc.StatusCode.UNIMPLEMENTED,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    HostUnfit: grpc.StatusCode.UNAVAILABLE,  # after start-up: another server's host may do
    Unavailable: grpc.StatusCode.UNAVAILABLE,
}
_ERROR_OF: dict[grpc.StatusCode, type[SandboxError]] = {code: error for error, code in STATUS_OF.items()}
_ERROR_OF[grpc.StatusCode.PERMISSION_DENIED] = Unauthenticated
# Our own cancelling never comes back as a status: asyncio.CancelledError is raised. This is a server that stopped.
_ERROR_OF[grpc.StatusCode.CANCELLED] = Unavailable

# What gRPC itself says on the caller's side when a connection breaks under a call; no server has said it.
_CONNECTION_LOST = "Internal error from Core"

# gRFC A6: how long a client should wait before it tries again.
PUSHBACK_KEY = "grpc-retry-pushback-ms"


def code_of(error: BaseException) -> grpc.StatusCode:
    """Choose the status of an error."""
    for cls in type(error).__mro__:
        if cls in STATUS_OF:
            return STATUS_OF[cls]
    return grpc.StatusCode.CANCELLED if isinstance(error, asyncio.CancelledError) else grpc.StatusCode.INTERNAL


def status_of(error: Exception, request_id: str = "") -> tuple[grpc.StatusCode, str]:
    """Choose the status and the public sentence of an error.

    What is not the caller's leaves as INTERNAL with a fixed sentence and an id; the log has the detail under that id.
    """
    code = code_of(error)
    if code is not grpc.StatusCode.INTERNAL:
        return code, str(error)
    error_id = uuid.uuid4().hex[:12]
    logger.error("call failed", exc_info=error, extra={"error_id": error_id, "request_id": request_id})
    return grpc.StatusCode.INTERNAL, f"the sandbox failed; its log has the detail under id {error_id}"


def error_of(
    code: grpc.StatusCode,
    details: str | None,
    trailing_metadata: Iterable[tuple[str, str | bytes]] | None = None,
    retry_after_ms: int | None = None,
) -> SandboxError:
    """Build the error that a status stands for."""
    sentence = details or code.name
    cls = Unavailable if details == _CONNECTION_LOST else _ERROR_OF.get(code, Broken)
    if cls is InvalidJob:
        field, colon, problem = sentence.partition(": ")
        return InvalidJob(field, problem) if colon else InvalidJob("request", sentence)
    if cls is Overloaded:
        if "larger than max" in sentence:  # gRPC's own refusal of a message; sending it again would not help
            return InvalidJob("request", f"is too large for this server: {sentence}")
        pushback = dict(trailing_metadata or ()).get(PUSHBACK_KEY, retry_after_ms)
        return Overloaded(sentence, int(pushback) if pushback is not None else None)
    return cls(sentence)


def errors_to_status(
    method: Callable[[S, M, Context], Awaitable[R]],
) -> Callable[[S, M, Context], Awaitable[R]]:
    """Decorate a servicer's method so that what it raises leaves as a status.

    Without it gRPC sends the text of the exception to the caller, under UNKNOWN.
    """

    @functools.wraps(method)
    async def translated(self: S, request: M, context: Context) -> R:
        try:
            return await method(self, request, context)
        except (grpc.aio.AbortError, asyncio.CancelledError):
            raise
        except Exception as error:
            return await abort_with(error, context, getattr(request, "request_id", ""))

    return translated


async def abort_with(error: Exception, context: Context, request_id: str = "") -> Never:
    """End the call with the status of `error`."""
    code, sentence = status_of(error, request_id)
    trailing: tuple[tuple[str, str], ...] = ()
    if isinstance(error, Overloaded) and error.retry_after_ms is not None:
        trailing = ((PUSHBACK_KEY, str(error.retry_after_ms)),)
    await context.abort(code, sentence, trailing)
