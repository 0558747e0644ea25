"""Pairs of a snapshot as the steps of a training run, read from the database when they are needed.

Which pairs a step holds is a function of the seed and the step's number alone, so a run that goes on at step k reads
nothing of what came before, and any number of processes agree without talking. The table of usable rows (position and
length; see `survey`) stays on disk, memory-mapped: no memory grows with the snapshot.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from generator.store import BATCH_ROWS, Database, iter_items, open_database
from trainer.chat import REFUSALS, Encoder, Example
from trainer.folder import write_json
from trainer.order import Permutation, Positions
from trainer.packing import IGNORED, MicroBatch, even_bins, flatten

Rows = npt.NDArray[np.int32]
"""Shape [rows, 3]: position in the snapshot, tokens, trained tokens."""


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
        """Instruction and response at each of `positions`, in their order."""
        if self._database is None or self._process != os.getpid():  # a connection does not survive a fork
            self._database, self._process = open_database(self.url), os.getpid()
        with self._database.reading_once() as connection:  # a snapshot never changes
            pairs = [(item.instruction, item.response) for item in iter_items(connection, self.dataset_id, positions)]
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
    ) -> None:
        self.source = source
        self.rows = rows
        self.encoder = encoder
        self.order = order
        self.pairs = pairs
        self.batch_size = batch_size
        self.capacity = capacity
        self.share = share

    def __len__(self) -> int:
        """Number of steps."""
        return -(-self.pairs // self.batch_size)

    def __getitem__(self, step: int) -> Step:
        """Plan step `step` from the table of lengths, then read, tokenise and lay out this process's share."""
        start = step * self.batch_size
        chosen = self.rows[self.order(np.arange(start, min(start + self.batch_size, self.pairs)))]
        lengths: list[int] = chosen[:, 1].tolist()
        bins = [[index] for index in range(len(lengths))]
        if self.capacity is not None:
            bins = even_bins(lengths, self.capacity, self.share.world)
        # Largest first: processes get like loads, and a step too large for the memory fails at once.
        bins.sort(key=lambda items: (-sum(lengths[index] for index in items), items))
        mine = bins[self.share.rank :: self.share.world]
        examples = self._examples(chosen[[index for items in mine for index in items]])
        micro_batches = [flatten([next(examples) for _ in items]) for items in mine]
        if len(micro_batches) < -(-len(bins) // self.share.world):
            # Sharded models need as many passes in each process; this one counts for nothing.
            micro_batches.append(_blank(flatten(list(self._examples(chosen[:1])))))
        tokens = sum(lengths)
        return Step(
            micro_batches=micro_batches,
            pairs=len(lengths),
            tokens=tokens,
            trained_tokens=int(chosen[:, 2].sum()),
            squared_lengths=sum(length * length for length in lengths),
            slots=tokens if self.capacity is None else len(bins) * sum(lengths[index] for index in bins[0]),
        )

    def loader(self, workers: int = 0) -> DataLoader[Step]:
        """A loader that yields one step at a time and can skip steps without reading them."""
        return DataLoader(self, batch_size=1, shuffle=False, collate_fn=_only, num_workers=workers)

    def _examples(self, rows: Rows) -> Iterator[Example]:
        encoded = self.encoder(self.source.fetch(rows[:, 0].tolist()))
        for (position, tokens, trained_tokens), example in zip(rows.tolist(), encoded, strict=True):
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
