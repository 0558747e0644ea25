"""How long the pages of `selfalign view` and its search take on a finished database of many rows.

    python benchmarks/view_rows.py [--responses 1000000] [--url postgresql://...] [--keep FOLDER] [--quick]

The rows are a finished build's, with texts mixed from the demo's recorded answers, so that words are as frequent as in
real data. Each page is asked for over HTTP from a server of its own process, as a browser does: once right after the
start, then ten more times, of which the median is printed.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import lzma
import os
import platform
import random
import re
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import plan_rows  # beside this file
import sqlalchemy as sa
from sqlalchemy.orm import Session

from generator import models
from generator.pipeline import Pipeline
from generator.recipe import ModelSettings, Recipe, SeedSettings, StageSettings
from generator.store import ensure_recipe, open_database

RECORDINGS = Path(__file__).parent.parent / "generator/recordings/qwen2.5-coder-1.5b-instruct.jsonl.xz"
VERDICTS = (("PASSED", 20.0), ("FAILED", 45.0), ("ERROR", 28.0), ("NO_TESTS", 4.0), ("TIME_LIMIT", 2.0))
VERDICTS += (("SYNTAX_ERROR", 0.99), ("MEMORY_LIMIT", 0.01))
ERRORS = ("TypeError", "ValueError", "IndexError", "KeyError")
JUDGE = """
INSERT INTO judgements (recipe_id, subject_id, subject_table, kept, filter, filter_version, reason, created_at)
SELECT :selection, r.id, 'responses', e.verdict = 'PASSED' AND r.sample_index < 5,
    CASE WHEN e.verdict <> 'PASSED' THEN 'passed' WHEN r.sample_index > 4 THEN 'one_per_instruction' END, '1',
    CASE WHEN e.verdict <> 'PASSED' THEN 'verdict ' || e.verdict || coalesce(': ' || e.error_type, '')
    WHEN r.sample_index > 4 THEN 'another response of its instruction was chosen' END, e.created_at
FROM responses r JOIN executions e ON e.program_key = r.program_key
"""
KEPT = """
SELECT r.id, i.instruction, r.text FROM judgements j JOIN responses r ON r.id = j.subject_id
JOIN instructions i ON i.id = r.instruction_id WHERE j.kept ORDER BY r.id
"""
RARE = "zyzzyva"
"""A word in one row of a hundred thousand."""


class Texts:
    """Texts of a usual length out of recorded lines, reproducible."""

    def __init__(self) -> None:
        with lzma.open(RECORDINGS, "rt", encoding="utf-8") as file:
            words = " \n".join(str(json.loads(line)) for line in file).replace("\\n", "\n")
        self._lines = sorted({line.strip() for line in words.splitlines() if 20 < len(line) < 200})
        self._random = random.Random(3407)
        self._began = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
        self._verdicts, self._weights = zip(*VERDICTS, strict=True)

    def vary(self, model: type[models.Base], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Give each row texts, a verdict and a time of its own."""
        for row in rows:
            row["created_at"] = self._began + dt.timedelta(seconds=self._random.uniform(0, 30 * 86400))
            if model is models.Response:
                code = "\n".join([row["code"], *self._take(6)])
                rare = f" {RARE}" if self._random.random() < 1e-5 else ""
                row |= {"code": code, "text": "\n".join([*self._take(14), code]) + rare, "reasoning": self._take(1)[0]}
            elif model is models.Instruction:
                row["instruction"] += " " + " ".join(self._take(4))
            elif model is models.Execution:
                row["verdict"] = self._random.choices(self._verdicts, self._weights)[0]
                row["error_type"] = self._random.choice(ERRORS) if row["verdict"] == "ERROR" else None
        return rows

    def _take(self, count: int) -> list[str]:
        return self._random.choices(self._lines, k=count)


