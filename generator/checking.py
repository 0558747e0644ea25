"""The checks of a pipeline in the database: which there are, what is still to run, and what they came to.

Checks are planned when an instruction's samples have been executed, run as every program is, and counted when all of an
instruction's have run. Each step finds by query what it has not done, so that there is nothing to resume.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from generator import models, work
from generator.causes import Cause
from generator.checks import PASSED, Check, Kind, Sample, checks, most, program, score
from generator.recipe import SelectionSettings
from generator.records import program_key
from generator.store import Database, batched, ensure_recipe, insert_new, take_turns
from generator.work import Chain, Share

_INSTRUCTIONS = 100  # at a time: each has several samples, and each sample several checks


@dataclass(frozen=True, slots=True)
class Plan:
    """The checks that a pipeline asks for, as its recipe of checks says.

    Attributes:
        id: of that recipe.
        settings: what is asked for; thresholds are not among it.
        executions: recipe id of the runs of answers with their own tests.
        runs: recipe id of the runs of each kind.
    """

    id: str
    settings: SelectionSettings
    executions: str
    runs: dict[Kind, str]


@dataclass(frozen=True, slots=True)
class Run:
    """One program to run: `key` is its `program_key`, `recipe_id` says how."""

    key: str
    recipe_id: str
    code: str
    tests: str


@dataclass(frozen=True, slots=True)
class Count:
    """How far the checks of a pipeline are, in programs.

    Attributes:
        run: of planned checks.
        to_do: that can be run now: of planned checks, and of those of answers that passed and were not planned for.
        at_most: if all answers pass that are missing or were not run; `to_do` is part of it.
    """

    run: int
    to_do: int
    at_most: int


_CHECK_RAN = work.ran(models.Check, models.Check.executions_recipe_id)

EXACT_ANSWERS = 500
"""Of so many answers checks are counted by making them, at some milliseconds each; of more, the most there can be."""


def declare(session: Session, pipeline: str, causes: Sequence[Cause]) -> None:
    """Store which checks the pipeline asks for now: what `causes.checks` came to."""
    for cause in causes:
        ensure_recipe(session, cause.stage, cause.parameters)
    session.get_one(models.Pipeline, pipeline).checks_recipe_id = causes[-1].id if causes else None


def find_plan(database: Database, pipeline: str) -> Plan | None:
    """The checks that a pipeline asks for; None where it asks for none."""
    with database.reading() as session:
        row = session.get(models.Pipeline, pipeline)
        recipe = session.get(models.Recipe, row.checks_recipe_id) if row and row.checks_recipe_id else None
    if recipe is None:
        return None
    return plan_of(Cause(recipe.stage, recipe.parameters))


def plan_of(cause: Cause) -> Plan:
    """What a recipe of checks, the last of `causes.checks`, asks for."""
    told = cause.parameters
    settings = SelectionSettings(
        agreement=told.get("agreement", False), mutants=told.get("mutants", 0), repeat=told.get("repeat", 1)
    )
    runs = {
        Kind.AGREEMENT: told["executions"],
        Kind.STUB: told.get("mutant_executions", ""),
        Kind.MUTANT: told.get("mutant_executions", ""),
        Kind.REPEAT: told.get("repeat_executions", ""),
    }
    return Plan(cause.id, settings, told["executions"], runs)


def plan_new(database: Database, chain: Chain, plan: Plan) -> int:
    """Store the checks of every instruction that has an answer which passed and was not planned for.

    Returns:
        How many instructions those were.
    """
    if _all_selected(database, chain, plan):
        return 0
    unplanned = _unplanned(chain, plan.id, plan.executions).with_only_columns(models.Response.instruction_id)
    with database.reading() as session:
        ids = session.scalars(unplanned.distinct()).all()
    for batch in batched(ids, _INSTRUCTIONS):
        with database.writing() as session:
            take_turns(session, f"checks of {chain.pipeline}")
            for samples in _samples(session, chain, plan, batch).values():
                _plan_instruction(session, plan, samples)
    return len(ids)


def count(database: Database, chain: Chain, plan: Plan, responses: work.Count, to_come: int) -> Count:
    """Count what there is of checks.

    What an answer that is not there would have run of it can only be bounded. Of one that is there, and of the samples
    beside it, all is known but whether it passes; it is counted exactly, unless there are more than `EXACT_ANSWERS`.

    Args:
        database: to look in.
        chain: whose.
        plan: what is asked for, whether or not anything was ever planned so.
        responses: how many there are, and to how many instructions.
        to_come: those that are to be drawn at most, also to instructions that are still to come.
    """
    check, execution = models.Check, models.Execution
    columns = (check.program_key, check.executions_recipe_id)
    planned = sa.select(*columns, execution.id.is_not(None).label("run")).outerjoin(execution, _CHECK_RAN)
    each = planned.where(check.recipe_id == plan.id).distinct().subquery()
    with database.reading() as session:
        found: Any = session.execute(sa.select(each.c.run, sa.func.count()).group_by(each.c.run))
        counted: dict[bool, int] = dict(found.all())
    ran, unrun, samples = counted.get(True, 0), counted.get(False, 0), chain.samples["responses"]
    missing = responses.parents * samples - responses.rows
    if not missing and _all_selected(database, chain, plan):
        now = later = 0
    else:
        with database.reading() as session:
            now, later = _count_unplanned(session, chain, plan, responses.parents)
    later += (to_come - missing) * most(plan.settings, samples - 1)
    return Count(ran, unrun + now, unrun + later)


def _count_unplanned(session: Session, chain: Chain, plan: Plan, instructions: int) -> tuple[int, int]:
    """The programs of answers that passed and were not planned for, and the most of these and of all still to come."""
    groups = session.execute(_answers(chain, plan)).all()
    to_look_at = sum(group.instructions * (group.unplanned + group.unrun) for group in groups)
    samples, settings = chain.samples["responses"], plan.settings
    now = later = 0
    if to_look_at <= EXACT_ANSWERS:
        now, later = _count_exactly(session, chain, plan) if to_look_at else (0, 0)
    else:
        for group in groups:
            each = group.instructions * most(settings, group.programs - 1)
            now += group.unplanned * each
            later += (group.unplanned + group.unrun) * each
    for group in groups:
        missing = group.instructions * (samples - group.rows)
        programs = group.programs + samples - group.rows  # if all that is missing can be read
        later += missing * most(settings, programs - 1)
        if settings.agreement:  # and the tests of what is missing are run on the code that is there
            later += missing * (group.passed + group.unrun)
    unanswered = instructions - sum(group.instructions for group in groups)
    return now, later + unanswered * samples * most(settings, samples - 1)


def _answers(chain: Chain, plan: Plan) -> sa.Select[Any]:
    """How many `instructions` have answers alike in number.

    There are `rows` each, with `programs`; of these are `unrun`, have `passed`, and have passed but are `unplanned`.
    """
    response, execution, told = models.Response, models.Execution, models.Score
    planned = sa.and_(told.response_id == response.id, told.recipe_id == plan.id)

    def number(condition: Any) -> Any:
        return sa.func.sum(sa.case((condition, 1), else_=0))

    each = (
        work.rows_of(chain, "responses")
        .outerjoin(execution, work.ran(response, plan.executions))
        .outerjoin(told, planned)
        .with_only_columns(
            sa.func.count().label("rows"),
            sa.func.count(response.program_key).label("programs"),
            number(sa.and_(response.program_key.is_not(None), execution.id.is_(None))).label("unrun"),
            number(execution.verdict == PASSED).label("passed"),
            number(sa.and_(execution.verdict == PASSED, told.response_id.is_(None))).label("unplanned"),
        )
        .group_by(response.instruction_id)
        .subquery()
    )
    return sa.select(*each.c, sa.func.count().label("instructions")).group_by(*each.c)


def _count_exactly(session: Session, chain: Chain, plan: Plan) -> tuple[int, int]:
    """The distinct programs that are neither planned nor run: of answers that passed, and if all others do."""
    response, execution = models.Response, models.Execution
    unrun = work.rows_of(chain, "responses").outerjoin(execution, work.ran(response, plan.executions))
    unrun = unrun.where(response.program_key.is_not(None), execution.id.is_(None))
    ids = {
        id
        for query in (_unplanned(chain, plan.id, plan.executions), unrun)
        for id in session.scalars(query.with_only_columns(response.instruction_id))
    }
    now, later = set[tuple[str, str]](), set[tuple[str, str]]()
    for batch in batched(sorted(ids), _INSTRUCTIONS):
        for found, unrun_pass in ((now, False), (later, True)):
            for samples in _samples(session, chain, plan, batch, unrun_pass=unrun_pass).values():
                found |= {(planned["program_key"], planned["executions_recipe_id"]) for planned in _rows(plan, samples)}
                # An answer's own program is no check's, though one that is word for word the same would ask for it.
                found -= {(program_key(sample.code, sample.tests), plan.executions) for sample in samples}
    return len(now - _known(session, plan, now)), len(later - _known(session, plan, later))


def _known(session: Session, plan: Plan, runs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Those of some programs, each with how it is run, that were run or are planned."""
    check, execution = models.Check, models.Execution
    known: set[tuple[str, str]] = set()
    for keys in batched(sorted({key for key, _ in runs})):
        ran = sa.select(execution.program_key, execution.recipe_id).where(execution.program_key.in_(keys))
        planned = sa.select(check.program_key, check.executions_recipe_id).where(check.recipe_id == plan.id)
        for query in (ran, planned.where(check.program_key.in_(keys))):
            known |= {(key, how) for key, how in session.execute(query)}
    return known


