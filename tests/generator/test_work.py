"""The work list and its counts agree with what going through every row in Python gives."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import pytest

from generator import models, work
from generator.store import Database, ensure_recipe, insert_new

WRITTEN: dict[str, Any] = {"text": "", "finish_reason": "stop", "prompt_tokens": 1, "completion_tokens": 1}
RAN: dict[str, Any] = {
    "verdict": "PASSED",
    "assurance": "",
    "stdout": b"",
    "stderr": b"",
    "wall_time_ms": 1.0,
    "cpu_time_ms": 1.0,
    "peak_memory_bytes": 1,
    "runtime_fingerprint": "",
}
STAGES = ("judge", "concepts", "instructions", "responses")


class World:
    """Random rows of two pipelines that share seeds and some recipes, with failures, gaps and shared programs.

    Args:
        database: where they are stored.
        number: of the world.
        whole: whether all rows belong to both pipelines: all seeds are chosen, nothing failed, there is one recipe.
    """

    def __init__(self, database: Database, number: int, *, whole: bool = False) -> None:
        self.rng = random.Random(number)
        self.whole = whole
        self.rows: dict[str, list[dict[str, Any]]] = {}
        with database.writing() as session:
            self.recipes = {
                stage: [ensure_recipe(session, stage, {"way": way}) for way in range(1 if whole else 2)]
                for stage in (*STAGES, "executions")
            }
            seeds = [f"{seed:032x}" for seed in range(6)]
            text = {"name": "f", "code": "", "docstring": "", "origin": "", "version": "", "path": "", "line": 1}
            insert_new(session, models.Seed, [{"id": id, "licence": "", "licence_source": "", **text} for id in seeds])
            insert_new(session, models.Pipeline, [{"name": name, "parameters": {}} for name in ("one", "two")])
            self.members = [
                {"pipeline": name, "seed_id": id, "chosen": whole or self.rng.random() < 0.8}
                for name in ("one", "two")
                for id in seeds
                if whole or self.rng.random() < 0.8
            ]
            insert_new(session, models.PipelineSeed, self.members)
            parents = seeds
            for stage in STAGES:
                self.rows[stage] = self._rows(stage, parents)
                insert_new(session, work.LEVELS[stage].table, self.rows[stage])
                parents = seeds if stage == "judge" else [row["id"] for row in self.rows[stage]]
            ran = self.rng.choice([0.6, 1.0])
            self.executions = [
                {"id": f"{program:016x}{way:016x}", "program_key": f"{program:032x}", "recipe_id": recipe, **RAN}
                for way, recipe in enumerate(self.recipes["executions"])
                for program in range(40)
                if self.rng.random() < ran
            ]
            insert_new(session, models.Execution, self.executions)

    def _rows(self, stage: str, parents: list[str]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        column = work.LEVELS[stage].parent_id.key
        for parent in parents:
            for recipe in self.recipes[stage]:
                for sample in range(3):
                    if self.rng.random() < 0.3:
                        continue
                    row: dict[str, Any] = {
                        "id": f"{stage}{len(rows):x}".rjust(32, "0")[-32:],
                        column: parent,
                        "recipe_id": recipe,
                    }
                    row |= {"sample_index": sample, **WRITTEN}
                    row["error"] = None if self.whole or self.rng.random() < 0.8 else "truncated"
                    rows.append(row | self._of_stage(stage, row["error"] is None))
        return rows

    def _of_stage(self, stage: str, usable: bool) -> dict[str, Any]:
        if stage == "judge":
            return {"worth": self.whole or self.rng.random() < 0.7 if usable else None}
        if stage == "instructions":
            return {"category": "", "difficulty": "", "language": "", "instruction": "do" if usable else None}
        if stage == "responses":
            key = f"{self.rng.randrange(40):032x}" if usable else None
            return {"code": "x" if usable else None, "test_code": "y" if usable else None, "program_key": key}
        return {"concepts": ["a"] if usable else None}

    def chain(self) -> work.Chain:
        """One pipeline's, with the judge or without."""
        stages = STAGES[1 if self.whole else self.rng.randrange(2) :]
        return work.Chain(
            pipeline=self.rng.choice(["one", "two"]),
            recipes={stage: self.rng.choice(self.recipes[stage]) for stage in stages},
            samples={stage: 1 if stage == "judge" else 3 if self.whole else self.rng.randint(1, 3) for stage in stages},
        )

    def expect(self, chain: work.Chain) -> tuple[dict[str, work.Count], list[dict[str, Any]]]:
        """Counts by stage, and the usable responses, by looking at each row."""
        usable = {row["seed_id"] for row in self.members if row["pipeline"] == chain.pipeline and row["chosen"]}
        counts, mine = {}, []
        for stage in chain.samples:
            column = work.LEVELS[stage].parent_id.key
            mine = [
                row
                for row in self.rows[stage]
                if row["recipe_id"] == chain.recipes[stage]
                and row["sample_index"] < chain.samples[stage]
                and row[column] in usable
            ]
            counts[stage] = work.Count(len(usable), len(mine))
            mine = [row for row in mine if row["error"] is None]
            usable = (
                {row["seed_id"] for row in mine if row["worth"]} if stage == "judge" else {row["id"] for row in mine}
            )
        return counts, mine


