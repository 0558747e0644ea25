"""The build: gather seeds, draw what is missing in each stage, run what has not been run, select, freeze.

Each step asks the database what is missing, does that, and stores every row as it finishes. So there is nothing to
resume: stopping at any moment and starting again is the same as never having stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from generator import causes, checking, filters, line, models, work
from generator.alike import Keeper, Likeness
from generator.causes import Cause
from generator.engines import Engine
from generator.filters import Rules
from generator.leases import Leases
from generator.line import Line, Tally
from generator.progress import Progress
from generator.recipe import Recipe
from generator.seeds import (
    BatchFilter,
    SeedFilter,
    batch_filters,
    gather,
    judge,
    judge_all,
    seed_filters,
    seed_likenesses,
)
from generator.select import Snapshot, select
from generator.stages import JUDGE, STAGES
from generator.store import Database, batched, ensure_recipe, insert_new, storable, take_turns
from generator.work import Chain
from generator.writer import Writer
from sandbox_server.jobs import SandboxInfo
from sandbox_server.sandbox import Sandbox
from sandbox_server.settings import SettingsError

_SEED_FILTERS = "seed filters"


@dataclass(frozen=True)
class Pipeline:
    """What a recipe file means for the database: the recipe of every stage that can be known before anything runs."""

    recipe: Recipe

    @property
    def name(self) -> str:
        """What its row in `pipelines` is called."""
        return self.recipe.name

    @property
    def dataset(self) -> str:
        """What its snapshots are called."""
        return self.recipe.dataset.name or self.recipe.name

    @cached_property
    def seeds(self) -> Cause:
        """Where seeds are looked for."""
        return causes.seeds(self.recipe)

    @cached_property
    def asked_of_seeds(self) -> tuple[SeedFilter, ...]:
        """The filters that seeds pass."""
        return seed_filters(self.recipe.seeds)

    @cached_property
    def asked_of_batches(self) -> tuple[BatchFilter, ...]:
        """The filters that seeds pass many at a time, after the others."""
        return batch_filters(self.recipe.seeds)

    @cached_property
    def seed_filters(self) -> Cause:
        """What seeds must be."""
        filters = [(entry.name, entry.version) for entry in self.asked_of_seeds]
        filters += [(entry.name, entry.version) for entry in self.asked_of_batches]
        ways = [(way.name, way.version) for way in self.seeds_differ_in]
        return causes.seed_filters(self.recipe, filters, ways, self.seeds)

    @cached_property
    def seeds_differ_in(self) -> tuple[Likeness[Any], ...]:
        """The ways in which no two seeds are alike."""
        return seed_likenesses(self.recipe.seeds)

    @cached_property
    def stages(self) -> dict[str, Cause]:
        """How completions are drawn and read, by generation stage."""
        stages = STAGES if self.recipe.judge is None else (JUDGE, *STAGES)
        return {stage.name: causes.generation(self.recipe, stage) for stage in stages}

    @cached_property
    def chain(self) -> Chain:
        """Its rows."""
        return Chain(
            pipeline=self.name,
            recipes={name: cause.id for name, cause in self.stages.items()},
            samples={name: causes.stage_settings(self.recipe, name).samples for name in self.stages},
        )

    @cached_property
    def rules(self) -> Rules:
        """What pairs must be.

        Raises:
            SettingsError: the benchmarks that they must not overlap are not there.
        """
        return filters.rules(self.recipe.selection)

    def checks(self, executions: Cause) -> tuple[Cause, ...]:
        """What is run of answers that passed under `executions`, see `causes.checks`."""
        return causes.checks(self.recipe, self.stages["responses"], executions)

    def selection(self, executions: Cause) -> Cause:
        """How pairs are chosen from programs that ran under `executions`."""
        before = (self.seed_filters, *self.stages.values(), executions, *self.checks(executions)[-1:])
        return causes.selection(self.recipe, self.rules.versions, before)


@dataclass
class Report:
    """What one build did.

    Attributes:
        seeds_gathered: seeds that the source holds; None where it was not looked at again.
        drawn: completions that the model was asked for, by stage; `failed` of them could not be had.
        programs_run: runs in the sandbox.
        workers_lost: of a cluster, whose places others took.
        snapshot: None when the build did not come so far.
    """

    pipeline: str
    seeds_gathered: int | None = None
    drawn: dict[str, int] = field(default_factory=lambda: {stage.name: 0 for stage in STAGES})
    failed: int = 0
    programs_run: int = 0
    workers_lost: int = 0
    snapshot: Snapshot | None = None

    def add(self, tallies: Mapping[str, Tally]) -> None:
        """Count what came of stages."""
        for stage, tally in tallies.items():
            if stage in line.RUNS:
                self.programs_run += tally.stored
            elif stage in self.drawn or tally.stored:
                self.drawn[stage] = self.drawn.get(stage, 0) + tally.stored
            self.failed += tally.failed

    @property
    def completions_drawn(self) -> int:
        """Over all stages."""
        return sum(self.drawn.values())

    @property
    def did_nothing(self) -> bool:
        """Whether everything was there before."""
        return not (self.completions_drawn or self.programs_run or self.seeds_gathered is not None) and not (
            self.snapshot and (self.snapshot.judged or self.snapshot.is_new)
        )


async def build(
    recipe: Recipe,
    database: Database,
    progress: Progress,
    *,
    engine: Engine | None = None,
    sandbox: Sandbox | None = None,
    freeze: bool = True,
) -> Report:
    """Make everything that the recipe asks for and the database does not have.

    Args:
        recipe: the whole file.
        database: open, of this code's schema.
        progress: told how far it is.
        engine: used instead of the recipe's, and left open.
        sandbox: used instead of the recipe's, and left open.
        freeze: whether to select pairs and freeze them as a snapshot.

    Raises:
        EngineUnavailable: the model cannot be had; what is finished is stored.
        SandboxError: the sandbox cannot be had; what is finished is stored, and no verdict is made up.
        DatabaseError: rows cannot be stored.
        SettingsError: the recipe asks for what is not there, such as a runtime.
    """
    pipeline = Pipeline(recipe)
    report = Report(pipeline.name)
    await asyncio.to_thread(prepare, database, pipeline, progress, report)
    async with contextlib.AsyncExitStack() as stack:
        # The sandbox comes first: a model's time is not spent on what cannot be executed.
        if sandbox is None:
            sandbox = await stack.enter_async_context(line.open_sandbox(recipe.sandbox))
        if engine is None:
            engine = line.LazyEngine(recipe.model)
            stack.push_async_callback(engine.close)
        info = await sandbox.info()
        executions = declare_executions(database, pipeline, info)
        leases = await stack.enter_async_context(Leases(database))
        writer = await stack.enter_async_context(Writer(database))
        runs = recipe.sandbox.concurrency or 2 * info.slots
        worker = Line(recipe, pipeline.chain, executions, database, leases, writer, engine, sandbox, runs)
        responses = await asyncio.to_thread(line.responses_if_complete, database, pipeline.chain, executions.id)
        for stages in line.STEPS if responses is None else ((line.CHECKS,),):
            report.add(await worker.work_off(stages, progress))
    if freeze:
        await asyncio.to_thread(freeze_pairs, database, pipeline, executions, progress, report, responses)
    return report


def prepare(database: Database, pipeline: Pipeline, progress: Progress, report: Report) -> None:
    """Store what the pipeline means, and choose its seeds: what a build does before the stages.

    Raises:
        SettingsError: the recipe asks for what is not there.
    """
    _ = pipeline.rules  # what they need is missed now, and not when everything is drawn
    declare(database, pipeline)
    if not are_seeds_gathered(database, pipeline):
        report.seeds_gathered = gather_seeds(database, pipeline, progress)
        database.look_at_tables()
    choose_seeds(database, pipeline)


def freeze_pairs(
    database: Database,
    pipeline: Pipeline,
    executions: Cause,
    progress: Progress,
    report: Report,
    responses: int | None = None,
) -> None:
    """Score what was checked, select pairs, freeze them as a snapshot: what a build does after the stages.

    `responses` are those that the chain has, where they were just counted.

    Raises:
        SettingsError: another recipe took this one's name meanwhile.
    """
    _still_mine(database, pipeline, executions)
    if report.completions_drawn or report.programs_run:
        database.look_at_tables()
    if plan := checking.find_plan(database, pipeline.name):
        checking.score_new(database, pipeline.chain, plan)
    progress.begin("selection", None)
    report.snapshot = select(
        database,
        pipeline.chain,
        executions.id,
        pipeline.selection(executions),
        pipeline.dataset,
        pipeline.rules,
        pipeline.recipe.dataset,
        # Where rows were stored is nobody else's business, and can hold a password.
        {key: value for key, value in causes.to_plain(pipeline.recipe).items() if key != "database"},
        responses,
    )
    progress.end("selection", _describe(report.snapshot))


def _still_mine(database: Database, pipeline: Pipeline, executions: Cause) -> None:
    """Refuse to freeze what is no longer this pipeline's: its row in `pipelines`, and so its seeds, are another's."""
    with database.reading() as session:
        row = session.get_one(models.Pipeline, pipeline.name)
    now = {stage: getattr(row, f"{stage}_recipe_id") for stage in work.LEVELS}
    mine = {stage: pipeline.chain.recipes.get(stage) for stage in work.LEVELS}
    if (now, row.executions_recipe_id) != (mine, executions.id):
        raise SettingsError(
            f"another recipe named {pipeline.name!r} was built on this database meanwhile; what is finished is stored: "
            "give one of the two another name, then run this again"
        )


def declare(database: Database, pipeline: Pipeline) -> None:
    """Store what the pipeline means now, as far as it is known before anything runs."""
    with database.writing() as session:
        take_turns(session, f"pipeline {pipeline.name}")
        for cause in (pipeline.seeds, pipeline.seed_filters, *pipeline.stages.values()):
            ensure_recipe(session, cause.stage, cause.parameters)
        row = session.get(models.Pipeline, pipeline.name) or models.Pipeline(name=pipeline.name)
        row.parameters = causes.to_plain(pipeline.recipe)
        row.seed_filters_recipe_id = pipeline.seed_filters.id
        row.judge_recipe_id = pipeline.chain.recipes.get(work.JUDGE)
        row.concepts_recipe_id = pipeline.chain.recipes["concepts"]
        row.instructions_recipe_id = pipeline.chain.recipes["instructions"]
        row.responses_recipe_id = pipeline.chain.recipes["responses"]
        row.concepts_samples = pipeline.chain.samples["concepts"]
        row.instructions_samples = pipeline.chain.samples["instructions"]
        row.responses_samples = pipeline.chain.samples["responses"]
        session.add(row)


def declare_executions(database: Database, pipeline: Pipeline, info: SandboxInfo) -> Cause:
    """Store how programs run now, which only a sandbox can tell.

    Raises:
        SettingsError: it does not have the runtime, or does not allow the limits.
    """
    executions = line.execution_cause(pipeline.recipe.sandbox, info)
    with database.writing() as session:
        ensure_recipe(session, executions.stage, executions.parameters)
        row = session.get_one(models.Pipeline, pipeline.name)
        row.executions_recipe_id = executions.id
        row.default_limits = dataclasses.asdict(info.default_limits)
        checking.declare(session, pipeline.name, pipeline.checks(executions))
    return executions


# Seeds


def gather_seeds(database: Database, pipeline: Pipeline, progress: Progress) -> int:
    """Read the pipeline's source and store what it holds now.

    Returns:
        How many seeds that is.

    Raises:
        SettingsError: the source is missing or its licence is not permissive.
    """
    progress.begin("seeds", None)
    found: list[str] = []
    for batch in batched(gather(dataclasses.replace(pipeline.recipe.seeds, limit=0))):
        rows = [_seed_row(record.key, record) for record in batch]
        with database.writing() as session:
            insert_new(session, models.Seed, rows)
        found += [row["id"] for row in rows]
        progress.advance("seeds", len(rows))
    if not found:
        raise SettingsError("[seeds]: the source holds no function with a docstring; see `path` and `packages`")
    with database.writing() as session:  # the list changes as a whole, and only now counts as gathered
        take_turns(session, f"seeds of {pipeline.name}")
        session.execute(sa.delete(models.PipelineSeed).where(models.PipelineSeed.pipeline == pipeline.name))
        for ids in batched(dict.fromkeys(found)):
            rows = [{"pipeline": pipeline.name, "seed_id": id, "chosen": False} for id in ids]
            session.execute(sa.insert(models.PipelineSeed), rows)
        session.get_one(models.Pipeline, pipeline.name).seeds_recipe_id = pipeline.seeds.id
    progress.end("seeds", f"{len(found)} found")
    choose_seeds(database, pipeline, progress)
    return len(found)


def choose_seeds(database: Database, pipeline: Pipeline, progress: Progress | None = None) -> int:
    """Judge the gathered seeds that the filters have not seen, and choose those that pass, up to the limit.

    Each page of seeds is judged and compared with those before it in one transaction: stopping loses a page.

    Returns:
        How many are chosen.
    """
    if progress:
        progress.begin(_SEED_FILTERS, None)
    if pipeline.seeds_differ_in:
        _forget_lost_seeds(database, pipeline)
    for batch in _unjudged_seeds(database, pipeline):
        judged = _seed_judgements(pipeline, batch)
        with database.writing() as session:
            take_turns(session, f"seeds of {pipeline.name}")
            insert_new(session, models.Judgement, judged)
            _seed_keeper(session, pipeline).settle(row["subject_id"] for row in judged if row["kept"])
        if progress:
            progress.advance(_SEED_FILTERS, len(batch))
    stay, come, go = _count_choice(database, pipeline)
    if come or go:
        _make_choice(database, pipeline)
    if progress:
        progress.end(_SEED_FILTERS, f"{stay + come} chosen")
    return stay + come


def _make_choice(database: Database, pipeline: Pipeline) -> None:
    member = models.PipelineSeed
    mine = member.pipeline == pipeline.name
    wanted = sa.select(_wanted_seeds(pipeline).subquery().c.seed_id)
    chosen = sa.select(member.seed_id).where(mine, member.chosen)
    with database.writing() as session:
        take_turns(session, f"seeds of {pipeline.name}")
        # Those that come and those that go, each as a set: asked of one seed after the other whether it is wanted,
        # PostgreSQL goes through a list that does not fit into its memory each time.
        for ids, becomes in ((sa.except_(wanted, chosen), True), (sa.except_(chosen, wanted), False)):
            changed = sa.update(member).where(mine, member.seed_id.in_(ids)).values(chosen=becomes)
            session.execute(changed, execution_options={"synchronize_session": False})


def choice_of_seeds(database: Database, pipeline: Pipeline) -> tuple[int, int, int]:
    """Tell how many of the gathered seeds stay chosen, come in, and go, once `choose_seeds` chooses; store nothing.

    Filters that ask about many seeds at a time, or whether two are alike, are not asked about seeds that they have not
    seen: of those fewer may come in.
    """
    unseen: list[str] = []
    for seeds in _unjudged_seeds(database, pipeline):
        records = zip(seeds, _records(seeds), strict=True)
        unseen += [seed.id for seed, record in records if judge(record, pipeline.asked_of_seeds) is None]
    if not unseen:
        return _count_choice(database, pipeline)
    with database.counting() as session:
        chosen = set(session.scalars(work.rows_of(pipeline.chain, None)))
        wanted = sorted({*unseen, *session.scalars(_kept_seeds(pipeline))})[: pipeline.recipe.seeds.limit or None]
    stay = sum(id in chosen for id in wanted)
    return stay, len(wanted) - stay, len(chosen) - stay


def _count_choice(database: Database, pipeline: Pipeline) -> tuple[int, int, int]:
    """Count the seeds that stay chosen, come in and go; all of them were judged."""
    chosen = work.rows_of(pipeline.chain, None).subquery()
    wanted = _wanted_seeds(pipeline).add_columns(models.PipelineSeed.chosen).subquery()
    with database.counting() as session:
        before = session.scalar(sa.select(sa.func.count()).select_from(chosen)) or 0
        counts = sa.select(wanted.c.chosen, sa.func.count()).group_by(wanted.c.chosen)
        found: dict[bool, int] = {bool(is_chosen): count for is_chosen, count in session.execute(counts)}
    stay = found.get(True, 0)
    return stay, found.get(False, 0), before - stay


def _wanted_seeds(pipeline: Pipeline) -> sa.Select[Any]:
    """Select the gathered seeds that are to be chosen: those that passed the filters, up to the limit."""
    kept, limit = _kept_seeds(pipeline), pipeline.recipe.seeds.limit
    return kept.order_by(models.PipelineSeed.seed_id).limit(limit) if limit else kept


def _kept_seeds(pipeline: Pipeline) -> sa.Select[Any]:
    """Select the gathered seeds that passed the filters."""
    member, judgement = models.PipelineSeed, models.Judgement
    kept = (member.pipeline == pipeline.name, judgement.recipe_id == pipeline.seed_filters.id, judgement.kept)
    return sa.select(member.seed_id).join(judgement, judgement.subject_id == member.seed_id).where(*kept)


def are_seeds_gathered(database: Database, pipeline: Pipeline) -> bool:
    """Whether the pipeline's source, as the recipe has it now, was read to its end before."""
    with database.reading() as session:
        return session.get_one(models.Pipeline, pipeline.name).seeds_recipe_id == pipeline.seeds.id


