from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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


def test_a_step_reads_its_own_rows_only(source: PairSource, tmp_path: Path) -> None:
    found = survey(source, make_encoder(), 0.0, tmp_path)
    steps = make_steps(source, found)
    before = source.fetched
    assert steps[7]["pairs"] == 4
    assert source.fetched - before == 4


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
def test_workers_read_what_the_process_itself_would(source: PairSource, tmp_path: Path) -> None:
    steps = make_steps(source, survey(source, make_encoder(), 0.0, tmp_path))
    alone = [step["micro_batches"][0]["input_ids"].tolist() for step in steps.loader()]
    ahead = [step["micro_batches"][0]["input_ids"].tolist() for step in steps.loader(workers=2)]
    assert alone == ahead


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
