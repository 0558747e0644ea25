"""Statistics of two evaluations of the same problems."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import mul
from typing import NamedTuple

_NEGLIGIBLE = 1e-100


class Counts(NamedTuple):
    """Samples and right ones of one problem, in the first evaluation and in the second."""

    first: int
    first_right: int
    second: int
    second_right: int


def exact_p_value(problems: Sequence[Counts]) -> float:
    """Two-sided p-value of the number of right samples, if each problem is as hard for the second as for the first.

    Then a problem's right samples are spread over its samples at random, whichever evaluation they are of: the first's
    share of them is hypergeometric, and the sum over problems has an exact distribution (the conditional test of
    Birch 1964, that of Cochran, Mantel and Haenszel without its approximation). With one sample of each problem in both
    it is McNemar's exact test. The evaluations may differ in their numbers of samples, where a sign test would take
    a coarse share and a fine one for a difference.

    Returns:
        A number in [0, 1]: twice the smaller tail.
    """
    chances, lowest, observed = [1.0], 0, 0  # of `lowest`, `lowest` + 1, ... right samples in the first
    for first, first_right, second, second_right in problems:
        right = first_right + second_right
        low, high = max(0, right - second), min(first, right)
        ways = [math.comb(first, own) * math.comb(second, right - own) for own in range(low, high + 1)]
        total = math.comb(first + second, right)
        chances = _convolve(chances, [way / total for way in ways])
        lowest += low
        observed += first_right
        while len(chances) > 1 and chances[-1] < _NEGLIGIBLE:
            chances.pop()
        dropped = next(index for index, chance in enumerate(chances) if chance >= _NEGLIGIBLE)
        chances, lowest = chances[dropped:], lowest + dropped
    place = observed - lowest
    tails = math.fsum(chances[: max(0, place + 1)]), math.fsum(chances[max(0, place) :])
    return min(1.0, 2 * min(tails))


def _convolve(chances: list[float], ways: list[float]) -> list[float]:
    """The distribution of a sum of two."""
    if len(ways) == 1:
        return chances
    turned, width = ways[::-1], len(ways)
    padded = [0.0] * (width - 1) + chances + [0.0] * (width - 1)
    return [sum(map(mul, turned, padded[place : place + width])) for place in range(len(chances) + width - 1)]


def difference_interval(differences: Sequence[float], z: float = 1.959964) -> list[float]:
    """Confidence interval of a mean difference over problems: the problems are a sample of all such tasks.

    The normal interval with one problem more that was gained and one that was lost, after Bonett and Price 2012, which
    keeps its level where few problems differ, or none.

    Args:
        differences: of each problem's shares of right samples, in [-1, 1].
        z: quantile of the normal distribution; 1.96 for 95 %.

    Returns:
        Lower and upper end, in [-1, 1].
    """
    number = len(differences) + 2
    mean = math.fsum(differences) / number
    variance = (math.fsum(one * one for one in differences) + 2) / number - mean * mean
    half = z * math.sqrt(variance / number)
    return [max(-1.0, mean - half), min(1.0, mean + half)]
