"""Pairs of a snapshot as the steps of a training run, read from the database when they are needed.

Which pairs a step holds is a function of the seed and the step's number alone, so a run that goes on at step k reads
nothing of what came before, and any number of processes agree without talking. The table of usable rows (position and
length; see `survey`) stays on disk, memory-mapped: no memory grows with the snapshot. Pairs are read a few steps at a
time (`READ_AHEAD_ROWS`), because a database takes most of its time for a query and not for its rows.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from generator.store import BATCH_ROWS, Database, UnknownDataset, iter_items, open_database
from trainer.chat import REFUSALS, Encoder, Example
from trainer.folder import write_json
from trainer.order import Permutation, Positions
from trainer.packing import IGNORED, MicroBatch, even_bins, flatten

Rows = npt.NDArray[np.int32]
"""Shape [rows, 3]: position in the snapshot, tokens, trained tokens."""

READ_AHEAD_ROWS = BATCH_ROWS
"""Pairs that a process reads in one query, for as many whole steps as they make, and at least for one: all that it
keeps of their text. Of 1.2 KB each they are 0.6 MB."""


class DataUnfit(Exception):
    """The snapshot cannot be trained on, or is not what it was; the message is one line."""


class PairSource:
    """The pairs of one snapshot, fetched by position. Every process that uses one opens its own connection.

    Args:
        url: of the database.
        dataset_id: of the snapshot.
        size: its number of pairs.
    """

    def __init__(self, url: str, dataset_id: str, size: int) -> None:
        self.url = url
        self.dataset_id = dataset_id
        self.size = size
        self.fetched = 0
        """Rows read by this process."""
        self._database: Database | None = None
        self._process = 0

    def fetch(self, positions: Sequence[int]) -> list[tuple[str, str]]:
        """Instruction and response at each of `positions`, in their order.

        Raises:
            DataUnfit: a position has no row.
        """
        if self._database is None or self._process != os.getpid():  # a connection does not survive a fork
            self._database, self._process = open_database(self.url), os.getpid()
        with self._database.reading_once() as connection:  # a snapshot never changes
            items = iter_items(connection, self.dataset_id, positions)
            try:
                pairs = [(item.instruction, item.response) for item in items]
            except UnknownDataset as error:
                raise DataUnfit(
                    f"{error}, though the snapshot has {self.size} pairs: rows of dataset_items were deleted; restore "
                    "them, or train on another snapshot"
                ) from None
        self.fetched += len(pairs)
        return pairs

    def __getstate__(self) -> dict[str, Any]:
        """Without the connection, for worker processes that are spawned."""
        return {**self.__dict__, "_database": None}

    def close(self) -> None:
        """Give the connection back."""
        if self._database is not None and self._process == os.getpid():
            self._database.close()
        self._database = None


# Survey


@dataclass(frozen=True, slots=True)
class Survey:
    """What one pass over the snapshot found: the rows to train on, those held out, and why others are not used."""

    train: Rows
    evaluation: Rows
    refused: dict[str, int]
    """Rows left out, by key of `REFUSALS`."""
    truncated: int
    """Rows used with their response cut."""

    @property
    def tokens(self) -> int:
        """Of one epoch of training."""
        return int(self.train[:, 1].sum(dtype=np.int64))

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(int(rows[:, 1].max(initial=0)) for rows in (self.train, self.evaluation))

    def refusals(self) -> list[str]:
        """How many rows were left out for what reason, in words, the most frequent first."""
        return [f"{count:,}: {REFUSALS[reason]}" for reason, count in Counter(self.refused).most_common()]

    def counts(self) -> dict[str, Any]:
        """For people and for `trainings`."""
        return {
            "train_rows": len(self.train),
            "evaluation_rows": len(self.evaluation),
            "tokens_per_epoch": self.tokens,
            "trained_tokens_per_epoch": int(self.train[:, 2].sum(dtype=np.int64)),
            "truncated_rows": self.truncated,
            "refused_rows": self.refused,
        }


def held_out(instruction: str, fraction: float) -> bool:
    """True if pairs with this instruction are for evaluation: a matter of its text alone, not of the other data."""
    digest = blake2b(instruction.strip().encode(), digest_size=8, person=b"evaluation").digest()
    return int.from_bytes(digest, "big") < fraction * 2**64


def survey(
    source: PairSource,
    encoder: Encoder,
    evaluation_fraction: float,
    folder: Path,
    progress: Callable[[int], None] = lambda rows: None,
) -> Survey:
    """Tokenise every row once and write down which are used and how long they are.

    Args:
        source: the snapshot.
        encoder: as used in training.
        evaluation_fraction: share of instructions held out.
        folder: where the tables go; they are whole when `survey.json` is there.
        progress: told the number of rows after each batch.

    Raises:
        DataUnfit: no row is left to train on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    refused: Counter[str] = Counter()
    truncated = 0
    with (folder / "train.rows").open("wb") as train, (folder / "evaluation.rows").open("wb") as evaluation:
        for start in range(0, source.size, BATCH_ROWS):
            positions = range(start, min(start + BATCH_ROWS, source.size))
            pairs = source.fetch(positions)
            tables: dict[Any, list[tuple[int, int, int]]] = {train: [], evaluation: []}
            for position, pair, example in zip(positions, pairs, encoder(pairs), strict=True):
                if isinstance(example, str):
                    refused[example] += 1
                    continue
                truncated += example.truncated
                table = tables[evaluation if held_out(pair[0], evaluation_fraction) else train]
                table.append((position, len(example.input_ids), example.trained_tokens))
            for file, rows in tables.items():
                file.write(np.array(rows, dtype=np.int32).tobytes())
            progress(positions.stop)
    if (folder / "train.rows").stat().st_size == 0:
        reasons = "; ".join(f"{count} {REFUSALS[reason]}" for reason, count in refused.most_common())
        rest = f": {reasons}" if reasons else ", all are held out for evaluation"
        raise DataUnfit(f"none of the {source.size} pairs can be trained on{rest}")
    write_json(folder / "survey.json", {"refused": dict(refused), "truncated": truncated})
    return load_survey(folder)


