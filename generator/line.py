"""The work of every stage: what is missing of it, and making it row by row.

A stage is told by its name: one of those of `generator.stages`, `EXECUTIONS`, or `CHECKS`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from generator import causes, checking, models, work
from generator.causes import Cause
from generator.concurrency import for_each
from generator.engines import Completion, CompletionRequest, Engine, RequestFailed
from generator.engines.factory import open_engine
from generator.keys import key_of
from generator.leases import Leases
from generator.progress import Progress
from generator.recipe import ModelSettings, Recipe, SandboxSettings
from generator.records import (
    ConceptsFields,
    Fields,
    InstructionFields,
    JudgeFields,
    ResponseFields,
    program_key,
)
from generator.stages import JUDGE, STAGES, ParseError, Stage, index_key, properties
from generator.store import Database, batched, storable
from generator.work import Chain, Draw, Program, Share
from generator.writer import Writer
from sandbox_server.client import ClientConfig, connect
from sandbox_server.errors import InvalidJob, Unsupported
from sandbox_server.jobs import Job, LimitsRequest, Outcome, ProgramError, SandboxInfo, Verdict
from sandbox_server.sandbox import Sandbox
from sandbox_server.settings import SettingsError

EXECUTIONS = "executions"
CHECKS = "checks"
RUNS = (EXECUTIONS, CHECKS)
"""The stages that run programs."""

_STAGES = {stage.name: stage for stage in (JUDGE, *STAGES)}

STEPS: tuple[tuple[str, ...], ...] = (
    ("judge",),
    ("concepts",),
    ("instructions",),
    ("responses", EXECUTIONS),
    (CHECKS,),
)
"""The stages in the order in which they need each other; programs run while responses are drawn."""


REFUSED = "REFUSED"
"""In `executions.verdict`: the sandbox would not take the program. Its own trouble is never stored."""

FAILED = "failed"
"""In `finish_reason`: the completion could not be had."""

_LOOK_AGAIN_S = 0.5

Row = dict[str, Any]


@dataclass
class Tally:
    """What came of a stage's rows.

    Attributes:
        stored: rows that were made.
        good: of these, completions that can be read, or programs that passed.
        failed: of these, completions that could not be had.
    """

    stored: int = 0
    good: int = 0
    failed: int = 0

    def __add__(self, other: Tally) -> Tally:
        """Count both."""
        return Tally(self.stored + other.stored, self.good + other.good, self.failed + other.failed)

    def describe(self, stage: str) -> str:
        """In words."""
        words = ("run", "passed") if stage in RUNS else ("drawn", "usable")
        return f"{self.stored} {words[0]}, {self.good} {words[1]}"


class Group:
    """Tells how far stages are that are worked off together.

    Args:
        stages: each makes its rows of those of the one before it.
        missing: counts the rows that can be made now of a stage.
        progress: is told.

    Attributes:
        tallies: what came of each stage; written by who works.
    """

    def __init__(self, stages: Sequence[str], missing: Callable[[str], int], progress: Progress) -> None:
        self.tallies = {stage: Tally() for stage in stages}
        self._missing = missing
        self._progress = progress
        self._open: dict[str, int | None] = {}  # what was to be made of a stage that has begun, where that was known
        self._told = dict.fromkeys(stages, 0)

    def lacking(self, *, unheard: bool = False) -> tuple[str, ...]:
        """Count, and tell which stages begin and which are over.

        Args:
            unheard: whether rows were stored of which tallies do not tell, as a lost worker's last ones.

        Returns:
            The stages that lack rows or will, the first of them surely; none at the end.
        """
        stages = tuple(self.tallies)
        for place, stage in enumerate(stages):
            if count := self._missing(stage):
                self._begin(stage, count)
                for later in stages[place + 1 :]:
                    self._begin(later, None)
                return stages[place:]
            if unheard and (total := self._open.get(stage)):
                self.tallies[stage].stored = total
                self.tell()
            self._end(stage)
        return ()

    def tell(self) -> None:
        """Tell what was stored since the last time."""
        for stage, tally in self.tallies.items():
            new = tally.stored - self._told[stage]
            if new > 0 and stage in self._open:
                self._told[stage] += new
                self._progress.advance(stage, new)
                if self._told[stage] == self._open[stage]:
                    self._end(stage)

    def _begin(self, stage: str, count: int | None) -> None:
        if stage not in self._open:
            self._open[stage] = None if count is None else self._told[stage] + count
            self._progress.begin(stage, count)

    def _end(self, stage: str) -> None:
        if stage in self._open:
            del self._open[stage]
            self._progress.end(stage, self.tallies[stage].describe(stage))


@dataclass(frozen=True)
class Line:
    """What a worker needs to make the rows of any stage.

    Attributes:
        recipe: the whole file.
        chain: its rows.
        executions: how programs run.
        database: open.
        leases: of this worker.
        writer: of this worker.
        engine: answers the recipe's requests.
        sandbox: runs programs.
        runs: how many it is given at a time.
    """

    recipe: Recipe
    chain: Chain
    executions: Cause
    database: Database
    leases: Leases
    writer: Writer
    engine: Engine
    sandbox: Sandbox
    runs: int

    async def work_off(self, stages: Sequence[str], progress: Progress) -> dict[str, Tally]:
        """Make what is missing of stages that are worked off together, and wait for what other workers have claimed.

        Args:
            stages: an entry of `STEPS`.
            progress: told how far they are.

        Returns:
            What came of each.
        """
        group = Group(stages, partial(missing, self.database, self.chain, self.executions.id), progress)
        before: tuple[str, ...] = ()
        told = False
        while lacking := await asyncio.to_thread(group.lacking):
            if lacking == before:  # although this worker has been through the list
                if not told:
                    progress.say(f"{lacking[0]}: waiting for rows that other builds on this database are making")
                    told = True
                await asyncio.sleep(_LOOK_AGAIN_S)
                await asyncio.to_thread(self.leases.clear_dead)
            await self.work(lacking, group.tallies, advance=group.tell)
            before = lacking
        return group.tallies

    async def work(
        self,
        stages: Sequence[str],
        tallies: Mapping[str, Tally],
        share: Share | None = None,
        advance: Callable[[], None] | None = None,
    ) -> None:
        """Go once through what is missing of a stage, and make what no other worker has claimed.

        Where there are more stages, what comes of the first is worked on meanwhile: neither waits for the other.

        Args:
            stages: their names.
            tallies: one for each stage, which is added to as rows are stored.
            share: where this worker begins when it is one of several that share a list.
            advance: called after each row.
        """

        def once(stage: str) -> Coroutine[Any, Any, None]:
            return self._go_through(stage, tallies[stage], share, advance)

        async def follow(stage: str) -> None:
            while not leading.done():
                stored, began = tallies[stage].stored, time.monotonic()
                await once(stage)
                if tallies[stage].stored == stored:
                    # A look costs the more the longer the list is, and should take no more than a tenth of the time.
                    pause_s = max(_LOOK_AGAIN_S, 9 * (time.monotonic() - began))
                    await asyncio.wait((leading,), timeout=pause_s)
            await once(stage)

        leading = asyncio.create_task(once(stages[0]))
        tasks = [leading, *(asyncio.create_task(follow(stage)) for stage in stages[1:])]
        try:
            await asyncio.gather(*tasks)
        finally:  # where one failed, the others stop
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _go_through(
        self, stage: str, tally: Tally, share: Share | None, advance: Callable[[], None] | None
    ) -> None:
        steps = {EXECUTIONS: self._executing, CHECKS: self._checking}
        step = steps[stage]() if stage in steps else self._drawing(_STAGES[stage])
        # Who works alone claims whole pages; who shares, no more than a little ahead, so that none is left without.
        most = work.PAGE_ROWS if share is None else 2 * step.concurrency

        def pages() -> Iterator[list[tuple[str, Any]]]:
            for page in step.pages(share or Share()):
                keyed = {step.key(item): item for item in page}
                for keys in batched(keyed, most):
                    mine = self.leases.claim(step.table, keys)
                    yield [(key, keyed[key]) for key in keys if key in mine]

        async def make(claimed: tuple[str, Any]) -> None:
            key, item = claimed
            row = {"id": key} | await step.make(key, item)
            await self.writer.insert(step.table, row)
            tally.stored += 1
            tally.good += row["verdict"] == Verdict.PASSED.value if stage in RUNS else row["error"] is None
            tally.failed += row.get("finish_reason") == FAILED
            if advance is not None:
                advance()

        await for_each(pages(), make, step.concurrency)

    def _drawing(self, stage: Stage) -> _Step:
        recipe, recipe_id = self.recipe, self.chain.recipes[stage.name]
        level = work.LEVELS[stage.name]

        async def draw(key: str, item: Draw) -> Row:
            request = stage.request(
                item.parent,
                id=key,
                sample_index=item.sample_index,
                seed=recipe.seed,
                settings=causes.stage_settings(recipe, stage.name),
                mode=recipe.model.mode,
            )
            row = await _complete(self.engine, stage, request)
            if stage.name == "instructions":
                row |= dataclasses.asdict(properties(recipe.seed, index_key(item.parent)))
            place = {level.parent_id.key: item.parent_id, "sample_index": item.sample_index}
            return row | {"recipe_id": recipe_id} | place

        return _Step(
            table=level.table,
            pages=partial(work.pending_draws, self.database, self.chain, stage.name),
            # Stage, parent, recipe and sample index are all its causes.
            key=lambda item: key_of(stage.name, item.parent_id, recipe_id, item.sample_index),
            make=draw,
            concurrency=recipe.model.concurrency,
        )

    def _executing(self) -> _Step:
        settings, executions = self.recipe.sandbox, self.executions

        async def run(key: str, program: Program) -> Row:
            job = Job(
                code=program.code,
                tests=program.tests,
                request_id=key,
                runtime=settings.runtime,
                limits=settings.limits,
            )
            row = await _run(self.sandbox, job, executions.parameters["fingerprint"])
            return row | {"program_key": program.key, "recipe_id": executions.id}

        return _Step(
            table=models.Execution,
            pages=partial(work.pending_programs, self.database, self.chain, executions.id),
            key=lambda program: key_of("execution", program.key, executions.id),
            make=run,
            concurrency=self.runs,
        )

    def _checking(self) -> _Step:
        plan = checking.find_plan(self.database, self.chain.pipeline)
        assert plan is not None, "nothing is missing where nothing is checked"
        hows = {cause.id: cause.parameters for cause in (self.executions, *self.checks)}

        async def run(key: str, asked: checking.Run) -> Row:
            how = hows[asked.recipe_id]
            job = Job(
                code=asked.code,
                tests=asked.tests,
                request_id=key,
                runtime=how["runtime"],
                limits=LimitsRequest(**how["limits"]),
                repeat=how.get("repeat", 1),
            )
            row = await _run(self.sandbox, job, how["fingerprint"])
            return row | {"program_key": asked.key, "recipe_id": asked.recipe_id}

        return _Step(
            table=models.Execution,
            pages=partial(checking.pending, self.database, plan),
            key=lambda asked: key_of("execution", asked.key, asked.recipe_id),
            make=run,
            concurrency=self.runs,
        )

    @property
    def checks(self) -> tuple[Cause, ...]:
        """How checks run, see `causes.checks`."""
        responses = causes.generation(self.recipe, _STAGES["responses"])
        return causes.checks(self.recipe, responses, self.executions)


@dataclass(frozen=True)
class _Step:
    """How one stage's rows are listed, named and made."""

    table: type[models.Base]
    pages: Callable[[Share], Iterator[list[Any]]]
    key: Callable[[Any], str]
    make: Callable[[str, Any], Awaitable[Row]]
    concurrency: int


