from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from generator import filters, models
from generator.engines import Completion, CompletionRequest, EngineUnavailable, RequestFailed
from generator.line import REFUSED
from generator.pipeline import Pipeline, Report, build, declare, gather_seeds
from generator.progress import Silent
from generator.recipe import Recipe
from generator.store import Database, DatabaseError
from sandbox_server.errors import InvalidJob, Overloaded, Unavailable
from sandbox_server.jobs import Job, Limits, LimitsRequest, Outcome, ProgramError, Verdict
from sandbox_server.settings import SettingsError
from tests.fakes import LIMITS, FakeSandbox, passes
from tests.generator.conftest import SQLITE_ONLY
from tests.generator.rules import RuleEngine, answer, stage_of, write_seeds


async def run(recipe: Recipe, database: Database, engine: object = None, sandbox: object = None) -> Report:
    return await build(recipe, database, Silent(), engine=engine or RuleEngine(), sandbox=sandbox or FakeSandbox())  # type: ignore[arg-type]


def counts(database: Database) -> dict[str, int]:
    tables = (models.Concepts, models.Instruction, models.Response, models.Execution, models.DatasetItem)
    with database.reading() as session:
        return {
            table.__tablename__: session.scalar(sa.select(sa.func.count()).select_from(table)) or 0 for table in tables
        }


FULL = {"concepts": 5, "instructions": 5, "responses": 15, "executions": 15, "dataset_items": 5}


async def test_a_build_fills_every_stage_and_freezes_one_pair_per_instruction(
    small: Recipe, database: Database
) -> None:
    report = await run(small, database)

    assert report.drawn == {"concepts": 5, "instructions": 5, "responses": 15}
    assert report.programs_run == 15
    assert counts(database) == FULL
    assert report.snapshot is not None
    assert (report.snapshot.size, report.snapshot.version, report.snapshot.is_new) == (5, 1, True)


async def test_a_second_build_draws_nothing_and_runs_nothing(small: Recipe, database: Database) -> None:
    await run(small, database)
    engine, sandbox = RuleEngine(), FakeSandbox()

    report = await run(small, database, engine, sandbox)

    assert (engine.requests, sandbox.started) == ([], [])
    assert report.did_nothing
    assert counts(database) == FULL


async def test_a_build_that_lacks_nothing_counts_its_chain_once(small: Recipe, database: Database) -> None:
    await run(small, database)
    asked: list[str] = []
    sa.event.listen(database.engine, "before_cursor_execute", lambda *told: asked.append(told[2]))

    report = await run(small, database)

    assert report.did_nothing
    assert sum("usable_instructions" in statement for statement in asked) == 1


async def test_a_build_with_nothing_to_draw_opens_no_engine(small: Recipe, database: Database) -> None:
    await run(small, database)
    unreachable = dataclasses.replace(
        small, model=dataclasses.replace(small.model, engine="recorded", recording="no-such-file")
    )

    report = await build(unreachable, database, Silent(), sandbox=FakeSandbox())

    assert report.did_nothing


async def test_a_new_seed_costs_the_calls_of_one_seed(small: Recipe, database: Database, tmp_path: Path) -> None:
    await run(small, database)
    write_seeds(tmp_path, ["another"])
    gather_seeds(database, Pipeline(small), Silent())

    report = await run(small, database)

    assert report.drawn == {"concepts": 1, "instructions": 1, "responses": 3}
    assert report.programs_run == 3
    assert report.snapshot is not None
    assert (report.snapshot.size, report.snapshot.version) == (6, 2)


@pytest.mark.parametrize("change", [{"temperature": 0.9}, {"fewshots": 2}], ids=["sampling", "prompt"])
async def test_changing_the_responses_draws_only_responses(
    small: Recipe, database: Database, change: dict[str, Any]
) -> None:
    await run(small, database)
    hotter = dataclasses.replace(small, responses=dataclasses.replace(small.responses, **change))

    report = await run(hotter, database)

    assert report.drawn == {"concepts": 0, "instructions": 0, "responses": 15}


