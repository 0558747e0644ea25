"""Side by side with evalplus: the same samples, the same machine, one run.

    python benchmarks/evaluation.py --benchmark humaneval+ --samples FILE --data FOLDER [--repeats 10] [--load 1]
    python benchmarks/evaluation.py --quick --data FOLDER

Installs evalplus from PyPI into an environment of its own under .selfalign/, gives it the data through its
override-path variables, and scores the samples with both in turn, so that whatever else the machine does falls on both
alike. Both keep the reference's outputs from a first run, which is timed apart. With --load, so many other processes
keep a core busy meanwhile.

Prints one JSON document: for each task on which the two disagree the verdicts and our reason, for each repeat the wall
time, the CPU time (with ours, what of it the programs computed: neither can do with less) and the counts, and the tasks
whose verdict changed between repeats.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / ".selfalign" / "evalplus"
RELEASE = {"v0.1.9": "0.2.1", "v0.1.0": "0.2.1", "v0.1.10": "0.3.1", "v0.2.0": "0.3.1"}
# What 0.2.1 imports; `multipledispatch` and the rest of its requirements belong to its generator of inputs.
NEEDS = ("numpy<2.3", "tqdm", "termcolor", "wget", "appdirs", "tempdir", "multipledispatch")
DATASET = {"humaneval+": ("humaneval", "HUMANEVAL_OVERRIDE_PATH"), "mbpp+": ("mbpp", "MBPP_OVERRIDE_PATH")}


def main() -> None:
    """Run both, compare, print."""
    arguments = parse()
    sys.path.insert(0, str(ROOT))
    from trainer.evaluation.data import find_data
    from trainer.evaluation.formats.humaneval import HUMANEVAL_PLUS
    from trainer.evaluation.formats.mbpp import MBPP_PLUS

    source = HUMANEVAL_PLUS if arguments.benchmark == "humaneval+" else MBPP_PLUS
    content = find_data(arguments.benchmark, source, arguments.data)
    release = RELEASE[content.version]
    python = install(release)
    with tempfile.TemporaryDirectory(prefix="evaluation-") as folder:
        work = Path(folder)
        data = work / "data.jsonl"
        lines = content.data.splitlines(keepends=True)
        data.write_bytes(b"".join(lines[: arguments.limit or None]))
        samples = as_solutions(arguments.samples, data, work / "samples.jsonl")
        environment = {**os.environ, DATASET[arguments.benchmark][1]: str(data), "XDG_CACHE_HOME": str(work / "cache")}
        environment["SELFALIGN_REFERENCE_CACHE"] = str(work / "references")
        first = {
            "evalplus_first_s": theirs(python, arguments, samples, environment, work / "first")[0].wall,
            "selfalign_first_s": ours(arguments, samples, environment, work / "first.db")[0].wall,
        }
        runs = []
        with busy(arguments.load):
            for number in range(arguments.repeats):
                their_s, their = theirs(python, arguments, samples, environment, work / f"theirs-{number}")
                our_s, our, reasons = ours(arguments, samples, environment, work / f"ours-{number}.db")
                runs.append({"evalplus": their, "evalplus_s": their_s, "selfalign": our, "selfalign_s": our_s})
                runs[-1]["programs_s"] = sum(reason["cpu_time_ms"] or 0 for reason in reasons.values()) / 1000
                print(f"repeat {number}: evalplus {their_s.wall:.1f} s, selfalign {our_s.wall:.1f} s", file=sys.stderr)
    print(json.dumps(report(arguments, content.version, release, first, runs, reasons), indent=2))


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
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.limit, arguments.repeats = 30, 2
    return arguments


def install(release: str) -> Path:
    """The interpreter of an environment that holds evalplus, made if there is none."""
    home = HOME.with_name(f"evalplus-{release}")
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        needs = (*NEEDS, "psutil", "fire") if release != "0.2.1" else NEEDS
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, "--no-deps", f"evalplus=={release}"], check=True)
        subprocess.run([*pip, "setuptools<81", *needs], check=True)
        (home / "ready").touch()
    return python


def as_solutions(samples: str, data: Path, path: Path) -> Path:
    """Write the samples as whole programs, which both read alike."""
    tasks = {row["task_id"]: row for row in map(json.loads, data.read_text().splitlines())}
    if samples == "canonical":
        rows = [{"task_id": t, "solution": row["prompt"] + row["canonical_solution"]} for t, row in tasks.items()]
    else:
        given = Path(samples).read_bytes()
        text = gzip.decompress(given) if samples.endswith(".gz") else given
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        rows = [row for row in rows if row["task_id"] in tasks]
        rows = [
            {
                "task_id": row["task_id"],
                "solution": row.get("solution") or tasks[row["task_id"]]["prompt"] + row["completion"],
            }
            for row in rows
        ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def theirs(
    python: Path, arguments: argparse.Namespace, samples: Path, environment: dict[str, str], work: Path
) -> tuple[Seconds, dict[str, list[bool]]]:
    """Time of evalplus, and by task whether base and plus inputs passed."""
    work.mkdir()
    copy = work / "samples.jsonl"
    copy.write_bytes(samples.read_bytes())
    command = [str(python), "-m", "evalplus.evaluate", "--dataset", DATASET[arguments.benchmark][0]]
    command += ["--samples", str(copy)]
    if arguments.parallel:
        command += ["--parallel", str(arguments.parallel)]
    elapsed, _ = timed(command, environment)
    results = json.loads((work / "samples_eval_results.json").read_text())["eval"]
    return elapsed, {task: verdict_of(found) for task, found in results.items()}


def verdict_of(found: list[dict[str, Any]]) -> list[bool]:
    """Of a task's first sample: did the base inputs pass, and did all?"""
    base = found[0]["base_status"] == "pass"
    return [base, base and found[0]["plus_status"] == "pass"]


