"""Control groups: the host's own where it has them, and version 2's files as the kernel writes them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox_server import cgroup


@pytest.fixture
def parent() -> Iterator[cgroup.Parent]:
    """This process' own group."""
    parent = cgroup.open_parent()
    if parent.version == "none":
        pytest.skip(f"no control groups here: {parent.reason}")
    yield parent
    parent.remove()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A version 2 hierarchy in plain files: what a host with version 1 cannot show."""
    group = tmp_path / "slot"
    group.mkdir()
    for name, text in {
        "memory.max": "max\n",
        "memory.swap.max": "max\n",
        "memory.peak": "4096\n",
        "memory.current": "4096\n",
        "memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n",
        "pids.max": "max\n",
        "pids.events": "max 0\n",
        "cpu.stat": "usage_usec 1000\nuser_usec 600\nsystem_usec 400\n",
        "memory.stat": "anon 1000\nfile 3000\n",
        "cgroup.procs": "",
    }.items():
        (group / name).write_text(text)
    return tmp_path


def test_version_2_is_read_and_written(folder: Path) -> None:
    """Limits are written, counters are differences since the last look, and the peak is above the start."""
    group = cgroup.Parent("v2", {"": folder}).group("slot")
    files = folder / "slot"

    group.set_limits(1 << 20, 12)
    group.begin()
    (files / "memory.peak").write_text("14096\n")
    (files / "memory.events").write_text("low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\noom_group_kill 0\n")
    (files / "pids.events").write_text("max 5\n")
    (files / "cpu.stat").write_text("usage_usec 3500\nuser_usec 600\nsystem_usec 400\n")

    assert (files / "memory.max").read_text().startswith("1048576")
    assert (files / "memory.swap.max").read_text() == "0"
    assert (files / "pids.max").read_text().startswith("12")
    assert group.version == "v2"
    assert group.cpu_time_ns() == 2_500_000
    assert group.peak_memory_bytes() == 10_000
    assert (group.memory_kills(), group.memory_kills()) == ((2, 0), (0, 0))
    assert (group.process_refusals(), group.process_refusals()) == ((5, 0), (0, 0))


def test_version_2_tells_the_limits_above_from_the_groups_own(folder: Path) -> None:
    """The kernel counts a kill where the killed was, and the want of memory where the limit is."""
    (folder / "slot/pids.peak").write_text("3\n")
    group = cgroup.Parent("v2", {"": folder}).group("slot")
    group.set_limits(1 << 20, 12)

    (folder / "slot/memory.events").write_text("low 0\nhigh 0\nmax 0\noom 0\noom_kill 2\noom_group_kill 0\n")
    (folder / "slot/pids.events").write_text("max 5\n")

    assert group.memory_kills() == (0, 2)
    assert group.process_refusals() == (0, 5)
    (folder / "slot/memory.events").write_text("low 0\nhigh 0\nmax 0\noom 1\noom_kill 3\noom_group_kill 0\n")
    (folder / "slot/pids.peak").write_text("12\n")
    (folder / "slot/pids.events").write_text("max 6\n")
    assert group.memory_kills() == (1, 0)
    assert group.process_refusals() == (1, 0)


def test_version_2_without_a_peak_says_that_it_knows_none(folder: Path) -> None:
    (folder / "slot/memory.peak").unlink()

    group = cgroup.Parent("v2", {"": folder}).group("slot")
    group.begin()

    assert group.peak_memory_bytes() == 0


def test_what_enters_is_counted_and_removed(parent: cgroup.Parent) -> None:
    """A process that was attached is measured, and killed with its group."""
    group = parent.group("slot")
    group.set_limits(256 << 20, 10)
    group.begin()
    burner = subprocess.Popen(
        [sys.executable, "-c", "x = b'x' * (32 << 20)\nprint(1, flush=True)\nwhile True: pass"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert burner.stdout is not None
    group.attach(burner.pid)
    burner.stdout.readline()
    deadline = time.monotonic() + 20
    while group.cpu_time_ns() < 50_000_000:
        assert time.monotonic() < deadline
        time.sleep(0.01)

    group.remove()

    assert burner.wait(10) == -9
    burner.stdout.close()
    for folder in parent.folders.values():
        assert not (folder / "slot").exists()


def test_orphans_of_dead_servers_are_removed_and_the_living_kept(parent: cgroup.Parent) -> None:
    bases = [folder.parent for folder in parent.folders.values()]
    for base in bases:
        (base / "selfalign-999999999-1" / "jail-1").mkdir(parents=True)

    cgroup.open_parent()

    for base, folder in zip(bases, parent.folders.values(), strict=True):
        assert not (base / "selfalign-999999999-1").exists()
        assert folder.exists()


def test_a_server_in_another_pid_namespace_is_kept(parent: cgroup.Parent) -> None:
    """Its pid says nothing here, nor ours there: `sandbox check` in one container must not end the jails of another."""
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c",
               "from sandbox_server import cgroup; cgroup.open_parent().remove()"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    if done.returncode and "unshare" in done.stderr:
        pytest.skip(f"no pid namespace can be made here: {done.stderr.strip()[:200]}")

    assert done.returncode == 0, done.stderr
    assert all(folder.exists() for folder in parent.folders.values())


# Runs in a mount namespace of its own, where nobody else sees the hierarchy that it mounts.
REAL_VERSION_2 = """
import json, os, subprocess, sys, time
from pathlib import Path
from sandbox_server import cgroup

