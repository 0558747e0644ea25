"""pass@k: the chance that at least one of k samples of a problem is right."""

from __future__ import annotations

import math
from collections.abc import Sequence


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Estimate pass@k of one problem without bias, as in Chen et al. 2021 (arXiv 2107.03374), section 2.1.

    It is the share of the k-subsets of the samples that hold a right one: 1 - C(n - c, k) / C(n, k). The naive
    1 - (1 - c/n)^k is too low.

    Args:
        samples: n, samples drawn.
        passed: c, samples that passed.
        k: size of the subset, at most n.

    Raises:
        ValueError: when the numbers cannot be.
    """
    if not 1 <= k <= samples or not 0 <= passed <= samples:
        raise ValueError(f"need 1 <= k <= samples and 0 <= passed <= samples, got {k=}, {samples=}, {passed=}")
    return 1.0 - math.comb(samples - passed, k) / math.comb(samples, k)


def mean_pass_at_k(counts: Sequence[tuple[int, int]], k: int) -> float | None:
    """Average pass@k over problems.

    Args:
        counts: (samples, passed) of each problem.
        k: size of the subset.

    Returns:
        A number in [0, 1], or None where a problem has fewer than k samples (or there is no problem).
    """
    if not counts or any(samples < k for samples, _ in counts):
        return None
    return sum(pass_at_k(samples, passed, k) for samples, passed in counts) / len(counts)


def wilson_interval(rate: float, problems: int, z: float = 1.959964) -> list[float]:
    """Confidence interval of a mean over problems, after Wilson 1927: the problems are a sample of all such tasks.

    Meant for rates of 0 and 1 per problem (one sample each). With several samples a problem's rate lies between, varies
    less than a coin of the same mean, and the interval is wider than it need be.

    Args:
        rate: the mean, in [0, 1].
        problems: how many it was taken over.
        z: quantile of the normal distribution; 1.96 for 95 %.

    Returns:
        Lower and upper end, in [0, 1].
    """
    if problems < 1:
        raise ValueError(f"need at least one problem, got {problems}")
    weight = z * z / problems
    centre = (rate + weight / 2) / (1 + weight)
    half = z * math.sqrt(rate * (1 - rate) / problems + weight / (4 * problems)) / (1 + weight)
    return [max(0.0, centre - half), min(1.0, centre + half)]
