"""What a build does when the sandbox dies under it, or the disk fills: the real ones, on purpose."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from generator import models
from generator.engines import Completion, CompletionRequest
from generator.pipeline import build
from generator.progress import Silent
from generator.recipe import Recipe, load_recipe
from generator.store import Database, open_database
from tests.fakes import FakeSandbox
from tests.generator.conftest import SQLITE_ONLY
from tests.generator.rules import RECIPE, RESPONSE, RuleEngine, stage_of, write_seeds

ROOT = Path(__file__).parents[2]
SEEDS = 12

BODIES = {
    "PASSED": "    import time\n    time.sleep(0.05)\n    return value + {number}",
    "FAILED": "    import time\n    time.sleep(0.05)\n    return value - {number}",
    "ERROR": "    import time\n    time.sleep(0.05)\n    return value + missing",
    "INCOMPLETE": "    import os, time\n    time.sleep(0.05)\n    os._exit(0)",
    "KILLED": "    import os, signal, time\n    time.sleep(0.05)\n    os.kill(os.getpid(), signal.SIGKILL)",
}


class MixedEngine(RuleEngine):
    """Answers right and wrong, by what is asked; the explanation says which verdict is due."""

    async def complete(self, request: CompletionRequest) -> Completion:
        completion = await super().complete(request)
        if stage_of(request) != "responses":
            return completion
        number = int(hashlib.sha256(completion.text.encode()).hexdigest()[:6], 16) + 1
        verdict = list(BODIES)[number % len(BODIES)]
        text = RESPONSE.format(number=number).replace("It adds", f"{verdict} is due; it adds")
        body = BODIES[verdict].format(number=number)
        return dataclasses.replace(completion, text=text.replace(f"    return value + {number}", body))


@pytest.fixture
def many(small: Recipe, tmp_path: Path) -> Recipe:
    """The small recipe over more seeds."""
    write_seeds(tmp_path, [f"more_{number}" for number in range(SEEDS)])
    return small


@contextlib.contextmanager
def serving(address: str) -> Iterator[subprocess.Popen[str]]:
    """A sandbox server of its own process, killed at the end."""
    command = [sys.executable, "-m", "sandbox_server", "serve", "--address", address, "--set", "sandbox.slots=2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"serving on {address}\n"
            yield process
        finally:
            process.kill()


def verdicts(database: Database) -> list[tuple[str, str]]:
    """What every answer says of itself, and what the sandbox said."""
    response, execution = models.Response, models.Execution
    query = sa.select(response.explanation, execution.verdict).join(
        execution, execution.program_key == response.program_key
    )
    with database.reading() as session:
        return [(str(told).split()[0], verdict) for told, verdict in session.execute(query)]


@SQLITE_ONLY
@pytest.mark.nsjail
async def test_a_sandbox_that_is_killed_and_restarted_costs_no_row_its_right_verdict(
    many: Recipe, database: Database, tmp_path: Path
) -> None:
    """Three times kill -9 while programs run; the build waits, goes on, and every verdict is the one that is due."""
    address = f"unix:{tmp_path}/s.sock"
    recipe = dataclasses.replace(many, sandbox=dataclasses.replace(many.sandbox, address=address))
    wanted = 3 * (SEEDS + 5)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(address))
        task = asyncio.create_task(build(recipe, database, Silent(), engine=MixedEngine()))
        for kill in range(1, 4):
            while len(verdicts(database)) < kill * wanted // 5:
                assert not task.done()
                await asyncio.sleep(0.02)
            server.send_signal(signal.SIGKILL)
            server.wait()
            server = await asyncio.to_thread(stack.enter_context, serving(address))
        report = await task
    found = verdicts(database)

    assert len(found) == report.programs_run == wanted
    assert {due for due, _ in found} == set(BODIES)
    assert [due for due, _ in found] == [verdict for _, verdict in found]


SMALL_DISK = """
import asyncio, sys
from pathlib import Path
from generator.cli import COMMANDS
from generator.pipeline import build
from generator.progress import Silent
from generator.recipe import load_recipe
from generator.store import DatabaseError, open_database
from tests.fakes import FakeSandbox
from tests.generator.rules import RuleEngine

recipe = load_recipe(Path(sys.argv[1]))
try:
    database = open_database(recipe.database.url, create=True)
    asyncio.run(build(recipe, database, Silent(), engine=RuleEngine(), sandbox=FakeSandbox()))
except DatabaseError as error:
    print(error)
    # What was stored can be read while the disk is still full.
    with database.reading() as session:
        from sqlalchemy import text
        print(session.scalar(text("PRAGMA integrity_check")), session.scalar(text("SELECT count(*) FROM responses")))