def load_survey(folder: Path) -> Survey:
    """Map the tables that `survey` wrote."""
    summary = json.loads((folder / "survey.json").read_text())
    return Survey(
        train=_map_rows(folder / "train.rows"),
        evaluation=_map_rows(folder / "evaluation.rows"),
        refused=summary["refused"],
        truncated=summary["truncated"],
    )


def _map_rows(path: Path) -> Rows:
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return np.empty((0, 3), dtype=np.int32)
    return np.memmap(path, dtype=np.int32, mode="r").reshape(-1, 3)


# Steps


class Step(TypedDict):
    """One optimizer step: this process's share of the work, and what all processes do together."""

    micro_batches: list[MicroBatch]
    pairs: int
    """Of all processes."""
    tokens: int
    """Of all processes."""
    trained_tokens: int
    """Of all processes; what the loss is averaged over."""
    squared_lengths: int
    """Sum of the squares of the examples' lengths, of all processes; what attention costs."""
    slots: int
    """Passes of all processes times tokens of the largest; `tokens` / `slots` is the packing fill."""


class Plan(NamedTuple):
    """What a step will hold, told by the table of lengths alone."""

    lengths: list[int]
    """Tokens of its pairs, over all processes."""
    trained_tokens: int
    """Over all processes."""
    passes: int
    """Over all processes."""
    largest: int
    """Tokens of the largest pass."""
    sizes: list[int]
    """Number of pairs in each of this process's passes."""
    blank: bool
    """Whether one more pass follows, of one pair that counts for nothing."""
    rows: Rows
    """Of this process, pass by pass."""


@dataclass(frozen=True, slots=True)
class EpochOrder:
    """Row numbers of one epoch after the other, each in an order of its own."""

    rows: int
    seed: int

    def __call__(self, indices: Positions) -> Positions:
        """Row number at each index of the endless stream of epochs."""
        epochs, offsets = np.divmod(indices, self.rows)
        result = np.empty_like(indices)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            result[chosen] = Permutation(self.rows, self.seed, int(epoch))(offsets[chosen])
        return result


def in_order(indices: Positions) -> Positions:
    """Row numbers as they are stored, for evaluation."""
    return indices


@dataclass(frozen=True, slots=True)
class Share:
    """Which of the processes this one is."""

    rank: int = 0
    world: int = 1


