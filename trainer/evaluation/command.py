"""What `selfalign eval` does, without the command line: find the subject, open what is needed, score."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import sqlalchemy as sa

from generator import hub, models
from generator.recipe import ModelSettings, Recipe, SandboxSettings, load_recipe
from generator.store import Database, open_database
from sandbox_server.client import EMBEDDED, ClientConfig, connect
from sandbox_server.embedded import embedded_sandbox
from sandbox_server.jobs import Judge
from sandbox_server.sandbox import Sandbox
from sandbox_server.settings import parse
from sandbox_server.tasks import meanwhile
from trainer.evaluation.benchmarks import load_benchmark
from trainer.evaluation.compare import find_evaluation
from trainer.evaluation.config import EvaluateSettings
from trainer.evaluation.generation import ModelSamples, RepairSamples, identify
from trainer.evaluation.problems import Benchmark, Problem
from trainer.evaluation.rows import UNJUDGED
from trainer.evaluation.run import Report, evaluate
from trainer.evaluation.samples import CanonicalSamples, FileSamples, SampleSource

CANONICAL = "canonical"
_OWN_RUNTIME = "evaluation"
REPAIR = "livecodebench-repair"
_BATCH, _SERVED = 8, 64  # requests at once: in this process, and to a server that batches by itself


class NothingToScore(Exception):
    """No subject was given, or the one that was given is not there; the message says what to do."""


class RulerBroken(Exception):
    """The benchmark's own solutions do not pass here, so that no score would mean anything."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is scored: a samples file (or "canonical"), a model's folder, or the recipe's last checkpoint."""

    samples: str = ""
    model: str = ""
    base: bool = False
    """The model is prompted with bare code, not through its chat template."""
    repair: str = ""
    """Evaluation whose wrong samples the model tries again."""
    engine: Literal["transformers", "openai"] = "transformers"
    """How the model is reached."""
    base_url: str = ""
    """Of a server, for the engine `openai`."""
    tokenizer: str = ""
    """Whose chat template writes the prompts; empty: the model's own."""


@dataclass(frozen=True, slots=True)
class Request:
    """Everything that `selfalign eval` was asked."""

    settings: EvaluateSettings
    subject: Subject
    database_url: str
    sandbox: SandboxSettings = SandboxSettings()
    judge: Judge = Judge.SAME_INTERPRETER
    dataset: str = ""
    """Name of the snapshots whose last training is scored when no subject is given."""


def from_recipe(path: Path) -> tuple[Recipe, EvaluateSettings]:
    """Read a recipe and its `[evaluate]` table.

    Raises:
        SettingsError: names the file, the key and what was expected.
    """
    recipe = load_recipe(path)
    return recipe, parse(EvaluateSettings, recipe.evaluate, f"{path} [evaluate]")


async def score(request: Request, progress: Callable[[str, int, int], None]) -> list[Report]:
    """Score the subject, after checking the ruler if that is asked.

    Args:
        request: what to do.
        progress: told (subject, finished, total) as samples finish.

    Raises:
        DataUnfit, SamplesUnfit, NothingToScore, DatabaseError, SandboxError, EngineError: with one line for the user.
        RulerBroken: a canonical solution does not pass.
    """
    settings = request.settings
    data = Path(settings.data) if settings.data else None
    # The sandbox starts while the data is read and the database made ready.
    async with meanwhile(_connect(request.sandbox)) as connecting, contextlib.AsyncExitStack() as opened:
        benchmark = await asyncio.to_thread(load_benchmark, settings.benchmark, data, settings.data_version)
        problems = benchmark.problems[: settings.limit or None]
        given = _given(request.subject, benchmark, problems)  # before a database is made for what cannot be scored
        database = await asyncio.to_thread(open_database, request.database_url, create=True)
        opened.enter_context(contextlib.closing(database))
        found = _source(request, given, benchmark, problems, database)
        source, training_id = await opened.enter_async_context(found)
        sandbox, runtime = await connecting

        async def run(source: SampleSource, training_id: str | None = None) -> Report:
            return await evaluate(
                benchmark,
                problems,
                source,
                sandbox,
                database,
                training_id=training_id,
                limits=request.sandbox.limits,
                judge=request.judge,
                runtime=runtime,
                concurrency=request.sandbox.concurrency,
                progress=lambda done, total: progress(source.subject, done, total),
            )

        if not settings.check_ruler or not all(problem.solution for problem in problems):
            return [await run(source, training_id)]
        ruler = await run(CanonicalSamples())
        _check(ruler, benchmark)
        return [ruler, await run(source, training_id)]


@contextlib.asynccontextmanager
async def _connect(settings: SandboxSettings) -> AsyncIterator[tuple[Sandbox, str]]:
    """The sandbox, and the runtime to use: a server of our own has one that starts benchmarks' programs faster."""
    if settings.address == EMBEDDED and settings.runtime == SandboxSettings().runtime:
        async with embedded_sandbox(("--set", f'sandbox.runtimes=["{_OWN_RUNTIME}"]')) as sandbox:
            yield sandbox, _OWN_RUNTIME
    else:
        async with connect(settings.address, ClientConfig(credentials=settings.credentials())) as sandbox:
            yield sandbox, settings.runtime


