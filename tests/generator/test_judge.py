"""Where a recipe has `[judge]`, the model says which seeds are worth reading, and nothing is made of the others."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import re
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from rich.console import Console

from generator import causes
from generator.engines import Completion, CompletionRequest, EngineUnavailable, RequestFailed
from generator.export import LAYOUTS, export
from generator.lineage import show
from generator.pipeline import Pipeline, Report, build, forget_failed, gather_seeds, prepare
from generator.plan import plan
from generator.preview import preview
from generator.progress import Silent
from generator.prompts import judged_seeds
from generator.recipe import JudgeSettings, Recipe, load_recipe
from generator.records import JudgeFields, SeedRecord
from generator.render import render
from generator.seeds import judge
from generator.seeds.extract import functions
from generator.stages import JUDGE, ParseError, choose_examples
from generator.status import seed_summary, status
from generator.store import Database, find_dataset
from sandbox_server.settings import SettingsError, parse
from tests.fakes import FakeSandbox
from tests.generator.rules import RuleEngine, stage_of, write_seeds

OPINIONS = {
    "add_all": "Yes.",
    "collect": "No: its name says nothing.",
    "gather": "Perhaps, who knows",
    "measure": "yes, it is complete",
    "total": "**No**",
}


class Judge(RuleEngine):
    """Answers the judge's questions by the function's name, and is cut off behind the answer."""

    async def complete(self, request: CompletionRequest) -> Completion:
        completion = await super().complete(request)
        if stage_of(request) != "judge":
            return completion
        return Completion(OPINIONS.get(name_of(request), completion.text), "length", 50, 5)

    def asked(self, stage: str) -> list[CompletionRequest]:
        """The requests of one stage."""
        return [request for request in self.requests if stage_of(request) == stage]


def name_of(request: CompletionRequest) -> str:
    """The function that is asked about."""
    (name,) = re.findall(r"def (\w+)\(", request.prompt.messages[-1].content)
    return str(name)


@pytest.fixture
def judged(small: Recipe) -> Recipe:
    """The small recipe with a judge."""
    return dataclasses.replace(small, judge=JudgeSettings(fewshots=1))


async def run(recipe: Recipe, database: Database, engine: RuleEngine | None = None) -> Report:
    return await build(recipe, database, Silent(), engine=engine or Judge(), sandbox=FakeSandbox())


def rows(database: Database, query: str) -> list[tuple[Any, ...]]:
    with database.reading() as session:
        return [tuple(row) for row in session.execute(sa.text(query))]


async def test_nothing_is_made_of_a_seed_without_a_yes(judged: Recipe, database: Database) -> None:
    report = await run(judged, database)

    assert report.drawn == {"judge": 5, "concepts": 2, "instructions": 2, "responses": 6}
    assert report.snapshot is not None
    assert report.snapshot.size == 2
    assert rows(database, "SELECT name, filter, reason FROM rejected_seeds ORDER BY name") == [
        ("collect", "judge", "its name says nothing."),
        ("gather", "judge", "neither Yes nor No"),
        ("total", "judge", "the model answered No"),
    ]
    assert len(rows(database, "SELECT * FROM concepts")) == 2
    kept = "SELECT s.name FROM pipeline_concepts c JOIN seeds s ON s.id = c.seed_id ORDER BY s.name"
    assert rows(database, kept) == [("add_all",), ("measure",)]


async def test_every_answer_is_kept_as_it_came(judged: Recipe, database: Database) -> None:
    await run(judged, database)

    found = rows(database, "SELECT s.name, o.text, o.finish_reason FROM opinions o JOIN seeds s ON s.id = o.seed_id")
    assert sorted(found) == sorted((name, text, "length") for name, text in OPINIONS.items())
    (unread,) = rows(database, "SELECT worth, reason, error FROM opinions WHERE error IS NOT NULL")
    assert unread == (None, None, "neither Yes nor No")


async def test_a_second_build_asks_nothing(judged: Recipe, database: Database) -> None:
    await run(judged, database)
    engine = Judge()

    report = await run(judged, database, engine)

    assert report.did_nothing
    assert engine.requests == []


async def test_a_build_that_was_stopped_asks_only_about_the_others(judged: Recipe, database: Database) -> None:
    def stop(request: CompletionRequest) -> None:
        if len(first.requests) > 2:
            raise EngineUnavailable("gone")

    first = Judge(before=stop)
    with pytest.raises(EngineUnavailable):
        await run(judged, database, first)
    stored = len(rows(database, "SELECT * FROM opinions"))
    second = Judge()

    await run(judged, database, second)

    assert len(second.asked("judge")) == 5 - stored
    assert len(rows(database, "SELECT * FROM opinions")) == 5


async def test_two_builds_at_a_time_ask_once(judged: Recipe, database: Database) -> None:
    engine = Judge()

    await asyncio.gather(run(judged, database, engine), run(judged, database, engine))

    assert sorted(map(name_of, engine.asked("judge"))) == sorted(OPINIONS)
    assert len(engine.asked("concepts")) == 2


async def test_a_judge_can_come_later_and_go_again(small: Recipe, judged: Recipe, database: Database) -> None:
    """What was made of seeds that it refuses stays, and is not the pipeline's as long as it judges."""
    await run(small, database)

    with_judge = await run(judged, database)
    without = await run(small, database)

    assert (with_judge.drawn["judge"], with_judge.completions_drawn, with_judge.programs_run) == (5, 5, 0)
    assert with_judge.snapshot is not None
    assert with_judge.snapshot.size == 2
    assert (without.completions_drawn, without.programs_run) == (0, 0)
    assert without.snapshot is not None
    assert without.snapshot.size == 5
    assert rows(database, "SELECT * FROM rejected_seeds") == []


