"""A few seeds through every stage, to look at before anything is paid for at scale.

The rows are those that the build would make, under the same keys: what a preview draws and runs, the build does not.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from generator import causes, checking, clean_up, models, work
from generator.engines import Engine, Prompt
from generator.pipeline import Pipeline, are_seeds_gathered, build, choose_seeds, declare, gather_seeds
from generator.progress import Progress
from generator.recipe import Recipe
from generator.select import load_candidates
from generator.stages import JUDGE, STAGES
from generator.store import Database
from sandbox_server.sandbox import Sandbox

_SUFFIX = ".preview"


async def preview(
    recipe: Recipe,
    database: Database,
    progress: Progress,
    count: int,
    *,
    engine: Engine | None = None,
    sandbox: Sandbox | None = None,
) -> list[dict[str, Any]]:
    """Take the first seeds through all stages, one response each.

    Args:
        recipe: the whole file.
        database: open, of this code's schema; keeps the rows.
        progress: told how far it is.
        count: how many seeds.
        engine: used instead of the recipe's, and left open.
        sandbox: used instead of the recipe's, and left open.

    Returns:
        For each seed its `name`, `code` and `origin`, and by generation stage the `prompt`, the model's `text` and the
        `error` for which it cannot be used; of the judge also whether the seed is `worth` reading; for a response also
        `code`, `test_code` and the `execution`. A stage is missing where the one before could not be used, or the judge
        did not say Yes. Of a response that could be read, also what its `checks` came to, whether it is `kept` by every
        filter, else by which `filter` not and for what `reason`, and the `pair` that is trained on. What the build
        does besides is told by `left_out`.
    """
    main = Pipeline(recipe)
    declare(database, main)
    if not are_seeds_gathered(database, main):
        gather_seeds(database, main, progress)
    choose_seeds(database, main)
    small = dataclasses.replace(
        recipe,
        name=recipe.name + _SUFFIX,
        seeds=dataclasses.replace(recipe.seeds, limit=min(count, recipe.seeds.limit or count)),
        concepts=dataclasses.replace(recipe.concepts, samples=1),
        instructions=dataclasses.replace(recipe.instructions, samples=1),
        responses=dataclasses.replace(recipe.responses, samples=1),
        selection=dataclasses.replace(recipe.selection, agreement=False, min_agreement=0.0),
    )
    pipeline = Pipeline(small)
    try:
        declare(database, pipeline)
        _share_seeds(database, main, pipeline)
        await build(small, database, progress, engine=engine, sandbox=sandbox, freeze=False)
        if checks := checking.find_plan(database, pipeline.name):
            checking.score_new(database, pipeline.chain, checks)
        return _stories(database, pipeline)
    finally:
        _remove(database, pipeline)


def left_out(recipe: Recipe) -> list[str]:
    """Say what a build of this recipe does and a preview does not, a line each."""
    samples = {
        stage.name: causes.stage_settings(recipe, stage.name).samples
        for stage in STAGES
        if causes.stage_settings(recipe, stage.name).samples > 1
    }
    told = [f"{name}: one sample is drawn, the build draws {count}" for name, count in samples.items()]
    if recipe.selection.agreement:
        told.append("agreement with the tests of an instruction's other samples: there are none")
    unique = [way.name for way in Pipeline(recipe).rules.unique]
    return [*told, f"comparison with all other pairs ({', '.join(unique)})", "the snapshot"]


def _share_seeds(database: Database, main: Pipeline, pipeline: Pipeline) -> None:
    member = models.PipelineSeed
    theirs = sa.select(sa.literal(pipeline.name), member.seed_id, sa.false()).where(member.pipeline == main.name)
    with database.writing() as session:
        session.execute(sa.delete(member).where(member.pipeline == pipeline.name))
        session.execute(sa.insert(member).from_select(["pipeline", "seed_id", "chosen"], theirs))
        session.get_one(models.Pipeline, pipeline.name).seeds_recipe_id = pipeline.seeds.id


def _remove(database: Database, pipeline: Pipeline) -> None:
    here = models.Pipeline
    with database.writing() as session:
        checks = session.scalar(sa.select(here.checks_recipe_id).where(here.name == pipeline.name))
        session.execute(sa.delete(models.PipelineSeed).where(models.PipelineSeed.pipeline == pipeline.name))
        session.execute(sa.delete(here).where(here.name == pipeline.name))
        used = sa.exists().where(here.checks_recipe_id == checks)
        for table in (models.Check, models.Score):  # of a recipe without agreement, which nothing else has
            session.execute(sa.delete(table).where(table.recipe_id == checks, ~used))


def _stories(database: Database, pipeline: Pipeline) -> list[dict[str, Any]]:
    recipe, chain = pipeline.recipe, pipeline.chain
    stories = []
    with database.reading() as session:
        now = session.get_one(models.Pipeline, pipeline.name)
        for seed_id in session.scalars(work.rows_of(chain, None).order_by(models.PipelineSeed.seed_id)):
            seed: Any = session.get_one(models.Seed, seed_id)
            story: dict[str, Any] = {"seed_id": seed_id, "name": seed.name, "origin": seed.origin, "code": seed.code}
            parent: Any = seed
            for stage in (JUDGE, *STAGES):
                if stage.name not in chain.recipes:
                    continue
                level = work.LEVELS[stage.name]
                query = sa.select(level.table).where(
                    level.parent_id == parent.id, level.table.recipe_id == chain.recipes[stage.name]
                )
                row: Any = session.scalars(query.where(level.table.sample_index == 0)).one()
                given = level.read(*(getattr(parent, column.key) for column in level.parent[1:]))
                request = stage.request(
                    given,
                    id=row.id,
                    sample_index=0,
                    seed=recipe.seed,
                    settings=causes.stage_settings(recipe, stage.name),
                    mode=recipe.model.mode,
                )
                told = {"id": row.id, "prompt": _text(request.prompt), "text": row.text, "error": row.error}
                if stage.name == "responses" and row.error is None:
                    told |= {"code": row.code, "test_code": row.test_code}
                    told["execution"] = _execution(session, row.program_key, now.executions_recipe_id)
                    told |= _selection(session, pipeline, row, now)
                story[stage.name] = told
                if stage is JUDGE:
                    told |= {"worth": row.worth}
                    if not row.worth:
                        break
                    continue
                if row.error is not None:
                    break
                parent = row
            stories.append(story)
    return stories


def _execution(session: Session, program_key: str, recipe_id: str | None) -> dict[str, Any]:
    execution = models.Execution
    query = sa.select(execution).where(execution.program_key == program_key, execution.recipe_id == recipe_id)
    row = session.scalars(query).one()
    names = ("verdict", "assertions_run", "assertions_failed", "error_type", "error_message", "wall_time_ms")
    return {name: getattr(row, name) for name in names}


def _selection(session: Session, pipeline: Pipeline, row: models.Response, now: models.Pipeline) -> dict[str, Any]:
    """What the build's filters would say of a response by itself."""
    (candidate,) = load_candidates(session, [row.id], now.executions_recipe_id or "", now.checks_recipe_id)
    checks = dataclasses.asdict(candidate.score) if candidate.score else {}
    told: dict[str, Any] = {"checks": {name: value for name, value in checks.items() if value is not None}}
    if rejection := pipeline.rules.judge(candidate):
        return told | {"kept": False, "filter": rejection[0].name, "reason": rejection[1]}
    settings = pipeline.recipe.dataset
    sections = {name: getattr(row, name) for name in clean_up.sections_read(settings)}
    asked = clean_up.instruction(candidate.instruction, row.test_code or "", row.id, settings)
    return told | {
        "kept": True,
        "pair": {
            "instruction": asked,
            "response": clean_up.response(sections, candidate.instruction, row.id, settings),
        },
    }


def _text(prompt: Prompt) -> str:
    if not prompt.messages:
        return prompt.text
    return "\n\n".join(f"[{message.role}]\n{message.content}" for message in prompt.messages)
