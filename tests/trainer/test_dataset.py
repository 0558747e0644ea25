from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from accelerate import skip_first_batches

from generator import models
from generator.store import open_database
from trainer.chat import Encoder, prepare_tokenizer
from trainer.config import TemplateSettings
from trainer.dataset import (
    DataUnfit,
    EpochOrder,
    PairSource,
    Share,
    Steps,
    Survey,
    held_out,
    load_survey,
    planned_pairs,
    survey,
)
from trainer.model import learn_tokenizer

pytestmark = pytest.mark.train


def make_encoder(max_tokens: int = 512) -> Encoder:
    tokenizer = learn_tokenizer(["def total(values):\n    return values\n"] * 3, 320)
    prepare_tokenizer(tokenizer, TemplateSettings(), source="test")
    return Encoder(tokenizer, max_tokens, "drop")


@pytest.fixture
def source(url: str, dataset_id: str) -> Any:
    source = PairSource(url, dataset_id, 22)
    yield source
    source.close()


def make_steps(source: PairSource, found: Survey, **changes: Any) -> Steps:
    arguments = {
        "order": EpochOrder(len(found.train), 1),
        "pairs": 2 * len(found.train),
        "batch_size": 4,
        "capacity": 512,
    } | changes
    return Steps(source, found.train, make_encoder(), **arguments)


def test_rows_come_in_the_order_that_was_asked_for(source: PairSource, pairs: list[tuple[str, str]]) -> None:
    assert source.fetch([3, 0, 21, 3]) == [pairs[3], pairs[0], pairs[21], pairs[3]]
    assert source.fetched == 4


def test_a_source_travels_to_another_process(source: PairSource, pairs: list[tuple[str, str]]) -> None:
    source.fetch([0])
    other = pickle.loads(pickle.dumps(source))
    assert other.fetch([1]) == [pairs[1]]
    other.close()


def test_a_survey_is_found_again_as_it_was(source: PairSource, tmp_path: Path) -> None:
    first = survey(source, make_encoder(), 0.0, tmp_path / "state")
    again = load_survey(tmp_path / "state")
    assert first.train.tolist() == again.train.tolist()
    assert first.counts() == again.counts()
    assert first.train[:, 0].tolist() == list(range(22))


def test_rows_that_are_not_used_are_counted_by_reason(source: PairSource, tmp_path: Path) -> None:
    whole = survey(source, make_encoder(), 0.0, tmp_path / "whole")
    limit = int(np.median(whole.train[:, 1]))
    found = survey(source, make_encoder(limit), 0.0, tmp_path / "cut")
    assert len(found.train) + found.refused["overlong"] == 22
    assert found.train[:, 1].max() <= limit
    assert found.refusals() == [f"{found.refused['overlong']}: longer than max_tokens"]


def test_a_snapshot_without_a_usable_row_is_refused(source: PairSource, tmp_path: Path) -> None:
    with pytest.raises(DataUnfit, match="none of the 22 pairs can be trained on: 22 longer than max_tokens"):
        survey(source, make_encoder(10), 0.0, tmp_path)


def test_the_evaluation_split_is_stable_as_data_grow() -> None:
    """Whether a pair is held out depends on its instruction alone; a larger share keeps what a smaller one held out."""
    instructions = [f"Write function {index}." for index in range(2000)]
    tenth = {text for text in instructions if held_out(text, 0.1)}
    fifth = {text for text in instructions if held_out(text, 0.2)}
    assert tenth < fifth
    assert 140 < len(tenth) < 260
    assert held_out(" Write function 3.\n", 0.1) == held_out("Write function 3.", 0.1)
    assert not any(held_out(text, 0.0) for text in instructions)


def test_pairs_that_are_held_out_are_not_trained_on(
    source: PairSource, pairs: list[tuple[str, str]], tmp_path: Path
) -> None:
    found = survey(source, make_encoder(), 0.3, tmp_path)
    assert set(found.evaluation[:, 0]).isdisjoint(found.train[:, 0])
    assert len(found.evaluation) + len(found.train) == 22
    assert all(held_out(pairs[position][0], 0.3) for position in found.evaluation[:, 0])