async def test_changing_what_it_is_shown_asks_again(judged: Recipe, database: Database) -> None:
    await run(judged, database)
    other = dataclasses.replace(judged, judge=JudgeSettings(fewshots=2))

    report = await run(other, database)

    assert report.drawn == {"judge": 5, "concepts": 0, "instructions": 0, "responses": 0}
    assert report.programs_run == 0


async def test_a_new_seed_costs_one_question(judged: Recipe, database: Database, tmp_path: Path) -> None:
    await run(judged, database)
    write_seeds(tmp_path, ["another"])
    gather_seeds(database, Pipeline(judged), Silent())

    report = await run(judged, database)

    assert report.drawn == {"judge": 1, "concepts": 1, "instructions": 1, "responses": 3}


async def test_the_limit_is_on_the_seeds_that_are_judged(judged: Recipe, database: Database) -> None:
    three = dataclasses.replace(judged, seeds=dataclasses.replace(judged.seeds, limit=3))

    assert (await run(three, database)).drawn["judge"] == 3


async def test_a_request_that_failed_is_no_yes_until_it_is_asked_again(judged: Recipe, database: Database) -> None:
    def fail(request: CompletionRequest) -> None:
        if stage_of(request) == "judge" and name_of(request) == "measure":
            raise RequestFailed("HTTP 500")

    first = await run(judged, database, Judge(before=fail))
    assert forget_failed(database, Pipeline(judged)) == 1
    second = await run(judged, database)

    assert (first.failed, first.drawn["concepts"]) == (1, 1)
    assert second.drawn == {"judge": 1, "concepts": 1, "instructions": 1, "responses": 3}


async def test_plan_counts_the_questions_first(judged: Recipe, database: Database) -> None:
    def steps() -> dict[str, tuple[int, int, int]]:
        return {step.stage: (step.done, step.to_do, step.at_most) for step in plan(database, Pipeline(judged))}

    before = steps()
    prepare(database, Pipeline(judged), Silent(), Report("small"))
    gathered = steps()
    await run(judged, database)

    assert (before["judge"], before["concepts"]) == ((0, 0, 5), (0, 0, 5))
    assert (gathered["judge"], gathered["concepts"]) == ((0, 5, 5), (0, 0, 5))
    assert (steps()["judge"], steps()["concepts"]) == ((5, 0, 0), (2, 0, 0))


async def test_the_funnel_has_its_steps(judged: Recipe, database: Database) -> None:
    await run(judged, database)

    told = [(step["stage"], step["rows"]) for step in status(database, None)["pipelines"]["small"]["funnel"]]
    assert told[1:5] == [
        ("seeds chosen", 5),
        ("seeds judged", 5),
        ("seeds kept by the judge", 2),
        ("concepts drawn", 2),
    ]
    assert rows(database, "SELECT stage, rows FROM funnel ORDER BY step") == told
    (rejections,) = seed_summary(database, "small")["rejections"]
    assert (rejections["filter"], rejections["rejected"]) == ("judge", 3)


