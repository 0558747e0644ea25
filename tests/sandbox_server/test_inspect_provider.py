"""inspect_ai's evaluations in this sandbox. `make test-apart` runs them in an environment of inspect_ai's own."""

from __future__ import annotations

import gc
import inspect
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("inspect_ai", reason="inspect_ai is not here; `make test-apart` has it")

from inspect_ai import Task, eval_async
from inspect_ai.dataset import Sample
from inspect_ai.log import EvalLog
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import CORRECT, INCORRECT, Score, Scorer, Target, accuracy, scorer
from inspect_ai.solver import TaskState, generate, use_tools
from inspect_ai.tool import bash, python
from inspect_ai.util import (
    OutputLimitExceededError,
    SandboxEnvironment,
    SandboxEnvironmentSpec,
    SandboxUnavailableError,
    SandboxUserUnsupportedError,
    sandbox,
)
from inspect_ai.util._sandbox import self_check

from sandbox_server.embedded import embedded_sandbox
from sandbox_server.errors import Unavailable
from sandbox_server.inspect_provider import SelfalignSandboxConfig, SelfalignSandboxEnvironment, _Server
from sandbox_server.jobs import Job, Outcome
from tests.fakes import INFO, FakeSandbox

# What inspect_ai itself leaves open, and uses of tenacity that is deprecated.
pytestmark = [
    pytest.mark.nsjail,
    pytest.mark.filterwarnings("ignore:The 'initial' parameter:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning"),
]

CHECKS = {name: getattr(self_check, name) for name in self_check.__all__}
CANNOT_PASS = {
    "test_exec_as_user": "programs are one user, without rights",
    "test_exec_large_command": "a command's arguments are at most 256 KiB together",
}


@pytest.fixture
async def environment() -> AsyncIterator[SandboxEnvironment]:
    await SelfalignSandboxEnvironment.task_init("startup", None)
    environments = await SelfalignSandboxEnvironment.sample_init("task", None, {})
    yield environments["default"]
    await SelfalignSandboxEnvironment.sample_cleanup("task", None, environments, False)
    await SelfalignSandboxEnvironment.task_cleanup("shutdown", None, True)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
async def test_it_passes_inspect_ais_own_checks(name: str, environment: SandboxEnvironment) -> None:
    """All but two, and those fail for the reason that is given."""
    assert inspect.iscoroutinefunction(CHECKS[name])
    if name in CANNOT_PASS:
        with pytest.raises((AssertionError, SandboxUserUnsupportedError)):
            await CHECKS[name](environment)
    else:
        await CHECKS[name](environment)


async def test_limits_and_losses_are_told_in_inspect_ais_words(environment: SandboxEnvironment) -> None:
    await environment.write_file("a", "before")

    with pytest.raises(TimeoutError, match="1 s; its files are as before"):
        await environment.exec(["sh", "-c", "echo late >a; sleep 60"], timeout=1)
    with pytest.raises(OutputLimitExceededError):
        await environment.exec(["sh", "-c", "yes | head -c 30000000"])
    with pytest.raises(SandboxUserUnsupportedError, match="root"):
        await environment.exec(["id"], user="root")
    killer = await environment.exec(["sh", "-c", "echo lost >a; kill -9 $PPID; sleep 60"])
    long = await environment.exec(["echo", *["x" * 100_000] * 3])
    eager = await environment.exec(["sh", "-c", "x=x; while :; do x=$x$x; done"])
    user = await environment.exec(["id", "-un"], user="program")

    with pytest.raises(RuntimeError, match="no process outlives"):
        await environment.exec_remote(["id"])

    assert (killer.success, killer.returncode) == (False, 137)
    assert killer.stderr == "sandbox: KILLED; the files are as before this command: KILLED\n"
    assert (long.success, long.returncode) == (False, 126)
    assert not eager.success
    assert user.stdout == "program\n"
    assert await environment.read_file("a") == "before"


