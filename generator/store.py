"""The one door to the database: opening it, and the few queries that more than one module needs.

Reading and writing are said apart, because SQLite has place for one writer at a time: a writing session takes it when
it begins and waits for it, so that no work is done that cannot be stored.

    database = open_database("sqlite:///runs/selfalign.db")
    with database.reading() as session:
        dataset = find_dataset(session, "demo")
    with database.writing() as session:          # commits when left, rolls back on an exception
        add_training(session, dataset_id=dataset.id, ...)
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import re
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import QueuePool

from generator import models
from generator.keys import key_of

T = TypeVar("T")

BUSY_TIMEOUT_S = 60.0
BATCH_ROWS = 500
_LARGEST_INTEGER = 2**31 - 1  # PostgreSQL's


class DatabaseError(Exception):
    """The database cannot be used as asked; the message is one line that says what to do."""


class UnknownDataset(LookupError):
    """No snapshot has this name or version; the message lists those there are."""


class Database:
    """An open database. Safe to use from several threads; every process opens its own."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self._reading = sessionmaker(engine, expire_on_commit=False)
        self._writing = sessionmaker(engine.execution_options(selfalign_writes=True), expire_on_commit=False)
        # SQLite's own waiting sleeps up to a tenth of a second at a time; threads of one process need not.
        alone = engine.dialect.name == "sqlite"
        self._single = engine if alone else engine.execution_options(isolation_level="AUTOCOMMIT")
        self._turn: contextlib.AbstractContextManager[Any] = threading.Lock() if alone else contextlib.nullcontext()

    @property
    def name(self) -> str:
        """The URL without its password."""
        return self.engine.url.render_as_string(hide_password=True)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that sees one consistent state and changes nothing.

        Raises:
            DatabaseError: the database went away or is damaged.
        """
        with self.translated(), self._reading() as session:
            yield session

    @contextmanager
    def counting(self) -> Iterator[Session]:
        """A reading session that counts many rows while others do.

        PostgreSQL neither compiles such a count nor spreads it over further processes: on a connection of its own both
        take longer than they save.

        Raises:
            DatabaseError: the database went away or is damaged.
        """
        with self.reading() as session:
            if self.engine.dialect.name == "postgresql":
                alone = "set_config('jit', 'off', true), set_config('max_parallel_workers_per_gather', '0', true)"
                session.execute(sa.text(f"SELECT {alone}"))
            yield session

    @contextmanager
    def reading_once(self) -> Iterator[sa.Connection]:
        """A connection for single statements that read; several need not see one state, so that each costs less.

        Raises:
            DatabaseError: the database went away or is damaged.
        """
        with self.translated(), self._single.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session that is committed when left without an exception.

        Raises:
            DatabaseError: the database is full, locked, read-only or went away; nothing of this session is stored.
        """
        with self._turn, self.translated(), self._writing.begin() as session:
            yield session

    def look_at_tables(self) -> None:
        """Have PostgreSQL count its rows after many were stored: by then it plans for tables that are nearly empty.

        Tables that another worker has counted at this moment are left to it.

        SQLite plans by its indexes alone, which were chosen for that.
        """
        if self.engine.dialect.name == "postgresql":
            ours = ", ".join(models.Base.metadata.tables)  # a database may hold another's tables too
            with self.translated(), self.engine.connect() as connection:
                connection.execution_options(isolation_level="AUTOCOMMIT").execute(
                    sa.text(f"ANALYZE (SKIP_LOCKED) {ours}")
                )

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Have what a user can mend leave as one line.

        Raises:
            DatabaseError: the driver raised an error that is no fault of the statement.
        """
        try:
            yield
        except DBAPIError as error:
            forbidden = getattr(error.orig, "sqlstate", None) == _FORBIDDEN
            if isinstance(error, sa.exc.IntegrityError | sa.exc.ProgrammingError) and not forbidden:
                raise  # ours to mend, not the user's
            raise DatabaseError(f"{self.name}: {explain(error)}") from error


def open_database(url: str, *, create: bool = False) -> Database:
    """Open a database whose schema is the code's.

    Args:
        url: a SQLAlchemy URL of SQLite or PostgreSQL, or the path of a SQLite file.
        create: make the database, its folder and its tables when there are none; else that is an error.

    Raises:
        DatabaseError: it cannot be reached, is no database, or has an older or newer schema than this code.
    """
    from generator import schema  # alembic is slow to import and needed only here

    database = connect(url, create=create)
    try:
        schema.ensure(database, create=create)
    except BaseException:
        database.close()
        raise
    return database


def open_read_only(url: str) -> Database:
    """Open a database that is there, in a way that cannot change it: the file is opened so, or every transaction.

    Raises:
        DatabaseError: as `open_database`.
    """
    from generator import schema

    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        engine = _sqlite_read_only(parsed)
    else:
        engine = _postgresql(parsed).execution_options(postgresql_readonly=True)
    database = Database(engine)
    try:
        _reach(database)
        schema.ensure(database, create=False)
    except BaseException:
        database.close()
        raise
    return database


def open_to_read(url: str) -> Database:
    """Open a database to look at it: read-only where this user may not write its file.

    Raises:
        DatabaseError: as `open_database`.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        path = Path(parsed.database or "")
        if path.exists() and not all(os.access(place, os.W_OK) for place in (path, path.parent)):
            return open_read_only(url)
    return open_database(url)


