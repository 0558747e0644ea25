from __future__ import annotations

import pytest

from generator.estimate import _active_s


def test_pauses_between_builds_are_no_work() -> None:
    first, second = [0.1 * number for number in range(50)], [9000 + 0.1 * number for number in range(50)]

    assert _active_s([*second, *first]) == pytest.approx(2 * 4.9)


def test_a_slow_model_is_no_pause() -> None:
    assert _active_s([60.0 * number for number in range(20)]) == pytest.approx(19 * 60)
