"""The hostile suite's servers, shared by all of its tests."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.attacks.host import Host
from tests.attacks.lanes import Lanes, serve

LANES = 4


@pytest.fixture(scope="session")
def host() -> Iterator[Host]:
    """Canaries."""
    host = Host()
    yield host
    host.close()


@pytest.fixture(scope="session")
def lanes(request: pytest.FixtureRequest, host: Host) -> Iterator[Lanes]:
    """Servers that are already working on every attack that was selected."""
    attacks = [
        (item.callspec.params["key"], item.callspec.params["attack"])
        for item in request.session.items
        if hasattr(item, "callspec") and "attack" in item.callspec.params and "level" not in item.callspec.params
    ]
    with contextlib.ExitStack() as stack:
        count = min(LANES, len(attacks))
        servers = [stack.enter_context(serve(host, f"lane{number}", "sandbox.slots=1")) for number in range(count)]
        lanes = Lanes(host, servers)
        lanes.start(attacks)
        yield lanes
        lanes.join()
