"""A PostgreSQL server of the tests' own, in a temporary folder, reached through a socket there."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
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

    def on_disk(self, folder: Path) -> str:
        """Make a database without tables whose rows and indexes are in `folder`, and tell its URL."""
        place = folder / "tablespace"
        place.mkdir()
        if os.geteuid() == 0:
            shutil.chown(place, "postgres", "postgres")
        self._administer(f"CREATE TABLESPACE elsewhere LOCATION '{place}'")
        self._administer("CREATE DATABASE elsewhere TEMPLATE template0 TABLESPACE elsewhere")
        return self.url("elsewhere")

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
def serve(*, durable: bool = False) -> Iterator[Server]:
    """Run a server as long as the block runs.

    Args:
        durable: whether commits reach the disk; tests need no data that outlives the machine, benchmarks its price.

    Raises:
        NoServer: it cannot be run here.
    """
    programs = _programs()
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise NoServer("psycopg is not installed") from None
    folder = Path(tempfile.mkdtemp(prefix="selfalign-pg-"))
    # Told to end when this process dies, even by kill -9.
    prefix = ["setpriv", "--pdeathsig", "INT"]
    if os.geteuid() == 0:  # the server refuses to run as root
        try:
            account = pwd.getpwnam("postgres")
        except KeyError:
            raise NoServer("there is no user postgres to run the server as") from None
        os.chown(folder, account.pw_uid, account.pw_gid)
        prefix += ["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
    data = ("-D", str(folder / "data"))
    initdb = [*prefix, str(programs / "initdb"), *data, "--auth=trust", "--username=postgres", "--no-sync"]
    settings = {"listen_addresses": "", "unix_socket_directories": folder, "max_connections": 300}
    settings["fsync"] = "on" if durable else "off"
    options = [f"-c{name}={value}" for name, value in settings.items()]
    server = None
    try:
        subprocess.run([*initdb, "--encoding=UTF8", "--locale=C"], check=True, cwd=folder, stdout=subprocess.DEVNULL)
        with (folder / "log").open("wb") as log:
            command = [*prefix, str(programs / "postgres"), *data, *options]
            server = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        _wait(programs, folder, server)
        yield Server(folder)
    finally:
        if server is not None:
            server.send_signal(signal.SIGQUIT)  # at once: nothing of it is wanted any more
            server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait(programs: Path, folder: Path, server: subprocess.Popen[bytes]) -> None:
    ready = [str(programs / "pg_isready"), "--quiet", "--host", str(folder)]
    while subprocess.run(ready).returncode != 0:
        if server.poll() is not None:
            raise NoServer(f"PostgreSQL ended at once: {(folder / 'log').read_text(errors='replace')[-500:]}")
        time.sleep(0.05)


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    if on_path is None:
        raise NoServer("PostgreSQL's programs are not installed (initdb, pg_ctl)")
    return Path(on_path).resolve().parent
