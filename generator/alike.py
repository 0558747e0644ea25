"""Keeping one of what is alike, a row at a time, with an outcome that does not depend on when rows came.

Rows are in an order. A row stays unless an earlier one that stays is like it: of rows that are alike the first stays,
and whether a row stays follows from the rows alone. A new row is compared with those it shares a key with, and only
where it takes the place of others are they, and those that they had shut out, looked at again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

from generator.models import Band, Judgement, utc_now
from generator.store import batched, insert_new, look_at


class Row(Protocol):
    """What can be alike: a row with an id, and its place in the order."""

    @property
    def id(self) -> str:
        """Its key."""
        ...

    @property
    def place(self) -> Any:
        """Sorts before the places of rows that give way to it; no two are equal."""
        ...


R = TypeVar("R", bound=Row)
R_contra = TypeVar("R_contra", bound=Row, contravariant=True)


@dataclass(frozen=True, slots=True)
class Likeness(Generic[R_contra]):
    """One way in which kept rows must differ.

    Attributes:
        name: of the filter that judgements name.
        version: changes with what is found alike.
        keys: rows that share one may be alike: texts, or 64-bit numbers that no other likeness uses.
        reason: what is said of a row that gives way.
        confirm: whether two rows that share a key are alike; None where sharing one is enough.
    """

    name: str
    version: str
    keys: Callable[[R_contra], Iterable[str | int]]
    reason: str
    confirm: Callable[[R_contra, R_contra], bool] | None = None

    def bands(self, row: R_contra) -> list[int]:
        """The keys of a row as the table `bands` holds them."""
        return [key if isinstance(key, int) else self._hash(key) for key in self.keys(row)]

    def _hash(self, key: str) -> int:
        text = f"{self.name}\0{self.version}\0{key}".encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), signed=True)


@dataclass(frozen=True, slots=True)
class Keeper(Generic[R]):
    """Keeps one of what is alike among the rows that passed every filter of one recipe.

    Attributes:
        session: a writing one.
        recipe_id: whose judgements.
        ways: in which kept rows must differ; the first that two rows share is the reason.
        load: reads rows by id.
    """

    session: Session
    recipe_id: str
    ways: Sequence[Likeness[R]]
    load: Callable[[Session, Sequence[str]], Iterable[R]]

    def settle(self, ids: Iterable[str]) -> None:
        """Decide on rows that were judged just now, and on every row for which that changes something."""
        self._settle(set(ids) if self.ways else set(), are_new=True)

    def remove(self, ids: Sequence[str]) -> None:
        """Take rows out, and decide on those that had given way to them."""
        freed: set[str] = set()
        for batch in batched(ids):
            mine = self._mine().where(Judgement.subject_id.in_(batch))
            freed |= self._later_mates(self._load(self.session.scalars(mine.where(Judgement.kept))))
        for batch in batched(ids):
            gone = sa.delete(Judgement).where(Judgement.recipe_id == self.recipe_id, Judgement.subject_id.in_(batch))
            self.session.execute(gone)
        self._settle(freed - set(ids), are_new=False)

    def _settle(self, waiting: set[str], *, are_new: bool) -> None:
        while waiting:
            # Where all rows are new there is none that a new one could change.
            rest = self.session.scalar(sa.select(sa.func.count()).select_from(self._mine().subquery()))
            is_all = are_new and rest == len(waiting)
            places = {row.id: row.place for row in self._load(waiting)}
            again: set[str] = set()
            for number, page in enumerate(batched(sorted(places, key=places.__getitem__))):
                if number & (number - 1) == 0 < number:  # after 1, 2, 4, 8 ... pages
                    # A key that is thought to have many rows would be looked for by reading all of them.
                    look_at(self.session, Band)
                turned = self._settle_page(page, are_new=are_new)
                again |= set() if is_all else self._later_mates(turned)
            # What waited in this round was decided after all that comes before it.
            waiting, are_new = again - waiting, False

    def _settle_page(self, page: list[str], *, are_new: bool) -> list[R]:
        """Decide on rows that come one after the other; returns those whose being kept is news to others."""
        columns = (Judgement.subject_id, Judgement.kept, Judgement.filter, Judgement.other_id)
        judged = self._mine().where(Judgement.subject_id.in_(page)).with_only_columns(*columns)
        before = {id: (kept, name, other) for id, kept, name, other in self.session.execute(judged)}
        rows = sorted((row for row in self._load(page) if row.id in before), key=lambda row: row.place)
        bands = {row.id: [way.bands(row) for way in self.ways] for row in rows}
        kept = self._kept({key for each in bands.values() for keys in each for key in keys}, but=set(before))
        known = {row.id: row for row in (*rows, *self._load({id for ids in kept.values() for id in ids}))}
        turned: list[R] = []
        changed: list[dict[str, Any]] = []
        for row in rows:
            way, other = self._first_like(row, bands[row.id], kept, known)
            if other is None:
                for key in (key for keys in bands[row.id] for key in keys):
                    kept.setdefault(key, set()).add(row.id)
            now = (other is None, way.name if way else None, other)
            if now != before[row.id]:
                changed.append(_judgement(self.recipe_id, row.id, way, other))
            if now[0] if are_new else now[0] != before[row.id][0]:
                turned.append(row)
        if changed:
            self.session.execute(sa.update(Judgement), changed)
        found = {(key, id) for id, each in bands.items() for keys in each for key in keys}
        insert_new(self.session, Band, [{"key": key, "subject_id": id} for key, id in sorted(found)])
        return turned

    def _first_like(
        self, row: R, bands: list[list[int]], kept: Mapping[int, set[str]], known: Mapping[str, R]
    ) -> tuple[Likeness[R], str] | tuple[None, None]:
        """The first way in which an earlier kept row is like this one, and the first such row."""
        for way, keys in zip(self.ways, bands, strict=True):
            mates = (known[id] for id in {id for key in keys for id in kept.get(key, ())})
            for mate in sorted((mate for mate in mates if mate.place < row.place), key=lambda mate: mate.place):
                if way.confirm is None or way.confirm(mate, row):
                    return way, mate.id
        return None, None

    def _kept(self, keys: Iterable[int], *, but: set[str]) -> dict[int, set[str]]:
        """By key the rows that are kept now."""
        found: dict[int, set[str]] = {}
        for key, id in self._mates(keys, Judgement.kept):
            if id not in but:
                found.setdefault(key, set()).add(id)
        return found

    def _later_mates(self, rows: Sequence[R]) -> set[str]:
        """The rows after some of `rows` that share a key with it."""
        by_key: dict[int, list[R]] = {}
        for row in rows:
            for key in {key for way in self.ways for key in way.bands(row)}:
                by_key.setdefault(key, []).append(row)
        first = {key: min(row.place for row in sharing) for key, sharing in by_key.items()}
        mates = self._mates(by_key, sa.true())
        places = {row.id: row.place for row in self._load({id for _, id in mates})}
        return {id for key, id in mates if places[id] > first[key]}

    def _mates(self, keys: Iterable[int], condition: Any) -> list[tuple[int, str]]:
        # Not a join: without statistics SQLite would begin with the judgements, of which nearly all are the recipe's.
        judged = sa.exists().where(
            Judgement.recipe_id == self.recipe_id, Judgement.subject_id == Band.subject_id, condition, self._undecided()
        )
        query = sa.select(Band.key, Band.subject_id).where(judged)
        found: list[tuple[int, str]] = []
        for batch in batched(keys):
            found += [(key, id) for key, id in self.session.execute(query.where(Band.key.in_(batch)))]
        return found

    def _load(self, ids: Iterable[str]) -> list[R]:
        return [row for batch in batched(sorted(ids)) for row in self.load(self.session, batch)]

    def _mine(self) -> sa.Select[Any]:
        """The rows that no other filter rejected."""
        return sa.select(Judgement.subject_id).where(Judgement.recipe_id == self.recipe_id, self._undecided())

    def _undecided(self) -> Any:
        return Judgement.kept | Judgement.filter.in_([way.name for way in self.ways])


def _judgement(recipe_id: str, id: str, way: Likeness[Any] | None, other: str | None) -> dict[str, Any]:
    return {
        "recipe_id": recipe_id,
        "subject_id": id,
        "kept": way is None,
        "filter": way.name if way else None,
        "filter_version": way.version if way else None,
        "reason": way.reason if way else None,
        "other_id": other,
        "created_at": utc_now(),
    }