mount = Path(sys.argv[1])
told = {}
offered = (mount / "cgroup.controllers").read_text().split()
told["missing"] = [name for name in cgroup._V2_CONTROLLERS if name not in offered]
parent = cgroup.open_parent("v2")
told["version"], told["reason"] = parent.version, parent.reason
parent.remove()

base = mount / f"selfalign-test-{os.getpid()}"
orphan = base / "selfalign-999999999-1"
slot = orphan / "jail-1"
slot.mkdir(parents=True)
# Each generation leaves another behind, faster than a walk over pids could follow.
comet = subprocess.Popen(
    ["sh", "-c", "read go; sh -c 'while :; do sleep 0.01 & done' & while :; do :; done"],
    stdin=subprocess.PIPE, start_new_session=True,
)
(slot / "cgroup.procs").write_text(str(comet.pid))
cpu = cgroup._File(slot / "cpu.stat", os.O_RDONLY)
before = cpu.field(b"usage_usec ")
comet.stdin.write(b"\\n")
comet.stdin.close()
deadline = time.monotonic() + 20
while cpu.field(b"usage_usec ") < before + 50_000 and time.monotonic() < deadline:
    time.sleep(0.01)
told["counted"] = cpu.field(b"usage_usec ") - before
cpu.close()
told["inside"] = len((slot / "cgroup.procs").read_text().split())
cgroup._remove_orphans(base)
told["status"] = comet.wait(20)
told["left"] = orphan.exists()
base.rmdir()
print(json.dumps(told))
"""


def test_the_kernels_own_version_2_hierarchy_counts_kills_and_is_removed(tmp_path: Path) -> None:
    """What of it works while version 1 holds the controllers: entering, CPU time, killing a tree, removing."""
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", 'mount -t cgroup2 none "$1" || exit 77; exec "$2" -c "$3" "$1"', "sh",
         str(tmp_path), sys.executable, REAL_VERSION_2],
        capture_output=True, text=True, timeout=120, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    if done.returncode in (1, 77) and ("unshare" in done.stderr or "mount" in done.stderr):
        pytest.skip(f"no version 2 hierarchy can be mounted here: {done.stderr.strip()[:200]}")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)

    assert told["counted"] >= 50_000
    assert told["inside"] >= 2
    assert told["status"] == -9
    assert not told["left"]
    if told["missing"]:
        assert told["version"] == "none"
        assert all(name in told["reason"] for name in told["missing"])
    else:
        assert told["version"] == "v2"


def test_turning_them_off_says_so() -> None:
    parent = cgroup.open_parent("none")
    group = parent.group("slot")

    assert parent.version == group.version == "none"
    assert "turned off" in parent.reason
    assert group.peak_memory_bytes() == group.cpu_time_ns() == 0
    assert group.memory_kills().own == 0
    group.attach(os.getpid())
    group.remove()
