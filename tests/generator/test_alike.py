"""One of what is alike stays, and which one does not depend on what came when."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from generator.alike import Keeper, Likeness
from generator.minhash import Bands, likeness, similarity
from generator.models import Judgement
from generator.store import Database, ensure_recipe, insert_new, open_database

WORDS = [f"w{number}" for number in range(40)]


@dataclass(frozen=True)
class Text:
    id: str
    text: str
    rank: int = 0

    @property
    def place(self) -> tuple[int, str]:
        return -self.rank, self.id


class Shelf:
    """Rows that arrive, leave and are kept."""

    def __init__(self, database: Database, ways: Sequence[Likeness[Text]]) -> None:
        self.database, self.ways = database, ways
        self.rows: dict[str, Text] = {}
        with database.writing() as session:
            self.recipe = ensure_recipe(session, "test", {})

    def load(self, session: Session, ids: Sequence[str]) -> Iterable[Text]:
        return [self.rows[id] for id in ids]

    def put(self, rows: Iterable[Text]) -> None:
        new = {row.id: row for row in rows}
        self.rows |= new
        judged = [
            {"recipe_id": self.recipe, "subject_id": id, "subject_table": "responses", "kept": True} for id in new
        ]
        with self.database.writing() as session:
            insert_new(session, Judgement, judged)
            Keeper(session, self.recipe, self.ways, self.load).settle(new)

    def take(self, ids: Sequence[str]) -> None:
        with self.database.writing() as session:
            Keeper(session, self.recipe, self.ways, self.load).remove(ids)

    def told(self) -> dict[str, tuple[bool, str | None, str | None]]:
        query = sa.select(Judgement.subject_id, Judgement.kept, Judgement.filter, Judgement.other_id)
        with self.database.reading() as session:
            return {id: (kept, name, other) for id, kept, name, other in session.execute(query)}


def ways(confirm: bool = True) -> list[Likeness[Text]]:
    near = likeness("near", "much like another", lambda row: row.text, 0.5)
    return [Likeness("same", "1", lambda row: [row.text], "repeats another"), *([near] if confirm else [])]


def texts(seed: int, count: int) -> list[Text]:
    """Texts of which many are alike: a few are drawn, the others are those with a few words changed."""
    draw = random.Random(seed)
    found: list[Text] = []
    for number in range(count):
        words = draw.choice(found).text.split() if found and draw.random() < 0.7 else draw.choices(WORDS, k=30)
        for _ in range(draw.choice([0, 1, 2, 3])):
            words[draw.randrange(len(words))] = draw.choice(WORDS)
        found.append(Text(f"{number:032x}"[::-1], " ".join(words), draw.randrange(3)))
    return found


def by_hand(rows: Iterable[Text], ways: Sequence[Likeness[Text]]) -> dict[str, tuple[bool, str | None, str | None]]:
    """What is wanted, said plainly: go through the rows in order, keep each that is like none kept before."""
    kept: list[Text] = []
    told: dict[str, tuple[bool, str | None, str | None]] = {}
    for row in sorted(rows, key=lambda row: row.place):
        found = (
            (way.name, other.id)
            for way in ways
            for other in kept
            if set(way.bands(row)) & set(way.bands(other)) and (way.confirm is None or way.confirm(other, row))
        )
        name, other = next(found, (None, None))
        told[row.id] = (name is None, name, other)
        if name is None:
            kept.append(row)
    return told


@pytest.mark.parametrize("seed", range(4))
def test_however_rows_arrive_and_leave_the_outcome_is_that_of_one_walk(tmp_path: Path, seed: int) -> None:
    rows = texts(seed, 120)
    gone = {row.id for row in random.Random(seed).sample(rows, 25)}
    wanted = by_hand([row for row in rows if row.id not in gone], ways())
    assert 20 < sum(kept for kept, _, _ in wanted.values()) < 95
    for attempt in range(3):
        shelf = Shelf(open_database(str(tmp_path / f"{attempt}.db"), create=True), ways())
        draw = random.Random(seed * 10 + attempt)
        waiting = draw.sample(rows, len(rows))
        left = draw.sample(sorted(gone), len(gone))
        while waiting or left:
            size = draw.choice([1, 7, 60])
            shelf.put(waiting[:size])
            waiting = waiting[size:]
            if not waiting or draw.random() < 0.3:
                here = [id for id in left if id in shelf.rows][:size]
                shelf.take(here)
                left = [id for id in left if id not in here]

        assert shelf.told() == wanted


def test_what_gave_way_comes_back_when_its_better_leaves(database: Database) -> None:
    shelf = Shelf(database, ways(confirm=False))
    shelf.put([Text("b", "x")])
    shelf.put([Text("a", "x"), Text("c", "x")])
    assert shelf.told() == {"a": (True, None, None), "b": (False, "same", "a"), "c": (False, "same", "a")}

    shelf.take(["a"])

    assert shelf.told() == {"b": (True, None, None), "c": (False, "same", "b")}


def count_statements(database: Database, do: Callable[[], None]) -> int:
    """How many statements `do` executes, all rows of a batch as one."""
    seen: list[str] = []

    def note(*arguments: object) -> None:
        seen.append(str(arguments[2]))

    sa.event.listen(database.engine, "before_cursor_execute", note)
    do()
    sa.event.remove(database.engine, "before_cursor_execute", note)
    return len(seen)


def test_one_more_row_costs_the_same_however_many_there_are(database: Database) -> None:
    shelf = Shelf(database, ways())
    rows = texts(9, 700)
    shelf.put(rows[:20])
    loaded: list[int] = []
    load = shelf.load

    def count(session: Session, ids: Sequence[str]) -> Iterable[Text]:
        loaded.append(len(ids))
        return load(session, ids)

    shelf.load = count  # type: ignore[method-assign]
    few = count_statements(database, lambda: shelf.put([Text("f" * 32, "unlike all of the others there are here")]))
    among_few = sum(loaded)
    shelf.put(rows[20:])
    loaded.clear()

    many = count_statements(database, lambda: shelf.put([Text("e" * 32, "quite different from what was there before")]))

    assert many == few
    assert sum(loaded) == among_few


def test_similarity_is_jaccards() -> None:
    assert similarity("a b c d e f", "a b c d e f") == 1
    assert similarity("a b c d e f", "A, b (c) d: e f") == 1
    assert similarity("a b c d e f", "a b c d e g") == 1 / 3
    assert similarity("a b", "a c") == 0
    assert similarity("", "") == 1
    assert similarity("größe über maß äh oje", "GRÖSSE, Über Maß: äh (oje)") == 0
    assert similarity("größe über maß äh oje", "GRÖßE, Über Maß: äh (oje)") == 1


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_bands_are_cut_so_that_the_threshold_is_the_turning_point(threshold: float) -> None:
    bands = Bands.at(threshold)

    assert bands.chance(threshold - 0.2) < 0.25
    assert 0.35 < bands.chance(threshold) < 0.65
    assert bands.chance(min(1.0, threshold + 0.2)) > 0.9


def test_keys_are_the_same_everywhere() -> None:
    """They are stored: other values would find no row that is there already."""
    keys = list(Bands.at(0.5).keys("def f(a, b): return a + b if a else c", "near"))

    assert len(keys) == 25
    assert keys[:2] == [2654781890622909431, -4607668334728087817]
