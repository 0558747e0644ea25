"""The build: gather seeds, draw what is missing in each stage, run what has not been run, select, freeze.

Each step asks the database what is missing, does that, and stores every row as it finishes. So there is nothing to
resume: stopping at any moment and starting again is the same as never having stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import sqlalchemy as sa

from generator import causes, filters, models, work
from generator.causes import Cause
from generator.concurrency import for_each
from generator.engines import CompletionRequest, Engine, RequestFailed
from generator.engines.factory import open_engine
from generator.keys import key_of
from generator.leases import Leases
from generator.progress import Progress
from generator.recipe import Recipe, SandboxSettings
from generator.records import (
    ConceptsFields,
    Fields,
    InstructionFields,
    ResponseFields,
    program_key,
)
from generator.seeds import SeedFilter, gather, judge, seed_filters
from generator.select import Snapshot, select
from generator.stages import STAGES, ParseError, Stage, index_key, properties
from generator.store import Database, batched, ensure_recipe, insert_new, storable, take_turns
from generator.work import Chain, Draw, Program
from generator.writer import Writer
from sandbox_server.client import ClientConfig, connect
from sandbox_server.errors import InvalidJob, Unsupported
from sandbox_server.jobs import Job, Outcome, ProgramError, SandboxInfo, Verdict
from sandbox_server.sandbox import Sandbox
from sandbox_server.settings import SettingsError

REFUSED = "REFUSED"
"""In `executions.verdict`: the sandbox would not take the program. Its own trouble is never stored."""

_FAILED = "failed"
_LOOK_AGAIN_S = 0.5

T = TypeVar("T")


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
    def seed_filters(self) -> Cause:
        """What seeds must be."""
        return causes.seed_filters((entry.name, entry.version) for entry in self.asked_of_seeds)

    @cached_property
    def stages(self) -> dict[str, Cause]:
        """How completions are drawn and read, by generation stage."""
        return {stage.name: causes.generation(self.recipe, stage) for stage in STAGES}

    @cached_property
    def chain(self) -> Chain:
        """Its rows."""
        return Chain(
            pipeline=self.name,
            recipes={name: cause.id for name, cause in self.stages.items()},
            samples={name: causes.stage_settings(self.recipe, name).samples for name in self.stages},
        )

    def selection(self, executions: Cause) -> Cause:
        """How pairs are chosen from programs that ran under `executions`."""
        before = (self.seed_filters, *self.stages.values(), executions)
        return causes.selection(self.recipe, filters.VERSIONS, before)


@dataclass
class Report:
    """What one build did.

    Attributes:
        seeds_gathered: seeds that the source holds; None where it was not looked at again.
        drawn: completions that the model was asked for, by stage; `failed` of them could not be had.
        programs_run: runs in the sandbox.
        snapshot: None when the build did not come so far.
    """

    pipeline: str
    seeds_gathered: int | None = None
    drawn: dict[str, int] = field(default_factory=lambda: {stage.name: 0 for stage in STAGES})
    failed: int = 0
    programs_run: int = 0
    snapshot: Snapshot | None = None

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
    declare(database, pipeline)
    if not are_seeds_gathered(database, pipeline):
        report.seeds_gathered = await asyncio.to_thread(gather_seeds, database, pipeline, progress)
    await asyncio.to_thread(choose_seeds, database, pipeline)
    # The sandbox comes first: a model's time is not spent on what cannot be executed.
    async with _sandbox(recipe.sandbox, sandbox) as (runner, info):
        executions = _execution_cause(recipe.sandbox, info)
        _declare_executions(database, pipeline, executions)
        async with Leases(database) as leases, Writer(database) as writer:
            line = _Line(pipeline, database, leases, writer, progress, report)
            async with _LazyEngine(recipe, engine) as model:
                for stage in STAGES:
                    await line.generate(stage, model)
            await line.execute(executions, runner, recipe.sandbox.concurrency or 2 * info.slots)
    if not freeze:
        return report
    progress.begin("selection", None)
    report.snapshot = await asyncio.to_thread(
        select, database, pipeline.chain, executions.id, pipeline.selection(executions), pipeline.dataset
    )
    progress.end("selection", _describe(report.snapshot))
    return report


def declare(database: Database, pipeline: Pipeline) -> None:
    """Store what the pipeline means now, as far as it is known before anything runs."""
    with database.writing() as session:
        take_turns(session, f"pipeline {pipeline.name}")
        for cause in (pipeline.seeds, pipeline.seed_filters, *pipeline.stages.values()):
            ensure_recipe(session, cause.stage, cause.parameters)
        row = session.get(models.Pipeline, pipeline.name) or models.Pipeline(name=pipeline.name)
        row.parameters = causes.to_plain(pipeline.recipe)
        row.seed_filters_recipe_id = pipeline.seed_filters.id
        row.concepts_recipe_id = pipeline.chain.recipes["concepts"]
        row.instructions_recipe_id = pipeline.chain.recipes["instructions"]
        row.responses_recipe_id = pipeline.chain.recipes["responses"]
        row.concepts_samples = pipeline.chain.samples["concepts"]
        row.instructions_samples = pipeline.chain.samples["instructions"]
        row.responses_samples = pipeline.chain.samples["responses"]
        session.add(row)


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
    chosen = choose_seeds(database, pipeline)
    progress.end("seeds", f"{len(found)} found, {chosen} chosen")
    return len(found)


def choose_seeds(database: Database, pipeline: Pipeline) -> int:
    """Judge the gathered seeds that the filters have not seen, and choose those that pass, up to the limit.

    Returns:
        How many are chosen.
    """
    for batch in _unjudged_seeds(database, pipeline):
        with database.writing() as session:
            insert_new(session, models.Judgement, [_seed_judgement(pipeline, seed) for seed in batch])
    member, judgement = models.PipelineSeed, models.Judgement
    kept = (
        sa.select(member.seed_id)
        .join(judgement, judgement.subject_id == member.seed_id)
        .where(member.pipeline == pipeline.name, judgement.recipe_id == pipeline.seed_filters.id, judgement.kept)
        .order_by(member.seed_id)
        .limit(pipeline.recipe.seeds.limit or None)
    )
    wanted = member.seed_id.in_(sa.select(kept.subquery().c.seed_id))
    mine = member.pipeline == pipeline.name
    with database.writing() as session:
        take_turns(session, f"seeds of {pipeline.name}")
        session.execute(sa.update(member).where(mine, member.chosen, ~wanted).values(chosen=False))
        session.execute(sa.update(member).where(mine, ~member.chosen, wanted).values(chosen=True))
        chosen = sa.select(sa.func.count()).select_from(member).where(mine, member.chosen)
        return session.scalar(chosen) or 0


def are_seeds_gathered(database: Database, pipeline: Pipeline) -> bool:
    """Whether the pipeline's source, as the recipe has it now, was read to its end before."""
    with database.reading() as session:
        return session.get_one(models.Pipeline, pipeline.name).seeds_recipe_id == pipeline.seeds.id


