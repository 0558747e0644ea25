"""A file of the viewer's own: what was counted, and the words of every pair.

The database is not the viewer's to change, and a million rows can be neither counted nor searched anew for each page.
So counts and a full-text index (SQLite's FTS5) are kept in a cache folder, one file a database, brought up to date in
the background. The file can be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from generator.store import Database, DatabaseError

_VERSION = 1
_BATCH_ROWS = 2000
_MOST_COUNTED = 10_000
_OVERLAP_S = 900
"""PostgreSQL's rows become visible when they are committed, which can be this much later than they say."""

_SCHEMA = """
CREATE TABLE counts (pipeline TEXT PRIMARY KEY, stamp TEXT, counted_at REAL, took_s REAL, counts TEXT);
CREATE TABLE progress (id INTEGER PRIMARY KEY CHECK (id = 1), place TEXT, stamp TEXT);
CREATE TABLE pairs (docid INTEGER PRIMARY KEY, id BLOB UNIQUE);
CREATE VIRTUAL TABLE words USING fts5(instruction, answer, content='', tokenize="unicode61 tokenchars '_'");
"""


@dataclass(frozen=True, slots=True)
class Counted:
    """What was counted of a pipeline, when, and in which state of the database."""

    counts: dict[str, Any]
    stamp: str
    counted_at: float
    took_s: float


class Sidecar:
    """The file that belongs to one database."""

    def __init__(self, database: Database, folder: Path | None = None) -> None:
        url = database.engine.url
        where = str(Path(url.database or "").resolve()) if url.get_backend_name() == "sqlite" else database.name
        name = f"{_VERSION}-{hashlib.blake2b(where.encode(), digest_size=10).hexdigest()}.db"
        self.path = (folder or cache_folder()) / name
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._open() as file:
                if not file.execute("SELECT 1 FROM sqlite_master WHERE name = 'words'").fetchone():
                    file.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        except (OSError, sqlite3.Error) as error:
            raise DatabaseError(
                f"{self.path}: the viewer's own file cannot be used: {error}; delete it, or set XDG_CACHE_HOME"
            ) from None

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        # Its own connection each time: they are cheap, and threads share none.
        file = sqlite3.connect(self.path, timeout=60.0, isolation_level=None)
        try:
            file.execute("PRAGMA journal_mode = wal")
            file.execute("PRAGMA synchronous = off")  # what is lost is counted again
            yield file
        finally:
            file.close()

    # Counts

    def counted(self, pipeline: str) -> Counted | None:
        """What was counted last."""
        with self._open() as file:
            row = file.execute(
                "SELECT counts, stamp, counted_at, took_s FROM counts WHERE pipeline = ?", (pipeline,)
            ).fetchone()
        return Counted(json.loads(row[0]), *row[1:]) if row else None

    def keep(self, pipeline: str, counted: Counted) -> None:
        """Remember what was counted."""
        values = (pipeline, counted.stamp, counted.counted_at, counted.took_s, json.dumps(counted.counts))
        with self._open() as file:
            file.execute("INSERT OR REPLACE INTO counts VALUES (?, ?, ?, ?, ?)", values)

    # Words

    def indexed(self) -> tuple[int, str]:
        """How many pairs can be found, and the state of the database that this is of ("" while it is not complete)."""
        with self._open() as file:
            pairs = file.execute("SELECT coalesce(max(docid), 0) FROM pairs").fetchone()[0]
            row = file.execute("SELECT stamp FROM progress").fetchone()
        return int(pairs), str(row[0]) if row else ""

    def index(self, database: Database, stopped: Any) -> None:
        """Add the pairs that are new since the last time.

        Args:
            database: where they are.
            stopped: a `threading.Event`; set, it ends this early, and the next call goes on.
        """
        now = stamp(database)
        with self._open() as file:
            row = file.execute("SELECT place, stamp FROM progress").fetchone()
            place = row[0] if row else ""
            if row and row[1] == now:
                return
            for batch, place in _new_pairs(database, place):  # noqa: B020  # goes on from where it ended
                file.execute("BEGIN IMMEDIATE")
                for id, instruction, answer in batch:
                    added = file.execute("INSERT OR IGNORE INTO pairs (id) VALUES (?)", (bytes.fromhex(id),))
                    if added.rowcount:
                        words = (added.lastrowid, instruction or "", answer)
                        file.execute("INSERT INTO words (rowid, instruction, answer) VALUES (?, ?, ?)", words)
                file.execute("INSERT OR REPLACE INTO progress VALUES (1, ?, '')", (place,))
                file.execute("COMMIT")
                if stopped.is_set():
                    return
            file.execute("INSERT OR REPLACE INTO progress VALUES (1, ?, ?)", (place, now))

    def find(self, words: str, before: int | None, limit: int) -> list[tuple[int, str]]:
        """The newest pairs that hold all words, as (number, response id), those with a number below `before`.

        Newest and not best first: ranking would read every hit, and a common word has hundreds of thousands.
        """
        match = match_of(words)
        if match is None:
            return []
        query = (
            "SELECT w.rowid, lower(hex(p.id)) FROM words w JOIN pairs p ON p.docid = w.rowid "
            "WHERE words MATCH ? AND w.rowid < ? ORDER BY w.rowid DESC LIMIT ?"
        )
        with self._open() as file:
            return list(file.execute(query, (match, before or 2**62, limit)))

    def how_many(self, words: str) -> int:
        """How many pairs hold all words, counted up to ten thousand."""
        match = match_of(words)
        if match is None:
            return 0
        query = "SELECT count(*) FROM (SELECT 1 FROM words WHERE words MATCH ? LIMIT ?)"
        with self._open() as file:
            return int(file.execute(query, (match, _MOST_COUNTED)).fetchone()[0])


