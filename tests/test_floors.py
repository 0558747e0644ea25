"""What each floor may load."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "sqlalchemy", "alembic", "grpc", "google.protobuf", "httpx", "nsjail")


def modules_after(statement: str) -> set[str]:
    """Names of all modules that a fresh interpreter has loaded after `statement`."""
    script = f"import sys\ntry:\n    {statement}\nexcept SystemExit:\n    pass\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_help_loads_nothing_heavy() -> None:
    """`selfalign --help` answers at once because it loads click and the standard library only."""
    loaded = modules_after("import selfalign; selfalign.main(['--help'])")

    assert "selfalign" in loaded
    assert not loaded & set(HEAVY)


@pytest.mark.parametrize("module", ["sandbox_server.client", "sandbox_server.server", "sandbox_server.jail"])
def test_the_sandbox_loads_no_database_and_no_torch(module: str) -> None:
    """Another project can use the sandbox with neither installed."""
    loaded = modules_after(f"import {module}")

    assert module in loaded
    assert not loaded & {"torch", "transformers", "sqlalchemy", "alembic", "generator", "trainer"}
