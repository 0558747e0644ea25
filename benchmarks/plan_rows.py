"""What a change costs, and how long `plan`, `status` and a build take to know, on a finished database of many rows.

    python benchmarks/plan_rows.py [--responses 1000000] [--postgres | --url postgresql://...] [--quick]

The rows are written straight into the tables, with texts of a usual length, as a finished build would have left them.
Each plan is the median of three, each on a new connection. CPU time is this process's: a server's own is not in it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import os
import platform
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from store_rows import InstantModel, InstantSandbox  # beside this file

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the tests' PostgreSQL

from generator import causes, models
from generator import plan as planning
from generator.keys import key_of
from generator.pipeline import Pipeline, Report, build, declare
from generator.progress import Silent
from generator.recipe import ModelSettings, Recipe, SeedSettings, StageSettings
from generator.status import status
from generator.store import Database, batched, ensure_recipe, insert_new, open_database
from sandbox_server.jobs import LimitsRequest
from tests import postgres

SAMPLES = 10
TEXT = "An answer of a usual length, which is about a thousand characters. " * 15


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--responses", type=int, default=1_000_000)
    parser.add_argument("--url", default="", help="an empty database; default: SQLite in a temporary folder")
    parser.add_argument("--postgres", action="store_true", help="a PostgreSQL that is started for it, with fsync")
    parser.add_argument("--quick", action="store_true", help="20,000 responses")
    options = parser.parse_args()
    responses = 20_000 if options.quick else options.responses
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        recipe = Recipe(
            name="bench",
            model=ModelSettings("instant", mode="completion"),
            seeds=SeedSettings(source="folder", path=folder, licence="MIT"),
            responses=StageSettings(fewshots=1, samples=SAMPLES),
        )
        url = options.url or f"sqlite:///{folder}/bench.db"
        if options.postgres:
            url = stack.enter_context(postgres.serve(durable=True)).empty()
        database = open_database(url, create=True)
        began = time.perf_counter()
        fill(database, Pipeline(recipe), responses // SAMPLES)
        print(f"{responses} responses written in {time.perf_counter() - began:.0f} s")
        if database.engine.dialect.name == "sqlite":
            backend = f"SQLite {sqlite3.sqlite_version}"
            print(f"{Path(folder, 'bench.db').stat().st_size / 2**30:.2f} GiB")
        else:
            with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                backend = "PostgreSQL " + str(connection.exec_driver_sql("SHOW server_version").scalar())
                connection.exec_driver_sql("VACUUM ANALYZE")  # as autovacuum does within a minute
        report, wall_s, cpu_s = rebuild(url, recipe)
        assert (report.completions_drawn, report.programs_run) == (0, 0), report
        print(f"{responses} judged and frozen in {wall_s:.0f} s, of which {cpu_s:.0f} s CPU")
        database.close()
        print(f"{backend}; Python {platform.python_version()}; {os.cpu_count()} CPUs; load {os.getloadavg()[0]:.1f}")
        measure(url, recipe, responses)


def measure(url: str, recipe: Recipe, responses: int) -> None:
    """Tell what each change costs, and how long it takes to know."""
    prompt = dataclasses.replace(recipe.responses, fewshots=2)
    limits = dataclasses.replace(recipe.sandbox, limits=LimitsRequest(cpu_time_ms=1000))
    changes: dict[str, tuple[Recipe, dict[str, int]]] = {
        "nothing": (recipe, {}),
        "the response prompt": (dataclasses.replace(recipe, responses=prompt), {"responses": responses}),
        "the limits": (dataclasses.replace(recipe, sandbox=limits), {"executions": responses}),
    }
    for name, (changed, expected) in changes.items():
        times = []
        for _ in range(3):
            to_do, wall_s, cpu_s = look(url, changed)
            assert to_do == expected, to_do
            times.append((wall_s, cpu_s))
        wall_s, cpu_s = (statistics.median(column) for column in zip(*times, strict=True))
        told = ", ".join(f"{count} {stage}" for stage, count in to_do.items()) or "nothing to do"
        print(f"plan, {name} changed: {told}: {wall_s:.2f} s, of which {cpu_s:.2f} s CPU")
    report, wall_s, cpu_s = rebuild(url, recipe)
    assert report.did_nothing, report
    print(f"build, nothing changed: {wall_s:.2f} s, of which {cpu_s:.2f} s CPU")
    database = open_database(url)
    began, cpu = time.perf_counter(), time.process_time()
    status(database, recipe.name)
    print(f"status: {time.perf_counter() - began:.2f} s, of which {time.process_time() - cpu:.2f} s CPU")
    add_seed(database, Pipeline(recipe))
    database.close()
    report, wall_s, cpu_s = rebuild(url, recipe, freeze=False)
    assert report.drawn == {"concepts": 1, "instructions": 1, "responses": SAMPLES}, report
    did = f"{report.completions_drawn} calls, {report.programs_run} programs"
    print(f"build, one seed added to {responses // SAMPLES}: {did}: {wall_s:.2f} s, of which {cpu_s:.2f} s CPU")
    # Another selection judges every response again; as a new version of a filter would.
    shorter = dataclasses.replace(recipe, dataset=dataclasses.replace(recipe.dataset, sections=("implementation",)))
    report, wall_s, cpu_s = rebuild(url, shorter)
    assert (report.completions_drawn, report.programs_run) == (0, 0), report
    assert report.snapshot is not None
    judged = report.snapshot.judged
    print(f"build, selection changed: 0 calls, 0 programs, {judged} judged: {wall_s:.1f} s, of which {cpu_s:.1f} s CPU")


def look(url: str, recipe: Recipe) -> tuple[dict[str, int], float, float]:
    """Plan with a fresh connection: what is to do now by stage, wall and CPU seconds."""
    database = open_database(url)
    began, cpu = time.perf_counter(), time.process_time()
    steps = planning.plan(database, Pipeline(recipe))
    took_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    database.close()
    return {step.stage: step.to_do for step in steps if step.to_do}, took_s, cpu_s


def rebuild(url: str, recipe: Recipe, *, freeze: bool = True) -> tuple[Report, float, float]:
    """Build with a fresh connection: what it did, wall and CPU seconds."""
    database = open_database(url)
    began, cpu = time.perf_counter(), time.process_time()
    building = build(recipe, database, Silent(), engine=InstantModel(), sandbox=InstantSandbox(), freeze=freeze)
    report = asyncio.run(building)
    took_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    database.close()
    return report, took_s, cpu_s


def add_seed(database: Database, pipeline: Pipeline) -> None:
    """Add one seed as gathering would."""
    tables = (models.Seed, models.PipelineSeed, models.Judgement)
    with database.writing() as session:
        for model, rows in rows_of(pipeline, "", [-1]):
            if model in tables:
                insert_new(session, model, rows)


def fill(database: Database, pipeline: Pipeline, parents: int, begin: int = 0) -> None:
    """Write the rows of a finished build: a seed, concepts and an instruction for each of `parents` but the first."""
    declare(database, pipeline)
    info = asyncio.run(InstantSandbox().info())
    executions = causes.execution(info.runtimes[0], info.default_limits)
    with database.writing() as session:
        ensure_recipe(session, executions.stage, executions.parameters)
        row = session.get_one(models.Pipeline, pipeline.name)
        row.seeds_recipe_id, row.executions_recipe_id = pipeline.seeds.id, executions.id
    for batch in batched(range(begin, parents), 2000):
        with database.writing() as session:
            for model, rows in rows_of(pipeline, executions.id, batch):
                insert_new(session, model, rows)


def rows_of(
    pipeline: Pipeline, executions: str, numbers: list[int]
) -> Iterator[tuple[type[models.Base], list[dict[str, Any]]]]:
    """The rows of some parents, table by table."""
    recipes = pipeline.chain.recipes
    key = {number: key_of("bench", number) for number in numbers}
    drawn = {"text": TEXT, "finish_reason": "stop", "prompt_tokens": 900, "completion_tokens": 250, "error": None}
    seed = {"name": "f", "code": TEXT, "docstring": "d", "origin": "o", "version": "1", "path": "p", "line": 1}
    yield models.Seed, [{"id": k, "licence": "MIT", "licence_source": "", **seed} for k in key.values()]
    yield models.PipelineSeed, [{"pipeline": pipeline.name, "seed_id": k, "chosen": True} for k in key.values()]
    judged = {"recipe_id": pipeline.seed_filters.id, "subject_table": "seeds", "kept": True}
    yield models.Judgement, [{"subject_id": k, **judged} for k in key.values()]
    common = {"sample_index": 0, **drawn}
    yield (
        models.Concepts,
        [{"id": k, "seed_id": k, "recipe_id": recipes["concepts"], "concepts": ["a"], **common} for k in key.values()],
    )
    kind = {"category": "function", "difficulty": "easy", "language": "Python", "recipe_id": recipes["instructions"]}
    yield (
        models.Instruction,
        [{"id": k, "concepts_id": k, "instruction": f"do {k}", **kind, **common} for k in key.values()],
    )
    responses, programs = [], []
    parts = {"reasoning": "r", "implementation": "i", "explanation": "e", "tests": "t", "test_code": "assert f()"}
    ran = {"assurance": "", "stdout": b"", "stderr": b"", "wall_time_ms": 1.0, "cpu_time_ms": 1.0}
    ran |= {"peak_memory_bytes": 1, "runtime_fingerprint": "", "recipe_id": executions}
    for number, k in key.items():
        for sample in range(SAMPLES):
            id, program = key_of("response", number, sample), key_of("program", number, sample)
            # One in five passes, as in the original's data.
            verdict = "PASSED" if sample % 5 == 0 else "FAILED"
            row = {"id": id, "instruction_id": k, "sample_index": sample, "recipe_id": recipes["responses"]}
            responses.append(
                {**row, "program_key": program, "code": f"x = {number * SAMPLES + sample}", **parts, **drawn}
            )
            programs.append({"id": key_of("run", program), "program_key": program, "verdict": verdict, **ran})
    yield models.Response, responses
    yield models.Execution, programs


if __name__ == "__main__":
    main()