def missing(database: Database, chain: Chain, executions: str, stage: str) -> int:
    """Count the rows that can be made now of a stage; `executions` is the recipe id of the runs.

    Checks follow from what the executions came to: those that are new are planned first.
    """
    if stage == CHECKS:
        plan = checking.find_plan(database, chain.pipeline)
        if plan is None:
            return 0
        checking.plan_new(database, chain, plan)
        return checking.count_pending(database, plan)
    if stage == EXECUTIONS:
        return work.count_unrun(database, chain, executions)
    if stage not in chain.recipes:  # seeds that are not judged
        return 0
    counted = work.count(database, chain, stage)
    return counted.parents * chain.samples[stage] - counted.rows


def responses_if_complete(database: Database, chain: Chain, executions: str) -> int | None:
    """Count a chain's responses, if it lacks no row of a generation stage and no run under `executions`; else None.

    Stage by stage, the chain would be counted from its seeds again for each.
    """
    with ThreadPoolExecutor(1) as pool:  # a database uses a processor for each of the two
        counting = pool.submit(work.count_down_to, database, chain, "responses")
        unrun = work.count_unrun(database, chain, executions, lambda: counting.result()["responses"].rows)
        counts = counting.result()
    lacking = unrun or any(count.parents * chain.samples[stage] > count.rows for stage, count in counts.items())
    return None if lacking else counts["responses"].rows