def connect(url: str, *, create: bool) -> Database:
    """Open a database without looking at its schema; see `open_database`."""
    parsed = parse_url(url)
    engine = _sqlite(parsed, create=create) if parsed.get_backend_name() == "sqlite" else _postgresql(parsed)
    database = Database(engine)
    _reach(database)
    return database


def _reach(database: Database) -> None:
    try:
        with database.engine.connect():
            pass
    except DBAPIError as error:
        database.close()
        raise DatabaseError(f"{database.name}: {explain(error)}") from error


def parse_url(url: str) -> sa.URL:
    """Read a URL or the path of a SQLite file.

    Raises:
        DatabaseError: it is neither.
    """
    if "://" not in url:
        url = f"sqlite:///{url}"
    try:
        parsed = sa.make_url(url)
    except ArgumentError:
        raise DatabaseError(f"{url}: not a database URL; expected sqlite:///FILE or postgresql://HOST/NAME") from None
    backend = parsed.get_backend_name()
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise DatabaseError(f"{url}: an in-memory database cannot be shared by threads; name a file, sqlite:///FILE")
    if backend not in ("sqlite", "postgresql"):
        raise DatabaseError(f"{url}: {backend} is not supported; use sqlite:///FILE or postgresql://HOST/NAME")
    # psycopg 3 is the driver that is tested; the bare scheme means version 2 to SQLAlchemy.
    return parsed.set(drivername="postgresql+psycopg") if backend == "postgresql" else parsed


_DISK_FULL, _FORBIDDEN = "53100", "42501"  # PostgreSQL's codes


def explain(error: DBAPIError) -> str:
    """The driver's reason in one line, with what to do where we know it."""
    if getattr(error.orig, "sqlstate", None) == _DISK_FULL:  # its words differ with how much of a page still fitted
        return "the server's disk is full; free some space there, then run this again; what was stored is intact"
    # Without PostgreSQL's drawing of the place: on one line its caret points nowhere.
    reason = re.sub(r" LINE \d+: .* \^$", "", " ".join(str(error.orig).split()))
    if getattr(error.orig, "sqlstate", None) == _FORBIDDEN:
        return f"{reason}; have the database's owner grant it, or connect as another role"
    advice = {
        "database is locked": "another process has held it for a minute; let it finish, then run this again",
        "database or disk is full": "free some space, then run this again; what was stored is intact",
        "file is not a database": "give another file, or move this one away",
        "database disk image is malformed": "put a copy of it in its place, or save what `sqlite3 FILE .recover` finds",
        "unable to open database file": "check that the folder exists and can be written",
        "attempt to write a readonly database": "give its file and folder write permission",
        # PostgreSQL's list of its own tables, which the first connection after a change of the schema writes.
        "could not write init file": "free some space on the server's disk; what was stored is intact",
    }
    return next((f"{known}; {do}" for known, do in advice.items() if known in reason), reason)