"""


def test_a_full_disk_is_named_and_leaves_the_database_whole(tmp_path: Path) -> None:
    """On a small file system in a mount namespace of the test's own; with more room the build goes on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    write_seeds(tmp_path, [f"add_{number}" for number in range(40)])
    (tmp_path / "small.toml").write_text(RECIPE.format(folder=tmp_path, url=f"sqlite:///{disk}/small.db"))
    mount = f"mount -t tmpfs -o size=1m none {disk}"
    keep = f"cp {disk}/small.db* {tmp_path}/"
    run = f"{mount} && {sys.executable} -c '{SMALL_DISK}' {tmp_path}/small.toml && {keep}"
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec"]
    if subprocess.run([*unshare, mount], capture_output=True).returncode:
        pytest.skip("this host lets nobody mount a file system of their own")
    done = subprocess.run([*unshare, run], capture_output=True, text=True, cwd=ROOT)

    assert done.returncode == 0, done.stderr
    said, whole = done.stdout.splitlines()
    assert said.endswith("database or disk is full; free some space, then run this again; what was stored is intact")
    assert whole.split()[0] == "ok"

    text = (tmp_path / "small.toml").read_text().replace(f"{disk}/small.db", f"{tmp_path}/small.db")
    (tmp_path / "small.toml").write_text(text)
    recipe = load_recipe(tmp_path / "small.toml")
    database = open_database(recipe.database.url)
    report = asyncio.run(build(recipe, database, Silent(), engine=RuleEngine(), sandbox=FakeSandbox()))
    assert report.drawn["responses"] == 120 - int(whole.split()[1])
    with database.reading() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(models.Execution)) == 120
    database.close()


FULL_SERVER = """
import asyncio, shutil, sys
from pathlib import Path
import sqlalchemy as sa
from generator import models
from generator.pipeline import build
from generator.progress import Silent
from generator.recipe import load_recipe
from generator.store import DatabaseError, open_database
from tests import postgres
from tests.fakes import FakeSandbox
from tests.generator.rules import RuleEngine

folder, disk = map(Path, sys.argv[1:])

def count(database, table):
    with database.reading() as session:
        return session.scalar(sa.select(sa.func.count()).select_from(table))

try:
    serving = postgres.serve()
    server = serving.__enter__()
except postgres.NoServer as reason:
    print(f"skip: {reason}")
    sys.exit()
try:
    url = server.on_disk(disk)
    path = folder / "small.toml"
    path.write_text(path.read_text().replace("URL", url))
    recipe = load_recipe(path)
    database = open_database(url, create=True)
    with database.writing() as session:
        session.execute(sa.text("ANALYZE pg_class"))  # so that who connects next has something to write
    with (disk / "ballast").open("wb") as ballast:
        ballast.write(bytes(shutil.disk_usage(disk).free))
    try:
        open_database(url).close()
        print("there was room to connect")
    except DatabaseError as error:
        print(error)
    (disk / "ballast").unlink()
    open_database(url).close()
    with (disk / "ballast").open("wb") as ballast:
        ballast.write(bytes(shutil.disk_usage(disk).free - 400_000))
    try:
        asyncio.run(build(recipe, database, Silent(), engine=RuleEngine(), sandbox=FakeSandbox()))
        print("it never was full")
    except DatabaseError as error:
        print(error)
    stored = count(database, models.Response)
    print(stored)
    (disk / "ballast").unlink()
    report = asyncio.run(build(recipe, database, Silent(), engine=RuleEngine(), sandbox=FakeSandbox()))
    print(report.drawn["responses"], count(database, models.Response), count(database, models.Execution))
    database.close()
finally:
    serving.__exit__(None, None, None)
"""


@pytest.mark.postgres
def test_a_full_disk_of_the_server_is_named_and_loses_no_finished_row(tmp_path: Path) -> None:
    """A tablespace on a small file system, in a mount namespace of the test's own; with more room the build goes on."""
    write_seeds(tmp_path, [f"add_{number}" for number in range(80)])
    (tmp_path / "small.toml").write_text(RECIPE.format(folder=tmp_path, url="URL"))
    unshare = ["unshare", "--mount", "sh", "-ec"]
    with tempfile.TemporaryDirectory() as disk:  # where the server's own user can come, unlike to `tmp_path`
        mount = f"mount -t tmpfs -o size=24m none {disk}"
        if subprocess.run([*unshare, mount], capture_output=True).returncode:
            pytest.skip("only root mounts a file system that the server's own user sees")
        run = f"{mount} && exec {sys.executable} -c '{FULL_SERVER}' {tmp_path} {disk}"
        done = subprocess.run([*unshare, run], capture_output=True, text=True, cwd=ROOT)

    assert done.returncode == 0, done.stderr
    if done.stdout.startswith("skip: "):
        pytest.skip(done.stdout)
    unreached, said, stored, after = done.stdout.splitlines()
    assert unreached.endswith(
        "could not write init file; free some space on the server's disk; what was stored is intact"
    )
    assert said.endswith(
        ": the server's disk is full; free some space there, then run this again; what was stored is intact"
    )
    drawn, responses, executions = (int(number) for number in after.split())
    assert drawn == 240 - int(stored)
    assert responses == executions == 240
