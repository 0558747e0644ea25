"""The files in deploy/ speak of metrics, settings, ports and folders that the code really has."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import socket
import subprocess
import tomllib
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from sandbox_server.client import connect
from sandbox_server.config import ServerConfig, load
from sandbox_server.jobs import Job
from sandbox_server.server import serving
from sandbox_server.settings import parse
from tests.fakes import FakeSandbox

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/sandbox.json").read_text())
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
MANIFESTS = {
    (document["kind"], document["metadata"]["name"]): document
    for file in ("sandbox.yaml", "build.yaml")
    for document in yaml.safe_load_all((DEPLOY / "kubernetes" / file).read_text())
}


class CountingSandbox(FakeSandbox):
    """A sandbox with jails to count, so that every metric is there."""

    jails_started = 1
    jails_lost = 0


def queries() -> list[str]:
    """What dashboards and alerts ask Prometheus."""
    asked = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    groups = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    return asked + [rule["expr"] for group in groups for rule in group["rules"]]


async def test_dashboard_and_alerts_ask_for_metrics_and_labels_that_the_server_has(tmp_path: Path) -> None:
    """Every name in every query is on the page that a server under use exposes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = ServerConfig(address=f"unix:{tmp_path}/socket", metrics_address=f"127.0.0.1:{port}")
    async with serving(CountingSandbox(), config) as address, connect(address) as sandbox:
        await sandbox.run(Job(code="1"))
        page = await asyncio.to_thread(
            lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
        )
    exposed = set(re.findall(r"^# TYPE (\S+)", page, re.M)) | set(re.findall(r"^(\w+)[ {]", page, re.M))
    labels = set(re.findall(r"(\w+)=\"", page)) | {"instance", "job", "status"}

    asked = " ".join(queries())
    names = set(re.findall(r"\bsandbox_\w+", asked))
    assert names
    assert names <= exposed, names - exposed
    documented = set(re.findall(r"`?(sandbox_\w+)", (ROOT / "docs/serving.md").read_text())) - {"sandbox_server"}
    assert documented <= exposed | {f"{name}_total" for name in exposed}, documented - exposed
    by = {name.strip() for names in re.findall(r"by \(([^)]*)\)", asked) for name in names.split(",")}
    legends = {
        name
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
        for name in re.findall(r"{{(\w+)}}", target["legendFormat"])
    }
    assert by | legends <= labels, (by | legends) - labels


@pytest.mark.parametrize(
    "text",
    [(DEPLOY / "sandbox.toml").read_text(), MANIFESTS["ConfigMap", "selfalign-sandbox"]["data"]["sandbox.toml"]],
    ids=["image", "kubernetes"],
)
def test_the_servers_settings_are_read_as_the_server_reads_them(text: str, tmp_path: Path) -> None:
    path = tmp_path / "sandbox.toml"
    path.write_text(text)
    config = load(path, environment={})

    assert config.health_address == "0.0.0.0:50062"
    assert config.metrics_address == "0.0.0.0:9464"


def test_probes_ports_and_time_to_stop_agree_with_the_settings() -> None:
    pod = MANIFESTS["Deployment", "selfalign-sandbox"]["spec"]["template"]["spec"]
    settings = tomllib.loads(MANIFESTS["ConfigMap", "selfalign-sandbox"]["data"]["sandbox.toml"])
    config = parse(ServerConfig, settings, "kubernetes")
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}

    for name, address in (
        ("grpc", config.address),
        ("health", config.health_address),
        ("metrics", config.metrics_address),
    ):
        assert address is not None
        assert ports[name] == int(address.rpartition(":")[2])
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["grpc"]["port"] == ports["health"]
    assert pod["terminationGracePeriodSeconds"] > config.drain_pause_s + config.drain_grace_s
    assert config.tls is not None
    (secret,) = (volume for volume in container["volumeMounts"] if volume["name"] == "secret")
    for path in (config.tls.certificate, config.tls.key, config.token_file):
        assert str(path).startswith(secret["mountPath"])
    assert container["securityContext"]["capabilities"]["add"] == COMPOSE["services"]["sandbox"]["cap_add"]


def test_what_mounts_name_and_the_image_copies_exists() -> None:
    for service in COMPOSE["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    for line in re.findall(r"^COPY (.+) \S+$", dockerfile, re.M):
        for source in line.split():
            assert (ROOT / source).exists()
            assert f"!{source}" in ignored
    targets = {service["build"]["target"] for service in COMPOSE["services"].values() if "build" in service}
    assert targets <= set(re.findall(r"^FROM \S+ AS (\w+)$", dockerfile, re.M))


def test_the_image_installs_extras_that_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"'\.\[([\w,]+)\]'", (DEPLOY / "Dockerfile").read_text())

    assert len(named) == 3
    assert {extra for names in named for extra in names.split(",")} <= set(extras)


def test_no_metric_is_left_out_of_the_dashboard() -> None:
    """What the server counts can be seen; `docs/serving.md` lists it."""
    metrics = re.findall(
        r"(?:Counter|Gauge|Histogram)\(\s*\"(sandbox_\w+)\"", (ROOT / "sandbox_server/metrics.py").read_text()
    )
    asked = " ".join(queries())

    assert metrics
    assert [name for name in metrics if name not in asked] == []


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_reads_its_configuration_and_rules() -> None:
    for command in (["check", "config", "prometheus.yml"], ["check", "rules", "alerts.yml"]):
        done = subprocess.run(["promtool", *command], cwd=DEPLOY, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def mentions(value: Any) -> set[str]:
    """Every string in a document."""
    if isinstance(value, dict):
        return {text for item in value.items() for part in item for text in mentions(part)}
    if isinstance(value, list):
        return {text for item in value for text in mentions(item)}
    return {value} if isinstance(value, str) else set()


def test_no_password_is_written_down() -> None:
    """Passwords come from deploy/.env, which is not committed, and from secrets."""
    words = {text for text in mentions(COMPOSE) if "PASSWORD" in text}

    assert words
    assert all("${" in text or text.isidentifier() for text in words)
    assert not any(kind == "Secret" for kind, _ in MANIFESTS)
    assert "deploy/.env" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_wheel_holds_every_package_and_the_command_itself() -> None:
    """An image installs the wheel, where an editable installation would hide what is left out of it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    command = project["project"]["scripts"]["selfalign"].partition(":")[0]

    held = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"])
    assert held == packages | {"migrations", f"{command}.py"}
