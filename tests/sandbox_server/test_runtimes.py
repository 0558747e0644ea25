"""Runtimes with packages: built from a wheel made on the spot, so that no index is needed."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

from sandbox_server import image, runtimes
from sandbox_server.errors import HostUnfit
from sandbox_server.jail import SandboxConfig, open_sandbox
from sandbox_server.jobs import Job, Verdict

pytestmark = pytest.mark.nsjail

NAME = "test-runtime-of-the-suite"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A package that tells how often its module was executed in this process."""
    path = tmp_path / "counted-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("counted.py", "import os\nPID = os.getpid()\n")
        archive.writestr("counted-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: counted\nVersion: 1.0\n")
        archive.writestr(
            "counted-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("counted-1.0.dist-info/RECORD", "")
    return path


@pytest.fixture
def cache_dir() -> Path:
    """The usual place: a jail's user must be able to enter it."""
    return image.default_cache_dir()


async def test_a_runtime_with_packages_is_built_listed_and_warm(wheel: Path, cache_dir: Path) -> None:
    built = runtimes.build_runtime(NAME, packages=[str(wheel)], preload=["counted"])
    again = runtimes.build_runtime(NAME, packages=[str(wheel)], preload=["counted"])
    sandbox = await open_sandbox(SandboxConfig(slots=1, runtimes=("python", NAME)))
    try:
        code = "import counted, os\nprint(counted.PID == os.getpid())"
        outcome = await sandbox.run(Job(code=code, tests="assert counted.PID", runtime=NAME))
        plain = await sandbox.run(Job(code="import counted"))
        info = await sandbox.info()
    finally:
        await sandbox.close()

    assert built.packages == again.packages == ("counted==1.0",)
    assert built.fingerprint != runtimes.open_runtime("python", cache_dir).fingerprint
    assert NAME in runtimes.known()
    assert outcome.verdict is Verdict.PASSED
    assert outcome.stdout == b"False\n"  # it was imported before the fork
    assert plain.verdict is Verdict.ERROR
    assert info.runtimes[1].packages == ("counted==1.0",)


def test_a_package_that_cannot_be_installed_leaves_nothing(cache_dir: Path) -> None:
    with pytest.raises(HostUnfit, match="pip cannot install") as caught:
        runtimes.build_runtime("never-built", packages=["./no-such-file.whl"])

    assert "\n" not in str(caught.value)
    assert not list((cache_dir / "runtimes").glob("never-built*"))
    assert not list((cache_dir / "runtimes").glob(".building-*"))


def test_a_module_that_cannot_be_preloaded_is_named(wheel: Path, cache_dir: Path) -> None:
    with pytest.raises(HostUnfit, match=r"'nonesuch' cannot be preloaded: .*ModuleNotFoundError"):
        runtimes.build_runtime("never-built", packages=[str(wheel)], preload=["nonesuch"])

    assert not (cache_dir / "runtimes/never-built").exists()


@pytest.mark.parametrize("name", ["", "Upper", "../up", "a b", "-x"])
def test_a_name_that_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(HostUnfit, match="name"):
        runtimes.build_runtime(name, packages=["x"])


def test_a_shipped_runtime_is_not_replaced() -> None:
    with pytest.raises(HostUnfit, match="comes with the package"):
        runtimes.build_runtime("python", packages=["x"])


def test_something_must_be_installed() -> None:
    with pytest.raises(HostUnfit, match="at least one package"):
        runtimes.build_runtime("empty")


def test_equal_descriptions_have_equal_fingerprints(cache_dir: Path) -> None:
    first, second = (runtimes.open_runtime("python", cache_dir) for _ in range(2))

    assert first == second
    assert first.version == sys.version.split()[0]
