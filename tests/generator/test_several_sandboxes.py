"""A build over several sandbox servers: real servers, real programs; only the model answers by rule."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from generator import models
from generator.engines import Completion, CompletionRequest
from generator.pipeline import build
from generator.progress import Silent
from generator.recipe import Recipe
from generator.store import Database, open_database
from sandbox_server.client import connect
from sandbox_server.config import ServerConfig, TlsConfig
from sandbox_server.server import serving
from tests.certificates import Authority
from tests.fakes import FakeSandbox
from tests.generator.conftest import SQLITE_ONLY
from tests.generator.rules import RuleEngine, stage_of, write_seeds

ROOT = Path(__file__).parents[2]


class SlowPrograms(RuleEngine):
    """Its programs take a while, and one in three fails."""

    async def complete(self, request: CompletionRequest) -> Completion:
        completion = await super().complete(request)
        if stage_of(request) != "responses":
            return completion
        assert request.sampling.seed is not None
        tests = f"import time; time.sleep(0.05); assert {request.sampling.seed} % 3"
        return dataclasses.replace(completion, text=completion.text.replace("assert", f"{tests}\nassert"))


def start(address: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "selfalign", "sandbox", "serve", "--address", address, "--set", "sandbox.slots=1"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def executions(database: Database) -> dict[str, tuple[Any, ...]]:
    """What came of every program."""
    row = models.Execution
    query = sa.select(row.id, row.program_key, row.verdict, row.assertions_run, row.assertions_failed, row.stdout)
    with database.reading() as session:
        return {found.id: tuple(found) for found in session.execute(query)}


@pytest.mark.nsjail
@SQLITE_ONLY
async def test_a_server_that_is_killed_mid_build_changes_no_result(
    small: Recipe, database: Database, tmp_path: Path
) -> None:
    """What ran on the server that died runs on the other one."""
    write_seeds(tmp_path, [f"add_{number}" for number in range(15)])
    addresses = [f"unix:{tmp_path}/a", f"unix:{tmp_path}/b"]
    servers = [start(address) for address in addresses]
    try:
        for address in addresses:
            async with connect(address):
                """It serves."""
        recipe = dataclasses.replace(
            small, sandbox=dataclasses.replace(small.sandbox, address=",".join(addresses), concurrency=8)
        )
        building = asyncio.create_task(build(recipe, database, Silent(), engine=SlowPrograms()))
        while len(executions(database)) < 10:
            assert not building.done(), building
            await asyncio.sleep(0.02)
        servers[0].kill()
        report = await building

        other = open_database(f"sqlite:///{tmp_path}/undisturbed.db", create=True)
        alone = dataclasses.replace(recipe, sandbox=dataclasses.replace(recipe.sandbox, address=addresses[1]))
        expected = await build(alone, other, Silent(), engine=SlowPrograms())
    finally:
        for server in servers:
            server.kill()
            server.wait()
    assert report.programs_run == len(executions(database)) > 40
    assert executions(database) == executions(other)
    assert {verdict for _, _, verdict, *_ in executions(database).values()} == {"PASSED", "FAILED"}
    assert report.snapshot is not None
    assert expected.snapshot is not None
    assert report.snapshot.size == expected.snapshot.size
    other.close()


@SQLITE_ONLY
async def test_a_build_reaches_servers_that_want_tls_and_a_token(
    small: Recipe, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path, "authority")
    certificate, key = authority.issue("sandbox")
    (tmp_path / "token").write_text("open-sesame\n")
    monkeypatch.setenv("SELFALIGN_TOKEN", "open-sesame")
    config = ServerConfig("127.0.0.1:0", tls=TlsConfig(certificate, key), token_file=tmp_path / "token")
    async with two(config) as addresses:
        settings = dataclasses.replace(small.sandbox, address=addresses, ca=str(authority.path))
        recipe = dataclasses.replace(small, sandbox=settings)
        report = await build(recipe, database, Silent(), engine=RuleEngine())

    assert report.programs_run == 15


@contextlib.asynccontextmanager
async def two(config: ServerConfig) -> AsyncIterator[str]:
    async with serving(FakeSandbox(), config) as first, serving(FakeSandbox(), config) as second:
        yield f"{first},{second}"
