"""The sandbox's own trouble, which is never a verdict.

SandboxError
+-- InvalidJob          the caller's mistake; `field` names where            INVALID_ARGUMENT
+-- Unsupported         cannot be done here, and says why                     UNIMPLEMENTED
+-- Unauthenticated     no token, or not the right one                        UNAUTHENTICATED
+-- DeadlineExceeded    the caller's deadline passed; the run was killed      DEADLINE_EXCEEDED
+-- Retryable           nothing is wrong with the job: try again
|   +-- Overloaded      the queue is full                                     RESOURCE_EXHAUSTED
|   +-- Unavailable     draining, unreachable, or the slot was lost           UNAVAILABLE
+-- Broken              a bug or a host that changed under us                 INTERNAL
+-- HostUnfit           this host cannot hold a jail; says what to do         (raised at start-up)
"""

from __future__ import annotations


class SandboxError(Exception):
    """Root of the tree above."""


class InvalidJob(SandboxError):
    """The job is malformed.

    Args:
        field: the request's field, as the proto spells it, e.g. ``limits.memory_bytes``.
        problem: what is wrong and what was expected.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class Unsupported(SandboxError):
    """The job asks for what this sandbox does not do."""


class Unauthenticated(SandboxError):
    """The server wants a token that was not given."""


class DeadlineExceeded(SandboxError):
    """The caller's deadline passed before the run ended."""


class Retryable(SandboxError):
    """The same job may succeed later or elsewhere."""


class Overloaded(Retryable):
    """The queue is full.

    Args:
        message: what is full.
        retry_after_ms: how long to wait before trying again, when that is known.
    """

    def __init__(self, message: str, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class Unavailable(Retryable):
    """The sandbox cannot be reached, is draining, or lost the slot that ran the job."""


class Broken(SandboxError):
    """The sandbox itself failed."""


class HostUnfit(SandboxError):
    """The host lacks something that the sandbox cannot do without."""
