"""What is run of an answer besides its own tests, and what that comes to: functions of an instruction's samples.

Agreement is CodeT's (Chen et al. 2022, arXiv 2207.10397): answers that pass the same tests form a group, and a group
counts for as much as it has members times tests that it passes. Mutants are those of `generator.mutants`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from generator import mutants
from generator.recipe import SelectionSettings

VERSION = 1
"""Raised whenever the same samples give other programs or other scores."""

PASSED = "PASSED"
_REFUSED = "REFUSED"


class Kind(StrEnum):
    """What a check asks."""

    AGREEMENT = "agreement"
    MUTANT = "mutant"
    REPEAT = "repeat"
    STUB = "stub"


@dataclass(frozen=True, slots=True)
class Sample:
    """An answer that could be read. `passed` says whether its own tests did."""

    response_id: str
    sample_index: int
    code: str
    tests: str
    passed: bool


@dataclass(frozen=True, slots=True)
class Check:
    """One program to run about `response_id`, see `program`.

    Attributes:
        number: the other sample's index, or the mutant's number; with `kind` it names the check.
        other_id: the response whose tests are run.
        label: the mutant's fault.
    """

    response_id: str
    kind: Kind
    number: int
    other_id: str | None = None
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """What the checks of one response came to; None where it was not checked, or nothing could be run.

    Attributes:
        tests: samples whose tests its code was run with, its own among them; it passed `tests_passed` of them.
        group_size: samples that pass the very same tests, itself among them.
        agreement: the group's share of all samples, times the share of all tests that it passes.
        stub_failed: whether its tests fail on functions that do nothing.
        mutants: faults that were tried; its tests noticed `mutants_killed` of them.
        flaky: whether running it again ended otherwise.
    """

    tests: int | None = None
    tests_passed: int | None = None
    group_size: int | None = None
    agreement: float | None = None
    stub_failed: bool | None = None
    mutants: int | None = None
    mutants_killed: int | None = None
    mutation_score: float | None = None
    flaky: bool | None = None


def are_wanted(settings: SelectionSettings) -> bool:
    """Whether anything is checked at all."""
    return settings.agreement or settings.mutants > 0 or settings.repeat > 1


def most(settings: SelectionSettings, others: int) -> int:
    """The most programs that are run of one answer that passed, where its instruction has so many other samples."""
    faults = settings.mutants + 1 if settings.mutants else 0  # and the empty functions
    return faults + (settings.repeat > 1) + (others if settings.agreement else 0)


def checks(samples: list[Sample], settings: SelectionSettings) -> Iterator[Check]:
    """Yield what is to be run about the samples of one instruction: about each that passed its own tests."""
    for sample in samples:
        id = sample.response_id
        if not sample.passed:
            continue
        if settings.repeat > 1:
            yield Check(id, Kind.REPEAT, 0)
        if settings.mutants:
            stub, faults = _faulty(sample.code, settings.mutants)
            if stub is not None:
                yield Check(id, Kind.STUB, 0)
            for number, mutant in enumerate(faults):
                yield Check(id, Kind.MUTANT, number, label=mutant.label)
        if settings.agreement:
            for other in samples:
                if other.response_id != id:
                    yield Check(id, Kind.AGREEMENT, other.sample_index, other.response_id)


def program(check: Check, sample: Sample, other: Sample | None, settings: SelectionSettings) -> tuple[str, str]:
    """The code and the tests that a check runs.

    Args:
        check: one of `checks`.
        sample: the response that it is about.
        other: the response whose tests are run, where the check names one.
        settings: as `checks` was given.
    """
    match check.kind:
        case Kind.AGREEMENT:
            assert other is not None
            return _under_the_names_of(other, sample), other.tests
        case Kind.MUTANT:
            return _faulty(sample.code, settings.mutants)[1][check.number].code, sample.tests
        case Kind.STUB:
            stub = _faulty(sample.code, settings.mutants)[0]
            assert stub is not None
            return stub, sample.tests
        case Kind.REPEAT:
            return sample.code, sample.tests


def score(
    samples: list[Sample],
    verdicts: Mapping[tuple[str, Kind, int], str],
    settings: SelectionSettings,
    repeated: Mapping[str, list[str]],
) -> dict[str, Score]:
    """Count what the checks of one instruction's samples came to.

    Args:
        samples: as `checks` was given.
        verdicts: by response, kind and number.
        settings: as `checks` was given.
        repeated: the verdicts of the repeated runs, by response.

    Returns:
        The scores of the samples that passed, by response.
    """
    passed = {
        sample.response_id: frozenset(
            other.sample_index
            for other in samples
            if other.response_id == sample.response_id
            or verdicts.get((sample.response_id, Kind.AGREEMENT, other.sample_index)) == PASSED
        )
        for sample in samples
        if sample.passed
    }
    groups = Counter(passed.values())
    scores = {}
    for id, tests in passed.items():
        faults = [
            verdict
            for (about, kind, _), verdict in verdicts.items()
            if (about, kind) == (id, Kind.MUTANT) and verdict != _REFUSED
        ]
        killed = sum(verdict != PASSED for verdict in faults)
        stub = verdicts.get((id, Kind.STUB, 0))
        size = groups[tests]
        agreement = size * len(tests) / len(samples) ** 2
        scores[id] = Score(
            tests=len(samples) if settings.agreement else None,
            tests_passed=len(tests) if settings.agreement else None,
            group_size=size if settings.agreement else None,
            agreement=agreement if settings.agreement else None,
            stub_failed=None if stub in (None, _REFUSED) else stub != PASSED,
            mutants=len(faults) if settings.mutants else None,
            mutants_killed=killed if settings.mutants else None,
            mutation_score=killed / len(faults) if faults else None,
            flaky=any(verdict != PASSED for verdict in repeated.get(id, ())) if settings.repeat > 1 else None,
        )
    return scores


@lru_cache(maxsize=256)  # asked for when a check is planned, and again when it is run
def _faulty(code: str, count: int) -> tuple[str | None, tuple[mutants.Mutant, ...]]:
    return mutants.stub(code), mutants.mutants(code, count)


def _under_the_names_of(other: Sample, sample: Sample) -> str:
    """The sample's code, with its one tested function or class also under the name that the other's tests call.

    Instructions often leave the name open. Nothing is renamed where it is not clear what stands for what.
    """
    called = _tested(other)
    mine = _tested(sample)
    if len(called) != 1 or len(mine) != 1 or called & mutants.entry_names(sample.code):
        return sample.code
    return f"{sample.code}\n\n{next(iter(called))} = {next(iter(mine))}\n"


def _tested(sample: Sample) -> frozenset[str]:
    """Of the names that the code defines those that its own tests speak of."""
    return mutants.entry_names(sample.code) & frozenset(re.findall(r"\w+", sample.tests))
