"""Rows per second that the trainer's stream reads in random order, and the memory that it takes.

    python benchmarks/stream_rows.py [--quick] [--rows 1000000] [--seconds 10] [--postgres | --url postgresql://...]

A snapshot of `--rows` pairs (1.2 KB each) is made in the database, which must not have one of that name yet, and read
once in order, as a run's survey reads it before the first step (a row's first reader in PostgreSQL also writes: it
marks the row as committed). Then steps of 64 pairs are read by `trainer.dataset.Steps`, as a run with the default
settings reads them in its own process, each from a place of the epoch that has not been read before: with its
read-ahead, and without. That is planning, queries and text, a pair a pass. Then the whole work of a step with packing,
tokens and tensors included, and reading's share of it. As a floor, SQLite's bare driver. With --postgres the same is
done in a PostgreSQL server as well, which is started for this and thrown away.
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
from trainer.chat import Encoder, prepare_tokenizer
from trainer.config import TemplateSettings
from trainer.dataset import READ_AHEAD_ROWS, EpochOrder, PairSource, Steps, in_order
from trainer.model import learn_tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests import postgres

NAME = "stream-benchmark"
BATCH = 64
SURVEYED = 6_400


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


class Watched(PairSource):
    """A source that counts the time that reading takes."""

    seconds = 0.0

    def fetch(self, positions: Sequence[int]) -> list[tuple[str, str]]:
        """Read."""
        begun = time.perf_counter()
        pairs = super().fetch(positions)
        self.seconds += time.perf_counter() - begun
        return pairs


def timed(read: Callable[[int], Any], start: int, end: int, rows: int, seconds: float) -> tuple[str, int]:
    """Call `read` with `start` and on, `rows` each; returns the rates in words, and where it stopped."""
    begun, cpu, at = time.perf_counter(), time.process_time(), start
    while at < end and (at == start or time.perf_counter() - begun < seconds):
        read(at)
        at += 1
    spent, cpu = time.perf_counter() - begun, time.process_time() - cpu
    done = (at - start) * rows
    return f"{done / spent:>9,.0f} rows/s, {done / cpu:>9,.0f} per CPU second of the reader", at


def resident_mib() -> float:
    """Of this process, now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def measure(url: str, options: argparse.Namespace) -> None:
    """Make a snapshot, read it in random order, print the rates with the memory before and after."""
    begun = time.perf_counter()
    id = make_snapshot(url, options.rows)
    print(f"{parse_url(url).drivername}: {options.rows:,} pairs stored in {time.perf_counter() - begun:.0f} s")
    source = Watched(url, id, options.rows)
    order = EpochOrder(options.rows, seed=1)
    table = np.stack([np.arange(options.rows), *[np.ones(options.rows)] * 2], axis=1).astype(np.int32)
    encoder = make_encoder(source)
    common: dict[str, Any] = {"pairs": options.rows, "batch_size": BATCH}

    def in_turn(batch: int) -> None:
        source.fetch(range(batch * BATCH_ROWS, min((batch + 1) * BATCH_ROWS, options.rows)))

    rate, _ = timed(in_turn, 0, -(-options.rows // BATCH_ROWS), BATCH_ROWS, float("inf"))
    print(f"  in order, queries of {BATCH_ROWS}       {rate}")
    last, at = options.rows // BATCH, 5000 // BATCH
    for name, ahead in (("as a run does", READ_AHEAD_ROWS), ("a step a query", 1)):
        steps = Steps(source, table, encoder, order=order, capacity=None, read_ahead_rows=ahead, **common)
        before = resident_mib()
        rate, at = timed(steps.read, at, min(last, at + last // 4), BATCH, options.seconds)
        print(f"  steps of {BATCH}, {name:<14} {rate}; memory {before:.0f} -> {resident_mib():.0f} MiB")
    positions = order(np.arange(at * BATCH, at * BATCH + SURVEYED))
    surveyed = np.array(list(lengths(source, encoder, positions.tolist())), dtype=np.int32)
    packed = Steps(source, surveyed, encoder, order=in_order, capacity=1280, **{**common, "pairs": len(surveyed)})
    source.seconds, begun = 0.0, time.perf_counter()
    for _ in packed.loader():
        pass
    spent = time.perf_counter() - begun
    print(
        f"  whole steps, packed and tokenised: {len(surveyed) / spent:,.0f} rows/s, "
        f"of which reading takes {source.seconds / spent:.1%}"
    )
    source.close()
    if url.startswith("sqlite"):
        bare = sqlite3.connect(url.removeprefix("sqlite:///"))
        marks = ",".join("?" * BATCH_ROWS)
        columns = "position, response_id, instruction, response"
        query = f"SELECT {columns} FROM dataset_items WHERE dataset_id = ? AND position IN ({marks})"

        def read(batch: int) -> None:
            chosen = order(np.arange(batch * BATCH_ROWS, (batch + 1) * BATCH_ROWS)).tolist()
            bare.execute(query, [id, *chosen]).fetchall()

        at = options.rows * 3 // 4 // BATCH_ROWS
        rate, _ = timed(read, at, options.rows // BATCH_ROWS, BATCH_ROWS, options.seconds)
        print(f"  bare sqlite3, queries of {BATCH_ROWS} {rate}")
        bare.close()


def make_encoder(source: PairSource) -> Encoder:
    """With a tokenizer learned from the pairs, as the demo's is."""
    tokenizer = learn_tokenizer((text for pair in source.fetch(range(2000)) for text in pair), 4096)
    prepare_tokenizer(tokenizer, TemplateSettings(), source="benchmark")
    return Encoder(tokenizer, 1280, "drop")


def lengths(source: PairSource, encoder: Encoder, positions: list[int]) -> Iterator[tuple[int, int, int]]:
    """What a survey writes down of the pairs at `positions`."""
    for batch in batched(positions):
        for position, example in zip(batch, encoder(source.fetch(batch)), strict=True):
            if not isinstance(example, str):
                yield position, len(example.input_ids), example.trained_tokens


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
