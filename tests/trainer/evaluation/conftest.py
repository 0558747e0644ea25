"""Fixtures of the evaluation's tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from generator.store import Database, open_database


@pytest.fixture(scope="session")
def benchmark_data() -> Path:
    """The folder of benchmark data, which is not part of the repository."""
    folder = Path(os.environ.get("SELFALIGN_BENCHMARK_DATA") or Path(__file__).parents[4] / "shared" / "data")
    if not (folder / "mbpp.jsonl").is_file():
        pytest.skip(f"no benchmark data in {folder}: set SELFALIGN_BENCHMARK_DATA")
    return folder


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """An empty database with every table."""
    database = open_database(f"sqlite:///{tmp_path / 'test.db'}", create=True)
    yield database
    database.close()


@pytest.fixture(scope="session", autouse=True)
def reference_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Outputs of reference programs are kept for the session, and not in the user's cache."""
    folder = tmp_path_factory.mktemp("references")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SELFALIGN_REFERENCE_CACHE", str(folder))
        yield folder