def _unjudged_seeds(database: Database, pipeline: Pipeline) -> Iterator[list[models.Seed]]:
    member, judgement = models.PipelineSeed, models.Judgement
    judged = sa.exists().where(judgement.recipe_id == pipeline.seed_filters.id, judgement.subject_id == member.seed_id)
    query = sa.select(models.Seed).join(member, member.seed_id == models.Seed.id)
    query = query.where(member.pipeline == pipeline.name, ~judged).order_by(models.Seed.id)
    after = ""
    while True:
        with database.reading() as session:
            page = list(session.scalars(query.where(models.Seed.id > after).limit(work.PAGE_ROWS)))
        if not page:
            return
        yield page
        after = page[-1].id


def _seed_row(id: str, record: Any) -> dict[str, Any]:
    row = {item.name: getattr(record, item.name) for item in dataclasses.fields(record)}
    return {"id": id} | {key: storable(value) if isinstance(value, str) else value for key, value in row.items()}


def _seed_judgement(pipeline: Pipeline, seed: models.Seed) -> dict[str, Any]:
    level = work.LEVELS["concepts"]
    names = [column.key for column in level.parent[1:]]
    record = level.read(*(getattr(seed, name) for name in names))
    rejection = judge(record, pipeline.asked_of_seeds)  # type: ignore[arg-type]
    return {
        "recipe_id": pipeline.seed_filters.id,
        "subject_id": seed.id,
        "subject_table": "seeds",
        "kept": rejection is None,
        "filter": rejection.filter.name if rejection else None,
        "filter_version": rejection.filter.version if rejection else None,
        "reason": rejection.reason if rejection else None,
    }


