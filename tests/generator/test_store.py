from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from generator import models, schema, store
from generator.keys import key_of
from generator.store import Database, DatabaseError, UnknownDataset, open_database
from tests.generator.conftest import SQLITE_ONLY


def add_snapshot(database: Database, size: int, version: int = 1) -> str:
    """Store a snapshot with everything above it that foreign keys ask for."""
    with database.writing() as session:
        recipe_id = store.ensure_recipe(session, "test", {})
        seed = {"name": "f", "code": "", "docstring": "", "origin": "o", "version": "1", "path": "p", "line": 1}
        store.insert_new(session, models.Seed, [{"id": "s", "licence": "MIT", "licence_source": "", **seed}])
        drawn = {"recipe_id": recipe_id, "text": "", "finish_reason": "stop", "sample_index": 0}
        store.insert_new(session, models.Concepts, [{"id": "c", "seed_id": "s", **drawn}])
        kind = {"category": "function", "difficulty": "easy", "language": "Python"}
        store.insert_new(session, models.Instruction, [{"id": "i", "concepts_id": "c", **kind, **drawn}])
        responses = [{**drawn, "id": f"r{n}", "instruction_id": "i", "sample_index": n} for n in range(size)]
        store.insert_new(session, models.Response, responses)
        id = key_of("dataset", "pairs", version)
        row = {"name": "pairs", "version": version, "content_key": id, "recipe_id": recipe_id, "size": size}
        store.insert_new(session, models.Dataset, [{"id": id, **row}])
        items = [
            {"dataset_id": id, "position": n, "response_id": f"r{n}", "instruction": f"do {n}", "response": f"done {n}"}
            for n in range(size)
        ]
        store.insert_new(session, models.DatasetItem, items)
    return id


def test_a_database_is_made_with_its_folder(tmp_path: Path) -> None:
    database = open_database(str(tmp_path / "new" / "folder" / "a.db"), create=True)

    assert schema.current_revision(database) == schema.HEAD


def test_reading_from_a_database_that_is_not_there_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match=r"no database at .*none.db; `selfalign db upgrade` or `selfalign build`"):
        open_database(str(tmp_path / "none.db"))

    assert not (tmp_path / "none.db").exists()


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("not a database\n" * 100)

    with pytest.raises(DatabaseError, match="file is not a database"):
        open_database(str(file), create=True)

    assert file.read_text().startswith("not a database")


def test_somebody_elses_tables_are_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "theirs.db") as theirs:
        theirs.execute("CREATE TABLE customers (id)")

    with pytest.raises(DatabaseError, match="holds tables that are not selfalign's"):
        open_database(str(tmp_path / "theirs.db"), create=True)


def test_a_database_of_a_newer_schema_is_refused_in_one_line(database: Database, url: str) -> None:
    with database.writing() as session:
        session.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))

    for attempt in (lambda: open_database(url), lambda: schema.upgrade(database)):
        with pytest.raises(DatabaseError, match=r"schema 9999 is newer than this selfalign's .*; upgrade selfalign"):
            attempt()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://host/name", "mysql is not supported"),
        ("sqlite://", "in-memory"),
        ("://", "not a database URL"),
        ("postgresql://nobody@127.0.0.1:1/none", "127.0.0.1|psycopg"),
    ],
)
def test_a_database_that_cannot_be_used_is_named(url: str, message: str) -> None:
    with pytest.raises(DatabaseError, match=message):
        open_database(url, create=True)


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match=r"is a folder; name a file"):
        open_database(str(tmp_path), create=True)


def test_a_password_is_not_shown() -> None:
    with pytest.raises(DatabaseError) as caught:
        open_database("postgresql://nobody:secret@127.0.0.1:1/none")

    assert "secret" not in str(caught.value)


def test_several_may_make_a_database_at_once(new_url: str) -> None:
    errors: list[BaseException] = []

    def make() -> None:
        try:
            open_database(new_url, create=True).close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []


