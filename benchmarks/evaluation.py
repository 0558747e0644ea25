"""Side by side with evalplus: the same samples, the same machine, one run.

    python benchmarks/evaluation.py --benchmark humaneval+ --samples FILE --data FOLDER [--repeats 10] [--load 1]
    python benchmarks/evaluation.py --quick --data FOLDER

Installs evalplus from PyPI into an environment of its own under .selfalign/, gives it the data through its
override-path variables, and scores the samples with both in turn, so that whatever else the machine does falls on both
alike. What both compute once and keep, the outputs of the reference solutions, is computed before and timed apart. With
--load, so many other processes keep a core busy meanwhile.

Says on stderr what is going on, and which verdicts changed since the first repeat. Each finished step is kept, so that
the same command goes on where it was interrupted; --again begins anew.

Prints one JSON document: for each task on which the two disagree the verdicts and our reason, for each repeat the wall
time, the CPU time (with ours, what of it the programs computed: neither can do with less) and the counts, and the tasks
whose verdict changed between repeats. Interrupted by Ctrl-C or SIGTERM, it prints what the finished repeats say, and
exits with 130.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / ".selfalign"
KEPT = HOME / "evaluation"
RELEASE = {"v0.1.9": "0.2.1", "v0.1.0": "0.2.1", "v0.1.10": "0.3.1", "v0.2.0": "0.3.1"}
# What 0.2.1 imports; `multipledispatch` and the rest of its requirements belong to its generator of inputs.
NEEDS = ("numpy<2.3", "tqdm", "termcolor", "wget", "appdirs", "tempdir", "multipledispatch")
DATASET = {"humaneval+": ("humaneval", "HUMANEVAL_OVERRIDE_PATH"), "mbpp+": ("mbpp", "MBPP_OVERRIDE_PATH")}
THEIR_REFERENCES = {
    "humaneval": """
from evalplus.data import get_human_eval_plus, get_human_eval_plus_hash
from evalplus.evaluate import get_groundtruth
get_groundtruth(get_human_eval_plus(), get_human_eval_plus_hash(), [])
""",
    "mbpp": """
from evalplus.data import get_mbpp_plus, get_mbpp_plus_hash
from evalplus.eval._special_oracle import MBPP_OUTPUT_NOT_NONE_TASKS
from evalplus.evaluate import get_groundtruth
get_groundtruth(get_mbpp_plus(), get_mbpp_plus_hash(), MBPP_OUTPUT_NOT_NONE_TASKS)
""",
}
SPIN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    for _ in range(1_000_000): pass\n"
SAY_EVERY_S = 30


def main() -> None:
    """Run both, compare, print."""
    arguments = parse()
    sys.path.insert(0, str(ROOT))
    from trainer.evaluation.data import DataUnfit, find_data
    from trainer.evaluation.formats.humaneval import HUMANEVAL_PLUS
    from trainer.evaluation.formats.mbpp import MBPP_PLUS

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    source = HUMANEVAL_PLUS if arguments.benchmark == "humaneval+" else MBPP_PLUS
    try:
        content = find_data(arguments.benchmark, source, arguments.data)
    except DataUnfit as error:
        raise SystemExit(str(error)) from None
    release = RELEASE[content.version]
    python = install(release)
    lines = content.data.splitlines(keepends=True)
    data = b"".join(lines[: arguments.limit or None])
    samples = as_solutions(arguments.samples, data)
    kept = KEPT / key_of(arguments, data, samples)
    if arguments.again:
        shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True, exist_ok=True)
    (kept / "data.jsonl").write_bytes(data)
    (kept / "samples.jsonl").write_bytes(samples)
    sides = Sides(arguments, python, kept)
    steps, interrupted = {}, False
    try:
        steps["evalplus_references"] = step(kept, "evalplus's references", sides.their_references)
        steps["first"] = step(kept, "selfalign, first time", sides.ours)
        with busy(arguments.load):
            for number in range(1, arguments.repeats + 1):
                steps[f"evalplus {number}"] = step(kept, f"evalplus, repeat {number}", sides.theirs)
                steps[f"selfalign {number}"] = step(kept, f"selfalign, repeat {number}", sides.ours)
                tell_changes(steps, number)
    except KeyboardInterrupt:
        interrupted = True
        say("interrupted: the same command goes on from here")
    runs = [
        (steps[f"evalplus {number}"], steps[f"selfalign {number}"])
        for number in range(1, arguments.repeats + 1)
        if f"selfalign {number}" in steps
    ]
    if runs:
        print(json.dumps(report(arguments, content.version, release, steps, runs), indent=2))
    if interrupted:
        raise SystemExit(130)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", choices=tuple(DATASET), default="humaneval+")
    parser.add_argument("--samples", default="canonical", help="JSONL of samples, or `canonical`")
    parser.add_argument("--data", type=Path, help="file or folder of the benchmark's data")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--load", type=int, default=0, help="other processes that keep a core busy each")
    parser.add_argument("--parallel", type=int, help="evalplus's workers; default: its own, half the processors")
    parser.add_argument("--limit", type=int, default=0, help="only the first so many tasks; 0: all")
    parser.add_argument("--quick", action="store_true", help="two repeats of the first 30 tasks: under a minute")
    parser.add_argument("--again", action="store_true", help="forget what an earlier run of this command finished")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.limit, arguments.repeats = 30, 2
    return arguments


def key_of(arguments: argparse.Namespace, data: bytes, samples: bytes) -> str:
    """Names what decides a step's outcome: this tree's code as well, as far as it is the evaluation's."""
    code = sorted([*(ROOT / "trainer" / "evaluation").rglob("*.py"), *(ROOT / "sandbox_server").rglob("*.py")])
    parts = [data, samples, repr((arguments.load, arguments.parallel)).encode(), *(path.read_bytes() for path in code)]
    return f"{arguments.benchmark}-{hashlib.sha256(b''.join(parts)).hexdigest()[:16]}"