async def test_pipelines_that_share_their_stages_keep_their_own_pairs(small: Recipe, database: Database) -> None:
    """One reads two of the seeds that the other reads: neither draws, judges or shows what is only the other's."""
    few = dataclasses.replace(small, name="few", seeds=dataclasses.replace(small.seeds, limit=2))
    counted = "SELECT pipeline, rows FROM funnel WHERE stage = 'pairs accepted' ORDER BY pipeline"

    await run(few, database)
    report = await run(small, database)

    assert report.drawn == {"concepts": 3, "instructions": 3, "responses": 9}
    with database.reading() as session:
        assert [tuple(row) for row in session.execute(sa.text(counted))] == [("few", 2), ("small", 5)]
    for recipe in (few, small):
        assert (await run(recipe, database)).did_nothing


async def test_two_recipes_of_one_name_cannot_be_built_at_a_time(small: Recipe, database: Database) -> None:
    """The second takes the name; the first keeps its rows, and freezes nothing that is half the other's."""
    hotter = dataclasses.replace(small, responses=dataclasses.replace(small.responses, temperature=0.9))

    def take(request: CompletionRequest) -> None:
        if stage_of(request) == "responses":
            declare(database, Pipeline(hotter))

    with pytest.raises(SettingsError, match="another recipe named 'small' was built on this database meanwhile"):
        await run(small, database, RuleEngine(before=take))
    assert counts(database) == FULL | {"dataset_items": 0}
    report = await run(small, database)
    assert (report.completions_drawn, report.programs_run) == (0, 0)
    assert counts(database) == FULL


async def test_programs_run_while_responses_are_drawn(small: Recipe, database: Database) -> None:
    """The model waits with its last answers until programs were run, which it would for ever if they came after."""

    class Waiting(RuleEngine):
        async def complete(self, request: CompletionRequest) -> Completion:
            if stage_of(request) == "responses" and len(self.requests) > 18:
                await asyncio.wait_for(ran.wait(), 60)
            return await super().complete(request)

    async def run_and_tell(job: Job) -> Outcome:
        ran.set()
        return await passes(job)

    ran = asyncio.Event()
    report = await run(small, database, Waiting(), FakeSandbox(run_and_tell))

    assert report.programs_run == 15
    assert counts(database) == FULL


async def test_going_back_to_an_earlier_recipe_costs_nothing(small: Recipe, database: Database) -> None:
    await run(small, database)
    hotter = dataclasses.replace(small, responses=dataclasses.replace(small.responses, temperature=0.9))
    await run(hotter, database)

    report = await run(small, database)

    assert (report.completions_drawn, report.programs_run) == (0, 0)


async def test_more_samples_keep_those_there_are(small: Recipe, database: Database) -> None:
    await run(small, database)
    more = dataclasses.replace(small, responses=dataclasses.replace(small.responses, samples=5))

    report = await run(more, database)

    assert report.drawn == {"concepts": 0, "instructions": 0, "responses": 10}


async def test_fewer_samples_leave_the_others_out(small: Recipe, database: Database) -> None:
    await run(small, database)
    fewer = dataclasses.replace(small, responses=dataclasses.replace(small.responses, samples=1))

    await run(fewer, database)

    with database.reading() as session:
        judged = session.scalar(
            sa.text(
                "SELECT count(*) FROM judgements j JOIN pipelines p ON p.selection_recipe_id = j.recipe_id "
                "JOIN responses r ON r.id = j.subject_id"
            )
        )
    assert judged == 5


async def test_changing_limits_runs_again_and_draws_nothing(small: Recipe, database: Database) -> None:
    await run(small, database)
    limited = dataclasses.replace(
        small, sandbox=dataclasses.replace(small.sandbox, limits=LimitsRequest(cpu_time_ms=1000))
    )

    report = await run(limited, database)

    assert (report.completions_drawn, report.programs_run) == (0, 15)


