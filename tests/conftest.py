"""The fixture that tests of more than one floor need."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests import postgres


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Server]:
    """A server that lives as long as the tests."""
    from tests import postgres  # the sandbox's tests run without SQL

    try:
        with postgres.serve() as server:
            yield server
    except postgres.NoServer as reason:
        pytest.skip(str(reason))