def _check(ruler: Report, benchmark: Benchmark) -> None:
    wrong = [sample for sample in ruler.samples if not sample.passed and sample.verdict != UNJUDGED]
    if wrong:
        raise RulerBroken(
            f"{len(wrong)} of {len(ruler.samples)} canonical solutions of {benchmark.name} do not pass here, the first "
            f"being {wrong[0].task_id} ({wrong[0].verdict}), so no score would mean anything: check the sandbox with "
            "`selfalign sandbox check`, its limits, and the data"
        )


def _given(subject: Subject, benchmark: Benchmark, problems: Sequence[Problem]) -> SampleSource | None:
    """The samples that are there already; None where a model is to draw them."""
    if subject.samples == CANONICAL:
        if not all(problem.solution for problem in problems):
            raise NothingToScore(f"{benchmark.name} publishes no solutions; give --samples FILE or --model")
        return CanonicalSamples()
    return FileSamples(Path(subject.samples), benchmark, problems) if subject.samples else None


@contextlib.asynccontextmanager
async def _source(
    request: Request,
    given: SampleSource | None,
    benchmark: Benchmark,
    problems: Sequence[Problem],
    database: Database,
) -> AsyncIterator[tuple[SampleSource, str | None]]:
    subject = request.subject
    if given is not None:
        yield given, None
    else:
        model, training_id = (subject.model, None) if subject.model else _last_checkpoint(request, database)
        async with _model(model, request) as source:
            yield _repairing(source, request, benchmark, problems, database), training_id


def _repairing(
    source: ModelSamples, request: Request, benchmark: Benchmark, problems: Sequence[Problem], database: Database
) -> SampleSource:
    """Second attempts where they are asked for, else the first."""
    if benchmark.name != REPAIR:
        if request.subject.repair:
            raise NothingToScore(f"--repair goes with --benchmark {REPAIR}, not {benchmark.name}")
        return source
    if not request.subject.repair:
        raise NothingToScore(
            f"{REPAIR} goes on from attempts that failed: score livecodebench-generation first, then give its "
            "evaluation with --repair"
        )
    earlier = find_evaluation(database, request.subject.repair)
    missing = {problem.task_id for problem in problems} - {sample.task_id for sample in earlier.samples}
    if missing or earlier.scores is None:
        raise NothingToScore(
            f"evaluation {earlier.id} ({earlier.benchmark}) is no finished one of these problems, so there is nothing "
            "to repair"
        )
    return RepairSamples(source, earlier.samples, earlier.id)


def _last_checkpoint(request: Request, database: Database) -> tuple[str, str]:
    query = (
        sa.select(models.Training)
        .join(models.Dataset, models.Training.dataset_id == models.Dataset.id)
        .where(models.Dataset.name == request.dataset, models.Training.status == "finished")
        .order_by(models.Training.finished_at.desc())
        .limit(1)
    )
    with database.reading() as session:
        training = session.scalar(query)
    if training is None:
        raise NothingToScore(
            f"{database.name} holds no finished training on {request.dataset!r}: run `selfalign train` first, or give "
            "--samples or --model"
        )
    return training.output, training.id


@contextlib.asynccontextmanager
async def _model(model: str, request: Request) -> AsyncIterator[ModelSamples]:
    from generator.engines.factory import open_engine

    subject = request.subject
    served = subject.engine == "openai"
    path = model if not served and _is_folder(model) else ""
    engine = open_engine(
        ModelSettings(
            name=model,
            engine=subject.engine,
            mode="completion",
            path=path,
            base_url=subject.base_url,
            concurrency=_SERVED if served else _BATCH,
        )
    )
    try:
        yield ModelSamples(
            engine,
            subject=f"{Path(model).name} (blake2b {identify(Path(model))})" if path else model,
            render=None if subject.base else _renderer(subject.tokenizer or model),
            samples=request.settings.samples,
            temperature=request.settings.temperature,
            max_tokens=request.settings.max_tokens,
            concurrency=_SERVED if served else _BATCH,
        )
    finally:
        await engine.close()


def _is_folder(model: str) -> bool:
    """Whether `model` is a local folder; else it is a name on the hub, which looks like ``owner/name``."""
    if Path(model).is_dir():
        return True
    if model.startswith((".", "/")) or model.count("/") > 1:
        raise NothingToScore(f"{model}: no such folder; --model takes a checkpoint's folder or a name on the hub")
    return False


def _renderer(model: str) -> Callable[[str], str]:
    from transformers import AutoTokenizer

    from trainer.chat import prompt_of

    if why := hub.unreachable(model):
        raise NothingToScore(f"{model}: no tokenizer: {why}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise NothingToScore(
            f"{model}: no tokenizer: {reason}; give the folder of one with --tokenizer, or --base for bare code"
        ) from error
    if not tokenizer.chat_template:
        raise NothingToScore(f"{model}: its tokenizer has no chat template; --base prompts it with bare code")
    # The engine's tokenizer may write the first token itself: it must not stand there twice.
    given = tokenizer.bos_token if tokenizer.bos_token_id in tokenizer("")["input_ids"] else ""

    def render(instruction: str) -> str:
        return prompt_of(tokenizer, [{"role": "user", "content": instruction}]).removeprefix(given)

    return render