class Steps(Dataset[Step]):
    """The steps of a run as a map from step number to what is computed in it.

    Args:
        source: the snapshot.
        rows: of it, those that are used.
        encoder: the one that `rows` was surveyed with.
        order: from index in the run to index in `rows`.
        pairs: how many the whole run takes.
        batch_size: pairs in a step, over all processes.
        capacity: tokens in one forward pass; None: one pair in each.
        share: this process's.
        read_ahead_rows: see `READ_AHEAD_ROWS`; it changes no step.
    """

    def __init__(
        self,
        source: PairSource,
        rows: Rows,
        encoder: Encoder,
        *,
        order: Callable[[Positions], Positions],
        pairs: int,
        batch_size: int,
        capacity: int | None,
        share: Share = Share(),
        read_ahead_rows: int = READ_AHEAD_ROWS,
    ) -> None:
        self.source = source
        self.rows = rows
        self.encoder = encoder
        self.order = order
        self.pairs = pairs
        self.batch_size = batch_size
        self.capacity = capacity
        self.share = share
        self.read_ahead_rows = read_ahead_rows
        self._ahead: dict[int, tuple[Plan, list[tuple[str, str]]]] = {}

    def __len__(self) -> int:
        """Number of steps."""
        return -(-self.pairs // self.batch_size)

    def __getitem__(self, step: int) -> Step:
        """Tokenise and lay out this process's share of step `step`."""
        plan, pairs = self.read(step)
        examples = self._examples(plan.rows, pairs)
        micro_batches = [flatten(list(islice(examples, size))) for size in plan.sizes]
        if plan.blank:
            micro_batches.append(_blank(flatten(list(examples))))
        tokens = sum(plan.lengths)
        return Step(
            micro_batches=micro_batches,
            pairs=len(plan.lengths),
            tokens=tokens,
            trained_tokens=plan.trained_tokens,
            squared_lengths=sum(length * length for length in plan.lengths),
            slots=tokens if self.capacity is None else plan.passes * plan.largest,
        )

    def read(self, step: int) -> tuple[Plan, list[tuple[str, str]]]:
        """This process's share of step `step` as text.

        One query reads it together with the next steps that this process will be asked for; a step that was not
        foreseen is read when it is asked for, and with it those that follow it.
        """
        if step not in self._ahead:
            worker = get_worker_info()
            every = worker.num_workers if worker else 1  # a loader's workers take turns
            steps = max(1, self.read_ahead_rows * self.share.world // self.batch_size)
            numbers = range(step, len(self), every)[:steps]
            starts = [number * self.batch_size for number in numbers]
            places = [np.arange(start, min(start + self.batch_size, self.pairs)) for start in starts]
            rows = self.rows[self.order(np.concatenate(places))]  # of all steps at once, which is faster
            ends = np.cumsum([len(chosen) for chosen in places])
            plans = [self.plan(chosen) for chosen in np.split(rows, ends[:-1])]
            pairs = iter(self.source.fetch([position for plan in plans for position in plan.rows[:, 0].tolist()]))
            texts = [list(islice(pairs, len(plan.rows))) for plan in plans]
            self._ahead = dict(zip(numbers, zip(plans, texts, strict=True), strict=True))
        return self._ahead.pop(step)

    def plan(self, chosen: Rows) -> Plan:
        """Divide the rows of a step into passes, and these among the processes."""
        lengths: list[int] = chosen[:, 1].tolist()
        bins = [[index] for index in range(len(lengths))]
        if self.capacity is not None:
            bins = even_bins(lengths, self.capacity, self.share.world)
        # Largest first: processes get like loads, and a step too large for the memory fails at once.
        bins.sort(key=lambda items: (-sum(lengths[index] for index in items), items))
        mine = bins[self.share.rank :: self.share.world]
        # Sharded models need as many passes in each process.
        blank = len(mine) < -(-len(bins) // self.share.world)
        return Plan(
            lengths=lengths,
            trained_tokens=int(chosen[:, 2].sum()),
            passes=len(bins),
            largest=sum(lengths[index] for index in bins[0]),
            sizes=[len(items) for items in mine],
            blank=blank,
            rows=chosen[[index for items in mine for index in items] + [0] * blank],
        )

    def loader(self, workers: int = 0) -> DataLoader[Step]:
        """A loader that yields one step at a time and can skip steps without reading them."""
        return DataLoader(self, batch_size=1, shuffle=False, collate_fn=_only, num_workers=workers)

    def _examples(self, rows: Rows, pairs: Sequence[tuple[str, str]]) -> Iterator[Example]:
        for (position, tokens, trained_tokens), example in zip(rows.tolist(), self.encoder(pairs), strict=True):
            if isinstance(example, str) or (len(example.input_ids), example.trained_tokens) != (tokens, trained_tokens):
                raise DataUnfit(
                    f"the pair at position {position} is not the one that was surveyed: tokenizer, template or "
                    "database changed under this run; start it anew with another --output"
                )
            yield example


def _only(steps: list[Step]) -> Step:
    return steps[0]


def _blank(batch: MicroBatch) -> MicroBatch:
    nothing = torch.full_like(batch["labels"], IGNORED)
    return {**batch, "labels": nothing, "shift_labels": nothing}


def planned_pairs(rows: int, epochs: float, max_steps: int, batch_size: int) -> int:
    """Pairs that a run takes: `epochs` times `rows`, or fewer if `max_steps` (0: no limit) ends it before."""
    pairs = max(1, round(rows * epochs))
    return min(pairs, max_steps * batch_size) if max_steps else pairs