async def test_changing_a_filter_judges_again_and_runs_nothing(
    small: Recipe, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run(small, database)
    changed = tuple(dataclasses.replace(entry, version="2") for entry in filters.FILTERS)
    monkeypatch.setattr(filters, "FILTERS", changed)

    report = await run(small, database)

    assert (report.completions_drawn, report.programs_run) == (0, 0)
    assert report.snapshot is not None
    assert (report.snapshot.judged, report.snapshot.is_new, report.snapshot.version) == (15, False, 1)


async def test_a_failed_request_is_stored_with_its_reason(small: Recipe, database: Database) -> None:
    def refuse(request: CompletionRequest) -> None:
        if stage_of(request) == "responses" and request.sampling.seed == first_seed:
            raise RequestFailed("status 400: too long")

    probe = RuleEngine()
    await run(small, database, probe)
    first_seed = next(r.sampling.seed for r in probe.requests if stage_of(r) == "responses")
    again = dataclasses.replace(small, model=dataclasses.replace(small.model, name="other"))

    report = await run(again, database, RuleEngine(before=refuse))

    assert report.failed == 1
    with database.reading() as session:
        failed = session.scalars(sa.select(models.Response).where(models.Response.finish_reason == "failed")).one()
    assert failed.error == "request failed: status 400: too long"


async def test_a_model_that_goes_away_stops_the_build_and_keeps_what_is_finished(
    small: Recipe, database: Database
) -> None:
    engine = RuleEngine()

    def leave(request: CompletionRequest) -> None:
        if len(engine.requests) > 12:
            raise EngineUnavailable("gone")

    engine.before = leave
    with pytest.raises(EngineUnavailable, match="gone"):
        await run(small, database, engine)
    stored = counts(database)

    report = await run(small, database)

    assert stored["concepts"] == stored["instructions"] == 5
    assert 0 <= stored["responses"] <= 2
    assert report.completions_drawn == 15 - stored["responses"]
    assert counts(database) == FULL


@pytest.mark.parametrize("trouble", [Unavailable("restarting"), Overloaded("queue full")])
async def test_the_sandboxs_own_trouble_is_never_a_verdict(
    small: Recipe, database: Database, trouble: Exception
) -> None:
    async def fail_after_four(job: Job) -> Outcome:
        if len(sandbox.started) > 4:
            raise trouble
        return await passes(job)

    sandbox = FakeSandbox(fail_after_four)
    with pytest.raises(type(trouble)):
        await run(small, database, sandbox=sandbox)
    with database.reading() as session:
        verdicts = session.scalars(sa.select(models.Execution.verdict)).all()

    report = await run(small, database)

    assert set(verdicts) <= {"PASSED"}
    assert len(verdicts) <= 4
    assert report.programs_run == 15 - len(verdicts)


async def test_limits_that_the_sandbox_refuses_stop_the_build(small: Recipe, database: Database) -> None:
    """They are the recipe's: every program would be refused, and no pair accepted, without a word of why."""

    async def refuse(_: Job) -> Outcome:
        raise InvalidJob("limits.memory_bytes", "1 is less than the runtime alone takes")

    with pytest.raises(SettingsError, match=r"^\[sandbox\] limits\.memory_bytes: 1 is less than"):
        await run(small, database, sandbox=FakeSandbox(refuse))

    with database.reading() as session:
        assert session.scalars(sa.select(models.Execution)).all() == []


async def test_benchmarks_that_are_not_there_stop_the_build_before_anything_is_drawn(
    small: Recipe, database: Database
) -> None:
    recipe = dataclasses.replace(small, selection=dataclasses.replace(small.selection, benchmarks="nowhere"))

    with pytest.raises(SettingsError, match=r"^\[selection\] benchmarks: .*'nowhere'"):
        await run(recipe, database)

    with database.reading() as session:
        assert session.scalars(sa.select(models.Concepts)).all() == []


async def test_a_program_that_the_sandbox_refuses_is_rejected_with_the_reason(
    small: Recipe, database: Database
) -> None:
    async def refuse_first(job: Job) -> Outcome:
        if job is sandbox.started[0]:
            raise InvalidJob("code", "is too large")
        return await passes(job)

    sandbox = FakeSandbox(refuse_first)
    await run(small, database, sandbox=sandbox)

    with database.reading() as session:
        refused = session.scalars(sa.select(models.Execution).where(models.Execution.verdict == REFUSED)).one()
        reason = session.scalar(sa.text("SELECT reason FROM rejected_pairs WHERE verdict = 'REFUSED'"))
    assert refused.error_message == "code: is too large"
    assert reason == "verdict REFUSED: InvalidJob"


async def test_rejected_responses_say_why(small: Recipe, database: Database) -> None:
    async def fail(job: Job) -> Outcome:
        return Outcome(Verdict.ERROR, error=ProgramError("NameError", "name 'x' is not defined"))

    report = await run(small, database, sandbox=FakeSandbox(fail))

    assert report.snapshot is not None
    assert report.snapshot.version is None  # nothing was ever accepted, so nothing is frozen
    with database.reading() as session:
        reasons = session.execute(sa.text("SELECT DISTINCT filter, reason FROM rejected_pairs")).all()
    assert [tuple(row) for row in reasons] == [("passed", "verdict ERROR: NameError")]


async def test_equal_programs_run_once(small: Recipe, database: Database) -> None:
    class Repeating(RuleEngine):
        async def complete(self, request: CompletionRequest):  # type: ignore[no-untyped-def]
            completion = await super().complete(request)
            if stage_of(request) == "responses":
                text = answer(dataclasses.replace(request, sampling=dataclasses.replace(request.sampling, seed=0)))
                return dataclasses.replace(completion, text=text)
            return completion

    sandbox = FakeSandbox()
    report = await run(small, database, Repeating(), sandbox)

    assert len(sandbox.started) == report.programs_run == 5


async def test_an_unknown_runtime_stops_the_build_before_anything_is_drawn(small: Recipe, database: Database) -> None:
    engine = RuleEngine()
    wrong = dataclasses.replace(small, sandbox=dataclasses.replace(small.sandbox, runtime="cobol"))

    with pytest.raises(SettingsError, match=r"runtime: 'cobol' is not one of the server's: python, command"):
        await run(wrong, database, engine)

    assert engine.requests == []


async def test_a_limit_above_the_servers_maximum_is_named(small: Recipe, database: Database) -> None:
    asked = LimitsRequest(wall_time_ms=10**9)
    wrong = dataclasses.replace(small, sandbox=dataclasses.replace(small.sandbox, limits=asked))

    with pytest.raises(SettingsError, match="limits wall_time_ms: 1000000000 is above"):
        await run(wrong, database)


async def test_cancelling_stores_what_is_finished(small: Recipe, database: Database) -> None:
    async def hang(job: Job) -> Outcome:
        if len(sandbox.started) > 6:
            blocked.set()
            await asyncio.Event().wait()
        return await passes(job)

    blocked = asyncio.Event()
    sandbox = FakeSandbox(hang)
    task = asyncio.create_task(run(small, database, sandbox=sandbox))
    await blocked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert counts(database)["executions"] == 6
    report = await run(small, database)
    assert report.programs_run == 9


async def test_seeds_that_the_source_lost_leave_the_pipeline_and_stay_in_the_database(
    small: Recipe, database: Database, tmp_path: Path
) -> None:
    await run(small, database)
    (tmp_path / "seeds" / "total.py").unlink()
    gather_seeds(database, Pipeline(small), Silent())

    report = await run(small, database)

    assert (report.completions_drawn, report.programs_run) == (0, 0)
    assert report.snapshot is not None
    assert (report.snapshot.size, report.snapshot.version) == (4, 2)
    assert counts(database)["responses"] == 15


async def test_the_limit_chooses_the_same_seeds_in_every_run(small: Recipe, database: Database) -> None:
    two = dataclasses.replace(small, seeds=dataclasses.replace(small.seeds, limit=2))

    first = await run(two, database)
    second = await run(two, database)

    assert first.drawn["concepts"] == 2
    assert second.did_nothing


async def test_an_empty_source_is_named(small: Recipe, database: Database, tmp_path: Path) -> None:
    for file in (tmp_path / "seeds").iterdir():
        file.unlink()

    with pytest.raises(SettingsError, match="holds no function with a docstring"):
        await run(small, database)


async def test_a_model_that_writes_what_no_database_stores_is_kept_as_far_as_can_be(
    small: Recipe, database: Database
) -> None:
    class Odd(RuleEngine):
        async def complete(self, request: CompletionRequest):  # type: ignore[no-untyped-def]
            completion = await super().complete(request)
            return dataclasses.replace(completion, text="a\x00b, \ud800c, d", finish_reason="stop")

    await run(small, database, Odd())

    with database.reading() as session:
        texts = set(session.scalars(sa.select(models.Concepts.text)))
    assert texts == {"a\u2400b, ?c, d"}


@SQLITE_ONLY
async def test_a_full_disk_stops_the_build_with_one_clear_line(small: Recipe, database: Database) -> None:
    with database.reading() as session:
        pages = session.scalar(sa.text("PRAGMA page_count")) or 0

    @sa.event.listens_for(database.engine, "connect")
    def _fill(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    database.engine.dispose()

    with pytest.raises(DatabaseError, match="database or disk is full; free some space"):
        await run(small, database)
    with database.reading() as session:
        assert session.scalar(sa.text("PRAGMA integrity_check")) == "ok"


def test_a_limit_is_complete_before_it_is_a_cause() -> None:
    """Asking for the default and asking for nothing are the same recipe."""
    from generator.causes import complete_limits

    assert isinstance(LIMITS, Limits)
    assert complete_limits(LimitsRequest(cpu_time_ms=LIMITS.cpu_time_ms), LIMITS) == complete_limits(
        LimitsRequest(), LIMITS
    )


def seed_judgements(database: Database) -> dict[str, tuple[bool, str | None, str | None]]:
    query = (
        "SELECT s.name, j.kept, j.filter, o.name AS other FROM pipelines p "
        "JOIN judgements j ON j.recipe_id = p.seed_filters_recipe_id JOIN seeds s ON s.id = j.subject_id "
        "LEFT JOIN seeds o ON o.id = j.other_id"
    )
    with database.reading() as session:
        return {row.name: (bool(row.kept), row.filter, row.other) for row in session.execute(sa.text(query))}


LONG_SEED = """
def {name}(values, weights):
    \"""Return the weighted sum of all the values, each times its weight, where both have an end.\"""
    total = 0
    for value, weight in zip(values, weights):
        if value is not None and weight is not None:
            total = total + value * weight
    return total{more}
"""


async def test_of_seeds_that_are_much_alike_one_is_read_until_the_source_loses_it(
    small: Recipe, database: Database, tmp_path: Path
) -> None:
    differing = dataclasses.replace(small, seeds=dataclasses.replace(small.seeds, near_duplicates=0.5))
    for file in (tmp_path / "seeds").iterdir():
        file.unlink()
    for name, more in (("first", ""), ("second", " + 1"), ("third", " + 2")):
        (tmp_path / "seeds" / f"{name}.py").write_text(LONG_SEED.format(name=name, more=more))
    write_seeds(tmp_path, ["different"])

    pipeline = Pipeline(differing)
    declare(database, pipeline)
    gather_seeds(database, pipeline, Silent())
    before = seed_judgements(database)
    kept = next(name for name, (is_kept, *_) in before.items() if is_kept and name != "different")
    rest = {"first", "second", "third"} - {kept}
    (tmp_path / "seeds" / f"{kept}.py").unlink()
    gather_seeds(database, pipeline, Silent())
    after = seed_judgements(database)

    assert before == {
        "different": (True, None, None),
        kept: (True, None, None),
        **dict.fromkeys(rest, (False, "near_duplicate", kept)),
    }
    assert kept not in after
    assert sum(is_kept for is_kept, *_ in after.values()) == 2
    report = await run(differing, database)
    assert report.drawn["concepts"] == 2


def test_seeds_are_compared_among_those_of_one_source_of_one_pipeline_only(
    small: Recipe, database: Database, tmp_path: Path
) -> None:
    differing = dataclasses.replace(small, seeds=dataclasses.replace(small.seeds, near_duplicates=0.5))
    other = dataclasses.replace(
        differing, name="other", seeds=dataclasses.replace(differing.seeds, licence="BSD-3-Clause")
    )

    assert Pipeline(small).seeds.id == Pipeline(differing).seeds.id
    assert Pipeline(small).seed_filters.id != Pipeline(differing).seed_filters.id != Pipeline(other).seed_filters.id
    # Of two pipelines over one source, one can have gathered it before it lost a seed.
    renamed = dataclasses.replace(differing, name="other")
    assert Pipeline(renamed).seeds.id == Pipeline(differing).seeds.id
    assert Pipeline(renamed).seed_filters.id != Pipeline(differing).seed_filters.id