@pytest.mark.parametrize("number", range(2))
def test_counts_are_those_of_going_through_every_row(database: Database, number: int) -> None:
    """Parents and rows of every stage: failures, other recipes, other pipelines and further samples left out."""
    world = World(database, number)
    for _ in range(4):
        chain = world.chain()
        expected, _ = world.expect(chain)
        assert work.count_down_to(database, chain, "responses") == expected
        assert {stage: work.count(database, chain, stage) for stage in chain.samples} == expected


@pytest.mark.parametrize("number", range(2))
def test_programs_to_run_are_those_without_an_execution(database: Database, number: int) -> None:
    """Distinct programs of the chain's usable responses that were not run under the recipe: counted and listed."""
    world = World(database, number)
    for _ in range(4):
        chain = world.chain()
        recipe = world.rng.choice(world.recipes["executions"])
        ran = {row["program_key"] for row in world.executions if row["recipe_id"] == recipe}
        wanted = {row["program_key"] for row in world.expect(chain)[1]}
        assert work.count_unrun(database, chain, recipe) == len(wanted - ran)
        assert work.count_unrun(database, chain, None) == len(wanted)
        responses = partial(_told, world.expect(chain)[0]["responses"].rows, [])
        assert work.count_programs(database, chain, recipe, responses)[:2] == (len(wanted - ran), len(wanted))
        listed = list(work.pending_programs(database, chain, recipe, work.Share()))
        assert {program.key for page in listed for program in page} == wanted - ran


def test_a_chain_with_all_responses_of_its_recipe_is_asked_for_their_number_alone(database: Database) -> None:
    """The caller's count is taken where any program was not run, and none is made where all were."""
    for number in range(6):
        with database.writing() as session:
            for table in reversed(models.Base.metadata.sorted_tables):
                session.execute(table.delete())
        world = World(database, number, whole=True)
        chain, (recipe,) = world.chain(), world.recipes["executions"]
        counts, usable = world.expect(chain)
        assert counts["responses"].rows == len(world.rows["responses"])
        asked: list[int] = []
        responses = partial(_told, counts["responses"].rows, asked)
        unrun = {row["program_key"] for row in usable} - {row["program_key"] for row in world.executions}
        assert work.count_unrun(database, chain, recipe, responses) == len(unrun)
        assert len(asked) == bool(unrun)
        programs = {row["program_key"] for row in usable}
        assert work.count_programs(database, chain, recipe, responses) == (len(unrun), len(programs), True)


def _told(rows: int, asked: list[int]) -> int:
    asked.append(rows)
    return rows
