"""The work list as queries: what each stage has, and which of its rows are missing.

A stage's work is the anti-join "parents times samples without a row under this recipe", so that resuming, going on
after a failure, and rebuilding after a change are one thing. Pages follow an index and start where the last one ended,
which keeps a page's cost the same however long the list is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute, Session

from generator.models import Check, Concepts, Execution, Instruction, Judgement, Opinion, PipelineSeed, Response, Seed
from generator.records import ConceptsInput, InstructionInput, Parent, SeedRecord
from generator.store import Database

PAGE_ROWS = 500

JUDGE = "judge"
"""The stage whose rows say which seeds are read: rows below it have the seed as their parent, not the opinion."""

Generated = type[Opinion] | type[Concepts] | type[Instruction] | type[Response]


@dataclass(frozen=True, slots=True)
class Chain:
    """The rows that one pipeline means: its chosen seeds and what its recipes made of them.

    Attributes:
        pipeline: name in `pipelines` and `pipeline_seeds`.
        recipes: recipe id by generation stage; of `JUDGE` only where the model judges seeds.
        samples: samples of each parent by generation stage.
    """

    pipeline: str
    recipes: dict[str, str]
    samples: dict[str, int]


@dataclass(frozen=True, slots=True)
class Share:
    """Where one of several workers begins in a list, so that they meet only when most of it is done.

    Every worker goes through the whole list, from its own place to the end and from the beginning to its place; the
    places are even, because lists are in the order of keys, which are hashes.

    Attributes:
        index: which worker, from 0.
        of: how many there are.
    """

    index: int = 0
    of: int = 1

    @property
    def begin(self) -> str:
        """The first key of its own."""
        return f"{self.index * 16**8 // self.of:08x}" if self.index else ""


@dataclass(frozen=True, slots=True)
class Level:
    """Where a generation stage's rows are, and how they are made from the rows above.

    Attributes:
        table: of the rows.
        parent_id: its column that names the parent.
        above: the generation stage of the parents; None for chosen seeds.
        parent: the columns that `read` takes, the parent's id first.
        order: the parent's columns that pages follow; they begin with what its index begins with after the recipe.
        read: makes the stage's input of the columns of `parent` after the first.
    """

    table: Generated
    parent_id: InstrumentedAttribute[str]
    above: str | None
    parent: tuple[InstrumentedAttribute[Any], ...]
    order: tuple[InstrumentedAttribute[Any], ...]
    read: Callable[..., Parent]


_SEED = (
    *(PipelineSeed.seed_id, Seed.name, Seed.code, Seed.docstring, Seed.origin, Seed.version, Seed.path),
    *(Seed.line, Seed.licence, Seed.licence_source),
)

LEVELS: dict[str, Level] = {
    JUDGE: Level(
        table=Opinion,
        parent_id=Opinion.seed_id,
        above=None,
        parent=_SEED,
        order=(PipelineSeed.seed_id,),
        read=SeedRecord,
    ),
    "concepts": Level(
        table=Concepts,
        parent_id=Concepts.seed_id,
        above=JUDGE,
        parent=_SEED,
        order=(PipelineSeed.seed_id,),
        read=SeedRecord,
    ),
    "instructions": Level(
        table=Instruction,
        parent_id=Instruction.concepts_id,
        above="concepts",
        parent=(Concepts.id, Concepts.concepts),
        order=(Concepts.seed_id, Concepts.sample_index),
        read=lambda concepts: ConceptsInput(tuple(concepts)),
    ),
    "responses": Level(
        table=Response,
        parent_id=Response.instruction_id,
        above="instructions",
        parent=(Instruction.id, Instruction.instruction),
        order=(Instruction.concepts_id, Instruction.sample_index),
        read=InstructionInput,
    ),
}


@dataclass(frozen=True, slots=True)
class Draw:
    """One row to make: sample `sample_index` of a parent."""

    parent_id: str
    sample_index: int
    parent: Parent


@dataclass(frozen=True, slots=True)
class Program:
    """One program to run."""

    key: str
    code: str
    tests: str


@dataclass(frozen=True, slots=True)
class Count:
    """How far a generation stage is: `parents` rows above can be read, and `rows` were made of them."""

    parents: int
    rows: int


def rows_of(chain: Chain, stage: str | None) -> sa.Select[Any]:
    """Select the ids of a stage's rows in a chain; None selects the chosen seeds."""
    if stage is None:
        return sa.select(PipelineSeed.seed_id).where(PipelineSeed.pipeline == chain.pipeline, PipelineSeed.chosen)
    level = LEVELS[stage]
    return (
        usable_of(chain, level.above)
        .where(
            level.parent_id == _id(level.above),
            level.table.recipe_id == chain.recipes[stage],
            level.table.sample_index < chain.samples[stage],
        )
        .with_only_columns(level.table.id)
    )


