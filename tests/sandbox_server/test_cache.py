"""Verdicts are kept for those who ask, keyed by everything that they depend on."""

from __future__ import annotations

import dataclasses

import pytest

from sandbox_server.cache import VerdictCache
from sandbox_server.jobs import File, Job, Judge, LimitsRequest, Outcome, RuntimeInfo, Verdict
from tests.fakes import INFO, LIMITS

JOB = Job(code="1", tests="assert 1", cache=True)
PASSED = Outcome(Verdict.PASSED)


def test_the_id_and_spelled_out_defaults_do_not_matter() -> None:
    cache = VerdictCache(10_000, INFO)
    same = [
        dataclasses.replace(JOB, request_id="other"),
        dataclasses.replace(JOB, limits=LimitsRequest(**dataclasses.asdict(LIMITS))),
        dataclasses.replace(JOB, limits=LimitsRequest(processes=LIMITS.processes)),
    ]
    assert {cache.key(job) for job in same} == {cache.key(JOB)}


@pytest.mark.parametrize(
    "changes",
    [
        {"code": "2"},
        {"tests": "assert 2"},
        {"code": "", "tests": "1assert 1"},
        {"stdin": b"x"},
        {"files": (File("a", b""),)},
        {"files": (File("a", b"", executable=True),)},
        {"env": (("A", "1"),)},
        {"collect": ("*",)},
        {"limits": LimitsRequest(processes=LIMITS.processes + 1)},
        {"judge": Judge.SEPARATE},
        {"entry_point": "f"},
        {"random_seed": 0},
        {"repeat": 2},
        {"expect_tests": True},
        {"runtime": "command"},
    ],
)
def test_everything_else_does(changes) -> None:
    cache = VerdictCache(10_000, INFO)
    assert cache.key(dataclasses.replace(JOB, **changes)) != cache.key(JOB)


def test_another_fingerprint_is_another_key() -> None:
    runtimes = (RuntimeInfo("python", "CPython", (), "f9", warm=True),)
    other = VerdictCache(10_000, dataclasses.replace(INFO, runtimes=runtimes))
    assert other.key(JOB) != VerdictCache(10_000, INFO).key(JOB)


def test_a_hit_says_so_and_has_the_callers_id() -> None:
    cache = VerdictCache(10_000, INFO)
    key = cache.key(JOB)
    assert cache.get(key, "a") is None
    cache.put(key, dataclasses.replace(PASSED, request_id="first"))
    assert cache.get(key, "a") == dataclasses.replace(PASSED, request_id="a", cached=True)


def test_what_depends_on_the_hosts_load_is_not_kept() -> None:
    cache = VerdictCache(10_000, INFO)
    for outcome in (Outcome(Verdict.TIME_LIMIT), Outcome(Verdict.KILLED), Outcome(Verdict.FAILED, flaky=True)):
        cache.put(b"k", outcome)
    assert len(cache) == 0


def test_the_least_recently_used_goes_first_and_the_bound_holds() -> None:
    big = dataclasses.replace(PASSED, stdout=bytes(2000))  # with what an entry costs, about 4 KB
    cache = VerdictCache(10_000, INFO)
    for name in (b"a", b"b"):
        cache.put(name, big)
    assert cache.get(b"a", "") is not None
    cache.put(b"c", big)
    assert [name for name in (b"a", b"b", b"c") if cache.get(name, "")] == [b"a", b"c"]
    cache.put(b"d", dataclasses.replace(PASSED, stdout=bytes(20_000)))  # larger than all of it
    cache.put(b"c", big)  # again: counted once
    assert len(cache) == 2
    assert VerdictCache(0, INFO).put(b"a", PASSED) is None
