"""SandboxFusion's HTTP interface, as its callers use it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from sandbox_server.errors import Broken, InvalidJob, Overloaded, Unavailable
from sandbox_server.jobs import Job, Outcome, Verdict
from tests.fakes import FakeSandbox

pytest.importorskip("starlette")

from starlette.testclient import TestClient

from sandbox_server import fusion
from sandbox_server.fusion import MOST_BODY_BYTES, answer_of, job_of, make_app

# What verl sends (verl/utils/reward_score/sandbox_fusion/utils.py).
VERL = {"compile_timeout": 10, "run_timeout": 10, "code": "print(input())", "stdin": "3", "language": "python"}
VERL |= {"files": {}, "fetch_files": []}


def post(sandbox: FakeSandbox, body: Any, **headers: str) -> Any:
    with TestClient(make_app(sandbox)) as client:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return client.post("/run_code", content=content, headers={"content-type": "application/json"} | headers)


async def test_a_request_of_verl_becomes_a_job() -> None:
    job, timeout_s = job_of(VERL)

    assert (job.code, job.stdin, job.runtime) == ("print(input())", b"3", "python")
    assert (job.limits.wall_time_ms, job.limits.cpu_time_ms, job.limits.memory_bytes) == (10_000, 10_000, None)
    assert timeout_s < 10 + 10 + 10  # when verl gives up


def test_files_go_in_and_come_out_in_base64() -> None:
    content = base64.b64encode(b"\x00\xff").decode()
    job, _ = job_of(
        VERL | {"files": {"a.bin": content, "none": None}, "fetch_files": ["out[1].txt"], "memory_limit_MB": 64}
    )

    assert [(file.path, file.content) for file in job.files] == [("a.bin", b"\x00\xff")]
    assert job.collect == ("out[[]1].txt",)
    assert job.limits.memory_bytes == 64 * 2**20


@pytest.mark.parametrize(
    ("outcome", "status", "run_status", "return_code"),
    [
        (Outcome(Verdict.EXITED, exit_code=0), "Success", "Finished", 0),
        (Outcome(Verdict.EXITED, exit_code=3), "Failed", "Finished", 3),
        (Outcome(Verdict.ERROR, exit_code=1), "Failed", "Finished", 1),
        (Outcome(Verdict.TIME_LIMIT), "Failed", "TimeLimitExceeded", None),
        (Outcome(Verdict.MEMORY_LIMIT), "Failed", "Finished", 1),
        (Outcome(Verdict.KILLED, signal=11), "Failed", "Finished", -11),
        (Outcome(Verdict.OUTPUT_LIMIT, exit_code=0), "Failed", "Finished", 1),
    ],
)
def test_how_a_program_ended_is_told_in_its_words(
    outcome: Outcome, status: str, run_status: str, return_code: int | None
) -> None:
    answer = answer_of(outcome)

    assert answer["status"] == status
    assert (answer["run_result"]["status"], answer["run_result"]["return_code"]) == (run_status, return_code)
    assert set(answer) == {"status", "message", "compile_result", "run_result", "executor_pod_name", "files"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"code": None}, "code"),
        ({"code": 3}, "code"),
        ({"language": None}, "language"),
        ({"run_timeout": "long"}, "run_timeout"),
        ({"run_timeout": 0}, "run_timeout"),
        ({"run_timeout": True}, "run_timeout"),
        ({"files": []}, "files"),
        ({"files": {"a": "no base64!"}}, "files"),
        ({"fetch_files": [1]}, "fetch_files"),
        ({"memory_limit_MB": "1"}, "memory_limit_MB"),
        ({"args": ["-x"]}, "args"),
    ],
)
def test_a_mistake_is_refused_with_the_name_of_its_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        job_of(VERL | change)

    assert caught.value.field == field


@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b"[" * 100_000, b"\xff", b'{"code": "x"}'])
def test_a_body_that_is_no_request_is_refused(body: bytes) -> None:
    answer = post(FakeSandbox(), body)

    assert answer.status_code in (413, 422)
    assert answer.json()["detail"]


def test_only_json_is_taken() -> None:
    """A form of a web page elsewhere runs nothing."""
    sandbox = FakeSandbox()

    assert post(sandbox, VERL, **{"content-type": "text/plain"}).status_code == 415
    assert sandbox.started == []


def test_a_body_without_end_is_refused() -> None:
    assert post(FakeSandbox(), b" " * (MOST_BODY_BYTES + 1)).status_code == 413


def test_bodies_that_do_not_fit_into_memory_together_are_refused_for_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusion, "_MOST_HELD_BYTES", 100_000)
    with TestClient(make_app(FakeSandbox())) as client:
        sizes = (200_000, 60_000, 60_000)  # one after the other: what is answered is held no more
        headers = {"content-type": "application/json"}
        answers = [client.post("/run_code", content=b" " * size, headers=headers) for size in sizes]

    assert [answer.status_code for answer in answers] == [504, 422, 422]
    assert "hold more than 100000 bytes" in answers[0].text


async def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusion, "_BODY_S", 0.01)
    sent: list[Any] = []

    async def receive() -> Any:
        if not sent:
            sent.append(None)
            return {"type": "http.request", "body": b"{", "more_body": True}
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/run_code", "headers": headers, "query_string": b""}
    await make_app(FakeSandbox())(scope, receive, send)

    assert sent[1]["status"] == 504
    assert b"did not arrive within 0.01 s" in sent[2]["body"]


@pytest.mark.parametrize(
    ("trouble", "status"), [(Overloaded("full"), 504), (Unavailable("away"), 504), (Broken("bug"), 200)]
)
def test_trouble_of_the_sandbox_is_never_the_programs(trouble: Exception, status: int) -> None:
    """What another try may end is the status that verl tries again."""

    async def fails(job: Job) -> Outcome:
        raise trouble

    answer = post(FakeSandbox(fails), VERL)

    assert answer.status_code == status
    assert answer.json()["status"] == "SandboxError"
    assert answer.json()["run_result"] is None


def test_an_answer_that_comes_too_late_is_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox_server.fusion._PATIENCE_S", 0.0)

    async def hangs(job: Job) -> Outcome:
        await asyncio.sleep(60)
        raise AssertionError

    answer = post(FakeSandbox(hangs), VERL | {"run_timeout": 0.01, "compile_timeout": 0.01})

    assert (answer.status_code, answer.json()["status"]) == (504, "SandboxError")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The command itself, over a real sandbox."""
    command = [sys.executable, "-m", "selfalign", "sandbox", "http", "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.match(r"(http://\S+/run_code), by ", line)
        assert found, line
        yield found[1]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        process.stdout.close()
        process.wait(30)


def ask(address: str, **change: Any) -> Any:
    body = json.dumps(VERL | change).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@pytest.mark.nsjail
def test_real_programs_are_run(address: str) -> None:
    good = ask(address)
    raised = ask(address, code="import sys\nprint('half')\nraise ValueError('no')")
    broken = ask(address, code="def (")
    late = ask(address, code="while True: pass", run_timeout=0.5)
    exited = ask(address, code="import sys; sys.exit(7)")
    files = ask(
        address,
        code="open('b.txt', 'w').write(open('a.txt').read() * 2)",
        files={"a.txt": base64.b64encode(b"ha").decode()},
        fetch_files=["b.txt", "none.txt"],
    )

    assert (good["status"], good["run_result"]["stdout"]) == ("Success", "3\n")
    assert (raised["status"], raised["run_result"]["return_code"]) == ("Failed", 1)
    assert (raised["run_result"]["stdout"], "ValueError: no" in raised["run_result"]["stderr"]) == ("half\n", True)
    assert (broken["status"], "SyntaxError" in broken["run_result"]["stderr"]) == ("Failed", True)
    assert (late["status"], late["run_result"]["status"]) == ("Failed", "TimeLimitExceeded")
    assert exited["run_result"]["return_code"] == 7
    assert base64.b64decode(files["files"]["b.txt"]) == b"haha"


@pytest.mark.nsjail
@pytest.mark.parametrize(
    ("change", "told"), [({"language": "cobol"}, "cobol"), ({"run_timeout": 9999}, "wall_time_ms")]
)
def test_what_cannot_be_done_is_refused(address: str, change: dict[str, Any], told: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask(address, **change)

    with caught.value as error:
        assert error.code == 422
        assert told in json.load(error)["detail"]
