"""Where the host gives less, verdicts may be coarser, but nothing gets out and nothing wrong passes."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from sandbox_server.errors import Unsupported
from sandbox_server.jobs import Verdict
from tests.attacks.attack import Attack
from tests.attacks.host import Host
from tests.attacks.lanes import Lanes, serve
from tests.attacks.test_attacks import CATALOGUE

pytestmark = [pytest.mark.nsjail, pytest.mark.slow]

LANES = 3


@dataclass(frozen=True, slots=True)
class Level:
    """What a host may have less of."""

    name: str
    settings: tuple[str, ...] = ()
    rootless: bool = False

    def __str__(self) -> str:
        return self.name


LEVELS = (
    Level("cold", ("sandbox.warm=false",)),
    Level("no_control_group", ("sandbox.cgroup=none",)),
    Level("rootless", rootless=True),
)

# The groups whose point is a wall; how limits are met without control groups is told in docs/threat-model.md.
WALLS = ("group_c", "group_d", "group_f", "group_g", "group_h", "group_i", "group_j", "group_k")
# What does not hold yet, and why; a row that begins to hold fails until it is taken out.
OPEN: dict[tuple[str, str], str] = {}
# Without a control group the limits are each process's own: a refusal is then the program's own error, or it goes on.
COARSER = {Verdict.ERROR, Verdict.TIME_LIMIT, Verdict.EXITED, Verdict.KILLED, Verdict.MEMORY_LIMIT}


@pytest.fixture(scope="session", params=LEVELS, ids=str)
def level(request: pytest.FixtureRequest, host: Host) -> Iterator[tuple[Level, Lanes]]:
    """Servers at one level, already at work on the attacks that were selected for it."""
    chosen: Level = request.param
    settings = ["sandbox.slots=1", *chosen.settings]
    as_user: list[str] = []
    if chosen.rootless and os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("setpriv, which drops root, is not installed")
        cache = host.servers / "cache"
        cache.mkdir(exist_ok=True)
        os.chown(cache, 65534, 65534)
        settings.append(f"sandbox.cache_dir={cache}")
        # The interpreter may live where only root may look; nothing else is kept of root's power.
        as_user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        as_user += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    attacks = [
        (item.callspec.params["key"], item.callspec.params["attack"])
        for item in request.session.items
        if hasattr(item, "callspec") and item.callspec.params.get("level") == chosen
    ]
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(serve(host, f"{chosen.name}{number}", *settings, as_user=as_user))
            for number in range(min(LANES, len(attacks)))
        ]
        lanes = Lanes(host, servers)
        lanes.start(attacks)
        yield chosen, lanes
        lanes.join()


@pytest.mark.parametrize(
    ("key", "attack"),
    [pytest.param(key, attack, id=key) for key, attack in CATALOGUE.items() if key.startswith(WALLS)],
)
def test_the_walls_stand(key: str, attack: Attack, level: tuple[Level, Lanes], request: pytest.FixtureRequest) -> None:
    """The host and the next run are untouched, and the verdict is the row's, or a coarser one without a group."""
    chosen, lanes = level
    report = lanes.report(key)
    if (chosen.name, key) in OPEN:
        request.applymarker(pytest.mark.xfail(reason=OPEN[chosen.name, key], strict=True))
    assert not report.harm, "\n".join(report.harm)
    if isinstance(report.error, Unsupported):
        pytest.skip(f"this server says: {report.error}")
    assert report.error is None, f"the sandbox refused to run it: {report.error!r}"
    assert report.outcome is not None
    without_group = chosen.rootless or "sandbox.cgroup=none" in chosen.settings
    allowed = {*attack.verdicts, *(COARSER if without_group else ())}
    assert report.outcome.verdict in allowed, report.outcome
    if report.outcome.verdict in attack.verdicts:
        for check in attack.checks:
            check(report.outcome)