# Generation


class _LazyEngine:
    """The recipe's engine, opened at the first request: a build with nothing to draw needs no model."""

    def __init__(self, recipe: Recipe, given: Engine | None) -> None:
        self._settings = recipe.model
        self._given = given
        self._opened: Engine | None = None

    @property
    def engine(self) -> Engine:
        if self._given is not None:
            return self._given
        if self._opened is None:
            self._opened = open_engine(self._settings)
        return self._opened

    async def __aenter__(self) -> _LazyEngine:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._opened is not None:
            await self._opened.close()


@dataclass(frozen=True)
class _Line:
    """What every stage of a build needs."""

    pipeline: Pipeline
    database: Database
    leases: Leases
    writer: Writer
    progress: Progress
    report: Report

    async def generate(self, stage: Stage, model: _LazyEngine) -> None:
        """Draw the completions that a generation stage lacks."""
        pipeline, recipe, report = self.pipeline, self.pipeline.recipe, self.report
        recipe_id = pipeline.chain.recipes[stage.name]
        level = work.LEVELS[stage.name]
        unread = 0

        def missing() -> int:
            counted = work.count(self.database, pipeline.chain, stage.name)
            return counted.parents * pipeline.chain.samples[stage.name] - counted.rows

        async def draw(claimed: tuple[str, Draw]) -> None:
            nonlocal unread
            key, item = claimed
            request = stage.request(
                item.parent,
                id=key,
                sample_index=item.sample_index,
                seed=recipe.seed,
                settings=causes.stage_settings(recipe, stage.name),
                mode=recipe.model.mode,
            )
            report.drawn[stage.name] += 1
            row = await _complete(model.engine, stage, request)
            if stage.name == "instructions":
                row |= dataclasses.asdict(properties(recipe.seed, index_key(item.parent)))
            row |= {
                "id": key,
                "recipe_id": recipe_id,
                level.parent_id.key: item.parent_id,
                "sample_index": item.sample_index,
            }
            report.failed += row["finish_reason"] == _FAILED
            unread += row["error"] is not None
            await self.writer.insert(level.table, row)
            self.progress.advance(stage.name)

        def pages() -> Iterator[list[tuple[str, Draw]]]:
            for page in work.pending_draws(self.database, pipeline.chain, stage.name):
                keyed = {row_key(stage.name, recipe_id, item): item for item in page}
                mine = self.leases.claim(level.table, list(keyed))
                yield [(key, item) for key, item in keyed.items() if key in mine]

        if await self._work_off(stage.name, missing, pages, draw, recipe.model.concurrency):
            drawn = report.drawn[stage.name]
            self.progress.end(stage.name, f"{drawn} drawn, {drawn - unread} usable")

    async def execute(self, executions: Cause, sandbox: Sandbox, concurrency: int) -> None:
        """Run the programs that have not been run."""
        pipeline, report, settings = self.pipeline, self.report, self.pipeline.recipe.sandbox
        passed = 0

        def missing() -> int:
            pending, _ = work.count_programs(self.database, pipeline.chain, executions.id)
            return pending

        async def run(claimed: tuple[str, Program]) -> None:
            nonlocal passed
            key, program = claimed
            job = Job(
                code=program.code,
                tests=program.tests,
                request_id=key,
                runtime=settings.runtime,
                limits=settings.limits,
            )
            report.programs_run += 1
            row = await _run(sandbox, job, executions.parameters["fingerprint"])
            passed += row["verdict"] == "PASSED"
            row |= {"id": key, "program_key": program.key, "recipe_id": executions.id}
            await self.writer.insert(models.Execution, row)
            self.progress.advance("executions")

        def pages() -> Iterator[list[tuple[str, Program]]]:
            for page in work.pending_programs(self.database, pipeline.chain, executions.id):
                keyed = {key_of("execution", program.key, executions.id): program for program in page}
                mine = self.leases.claim(models.Execution, list(keyed))
                yield [(key, program) for key, program in keyed.items() if key in mine]

        if await self._work_off("executions", missing, pages, run, concurrency):
            self.progress.end("executions", f"{report.programs_run} run, {passed} passed")

    async def _work_off(
        self,
        stage: str,
        missing: Callable[[], int],
        pages: Callable[[], Iterator[list[T]]],
        do: Callable[[T], Awaitable[None]],
        concurrency: int,
    ) -> bool:
        """Do what is missing, and wait for what other workers have claimed.

        Returns:
            Whether anything was missing.
        """
        count = await asyncio.to_thread(missing)
        if not count:
            return False
        self.progress.begin(stage, count)
        told = False
        while True:
            await for_each(pages(), do, min(concurrency, count))
            count = await asyncio.to_thread(missing)
            if not count:
                return True
            if not told:
                self.progress.say(f"{stage}: {count} are being made by other builds on this database; waiting for them")
                told = True
            await asyncio.sleep(_LOOK_AGAIN_S)
            await asyncio.to_thread(self.leases.clear_dead)