def _id(stage: str | None) -> InstrumentedAttribute[str]:
    """What rows name as their parent when it is of `stage`."""
    return PipelineSeed.seed_id if stage in (None, JUDGE) else LEVELS[stage].table.id


def ran(of: type[Response] | type[Check], recipe_id: Any) -> sa.ColumnElement[bool]:
    """What joins a response, or a check, with the run of its program under a recipe, told by its id or a column."""
    return sa.and_(Execution.recipe_id == recipe_id, Execution.program_key == of.program_key)


def _judged_worth(chain: Chain) -> list[sa.Exists]:
    """What a chosen seed must be besides: nothing where none is judged."""
    if JUDGE not in chain.recipes:
        return []
    mine = (Opinion.recipe_id == chain.recipes[JUDGE], Opinion.seed_id == PipelineSeed.seed_id)
    return [sa.exists().where(*mine, Opinion.sample_index == 0, Opinion.worth.is_(True)).correlate(PipelineSeed)]


def usable_of(chain: Chain, stage: str | None) -> sa.Select[Any]:
    """Select those of `rows_of` that the next stage can read; of the judge the seeds that it lets through."""
    if stage == JUDGE:
        return rows_of(chain, None).where(*_judged_worth(chain))
    rows = rows_of(chain, stage)
    return rows.where(LEVELS[stage].table.error.is_(None)) if stage else rows


def count(database: Database, chain: Chain, stage: str) -> Count:
    """Count what a generation stage has."""
    return count_down_to(database, chain, stage)[stage]


def count_down_to(database: Database, chain: Chain, last: str) -> dict[str, Count]:
    """Count what the generation stages have, in one pass from the chosen seeds down to `last`."""
    stages = [*chain.samples][: [*chain.samples].index(last) + 1]
    looks = database.engine.dialect.name == "sqlite"
    usable: dict[str | None, sa.CTE] = {None: rows_of(chain, None).cte("chosen")}
    counts: list[Any] = []
    for stage in stages:
        level = LEVELS[stage]
        if level.above not in usable:  # seeds where none is judged
            usable[level.above] = usable[None]
        parents = usable[level.above]
        mine = (
            level.table.recipe_id == chain.recipes[stage],
            level.parent_id == parents.c[0],
            level.table.sample_index < chain.samples[stage],
        )
        # Parents are read twice, so that the database keeps them and goes down from there, in indexes alone. SQLite
        # looks each of them up: with a join it would go up the chain from every row. PostgreSQL joins, in a third of
        # the time that it needs to look each up.
        rows = sa.select(sa.func.count()).select_from(level.table).where(*mine)
        if looks:
            rows = sa.select(sa.func.sum(rows.correlate(parents).scalar_subquery())).select_from(parents)
        counts += [sa.select(sa.func.count()).select_from(parents).scalar_subquery(), rows.scalar_subquery()]
        if stage == JUDGE:
            usable[stage] = usable_of(chain, JUDGE).cte("judged_worth")
        else:
            usable[stage] = sa.select(level.table.id).where(*mine, level.table.error.is_(None)).cte(f"usable_{stage}")
    with database.counting() as session:
        found = iter(session.execute(sa.select(*counts)).one())
        return {stage: Count(next(found), int(next(found) or 0)) for stage in stages}


