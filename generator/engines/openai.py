"""Completions from any OpenAI-compatible server: `vllm serve`, SGLang, llama.cpp, Ollama, or a hosted one."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import random
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from generator.engines import Completion, CompletionRequest, EngineUnavailable, RequestFailed
from generator.engines.pace import Pace
from generator.recipe import ModelSettings

# The server is busy or being restarted, for everybody: the build stops when it stays so.
_BUSY = frozenset({429, 503})
# Something went wrong with this request; the next try may go through.
_TRANSIENT = frozenset({408, 409, 425, 500, 502, 504, 520, 522, 524})
_REFUSED = frozenset({401, 402, 403})
# Nothing there takes completions of that model. Recorded request by request it would spoil a whole build's rows.
_MISPLACED = frozenset({301, 302, 303, 307, 308, 404, 405, 410, 501})


@dataclass(frozen=True, slots=True)
class Retry:
    """Waits between tries: doubling from `first_wait_s` to `longest_wait_s`, with jitter so that clients spread out."""

    tries: int = 8
    first_wait_s: float = 0.5
    longest_wait_s: float = 60.0

    def wait_s(self, failures: int, asked_s: float | None) -> float:
        """How long to wait after this many failures; the server's own wish counts up to the longest wait."""
        if asked_s is not None:
            return min(asked_s, self.longest_wait_s)
        most = min(self.first_wait_s * 2.0 ** (failures - 1), self.longest_wait_s)
        return most * random.uniform(0.5, 1.0)  # noqa: S311


class _Failed(Exception):
    """One try failed and another may succeed."""

    def __init__(self, reason: str, *, everybody: bool, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.everybody = everybody
        self.wait_s = wait_s


class OpenAIEngine:
    """A client of the completions and chat completions endpoints.

    At most `concurrency` requests are in flight, and fewer for as long as the server says that these are too many.

    Args:
        model: `base_url`, `name` and `api_key_env` are used here.
        retry: how transient failures are waited out.
        read_timeout_s: how long a server may be silent before a try counts as failed.
    """

    def __init__(self, model: ModelSettings, *, retry: Retry = Retry(), read_timeout_s: float = 900.0) -> None:
        key = os.environ.get(model.api_key_env, "") if model.api_key_env else ""
        self._model = model
        self._retry = retry
        self._answered = False
        self._pace = Pace(model.concurrency)
        try:
            self._client = httpx.AsyncClient(
                base_url=model.base_url,
                headers={"Authorization": f"Bearer {key}"} if key else {},
                timeout=httpx.Timeout(read_timeout_s, connect=10.0, pool=None),
                # Concurrency is the caller's; a pool of its own would only queue a second time.
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=model.concurrency),
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise EngineUnavailable(f"[model] base_url: not a URL: {model.base_url!r} ({error})") from error

    async def complete(self, request: CompletionRequest) -> Completion:
        """Draw one completion, waiting out what passes by itself.

        Raises:
            RequestFailed: the server refused this request or failed on it repeatedly.
            EngineUnavailable: nobody answers there, or the key or the model is refused.
        """
        failures = 0
        while True:
            try:
                async with self._pace.turn() as turn:
                    try:
                        completion = await self._try(request)
                    except _Failed as failed:
                        if failed.everybody:
                            turn.complained()
                        raise
                    turn.answered()
                    return completion
            except _Failed as failed:
                failures += 1
                if failures >= self._retry.tries:
                    message = f"{self._model.base_url}: {failed} ({failures} tries)"
                    raise (EngineUnavailable if failed.everybody else RequestFailed)(message) from failed
                await asyncio.sleep(self._retry.wait_s(failures, failed.wait_s))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _try(self, request: CompletionRequest) -> Completion:
        path, payload = _payload(self._model.name, request)
        try:
            # The row's key as request id lets the server's log be matched with the database.
            answer = await self._client.post(path, json=payload, headers={"X-Request-Id": request.id})
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            if not self._answered:
                raise EngineUnavailable(self._nobody(error)) from error
            raise _Failed(f"the server went away ({error})", everybody=True) from error
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise EngineUnavailable(f"[model] base_url: not a URL: {self._model.base_url!r} ({error})") from error
        except httpx.RequestError as error:  # an answer that cannot be unpacked, too
            raise _Failed(f"the connection broke ({error or type(error).__name__})", everybody=False) from error
        self._answered = True
        if answer.status_code in _REFUSED:
            raise EngineUnavailable(
                f"{self._model.base_url} refuses the key (HTTP {answer.status_code}, {_message(answer)}): "
                f"set {self._model.api_key_env}"
            )
        if answer.status_code in _MISPLACED:
            base_url = self._model.base_url
            hint = "" if base_url.rstrip("/").endswith("/v1") else "; most servers want a base_url that ends in /v1"
            raise EngineUnavailable(
                f"{base_url} has no model {self._model.name!r} or no {path} (HTTP {answer.status_code}): "
                f"{_message(answer)}{hint}"
            )
        if answer.status_code in _BUSY | _TRANSIENT:
            raise _Failed(
                f"HTTP {answer.status_code}: {_message(answer)}",
                everybody=answer.status_code in _BUSY,
                wait_s=_retry_after_s(answer),
            )
        if not answer.is_success:
            raise RequestFailed(f"HTTP {answer.status_code}: {_message(answer)}")
        return _completion(answer)

    def _nobody(self, error: Exception) -> str:
        return (
            f"no model server answers at {self._model.base_url} ({error}): start one, such as "
            f"`vllm serve {self._model.name}`, or name it with --base-url"
        )


def _payload(model: str, request: CompletionRequest) -> tuple[str, dict[str, Any]]:
    sampling = request.sampling
    payload: dict[str, Any] = {
        "model": model,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
    }
    if sampling.stop:
        payload["stop"] = list(sampling.stop)
    if sampling.seed is not None:
        payload["seed"] = sampling.seed
    if request.prompt.messages:
        payload["messages"] = [{"role": each.role, "content": each.content} for each in request.prompt.messages]
        return "/chat/completions", payload
    payload["prompt"] = request.prompt.text
    return "/completions", payload


def _completion(answer: httpx.Response) -> Completion:
    try:
        body = answer.json()
        choice = body["choices"][0]
        # A chat answer may hold no text at all: `content` is null beside a tool call or a refusal.
        text = choice["message"]["content"] or "" if "message" in choice else choice["text"]
        usage = body.get("usage") or {}
        prompt_tokens, completion_tokens = (_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens"))
        finish_reason = choice.get("finish_reason") or "unknown"
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _Failed(f"the answer is no completion: {answer.text[:120]!r}", everybody=False) from error
    if not isinstance(text, str):
        raise _Failed(f"the answer is no completion: {answer.text[:120]!r}", everybody=False)
    return Completion(text, str(finish_reason), prompt_tokens, completion_tokens)


def _count(value: Any) -> int | None:
    """A number of tokens as a database stores it; what a server says besides is nobody's number."""
    return value if type(value) is int and 0 <= value < 2**31 else None


def _message(answer: httpx.Response) -> str:
    """The server's own words in one short line; servers nest them differently."""
    try:
        body = answer.json()
        error = body.get("error", body) if isinstance(body, dict) else body
        text = str(error.get("message") or error.get("detail") or error) if isinstance(error, dict) else str(error)
    except (ValueError, RecursionError):
        text = answer.text
    return " ".join(text.split())[:300] or answer.reason_phrase


def _retry_after_s(answer: httpx.Response) -> float | None:
    value = answer.headers.get("Retry-After", "").strip()
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return max(0.0, (moment - dt.datetime.now(dt.UTC)).total_seconds())