# Generation


class LazyEngine:
    """A model's engine, opened at the first request: a build with nothing to draw needs no model.

    Args:
        settings: which model.
        open_engine: makes it.
    """

    def __init__(self, settings: ModelSettings, open_engine: Callable[[ModelSettings], Engine] = open_engine) -> None:
        self._settings = settings
        self._open = open_engine
        self._engine: Engine | None = None

    async def complete(self, request: CompletionRequest) -> Completion:
        """Draw one completion, see `Engine`."""
        if self._engine is None:
            self._engine = self._open(self._settings)
        return await self._engine.complete(request)

    async def close(self) -> None:
        """Close what was opened."""
        if self._engine is not None:
            await self._engine.close()


async def _complete(engine: Engine, stage: Stage, request: CompletionRequest) -> Row:
    """The columns that a completion fills, whether it can be read, cannot, or never came."""
    row: dict[str, Any] = {"text": "", "prompt_tokens": None, "completion_tokens": None} | _columns(stage.name, None)
    try:
        completion = await engine.complete(request)
    except RequestFailed as failure:
        return row | {"finish_reason": FAILED, "error": storable(f"request failed: {failure}")}
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
        case JudgeFields(worth, reason):
            return {"worth": worth, "reason": reason}
        case ConceptsFields(concepts):
            return {"concepts": list(concepts)}
        case InstructionFields(instruction):
            return {"instruction": instruction}
        case ResponseFields():
            # Not asdict(), which copies what it finds, and shows where thousands of rows a second are stored.
            read = {name: getattr(fields, name) for name in _COLUMNS[stage][:-1]}
            return read | {"program_key": program_key(fields.code, fields.test_code)}
    return dict.fromkeys(_COLUMNS[stage])