def count_programs(
    database: Database, chain: Chain, recipe_id: str | None, responses: Callable[[], int]
) -> tuple[int, int, bool]:
    """Count the distinct programs of a chain's responses: those that `count_unrun` counts, and all.

    And tell whether the chain is known to have all responses of their recipe.
    """
    unrun = count_unrun(database, chain, recipe_id, responses)
    if recipe_id is None:
        return unrun, unrun, False
    is_whole = _has_all_responses(database, chain, responses())
    if is_whole:
        query = _distinct_of_recipe(chain)
    else:
        mine = rows_of(chain, "responses").where(Response.program_key.is_not(None))
        query = mine.with_only_columns(sa.func.count(Response.program_key.distinct()))
    with database.counting() as session:
        return unrun, session.scalar(query) or 0, is_whole


def count_unrun(
    database: Database, chain: Chain, recipe_id: str | None, responses: Callable[[], int] | None = None
) -> int:
    """Count the distinct programs of a chain's responses that were not run under `recipe_id`.

    Args:
        database: to look in.
        chain: whose responses.
        recipe_id: of executions; None where nothing was run yet.
        responses: tells how many the chain has, for a caller that counts them anyway.
    """
    of_recipe = _programs_of_recipe(chain)
    programs = sa.func.count(Response.program_key.distinct())
    with database.counting() as session:
        if recipe_id is None:
            unrun = session.scalar(_distinct_of_recipe(chain)) or 0
        else:
            unrun = _count_unrun_of_recipe(session, of_recipe, recipe_id)
    # Where the chain has all responses of the recipe, these are its programs. Only where it has some must every row be
    # asked whether it belongs.
    if unrun and not _has_all_responses(
        database, chain, responses() if responses else count(database, chain, "responses").rows
    ):
        run = sa.exists().where(ran(Response, recipe_id))
        with database.counting() as session:
            query = rows_of(chain, "responses").where(Response.program_key.is_not(None), ~run)
            unrun = session.scalar(query.with_only_columns(programs)) or 0
    return unrun


def _has_all_responses(database: Database, chain: Chain, rows: int) -> bool:
    return count_of_recipe(database, Response, chain.recipes["responses"]) == rows


def count_of_recipe(database: Database, table: type[Response] | type[Judgement], recipe_id: str) -> int:
    """Count all rows of a table that were made under a recipe, whosever they are."""
    with database.counting() as session:
        return session.scalar(sa.select(sa.func.count()).where(table.recipe_id == recipe_id)) or 0


def count_judged(database: Database, chain: Chain, recipe_id: str) -> int:
    """Count the chain's responses that were judged under a recipe of selection."""
    judged = sa.and_(Judgement.recipe_id == recipe_id, Judgement.subject_id == Response.id)
    with database.counting() as session:
        query = rows_of(chain, "responses").join(Judgement, judged).with_only_columns(sa.func.count())
        return session.scalar(query) or 0


def _distinct_of_recipe(chain: Chain) -> sa.Select[Any]:
    """Count the programs of a recipe's responses."""
    # As rows of their own: a database sorts what it counts as distinct, and the index is in order.
    programs = sa.select(Response.program_key).where(*_programs_of_recipe(chain)).distinct().subquery()
    return sa.select(sa.func.count()).select_from(programs)


def _programs_of_recipe(chain: Chain) -> tuple[Any, ...]:
    return (Response.recipe_id == chain.recipes["responses"], Response.program_key.is_not(None))


def _count_unrun_of_recipe(session: Session, of_recipe: tuple[Any, ...], recipe_id: str) -> int:
    """Count the programs of a recipe's responses that were not run: one pass over two indexes of the same order."""
    programs = sa.select(Response.program_key).where(*of_recipe)
    if session.get_bind().dialect.name == "postgresql":
        # It takes a look into an index for four times its price, and would rather sort both lists on the disk.
        session.execute(sa.text("SET LOCAL random_page_cost = 1.1"))
        run = sa.exists().where(ran(Response, recipe_id))
        unrun: Any = programs.where(~run).distinct()
    else:
        # It would take the index that begins with the recipe, and sort. As an expression it asks for the recipe on the
        # way along the index that is in the order of programs.
        known = sa.select(Execution.program_key).where(Execution.recipe_id.concat("") == recipe_id)
        unrun = sa.except_(programs, known).order_by("program_key")
    return session.scalar(sa.select(sa.func.count()).select_from(unrun.subquery())) or 0


