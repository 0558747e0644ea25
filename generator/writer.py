"""Storing rows as they finish: whoever waits for the same commit shares it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from generator.leases import release
from generator.models import Base
from generator.store import Database, insert_new

_LOOK_AFTER_ROWS = 100


class Writer:
    """Inserts rows in groups, and ends their leases: while one commit runs, the rows that arrive wait for the next.

    Each time that its rows have doubled, PostgreSQL is told to count: it would plan for the empty tables with which a
    build begins, and lists of what is missing would take minutes, until autovacuum comes by.

    `insert` returns when the row is durable. A task that stores each row before it starts the next one therefore leaves
    at most one unfinished row when the process is killed, and the group is as large as there are tasks.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[tuple[type[Base], Mapping[str, Any], asyncio.Future[None]]] = []
        self._wake = asyncio.Event()
        self._closing = False
        self._stored = 0
        self._look_at = _LOOK_AFTER_ROWS
        self._task: asyncio.Task[None] | None = None

    async def insert(self, model: type[Base], row: Mapping[str, Any]) -> None:
        """Store a row unless its key is there, and return when it is committed.

        A caller that is cancelled meanwhile leaves the row to be stored.

        Raises:
            DatabaseError: the row could not be stored.
        """
        committed = asyncio.get_running_loop().create_future()
        self._waiting.append((model, row, committed))
        self._wake.set()
        await committed

    async def __aenter__(self) -> Self:
        """Start."""
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Store what is waiting, whatever the reason for leaving."""
        self._closing = True
        self._wake.set()
        assert self._task is not None
        await asyncio.shield(self._task)

    async def _run(self) -> None:
        while not (self._closing and not self._waiting):
            await self._wake.wait()
            self._wake.clear()
            group, self._waiting = self._waiting, []
            if not group:
                continue
            error: Exception | None = None
            try:
                await asyncio.to_thread(self._commit, group)
            except Exception as raised:  # whatever it is, those who wait must hear of it
                error = raised
            for _, _, committed in group:
                if committed.done():  # its caller was cancelled
                    continue
                if error is None:
                    committed.set_result(None)
                else:
                    committed.set_exception(error)

    def _commit(self, group: list[tuple[type[Base], Mapping[str, Any], asyncio.Future[None]]]) -> None:
        rows: dict[type[Base], list[Mapping[str, Any]]] = {}
        for model, row, _ in group:
            rows.setdefault(model, []).append(row)
        with self._database.writing() as session:
            for model, batch in rows.items():
                insert_new(session, model, batch)
                release(session, [row["id"] for row in batch])
        self._stored += len(group)
        if self._stored >= self._look_at:
            self._look_at = 2 * self._stored
            self._database.look_at_tables()
