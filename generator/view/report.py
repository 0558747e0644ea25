"""The same content as the pages in one file: everything in it, nothing loaded from elsewhere, no script."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

from sqlalchemy.orm import Session

from generator.lineage import UnknownRow
from generator.store import Database
from generator.view import counts as counting
from generator.view import html, reading
from generator.view.reading import Filters, Row


def write_report(database: Database, path: Path, pairs: int) -> int:
    """Write the report.

    Args:
        database: opened by `generator.store.open_read_only`.
        path: of the file; it is there whole or not at all.
        pairs: how many accepted and how many rejected ones are shown whole, of each pipeline.

    Returns:
        Its size in bytes.

    Raises:
        OSError: it cannot be written.
    """
    text = make_report(database, pairs)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        size = partial.write_bytes(text.encode())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return size


def make_report(database: Database, pairs: int) -> str:
    """The report's text."""
    with database.reading() as session:
        names = reading.pipelines(session)
        values: Row = {
            "snapshots": reading.snapshots(session),
            "trainings": reading.trainings(session),
            "evaluations": reading.evaluations(session),
        }
        curves = {row["id"]: reading.curves(row["output"], database) for row in values["trainings"]}
        stories = {name: _stories(session, name, pairs) for name in names}
    counted = {name: counting.count(database, name) for name in names}
    return html.render(
        "report.html",
        **values,
        database=database.name,
        made_at=f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC",
        style=html.style(),
        counted=counted,
        curves=curves,
        stories=stories,
    )


def _stories(session: Session, name: str, pairs: int) -> dict[str, list[Row]]:
    if not pairs:
        return {}
    kinds = {"Accepted pairs": Filters(kept=True), "Rejected pairs": Filters(kept=False)}
    found: dict[str, list[Row]] = {}
    for title, filters in kinds.items():
        rows = reading.pairs_after(session, name, filters, rows=pairs).rows
        told = []
        for row in rows:
            try:
                told.append(reading.named(reading.pair(session, row["id"])))
            except UnknownRow:  # gone since it was listed
                continue
        found[title] = told
    return found
