"""What a build takes as it grows: measured slopes, and what they give at 10^8 responses.

    python benchmarks/scale.py [--quick] [--write] [--only plan,build,ray,sandbox,recovery]

Prints tables. With `--write` each part's figures go into docs/scale.json as soon as it is measured, and the tables of
docs/scale.md, between its markers, and the plots are made from that file: what was measured before an interruption is
there, and `--only` measures the rest. `--quick` shows the way and not the slopes. PostgreSQL is started by the script
itself, with fsync, where it is installed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import platform
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from plan_rows import SAMPLES, fill  # beside this file
from store_rows import SEED, InstantModel, InstantSandbox, Timed

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for the tests' PostgreSQL

from generator import models  # noqa: E402
from generator import plan as planning  # noqa: E402
from generator.engines import Completion, CompletionRequest  # noqa: E402
from generator.on_ray import build_on_ray  # noqa: E402
from generator.pipeline import Pipeline, build  # noqa: E402
from generator.progress import Silent  # noqa: E402
from generator.recipe import ModelSettings, Recipe, SandboxSettings, SeedSettings, StageSettings  # noqa: E402
from generator.store import Database, open_database  # noqa: E402
from sandbox_server.client import connect  # noqa: E402
from sandbox_server.config import ServerConfig  # noqa: E402
from sandbox_server.jobs import Job  # noqa: E402
from sandbox_server.server import serving  # noqa: E402
from tests import postgres  # noqa: E402

DOCUMENT = ROOT / "docs" / "scale.md"
FIGURES = DOCUMENT.with_suffix(".json")
TARGET = 10**8
TOKENS = 300
"""Generated for a response: what the demo's recorded model needs, rounded up."""

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    plan: tuple[int, ...]
    build: int
    ray: int
    runs: int
    recovery: int


FULL = Sizes(plan=(10_000, 100_000, 1_000_000), build=20_000, ray=10_000, runs=6_000, recovery=1_200)
QUICK = Sizes(plan=(1_000, 5_000), build=1_000, ray=600, runs=300, recovery=600)


