"""What docs/sql.md says is so."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import re
from pathlib import Path

import pytest
import sqlalchemy as sa

from generator.models import Base
from generator.pipeline import build
from generator.progress import Silent
from generator.recipe import Recipe
from generator.store import Database, run_query
from generator.views import VIEWS
from sandbox_server.jobs import AssertionFailure, Job, LimitsRequest, Outcome, ProgramError, TestReport, Verdict
from tests.fakes import FakeSandbox, passes
from tests.generator.rules import RuleEngine

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "sql.md").read_text(encoding="utf-8")
QUERIES = re.findall(r"^(\S[^\n]*\?)\n\n```sql\n(.*?)```", TEXT, flags=re.DOTALL | re.MULTILINE)


async def sometimes(job: Job) -> Outcome:
    """Fail every fifth, break every seventh."""
    number = int(job.request_id[:8], 16)
    if number % 5 == 0:
        failure = AssertionFailure(1, "add(1) == 3", "2", "==", "3")
        return Outcome(Verdict.FAILED, tests=TestReport(1, 1, reached_end=True, first_failure=failure))
    if number % 7 == 0:
        return Outcome(Verdict.ERROR, error=ProgramError("NameError", "name 'x' is not defined"))
    return await passes(job)


@pytest.fixture
def built(small: Recipe, database: Database) -> Database:
    """A database with some of everything."""
    asyncio.run(build(small, database, Silent(), engine=RuleEngine(), sandbox=FakeSandbox(sometimes)))
    return database


def test_there_are_fifteen_questions() -> None:
    assert len(QUERIES) == 15


@pytest.mark.parametrize(("question", "query"), QUERIES, ids=[question for question, _ in QUERIES])
def test_every_query_runs(built: Database, question: str, query: str) -> None:
    columns, _ = run_query(built, query)

    assert len(set(columns)) == len(columns) >= 2


def test_programs_that_ran_under_two_limits_are_counted_once(small: Recipe, database: Database) -> None:
    """The queries ask for the runs that count now, not for all there ever were."""

    async def as_the_code_says(job: Job) -> Outcome:
        return await sometimes(dataclasses.replace(job, request_id="00000007" if "0" in job.code else "00000005"))

    limits = dataclasses.replace(small.sandbox, limits=LimitsRequest(cpu_time_ms=1234))
    told = []
    for recipe in (small, dataclasses.replace(small, sandbox=limits)):
        sandbox = FakeSandbox(as_the_code_says)
        report = asyncio.run(build(recipe, database, Silent(), engine=RuleEngine(), sandbox=sandbox))
        assert report.programs_run
        asked = (query for question, query in QUERIES if "exceptions" in question or "two sides" in question)
        told.append([run_query(database, query)[1] for query in asked])

    assert told[0] == told[1]
    assert all(told[0])


def test_every_view_is_described() -> None:
    described = re.findall(r"`(\w+)`", TEXT.split("## Views")[1].split("## Fifteen")[0])

    assert sorted(described) == sorted(name for name, _ in VIEWS)


def test_every_verdict_is_named() -> None:
    assert all(re.search(rf"\b{verdict.value}\b", TEXT) for verdict in Verdict)


def test_the_diagram_is_that_of_the_models() -> None:
    """`python scripts/er_diagram.py` renews it."""
    spec = importlib.util.spec_from_file_location("er_diagram", ROOT / "scripts" / "er_diagram.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    assert script.renewed(TEXT) == TEXT
    assert all(f"    {table} {{" in TEXT for table in Base.metadata.tables)


def test_preference_pairs_hold_a_right_and_a_wrong_answer_to_one_instruction(built: Database) -> None:
    with built.reading() as session:
        pairs = session.execute(sa.text("SELECT * FROM preference_pairs")).mappings().all()
        for pair in pairs:
            instructions = session.execute(
                sa.text("SELECT DISTINCT instruction_id FROM responses WHERE id IN (:chosen_id, :rejected_id)"),
                dict(pair),
            ).scalars()
            assert list(instructions) == [pair["instruction_id"]]

    assert pairs
    assert {pair["rejected_verdict"] for pair in pairs} <= {"FAILED", "ERROR"}
    assert "#### Tests" not in pairs[0]["chosen"]


def test_accepted_and_rejected_pairs_are_all_responses(built: Database) -> None:
    with built.reading() as session:
        accepted = set(session.scalars(sa.text("SELECT response_id FROM accepted_pairs")))
        rejected = set(session.scalars(sa.text("SELECT response_id FROM rejected_pairs")))
        every = set(session.scalars(sa.text("SELECT response_id FROM pipeline_responses")))

    assert accepted
    assert rejected
    assert not accepted & rejected
    assert accepted | rejected == every