def ours(
    arguments: argparse.Namespace, samples: Path, environment: dict[str, str], database: Path
) -> tuple[Seconds, dict[str, list[bool]], dict[str, Any]]:
    """Time of `selfalign eval`, verdicts as `theirs`, and what went wrong with each failed task."""
    command = [sys.executable, str(ROOT / "selfalign.py"), "eval", "--benchmark", arguments.benchmark, "--json"]
    command += ["--samples", str(samples), "--db", f"sqlite:///{database}"]
    if arguments.data:
        command += ["--data", str(arguments.data)]
    if arguments.limit:
        command += ["--limit", str(arguments.limit)]
    elapsed, printed = timed(command, environment)
    (found,) = json.loads(printed)
    verdicts = {
        one["task_id"]: [one["details"]["base"] == "PASSED", one["verdict"] == "PASSED"]
        for one in found["samples"]
        if one["sample_index"] == 0
    }
    kept = ("first_failure", "error", "stopped_at_input", "cpu_time_ms")
    reasons = {
        one["task_id"]: {"verdict": one["verdict"], **{key: one["details"].get(key) for key in kept}}
        for one in found["samples"]
    }
    return elapsed, verdicts, reasons


class Seconds(NamedTuple):
    """Of a command and all that it started: by the clock, and of CPU time."""

    wall: float
    cpu: float


def timed(command: list[str], environment: dict[str, str]) -> tuple[Seconds, bytes]:
    """Run a command to its end; returns its time and what it printed."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr.decode(errors='replace')}")
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Seconds(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime), done.stdout


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep so many cores busy with something else."""
    spinners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


def report(
    arguments: argparse.Namespace,
    version: str,
    release: str,
    first: dict[str, float],
    runs: list[dict[str, Any]],
    reasons: dict[str, Any],
) -> dict[str, Any]:
    """Everything that was seen."""
    tasks = sorted(runs[0]["selfalign"], key=lambda task: int(task.rpartition("/")[2]))

    def changed(name: str) -> list[str]:
        return [task for task in tasks if len({tuple(run[name][task]) for run in runs}) > 1]

    last = runs[-1]
    return {
        "benchmark": f"{arguments.benchmark} {version}",
        "samples": arguments.samples if arguments.samples == "canonical" else Path(arguments.samples).name,
        "evalplus_release": release,
        "evalplus_workers": arguments.parallel or max(1, (os.cpu_count() or 1) // 2),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),
        "busy_processes": arguments.load,
        **first,
        "runs": [
            {
                "evalplus_s": round(run["evalplus_s"].wall, 2),
                "selfalign_s": round(run["selfalign_s"].wall, 2),
                "ratio": round(run["evalplus_s"].wall / run["selfalign_s"].wall, 2),
                "evalplus_cpu_s": round(run["evalplus_s"].cpu, 2),
                "selfalign_cpu_s": round(run["selfalign_s"].cpu, 2),
                "of_it_the_programs_cpu_s": round(run["programs_s"], 2),
                **{
                    f"{name}_{part}": sum(found[index] for found in run[name].values())
                    for name in ("evalplus", "selfalign")
                    for index, part in enumerate(("base", "plus"))
                },
            }
            for run in runs
        ],
        "changed_between_repeats": {"evalplus": changed("evalplus"), "selfalign": changed("selfalign")},
        "disagreements": {
            task: {
                "evalplus_base_plus": last["evalplus"][task],
                "selfalign_base_plus": last["selfalign"][task],
                "selfalign_says": reasons[task],
            }
            for task in tasks
            if last["evalplus"][task] != last["selfalign"][task]
        },
    }


if __name__ == "__main__":
    main()
