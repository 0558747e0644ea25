"""Put examples of different lengths into few bins, and a bin into the tensors that a model reads.

A bin is one row without padding: its examples lie one after the other, and `position_ids` that start again at 0 keep
them apart. Transformers builds a block-causal mask (or variable-length flash attention) from such positions, so no
token sees another example. An optimizer step takes the same examples whether they are packed or not; packing changes
how fast the step is and, up to rounding, nothing else.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from typing import Any

import torch

from trainer.chat import Example

IGNORED = -100
"""The label of a token that is not trained; PyTorch's and Transformers' convention."""

MicroBatch = dict[str, Any]
"""Arguments of a model's forward pass: tensors, and `max_length_q` and `max_length_k`, which are ints."""


def best_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Pack items into bins: longest first, each into the fullest bin that still holds it.

    Deterministic: equal lengths go in order of index, equally full bins in order of creation. The result needs at most
    11/9 of the smallest possible number of bins, plus one (Johnson, 1974).

    Args:
        lengths: of the items, each from 1 to `capacity`.
        capacity: of a bin.

    Returns:
        The bins, each the ascending indices of its items; bins come in order of their first item.
    """
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (what is left, bin), sorted
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        length = lengths[index]
        if not 1 <= length <= capacity:
            raise ValueError(f"item {index} has length {length}, expected 1 to {capacity}")
        place = bisect.bisect_left(room, (length, -1))
        if place < len(room):
            left, chosen = room.pop(place)
        else:
            left, chosen = capacity, len(bins)
            bins.append([])
        bins[chosen].append(index)
        bisect.insort(room, (left - length, chosen))
    return sorted(sorted(items) for items in bins)


def even_bins(lengths: Sequence[int], capacity: int, multiple: int = 1) -> list[list[int]]:
    """Pack items into as few bins as `best_fit_decreasing` does, and those as even as it can.

    The bins' own size is lowered as far as their number allows: the largest forward pass of a step decides how much
    memory it takes and, with several processes in step, how long the others wait.

    Args:
        lengths: of the items, each from 1 to `capacity`.
        capacity: of a bin, at most.
        multiple: of the number of bins, where the items suffice; the number of processes that share them.

    Returns:
        As `best_fit_decreasing`.
    """
    bins = best_fit_decreasing(lengths, capacity)
    wanted = -(-len(bins) // multiple) * multiple
    low, high = max(lengths, default=0), capacity
    while low < high:
        middle = (low + high) // 2
        attempt = best_fit_decreasing(lengths, middle)
        if len(attempt) <= wanted:
            bins, high = attempt, middle
        else:
            low = middle + 1
    return bins


def boundaries(lengths: Sequence[int]) -> MicroBatch:
    """Where examples of these lengths begin in a row, in the words of variable-length attention."""
    ends = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    longest = max(lengths)
    return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}


def flatten(examples: Sequence[Example]) -> MicroBatch:
    """Lay examples one after the other in one row.

    Returns:
        `input_ids` and `position_ids` of shape [1, tokens]; where examples begin, see `boundaries`; `logits_to_keep`
        of shape [trained], the positions whose next token is trained, so that the head computes logits for these only;
        `labels` and `shift_labels` of shape [1, trained], those next tokens.
    """
    input_ids: list[int] = []
    position_ids: list[int] = []
    predicting: list[int] = []
    targets: list[int] = []
    for example in examples:
        start = len(input_ids)
        input_ids.extend(example.input_ids)
        position_ids.extend(range(len(example.input_ids)))
        predicting.extend(range(start + example.prompt_tokens - 1, start + len(example.input_ids) - 1))
        targets.extend(example.input_ids[example.prompt_tokens :])
    shifted = torch.tensor([targets], dtype=torch.long)
    return {
        "input_ids": torch.tensor([input_ids], dtype=torch.long),
        "position_ids": torch.tensor([position_ids], dtype=torch.long),
        **boundaries([len(example.input_ids) for example in examples]),
        "logits_to_keep": torch.tensor(predicting, dtype=torch.long),
        "labels": shifted,
        "shift_labels": shifted,
    }