def cache_folder() -> Path:
    """Where the viewer keeps its files."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "selfalign" / "view"


def terms_of(words: str) -> list[tuple[str, bool, bool]]:
    """Read what a person typed: words, "quoted phrases", beginnings*, and -not; each (text, is_beginning, is_excluded).

    Everything else is taken as it is, so that no input is an error.
    """
    terms = []
    for number, part in enumerate(words.replace("\x00", " ").split('"')):
        for word in [part] if number % 2 else part.split():
            excluded = not number % 2 and word.startswith("-") and len(word) > 1
            beginning = not number % 2 and word.endswith("*")
            text = word[1:] if excluded else word
            text = text.rstrip("*") if beginning else text
            if any(character.isalnum() or character == "_" for character in text):
                terms.append((text.strip(), beginning, excluded))
    return terms


def match_of(words: str) -> str | None:
    """The same in FTS5's language; None where nothing is to be found."""
    wanted: list[str] = []
    excluded: list[str] = []
    for text, beginning, is_excluded in terms_of(words):
        quoted = '"' + text.replace('"', '""') + '"' + ("*" if beginning else "")
        (excluded if is_excluded else wanted).append(quoted)
    if not wanted:
        return None
    return " AND ".join(wanted) + "".join(f" NOT {term}" for term in excluded)


def stamp(database: Database) -> str:
    """Something that is another as soon as anything was committed."""
    if database.engine.dialect.name == "sqlite":
        path = Path(database.engine.url.database or "")
        parts = []
        for file in (path, path.with_name(path.name + "-wal")):
            try:
                found = file.stat()
                parts.append(f"{found.st_size}.{found.st_mtime_ns}" if found.st_size else "0")
            except OSError:
                parts.append("0")
        return "-".join(parts)
    with database.reading() as session:
        return str(session.scalar(sa.text("SELECT CAST(pg_current_snapshot() AS text)")))


_NEW_SQLITE = """
SELECT r.id, i.instruction, r.text, r.rowid AS place FROM responses r JOIN instructions i ON i.id = r.instruction_id
WHERE r.rowid > :place ORDER BY r.rowid LIMIT :rows
"""
_NEW_POSTGRESQL = """
SELECT r.id, i.instruction, r.text, r.created_at AS place
FROM responses r JOIN instructions i ON i.id = r.instruction_id
WHERE r.created_at >= CAST(:place AS timestamptz) - make_interval(secs => :overlap)
"""


def _new_pairs(database: Database, place: str) -> Iterator[tuple[Sequence[tuple[str, str, str]], str]]:
    """Yield batches of (response id, instruction, answer) and where to go on; some may have been there before."""
    if database.engine.dialect.name == "sqlite":
        at = _sure_place(database, place)
        while True:
            with database.reading() as session:
                rows = session.execute(sa.text(_NEW_SQLITE), {"place": at, "rows": _BATCH_ROWS}).all()
            if not rows:
                return
            at = rows[-1].place
            # The last row's id goes along: a rebuilt file (VACUUM) may have numbered its rows anew.
            yield [(row[0], row[1], row[2]) for row in rows], f"{at} {rows[-1].id}"
    values = {"place": place or "1970-01-01T00:00:00+00:00", "overlap": _OVERLAP_S}
    newest = place
    with database.reading() as session:
        query = sa.text(_NEW_POSTGRESQL).execution_options(yield_per=_BATCH_ROWS)
        for rows in session.execute(query, values).partitions():
            newest = max([newest, *(row.place.isoformat() for row in rows)])
            yield [(row[0], row[1], row[2]) for row in rows], place
        # Rows come in no order: only after the last is everything before the newest there.
    if newest != place:
        yield [], newest


def _sure_place(database: Database, place: str) -> int:
    number, _, id = place.partition(" ")
    if not number:
        return 0
    with database.reading() as session:
        found = session.scalar(sa.text("SELECT id FROM responses WHERE rowid = :number"), {"number": int(number)})
    return int(number) if found == id else 0


def clock() -> float:
    """Seconds since the epoch."""
    return time.time()
