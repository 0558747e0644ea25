"""Every hostile program ends with the right verdict, and leaves the host and the next run as they were."""

from __future__ import annotations

import pytest

from sandbox_server.errors import Unsupported
from tests.attacks import (
    group_a_time,
    group_b_memory,
    group_c_processes,
    group_d_files,
    group_e_output,
    group_f_environment,
    group_g_information,
    group_h_network,
    group_i_kernel,
    group_j_crashes,
    group_k_verdicts,
)
from tests.attacks.attack import Attack
from tests.attacks.lanes import Lanes, Report

pytestmark = pytest.mark.nsjail

GROUPS = (
    group_a_time,
    group_b_memory,
    group_c_processes,
    group_d_files,
    group_e_output,
    group_f_environment,
    group_g_information,
    group_h_network,
    group_i_kernel,
    group_j_crashes,
    group_k_verdicts,
)
CATALOGUE: dict[str, Attack] = {
    f"{module.__name__.rpartition('.')[2]}-{attack.name}": attack for module in GROUPS for attack in module.ATTACKS
}


# What the sandbox does not hold against yet, and why. A row that begins to hold fails until it is taken out.
OPEN: dict[str, str] = {}
LIMITS = {f"limit-{attack.name}": attack for attack in group_k_verdicts.LIMITS_OF_ASSURANCE}


def _check(attack: Attack, report: Report) -> None:
    assert not report.harm, "\n".join(report.harm)
    if isinstance(report.error, Unsupported):
        pytest.skip(f"this server says: {report.error}")
    assert report.error is None, f"the sandbox refused to run it: {report.error!r}"
    outcome = report.outcome
    assert outcome is not None
    assert outcome.verdict in attack.verdicts, outcome
    for check in attack.checks:
        check(outcome)


@pytest.mark.parametrize(
    ("key", "attack"),
    [
        pytest.param(
            key, attack, id=key, marks=[pytest.mark.xfail(reason=OPEN[key], strict=True)] if key in OPEN else []
        )
        for key, attack in CATALOGUE.items()
    ],
)
def test_attack(key: str, attack: Attack, lanes: Lanes) -> None:
    """The verdict is right, what it found out is what it may know, and nothing is left of it."""
    _check(attack, lanes.report(key))


@pytest.mark.parametrize(("key", "attack"), LIMITS.items(), ids=LIMITS.keys())
def test_limit_of_assurance(key: str, attack: Attack, lanes: Lanes) -> None:
    """What TESTS_COMPLETED does not promise to stop is never called more than that, and harms nobody else."""
    _check(attack, lanes.report(key))


def test_every_row_is_of_its_own() -> None:
    """No row hides another by its name, and the catalogue has the size that the documentation gives it."""
    assert len(CATALOGUE) == sum(len(module.ATTACKS) for module in GROUPS)
    assert len(CATALOGUE) >= 150