def test_each_epoch_takes_every_row_once_in_an_order_of_its_own() -> None:
    order = EpochOrder(rows=22, seed=1)
    epochs = order(np.arange(44)).reshape(2, 22)
    assert [sorted(epoch) for epoch in epochs.tolist()] == [list(range(22))] * 2
    assert epochs[0].tolist() != epochs[1].tolist()


def test_steps_take_every_pair_of_every_epoch(source: PairSource, tmp_path: Path) -> None:
    """The last step is the smaller one, and a step may hold the end of one epoch and the start of the next."""
    steps = make_steps(source, survey(source, make_encoder(), 0.0, tmp_path), batch_size=5)
    counts = [steps[index]["pairs"] for index in range(len(steps))]
    assert counts == [5] * 8 + [4]
    assert sum(steps[index]["tokens"] for index in range(len(steps))) == 2 * int(steps.rows[:, 1].sum())


@pytest.mark.parametrize("rank", [0, 2])
def test_how_far_is_read_ahead_changes_no_step(source: PairSource, tmp_path: Path, rank: int) -> None:
    """From the first step or from one in the middle of a window, alone or as one process of three."""
    found = survey(source, make_encoder(), 0.0, tmp_path)
    share = Share(rank, 3) if rank else Share()
    read = {}
    for rows, first in ((1, 0), (9, 0), (500, 0), (9, 5), (500, 5)):
        steps = make_steps(source, found, share=share, read_ahead_rows=rows)
        micro_batches = [batch for step in range(first, len(steps)) for batch in steps[step]["micro_batches"]]
        read[rows, first] = [batch["input_ids"].tolist() for batch in micro_batches]
    assert read[1, 0] == read[9, 0] == read[500, 0]
    assert read[9, 5] == read[500, 5] == read[1, 0][-len(read[9, 5]) :]


