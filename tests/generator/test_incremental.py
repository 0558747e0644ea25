"""Whatever was changed, back and forth, before: a build comes to what one on a new database comes to."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from generator.engines import Completion, CompletionRequest, EngineUnavailable, RequestFailed
from generator.pipeline import Pipeline, Report, build, declare, gather_seeds
from generator.plan import plan
from generator.progress import Silent
from generator.recipe import DatasetSettings, JudgeSettings, Recipe, SelectionSettings
from generator.store import Database, open_database
from sandbox_server.jobs import Job, LimitsRequest, Outcome, Verdict
from tests.fakes import FakeSandbox, passes
from tests.generator.rules import RESPONSE, RuleEngine, stage_of, write_seeds

SEEDS = ["add_all", "collect", "gather", "measure", "total", "sum_up"]
SHOWN = {
    "funnel": "SELECT step, rows FROM funnel WHERE pipeline = :name",
    "verdicts": "SELECT verdict, responses FROM verdicts WHERE pipeline = :name",
    "rejected": "SELECT response_id, filter, reason, verdict, other_id FROM rejected_pairs WHERE pipeline = :name",
    "scored": "SELECT response_id, agreement, tests_passed, mutants_killed, flaky, kept, filter FROM scored_responses "
    "WHERE pipeline = :name",
    "preference": "SELECT chosen_id, rejected_id, rejected_verdict FROM preference_pairs WHERE pipeline = :name",
    "seeds": "SELECT seed_id, filter, reason FROM rejected_seeds WHERE pipeline = :name",
    "pairs": "SELECT response_id, instruction, response FROM accepted_pairs WHERE dataset = :name",
}


def number(*causes: object) -> int:
    return int(hashlib.sha256(repr(causes).encode()).hexdigest()[:8], 16)


class Moody(RuleEngine):
    """A model whose answers are often alike, sometimes unreadable or refused, and the same for the same request.

    Args:
        name: which model it is.
        answers: how many it gives before it goes away; None: all.
    """

    def __init__(self, name: str, answers: int | None = None) -> None:
        super().__init__()
        self.name = name
        self.answers = answers

    async def complete(self, request: CompletionRequest) -> Completion:
        self.requests.append(request)
        if self.answers is not None and len(self.requests) > self.answers:
            raise EngineUnavailable("it went away")
        messages, drawn = request.prompt.messages, request.sampling
        n = number(self.name, messages[-1].content, len(messages), drawn.seed, drawn.temperature)
        if n % 23 == 0:
            raise RequestFailed("refused")
        texts = {
            "judge": ("Yes: whole", "No: part", "perhaps", "Yes: clear")[n % 4],
            "concepts": f"iteration, sums, offset {n % 4}",
            "instructions": f"Write a function `add` that returns its argument plus the number {n % 6}, always.",
            "responses": RESPONSE.format(number=n % 5),
        }
        return Completion(texts[stage_of(request)], "length" if n % 19 == 0 else "stop", 9, 9)


async def moody(job: Job) -> Outcome:
    """End the same program under the same limits in the same way."""
    ends = [*5 * [Verdict.PASSED], Verdict.FAILED, Verdict.ERROR, Verdict.TIME_LIMIT]
    verdict = ends[number(job.code, job.tests, job.limits.cpu_time_ms, job.repeat) % len(ends)]
    return dataclasses.replace(
        await passes(job), verdict=verdict, repeat_verdicts=(verdict,) * job.repeat if job.repeat > 1 else ()
    )


def changed(rng: random.Random, recipe: Recipe) -> Recipe:
    """The recipe with one thing changed."""

    def part(section: str, /, **values: Any) -> Recipe:
        changed_part: Any = dataclasses.replace(getattr(recipe, section), **values)
        return dataclasses.replace(recipe, **{section: changed_part})

    agreement, mutants = rng.random() < 0.5, rng.choice((0, 2))
    selection = SelectionSettings(
        agreement=agreement,
        min_agreement=rng.choice((0, 0.5)) if agreement else 0,
        mutants=mutants,
        repeat=rng.choice((1, 2)),
        near_duplicates=rng.choice((0, 0.5)),
    )
    dataset = DatasetSettings(assertions_shown=rng.choice((0, 0.5)), comments=rng.random() < 0.5)
    judge = JudgeSettings(fewshots=1) if recipe.judge is None else None
    ways = (
        part("responses", samples=rng.randint(1, 4)),
        part("instructions", samples=rng.randint(1, 2)),
        part("seeds", limit=rng.choice((0, 2, 4))),
        part("seeds", near_duplicates=rng.choice((0, 0.5))),
        part(rng.choice(("concepts", "instructions", "responses")), fewshots=rng.randint(1, 2)),
        part("model", name=rng.choice(("one", "two"))),
        part("sandbox", limits=LimitsRequest(cpu_time_ms=rng.choice((None, 1500)))),
        *3 * (dataclasses.replace(recipe, selection=selection),),
        dataclasses.replace(recipe, dataset=dataset),
        dataclasses.replace(recipe, judge=judge),
    )
    return rng.choice(ways)


def shown(database: Database, name: str) -> dict[str, set[tuple[Any, ...]]]:
    with database.reading() as session:
        return {
            view: {tuple(row) for row in session.execute(sa.text(sql), {"name": name})} for view, sql in SHOWN.items()
        }


async def run(recipe: Recipe, database: Database, answers: int | None = None) -> Report:
    engine, sandbox = Moody(recipe.model.name, answers), FakeSandbox(moody)
    return await build(recipe, database, Silent(), engine=engine, sandbox=sandbox)


@pytest.mark.parametrize("world", range(2))
async def test_a_build_comes_to_what_one_on_a_new_database_comes_to(
    small: Recipe, database: Database, tmp_path: Path, world: int
) -> None:
    """Two pipelines of one database are changed at random, stopped, and their seeds read again; plans hold."""
    rng = random.Random(world)
    open_database(f"sqlite:///{tmp_path}/empty.db", create=True).close()
    recipes = {name: [dataclasses.replace(small, name=name)] for name in ("one", "two")}
    for step in range(6):
        name = rng.choice(("one", "one", "two"))
        recipe = rng.choice(recipes[name]) if rng.random() < 0.25 else changed(rng, recipes[name][-1])
        recipes[name].append(recipe)
        (other,) = recipes.keys() - {name}
        others = shown(database, other)
        pipeline = Pipeline(recipe)
        shutil.rmtree(tmp_path / "seeds")
        write_seeds(tmp_path, rng.sample(SEEDS, 4))
        declare(database, pipeline)
        gather_seeds(database, pipeline, Silent())
        if rng.random() < 0.5:
            with contextlib.suppress(EngineUnavailable):  # it may have had less to answer
                await run(recipe, database, answers=rng.randint(0, 12))
        planned = {part.stage: part for part in plan(database, pipeline)}

        report = await run(recipe, database)

        for stage, drawn in report.drawn.items():
            assert planned[stage].to_do <= drawn <= planned[stage].at_most, (step, stage)
        runs = [part for stage, part in planned.items() if stage in ("executions", "checks")]
        least, most = sum(part.to_do for part in runs), sum(part.at_most for part in runs)
        assert least <= report.programs_run <= most, step
        assert (await run(recipe, database)).did_nothing, step
        shutil.copy(tmp_path / "empty.db", tmp_path / f"{step}.db")
        new = open_database(f"sqlite:///{tmp_path}/{step}.db")
        await run(recipe, new)
        assert shown(database, name) == shown(new, name), step
        assert shown(database, other) == others, step
        new.close()
