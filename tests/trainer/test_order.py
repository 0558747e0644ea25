from __future__ import annotations

import numpy as np
import pytest

from trainer.order import Permutation


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 63, 64, 65, 1000, 4097])
def test_every_position_comes_exactly_once(size: int) -> None:
    images = Permutation(size, 7, 0)(np.arange(size))
    assert sorted(images.tolist()) == list(range(size))


def test_an_order_is_a_function_of_size_and_key() -> None:
    """Golden: a change here changes which pairs a running training sees next."""
    assert Permutation(10, 1, 0)(np.arange(10)).tolist() == [0, 9, 8, 1, 4, 6, 3, 5, 7, 2]
    assert Permutation(10, 1, 1)(np.arange(10)).tolist() == [5, 8, 3, 6, 0, 2, 9, 7, 4, 1]


def test_positions_are_found_one_at_a_time_as_in_bulk() -> None:
    permutation = Permutation(1000, 3)
    assert [int(permutation(index)[0]) for index in range(50)] == permutation(np.arange(50)).tolist()


def test_places_are_uniform_over_keys() -> None:
    """Over 1,000 keys each of 20 positions goes to each place about 50 times (chi-squared, 361 degrees of freedom)."""
    size, keys = 20, 1000
    counts = np.zeros((size, size))
    for key in range(keys):
        counts[np.arange(size), Permutation(size, key)(np.arange(size))] += 1
    expected = keys / size
    assert ((counts - expected) ** 2 / expected).sum() < 361 + 4 * (2 * 361) ** 0.5


def test_neighbours_are_torn_apart() -> None:
    """The mean distance of what were neighbours is that of random pairs, a third of the size."""
    images = Permutation(100_000, 5)(np.arange(100_000))
    assert abs(np.abs(np.diff(images)).mean() / 100_000 - 1 / 3) < 0.01


@pytest.mark.parametrize("indices", [[-1], [10], [0, 11]])
def test_positions_outside_are_refused(indices: list[int]) -> None:
    with pytest.raises(IndexError, match=r"range\(10\)"):
        Permutation(10, 1)(indices)


@pytest.mark.parametrize("size", [0, -1, 2**62 + 1])
def test_impossible_sizes_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="size must be between"):
        Permutation(size, 1)