@scorer(metrics=[accuracy()])
def prints(expected_file: str) -> Scorer:
    """Run what the tools left: correct when it prints the target and the setup's file is there."""

    async def score(state: TaskState, target: Target) -> Score:
        done = await sandbox().exec(["sh", "-c", "./answer.sh"], timeout=20)
        kept = await sandbox().read_file(expected_file)
        right = done.success and done.stdout.strip() == target.text and kept == "from setup\n"
        return Score(value=CORRECT if right else INCORRECT, explanation=done.stdout + done.stderr)

    return score


def task(spec: Any) -> Task:
    samples = [
        Sample(
            input="Write answer.sh",
            target=str(number),
            files={"data/number.txt": str(number)},
            setup="echo 'from setup' > /tmp/setup.txt",
        )
        for number in (1, 2, 3)
    ]
    solver = [use_tools(bash(timeout=20), python(timeout=20)), generate()]
    return Task(dataset=samples, solver=solver, scorer=prints("/tmp/setup.txt"), sandbox=spec)


async def evaluated(spec: Any, folder: Path) -> EvalLog:
    """Evaluate with a model that writes answer.sh with Python, makes it executable with bash, and is done."""

    def answers(messages: Any, *_: Any) -> ModelOutput:
        said = sum(message.role == "assistant" for message in messages)
        write = "open('answer.sh', 'w').write('#!/bin/sh\\ncat data/number.txt'); print('written')"
        calls = [("python", {"code": write}), ("bash", {"command": "chmod +x answer.sh; ls -l answer.sh"})]
        output = ModelOutput.from_content("mockllm/model", "done")
        if said < len(calls):
            output = ModelOutput.for_tool_call("mockllm/model", *calls[said])
        output.usage = ModelUsage()  # or it counts tokens, with a vocabulary from the network
        return output

    model = get_model("mockllm/model", custom_outputs=answers)
    (log,) = await eval_async(task(spec), model=model, log_dir=str(folder))
    del model
    gc.collect()  # while the warnings of what it left open are ignored
    return log


async def test_an_evaluation_runs_its_setup_tools_and_scorer_on_one_samples_files(tmp_path: Path) -> None:
    """By the registered name alone, with a server that it starts and ends itself."""
    log = await evaluated("selfalign", tmp_path)

    assert (log.status, log.error) == ("success", None)
    assert log.results is not None
    assert log.results.scores[0].metrics["accuracy"].value == 1.0
    for sample in log.samples or ():
        told = [message.text for message in sample.messages if message.role == "tool"]
        assert told[0] == "written\n"
        assert told[1].startswith("-rwxr-xr-x 1 program program")


async def test_an_evaluation_runs_on_a_server_that_is_there(tmp_path: Path) -> None:
    """Given in a file, as `--sandbox selfalign:FILE` names it, and as a value."""
    async with embedded_sandbox(("--set", 'sandbox.runtimes=["python","command"]')) as server:
        file = tmp_path / "sandbox.toml"
        file.write_text(f'address = "{server.address}"\n')
        config = SelfalignSandboxConfig(address=server.address, processes=32)
        for number, spec in enumerate((("selfalign", str(file)), SandboxEnvironmentSpec("selfalign", config))):
            log = await evaluated(spec, tmp_path / str(number))
            assert log.results is not None
            assert log.results.scores[0].metrics["accuracy"].value == 1.0


async def test_a_server_that_is_lost_is_no_failure_of_the_program() -> None:
    async def lose(job: Job) -> Outcome:
        raise Unavailable("the server is gone")

    server = _Server(FakeSandbox(lose), INFO, AsyncExitStack())
    environment = SelfalignSandboxEnvironment(server, SelfalignSandboxConfig())

    with pytest.raises(SandboxUnavailableError, match="the server is gone"):
        await environment.exec(["true"])
    with pytest.raises(SandboxUnavailableError):
        await environment.read_file("a")


async def test_a_configuration_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "sandbox.toml"
    file.write_text('adress = "127.0.0.1:50061"\n')
    with pytest.raises(ValueError, match="adress"):
        await SelfalignSandboxEnvironment.task_init("startup", str(file))
    with pytest.raises(ValueError, match="no such file"):
        await SelfalignSandboxEnvironment.task_init("startup", str(tmp_path / "none"))
    with pytest.raises(TypeError, match="expected a TOML file"):
        await SelfalignSandboxEnvironment.task_init("startup", 3)
