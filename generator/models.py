r"""The tables, and nothing else. The database is the pipeline: what a stage has to do is a query over these rows.

A row's primary key is a hash of all its causes (its parent's key, its recipe's key, its sample index), so the same work
has the same key everywhere and is done once. Keys are 32 hexadecimal digits, made by `generator.keys`.

    recipes ----------------+----------------+----------------+----------------+
       |                    |                |                |                |
    seeds -> concepts -> instructions -> responses ~> executions (by program_key)     judgements (seeds, responses)
      |  \                                   |       \
      |   opinions -> recipes                |        checks ~> executions, scores
    pipeline_seeds -> pipelines              |
                                         dataset_items -> datasets <- trainings <- evaluations -> evaluation_samples

    leases -> workers       bands (of seeds and responses)

`pipelines` says which recipe every stage of a named pipeline has now. Rows of other recipes stay: going back is free.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Key = String(32)


class Base(DeclarativeBase):
    """Root of all tables; names every constraint so that migrations can."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012
        dict[str, Any]: JSON(none_as_null=True),
        list[str]: JSON(none_as_null=True),
        dt.datetime: DateTime(timezone=True),
    }


def utc_now() -> dt.datetime:
    """The time that `created_at` columns store."""
    return dt.datetime.now(dt.UTC)


class Recipe(Base):
    """One distinct way of making something: everything that changes the result, nothing that does not."""

    __tablename__ = "recipes"
    id: Mapped[str] = mapped_column(Key, primary_key=True)
    stage: Mapped[str] = mapped_column(String(32), index=True)
    parameters: Mapped[dict[str, Any]]
    created_at: Mapped[dt.datetime] = mapped_column(default=utc_now)


