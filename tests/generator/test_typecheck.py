"""The type checker is the real one; where the extra is not installed there is nothing to test but the word for it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

import pytest

from generator.recipe import SeedSettings
from generator.records import SeedRecord
from generator.seeds import SEED_FILTERS, batch_filters, judge_all, typecheck
from sandbox_server.settings import SettingsError

installed = pytest.mark.skipif(
    importlib.util.find_spec("basedpyright") is None, reason="needs basedpyright: pip install 'selfalign[typecheck]'"
)
GOOD = "import numpy\n\ndef f(a: int) -> int:\n    return a + 1\n"
WRONG = "def f(a: int) -> str:\n    return a\n"
BROKEN = "def f(:\n"


@installed
def test_each_file_is_told_for_itself_and_one_that_is_no_python_spoils_no_other() -> None:
    assert typecheck.type_errors([GOOD, WRONG, BROKEN, "", GOOD]) == [
        None,
        "type error: reportReturnType, line 2",
        "type error: syntax, line 1",
        None,
        None,
    ]


def test_a_batch_that_does_not_end_is_cut_until_the_file_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runs: list[int] = []

    def run(codes: list[str], timeout_s: float) -> list[str | None] | None:
        runs.append(len(codes))
        return None if "hangs" in codes else [None] * len(codes)

    monkeypatch.setattr(typecheck, "_run", run)

    told = typecheck._checked(["a", "b", "c", "hangs", "d", "e", "f", "g"], 1.0)

    assert told == [None, None, None, "the type checker cannot read it", None, None, None, None]
    assert runs == [8, 4, 2, 2, 1, 1, 4]


@installed
def test_a_checker_that_takes_too_long_leaves_no_process(tmp_path: Path) -> None:
    assert typecheck.type_errors([GOOD], timeout_s=0.01) == ["the type checker cannot read it"]


def test_a_checker_that_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)

    with pytest.raises(SettingsError, match=r"\[seeds\] typecheck: needs basedpyright: pip install"):
        batch_filters(SeedSettings(typecheck=True))
    assert batch_filters(SeedSettings()) == ()


@installed
def test_only_what_the_other_filters_keep_is_checked() -> None:
    def record(code: str) -> SeedRecord:
        return SeedRecord("f", code, "Return the value plus one.", "o", "1", "p", 1, "MIT", "")

    said = '    """Return the value plus one."""\n'
    good = record(f"def f(a: int) -> int:\n{said}    return a + 1\n")
    wrong = record(f"def f(a: int) -> str:\n{said}    return a\n")
    nothing = record(f"def f(a: int) -> str:\n{said}    a + 1\n")

    found = judge_all([nothing, good, wrong], SEED_FILTERS, batch_filters(SeedSettings(typecheck=True)))

    assert [rejection and (rejection.filter.name, rejection.reason) for rejection in found] == [
        ("returns_nothing", "returns no value"),
        None,
        ("typecheck", "type error: reportReturnType, line 3"),
    ]
