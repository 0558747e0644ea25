"""Every malformed job is refused by the name of its field, before it costs anything."""

from __future__ import annotations

import dataclasses

import pytest

from sandbox_server.errors import InvalidJob, Unsupported
from sandbox_server.jobs import File, Job, Judge, LimitsRequest
from sandbox_server.validation import validate
from tests.fakes import INFO, MAXIMUM

GOOD = Job(code="1", tests="assert 1")
COMMAND = Job(argv=("true",), runtime="command")


def good(**changes: object) -> Job:
    return dataclasses.replace(GOOD, **changes)  # type: ignore[arg-type]


def command(**changes: object) -> Job:
    return dataclasses.replace(COMMAND, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "job",
    [
        GOOD,
        COMMAND,
        Job(code="1"),
        Job(tests="assert 1"),
        Job(expect_tests=True),  # an empty program that should have tested itself: its verdict is NO_TESTS
        good(code="a" * 20_000_000),
        good(code="\0"),  # no text of a program; that is the program's failure, not the caller's
        good(files=(File("a/b/c.txt", b""), File("a/b/d", b"x"), File("ä", b""))),
        good(collect=("*.txt", "out/**/*.json")),
        good(env=(("A", ""), ("lower", "x=y"))),
        good(limits=LimitsRequest(**{field.name: 1 for field in dataclasses.fields(LimitsRequest)})),
        good(limits=LimitsRequest(**dataclasses.asdict(MAXIMUM))),
        good(random_seed=2**64 - 1, repeat=100, entry_point="solve", request_id="x" * 256),
    ],
)
def test_a_job_that_makes_sense_is_let_through(job: Job) -> None:
    validate(job, INFO)


CASES = [
    (Job(), "code"),
    (good(request_id="x" * 257), "request_id"),
    (good(runtime="cobol"), "runtime"),
    (good(runtime="command"), "argv"),
    (command(code="1"), "code"),
    (command(tests="1"), "tests"),
    (command(entry_point="f"), "entry_point"),
    (command(expect_tests=True), "expect_tests"),
    (Job(code="assert True", tests="assert True", expect_tests=True), "expect_tests"),
    (command(judge=Judge.SEPARATE), "judge"),
    (command(argv=("",)), "argv[0]"),
    (command(argv=("a", "b\0")), "argv[1]"),
    (command(argv=("a", "x" * 200_000)), "argv[1]"),
    (command(argv=("a", *["x" * 100_000] * 3)), "argv"),
    (command(argv=("a",) * 1001), "argv"),
    (good(entry_point="a.b"), "entry_point"),
    (good(entry_point="f()"), "entry_point"),
    (good(repeat=0), "repeat"),
    (good(repeat=101), "repeat"),
    (good(random_seed=-1), "random_seed"),
    (good(random_seed=2**64), "random_seed"),
    (good(env=(("", "x"),)), "env"),
    (good(env=(("A=B", "x"),)), "env"),
    (good(env=(("A\0", "x"),)), "env"),
    (good(env=(("A", "x\0"),)), "env"),
    (good(env=(("A", "1"), ("A", "2"))), "env"),
    (good(env=(("LD_PRELOAD", "x"),)), "env"),
    (good(env=(("PYTHONPATH", "x"),)), "env"),
    (good(env=(("GLIBC_TUNABLES", "x"),)), "env"),
    (good(env=(("A", "x" * 200_000),)), "env"),
    (good(env=tuple((f"A{i}", "x" * 100_000) for i in range(3))), "env"),
    (good(collect=("",)), "collect[0]"),
    (good(collect=("a", "/etc/*")), "collect[1]"),
    (good(collect=("../*",)), "collect[0]"),
    (good(collect=("a\0",)), "collect[0]"),
    (good(collect=("a",) * 101), "collect"),
    (good(files=(File("", b""),)), "files[0].path"),
    (good(files=(File("/etc/passwd", b""),)), "files[0].path"),
    (good(files=(File("a", b""), File("../a", b""))), "files[1].path"),
    (good(files=(File("a/../b", b""),)), "files[0].path"),
    (good(files=(File("a//b", b""),)), "files[0].path"),
    (good(files=(File("./a", b""),)), "files[0].path"),
    (good(files=(File("a/", b""),)), "files[0].path"),
    (good(files=(File("a\0b", b""),)), "files[0].path"),
    (good(files=(File("a" * 256, b""),)), "files[0].path"),
    (good(files=(File("ä" * 128, b""),)), "files[0].path"),
    (good(files=(File("/".join("abc" for _ in range(300)), b""),)), "files[0].path"),
    (good(files=(File("a", b"1"), File("b", b""), File("a", b"2"))), "files[2].path"),
    (good(files=(File("a/b", b""), File("a", b""))), "files[0].path"),
    (good(files=tuple(File(str(i), b"") for i in range(1001))), "files"),
    (good(files=(File("a", b"x" * 11),), limits=LimitsRequest(disk_bytes=10)), "files"),
    (good(files=(File("a", b""), File("b", b"xx")), limits=LimitsRequest(file_size_bytes=1)), "files[1].content"),
    *[
        (good(limits=LimitsRequest(**{field.name: value})), f"limits.{field.name}")
        for field in dataclasses.fields(LimitsRequest)
        for value in (0, -1, -(2**63), getattr(MAXIMUM, field.name) + 1, 2**63 - 1)
    ],
]


@pytest.mark.parametrize(("job", "field"), CASES, ids=[f"{index}-{field}" for index, (_, field) in enumerate(CASES)])
def test_a_malformed_job_is_refused_by_its_field(job: Job, field: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        validate(job, INFO)
    assert caught.value.field == field
    assert len(str(caught.value)) < 250  # whatever the caller sent


def test_a_judge_that_is_not_offered_is_unsupported() -> None:
    with pytest.raises(Unsupported, match="SEPARATE is not offered by this server; it offers SAME_INTERPRETER"):
        validate(good(judge=Judge.SEPARATE), INFO)
    offering = dataclasses.replace(INFO, judges=(Judge.SAME_INTERPRETER, Judge.SEPARATE))
    validate(good(judge=Judge.SEPARATE), offering)
    with pytest.raises(InvalidJob, match=r"^tests: "):
        validate(good(judge=Judge.SEPARATE, tests=""), offering)