def install(release: str) -> Path:
    """The interpreter of an environment that holds evalplus, made if there is none."""
    home = HOME / f"evalplus-{release}"
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        needs = (*NEEDS, "psutil", "fire") if release != "0.2.1" else NEEDS
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, "--no-deps", f"evalplus=={release}"], check=True)
        subprocess.run([*pip, "setuptools<81", *needs], check=True)
        (home / "ready").touch()
    return python


def as_solutions(samples: str, data: bytes) -> bytes:
    """The samples as whole programs, which both read alike."""
    tasks = {row["task_id"]: row for row in map(json.loads, data.splitlines())}
    if samples == "canonical":
        rows = [{"task_id": t, "solution": row["prompt"] + row["canonical_solution"]} for t, row in tasks.items()]
    else:
        try:
            given = Path(samples).read_bytes()
        except OSError as error:
            raise SystemExit(f"{samples}: cannot be read: {error}") from None
        text = gzip.decompress(given) if samples.endswith(".gz") else given
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        rows = [
            {
                "task_id": row["task_id"],
                "solution": row.get("solution") or tasks[row["task_id"]]["prompt"] + row["completion"],
            }
            for row in rows
            if row["task_id"] in tasks
        ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def say(text: str) -> None:
    """Tell whoever waits."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def step(kept: Path, name: str, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a step found: now, or when it finished earlier."""
    path = kept / f"{name.replace(' ', '-').replace(',', '')}.json"
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text())
        say(f"{name}: {found['wall_s']:.1f} s, {found['cpu_s']:.1f} s of CPU time, earlier")
        return found
    say(f"{name} ...")
    found = run()
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(found))
    unfinished.replace(path)
    say(f"{name}: {found['wall_s']:.1f} s, {found['cpu_s']:.1f} s of CPU time")
    return found


class Sides(NamedTuple):
    """The two that are compared. Each run tells `wall_s`, `cpu_s` and, by task, `verdicts`: base passed, all passed."""

    arguments: argparse.Namespace
    python: Path
    kept: Path

    def environment(self) -> dict[str, str]:
        """Where both find the data, and keep what references answered."""
        return {
            **os.environ,
            DATASET[self.arguments.benchmark][1]: str(self.kept / "data.jsonl"),
            "XDG_CACHE_HOME": str(self.kept / "evalplus"),
            "SELFALIGN_REFERENCE_CACHE": str(self.kept / "references"),
        }

    def their_references(self) -> dict[str, Any]:
        """Have evalplus compute what it expects, and keep it."""
        shutil.rmtree(self.kept / "evalplus", ignore_errors=True)
        code = THEIR_REFERENCES[DATASET[self.arguments.benchmark][0]]
        return timed([str(self.python), "-c", code], self.environment())[0]

    def theirs(self) -> dict[str, Any]:
        """A run of evalplus."""
        with tempfile.TemporaryDirectory(prefix="evaluation-") as work:
            copy = Path(work) / "samples.jsonl"
            copy.write_bytes((self.kept / "samples.jsonl").read_bytes())
            command = [str(self.python), "-m", "evalplus.evaluate", "--dataset", DATASET[self.arguments.benchmark][0]]
            command += ["--samples", str(copy)]
            if self.arguments.parallel:
                command += ["--parallel", str(self.arguments.parallel)]
            found, _ = timed(command, self.environment())
            results = json.loads((Path(work) / "samples_eval_results.json").read_text())["eval"]
        return found | {"verdicts": {task: _verdict(samples[0]) for task, samples in results.items()}}

    def ours(self) -> dict[str, Any]:
        """A run of `selfalign eval`; `reasons` tells what went wrong with each task, `programs_s` their CPU time."""
        with tempfile.TemporaryDirectory(prefix="evaluation-") as work:
            command = [sys.executable, str(ROOT / "selfalign.py"), "eval", "--benchmark", self.arguments.benchmark]
            command += ["--samples", str(self.kept / "samples.jsonl"), "--db", f"sqlite:///{work}/evaluation.db"]
            command += ["--json"]
            if self.arguments.data:
                command += ["--data", str(self.arguments.data)]
            if self.arguments.limit:
                command += ["--limit", str(self.arguments.limit)]
            found, printed = timed(command, self.environment())
        ((evaluation),) = json.loads(printed)
        samples = [one for one in evaluation["samples"] if one["sample_index"] == 0]
        keys = ("first_failure", "error", "stopped_at_input", "cpu_time_ms")
        return found | {
            "verdicts": {
                one["task_id"]: [one["details"]["base"] == "PASSED", one["verdict"] == "PASSED"] for one in samples
            },
            "reasons": {
                one["task_id"]: {"verdict": one["verdict"], **{key: one["details"].get(key) for key in keys}}
                for one in samples
            },
            "programs_s": sum(one["details"]["cpu_time_ms"] for one in evaluation["samples"]) / 1000,
        }


