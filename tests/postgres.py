"""A PostgreSQL server of the tests' own, in a temporary folder, reached through a socket there."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from generator import models
from generator.store import DatabaseError, open_database


class NoServer(Exception):
    """PostgreSQL's programs, or the driver, are not here; says which."""


class Server:
    """A running server.

    Args:
        folder: where its socket is.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def url(self, database: str) -> str:
        """How a database of this server is reached."""
        return f"postgresql://postgres@/{database}?host={self._folder}"

    def empty(self) -> str:
        """Make a database without tables and tell its URL."""
        self._administer("DROP DATABASE IF EXISTS new WITH (FORCE)")
        self._administer("CREATE DATABASE new TEMPLATE template0")
        return self.url("new")

    def migrated(self) -> str:
        """Tell the URL of a database with every table and no row: always the same one, emptied."""
        url = self.url("migrated")
        if self._is_intact:
            self._administer("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'migrated'")
            database = open_database(url)
            names = ", ".join(table for table in models.Base.metadata.tables)
            with database.writing() as session:
                session.execute(sa.text(f"TRUNCATE {names}"))
            database.close()
        else:
            self._administer("DROP DATABASE IF EXISTS migrated WITH (FORCE)")
            self._administer("CREATE DATABASE migrated TEMPLATE template0")
            open_database(url, create=True).close()
        return url

    @property
    def _is_intact(self) -> bool:
        """Whether the last test left the schema as it was."""
        try:
            open_database(self.url("migrated")).close()
        except DatabaseError:
            return False
        return True

    def _administer(self, statement: str) -> None:
        url = sa.make_url(self.url("postgres")).set(drivername="postgresql+psycopg")
        engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sa.text(statement))
        engine.dispose()


@contextmanager
def serve() -> Iterator[Server]:
    """Run a server as long as the block runs.

    Raises:
        NoServer: it cannot be run here.
    """
    programs = _programs()
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise NoServer("psycopg is not installed") from None
    folder = Path(tempfile.mkdtemp(prefix="selfalign-pg-"))
    as_user: list[str] = []
    if os.geteuid() == 0:  # the server refuses to run as root
        try:
            account = pwd.getpwnam("postgres")
        except KeyError:
            raise NoServer("there is no user postgres to run the server as") from None
        os.chown(folder, account.pw_uid, account.pw_gid)
        as_user = ["runuser", "-u", "postgres", "--"]

    def call(program: str, *arguments: str) -> None:
        command = [*as_user, str(programs / program), "-D", str(folder / "data"), *arguments]
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)

    options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off -c max_connections=300"
    try:
        call("initdb", "--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8", "--locale=C")
        call("pg_ctl", "start", "-w", "-l", str(folder / "log"), "-o", options)
        try:
            yield Server(folder)
        finally:
            call("pg_ctl", "stop", "-w", "-m", "immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    if on_path is None:
        raise NoServer("PostgreSQL's programs are not installed (initdb, pg_ctl)")
    return Path(on_path).resolve().parent