async def test_a_seeds_story_holds_its_opinion(judged: Recipe, database: Database) -> None:
    await run(judged, database)
    ((opinion, seed),) = rows(database, "SELECT id, seed_id FROM opinions WHERE error IS NOT NULL")

    with database.reading() as session:
        (told,) = show(session, seed)["opinions"]
        assert told["id"] == opinion
        assert show(session, opinion)["seeds"]["name"] == "gather"


async def test_a_preview_ends_where_the_judge_says_no(judged: Recipe, database: Database) -> None:
    stories = await preview(judged, database, Silent(), 5, engine=Judge(), sandbox=FakeSandbox())

    assert {story["name"]: story["judge"]["worth"] for story in stories if "responses" not in story} == {
        "collect": False,
        "gather": None,
        "total": False,
    }
    assert [story["judge"]["worth"] for story in stories if "responses" in story] == [True, True]
    console = Console(file=io.StringIO(), width=200)
    render(stories, console=console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("not worth reading") == 2
    assert text.count("cannot be used: neither Yes nor No") == 1


async def test_the_card_tells_how_many_were_judged(judged: Recipe, database: Database, tmp_path: Path) -> None:
    await run(judged, database)

    with database.reading() as session:
        export(session, find_dataset(session, "small"), tmp_path / "out", "folder", LAYOUTS["pairs"])

    card = (tmp_path / "out" / "README.md").read_text()
    assert "| judge | 5 | 2 |" in card
    assert load_recipe(tmp_path / "out" / "README.md").judge == judged.judge


async def test_without_a_judge_nothing_knows_of_it(small: Recipe, database: Database) -> None:
    engine = Judge()

    report = await run(small, database, engine)

    assert small.judge is None
    assert engine.asked("judge") == []
    assert "judge" not in report.drawn | Pipeline(small).stages | causes.to_plain(small)
    assert "judge" not in rows(database, "SELECT parameters FROM recipes WHERE stage = 'selection'")[0][0]
    assert not any("judge" in stage for (stage,) in rows(database, "SELECT stage FROM funnel"))


@pytest.mark.parametrize(
    ("text", "worth", "reason"),
    [
        ("Yes", True, ""),
        ("yes.", True, ""),
        ("No: it needs its project.\nFunction", False, "it needs its project."),
        (" **No** - nothing to learn", False, "nothing to learn"),
        ("### Judgement\nYes, it is clear.", True, "it is clear."),
    ],
)
@pytest.mark.parametrize("finish_reason", ["stop", "length"])
def test_the_first_word_is_the_answer(text: str, worth: bool, reason: str, finish_reason: str) -> None:
    assert JUDGE.parse(text, finish_reason) == JudgeFields(worth, reason)


@pytest.mark.parametrize("text", ["", "\n", "Yesterday", "None", "The answer is Yes", "Maybe: no"])
def test_anything_else_is_no_answer(text: str) -> None:
    with pytest.raises(ParseError, match="neither Yes nor No"):
        JUDGE.parse(text, "stop")


def test_its_examples_are_functions_of_which_half_are_good() -> None:
    read = [JUDGE.read(example.answer) for example in judged_seeds()]

    assert [fields.worth for fields in read].count(True) == len(read) / 2 == 4
    assert all(fields.reason for fields in read)
    for example in judged_seeds():  # what the other filters would leave out, it is never asked about
        (function,) = functions(example.seed)
        assert judge(SeedRecord(function.name, function.code, function.docstring, "", "", "", 1, "MIT", "")) is None
    assert len(choose_examples(1, "judge", "key", 16, judged_seeds())) == 8


def test_the_table_turns_it_on_and_says_no_more_than_it_must() -> None:
    table = {"name": "r", "model": {"name": "m"}}

    assert parse(Recipe, table, "r").judge is None
    assert parse(Recipe, table | {"judge": {}}, "r").judge == JudgeSettings(fewshots=8, temperature=0.0, max_tokens=48)
    with pytest.raises(SettingsError, match="samples 1: one answer decides"):
        parse(Recipe, table | {"judge": {"samples": 2}}, "r")