def count_pending(database: Database, plan: Plan) -> int:
    """Count the distinct programs of planned checks that were not run."""
    with database.reading() as session:
        runs = _unrun(plan).with_only_columns(models.Check.program_key, models.Check.executions_recipe_id).distinct()
        return session.scalar(sa.select(sa.func.count()).select_from(runs.subquery())) or 0


def pending(database: Database, plan: Plan, share: Share) -> Iterator[list[Run]]:
    """Yield the programs of planned checks that were not run, a page at a time; one can come again in a later page."""
    check = models.Check
    place = (check.response_id, check.kind, check.number)
    columns = (check.other_id, check.program_key, check.executions_recipe_id)
    for page in work.pages(database, _unrun(plan).with_only_columns(*columns, *place), place, share):
        with database.reading() as session:
            ids = {row.response_id for row in page} | {row.other_id for row in page if row.other_id}
            samples = _texts(session, ids)
        runs = {}
        for row in page:
            asked = Check(row.response_id, Kind(row.kind), row.number, row.other_id)
            code, tests = program(asked, samples[row.response_id], samples.get(row.other_id), plan.settings)
            assert program_key(code, tests) == row.program_key, f"{asked} is another program than was planned"
            runs[row.program_key, row.executions_recipe_id] = Run(
                row.program_key, row.executions_recipe_id, code, tests
            )
        yield list(runs.values())


