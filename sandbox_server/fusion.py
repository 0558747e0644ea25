"""SandboxFusion's HTTP interface before a sandbox, so that what speaks it (verl and others) needs no change.

    POST /run_code {"code": ..., "language": "python", "stdin": ..., "run_timeout": 10, ...}

Request and response are those of `sandbox/server/sandbox_api.py` in bytedance/SandboxFusion; what its callers look at
is kept: a program that failed is `Failed` with a `run_result`, and trouble of the sandbox is never that. Trouble that
another try may end is HTTP 504, which verl tries again; a request that cannot be carried out is 422, as there.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import glob
import json
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sandbox_server.errors import DeadlineExceeded, InvalidJob, Overloaded, Retryable, SandboxError, Unsupported
from sandbox_server.jobs import File, Job, LimitsRequest, Outcome, Verdict
from sandbox_server.sandbox import Sandbox

MOST_BODY_BYTES = 64 * 2**20
_MOST_HELD_BYTES = 512 * 2**20
_MOST_CONNECTIONS = 4096
_BODY_S = 30.0
"""In which a body must have arrived: who sends a byte now and then holds a connection and memory."""
_PATIENCE_S = 8.0
"""verl waits for the time limits and ten seconds more; it should hear from us before it gives up."""
_MIB = 2**20
_FAILED = 1


def make_app(sandbox: Sandbox) -> Starlette:
    """The interface before `sandbox`."""
    bodies = _Bodies()

    async def run_code(request: Request) -> Response:
        # A web page elsewhere can send any body, but not with this type unless it is asked to.
        if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            return _refusal("content-type: expected application/json", 415)
        try:
            async with bodies.read(request) as body:
                job, timeout_s = job_of(json.loads(body))
                async with asyncio.timeout(timeout_s):
                    outcome = await sandbox.run(job)
        except (InvalidJob, Unsupported) as error:
            return _refusal(str(error), 413 if isinstance(error, InvalidJob) and error.field == "body" else 422)
        except (ValueError, RecursionError) as error:
            return _refusal(f"body: not JSON: {error}", 422)
        except ClientDisconnect:
            return Response(status_code=499)
        except (Retryable, DeadlineExceeded, TimeoutError) as error:
            return JSONResponse(_trouble(str(error) or f"no answer within {timeout_s:g} s"), 504)
        except SandboxError as error:
            return JSONResponse(_trouble(str(error)))
        return JSONResponse(answer_of(outcome))

    async def ping(request: Request) -> Response:
        return JSONResponse("pong")

    return Starlette(
        routes=[
            Route("/run_code", run_code, methods=["POST"]),
            Route("/v1/ping", ping),
        ]
    )


def job_of(request: Any) -> tuple[Job, float]:
    """Read a request.

    Returns:
        The job, and after how many seconds its answer is too late.

    Raises:
        InvalidJob: a field is missing or of another kind than expected.
    """
    if not isinstance(request, dict):
        raise InvalidJob("body", "expected a JSON object")
    code = _field(request, "code", str)
    language = _field(request, "language", str)
    run_timeout_s = _seconds(request, "run_timeout")
    compile_timeout_s = _seconds(request, "compile_timeout")
    memory_mib = _field(request, "memory_limit_MB", int, -1)
    stdin = _field(request, "stdin", str, "")
    files = _field(request, "files", dict, {})
    fetch = _field(request, "fetch_files", list, [])
    if _field(request, "args", list, []):
        raise InvalidJob("args", "belongs to pytest, which is not offered; leave it out")
    if not all(isinstance(path, str) for path in fetch):
        raise InvalidJob("fetch_files", "expected a list of paths")
    wall_time_ms = max(1, round(run_timeout_s * 1000))
    job = Job(
        code=code,
        runtime=language,
        stdin=stdin.encode("utf-8", "replace"),
        files=tuple(File(path, _content(path, content)) for path, content in files.items() if content is not None),
        # Paths there, patterns here.
        collect=tuple(glob.escape(path) for path in fetch),
        limits=LimitsRequest(
            wall_time_ms=wall_time_ms,
            cpu_time_ms=wall_time_ms,
            memory_bytes=memory_mib * _MIB if memory_mib > 0 else None,
        ),
    )
    return job, compile_timeout_s + run_timeout_s + _PATIENCE_S


def answer_of(outcome: Outcome) -> dict[str, Any]:
    """Say how a program ended."""
    late = outcome.verdict == Verdict.TIME_LIMIT
    code = outcome.exit_code
    if code is None and outcome.signal is not None:
        code = -outcome.signal
    stderr = outcome.stderr.decode("utf-8", "replace")
    if outcome.verdict != Verdict.EXITED and not late:
        code = code or _FAILED
        if outcome.verdict not in (Verdict.ERROR, Verdict.SYNTAX_ERROR):  # those have said it themselves
            stderr += f"{'' if not stderr or stderr.endswith(chr(10)) else chr(10)}{outcome.verdict}\n"
    result = {
        "status": "TimeLimitExceeded" if late else "Finished",
        "execution_time": outcome.usage.wall_time_ms / 1000,
        "return_code": None if late else code,
        "stdout": outcome.stdout.decode("utf-8", "replace"),
        "stderr": stderr,
    }
    return {
        "status": "Failed" if late or code else "Success",
        "message": "",
        "compile_result": None,
        "run_result": result,
        "executor_pod_name": socket.gethostname(),
        "files": {file.path: base64.b64encode(file.content).decode("ascii") for file in outcome.files},
    }


def serve(sandbox: Sandbox, listener: socket.socket) -> Any:
    """The server, to be awaited; it ends by SIGTERM or Ctrl-C."""
    import uvicorn

    config = uvicorn.Config(
        make_app(sandbox),
        limit_concurrency=_MOST_CONNECTIONS,
        log_level="warning",
        access_log=False,
        server_header=False,
    )
    return uvicorn.Server(config).serve(sockets=[listener])


class _Bodies:
    """The bodies of requests, from their first byte until they are answered: as many as fit into memory together."""

    def __init__(self) -> None:
        self._held_bytes = 0

    @contextlib.asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Read a request's body.

        Raises:
            InvalidJob: it is too large.
            Overloaded: there are too many.
            DeadlineExceeded: it does not come.
        """
        body = bytearray()
        try:
            try:
                async with asyncio.timeout(_BODY_S):
                    async for chunk in request.stream():
                        body += chunk
                        self._held_bytes += len(chunk)
                        if len(body) > MOST_BODY_BYTES:
                            raise InvalidJob("body", f"more than {MOST_BODY_BYTES} bytes")
                        if self._held_bytes > _MOST_HELD_BYTES:
                            raise Overloaded(f"the requests in flight hold more than {_MOST_HELD_BYTES} bytes")
            except TimeoutError:
                raise DeadlineExceeded(f"body: it did not arrive within {_BODY_S:g} s") from None
            yield bytes(body)
        finally:
            self._held_bytes -= len(body)


def _field(request: Mapping[str, Any], name: str, kind: type, default: Any = None) -> Any:
    value = request.get(name)
    if value is None:
        if default is None:
            raise InvalidJob(name, "is missing")
        return default
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        names = {str: "text", int: "a whole number", dict: "an object", list: "a list"}
        raise InvalidJob(name, f"expected {names[kind]}")
    return value


def _seconds(request: Mapping[str, Any], name: str) -> float:
    value = request.get(name)
    value = 10.0 if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
        raise InvalidJob(name, "expected a number of seconds above 0")
    return float(value)


def _content(path: str, content: Any) -> bytes:
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise InvalidJob("files", f"{path}: expected base64") from None


def _trouble(message: str) -> dict[str, Any]:
    parts: dict[str, Any] = {
        "compile_result": None,
        "run_result": None,
        "executor_pod_name": socket.gethostname(),
        "files": {},
    }
    return {"status": "SandboxError", "message": message, **parts}


def _refusal(message: str, status: int) -> Response:
    return JSONResponse({"detail": message}, status)