class Seed(Base):
    """One function that the model reads. Key: hash of the normalised code."""

    __tablename__ = "seeds"
    id: Mapped[str] = mapped_column(Key, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    code: Mapped[str] = mapped_column(Text)
    docstring: Mapped[str] = mapped_column(Text)
    origin: Mapped[str] = mapped_column(Text)
    """Package or repository."""
    version: Mapped[str] = mapped_column(Text)
    path: Mapped[str] = mapped_column(Text)
    line: Mapped[int]
    licence: Mapped[str] = mapped_column(Text)
    """SPDX expression."""
    licence_source: Mapped[str] = mapped_column(Text)
    """Where the licence was read, e.g. the metadata field and its text."""
    created_at: Mapped[dt.datetime] = mapped_column(default=utc_now)


class Pipeline(Base):
    """What one recipe file means now: the recipe of each stage. The views show these rows and no others."""

    __tablename__ = "pipelines"
    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    parameters: Mapped[dict[str, Any]]
    """The whole recipe file, as last built."""
    seeds_recipe_id: Mapped[str | None] = mapped_column(ForeignKey("recipes.id"))
    seed_filters_recipe_id: Mapped[str | None] = mapped_column(ForeignKey("recipes.id"))
    concepts_recipe_id: Mapped[str | None] = mapped_column(ForeignKey("recipes.id"))
    instructions_recipe_id: Mapped[str | None] = mapped_column(ForeignKey("recipes.id"))
    responses_recipe_id: Mapped[str | None] = mapped_column(ForeignKey("recipes.id"))
    executions_recipe_id: Mapped[str | None] = mapped_column(ForeignKey("recipes.id"))
    selection_recipe_id: Mapped[str | None] = mapped_column(ForeignKey("recipes.id"))
    checks_recipe_id: Mapped[str | None] = mapped_column(Key)
    """The recipe of the checks, once all of them were run."""
    judge_recipe_id: Mapped[str | None] = mapped_column(Key)
    """How the model judges seeds; null where it does not."""
    default_limits: Mapped[dict[str, Any] | None]
    """What its sandbox gives programs that ask for no limit, when it was last asked; null where none was yet."""
    dataset_id: Mapped[str | None] = mapped_column(Key)
    """The snapshot that the last selection made or found unchanged."""
    concepts_samples: Mapped[int] = mapped_column(default=1)
    """Samples wanted of each parent; rows with a higher index are left out."""
    instructions_samples: Mapped[int] = mapped_column(default=1)
    responses_samples: Mapped[int] = mapped_column(default=1)
    updated_at: Mapped[dt.datetime] = mapped_column(default=utc_now, onupdate=utc_now)


class PipelineSeed(Base):
    """One seed that a pipeline's source holds; `chosen` ones passed the filters and the limit, and are read."""

    __tablename__ = "pipeline_seeds"
    pipeline: Mapped[str] = mapped_column(ForeignKey("pipelines.name"), primary_key=True)
    seed_id: Mapped[str] = mapped_column(ForeignKey("seeds.id"), primary_key=True)
    chosen: Mapped[bool] = mapped_column(default=False)


def _usable(table: str, parent_id: str, *more: str) -> Index:
    """An index that holds all that the stage below asks of a row: counting 10^5 parents then reads no text."""
    readable = text("error IS NULL")
    columns = ("recipe_id", parent_id, "sample_index", "id", *more)
    return Index(f"ix_{table}_usable", *columns, sqlite_where=readable, postgresql_where=readable)


class _Generated:
    """Columns of every row that a model wrote. `error` is null or why the raw text cannot be used."""

    id: Mapped[str] = mapped_column(Key, primary_key=True)
    sample_index: Mapped[int]
    text: Mapped[str] = mapped_column(Text)
    """The model's own words, unchanged."""
    finish_reason: Mapped[str] = mapped_column(String(32))
    """"stop", "length", the server's own word, or "failed" when no completion came and `error` says why."""
    prompt_tokens: Mapped[int | None]
    completion_tokens: Mapped[int | None]
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[dt.datetime] = mapped_column(default=utc_now)


class Opinion(_Generated, Base):
    """Whether the model finds one seed worth reading. Without a Yes nothing is made of the seed."""

    __tablename__ = "opinions"
    __table_args__ = (UniqueConstraint("recipe_id", "seed_id", "sample_index"),)
    seed_id: Mapped[str] = mapped_column(ForeignKey("seeds.id"), index=True)
    recipe_id: Mapped[str] = mapped_column(ForeignKey("recipes.id"))
    worth: Mapped[bool | None]
    reason: Mapped[str | None] = mapped_column(Text)
    """The model's own words after its Yes or No."""


class Concepts(_Generated, Base):
    """Concepts that the model named in one seed."""

    __tablename__ = "concepts"
    __table_args__ = (UniqueConstraint("recipe_id", "seed_id", "sample_index"), _usable("concepts", "seed_id"))
    seed_id: Mapped[str] = mapped_column(ForeignKey("seeds.id"), index=True)
    recipe_id: Mapped[str] = mapped_column(ForeignKey("recipes.id"))
    concepts: Mapped[list[str] | None]


class Instruction(_Generated, Base):
    """One task that the model invented around concepts."""

    __tablename__ = "instructions"
    __table_args__ = (
        UniqueConstraint("recipe_id", "concepts_id", "sample_index"),
        _usable("instructions", "concepts_id"),
    )
    concepts_id: Mapped[str] = mapped_column(ForeignKey("concepts.id"), index=True)
    recipe_id: Mapped[str] = mapped_column(ForeignKey("recipes.id"))
    category: Mapped[str] = mapped_column(Text)
    difficulty: Mapped[str] = mapped_column(Text)
    language: Mapped[str] = mapped_column(Text)
    instruction: Mapped[str | None] = mapped_column(Text)


class Response(_Generated, Base):
    """One answer to an instruction, with its own tests."""

    __tablename__ = "responses"
    __table_args__ = (
        UniqueConstraint("recipe_id", "instruction_id", "sample_index"),
        _usable("responses", "instruction_id", "program_key"),
        Index(None, "recipe_id", "program_key"),  # in one order with executions: what was not run is found in one pass
    )
    instruction_id: Mapped[str] = mapped_column(ForeignKey("instructions.id"), index=True)
    recipe_id: Mapped[str] = mapped_column(ForeignKey("recipes.id"))
    reasoning: Mapped[str | None] = mapped_column(Text)
    implementation: Mapped[str | None] = mapped_column(Text)
    explanation: Mapped[str | None] = mapped_column(Text)
    tests: Mapped[str | None] = mapped_column(Text)
    code: Mapped[str | None] = mapped_column(Text)
    """The program: the Python blocks of `implementation`."""
    test_code: Mapped[str | None] = mapped_column(Text)
    """The Python block of `tests`."""
    program_key: Mapped[str | None] = mapped_column(Key)
    """Hash of `code` and `test_code`: what `executions` are found by."""


class Execution(Base):
    """What one program did in the sandbox. Key: hash of program and sandbox recipe, so nothing runs twice."""

    __tablename__ = "executions"
    __table_args__ = (
        UniqueConstraint("program_key", "recipe_id"),
        Index(None, "recipe_id", "verdict", "program_key"),  # counting verdicts reads nothing else
    )
    id: Mapped[str] = mapped_column(Key, primary_key=True)
    program_key: Mapped[str] = mapped_column(Key)
    recipe_id: Mapped[str] = mapped_column(ForeignKey("recipes.id"))
    verdict: Mapped[str] = mapped_column(String(32), index=True)
    """A `Verdict`, or REFUSED: the sandbox would not take the program (too large, ...); `error_message` says why."""
    assurance: Mapped[str] = mapped_column(String(32))
    exit_code: Mapped[int | None]
    signal: Mapped[int | None]
    assertions_run: Mapped[int | None]
    assertions_failed: Mapped[int | None]
    first_failure: Mapped[dict[str, Any] | None]
    error_type: Mapped[str | None] = mapped_column(Text)
    error_message: Mapped[str | None] = mapped_column(Text)
    error_traceback: Mapped[str | None] = mapped_column(Text)
    stdout: Mapped[bytes] = mapped_column(LargeBinary)
    stderr: Mapped[bytes] = mapped_column(LargeBinary)
    wall_time_ms: Mapped[float]
    cpu_time_ms: Mapped[float]
    peak_memory_bytes: Mapped[int] = mapped_column(BigInteger)
    runtime_fingerprint: Mapped[str] = mapped_column(Text)
    repeat_verdicts: Mapped[list[str] | None]
    """Of each run, where the recipe says to run it several times; `verdict` is then the first that is not PASSED."""
    created_at: Mapped[dt.datetime] = mapped_column(default=utc_now)


class Judgement(Base):
    """What one recipe's list of filters said of one row: kept, or the filter that rejected it and its reason.

    The recipe's parameters hold the list with its versions, so that changing a filter judges again and runs nothing.
    """

    __tablename__ = "judgements"
    recipe_id: Mapped[str] = mapped_column(ForeignKey("recipes.id"), primary_key=True)
    subject_id: Mapped[str] = mapped_column(Key, primary_key=True, index=True)
    subject_table: Mapped[str] = mapped_column(String(32))
    """seeds or responses."""
    kept: Mapped[bool]
    filter: Mapped[str | None] = mapped_column(String(64))
    filter_version: Mapped[str | None] = mapped_column(String(32))
    reason: Mapped[str | None] = mapped_column(Text)
    other_id: Mapped[str | None] = mapped_column(Key)
    """The row that was kept instead, where this one passed every filter and is too much like it."""
    created_at: Mapped[dt.datetime] = mapped_column(default=utc_now)


class Check(Base):
    """One further program that tells something of a response which passed its own tests.

    What it did is in `executions`, under `program_key` and `executions_recipe_id`.
    """

    __tablename__ = "checks"
    recipe_id: Mapped[str] = mapped_column(ForeignKey("recipes.id"), primary_key=True)
    response_id: Mapped[str] = mapped_column(ForeignKey("responses.id"), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    """agreement: its code with another sample's tests; stub: its tests on empty functions; mutant: on a fault;
    repeat: the same program several times."""
    number: Mapped[int] = mapped_column(primary_key=True)
    """The other sample's index, or the mutant's number."""
    other_id: Mapped[str | None] = mapped_column(Key)
    """The response whose tests they are."""
    label: Mapped[str | None] = mapped_column(Text)
    """The mutant's fault."""
    program_key: Mapped[str] = mapped_column(Key)
    executions_recipe_id: Mapped[str] = mapped_column(ForeignKey("recipes.id"))


class Score(Base):
    """What the checks of one recipe came to for one response that passed its own tests; null where not checked."""

    __tablename__ = "scores"
    __table_args__ = (Index(None, "recipe_id", "complete"),)
    recipe_id: Mapped[str] = mapped_column(ForeignKey("recipes.id"), primary_key=True)
    response_id: Mapped[str] = mapped_column(ForeignKey("responses.id"), primary_key=True)
    complete: Mapped[bool] = mapped_column(default=False)
    """Whether all its checks were run and counted."""
    tests: Mapped[int | None]
    """Samples of the instruction whose tests its code was run with, its own among them."""
    tests_passed: Mapped[int | None]
    group_size: Mapped[int | None]
    """Samples that pass the same tests, itself among them."""
    agreement: Mapped[float | None]
    """From 0 to 1: the group's share of the samples, times the share of the tests that it passes."""
    stub_failed: Mapped[bool | None]
    """Whether its tests fail on functions that do nothing."""
    mutants: Mapped[int | None]
    mutants_killed: Mapped[int | None]
    mutation_score: Mapped[float | None]
    """The share of the mutants that its tests kill."""
    flaky: Mapped[bool | None]
    """Whether the same program ended otherwise when it was run again."""
    created_at: Mapped[dt.datetime] = mapped_column(default=utc_now)


class Band(Base):
    """One thing in which rows may be alike, hashed: rows that share a key are compared, others need not be."""

    __tablename__ = "bands"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012
    key: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    """64 bits of a hash of what is compared, how, and the value."""
    subject_id: Mapped[str] = mapped_column(Key, primary_key=True)
    """A seed or a response."""


class Dataset(Base):
    """A named, versioned, immutable snapshot of accepted pairs. Key: hash of name, version and `content_key`."""

    __tablename__ = "datasets"
    __table_args__ = (UniqueConstraint("name", "version"),)
    id: Mapped[str] = mapped_column(Key, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    version: Mapped[int]
    """From 1; a new one is made only when the content changed."""
    content_key: Mapped[str] = mapped_column(Key)
    """Hash of the items in order."""
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("datasets.id"))
    recipe_id: Mapped[str] = mapped_column(ForeignKey("recipes.id"))
    """The selection's recipe, which names the recipes of all stages before it."""
    settings: Mapped[dict[str, Any] | None]
    """The whole recipe that made it, but for the database; null where it was frozen before they were kept."""
    size: Mapped[int]
    """Number of items."""
    created_at: Mapped[dt.datetime] = mapped_column(default=utc_now)


class DatasetItem(Base):
    """One pair of a snapshot. Texts are copied, so that a snapshot never changes and streams from one table."""

    __tablename__ = "dataset_items"
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    """From 0, without gaps."""
    response_id: Mapped[str] = mapped_column(ForeignKey("responses.id"), index=True)
    instruction: Mapped[str] = mapped_column(Text)
    response: Mapped[str] = mapped_column(Text)


class Worker(Base):
    """A build that is at work. Past `expires_at_s` it is taken for dead, and its leases count no more."""

    __tablename__ = "workers"
    id: Mapped[str] = mapped_column(Key, primary_key=True)
    host: Mapped[str] = mapped_column(Text)
    """What tells process ids apart: the machine's boot and the pid namespace."""
    pid: Mapped[int]
    process_start: Mapped[str] = mapped_column(Text)
    """When the process began, in the kernel's own words: a pid can be used again."""
    started_at: Mapped[dt.datetime] = mapped_column(default=utc_now)
    expires_at_s: Mapped[float]
    """Seconds since the epoch."""


class Lease(Base):
    """A row that one worker is making, by its future key; gone as soon as the row is stored."""

    __tablename__ = "leases"
    key: Mapped[str] = mapped_column(Key, primary_key=True)
    worker_id: Mapped[str] = mapped_column(ForeignKey("workers.id", ondelete="CASCADE"), index=True)


class Training(Base):
    """One fine-tuning run."""

    __tablename__ = "trainings"
    id: Mapped[str] = mapped_column(Key, primary_key=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), index=True)
    recipe_id: Mapped[str] = mapped_column(ForeignKey("recipes.id"))
    status: Mapped[str] = mapped_column(String(16))
    """running, finished or failed."""
    output: Mapped[str] = mapped_column(Text)
    """Folder of the checkpoint."""
    metrics: Mapped[dict[str, Any] | None]
    """steps, first_loss, last_loss, tokens_per_second, ..."""
    started_at: Mapped[dt.datetime] = mapped_column(default=utc_now)
    finished_at: Mapped[dt.datetime | None]


class Evaluation(Base):
    """One score of one model, or of one file of samples, on one benchmark."""

    __tablename__ = "evaluations"
    id: Mapped[str] = mapped_column(Key, primary_key=True)
    training_id: Mapped[str | None] = mapped_column(ForeignKey("trainings.id"), index=True)
    recipe_id: Mapped[str] = mapped_column(ForeignKey("recipes.id"))
    benchmark: Mapped[str] = mapped_column(String(64), index=True)
    subject: Mapped[str] = mapped_column(Text)
    """Model, or samples file with its hash."""
    scores: Mapped[dict[str, Any] | None]
    """problems, samples, passed, pass@k, ...; null until every sample has a verdict."""
    created_at: Mapped[dt.datetime] = mapped_column(default=utc_now)
    finished_at: Mapped[dt.datetime | None]


class EvaluationSample(Base):
    """One sample of an evaluation, with its verdict."""

    __tablename__ = "evaluation_samples"
    evaluation_id: Mapped[str] = mapped_column(ForeignKey("evaluations.id"), primary_key=True)
    task_id: Mapped[str] = mapped_column(String(128), primary_key=True)
    sample_index: Mapped[int] = mapped_column(primary_key=True)
    completion: Mapped[str] = mapped_column(Text)
    code: Mapped[str] = mapped_column(Text)
    verdict: Mapped[str] = mapped_column(String(32), index=True)
    """A `Verdict`, or UNJUDGED: the separate judge cannot judge these tests of this program."""
    details: Mapped[dict[str, Any] | None]
    """First failure or error, usage; or why there is no verdict."""
