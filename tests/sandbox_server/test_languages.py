"""The clients in other languages that docs/clients.md shows, against a real server."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from sandbox_server.embedded import embedded_sandbox

ROOT = Path(__file__).parents[2]
DEBIAN_GO = Path("/usr/share/gocode")
GO_TOOLS = ("go", "protoc", "protoc-gen-go", "protoc-gen-go-grpc")


def _go_is_here() -> bool:
    return all(map(shutil.which, GO_TOOLS)) and all(
        (DEBIAN_GO / "src" / package).is_dir()
        for package in ("google.golang.org/grpc", "github.com/golang/protobuf/protoc-gen-go")
    )


@pytest.mark.slow
@pytest.mark.nsjail
@pytest.mark.skipif(not _go_is_here(), reason="no Go with gRPC here; docs/clients.md names Debian's packages")
async def test_the_go_client_is_built_from_the_contract_and_gets_verdicts(tmp_path: Path) -> None:
    """Stubs from proto/, examples/client.go as it stands: one call, then three programs on one stream."""
    source = tmp_path / "src"
    source.mkdir()
    package = "sandbox_server/v1/sandbox.proto=example/sandboxpb"
    stubs = ["protoc", "-I", str(ROOT / "proto"), f"--go_out={source}", f"--go_opt=M{package}"]
    stubs += [f"--go-grpc_out={source}", f"--go-grpc_opt=M{package}", "sandbox_server/v1/sandbox.proto"]
    environment = os.environ | {
        "GO111MODULE": "off",
        "GOFLAGS": "",
        "GOPATH": f"{tmp_path}:{DEBIAN_GO}",
        "GOCACHE": str(tmp_path / "cache"),
    }
    build = ["go", "build", "-o", str(tmp_path / "client"), str(ROOT / "examples/client.go")]
    for command in (stubs, build):
        await asyncio.to_thread(_run, command, environment)

    async with embedded_sandbox() as sandbox:
        printed = await asyncio.to_thread(_run, [str(tmp_path / "client"), sandbox.address], environment)

    assert printed.splitlines() == [
        "VERDICT_PASSED 1 assertion",
        "map[1:VERDICT_FAILED 2:VERDICT_PASSED 3:VERDICT_FAILED]",
    ]


def _run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=800)
    assert done.returncode == 0, done.stderr
    return done.stdout