def _unjudged_seeds(database: Database, pipeline: Pipeline) -> Iterator[list[models.Seed]]:
    member, judgement = models.PipelineSeed, models.Judgement
    # As an expression, so that PostgreSQL looks up each seed's judgement: to find a page of seeds without one, of which
    # it expects many, it would go along all judgements of all recipes.
    judged = sa.exists().where(
        judgement.recipe_id == pipeline.seed_filters.id, judgement.subject_id == member.seed_id.concat("")
    )
    unjudged = sa.select(member.seed_id).where(member.pipeline == pipeline.name, ~judged).order_by(member.seed_id)
    after = ""
    while True:
        ids = unjudged.where(member.seed_id > after).limit(work.PAGE_ROWS)
        query = sa.select(models.Seed).where(models.Seed.id.in_(ids)).order_by(models.Seed.id)
        with database.counting() as session:
            page = list(session.scalars(query))
        if not page:
            return
        yield page
        after = page[-1].id


@dataclass(frozen=True, slots=True)
class _Seed:
    """A seed as it is compared; of those that are alike the one with the smallest key stays."""

    id: str
    code: str

    @property
    def place(self) -> str:
        return self.id


def _seed_keeper(session: Session, pipeline: Pipeline) -> Keeper[_Seed]:
    def load(session: Session, ids: Sequence[str]) -> list[_Seed]:
        query = sa.select(models.Seed.id, models.Seed.code).where(models.Seed.id.in_(ids))
        return [_Seed(id, code) for id, code in session.execute(query)]

    return Keeper(session, pipeline.seed_filters.id, pipeline.seeds_differ_in, load)