def fill(url: str, responses: int) -> None:
    """Write a finished build of this many responses, its judgements and two snapshots."""
    recipe = Recipe(
        name="bench",
        model=ModelSettings("instant", mode="completion"),
        seeds=SeedSettings(source="folder", path="seeds", licence="MIT"),
        responses=StageSettings(fewshots=1, samples=plan_rows.SAMPLES),
    )
    texts, plain = Texts(), plan_rows.rows_of

    def varied(*arguments: Any) -> Iterator[tuple[type[models.Base], list[dict[str, Any]]]]:
        for model, rows in plain(*arguments):
            yield model, texts.vary(model, rows) if model is not models.PipelineSeed else rows

    pipeline = Pipeline(recipe)
    database = open_database(url, create=True)
    plan_rows.rows_of = varied
    try:
        plan_rows.fill(database, pipeline, responses // plan_rows.SAMPLES)
        with database.writing() as session:
            selection = ensure_recipe(session, "selection", {"bench": 1})
            session.execute(sa.update(models.Pipeline).values(selection_recipe_id=selection))
            session.execute(sa.text(JUDGE), {"selection": selection})
            for version, left_out in ((1, 7), (2, 11)):
                snapshot(session, selection, version, left_out)
    finally:
        plan_rows.rows_of = plain
        database.close()


def snapshot(session: Session, selection: str, version: int, left_out: int) -> None:
    """Freeze the accepted pairs, each `left_out`-th left out."""
    kept = session.execute(sa.text(KEPT)).all()
    rows = [row for number, row in enumerate(kept) if number % left_out]
    values = {"id": f"{version:032x}", "parent_id": f"{version - 1:032x}" if version > 1 else None}
    dataset = {"name": "bench", "version": version, "content_key": "", "recipe_id": selection, "size": len(rows)}
    session.execute(sa.insert(models.Dataset).values(values | dataset))
    items = [
        {"dataset_id": values["id"], "position": n, "response_id": row[0], "instruction": row[1], "response": row[2]}
        for n, row in enumerate(rows)
    ]
    session.execute(sa.insert(models.DatasetItem), items)


def measure(url: str, cache: Path) -> None:
    """Ask for each page as a browser does, and print how long it took."""
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "-m", "selfalign", "view", "--db", url, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stdout is not None
            found = re.search(r"http://\S+", server.stdout.readline())
            assert found
            with httpx.Client(base_url=found[0], timeout=600) as client:
                _measure(client, Path(f"/proc/{server.pid}/stat"))
        finally:
            server.terminate()


def _measure(client: httpx.Client, stat: Path) -> None:
    began, cpu = time.perf_counter(), _cpu_s(stat)
    while "Counting" in client.get("/").text:
        time.sleep(0.2)
    print(f"counts, the first time: {time.perf_counter() - began:.1f} s, {_cpu_s(stat) - cpu:.1f} s CPU")
    began, cpu = time.perf_counter(), _cpu_s(stat)
    while "grows while you read" in client.get("/pairs", params={"q": RARE}).text:
        time.sleep(0.2)
    print(f"search index, the first time: {time.perf_counter() - began:.1f} s, {_cpu_s(stat) - cpu:.1f} s CPU")
    pair = re.findall(r'href="(/show/[0-9a-f]{32})"', client.get("/pairs?verdict=FAILED").text)[0]
    pages = {
        "overview": "/",
        "pairs, in order": "/pairs",
        "pairs of a frequent verdict": "/pairs?verdict=FAILED",
        "pairs of a rare verdict": "/pairs?verdict=MEMORY_LIMIT",
        "search: a frequent word": "/pairs?q=return",
        "search: a rare word": f"/pairs?q={RARE}",
        "search: a phrase": "/pairs?q=%22def+add%22",
        "search: two words, accepted only": "/pairs?q=list+sorted&kept=yes",
        "search: a frequent word, rare verdict": "/pairs?q=return&verdict=MEMORY_LIMIT",
        "one pair": pair,
        "snapshots": "/snapshots",
        "two snapshots compared": f"/diff?old={1:032x}&new={2:032x}",
    }
    print(f"{'page':38} {'first, ms':>10} {'median, ms':>10} {'kB':>6}")
    for name, page in pages.items():
        times = []
        for _ in range(11):
            began = time.perf_counter()
            answer = client.get(page)
            times.append((time.perf_counter() - began) * 1000)
            assert answer.status_code == 200, (page, answer.status_code)
        size = len(answer.content) / 1000
        print(f"{name:38} {times[0]:10.1f} {statistics.median(times[1:]):10.1f} {size:6.0f}")


def _cpu_s(stat: Path) -> float:
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Fill and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--responses", type=int, default=1_000_000)
    parser.add_argument("--url", default="", help="an empty database; default: SQLite in a temporary folder")
    parser.add_argument("--keep", type=Path, help="folder to keep the SQLite database in; filled already, it is used")
    parser.add_argument("--quick", action="store_true", help="20,000 responses: under a minute")
    options = parser.parse_args()
    responses = 20_000 if options.quick else options.responses
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        url = options.url or f"sqlite:///{folder}/bench.db"
        began = time.perf_counter()
        if not (folder / "bench.db").exists():
            fill(url, responses)
            print(f"{responses:,} responses written in {time.perf_counter() - began:.0f} s")
        if not options.url:
            size = (folder / "bench.db").stat().st_size
            print(f"SQLite {sqlite3.sqlite_version}, {size / 2**30:.2f} GiB")
        print(f"Python {platform.python_version()}; {os.cpu_count()} CPUs; load {os.getloadavg()[0]:.1f}")
        measure(url, Path(temporary) / "cache")
        index = sum(file.stat().st_size for file in Path(temporary, "cache").rglob("*.db*"))
        print(f"the viewer's own file: {index / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
