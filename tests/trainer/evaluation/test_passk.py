"""pass@k."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.evaluation.passk import mean_pass_at_k, pass_at_k, wilson_interval


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_is_the_share_of_subsets_that_hold_a_right_sample(numbers: tuple[int, int, int]) -> None:
    samples, passed, k = numbers
    subsets = list(combinations([True] * passed + [False] * (samples - passed), k))
    assert pass_at_k(samples, passed, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_1_is_the_share_of_right_samples() -> None:
    assert pass_at_k(200, 50, 1) == pytest.approx(0.25)


@pytest.mark.parametrize("numbers", [(0, 0, 1), (5, 6, 1), (5, -1, 1), (5, 1, 0), (5, 1, 6)])
def test_refuses_numbers_that_cannot_be(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="samples"):
        pass_at_k(*numbers)


def test_the_mean_weighs_problems_equally() -> None:
    assert mean_pass_at_k([(2, 2), (10, 0)], 1) == pytest.approx(0.5)


def test_there_is_no_mean_where_a_problem_has_too_few_samples() -> None:
    assert mean_pass_at_k([(10, 5), (9, 5)], 10) is None
    assert mean_pass_at_k([], 1) is None


def test_the_interval_is_wilsons() -> None:
    """8 of 10, from the formula worked by hand; and it says something of a benchmark without a failure."""
    assert wilson_interval(0.8, 10) == pytest.approx([0.4902, 0.9433], abs=1e-4)
    low, high = wilson_interval(1.0, 164)
    assert (round(low, 3), high) == (0.977, 1.0)
    with pytest.raises(ValueError, match="at least one problem"):
        wilson_interval(0.5, 0)
