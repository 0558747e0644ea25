from __future__ import annotations

import asyncio
import copy
import itertools
import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from generator import models, store
from generator import select as select_module
from generator.causes import Cause
from generator.filters import rules
from generator.recipe import DatasetSettings, SelectionSettings
from generator.select import Snapshot, select
from generator.store import Database, open_database
from generator.work import Chain
from sandbox_server.settings import SettingsError

SELECTION = Cause("selection", {"sections": ["reasoning", "implementation"]})


NOTHING = SelectionSettings()
USUAL = DatasetSettings(sections=("reasoning", "implementation"))


class Shelf:
    """A database with one seed, one line of concepts, and whatever instructions and responses a test puts on it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        with self.database.writing() as session:
            self.recipe = store.ensure_recipe(session, "test", {})
            named = {"name": "p", "parameters": {}, "concepts_recipe_id": self.recipe, "responses_samples": 99}
            store.insert_new(session, models.Pipeline, [named])
            seed = {"name": "f", "code": "", "docstring": "", "origin": "o", "version": "1", "path": "p", "line": 1}
            store.insert_new(session, models.Seed, [{"id": "s", "licence": "MIT", "licence_source": "", **seed}])
            store.insert_new(session, models.PipelineSeed, [{"pipeline": "p", "seed_id": "s", "chosen": True}])
            self.drawn = {"recipe_id": self.recipe, "text": "", "finish_reason": "stop"}
            concepts = {"id": "c", "seed_id": "s", "sample_index": 0, **self.drawn}
            store.insert_new(session, models.Concepts, [concepts])
        self.numbers = itertools.count()

    def instruction(self, id: str, text: str) -> None:
        kind = {"category": "function", "difficulty": "easy", "language": "Python"}
        row = {
            "id": id,
            "concepts_id": "c",
            "instruction": text,
            "sample_index": next(self.numbers),
            **kind,
            **self.drawn,
        }
        with self.database.writing() as session:
            store.insert_new(session, models.Instruction, [row])

    def response(self, id: str, instruction: str, code: str | None, verdict: str | None = "PASSED") -> None:
        row = {
            "id": id,
            "instruction_id": instruction,
            "sample_index": next(self.numbers),
            **self.drawn,
            "reasoning": f"why {id}",
            "implementation": f"how {id}",
            "tests": f"check {id}",
            "code": code,
            "program_key": f"k{id}" if code else None,
            "error": None if code else "no part Tests",
        }
        measured = {"wall_time_ms": 1.0, "cpu_time_ms": 1.0, "peak_memory_bytes": 1, "stdout": b"", "stderr": b""}
        execution = {
            "id": f"e{id}",
            "program_key": f"k{id}",
            "recipe_id": self.recipe,
            "verdict": verdict,
            "assurance": "",
            "runtime_fingerprint": "",
            **measured,
        }
        with self.database.writing() as session:
            store.insert_new(session, models.Response, [row])
            if code and verdict:
                store.insert_new(session, models.Execution, [execution])

    def select(
        self, asked: SelectionSettings = NOTHING, settings: DatasetSettings = USUAL, dataset: str = "pairs"
    ) -> Snapshot:
        stages = ("concepts", "instructions", "responses")
        chain = Chain("p", dict.fromkeys(stages, self.recipe), dict.fromkeys(stages, 99))
        return select(self.database, chain, self.recipe, SELECTION, dataset, rules(asked), settings)

    def verdicts(self) -> dict[str, str | None]:
        """By response the filter that rejected it; None where it was kept."""
        with self.database.reading() as session:
            rows = session.execute(sa.select(models.Judgement.subject_id, models.Judgement.filter)).all()
        return {row[0]: row[1] for row in rows}


@pytest.fixture
def shelf(database: Database) -> Shelf:
    return Shelf(database)


def test_one_response_of_an_instruction_stays(shelf: Shelf) -> None:
    shelf.instruction("i1", "do one")
    shelf.response("r2", "i1", "a = 2")
    shelf.response("r1", "i1", "a = 1")

    shelf.select()

    assert shelf.verdicts() == {"r1": None, "r2": "one_per_instruction"}


async def test_builds_of_a_pipeline_under_two_data_set_names_judge_in_turn(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        shelf.instruction(f"i{number}", f"do {number}")
        for sample in range(4):
            shelf.response(f"r{number}-{sample}", f"i{number}", f"a = {number * 10 + sample}")
        if not number:  # the first selection stores its recipe, for which others wait
            shelf.select()
    judge_new, told = select_module._judge_new, []

    def slowly(*arguments: Any) -> Any:
        told.append("begins")
        found = judge_new(*arguments)
        time.sleep(0.3)  # for the other to come in, if it may
        told.append("ends")
        return found

    monkeypatch.setattr(select_module, "_judge_new", slowly)
    other = copy.copy(shelf)
    other.database = open_database(shelf.database.engine.url.render_as_string(hide_password=False))
    snapshots = await asyncio.gather(
        asyncio.to_thread(shelf.select, dataset="pairs"), asyncio.to_thread(other.select, dataset="others")
    )
    other.database.close()

    assert [snapshot.size for snapshot in snapshots] == [2, 2]
    assert sorted(snapshot.judged for snapshot in snapshots) == [0, 4]
    assert told == ["begins", "ends"] * 2


def test_of_equal_instructions_and_of_equal_code_the_first_stays(shelf: Shelf) -> None:
    for number, text in enumerate(("do one", "Do  one\n", "do two", "do three")):
        shelf.instruction(f"i{number}", text)
        shelf.response(f"r{number}", f"i{number}", "a = 1" if number > 1 else f"a = {number}0")

    shelf.select()

    assert shelf.verdicts() == {"r0": None, "r1": "new_instruction", "r2": None, "r3": "new_code"}


def test_what_is_kept_does_not_depend_on_the_order_of_arrival(tmp_path: Path) -> None:
    rows = [(f"r{n:02}", f"i{n % 5}", f"a = {n % 7}") for n in range(30)]
    results = []
    for attempt in range(3):
        shelf = Shelf(open_database(str(tmp_path / f"{attempt}.db"), create=True))
        for number in range(5):
            shelf.instruction(f"i{number}", f"do {number % 4}")
        shuffled = random.Random(attempt).sample(rows, len(rows))
        for number, row in enumerate(shuffled):
            shelf.response(*row)
            if number in (5, 17):
                shelf.select()
        shelf.select()
        results.append(shelf.verdicts())

    assert results[0] == results[1] == results[2]


def test_a_pair_that_came_first_gives_way_to_one_with_a_smaller_key(shelf: Shelf) -> None:
    shelf.instruction("i", "do")
    shelf.response("r5", "i", "a = 5")
    first = shelf.select()
    shelf.response("r1", "i", "a = 1")
    second = shelf.select()

    assert shelf.verdicts() == {"r1": None, "r5": "one_per_instruction"}
    assert (first.version, second.version) == (1, 2)


def long_code(number: int) -> str:
    body = "\n".join(f"    total += values[{line}] * weights[{line}]" for line in range(20))
    return f"def weigh_{number}(values, weights):\n    total = {number}\n{body}\n    return total\n"


def test_of_near_duplicates_one_stays_and_the_other_names_it(shelf: Shelf) -> None:
    for number in range(3):
        shelf.instruction(f"i{number}", f"Task number {number} is unlike {'abc'[number]} others in every word {number}")
    shelf.response("r1", "i0", long_code(1))
    shelf.response("r2", "i1", f"# A comment of some length changes nothing\n{long_code(2)}")
    shelf.response("r3", "i2", "def other():\n    return 'something else altogether'\n")

    shelf.select(SelectionSettings(near_duplicates=0.7))

    assert shelf.verdicts() == {"r1": None, "r2": "near_code", "r3": None}
    with shelf.database.reading() as session:
        told = session.scalars(sa.select(models.Judgement).where(models.Judgement.subject_id == "r2")).one()
    assert (told.other_id, told.reason) == ("r1", "much like the code of a chosen pair")


def test_what_overlaps_a_benchmark_names_the_problem(shelf: Shelf, tmp_path: Path) -> None:
    asked = "Write a python function to remove the first and the last occurrence of a given character from a string."
    (tmp_path / "scored.jsonl").write_text(json.dumps({"task_id": 11, "text": asked, "code": "x = 1"}) + "\n")
    shelf.instruction("i1", f"Your task: {asked}")
    shelf.instruction("i2", "Write a function that adds two numbers and returns what that comes to.")
    shelf.response("r1", "i1", "a = 1")
    shelf.response("r2", "i2", "a = 2")

    shelf.select(SelectionSettings(benchmarks=str(tmp_path)))

    assert shelf.verdicts() == {"r1": "benchmark_overlap", "r2": None}
    with shelf.database.reading() as session:
        told = session.scalars(sa.select(models.Judgement.reason).where(models.Judgement.subject_id == "r1")).one()
    assert told == "holds 100% of the description of scored/11"


def test_a_folder_that_is_not_there_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^\[selection\] benchmarks: expected a folder"):
        rules(SelectionSettings(benchmarks=str(tmp_path / "none")))


def test_pairs_are_cleaned_up_when_they_are_frozen(shelf: Shelf) -> None:
    shelf.instruction("i", "do")
    shelf.response("r", "i", "a = 1")

    shelf.select(settings=DatasetSettings(sections=("reasoning", "implementation"), sections_dropped=1.0))

    with shelf.database.reading() as session:
        dataset = store.find_dataset(session, "pairs")
        assert [item.response for item in store.iter_items(session.connection(), dataset.id, [0])] == ["how r"]


def test_pairs_keep_their_tests_where_the_instruction_asks_for_them(shelf: Shelf) -> None:
    shelf.instruction("i1", "do one, and test it")
    shelf.response("r1", "i1", "a = 1")
    shelf.instruction("i2", "do two")
    shelf.response("r2", "i2", "a = 2")

    shelf.select(settings=DatasetSettings(sections=("implementation",), tests_when_asked=True))

    with shelf.database.reading() as session:
        dataset = store.find_dataset(session, "pairs")
        told = [item.response for item in store.iter_items(session.connection(), dataset.id, [0, 1])]
    assert told == ["how r1\n\ncheck r1", "how r2"]


def test_what_was_not_executed_yet_is_not_judged(shelf: Shelf) -> None:
    shelf.instruction("i", "do")
    shelf.response("r1", "i", "a = 1", verdict=None)
    shelf.response("r2", "i", None)

    shelf.select()

    assert shelf.verdicts() == {"r2": "read"}


def test_a_snapshot_holds_the_sections_that_the_recipe_names(shelf: Shelf) -> None:
    shelf.instruction("i", "do")
    shelf.response("r", "i", "a = 1")
    shelf.select()

    with shelf.database.reading() as session:
        dataset = store.find_dataset(session, "pairs")
        items = list(store.iter_items(session.connection(), dataset.id, [0]))
    assert (items[0].instruction, items[0].response) == ("do", "why r\n\nhow r")


def test_a_snapshot_never_changes(shelf: Shelf) -> None:
    shelf.instruction("i", "do")
    shelf.response("r5", "i", "a = 5")
    shelf.select()
    with shelf.database.reading() as session:
        before = list(store.iter_items(session.connection(), store.find_dataset(session, "pairs", 1).id, [0]))
    shelf.response("r1", "i", "a = 1")
    shelf.select()

    with shelf.database.reading() as session:
        assert list(store.iter_items(session.connection(), store.find_dataset(session, "pairs", 1).id, [0])) == before
        assert store.find_dataset(session, "pairs", 2).parent_id == store.find_dataset(session, "pairs", 1).id


def test_equal_content_makes_no_new_version(shelf: Shelf) -> None:
    shelf.instruction("i", "do")
    shelf.response("r1", "i", "a = 1")
    shelf.select()
    shelf.response("r2", "i", "a = 2", verdict="FAILED")

    again = shelf.select()

    assert (again.judged, again.is_new, again.version, again.size) == (1, False, 1, 1)


def test_nothing_accepted_freezes_nothing(shelf: Shelf) -> None:
    shelf.instruction("i", "do")
    shelf.response("r1", "i", "a = 1", verdict="FAILED")

    assert shelf.select() == Snapshot(1, "pairs", 0, is_new=False, version=None)


def test_when_every_pair_is_lost_the_newest_snapshot_says_so(shelf: Shelf) -> None:
    shelf.instruction("i", "do")
    shelf.response("r1", "i", "a = 1")
    shelf.select()
    with shelf.database.writing() as session:
        session.execute(sa.update(models.PipelineSeed).values(chosen=False))

    emptied = shelf.select()

    assert (emptied.size, emptied.version, emptied.is_new) == (0, 2, True)


@pytest.mark.postgres
@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_postgresql_knows_of_the_judgements_before_it_asks_whose_bands_they_are(shelf: Shelf) -> None:
    """Nobody else sees rows of an open transaction, so nobody else counts them: it took them for a single one."""
    shelf.instruction("i", "Do it.")
    for number in range(30):
        shelf.response(f"r{number:02}", "i", f"x = {number}")
    with shelf.database.writing() as session:  # nobody else counts meanwhile, and is left to it
        session.execute(sa.text("ALTER TABLE judgements SET (autovacuum_enabled = false)"))
    shelf.select()

    with shelf.database.writing() as session:
        judgements = sa.text("SELECT reltuples FROM pg_class WHERE oid = 'judgements'::regclass")
        counted = session.scalar(judgements)
        session.execute(sa.text("ALTER TABLE judgements RESET (autovacuum_enabled)"))
    assert counted == 30
