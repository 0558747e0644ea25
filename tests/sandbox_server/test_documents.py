"""What docs/serving.md says is what the server does."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from sandbox_server.config import ServerConfig
from sandbox_server.settings import parse

TEXT = (Path(__file__).parents[2] / "docs/serving.md").read_text()


def test_every_setting_is_documented_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", TEXT.partition("## Under load")[0], re.MULTILINE))
    fields = {field.name: field.default for field in dataclasses.fields(ServerConfig)}
    assert list(rows) == list(fields)
    for name, shown in rows.items():
        if name != "sandbox":  # a table, which has its own defaults
            value = None if shown == "none" else tomllib.loads(f"v = {shown.strip('`')}")["v"]
            assert value == fields[name], name


def test_the_example_is_valid() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    config = parse(ServerConfig, tomllib.loads(example), "example")
    assert config.sandbox.default_limits.wall_time_ms == 10000


def test_every_metric_is_documented() -> None:
    source = (Path(__file__).parents[2] / "sandbox_server/metrics.py").read_text()
    for name in re.findall(r'"(sandbox_\w+)"', source):
        assert name in TEXT, name


def test_the_client_needs_neither_torch_nor_sql_nor_the_extras() -> None:
    forbidden = (
        "torch",
        "transformers",
        "sqlalchemy",
        "alembic",
        "prometheus_client",
        "opentelemetry",
        "rich",
        "httpx",
    )
    program = (
        "import sys\n"
        f"for name in {forbidden!r}: sys.modules[name] = None\n"
        "import sandbox_server.client, sandbox_server.embedded, sandbox_server.server\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
