"""Put examples of different lengths into few bins, and a bin into the tensors that a model reads.

A bin is one row without padding: its examples lie one after the other, and `position_ids` that start again at 0 keep
them apart. Transformers builds a block-causal mask (or variable-length flash attention) from such positions, so no
token sees another example. An optimizer step takes the same examples whether they are packed or not; packing changes
how fast the step is and, up to rounding, nothing else.
"""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch

from trainer.chat import Example

IGNORED = -100
"""The label of a token that is not trained; PyTorch's and Transformers' convention."""

_CANDIDATES, _ROUNDS_A_BIN = 16, 8  # how long `spread` looks for something better

_EXACT_ITEMS = 256  # how many `filled_bins` chooses from

_DIVIDED_ITEMS = 9  # of two bins together, that `evened` divides anew: it looks at each of their 2**8 divisions
_SHAKES, _EXCHANGES = 10, 3  # how often `evened` shakes the bins, and how many items then change places
_EVEN = 1.02  # times the least there could be: fuller bins are looked at, others are even enough

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
    """Pack items into as few bins as can be found, and those as even as can be.

    With two to four items to a bin, best fit often takes a bin too many: it puts the large items together and lacks
    small ones in the end. So the number of bins is fixed, beginning with the least that could hold all, and the items
    are spread evenly over them; if they do not fit, one bin more is tried. Where that ends, `filled_bins` tries. Even
    bins are wanted anyway: the largest forward pass of a step decides how much memory it takes and, with several
    processes in step, how long the others wait.

    Args:
        lengths: of the items, each from 1 to `capacity`.
        capacity: of a bin, at most.
        multiple: of the number of bins, where the items suffice; the number of processes that share them.

    Returns:
        As `best_fit_decreasing`, and never more bins than it needs, rounded up to `multiple`.
    """
    bins = min(best_fit_decreasing(lengths, capacity), filled_bins(lengths, capacity), key=len)
    least, most = (-(-count // multiple) * multiple for count in (-(-sum(lengths) // capacity), len(bins)))
    for count in range(least, most + 1, multiple):
        attempt = spread(lengths, count)
        if _fullest(lengths, attempt) <= capacity:
            return evened(lengths, attempt)
    low, high = max(lengths), capacity
    while low < high:
        middle = (low + high) // 2
        attempt = filled_bins(lengths, middle)
        if len(attempt) <= most:
            bins, high = attempt, middle
        else:
            low = middle + 1
    return evened(lengths, bins)


def filled_bins(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Pack items into bins one after the other: the longest item left, and those that leave the least room beside it.

    The minimum bin slack heuristic (Gupta and Ho, 1999) with exact sums: bit n of a number says whether some of the
    items add up to n. Fine for hundreds of items; of more than `_EXACT_ITEMS` left, only the longest are looked at.

    Args:
        lengths: of the items, each from 1 to `capacity`.
        capacity: of a bin.

    Returns:
        As `best_fit_decreasing`.
    """
    left = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    bins: list[list[int]] = []
    while left:
        first, rest = left[0], left[1 : _EXACT_ITEMS + 1]
        room = capacity - lengths[first]
        mask = (1 << (room + 1)) - 1
        sums = [1]
        for index in rest:
            sums.append((sums[-1] | sums[-1] << lengths[index]) & mask)
        total = sums[-1].bit_length() - 1
        chosen = [first]
        for index, before in zip(reversed(rest), reversed(sums[:-1]), strict=True):
            if not before >> total & 1:  # it cannot be reached without this one
                chosen.append(index)
                total -= lengths[index]
        bins.append(chosen)
        taken = set(chosen)
        left = [index for index in left if index not in taken]
    return sorted(sorted(items) for items in bins)


def spread(lengths: Sequence[int], count: int) -> list[list[int]]:
    """Share items out over `count` bins so that the fullest holds as little as can be.

    Longest first, each into the emptiest bin (Graham, 1969); then, as long as that helps, items of the fullest bin move
    to one of the emptiest, or change places with one there. Deterministic.

    Returns:
        As `best_fit_decreasing`; fewer bins than `count` where there are fewer items.
    """
    count = min(count, len(lengths))
    bins: list[list[int]] = [[] for _ in range(count)]
    loads = [(0, number) for number in range(count)]  # sorted
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        load, number = loads.pop(0)
        bins[number].append(index)
        bisect.insort(loads, (load + lengths[index], number))
    for _ in range(_ROUNDS_A_BIN * count):
        full, giver = loads[-1]
        best = full, 0, -1, -1, -1  # the fuller of the two afterwards, which bin, what goes, what comes
        for place, (load, number) in enumerate(loads[: min(_CANDIDATES, count - 1)]):
            for out in bins[giver]:
                for back in (-1, *bins[number]):
                    moved = lengths[out] - (lengths[back] if back >= 0 else 0)
                    if moved > 0 and (after := max(full - moved, load + moved)) < best[0]:
                        best = after, place, number, out, back
        _, place, taker, out, back = best
        if taker < 0:
            break
        (load, _), moved = loads[place], lengths[out] - (lengths[back] if back >= 0 else 0)
        bins[giver].remove(out)
        bins[taker].append(out)
        if back >= 0:
            bins[taker].remove(back)
            bins[giver].append(back)
        del loads[-1], loads[place]
        bisect.insort(loads, (full - moved, giver))
        bisect.insort(loads, (load + moved, taker))
    return sorted(sorted(items) for items in bins)


def evened(lengths: Sequence[int], bins: Sequence[Sequence[int]]) -> list[list[int]]:
    """Make the fullest bin emptier, as long as that can be found how.

    The items of the fullest bin and of another one are divided anew between the two, in the best of all ways; where no
    other bin helps, a few items change places at random and it goes on from there (iterated local search: Lourenço,
    Martin and Stützle, 2003). Deterministic, and only for bins of few items: of many, `spread` finds as good as all.

    Args:
        lengths: of the items.
        bins: the indices of the items in each.

    Returns:
        As many bins, as `best_fit_decreasing` returns them; the fullest holds no more than before.
    """
    best = _divided(lengths, bins)
    least = max(max(lengths, default=0), -(-sum(lengths) // max(1, len(bins))))
    shaking = random.Random(0)  # noqa: S311
    for _ in range(_SHAKES):
        if _fullest(lengths, best) <= _EVEN * least:
            break
        attempt = _divided(lengths, _shaken(lengths, best, shaking.random))
        best = min(attempt, best, key=lambda bins: _fullest(lengths, bins))
    return sorted(sorted(items) for items in best)


def _divided(lengths: Sequence[int], bins: Sequence[Sequence[int]]) -> list[list[int]]:
    """Divide the fullest bin and another one anew until that makes it no emptier."""
    result = [list(items) for items in bins]
    loads = [sum(lengths[index] for index in items) for items in result]
    while True:
        giver = max(range(len(result)), key=loads.__getitem__, default=0)
        for taker in sorted(range(len(result)), key=loads.__getitem__):
            items = result[giver] + result[taker]
            if taker == giver or len(items) > _DIVIDED_ITEMS:
                continue
            # Bit n of a place in `sums` says whether item n + 1 is with the first one.
            sums, total = [lengths[items[0]]], loads[giver] + loads[taker]
            for index in items[1:]:
                sums += [held + lengths[index] for held in sums]
            place = min(range(len(sums)), key=lambda place: max(sums[place], total - sums[place]))
            if max(sums[place], total - sums[place]) < loads[giver]:
                side = [True, *(bool(place >> bit & 1) for bit in range(len(items) - 1))]
                result[giver] = [index for index, here in zip(items, side, strict=True) if here]
                result[taker] = [index for index, here in zip(items, side, strict=True) if not here]
                loads[giver], loads[taker] = sums[place], total - sums[place]
                break
        else:
            return result


def _shaken(lengths: Sequence[int], bins: Sequence[Sequence[int]], chance: Callable[[], float]) -> list[list[int]]:
    """Have an item of the fullest bin, and a few more, change places with others; `chance` is from 0 to below 1."""
    result = [list(items) for items in bins]
    filled = [number for number, items in enumerate(result) if items]
    fullest = max(filled, key=lambda number: sum(lengths[index] for index in result[number]))
    for one in (fullest, *(filled[int(chance() * len(filled))] for _ in range(_EXCHANGES - 1))):
        other = filled[int(chance() * len(filled))]
        mine, theirs = (int(chance() * len(result[number])) for number in (one, other))
        result[one][mine], result[other][theirs] = result[other][theirs], result[one][mine]
    return result


def _fullest(lengths: Sequence[int], bins: Sequence[Sequence[int]]) -> int:
    return max((sum(lengths[index] for index in items) for items in bins), default=0)


def boundaries(lengths: Sequence[int]) -> MicroBatch:
    """Where examples of these lengths begin in a row, in the words of variable-length attention."""
    ends = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    longest = max(lengths)
    return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}


def flatten(examples: Sequence[Example]) -> MicroBatch:
    """Lay examples one after the other in one row.

    Returns:
        `input_ids` and `position_ids` of shape [1, tokens]; where examples begin, see `boundaries`, if there are
        several (some models cannot read such a row, and refuse whatever says that it is one); `logits_to_keep`
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
        **(boundaries([len(example.input_ids) for example in examples]) if len(examples) > 1 else {}),
        "logits_to_keep": torch.tensor(predicting, dtype=torch.long),
        "labels": shifted,
        "shift_labels": shifted,
    }