_COLUMNS: dict[str, tuple[str, ...]] = {
    "judge": ("worth", "reason"),
    "concepts": ("concepts",),
    "instructions": ("instruction",),
    "responses": (*(item.name for item in dataclasses.fields(ResponseFields)), "program_key"),
}


# Execution


@contextlib.asynccontextmanager
async def open_sandbox(settings: SandboxSettings) -> AsyncIterator[Sandbox]:
    """Reach the recipe's sandbox as long as the block runs.

    Raises:
        Unavailable: it is not there.
        HostUnfit: an embedded one cannot run on this host.
    """
    # The client itself waits and tries again while the sandbox is overloaded or away, and gives up after that long.
    patience_s = settings.patience_s
    config = ClientConfig(
        timeout_s=None,
        retry_for_s=patience_s,
        connect_timeout_s=min(10.0, patience_s),
        credentials=settings.credentials(),
    )
    async with connect(settings.address, config) as sandbox:
        yield sandbox


def execution_cause(settings: SandboxSettings, info: SandboxInfo) -> Cause:
    """How programs run, as the settings and the server have it.

    Raises:
        SettingsError: the server does not have the runtime, or does not allow the limits.
    """
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


async def _run(sandbox: Sandbox, job: Job, fingerprint: str) -> Row:
    try:
        return _execution_row(await sandbox.run(job))
    except (InvalidJob, Unsupported) as refusal:
        if isinstance(refusal, InvalidJob) and refusal.field.startswith("limits."):
            raise SettingsError(f"[sandbox] {refusal}") from None  # every program would be refused
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
        "repeat_verdicts": [verdict.value for verdict in outcome.repeat_verdicts] or None,
    }


def _storable_values(values: dict[str, Any]) -> dict[str, Any]:
    return {key: storable(value) if isinstance(value, str) else value for key, value in values.items()}