def _sqlite(url: sa.URL, *, create: bool) -> sa.Engine:
    path = Path(url.database or "")
    if path.is_dir():
        raise DatabaseError(f"{path}: is a folder; name a file, sqlite:///FILE")
    if not path.exists():
        if not create:
            raise DatabaseError(f"no database at {path}; `selfalign db upgrade` or `selfalign build` makes one")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DatabaseError(f"{path}: its folder cannot be made: {os.strerror(error.errno or errno.EIO)}") from None
    engine = sa.create_engine(url, poolclass=QueuePool, connect_args={"timeout": BUSY_TIMEOUT_S})

    @sa.event.listens_for(engine, "connect")
    def _set_up(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # transactions are begun below, in words, so that schema changes are in them
        _write_ahead(connection)
        for pragma in (
            "synchronous = normal",  # a commit survives the end of any process; only a power cut may take the last ones
            # Keys are hashes, so every commit touches pages all over: in a longer log more of them are the same.
            "wal_autocheckpoint = 8000",
            "foreign_keys = on",
            "cache_size = -65536",
            "temp_store = memory",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("selfalign_writes")
        # A deferred transaction that starts to write after it has read fails at once when another has written.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _sqlite_read_only(url: sa.URL) -> sa.Engine:
    path = Path(url.database or "").absolute()
    if not path.exists():
        raise DatabaseError(f"no database at {path}; `selfalign build` makes one")
    # Readers of a write-ahead log share a file beside it. Where that can be neither found nor made, nobody can be
    # writing either, and the file is read as one that does not change.
    log = path.with_name(path.name + "-wal")
    alone = not os.access(path.parent, os.W_OK) and not log.exists()
    uri = f"{path.as_uri()}?{'immutable=1' if alone else 'mode=ro'}"

    def open_file() -> sqlite3.Connection:
        connection = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
        connection.isolation_level = None
        for pragma in ("query_only = on", "cache_size = -65536", "temp_store = memory"):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    engine = sa.create_engine(url, poolclass=QueuePool, creator=open_file)

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Keep a write-ahead log: readers and the writer do not wait for each other.

    SQLite does not wait for whoever else is about to change a new file's mode, so we do.
    """
    give_up = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = wal")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
            time.sleep(0.01)


def _postgresql(url: sa.URL) -> sa.Engine:
    try:
        return sa.create_engine(url, pool_pre_ping=True)
    except (ModuleNotFoundError, NoSuchModuleError):
        raise DatabaseError("PostgreSQL needs psycopg: pip install 'selfalign[postgres]'") from None


# Rows in general


def storable(text: str) -> str:
    """`text` without what not every database stores: NUL becomes U+2400, half a surrogate pair a question mark."""
    return text.replace("\x00", "\u2400").encode("utf-8", "replace").decode("utf-8")


def insert_new(session: Session, model: type[models.Base], rows: Sequence[Mapping[str, Any]]) -> int:
    """Insert the rows whose key is not there yet, and leave the others as they are.

    Returns:
        How many were new.
    """
    if not rows:
        return 0
    statement = insert_ignoring(session, model).execution_options(preserve_rowcount=True)
    inserted: int = session.connection().execute(statement, list(rows)).rowcount
    return inserted


def insert_ignoring(session: Session, model: type[models.Base]) -> Any:
    """An INSERT that leaves out rows whose key is there already."""
    if session.get_bind().dialect.name == "sqlite":
        from sqlalchemy.dialects.sqlite import insert as sqlite_insert

        return sqlite_insert(model).on_conflict_do_nothing()
    from sqlalchemy.dialects.postgresql import insert as postgresql_insert

    return postgresql_insert(model).on_conflict_do_nothing()


def look_at(session: Session, model: type[models.Base]) -> None:
    """Have PostgreSQL count a table's rows in the middle of a transaction that stored many: nobody else sees them yet.

    See `Database.look_at_tables`.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(sa.text(f"ANALYZE (SKIP_LOCKED) {model.__tablename__}"))


def take_turns(session: Session, what: str) -> None:
    """Let one writing session at a time go on from here, until it ends; SQLite has only one anyway."""
    if session.get_bind().dialect.name == "postgresql":
        number = int(key_of("turn", what), 16) % 2**63
        session.execute(sa.select(sa.func.pg_advisory_xact_lock(number)))


def batched(items: Iterable[T], size: int = BATCH_ROWS) -> Iterator[list[T]]:
    """Cut `items` into lists of at most `size`."""
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def run_query(database: Database, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Run one statement that cannot change anything.

    Returns:
        The names of its columns, and its rows.

    Raises:
        DatabaseError: it is not valid, or would change something.
    """
    if not sql.strip(" \t\r\n;"):
        raise DatabaseError("query: it is empty; give one SQL statement")
    if _COPY.match(sql):
        raise DatabaseError("query: COPY writes the server's files and runs its programs; SELECT instead")
    try:
        with database.engine.connect() as connection, _only_reading(connection):
            result = connection.execute(sa.text(sql.replace(":", r"\:")))
            rows = [tuple(map(_as_number, row)) for row in result] if result.returns_rows else []
            return list(result.keys()) if result.returns_rows else [], rows
    except DBAPIError as error:
        reason = explain(error)
        if reason == "interrupted":  # SQLite's word for the exception that Ctrl-C raised while it ran
            raise KeyboardInterrupt from None
        if "readonly" in reason or "read-only" in reason or reason == "not authorized":
            reason = "it would change something, and this command only reads"
        if re.search("one statement|multiple commands", reason):
            reason = "one statement at a time"
        missing = re.search(r'no such table: (\S+)|relation "(\S+)" does not exist', reason)
        if missing:
            known = sa.inspect(database.engine)
            names = [*known.get_view_names(), *known.get_table_names()]
            near = difflib.get_close_matches(missing[1] or missing[2], names, n=1)
            reason += f"; did you mean {near[0]}?" if near else f"; there are {', '.join(names)}"
        raise DatabaseError(f"query: {reason}") from error


def _as_number(value: Any) -> Any:
    """PostgreSQL sums and averages to decimals, which JSON has no word for; SQLite to what is returned here."""
    if not isinstance(value, Decimal):
        return value
    exponent = value.as_tuple().exponent  # a letter where it is no number
    return int(value) if isinstance(exponent, int) and exponent >= 0 else float(value)


# A transaction that only reads lets a superuser do so all the same.
_COPY = re.compile(r"(\s|;|--[^\n]*\n|/\*.*?\*/)*copy\b", re.I | re.S)


@contextmanager
def _only_reading(connection: sa.Connection) -> Iterator[None]:
    """Let a connection run single statements that change nothing."""
    if connection.dialect.name == "sqlite":
        file: Any = connection.connection.dbapi_connection
        connection.exec_driver_sql("PRAGMA query_only = on")
        file.set_authorizer(_refuse_attaching)  # a file that is attached and not there would be made
        file.set_progress_handler(_go_on, _STEPS_BETWEEN_SIGNALS)
        try:
            yield
        finally:
            file.set_progress_handler(None, 0)
            file.set_authorizer(None)
            connection.exec_driver_sql("PRAGMA query_only = off")
        return
    connection.exec_driver_sql("SET TRANSACTION READ ONLY")
    # A second statement could follow one that ends the transaction. What is prepared can only be one.
    driver: Any = connection.connection.dbapi_connection
    before, driver.prepare_threshold = driver.prepare_threshold, 0
    try:
        yield
    finally:
        driver.prepare_threshold = before


_STEPS_BETWEEN_SIGNALS = 1_000_000  # of SQLite's virtual machine: some hundredths of a second


def _go_on() -> int:
    """Let Python see to Ctrl-C, which it does between two steps of its own: a long query is one."""
    return 0


def _refuse_attaching(action: int, *_: str | None) -> int:
    return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_ATTACH else sqlite3.SQLITE_OK


# Recipes


def recipe_key(stage: str, parameters: Mapping[str, Any]) -> str:
    """The key of the recipe of `stage` with `parameters`."""
    return key_of("recipe", stage, dict(parameters))


def ensure_recipe(session: Session, stage: str, parameters: Mapping[str, Any]) -> str:
    """Store a recipe unless it is there.

    Args:
        session: a writing one.
        stage: e.g. "responses", "executions", "train", "evaluate".
        parameters: JSON-able; everything that changes the result and nothing that does not.

    Returns:
        Its id.
    """
    key = recipe_key(stage, parameters)
    insert_new(session, models.Recipe, [{"id": key, "stage": stage, "parameters": dict(parameters)}])
    return key


# Data sets


class Item(NamedTuple):
    """One pair of a snapshot, as trained on."""

    position: int
    response_id: str
    instruction: str
    response: str


def find_dataset(session: Session, name: str, version: int | None = None) -> models.Dataset:
    """The snapshot of this name; without `version` the newest.

    Raises:
        UnknownDataset: there is none.
    """
    query = sa.select(models.Dataset).where(models.Dataset.name == name).order_by(models.Dataset.version.desc())
    if version is not None:
        query = query.where(models.Dataset.version == version)
    beyond = (version or 0) > _LARGEST_INTEGER
    dataset = None if beyond else session.scalars(query.limit(1)).first()
    if dataset is None:
        known = session.execute(sa.select(models.Dataset.name, models.Dataset.version).order_by(sa.text("1, 2"))).all()
        listed = ", ".join(f"{row.name} v{row.version}" for row in known) or "none; `selfalign build` makes one"
        wanted = name if version is None else f"{name} v{version}"
        raise UnknownDataset(f"no data set {wanted}; there are: {listed}")
    return dataset


def iter_items(connection: sa.Connection, dataset_id: str, positions: Iterable[int]) -> Iterator[Item]:
    """Yield the items at `positions`, in that order; each batch is one query.

    Args:
        connection: a reading one.
        dataset_id: of the snapshot.
        positions: from 0 to its size - 1, in any order, repeats allowed.

    Raises:
        UnknownDataset: a position lies outside the snapshot.
    """
    for batch in batched(positions):
        # In the driver's own words: building the statement anew and its rows took longer than running it.
        if connection.dialect.name == "sqlite":
            marks = ", ".join("?" * len(batch))
            rows = connection.exec_driver_sql(f"{_ITEMS} = ? AND position IN ({marks})", (dataset_id, *batch))
        else:
            rows = connection.exec_driver_sql(f"{_ITEMS} = %s AND position = ANY(%s)", (dataset_id, batch))
        found = {item.position: item for item in map(Item._make, rows.cursor.fetchall())}
        for position in batch:
            if position not in found:
                raise UnknownDataset(f"data set {dataset_id} has no position {position}")
            yield found[position]


_ITEMS = "SELECT position, response_id, instruction, response FROM dataset_items WHERE dataset_id"


# Trainings and evaluations


def add_training(
    session: Session, *, dataset_id: str, parameters: Mapping[str, Any], output: str, id: str | None = None
) -> models.Training:
    """Record that a training starts.

    Args:
        session: a writing one.
        dataset_id: what it trains on.
        parameters: its settings, the model's name and revision among them; stored as a recipe of stage "train".
        output: folder of the checkpoint.
        id: to go on with a training that was stopped; its row is used again. None starts a new one.
    """
    recipe_id = ensure_recipe(session, "train", parameters)
    training = session.get(models.Training, id) if id is not None else None
    if training is None:
        started_at = models.utc_now()
        key = id or key_of("training", dataset_id, recipe_id, output, started_at.isoformat())
        training = models.Training(id=key, dataset_id=dataset_id, recipe_id=recipe_id, started_at=started_at)
        session.add(training)
    training.status, training.output, training.finished_at, training.metrics = "running", output, None, None
    session.flush()
    return training


def finish_training(session: Session, id: str, *, status: str, metrics: Mapping[str, Any]) -> None:
    """Record how a training ended.

    Args:
        session: a writing one.
        id: the training's.
        status: "finished" or "failed".
        metrics: JSON-able: steps, first_loss, last_loss, tokens_per_second, ...
    """
    assert status in ("finished", "failed"), status
    training = session.get_one(models.Training, id)
    training.status, training.metrics, training.finished_at = status, dict(metrics), models.utc_now()


def add_evaluation(
    session: Session,
    *,
    benchmark: str,
    subject: str,
    parameters: Mapping[str, Any],
    training_id: str | None = None,
) -> models.Evaluation:
    """Find or start the evaluation of `subject` on `benchmark`: asked again with the same causes, it is the same row.

    Args:
        session: a writing one.
        benchmark: e.g. "humaneval", with the data's version.
        subject: the model, or the samples file, with what identifies its content.
        parameters: sampling, limits, runtime and what else changes a score; stored as a recipe of stage "evaluate".
        training_id: the training that made the model, if it was one of ours.
    """
    recipe_id = ensure_recipe(session, "evaluate", parameters)
    key = key_of("evaluation", recipe_id, benchmark, subject, training_id)
    evaluation = session.get(models.Evaluation, key)
    if evaluation is None:
        evaluation = models.Evaluation(
            id=key, training_id=training_id, recipe_id=recipe_id, benchmark=benchmark, subject=subject
        )
        session.add(evaluation)
        session.flush()
    return evaluation


def add_evaluation_samples(session: Session, rows: Sequence[Mapping[str, Any]]) -> int:
    """Store samples with their verdicts; those that are there already stay.

    Args:
        session: a writing one.
        rows: columns of `evaluation_samples`.

    Returns:
        How many were new.
    """
    return insert_new(session, models.EvaluationSample, rows)


def evaluation_samples(session: Session, evaluation_id: str) -> Iterator[models.EvaluationSample]:
    """The stored samples of an evaluation, by task and sample index."""
    sample = models.EvaluationSample
    query = sa.select(sample).where(sample.evaluation_id == evaluation_id)
    yield from session.scalars(
        query.order_by(sample.task_id, sample.sample_index).execution_options(yield_per=BATCH_ROWS)
    )


def finish_evaluation(session: Session, id: str, scores: Mapping[str, Any]) -> None:
    """Store the scores of an evaluation whose samples all have a verdict."""
    evaluation = session.get_one(models.Evaluation, id)
    evaluation.scores, evaluation.finished_at = dict(scores), models.utc_now()
