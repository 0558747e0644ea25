"""Where completions come from: one protocol, several engines.

EngineError
+-- EngineUnavailable   unreachable, missing weights, missing recording: the build stops, finished rows stay
+-- RequestFailed       this one request cannot be answered, retries included: stored with its reason
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class EngineError(Exception):
    """Root of the tree above."""


class EngineUnavailable(EngineError):
    """No request can be answered; the message says what to do."""


class RequestFailed(EngineError):
    """This request cannot be answered; others may."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a completion is drawn. `seed` makes a server that honours it repeat itself."""

    temperature: float
    max_tokens: int
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One chat turn; role is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """Either `text` (completion models) or `messages` (chat models), never both."""

    text: str = ""
    messages: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """One completion to draw. `id` is the key of the row that it is for."""

    id: str
    prompt: Prompt
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class Completion:
    """What the model wrote. `finish_reason` is "stop", "length" or the server's own word."""

    text: str
    finish_reason: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Engine(Protocol):
    """Draws completions. Any number may be in flight."""

    async def complete(self, request: CompletionRequest) -> Completion:
        """Draw one completion.

        Raises:
            RequestFailed: this request cannot be answered.
            EngineUnavailable: none can.
        """
        ...

    async def close(self) -> None:
        """Give everything back."""
        ...
