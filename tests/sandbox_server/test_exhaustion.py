"""A host that runs out of something: runs are refused and not misjudged, nothing leaks, and all goes on afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox_server import image
from sandbox_server.client import ClientConfig, connect
from sandbox_server.errors import HostUnfit, Unavailable
from sandbox_server.jail import SandboxConfig, open_sandbox
from sandbox_server.jobs import Job, Judge, Verdict

pytestmark = pytest.mark.nsjail

REPOSITORY = Path(__file__).resolve().parents[2]
MORE_THAN_A_RUN_TAKES = 40
# A small file system, full but for an open file for the log, in a mount namespace that ends with the server.
FULL_DISK = """
mount -t tmpfs -o size=64k none "$1" || exit 77
exec 2> "$1/log"
cat /dev/zero > "$1/filler"
cd "$1" && shift && TMPDIR=$PWD HOME=$PWD exec "$@"
"""


def descriptors() -> set[str]:
    """Those that this process has open."""
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208


def children() -> set[str]:
    """Pids of this process' children."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def groups() -> set[Path]:
    """Control groups of this process' slots."""
    return set(Path("/sys/fs/cgroup").rglob(f"selfalign-{os.getpid()}-*/jail-*"))


@contextlib.contextmanager
def descriptors_left(number: int) -> Iterator[None]:
    """So many more can be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = {int(name) for name in descriptors()}
    free = [fd for fd in range(len(taken) + number + 1) if fd not in taken]  # a new one gets the lowest
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[number], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("seed", [None, 7], ids=["in warm jails", "in jails of its own"])
@pytest.mark.parametrize("judge", Judge)
async def test_however_few_descriptors_are_left(judge: Judge, seed: int | None) -> None:
    """Any number of them: the run is answered or told to try again, and no descriptor, process or group is lost."""
    job = Job("def f(): return 1", "assert f() == 1", judge=judge, random_seed=seed)
    sandbox = await open_sandbox(SandboxConfig(slots=1))
    try:
        await sandbox.run(job)
        fds, jails, slots = len(descriptors()), len(children()), len(groups())
        told: list[str] = []
        for number in range(MORE_THAN_A_RUN_TAKES):
            if told[-2:] == ["PASSED", "PASSED"]:
                break
            try:
                with descriptors_left(number):
                    outcome = await sandbox.run(job)
                told.append(outcome.verdict.value)
            except (Unavailable, HostUnfit) as error:
                told.append(type(error).__name__)
            assert (await sandbox.run(job)).verdict is Verdict.PASSED, number
            assert (len(children()), len(groups())) == (jails, slots), number
            assert len(descriptors()) <= fds, number  # fewer when the garbage of an earlier test has gone meanwhile
    finally:
        await sandbox.close()

    assert set(told) <= {"PASSED", "Unavailable", "HostUnfit"}
    assert told[0] != "PASSED"
    assert told[-1] == "PASSED"


@pytest.fixture
def on_a_full_disk(tmp_path: Path) -> list[str]:
    """A command to start another in a folder without room, its error output going to a file there."""
    folder = tmp_path / "full"
    folder.mkdir()
    done = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "none", folder], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()[:200]}")
    return ["unshare", "--mount", "sh", "-c", FULL_DISK, "sh", str(folder)]


async def test_a_server_whose_disk_is_full_goes_on(on_a_full_disk: list[str], tmp_path: Path) -> None:
    """Neither its log nor its temporary folder has room: programs run, jails are replaced, it ends in good order."""
    address = f"unix:{tmp_path}/s.sock"
    command = [sys.executable, "-m", "sandbox_server", "serve", "--address", address]
    for setting in ("sandbox.slots=1", "sandbox.runs_per_jail=2", "log_runs=true"):
        command += ["--set", setting]
    server = subprocess.Popen(  # noqa: ASYNC220  # returns at once
        [*on_a_full_disk, *command, "--parent-pid", str(os.getpid())],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.DEVNULL,
    )
    try:
        async with connect(address, ClientConfig(connect_timeout_s=60)) as sandbox:
            job = Job("def f(): return 1", "open('made', 'w').write('x' * 100_000)\nassert f() == 1", collect=("made",))
            for _ in range(5):
                outcome = await sandbox.run(job)
                assert outcome.verdict is Verdict.PASSED
                assert [len(file.content) for file in outcome.files] == [100_000]
        server.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.wait, 60) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            server.kill()
        server.wait()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that jails may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


async def test_a_full_disk_for_images_is_told_in_one_line(open_folder: Path) -> None:
    """A server that cannot make its runtime's image says where there is no room, and leaves no half of it."""
    script = (
        'mount -t tmpfs -o size=10m none "$1" || exit 77; folder=$1; shift; '
        '"$@"; status=$?; find "$folder/images" -mindepth 1 -maxdepth 1 >&2; exit $status'
    )
    folder = open_folder
    done = await asyncio.to_thread(
        subprocess.run,
        ["unshare", "--mount", "sh", "-c", script, "sh", str(folder), sys.executable, "-m", "sandbox_server", "serve",
         "--address", "127.0.0.1:0", "--set", f"sandbox.cache_dir={folder}"],
        capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no file system can be mounted here")

    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert str(folder) in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert len(done.stderr) < 1000


def test_what_a_killed_server_was_building_is_removed_and_what_another_builds_is_kept(tmp_path: Path) -> None:
    killed = tmp_path / ".building-12345678"
    (killed / "python").mkdir(parents=True)
    with image.building_in(tmp_path) as building:
        (building / "python").mkdir()
        image.remove_unfinished(tmp_path)
        assert not killed.exists()
        assert (building / "python").is_dir()
    assert not list(tmp_path.iterdir())


async def test_an_image_that_somebody_tidies_away_makes_no_program_fail(open_folder: Path) -> None:
    """Under a server, what failed is to be run again elsewhere; another server does not start with half an image."""
    settings = SandboxConfig(slots=1, cache_dir=open_folder)
    passing, importing = Job("x = 1", "assert x"), Job("import decimal, wave", "assert wave")
    sandbox = await open_sandbox(settings)
    try:
        assert (await sandbox.run(importing)).verdict is Verdict.PASSED
        (library,) = open_folder.glob("images/*/python/lib/python3.*")  # noqa: ASYNC240
        (library / "wave.py").unlink()
        for compiled in (library / "__pycache__").glob("wave.*"):
            compiled.unlink()
        with pytest.raises(Unavailable, match="gone from its host"):
            await sandbox.run(importing)
        assert (await sandbox.run(passing)).verdict is Verdict.PASSED
    finally:
        await sandbox.close()

    with pytest.raises(HostUnfit, match=r"not as it was made.*rm -r"):
        await open_sandbox(settings)


def test_a_disk_that_fills_while_an_image_is_compiled_fails_the_build(open_folder: Path) -> None:
    """Else each program would compile what it imports, or fail by half a compiled file."""
    script = (
        'mount -t tmpfs -o size=200k none "$1" || exit 77; cd "$1"; shift; head -c 150000 /dev/zero > filler; exec "$@"'
    )
    build = (
        "from pathlib import Path\nfrom sandbox_server import image\n"
        "text = b'\\n'.join(b'def f%d(x):\\n    return x + %d' % (n, n) for n in range(700))\n"
        "try:\n    image.place_modules(Path('guest'), {'a.py': text}, image.find_interpreter())\n"
        "except OSError as error:\n    print(error.strerror, list(Path().iterdir()))"
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", str(open_folder), sys.executable, "-c", build],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no file system can be mounted here")

    assert done.stdout == "No space left on device [PosixPath('filler')]\n", done.stderr


@pytest.mark.parametrize(
    ("flag", "hard", "field"),
    [("n", 200, "open_files"), ("f", 1000, "file_size_bytes"), ("t", 6, "cpu_time_ms"), ("u", 20, "processes"),
     ("v", 400_000, "memory_bytes")],
)  # fmt: skip
def test_limits_of_the_server_that_are_too_low_are_told_in_one_line(flag: str, hard: int, field: str) -> None:
    """A jail inherits them, so a program could not even be given its own: that is told at start, with both names."""
    done = with_limits(f"-{flag} {hard}", "info")

    assert done.returncode == 1
    assert done.stdout == ""
    assert f"sandbox.default_limits.{field}" in done.stderr
    assert f"ulimit -H{flag}" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_what_jobs_may_ask_is_within_the_servers_own_limits() -> None:
    """More would be refused, by name, and not end as the program's failure. Lower limits than a jail sets itself do."""
    done = with_limits("-n 300 -l 8 -s 4096", "info", "--json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["maximum_limits"]["open_files"] == 300


def with_limits(limits: str, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f'ulimit {limits}; exec "$@"', "bash", sys.executable, "-m", "sandbox_server", *command],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip


# Runs in a process of its own, which enters a group whose limits are then set below what a program may have.
IN_A_SMALL_GROUP = """
import asyncio, json, os
from pathlib import Path
from sandbox_server import cgroup
from sandbox_server.errors import Unavailable
from sandbox_server.jail import SandboxConfig, open_sandbox
from sandbox_server.jobs import Job, LimitsRequest

MIB = 1 << 20
HOG = Job("x = b'x' * (200 << 20)", "assert x")
SMALL_HOG = Job("x = b'x' * (200 << 20)", "assert x", limits=LimitsRequest(memory_bytes=64 * MIB))
FORKS = Job("import os, time\\nfor _ in range(9):\\n  if not os.fork(): time.sleep(60)", "assert True")
FEW_FORKS = Job(FORKS.code, FORKS.tests, limits=LimitsRequest(processes=4))
KILLED = Job("import os; os.kill(os.getpid(), 9)", "assert True")

parent = cgroup.open_parent("v1")
if parent.version == "none":
    raise SystemExit(77)
name = f"selfalign-test-{os.getpid()}"
groups = {kind: folder.parent / name for kind, folder in parent.folders.items() if kind != "cpuacct"}
parent.remove()

async def told(sandbox, job):
    try:
        return (await sandbox.run(job)).verdict
    except Unavailable as error:
        return str(error)

async def main():
    answers = {}
    for mode in ("v1", "none"):
        sandbox = await open_sandbox(SandboxConfig(slots=1, cgroup=mode))
        swap = groups["memory"] / "memory.memsw.limit_in_bytes"
        limits = [groups["memory"] / "memory.limit_in_bytes", *([swap] if swap.exists() else [])]
        usage = int((groups["memory"] / "memory.usage_in_bytes").read_text())
        for limit in limits:
            limit.write_text(str(usage + 100 * MIB))
        answers[f"memory {mode}"] = [await told(sandbox, job) for job in (HOG, SMALL_HOG, HOG, KILLED)]
        for limit in reversed(limits):
            limit.write_text("-1")
        if mode == "v1" and (groups["pids"] / "pids.peak").exists():
            few = int((groups["pids"] / "pids.current").read_text()) + 3
            (groups["pids"] / "pids.max").write_text(str(few))
            answers["processes"] = [await told(sandbox, FORKS)]
            (groups["pids"] / "pids.max").write_text("max")
            answers["processes"].append(await told(sandbox, FEW_FORKS))
        await sandbox.close()
    print(json.dumps(answers))

for group in groups.values():
    group.mkdir()
    (group / "cgroup.procs").write_text(str(os.getpid()))
try:
    asyncio.run(main())
finally:
    for group in groups.values():
        (group.parent / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()
"""


async def test_what_the_host_runs_short_of_is_not_the_programs_failure() -> None:
    """A program killed for memory, or refused a process, below its own limits is to be run again; above, it failed."""
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", IN_A_SMALL_GROUP], capture_output=True, text=True, timeout=120,
        check=False, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip("no control groups of version 1 here")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)

    short = "the sandbox's host ran short of memory; try again"
    assert told["memory v1"] == [short, "MEMORY_LIMIT", short, "KILLED"]
    assert told["memory none"] == [short, "MEMORY_LIMIT", short, "KILLED"]
    if "processes" in told:
        assert told["processes"] == ["the sandbox's host ran short of processes; try again", "PROCESS_LIMIT"]