def score_new(database: Database, chain: Chain, plan: Plan) -> int:
    """Count what the checks of every instruction came to that were all run and not yet counted.

    Returns:
        How many responses were scored.
    """
    told, response = models.Score, models.Response
    unscored = sa.select(response.instruction_id).join(told, told.response_id == response.id)
    unscored = unscored.where(told.recipe_id == plan.id, ~told.complete).distinct()
    with database.reading() as session:
        ids = session.scalars(unscored).all()
    scored = 0
    for batch in batched(ids, _INSTRUCTIONS):
        with database.writing() as session:
            for samples in _samples(session, chain, plan, batch).values():
                scored += _score_instruction(session, plan, samples)
    return scored


def forget(session: Session, responses: sa.Select[str]) -> None:
    """Remove the scores of the instructions of `responses`, which will be drawn anew: agreement asks all samples."""
    response, told = models.Response, models.Score
    instructions = sa.select(response.instruction_id).where(response.id.in_(responses))
    scored = sa.select(response.id).where(response.instruction_id.in_(instructions))
    session.execute(sa.delete(told).where(told.response_id.in_(scored)))


def _all_selected(database: Database, chain: Chain, plan: Plan) -> bool:
    """Whether counting alone shows that every response was judged by a selection that waited for these checks."""
    with database.reading() as session:
        row = session.get(models.Pipeline, chain.pipeline)
        recipe = session.get(models.Recipe, row.selection_recipe_id) if row and row.selection_recipe_id else None
    if recipe is None or recipe.parameters.get("checks") != plan.id:
        return False
    drawn = work.count_of_recipe(database, models.Response, chain.recipes["responses"])
    return drawn == work.count_of_recipe(database, models.Judgement, recipe.id)


def _samples(
    session: Session, chain: Chain, plan: Plan, instructions: Sequence[str], *, unrun_pass: bool = False
) -> dict[str, list[Sample]]:
    """The samples of instructions that have a program, by instruction and in the order of their indexes."""
    response, execution = models.Response, models.Execution
    query = (
        sa.select(response.instruction_id, response.id, response.sample_index, response.code, response.test_code)
        .add_columns(execution.verdict)
        .outerjoin(execution, work.ran(response, plan.executions))
        .where(
            response.instruction_id.in_(instructions),
            response.recipe_id == chain.recipes["responses"],
            response.sample_index < chain.samples["responses"],
            response.program_key.is_not(None),
        )
        .order_by(response.instruction_id, response.sample_index)
    )
    found: dict[str, list[Sample]] = {}
    for instruction, id, index, code, tests, verdict in session.execute(query):
        passed = unrun_pass if verdict is None else verdict == PASSED
        sample = Sample(id, index, code or "", tests or "", passed)
        found.setdefault(instruction, []).append(sample)
    return found