class WorkersModel(InstantModel):
    """Answers at once, and no two workers alike: a program that another worker wrote as well would run once."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = random.getrandbits(40) << 20


class SlowModel(WorkersModel):
    """Answers after a while, as a model does."""

    async def complete(self, request: CompletionRequest) -> Completion:
        """Answer."""
        await asyncio.sleep(0.05)
        return await super().complete(request)


class Steady(Silent):
    """Notes when programs were stored, which each response comes to in the end."""

    def __init__(self) -> None:
        self._stored: list[tuple[float, int]] = []

    def advance(self, stage: str, rows: int = 1) -> None:
        """Note."""
        if stage == "executions":
            self._stored.append((time.perf_counter(), rows))

    def rows_per_s(self) -> float:
        """From when a fifth was stored, as workers start one after the other, to the end."""
        total, before = sum(rows for _, rows in self._stored), 0
        ends = iter(self._stored)
        while before < total / 5:
            began, rows = next(ends)
            before += rows
        return (total - before) / (self._stored[-1][0] - began)


class Databases:
    """Fresh databases, one after the other, of every kind that is here."""

    def __init__(self, folder: Path, server: postgres.Server | None) -> None:
        self._folder = folder
        self._server = server
        self._number = 0

    @property
    def kinds(self) -> tuple[str, ...]:
        """Their names."""
        return ("SQLite", "PostgreSQL") if self._server else ("SQLite",)

    @contextlib.contextmanager
    def open(self, kind: str) -> Iterator[Database]:
        """A database with every table and no row, gone when the block ends."""
        self._number += 1
        folder = self._folder / str(self._number)
        folder.mkdir()
        url = f"sqlite:///{folder}/scale.db" if kind == "SQLite" or self._server is None else self._server.empty()
        database = open_database(url, create=True)
        try:
            yield database
        finally:
            database.close()
            shutil.rmtree(folder)


def recipe_of(folder: Path, responses: int, address: str = "embedded", concurrency: int = 64) -> Recipe:
    """A recipe that comes to so many responses."""
    shutil.rmtree(folder / "seeds", ignore_errors=True)
    (folder / "seeds").mkdir()
    for number in range(responses // SAMPLES):
        (folder / "seeds" / f"add_{number}.py").write_text(SEED.format(number=number))
    return Recipe(
        name="bench",
        model=ModelSettings("instant", mode="completion", concurrency=concurrency),
        seeds=SeedSettings(source="folder", path=str(folder / "seeds"), licence="MIT"),
        responses=StageSettings(fewshots=1, samples=SAMPLES),
        sandbox=SandboxSettings(address=address),
    )


def bytes_of(database: Database) -> int:
    """What the database takes on the disk, indexes included."""
    with database.reading() as session:
        if database.engine.dialect.name == "postgresql":
            return session.scalar(sa.text("SELECT pg_database_size(current_database())")) or 0
        pages = session.scalar(sa.text("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"))
    return pages or 0


# What is measured


def plan(databases: Databases, sizes: Sizes, folder: Path) -> Rows:
    """How long `selfalign plan` takes on a finished database, and what a response takes on the disk."""
    rows = []
    for kind in databases.kinds:
        with databases.open(kind) as database:
            pipeline = Pipeline(recipe_of(folder, 0))
            empty, filled = bytes_of(database), 0
            for responses in sizes.plan:
                fill(database, pipeline, responses // SAMPLES, filled)
                filled = responses // SAMPLES
                if kind == "PostgreSQL":  # as autovacuum would have done meanwhile
                    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                        connection.exec_driver_sql("VACUUM ANALYZE")
                began = time.perf_counter()
                steps = planning.plan(database, pipeline)
                took_s = time.perf_counter() - began
                # Rows are filled in and nothing is selected, so only that is left.
                assert not any(step.at_most for step in steps if step.stage != "selection"), steps
                size = (bytes_of(database) - empty) / responses
                rows.append({"database": kind, "responses": responses, "plan_s": took_s, "bytes_per_response": size})
    return rows


def build_rate(databases: Databases, sizes: Sizes, folder: Path) -> Rows:
    """Rows that one process makes when model and sandbox answer at once."""
    rows = []
    for kind in databases.kinds:
        timed = Timed()
        with databases.open(kind) as database:
            recipe = recipe_of(folder, sizes.build)
            sandbox = InstantSandbox(timed.drawn)  # stages are timed apart
            asyncio.run(build(recipe, database, timed, engine=InstantModel(), sandbox=sandbox))
        for stage in ("responses", "executions"):
            count = timed.rows[stage] or 0
            rates = {"rows_per_s": count / timed.took_s[stage], "rows_per_cpu_s": count / timed.cpu_s[stage]}
            rows.append({"database": kind, "stage": stage, "rows": count, **rates})
    return rows


def ray_rate(databases: Databases, sizes: Sizes, folder: Path) -> Rows:
    """Responses that 1, 2 and 4 Ray workers draw, run and store when model and sandbox answer at once."""
    import ray

    rows = []
    ray.init(
        num_cpus=4, object_store_memory=80 * 2**20, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
    )
    try:
        with serve_instantly(folder) as address:  # after Ray, which forks
            for kind in databases.kinds:
                for workers in (1, 2, 4):
                    steady = Steady()
                    with databases.open(kind) as database:
                        recipe = recipe_of(folder, sizes.ray, address)
                        build_on_ray(recipe, database, steady, workers=workers, open_engine=lambda _: WorkersModel())
                    rows.append({"database": kind, "workers": workers, "responses_per_s": steady.rows_per_s()})
    finally:
        ray.shutdown()
    return rows


def sandbox_rate(databases: Databases, sizes: Sizes, folder: Path) -> Rows:
    """Runs of small programs through gRPC, on an embedded server with all processors."""

    async def measure() -> Rows:
        job = Job(code="def add(value):\n    return value + 1\n", tests="assert add(1) == 2\nassert add(-1) == 0\n")
        async with connect("embedded") as sandbox:
            slots = (await sandbox.info()).slots
            turns = asyncio.Semaphore(2 * slots)

            async def run() -> None:
                async with turns:
                    assert (await sandbox.run(job)).verdict.value == "PASSED"

            await asyncio.gather(*(run() for _ in range(10 * slots)))
            began = time.perf_counter()
            await asyncio.gather(*(run() for _ in range(sizes.runs)))
            rate = sizes.runs / (time.perf_counter() - began)
        return [{"slots": slots, "runs_per_s": rate, "runs_per_s_and_core": rate / (os.cpu_count() or 1)}]

    return asyncio.run(measure())


def recovery(databases: Databases, sizes: Sizes, folder: Path) -> Rows:
    """From a kill until it is noticed, and until every row that was at work then is stored."""
    import ray
    from ray.cluster_utils import Cluster

    rows = []
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        second = cluster.add_node(**node)
        ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
        with serve_instantly(folder) as address:  # after Ray, which forks
            # Few at a time: the first worker must not be through before the second one has started.
            recipe = recipe_of(folder, sizes.recovery, address, concurrency=8)
            work = partial(build_on_ray, recipe, workers=2, open_engine=lambda _: SlowModel())
            for what, disturb in (("Ray worker", kill_a_worker), ("Ray node", partial(kill_a_node, cluster, second))):
                with databases.open("SQLite") as database:
                    watch = Watch(database, partial(work, database, Silent()), workers=2)
                    watch.kill(partial(disturb, database))
                    rows.append({"killed": what, **watch.figures()})
    finally:
        ray.shutdown()
        cluster.shutdown()
    addresses = [f"unix:{folder}/{name}" for name in "ab"]
    servers = [serve_sandbox(address) for address in addresses]
    try:
        recipe = recipe_of(folder, sizes.recovery, ",".join(addresses))
        for what, kill in (("nothing, for comparison", lambda: None), ("sandbox server", servers[0].kill)):
            with databases.open("SQLite") as database:
                job = partial(asyncio.run, build(recipe, database, Silent(), engine=InstantModel()))
                watch = Watch(database, job, workers=1)
                watch.kill(kill)
                rows.append({"killed": what, **watch.figures()})
    finally:
        for server in servers:
            server.kill()
            server.wait()
    return rows


class Watch:
    """Looks at the leases while a build runs in a thread."""

    def __init__(self, database: Database, work: Callable[[], object], workers: int) -> None:
        self._database = database
        self._thread = threading.Thread(target=work)
        self._thread.start()
        while len(set(self._leases().values())) < workers or not self._has_run():
            assert self._thread.is_alive(), "the build ended before it could be disturbed"
            time.sleep(0.02)

    def kill(self, disturb: Callable[[], object]) -> None:
        """Disturb the build, and see it to its end."""
        self._killed_at = time.perf_counter()
        self._at_work = self._leases()
        disturb()
        self._noticed_s: dict[str, float] = {}
        self._stored_s: dict[str, float] = {}
        while True:
            over = not self._thread.is_alive()
            now_s = time.perf_counter() - self._killed_at
            with self._database.reading() as session:
                present = set(session.scalars(sa.select(models.Worker.id)))
            for worker in set(self._at_work.values()) - present:
                self._noticed_s.setdefault(worker, now_s)
            for key in self._stored():
                self._stored_s.setdefault(key, now_s)
            if over:
                return
            time.sleep(0.02)

    def figures(self) -> dict[str, Any]:
        """What was seen: of the worker that went first, or of all where there is but one."""
        lost = min(self._noticed_s, key=self._noticed_s.__getitem__, default="")
        alone = len(set(self._at_work.values())) == 1
        keys = [key for key, worker in self._at_work.items() if alone or worker == lost]
        assert keys, "nothing was at work"
        return {
            "noticed_s": None if alone else self._noticed_s[lost],
            "rows_at_work": len(keys),
            "stored_s": max(self._stored_s[key] for key in keys),
        }

    def _leases(self) -> dict[str, str]:
        with self._database.reading() as session:
            return {lease.key: lease.worker_id for lease in session.scalars(sa.select(models.Lease))}

    def _has_run(self) -> bool:
        """Whether a program was run: before that, other things are at work."""
        with self._database.reading() as session:
            return session.scalar(sa.select(models.Execution.id).limit(1)) is not None

    def _stored(self) -> list[str]:
        """Of what was at work, what is stored."""
        found: list[str] = []
        with self._database.reading() as session:
            for id in (models.Response.id, models.Execution.id):
                found += session.scalars(sa.select(id).where(id.in_(list(self._at_work))))
        return found


def kill_a_worker(database: Database) -> None:
    """End one of the worker processes."""
    with database.reading() as session:
        os.kill(session.scalars(sa.select(models.Worker.pid)).first() or 0, signal.SIGKILL)


def kill_a_node(cluster: Any, node: Any, database: Database) -> None:
    """End a node with all its processes at once, as a machine that loses its power does."""
    raylet = node.all_processes["raylet"][0].process.pid
    with database.reading() as session:
        pids = list(session.scalars(sa.select(models.Worker.pid)))
    of_node = [
        pid for pid in pids if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1] == str(raylet)
    ]
    assert len(of_node) == 1
    os.kill(of_node[0], signal.SIGKILL)
    cluster.remove_node(node, allow_graceful=False)


@contextlib.contextmanager
def serve_instantly(folder: Path) -> Iterator[str]:
    """A sandbox server whose runs cost nothing, in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = serving(InstantSandbox(), ServerConfig(f"unix:{folder}/instant"))
    try:
        yield asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result()
        asyncio.run_coroutine_threadsafe(server.__aexit__(None, None, None), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def serve_sandbox(address: str) -> subprocess.Popen[bytes]:
    """A real server with one slot, which serves when this returns."""

    async def wait() -> None:
        async with connect(address):
            """It does."""

    command = [sys.executable, "-m", "selfalign", "sandbox", "serve", "--address", address, "--set", "sandbox.slots=1"]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    asyncio.run(wait())
    return server


# What it means


def extrapolate(found: dict[str, Rows], gpu_tokens_per_s: float) -> Rows:
    """What `TARGET` responses take, if every slope goes on as measured."""
    rows: Rows = []

    def say(what: str, amount: str, rests_on: str) -> None:
        rows.append({f"at {TARGET:.0e} responses": what, "amount": amount, "rests on": rests_on})

    for kind in {row["database"]: None for row in found.get("plan", ())}:
        last = [row for row in found["plan"] if row["database"] == kind][-1]
        size = last["bytes_per_response"]
        say(f"{kind} on disk", f"{size * TARGET / 1e9:,.0f} GB", f"{size:,.0f} bytes for a response and its run")
        each = last["plan_s"] / last["responses"]
        say(
            f"one plan on {kind}",
            f"{each * TARGET / 60:,.0f} min",
            f"{each * 1e6:.1f} µs a response at {last['responses']:,}",
        )
    for row in found.get("build", ()):
        if row["database"] == "PostgreSQL" or len(found["build"]) == 2:
            hours = TARGET / row["rows_per_cpu_s"] / 3600
            say(
                f"workers, {row['stage']}",
                f"{hours:,.0f} core hours",
                f"{row['rows_per_cpu_s']:,.0f} rows per CPU second, {row['database']}",
            )
    fastest = max(found.get("ray", ()), key=lambda row: row["responses_per_s"], default=None)
    if fastest:
        rate = fastest["responses_per_s"]
        say(
            "making responses and runs",
            f"{TARGET / rate / 3600:,.0f} h",
            f"{rate:,.0f} rows/s with their runs, {fastest['workers']} workers, {fastest['database']}",
        )
    for row in found.get("sandbox", ()):
        rate = row["runs_per_s_and_core"]
        say("sandboxes", f"{TARGET / rate / 3600:,.0f} core hours", f"{rate:,.0f} runs/s and core, small programs")
    gpu_hours = TARGET * TOKENS / gpu_tokens_per_s / 3600
    say(
        "the model",
        f"{gpu_hours:,.0f} GPU hours",
        f"{TOKENS} tokens a response; {gpu_tokens_per_s:,.0f} tokens/s a GPU is assumed, not measured",
    )
    return rows


def table(rows: Rows) -> str:
    """Rows as a Markdown table."""
    if not rows:
        return "(not measured)"
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cell(row[column]) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def cell(value: Any) -> str:
    """A value as it is read."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def plot(title: str, across: str, up: str, lines: dict[str, list[tuple[float, float]]]) -> str:
    """A chart with logarithmic axes, as SVG."""
    width, height, left, bottom = 560, 340, 70, 50
    points = [point for line in lines.values() for point in line if min(point) > 0]
    (x0, x1), (y0, y1) = ((min(values), max(values)) for values in zip(*points, strict=True))
    decades = math.floor(math.log10(y0)), max(math.ceil(math.log10(y1)), math.floor(math.log10(y0)) + 1)

    def at(x: float, y: float) -> tuple[float, float]:
        right = (math.log(x) - math.log(x0)) / (math.log(x1) - math.log(x0) or 1)
        above = (math.log10(y) - decades[0]) / (decades[1] - decades[0])
        return left + right * (width - left - 130), height - bottom - above * (height - bottom - 40)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"',
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{left}" y="22" font-size="14">{title}</text>',
        f'<text x="{left}" y="{height - 10}">{across}</text>',
        f'<text x="14" y="{height / 2}" transform="rotate(-90 14 {height / 2})" text-anchor="middle">{up}</text>',
    ]
    for decade in range(decades[0], decades[1] + 1):
        x, y = at(x0, 10.0**decade)
        parts.append(f'<path d="M{x:.0f} {y:.0f}H{width - 130}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.0f}" text-anchor="end">{10.0**decade:g}</text>')
    for x in sorted({point[0] for point in points}):
        parts.append(f'<text x="{at(x, y0)[0]:.0f}" y="{height - bottom + 18}" text-anchor="middle">{x:,.0f}</text>')
    for (name, line), colour in zip(lines.items(), ("#1b6ca8", "#c8553d", "#3a7d44", "#7b4b94"), strict=False):
        places = [at(*point) for point in line if min(point) > 0]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        parts.append(f'<text x="{places[-1][0] + 8:.0f}" y="{places[-1][1] + 4:.0f}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>\n"])


def plots(found: dict[str, Rows]) -> dict[str, str]:
    """The charts of what was found, by file name."""
    charts = {}
    for file, rows, title, x, ys in (
        ("scale-plan.svg", found.get("plan"), "selfalign plan on a finished database", "responses", {"": "plan_s"}),
        (
            "scale-ray.svg",
            found.get("ray"),
            "Responses drawn, run and stored a second; model and sandbox answer at once",
            "workers",
            {"": "responses_per_s"},
        ),
    ):
        if rows:
            lines = {
                f"{kind}{suffix}": [(row[x], row[y]) for row in rows if row["database"] == kind]
                for kind in {row["database"]: None for row in rows}
                for suffix, y in ys.items()
            }
            charts[file] = plot(title, x, "seconds" if "plan" in file else "rows/s", lines)
    return charts


PARTS: dict[str, Callable[[Databases, Sizes, Path], Rows]] = {
    "plan": plan,
    "build": build_rate,
    "ray": ray_rate,
    "sandbox": sandbox_rate,
    "recovery": recovery,
}


def publish(measured: dict[str, Any], gpu_tokens_per_s: float) -> None:
    """Make the tables of the document, and the plots beside it, from all that was measured so far."""
    found = {part: told["rows"] for part, told in measured.items()}
    text = DOCUMENT.read_text(encoding="utf-8")
    for name in (*PARTS, "target"):
        if name == "target":
            content = table(extrapolate(found, gpu_tokens_per_s))
        elif name in found:
            content = f"{table(found[name])}\n\n{measured[name]['conditions']}"
        else:
            continue
        begin, end = f"<!-- scale.py: {name} -->\n", "\n<!-- /scale.py -->"
        pattern = re.escape(begin) + ".*?" + re.escape(end)
        text, places = re.subn(pattern, lambda _, new=begin + content + end: new, text, flags=re.DOTALL)
        assert places == 1, f"{DOCUMENT.name} has no place for {name}"
    DOCUMENT.write_text(text, encoding="utf-8")
    for file, chart in plots(found).items():
        (DOCUMENT.parent / file).write_text(chart, encoding="utf-8")


def conditions(command: str, load: float, took_s: float) -> str:
    """What the figures were measured with."""
    return (
        f"`{command}`: {took_s:,.0f} s on {os.cpu_count()} CPUs, load {load:.1f} before; {platform.system()} "
        f"{platform.release()}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, "
        "PostgreSQL with fsync on the same machine."
    )


def main() -> None:
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write", action="store_true", help="into docs/scale.json and docs/scale.md, part by part")
    parser.add_argument("--only", default=",".join(PARTS), help="parts to measure; default: %(default)s")
    parser.add_argument(
        "--gpu-tokens-per-s", type=float, default=3000.0, help="assumed of one GPU; default: %(default)s"
    )
    options = parser.parse_args()
    names = options.only.split(",")
    if unknown := set(names) - set(PARTS):
        parser.error(f"--only: {', '.join(sorted(unknown))}: expected some of {', '.join(PARTS)}")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ["PYTHONPATH"] = os.pathsep.join((str(ROOT), str(ROOT / "benchmarks")))  # of the workers
    known = json.loads(FIGURES.read_text(encoding="utf-8")) if options.write and FIGURES.exists() else {}
    with tempfile.TemporaryDirectory(prefix="selfalign-scale-") as name, contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(postgres.serve(durable=True))
        except postgres.NoServer as reason:
            print(f"without PostgreSQL: {reason}", file=sys.stderr)
            server = None
        databases = Databases(Path(name), server)
        for part in names:
            load, began = os.getloadavg()[0], time.monotonic()
            rows = PARTS[part](databases, QUICK if options.quick else FULL, Path(name))
            command = f"python benchmarks/scale.py{' --quick' if options.quick else ''} --only {part}"
            told = conditions(command, load, time.monotonic() - began)
            print(f"\n{part}: {PARTS[part].__doc__}\n\n{table(rows)}\n\n{told}", flush=True)
            known[part] = {"rows": rows, "conditions": told}
            if options.write:
                FIGURES.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
                publish(known, options.gpu_tokens_per_s)
    if set(known) == set(PARTS):
        print(f"\n{table(extrapolate({part: told['rows'] for part, told in known.items()}, options.gpu_tokens_per_s))}")


if __name__ == "__main__":
    main()
