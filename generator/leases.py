"""Several builds on one database: each row is made by whoever holds its lease.

A lease only saves double work. Rows have the same key whoever makes them and are stored once, so that a worker that is
taken for dead too early does no harm.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.orm import Session

from generator.models import Base, Lease, Worker
from generator.store import BATCH_ROWS, Database, batched, insert_ignoring, insert_new

LEASE_S = 60.0
HEARTBEAT_S = 15.0


class Leases:
    """What this process has claimed. Use as an asynchronous context manager.

    Args:
        database: open; every worker on it sees the same leases.
        worker_id: a name that no other worker has; None makes one up.
    """

    def __init__(self, database: Database, worker_id: str | None = None) -> None:
        self._database = database
        self._worker_id = worker_id or uuid.uuid4().hex
        self._heart: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Sign in, and clear away what dead workers left."""
        await asyncio.to_thread(self._sign_in)
        self._heart = asyncio.create_task(self._beat())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Sign out; what was not finished is free for others."""
        assert self._heart is not None
        self._heart.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):  # what ails the database was told already
            await self._heart
        with contextlib.suppress(Exception):
            await asyncio.shield(asyncio.to_thread(self._sign_out))

    def claim(self, table: type[Base], keys: Sequence[str]) -> set[str]:
        """Claim rows that are to be made.

        Args:
            table: where they will be.
            keys: their keys.

        Returns:
            Those that are now this worker's to make: neither stored, nor at work anywhere, here included.
        """
        id = table.__table__.c.id
        claimed: set[str] = set()
        with self._database.writing() as session:
            self._be_there(session)
            for batch in batched(
                sorted(keys)
            ):  # in one order everywhere, so that two claims cannot wait for each other
                insert: Any = insert_ignoring(session, Lease)
                rows = [{"key": key, "worker_id": self._worker_id} for key in batch]
                took = set(session.scalars(insert.values(rows).returning(Lease.key)))
                # A row can be stored, and its lease gone, between the query that listed it and the claim.
                stored = set(session.scalars(sa.select(id).where(id.in_(took)))) if took else set()
                if stored:
                    session.execute(sa.delete(Lease).where(Lease.key.in_(stored)))
                claimed |= took - stored
        return claimed

    def clear_dead(self) -> int:
        """Remove workers that are gone, and with them their leases.

        Returns:
            How many.
        """
        return clear_dead(self._database, but=self._worker_id)

    def _sign_in(self) -> None:
        with self._database.writing() as session:
            self._be_there(session)
        self.clear_dead()

    def _be_there(self, session: Session) -> None:
        """Have a row in `workers`: the first time, and when others took this worker for dead while it was suspended."""
        pid = os.getpid()
        row = {
            "id": self._worker_id,
            "host": this_host(),
            "pid": pid,
            "process_start": _process_start(pid),
            "expires_at_s": time.time() + LEASE_S,
        }
        insert_new(session, Worker, [row])

    def _sign_out(self) -> None:
        remove_worker(self._database, self._worker_id)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            await asyncio.to_thread(self._prolong)

    def _prolong(self) -> None:
        mine = sa.update(Worker).where(Worker.id == self._worker_id)
        with self._database.writing() as session:
            session.execute(mine.values(expires_at_s=time.time() + LEASE_S))


def clear_dead(database: Database, but: str = "") -> int:
    """Remove workers that are gone, except `but`, and with them their leases.

    Returns:
        How many.
    """
    now_s = time.time()
    with database.writing() as session:
        others = session.scalars(sa.select(Worker).where(Worker.id != but)).all()
        dead = [worker for worker in others if worker.expires_at_s < now_s or _is_gone(worker)]
        for worker in dead:
            _remove(session, worker.id)
    return len(dead)


def remove_worker(database: Database, id: str) -> None:
    """Remove a worker that is known to be gone, whatever its lease says; one that was not comes back by itself."""
    with database.writing() as session:
        _remove(session, id)


def release(session: Session, keys: Sequence[str]) -> None:
    """Give up the leases of rows that the same session stores."""
    for start in range(0, len(keys), BATCH_ROWS):
        session.execute(sa.delete(Lease).where(Lease.key.in_(keys[start : start + BATCH_ROWS])))


def _remove(session: Session, id: str) -> None:
    session.execute(sa.delete(Lease).where(Lease.worker_id == id))
    session.execute(sa.delete(Worker).where(Worker.id == id))


def _is_gone(worker: Worker) -> bool:
    """Whether a worker of this very machine has ended; of another one only its lease can tell."""
    return worker.host == this_host() and _process_start(worker.pid) != worker.process_start


def this_host() -> str:
    """Name the kernel and the process namespace that this is: what must agree for a process to be looked up."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return uuid.uuid4().hex  # tells nothing, so that only leases count


def _process_start(pid: int) -> str:
    """Field 22 of /proc/PID/stat; empty for a process that has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    after_name = stat.rpartition(")")[2].split()
    return "" if after_name[0] == "Z" else after_name[19]
