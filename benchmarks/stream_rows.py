"""Rows per second that the trainer's stream reads in random order, and the memory that it takes.

    python benchmarks/stream_rows.py [--quick] [--rows 1000000] [--seconds 10] [--postgres | --url postgresql://...]

A snapshot of `--rows` pairs (1.2 KB each) is made in the database, which must not have one of that name yet. Then pairs
are read through the trainer's own source in the order of an epoch, in queries of a step (64) and of a survey (500),
each from a place that has not been read before; as a floor, the same positions through SQLite's bare driver. With
--postgres the same is done in a PostgreSQL server as well, which is started for this and thrown away.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import resource
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from generator import models
from generator.keys import key_of
from generator.store import BATCH_ROWS, batched, ensure_recipe, insert_new, open_database, parse_url
from trainer.dataset import EpochOrder, PairSource

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests import postgres

NAME = "stream-benchmark"


def rows(count: int) -> Iterator[tuple[str, str]]:
    """Pairs of 1.2 KB on average, of different lengths."""
    rng = random.Random(0)
    words = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz     \n", k=4096))
    for number in range(count):
        start = rng.randrange(2048)
        yield (
            f"Task {number}. {words[start : start + rng.randrange(200, 400)]}",
            words[start : start + rng.randrange(600, 1200)],
        )


def make_snapshot(url: str, count: int) -> str:
    """Store a snapshot of `count` pairs, all from one response."""
    database = open_database(url, create=True)
    drawn: dict[str, Any] = {
        "sample_index": 0,
        "text": "",
        "finish_reason": "stop",
        "prompt_tokens": None,
        "completion_tokens": None,
        "error": None,
    }
    id = key_of("dataset", NAME, count)
    with database.writing() as session:
        recipe = {"recipe_id": ensure_recipe(session, "benchmark", {})}
        code = {"name": "f", "code": "", "docstring": "", "origin": "", "version": "", "path": "", "line": 1}
        insert_new(session, models.Seed, [{"id": id, **code, "licence": "", "licence_source": ""}])
        insert_new(session, models.Concepts, [{"id": id, "seed_id": id, **recipe, **drawn}])
        asked = {"category": "", "difficulty": "", "language": "", "instruction": ""}
        insert_new(session, models.Instruction, [{"id": id, "concepts_id": id, **asked, **recipe, **drawn}])
        insert_new(session, models.Response, [{"id": id, "instruction_id": id, **recipe, **drawn}])
        snapshot = {"id": id, "name": NAME, "version": 1, "content_key": id, "size": count}
        insert_new(session, models.Dataset, [{**snapshot, **recipe}])
        for batch in batched(enumerate(rows(count)), 5000):
            insert_new(
                session,
                models.DatasetItem,
                [
                    {"dataset_id": id, "position": p, "response_id": id, "instruction": i, "response": r}
                    for p, (i, r) in batch
                ],
            )
    with database.writing() as session:
        session.execute(sa.text("ANALYZE"))  # as autovacuum does a minute later, so that the planner knows the table
    database.close()
    return id


def timed(
    fetch: Callable[[Sequence[int]], Any], order: EpochOrder, start: int, batch: int, seconds: float
) -> tuple[str, int]:
    """Read batches for `seconds`, or a quarter of all rows; returns the rates in words and where it stopped."""
    begun, cpu = time.perf_counter(), time.process_time()
    at, end = start, start + order.rows // 4 - batch
    while (spent := time.perf_counter() - begun) < seconds and at < end:
        fetch(order(np.arange(at, at + batch)).tolist())
        at += batch
    cpu = time.process_time() - cpu
    return f"{(at - start) / spent:>9,.0f} rows/s, {(at - start) / cpu:>9,.0f} per CPU second", at


def resident_mib() -> float:
    """Of this process, now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def measure(url: str, options: argparse.Namespace) -> None:
    """Make a snapshot, read it in random order, print the rates with the memory before and after."""
    begun = time.perf_counter()
    id = make_snapshot(url, options.rows)
    print(f"{parse_url(url).drivername}: {options.rows:,} pairs stored in {time.perf_counter() - begun:.0f} s")
    source = PairSource(url, id, options.rows)
    order = EpochOrder(options.rows, seed=1)
    source.fetch(order(np.arange(5000)).tolist())
    at = 5000
    for batch in (64, BATCH_ROWS):
        before = resident_mib()
        rate, at = timed(source.fetch, order, at, batch, options.seconds)
        print(f"  queries of {batch:>3} rows: {rate}; memory {before:.0f} -> {resident_mib():.0f} MiB")
    source.close()
    if url.startswith("sqlite"):
        bare = sqlite3.connect(url.removeprefix("sqlite:///"))
        marks = ",".join("?" * BATCH_ROWS)
        columns = "position, response_id, instruction, response"
        query = f"SELECT {columns} FROM dataset_items WHERE dataset_id = ? AND position IN ({marks})"
        rate, at = timed(
            lambda positions: bare.execute(query, [id, *positions]).fetchall(), order, at, BATCH_ROWS, options.seconds
        )
        print(f"  bare sqlite3, {BATCH_ROWS}:  {rate}")
        bare.close()


def main() -> None:
    """Print the figures with their conditions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--quick", action="store_true", help="200,000 rows, 1 s each: under a minute")
    parser.add_argument("--postgres", action="store_true", help="PostgreSQL as well, in a server of its own")
    parser.add_argument("--url", default="", help="an empty database; default: a SQLite file that is deleted after")
    options = parser.parse_args()
    if options.quick:
        options.rows, options.seconds = 200_000, 1.0
    with tempfile.TemporaryDirectory() as folder:
        measure(options.url or f"sqlite:///{folder}/stream.db", options)
    if options.postgres:
        try:
            with postgres.serve(durable=True) as server:
                measure(server.empty(), options)
        except postgres.NoServer as reason:
            parser.error(str(reason))
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load {load:.1f}, Python {platform.python_version()}, {platform.machine()}")


if __name__ == "__main__":
    main()