def test_a_run_reads_each_row_once_and_no_more_than_a_window_at_a_time(
    source: PairSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From step 3 on, it reads what remains; the last window is the shorter one. What was used is not kept."""
    steps = make_steps(source, survey(source, make_encoder(), 0.0, tmp_path), read_ahead_rows=13)
    windows: list[list[int]] = []
    fetch = source.fetch

    def counting(positions: list[int]) -> list[tuple[str, str]]:
        windows.append(positions)
        return fetch(positions)

    monkeypatch.setattr(source, "fetch", counting)
    kept = []
    for step in range(3, len(steps)):
        steps.read(step)
        kept.append(sum(len(pairs) for _, pairs in steps._ahead.values()))
    assert [len(positions) for positions in windows] == [12, 12, 8]
    assert kept == [8, 4, 0, 8, 4, 0, 4, 0]
    asked = steps.rows[steps.order(np.arange(12, 44)), 0].tolist()
    assert sorted(position for positions in windows for position in positions) == sorted(asked)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def stored(
    request: pytest.FixtureRequest, url: str, dataset_id: str, store: Any, pairs: list[tuple[str, str]]
) -> Iterator[PairSource]:
    """The snapshot `tiny` in either database."""
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_server").migrated()
        assert store(url, pairs) == dataset_id
    source = PairSource(url, dataset_id, len(pairs))
    yield source
    source.close()


def test_windows_hold_the_pairs_that_were_asked_for_in_either_database(
    stored: PairSource, pairs: list[tuple[str, str]], tmp_path: Path
) -> None:
    steps = make_steps(stored, survey(stored, make_encoder(), 0.0, tmp_path), read_ahead_rows=9)
    for step in range(len(steps)):
        plan, read = steps.read(step)
        assert read == [pairs[position] for position in plan.rows[:, 0]]


def test_a_row_that_was_deleted_is_named(stored: PairSource, tmp_path: Path) -> None:
    steps = make_steps(stored, survey(stored, make_encoder(), 0.0, tmp_path))
    database = open_database(stored.url)
    with database.writing() as session:
        session.execute(sa.delete(models.DatasetItem).where(models.DatasetItem.position == 5))
    database.close()
    with pytest.raises(DataUnfit, match=r"has no position 5, though the snapshot has 22 pairs: rows .* deleted"):
        steps[0]


def test_steps_may_be_asked_for_in_any_order(source: PairSource, tmp_path: Path) -> None:
    steps = make_steps(source, survey(source, make_encoder(), 0.0, tmp_path))
    forwards = [steps[step]["micro_batches"][0]["input_ids"].tolist() for step in range(len(steps))]
    backwards = [steps[step]["micro_batches"][0]["input_ids"].tolist() for step in reversed(range(len(steps)))]
    assert forwards == backwards[::-1]


def test_packing_changes_neither_the_tokens_of_a_step_nor_how_many_are_trained(
    source: PairSource, tmp_path: Path
) -> None:
    found = survey(source, make_encoder(), 0.0, tmp_path)
    packed, alone = make_steps(source, found)[2], make_steps(source, found, capacity=None)[2]
    assert len(packed["micro_batches"]) < len(alone["micro_batches"]) == 4
    for key in ("pairs", "tokens", "trained_tokens", "squared_lengths"):
        assert packed[key] == alone[key]  # type: ignore[literal-required]
    ids = [sorted(t for m in step["micro_batches"] for t in m["input_ids"][0].tolist()) for step in (packed, alone)]
    assert ids[0] == ids[1]


@pytest.mark.parametrize("capacity", [None, 512])
def test_processes_share_a_step_without_overlap(source: PairSource, tmp_path: Path, capacity: int | None) -> None:
    """Each has as many passes as any other; where one has nothing left to do, its pass counts no token."""
    found = survey(source, make_encoder(), 0.0, tmp_path)
    whole = make_steps(source, found, capacity=capacity, batch_size=7)[1]
    shares = [make_steps(source, found, capacity=capacity, batch_size=7, share=Share(rank, 3))[1] for rank in range(3)]
    assert len({len(share["micro_batches"]) for share in shares}) == 1
    trained = sum(int((m["shift_labels"] >= 0).sum()) for share in shares for m in share["micro_batches"])
    assert trained == whole["trained_tokens"] == shares[0]["trained_tokens"]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("first", [0, 3])
def test_workers_read_what_the_process_itself_would(stored: PairSource, tmp_path: Path, first: int) -> None:
    """Each reads ahead the steps that are its turn, also where a run goes on."""
    steps = make_steps(stored, survey(stored, make_encoder(), 0.0, tmp_path), read_ahead_rows=8)
    alone, ahead = (
        [step["micro_batches"][0]["input_ids"].tolist() for step in skip_first_batches(steps.loader(workers), first)]
        for workers in (0, 2)
    )
    assert alone == ahead
    assert len(alone) == len(steps) - first


def test_a_pair_that_is_not_what_was_surveyed_stops_the_run(source: PairSource, tmp_path: Path) -> None:
    found = survey(source, make_encoder(), 0.0, tmp_path)
    steps = make_steps(source, found)
    steps.rows = found.train.copy()
    steps.rows[:, 1] += 1
    with pytest.raises(DataUnfit, match="is not the one that was surveyed"):
        steps[0]


@pytest.mark.parametrize(
    ("rows", "epochs", "max_steps", "pairs"), [(22, 2.0, 0, 44), (22, 0.5, 0, 11), (22, 4.0, 3, 12), (1, 0.1, 0, 1)]
)
def test_a_run_ends_with_its_epochs_or_its_steps(rows: int, epochs: float, max_steps: int, pairs: int) -> None:
    assert planned_pairs(rows, epochs, max_steps, batch_size=4) == pairs