def test_a_failed_session_stores_nothing(database: Database) -> None:
    def store_and_fail() -> None:
        with database.writing() as session:
            store.ensure_recipe(session, "test", {})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store_and_fail()

    with database.reading() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(models.Recipe)) == 0


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
@pytest.mark.postgres
def test_a_role_that_may_not_write_is_told_so(database: Database) -> None:
    def write() -> None:
        with database.writing() as session:
            session.execute(sa.text("SET LOCAL ROLE pg_monitor"))
            store.ensure_recipe(session, "x", {})

    with pytest.raises(DatabaseError, match=r"permission denied for table recipes; .* connect as another role$"):
        write()


def test_inserting_a_row_twice_keeps_the_first(database: Database) -> None:
    row = {"id": "r", "stage": "test", "parameters": {"a": 1}}
    with database.writing() as session:
        first = store.insert_new(session, models.Recipe, [row])
        second = store.insert_new(session, models.Recipe, [{**row, "stage": "other"}])

    assert (first, second) == (1, 0)
    with database.reading() as session:
        assert session.scalar(sa.select(models.Recipe.stage)) == "test"


def test_a_row_without_its_parent_is_refused(database: Database) -> None:
    with pytest.raises(sa.exc.IntegrityError), database.writing() as session:
        store.insert_new(session, models.PipelineSeed, [{"pipeline": "none", "seed_id": "none"}])


def test_the_newest_version_is_found_unless_another_is_asked_for(database: Database) -> None:
    first, second = add_snapshot(database, 3, version=1), add_snapshot(database, 3, version=2)

    with database.reading() as session:
        assert store.find_dataset(session, "pairs").id == second
        assert store.find_dataset(session, "pairs", 1).id == first


def test_an_unknown_dataset_is_answered_with_those_there_are(database: Database) -> None:
    add_snapshot(database, 1)

    with database.reading() as session:
        with pytest.raises(UnknownDataset, match=r"no data set pears; there are: pairs v1"):
            store.find_dataset(session, "pears")
        with pytest.raises(UnknownDataset, match=r"no data set pairs v7"):
            store.find_dataset(session, "pairs", 7)
        with pytest.raises(UnknownDataset, match=r"no data set pairs v9000000000000000000000"):
            store.find_dataset(session, "pairs", 9 * 10**21)


def test_items_come_in_the_order_asked_for(database: Database) -> None:
    id = add_snapshot(database, 1200)
    positions = [1199, 0, 7, 7, *range(1100, 0, -1)]

    with database.reading() as session:
        items = list(store.iter_items(session.connection(), id, positions))

    assert [item.position for item in items] == positions
    assert (items[0].instruction, items[0].response) == ("do 1199", "done 1199")


def test_a_position_outside_the_snapshot_is_named(database: Database) -> None:
    id = add_snapshot(database, 2)

    with database.reading() as session, pytest.raises(UnknownDataset, match="has no position 2"):
        list(store.iter_items(session.connection(), id, [0, 2]))


@pytest.mark.postgres
@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_reader_of_single_statements_survives_the_end_of_its_connection(database: Database) -> None:
    """Each batch takes a connection that works, so that a server may be restarted while a training reads."""
    id = add_snapshot(database, 2)
    others = (
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = "
    )
    for _ in range(2):
        with database.reading_once() as connection:
            assert [item.position for item in store.iter_items(connection, id, [1, 0])] == [1, 0]
        administration = store.open_database(database.engine.url.render_as_string(hide_password=False))
        with administration.writing() as session:
            session.execute(sa.text(f"{others}current_database()"))
        administration.close()


def test_an_evaluation_asked_for_again_is_the_same_row(database: Database) -> None:
    with database.writing() as session:
        first = store.add_evaluation(session, benchmark="b", subject="m", parameters={"n": 1}).id
    with database.writing() as session:
        again = store.add_evaluation(session, benchmark="b", subject="m", parameters={"n": 1}).id
        other = store.add_evaluation(session, benchmark="b", subject="m", parameters={"n": 2}).id

    assert first == again != other


def test_a_training_that_goes_on_keeps_its_row(database: Database) -> None:
    dataset_id = add_snapshot(database, 1)
    with database.writing() as session:
        id = store.add_training(session, dataset_id=dataset_id, parameters={}, output="a").id
        store.finish_training(session, id, status="failed", metrics={"steps": 1})
    with database.writing() as session:
        store.add_training(session, dataset_id=dataset_id, parameters={}, output="a", id=id)

    with database.reading() as session:
        training = session.scalars(sa.select(models.Training)).one()
    assert (training.status, training.finished_at) == ("running", None)