def _forget_lost_seeds(database: Database, pipeline: Pipeline) -> None:
    """Let seeds that the source lost shut out no others."""
    judgement, member = models.Judgement, models.PipelineSeed
    here = sa.exists().where(member.pipeline == pipeline.name, member.seed_id == judgement.subject_id)
    lost = sa.select(judgement.subject_id).where(judgement.recipe_id == pipeline.seed_filters.id, ~here)
    with database.writing() as session:
        take_turns(session, f"seeds of {pipeline.name}")
        _seed_keeper(session, pipeline).remove(session.scalars(lost).all())


def _seed_row(id: str, record: Any) -> dict[str, Any]:
    row = {item.name: getattr(record, item.name) for item in dataclasses.fields(record)}
    return {"id": id} | {key: storable(value) if isinstance(value, str) else value for key, value in row.items()}


def _records(seeds: Sequence[models.Seed]) -> list[Any]:
    level = work.LEVELS["concepts"]
    names = [column.key for column in level.parent[1:]]
    return [level.read(*(getattr(seed, name) for name in names)) for seed in seeds]


def _seed_judgements(pipeline: Pipeline, seeds: Sequence[models.Seed]) -> list[dict[str, Any]]:
    rejections = judge_all(_records(seeds), pipeline.asked_of_seeds, pipeline.asked_of_batches)
    return [
        {
            "recipe_id": pipeline.seed_filters.id,
            "subject_id": seed.id,
            "subject_table": "seeds",
            "kept": rejection is None,
            "filter": rejection.filter.name if rejection else None,
            "filter_version": rejection.filter.version if rejection else None,
            "reason": rejection.reason if rejection else None,
        }
        for seed, rejection in zip(seeds, rejections, strict=True)
    ]


def forget_failed(database: Database, pipeline: Pipeline) -> int:
    """Remove the rows of requests that could not be answered, so that the next build asks again.

    Returns:
        How many there were. They have no text, so nothing was ever made of them but a judgement.
    """
    forgotten = 0
    with database.writing() as session:
        for stage, recipe_id in pipeline.chain.recipes.items():
            table = work.LEVELS[stage].table
            failed = sa.select(table.id).where(table.recipe_id == recipe_id, table.finish_reason == line.FAILED)
            session.execute(sa.delete(models.Judgement).where(models.Judgement.subject_id.in_(failed)))
            if table is models.Response:
                checking.forget(session, failed)
            removed = session.execute(sa.delete(table).where(table.id.in_(failed)))
            forgotten += int(getattr(removed, "rowcount", 0))
    return forgotten


def _describe(snapshot: Snapshot) -> str:
    if snapshot.version is None:
        return f"{snapshot.judged} judged, no pair accepted, so no snapshot"
    state = "new" if snapshot.is_new else "unchanged"
    return f"{snapshot.judged} judged; {snapshot.dataset} v{snapshot.version} ({state}) holds {snapshot.size} pairs"