def _verdict(sample: dict[str, Any]) -> list[bool]:
    base = sample["base_status"] == "pass"
    return [base, base and sample["plus_status"] == "pass"]


def timed(command: list[str], environment: dict[str, str]) -> tuple[dict[str, Any], bytes]:
    """Run a command to its end; returns its times, CPU time with all that it started, and what it printed."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        while True:
            try:
                printed, complaints = process.communicate(timeout=SAY_EVERY_S)
                break
            except subprocess.TimeoutExpired:
                say(f"  still running after {time.monotonic() - started:.0f} s")
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its workers too; a sandbox server sees its parent die
        process.wait()
        raise
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{complaints.decode(errors='replace')}")
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"wall_s": wall, "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}, printed


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep so many cores busy with something else."""
    spinners = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(processes)]
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


def tell_changes(steps: dict[str, Any], number: int) -> None:
    """Say which verdicts of this repeat are not those of the first."""
    for side in ("evalplus", "selfalign"):
        first, now = steps[f"{side} 1"]["verdicts"], steps[f"{side} {number}"]["verdicts"]
        flipped = [task for task in first if now[task] != first[task]]
        if number > 1:
            say(f"  {side}: {len(flipped)} verdicts are not the first repeat's {' '.join(flipped)}".rstrip())


def report(
    arguments: argparse.Namespace,
    version: str,
    release: str,
    steps: dict[str, Any],
    runs: list[tuple[dict[str, Any], dict[str, Any]]],
) -> dict[str, Any]:
    """Everything that was seen."""
    tasks = sorted(runs[0][1]["verdicts"], key=lambda task: int(task.rpartition("/")[2]))

    def changed(side: int) -> dict[str, list[list[bool]]]:
        seen = {task: [run[side]["verdicts"][task] for run in runs] for task in tasks}
        return {task: verdicts for task, verdicts in seen.items() if any(one != verdicts[0] for one in verdicts)}

    def counts(theirs: dict[str, Any], ours: dict[str, Any]) -> dict[str, int]:
        return {
            f"{name}_{part}": sum(verdict[index] for verdict in found["verdicts"].values())
            for name, found in (("evalplus", theirs), ("selfalign", ours))
            for index, part in enumerate(("base", "plus"))
        }

    disagreements = {}
    for task in tasks:
        pairs = [(theirs["verdicts"][task], ours["verdicts"][task]) for theirs, ours in runs]
        if any(one != other for one, other in pairs):
            disagreements[task] = {
                "evalplus_base_plus": [one for one, _ in pairs],
                "selfalign_base_plus": [other for _, other in pairs],
                "selfalign_says": runs[-1][1]["reasons"][task],
            }
    return {
        "benchmark": f"{arguments.benchmark} {version}",
        "samples": arguments.samples if arguments.samples == "canonical" else Path(arguments.samples).name,
        "tasks": len(tasks),
        "evalplus_release": release,
        "evalplus_workers": arguments.parallel or max(1, (os.cpu_count() or 1) // 2),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),
        "busy_processes": arguments.load,
        "evalplus_references_s": round(steps["evalplus_references"]["wall_s"], 2),
        "selfalign_first_time_s": round(steps["first"]["wall_s"], 2),
        "runs": [
            {
                "evalplus_s": round(theirs["wall_s"], 2),
                "selfalign_s": round(ours["wall_s"], 2),
                "ratio": round(theirs["wall_s"] / ours["wall_s"], 2),
                "evalplus_cpu_s": round(theirs["cpu_s"], 2),
                "selfalign_cpu_s": round(ours["cpu_s"], 2),
                "of_it_the_programs_cpu_s": round(ours["programs_s"], 2),
                **counts(theirs, ours),
            }
            for theirs, ours in runs
        ],
        "changed_between_repeats": {"evalplus": changed(0), "selfalign": changed(1)},
        "disagreements": disagreements,
    }


if __name__ == "__main__":
    main()