async def _complete(engine: Engine, stage: Stage, request: CompletionRequest) -> dict[str, Any]:
    """The columns that a completion fills, whether it can be read, cannot, or never came."""
    row: dict[str, Any] = {"text": "", "prompt_tokens": None, "completion_tokens": None} | _columns(stage.name, None)
    try:
        completion = await engine.complete(request)
    except RequestFailed as failure:
        return row | {"finish_reason": _FAILED, "error": storable(f"request failed: {failure}")}
    row["text"] = storable(completion.text)
    row["finish_reason"] = storable(completion.finish_reason)[:32]
    row["prompt_tokens"], row["completion_tokens"] = completion.prompt_tokens, completion.completion_tokens
    try:
        fields = stage.parse(row["text"], completion.finish_reason)
    except ParseError as error:
        return row | {"error": str(error)}
    return row | {"error": None} | _columns(stage.name, fields)


def _columns(stage: str, fields: Fields | None) -> dict[str, Any]:
    """What a stage reads, as columns; all null where nothing could be read."""
    match fields:
        case ConceptsFields(concepts):
            return {"concepts": list(concepts)}
        case InstructionFields(instruction):
            return {"instruction": instruction}
        case ResponseFields():
            return dataclasses.asdict(fields) | {"program_key": program_key(fields.code, fields.test_code)}
    return dict.fromkeys(_COLUMNS[stage])


_COLUMNS: dict[str, tuple[str, ...]] = {
    "concepts": ("concepts",),
    "instructions": ("instruction",),
    "responses": (*(item.name for item in dataclasses.fields(ResponseFields)), "program_key"),
}


def row_key(stage: str, recipe_id: str, item: Draw) -> str:
    """The key of a generated row: stage, parent, recipe and sample index are all its causes."""
    return key_of(stage, item.parent_id, recipe_id, item.sample_index)


def forget_failed(database: Database, pipeline: Pipeline) -> int:
    """Remove the rows of requests that could not be answered, so that the next build asks again.

    Returns:
        How many there were. They have no text, so nothing was ever made of them but a judgement.
    """
    forgotten = 0
    with database.writing() as session:
        for stage, recipe_id in pipeline.chain.recipes.items():
            table = work.LEVELS[stage].table
            failed = sa.select(table.id).where(table.recipe_id == recipe_id, table.finish_reason == _FAILED)
            session.execute(sa.delete(models.Judgement).where(models.Judgement.subject_id.in_(failed)))
            removed = session.execute(sa.delete(table).where(table.id.in_(failed)))
            forgotten += int(getattr(removed, "rowcount", 0))
    return forgotten


