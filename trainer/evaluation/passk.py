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