def pending_draws(database: Database, chain: Chain, stage: str, share: Share) -> Iterator[list[Draw]]:
    """Yield the rows that a generation stage still has to make, a page at a time.

    No transaction is held between pages, since a model works meanwhile.
    """
    level = LEVELS[stage]
    samples = _samples(chain.samples[stage])
    made = sa.exists().where(
        level.table.recipe_id == chain.recipes[stage],
        level.parent_id == level.parent[0],
        level.table.sample_index == samples.c.i,
    )
    place = (*level.order, samples.c.i)
    query = sa.select(*level.parent, *place).where(*_is_usable(chain, level.above), ~made)
    if level.above in (None, JUDGE):
        query = query.join_from(PipelineSeed, Seed, Seed.id == PipelineSeed.seed_id)
    query = query.join(samples, sa.true())
    for page in pages(database, query, place, share):
        yield [Draw(row[0], row[-1], level.read(*row[1 : len(level.parent)])) for row in page]


def pending_programs(database: Database, chain: Chain, recipe_id: str, share: Share) -> Iterator[list[Program]]:
    """Yield the programs that have not been run under `recipe_id`, a page at a time.

    Responses with the same program give it once in a page, but can give it again in the next one as long as it is not
    stored: the caller leaves out what is in flight.
    """
    run = sa.exists().where(ran(Response, recipe_id))
    # In the order of programs, which both indexes have: what was run is passed over without a look at its row.
    place = (Response.program_key, Response.id)
    query = sa.select(Response.code, Response.test_code, *place).where(
        Response.program_key > "", ~run, *_is_usable(chain, "responses")
    )
    for page in pages(database, query, place, share):
        yield list({row.program_key: Program(row.program_key, row.code, row.test_code) for row in page}.values())


def _is_usable(chain: Chain, stage: str | None) -> list[Any]:
    """What makes a row of `stage` one of the chain's usable ones, asked upwards from that row.

    Written apart from `rows_of` because that counts from the seeds down, and pages go along an index of the rows and
    ask of each whether it belongs.
    """
    if stage in (None, JUDGE):
        chosen = [PipelineSeed.pipeline == chain.pipeline, PipelineSeed.chosen]
        return [*chosen, *_judged_worth(chain)] if stage else chosen
    level = LEVELS[stage]
    return [
        level.table.recipe_id == chain.recipes[stage],
        level.table.sample_index < chain.samples[stage],
        level.table.error.is_(None),
        sa.exists().where(_id(level.above) == level.parent_id, *_is_usable(chain, level.above)).correlate(level.table),
    ]


def pages(database: Database, query: Any, place: tuple[Any, ...], share: Share) -> Iterator[list[sa.Row[Any]]]:
    """Yield what a query selects, in the order of `place`, whose columns it selects last and an index begins with."""
    if not share.begin:
        yield from _pages_of(database, query, place)
        return
    yield from _pages_of(database, query.where(place[0] >= share.begin), place)
    yield from _pages_of(database, query.where(place[0] < share.begin), place)


def _pages_of(database: Database, query: Any, place: tuple[Any, ...]) -> Iterator[list[sa.Row[Any]]]:
    query = query.order_by(*place).limit(PAGE_ROWS)
    page_query = query
    while True:
        with database.reading() as session:
            page = list(session.execute(page_query))
        if page:
            yield page
        if len(page) < PAGE_ROWS:
            return
        last = tuple(page[-1])[-len(place) :]
        # The first condition follows from the second, but only the first is surely looked up in the index.
        page_query = query.where(place[0] >= last[0], sa.tuple_(*place) > sa.tuple_(*last))


def _samples(number: int) -> sa.CTE:
    first = sa.select(sa.literal(0).label("i")).cte("samples", recursive=True)
    return first.union_all(sa.select(first.c.i + 1).where(first.c.i + 1 < number))
