from __future__ import annotations

import itertools
from collections.abc import Iterator
from math import comb

import pytest

from trainer.evaluation.paired import Counts, difference_interval, exact_p_value


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 5), (8, 1), (0, 12), (3, 9)])
def test_with_one_sample_each_it_is_mcnemars(gained: int, lost: int) -> None:
    """The p-value is the chance of a split no likelier than this one, counted over all splits of a fair coin."""
    changed = gained + lost
    here = comb(changed, gained)
    expected = sum(comb(changed, count) for count in range(changed + 1) if comb(changed, count) <= here) / 2**changed
    same = [Counts(1, 1, 1, 1), Counts(1, 0, 1, 0)] * 4
    problems = [Counts(1, 0, 1, 1)] * gained + [Counts(1, 1, 1, 0)] * lost + same

    assert exact_p_value(problems) == pytest.approx(expected)
    assert exact_p_value([Counts(*one[2:], *one[:2]) for one in problems]) == pytest.approx(expected)


@pytest.mark.parametrize(
    "problems",
    [
        [Counts(1, 1, 3, 1), Counts(2, 0, 2, 2)],
        [Counts(1, 0, 5, 4)],
        [Counts(3, 3, 2, 0), Counts(1, 1, 2, 0), Counts(2, 1, 1, 1)],
    ],
)
def test_every_deal_of_the_right_samples_is_as_likely(problems: list[Counts]) -> None:
    """Counted: which of a problem's samples are the first evaluation's is a matter of chance."""

    def deals(one: Counts) -> Iterator[int]:
        samples = [True] * (one.first_right + one.second_right)
        samples += [False] * (one.first + one.second - len(samples))
        return (sum(chosen) for chosen in itertools.combinations(samples, one.first))

    observed = sum(one.first_right for one in problems)
    sums = [sum(dealt) for dealt in itertools.product(*(list(deals(one)) for one in problems))]
    tails = [sum(dealt <= observed for dealt in sums), sum(dealt >= observed for dealt in sums)]

    assert exact_p_value(problems) == pytest.approx(min(1.0, 2 * min(tails) / len(sums)))


def test_one_sample_beside_many_is_no_difference() -> None:
    """Nine of ten are right in both: a greedy evaluation and one of ten samples, which a sign test tells apart."""
    problems = [Counts(1, 1, 10, 9)] * 90 + [Counts(1, 0, 10, 9)] * 10

    assert exact_p_value(problems) == 1.0


def test_hundreds_of_problems_with_many_samples_are_counted() -> None:
    assert exact_p_value([Counts(20, 10, 20, 10)] * 400) == 1.0
    assert exact_p_value([Counts(20, 10, 20, 12)] * 400) < 1e-9
    assert exact_p_value([]) == 1.0


def test_the_interval_of_the_difference_is_bonetts_and_prices() -> None:
    """Twelve gained and four lost of sixty, by their formula for counts of pairs."""
    gained, lost = 13 / 62, 5 / 62
    half = 1.959964 * ((gained + lost - (gained - lost) ** 2) / 62) ** 0.5

    found = difference_interval([1.0] * 12 + [-1.0] * 4 + [0.0] * 44)

    assert found == pytest.approx([gained - lost - half, gained - lost + half])
    assert difference_interval([0.0] * 20)[1] > 0.1
    assert difference_interval([]) == [-1.0, 1.0]
