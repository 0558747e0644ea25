"""Verdicts kept for callers who ask for it (`cache = true`), and for nobody else."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import replace

from sandbox_server.jobs import Job, LimitsRequest, Outcome, SandboxInfo, Verdict
from sandbox_server.wire import job_to_wire

# How loaded the host was decides these as much as the program does; the next caller deserves a try of his own.
_NOT_KEPT = frozenset({Verdict.TIME_LIMIT, Verdict.KILLED})
_ENTRY_BYTES = 2048  # what an outcome weighs beside its bytes


class VerdictCache:
    """The least recently used outcomes go first when it is full.

    The key is everything that the outcome depends on: the whole request but its id, with limits completed, and the
    runtime's fingerprint, which covers interpreter, packages and judging rules.

    Args:
        capacity_bytes: what all outcomes may hold together; 0 keeps none.
        info: the sandbox whose outcomes they are.
    """

    def __init__(self, capacity_bytes: int, info: SandboxInfo) -> None:
        self._capacity_bytes = capacity_bytes
        self._held_bytes = 0
        self._outcomes: OrderedDict[bytes, Outcome] = OrderedDict()
        self._defaults = info.default_limits
        self._fingerprints = {runtime.name: runtime.fingerprint for runtime in info.runtimes}

    def __len__(self) -> int:
        return len(self._outcomes)

    def key(self, job: Job) -> bytes:
        """Digest what the outcome of `job` depends on."""
        names = LimitsRequest.__slots__
        asked = {name: getattr(job.limits, name) for name in names}
        limits = LimitsRequest(**{name: value or getattr(self._defaults, name) for name, value in asked.items()})
        message = job_to_wire(replace(job, request_id="", cache=False, limits=limits))
        digest = hashlib.sha256(self._fingerprints[job.runtime].encode() + b"\0")
        digest.update(message.SerializeToString(deterministic=True))
        return digest.digest()

    def get(self, key: bytes, request_id: str) -> Outcome | None:
        """Look up an outcome; it says that it is cached."""
        outcome = self._outcomes.get(key)
        if outcome is None:
            return None
        self._outcomes.move_to_end(key)
        return replace(outcome, request_id=request_id, cached=True)

    def put(self, key: bytes, outcome: Outcome) -> None:
        """Keep an outcome, unless it is one that another run need not share."""
        size = _size_bytes(outcome)
        if outcome.verdict in _NOT_KEPT or outcome.flaky or size > self._capacity_bytes:
            return
        old = self._outcomes.pop(key, None)
        self._held_bytes += size - (_size_bytes(old) if old else 0)
        self._outcomes[key] = outcome
        while self._held_bytes > self._capacity_bytes:
            _, gone = self._outcomes.popitem(last=False)
            self._held_bytes -= _size_bytes(gone)


def _size_bytes(outcome: Outcome) -> int:
    traceback = len(outcome.error.traceback) + len(outcome.error.message) if outcome.error else 0
    files = sum(len(file.content) + len(file.path) for file in outcome.files)
    return _ENTRY_BYTES + len(outcome.stdout) + len(outcome.stderr) + traceback + files