def _texts(session: Session, ids: set[str]) -> dict[str, Sample]:
    response = models.Response
    found = {}
    for batch in batched(sorted(ids)):
        query = sa.select(response.id, response.sample_index, response.code, response.test_code)
        for id, index, code, tests in session.execute(query.where(response.id.in_(batch))):
            found[id] = Sample(id, index, code or "", tests or "", passed=True)
    return found


def _rows(plan: Plan, samples: list[Sample]) -> Iterator[dict[str, Any]]:
    """The checks of an instruction's samples, as the table holds them."""
    by_id = {sample.response_id: sample for sample in samples}
    for check in checks(samples, plan.settings):
        other = by_id[check.other_id] if check.other_id else None
        code, tests = program(check, by_id[check.response_id], other, plan.settings)
        yield {
            "recipe_id": plan.id,
            "response_id": check.response_id,
            "kind": check.kind.value,
            "number": check.number,
            "other_id": check.other_id,
            "label": check.label,
            "program_key": program_key(code, tests),
            "executions_recipe_id": plan.runs[check.kind],
        }


def _plan_instruction(session: Session, plan: Plan, samples: list[Sample]) -> None:
    insert_new(session, models.Check, list(_rows(plan, samples)))
    passed = [sample.response_id for sample in samples if sample.passed]
    # All of them again: what one sample is worth depends on the others.
    told = models.Score
    session.execute(sa.delete(told).where(told.recipe_id == plan.id, told.response_id.in_(passed)))
    rows = [{"recipe_id": plan.id, "response_id": id, "complete": False, **_EMPTY} for id in passed]
    insert_new(session, told, rows)


def _score_instruction(session: Session, plan: Plan, samples: list[Sample]) -> int:
    check, execution = models.Check, models.Execution
    passed = [sample.response_id for sample in samples if sample.passed]
    query = (
        sa.select(check.response_id, check.kind, check.number, execution.verdict, execution.repeat_verdicts)
        .outerjoin(execution, _CHECK_RAN)
        .where(check.recipe_id == plan.id, check.response_id.in_(passed))
    )
    verdicts: dict[tuple[str, Kind, int], str] = {}
    repeated: dict[str, list[str]] = {}
    rows_found: Any = session.execute(query)
    for id, kind, number, verdict, several in rows_found:
        if verdict is None:  # another build plans at this moment; it will count
            return 0
        verdicts[id, Kind(kind), number] = verdict
        if kind == Kind.REPEAT:
            repeated[id] = several or [verdict]
    scores = score(samples, verdicts, plan.settings, repeated)
    judged = sa.select(sa.func.max(models.Judgement.created_at)).where(models.Judgement.subject_id.in_(passed))
    last = session.scalar(judged)
    rows: list[dict[str, Any]] = [
        {
            "recipe_id": plan.id,
            "response_id": id,
            "complete": True,
            "created_at": _after(last),
            **dataclasses.asdict(found),
        }
        for id, found in scores.items()
    ]
    if rows:
        session.execute(sa.update(models.Score), rows)
    return len(rows)


def _after(moment: dt.datetime | None) -> dt.datetime:
    """Now, or just after `moment`: clocks go back, and those of several hosts differ, but what is newer is asked."""
    now = models.utc_now()
    if moment is None:
        return now
    aware = moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)  # SQLite keeps no zone
    return max(now, aware + dt.timedelta(microseconds=1))


def _unplanned(chain: Chain, checks: str, executions: str) -> sa.Select[Any]:
    """The responses that passed and have no score under a recipe of checks, not even one to come."""
    response, execution, told = models.Response, models.Execution, models.Score
    planned = sa.exists().where(told.recipe_id == checks, told.response_id == response.id)
    passed = work.rows_of(chain, "responses").join(execution, work.ran(response, executions))
    return passed.where(execution.verdict == PASSED, ~planned)


def _unrun(plan: Plan) -> sa.Select[Any]:
    check, told = models.Check, models.Score
    return (
        sa.select(check)
        .join(told, sa.and_(told.recipe_id == check.recipe_id, told.response_id == check.response_id))
        .where(told.recipe_id == plan.id, ~told.complete, ~sa.exists().where(_CHECK_RAN))
    )


_EMPTY: dict[str, None] = dict.fromkeys(
    column.key
    for column in models.Score.__table__.columns
    if column.key not in ("recipe_id", "response_id", "complete", "created_at")
)