# Execution


@contextlib.asynccontextmanager
async def _sandbox(settings: SandboxSettings, given: Sandbox | None) -> AsyncIterator[tuple[Sandbox, SandboxInfo]]:
    if given is not None:
        yield given, await given.info()
        return
    # The client itself waits and tries again while the sandbox is overloaded or away, and gives up after that long.
    patience_s = settings.patience_s
    config = ClientConfig(timeout_s=None, retry_for_s=patience_s, connect_timeout_s=min(10.0, patience_s))
    async with connect(settings.address, config) as sandbox:
        yield sandbox, await sandbox.info()


def _execution_cause(settings: SandboxSettings, info: SandboxInfo) -> Cause:
    runtime = next((runtime for runtime in info.runtimes if runtime.name == settings.runtime), None)
    if runtime is None:
        known = ", ".join(runtime.name for runtime in info.runtimes)
        raise SettingsError(f"[sandbox] runtime: {settings.runtime!r} is not one of the server's: {known}")
    limits = causes.complete_limits(settings.limits, info.default_limits)
    for name, most in dataclasses.asdict(info.maximum_limits).items():
        if getattr(limits, name) > most:
            raise SettingsError(
                f"[sandbox] limits {name}: {getattr(limits, name)} is above the server's maximum {most}"
            )
    return causes.execution(runtime, limits)


def _declare_executions(database: Database, pipeline: Pipeline, executions: Cause) -> None:
    with database.writing() as session:
        ensure_recipe(session, executions.stage, executions.parameters)
        session.get_one(models.Pipeline, pipeline.name).executions_recipe_id = executions.id


async def _run(sandbox: Sandbox, job: Job, fingerprint: str) -> dict[str, Any]:
    try:
        return _execution_row(await sandbox.run(job))
    except (InvalidJob, Unsupported) as refusal:
        # About this program alone (the runtime and the limits were looked at before), and so it would be every time.
        error = ProgramError(type(refusal).__name__, str(refusal))
        row = _execution_row(Outcome(Verdict.ERROR, error=error, runtime_fingerprint=fingerprint))
        return row | {"verdict": REFUSED, "assurance": ""}


def _execution_row(outcome: Outcome) -> dict[str, Any]:
    tests, error, usage = outcome.tests, outcome.error, outcome.usage
    return {
        "verdict": outcome.verdict.value,
        "assurance": outcome.assurance.value,
        "exit_code": outcome.exit_code,
        "signal": outcome.signal,
        "assertions_run": tests.assertions_run if tests else None,
        "assertions_failed": tests.assertions_failed if tests else None,
        "first_failure": _storable_values(dataclasses.asdict(tests.first_failure))
        if tests and tests.first_failure
        else None,
        "error_type": storable(error.type) if error else None,
        "error_message": storable(error.message) if error else None,
        "error_traceback": storable(error.traceback) if error else None,
        "stdout": outcome.stdout,
        "stderr": outcome.stderr,
        "wall_time_ms": usage.wall_time_ms,
        "cpu_time_ms": usage.cpu_time_ms,
        "peak_memory_bytes": usage.peak_memory_bytes,
        "runtime_fingerprint": outcome.runtime_fingerprint,
    }


def _storable_values(values: dict[str, Any]) -> dict[str, Any]:
    return {key: storable(value) if isinstance(value, str) else value for key, value in values.items()}


def _describe(snapshot: Snapshot) -> str:
    if snapshot.version is None:
        return f"{snapshot.judged} judged, no pair accepted, so no snapshot"
    state = "new" if snapshot.is_new else "unchanged"
    return f"{snapshot.judged} judged; {snapshot.dataset} v{snapshot.version} ({state}) holds {snapshot.size} pairs"
