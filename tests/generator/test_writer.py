from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa

from generator import models
from generator.concurrency import for_each
from generator.store import Database, DatabaseError
from generator.writer import Writer


def row(number: int) -> dict[str, object]:
    return {"id": f"r{number}", "stage": "test", "parameters": {}}


def count(database: Database) -> int:
    with database.reading() as session:
        return session.scalar(sa.select(sa.func.count()).select_from(models.Recipe)) or 0


async def test_a_row_is_there_for_everybody_when_insert_returns(database: Database) -> None:
    async with Writer(database) as writer:
        await writer.insert(models.Recipe, row(1))

        assert count(database) == 1


async def test_rows_that_arrive_together_share_commits(database: Database) -> None:
    commits = 0

    @sa.event.listens_for(database.engine, "commit")
    def _count(_connection: object) -> None:
        nonlocal commits
        commits += 1

    async with Writer(database) as writer:
        await asyncio.gather(*(writer.insert(models.Recipe, row(number)) for number in range(100)))

    assert count(database) == 100
    assert commits <= 3


async def test_a_row_whose_caller_was_cancelled_is_stored_all_the_same(database: Database) -> None:
    async with Writer(database) as writer:
        task = asyncio.create_task(writer.insert(models.Recipe, row(1)))
        await asyncio.sleep(0)
        task.cancel()

    assert count(database) == 1


async def test_those_who_wait_hear_of_a_failed_commit_and_later_rows_can_still_be_stored(database: Database) -> None:
    async with Writer(database) as writer:
        with pytest.raises((DatabaseError, sa.exc.IntegrityError)):
            await writer.insert(models.Recipe, {"id": None, "stage": "test", "parameters": {}})
        await writer.insert(models.Recipe, row(2))

    assert count(database) == 1


async def test_no_more_are_at_work_than_was_said() -> None:
    running = most = 0

    async def work(_: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1

    await for_each(iter([[1, 2, 3], [], [4, 5, 6, 7]]), work, 3)

    assert (running, most) == (0, 3)


async def test_every_item_is_worked_on_once_and_in_order_by_one() -> None:
    seen: list[int] = []

    async def work(item: int) -> None:
        seen.append(item)

    await for_each(iter([[1, 2], [3]]), work, 1)

    assert seen == [1, 2, 3]


async def test_the_first_failure_ends_it_and_is_raised_as_it_is() -> None:
    async def work(item: int) -> None:
        if item == 2:
            raise ZeroDivisionError
        await asyncio.Event().wait()

    with pytest.raises(ZeroDivisionError):
        await for_each(iter([[1, 2, 3]]), work, 3)


async def test_a_failing_page_ends_it() -> None:
    def pages():  # type: ignore[no-untyped-def]
        yield [1]
        raise DatabaseError("gone")

    async def work(item: int) -> None:
        pass

    with pytest.raises(DatabaseError, match="gone"):
        await for_each(pages(), work, 2)


@pytest.mark.parametrize("url", [pytest.param("postgresql", marks=pytest.mark.postgres)], indirect=True)
async def test_postgresql_knows_soon_how_many_rows_there_are(database: Database) -> None:
    """Without that it lists what is missing as if tables were empty: minutes instead of milliseconds."""
    async with Writer(database) as writer:
        await asyncio.gather(*(writer.insert(models.Recipe, row(number)) for number in range(100)))

    with database.reading() as session:
        assert session.scalar(sa.text("SELECT reltuples FROM pg_class WHERE relname = 'recipes'")) == 100