@pytest.mark.parametrize("sql", ["DELETE FROM recipes", "CREATE TABLE t (a INTEGER)", "DROP VIEW funnel"])
def test_a_query_cannot_change_anything(database: Database, sql: str) -> None:
    with pytest.raises(DatabaseError, match="only reads"):
        store.run_query(database, sql)

    add_snapshot(database, 1)  # and writing works afterwards


@SQLITE_ONLY
def test_a_long_query_ends_by_ctrl_c(database: Database) -> None:
    """This one has no end of its own."""
    endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
    seen = threading.Event()

    def press(_number: int, _frame: object) -> None:
        seen.set()
        raise KeyboardInterrupt

    def ask() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        store.run_query(database, endless)

    before = signal.signal(signal.SIGALRM, press)
    try:
        with pytest.raises(KeyboardInterrupt):
            ask()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    assert seen.is_set()
    assert store.run_query(database, "SELECT 1 AS a")[1] == [(1,)]


@SQLITE_ONLY
def test_a_query_makes_no_file(database: Database, tmp_path: Path) -> None:
    """SQLite makes what it attaches."""
    with pytest.raises(DatabaseError, match="only reads"):
        store.run_query(database, f"ATTACH '{tmp_path / 'other.db'}' AS other")

    assert not (tmp_path / "other.db").exists()
    add_snapshot(database, 1)


@SQLITE_ONLY
def test_a_file_that_may_only_be_read_is_opened_so(
    database: Database, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_snapshot(database, 1)
    database.close()
    # Root may write everything, so a file's own permissions would not show it.
    monkeypatch.setattr(os, "access", lambda _path, mode: mode != os.W_OK)

    with contextlib.closing(store.open_to_read(url)) as looked_at:
        with looked_at.reading() as session:
            assert store.find_dataset(session, "pairs").size == 1
        with pytest.raises(DatabaseError, match="readonly"), looked_at.writing() as session:
            store.ensure_recipe(session, "x", {})


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("", "it is empty"),
        (" ;\n", "it is empty"),
        ("-- all of it\n/* to\na file */ COPY seeds TO PROGRAM 'true'", "COPY writes the server's files"),
    ],
)
def test_a_query_is_a_question(database: Database, sql: str, words: str) -> None:
    with pytest.raises(DatabaseError, match=f"^query: {words}"):
        store.run_query(database, sql)


@pytest.mark.parametrize("sql", ["SELECT 1; SELECT 2", "COMMIT; CREATE TABLE t (a INTEGER)"])
def test_a_query_is_one_statement(database: Database, sql: str) -> None:
    """Else the second could change what the first one ended the transaction for."""
    with pytest.raises(DatabaseError, match=r"^query: one statement at a time$"):
        store.run_query(database, sql)

    assert "t" not in sa.inspect(database.engine).get_table_names()


@pytest.mark.parametrize(
    ("table", "words"), [("acepted_pairs", "did you mean accepted_pairs?"), ("zzz", "there are .*funnel.*, seeds")]
)
def test_a_query_of_a_table_that_is_not_there_is_told_the_right_name(
    database: Database, table: str, words: str
) -> None:
    with pytest.raises(DatabaseError, match=words):
        store.run_query(database, f"SELECT * FROM {table}")


def test_a_query_answers_columns_and_rows(database: Database) -> None:
    assert store.run_query(database, "SELECT 1 AS a, ':b' AS b") == (["a", "b"], [(1, ":b")])


def test_a_query_answers_numbers_alike_on_every_database(database: Database) -> None:
    """PostgreSQL's own are decimals, which JSON would hold as text."""
    add_snapshot(database, 3)
    query = "SELECT sum(position) AS a, avg(position) AS b, round(100.0 * sum(position) / 8, 1) AS c FROM dataset_items"

    (row,) = store.run_query(database, query)[1]

    assert row == (3, 1.0, 37.5)
    assert [type(value) for value in row] == [int, float, float]


def test_text_that_no_database_stores_is_made_storable() -> None:
    assert store.storable("a\x00b\ud800c\U0001f600") == "a\u2400b?c\U0001f600"
