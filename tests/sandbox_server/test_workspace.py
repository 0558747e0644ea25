"""A workspace: commands in worlds of their own, on files that go from one to the next."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator

import pytest

from sandbox_server.errors import Unavailable
from sandbox_server.jail import SandboxConfig, open_sandbox
from sandbox_server.jobs import File, Job, LimitsRequest, Outcome, Verdict
from sandbox_server.workspace import Done, Workspace
from tests.fakes import FakeSandbox


@contextlib.asynccontextmanager
async def opened() -> AsyncIterator[Workspace]:
    sandbox = await open_sandbox(SandboxConfig(slots=1, runtimes=("command",)))
    try:
        yield Workspace(sandbox)
    finally:
        await sandbox.close()


async def shell(workspace: Workspace, script: str, **fields: object) -> str:
    """Run a script that succeeds and says nothing on stderr, and whose files are kept; what it printed."""
    done = await workspace.run(["/bin/sh", "-c", script], **fields)  # type: ignore[arg-type]
    assert (done.verdict, done.returncode, done.stderr, done.not_kept) == (Verdict.EXITED, 0, b"", "")
    return done.stdout.decode()


@pytest.mark.nsjail
async def test_a_command_finds_the_files_as_the_one_before_it_left_them() -> None:
    """Content, modes, links, empty folders, odd names and times, in /work and /tmp."""
    tell = "cd /; find /work/ /tmp/ -mindepth 1 -printf '%p %M %l %s\\n' | LC_ALL=C sort; stat -c %.9Y /work/plain"
    async with opened() as workspace:
        made = await shell(
            workspace,
            "echo a >plain; echo b >run; chmod 750 run; mkdir -p empty/inner; chmod 700 empty; ln -s run soft; "
            "ln run hard; echo t >/tmp/there; touch -- -n 'two  words' \"new\nline\" *; mkfifo pipe; touch .hidden; "
            "truncate -s 3000000 sparse; touch -d '2001-02-03 04:05:06.789' plain; " + tell,
        )

        assert await shell(workspace, tell) == made
        assert made.splitlines()[-1] == "981173106.789000000"
        assert (
            await shell(workspace, "[ hard -ef run ] && ./run 2>/dev/null || cat hard; du -k sparse")
            == "b\n0\tsparse\n"
        )

        await shell(workspace, "rm -rf plain empty soft .hidden /tmp/there; mkdir plain")
        listed = "-n\n.\n..\nhard\nnew\nline\npipe\nplain\nrun\nsparse\ntwo  words\n"
        assert await shell(workspace, "LC_ALL=C ls -a; ls -A /tmp") == listed
        assert await shell(workspace, "ls plain") == ""


@pytest.mark.nsjail
async def test_files_and_folders_that_their_owner_closed_stay_closed_and_keep_their_content() -> None:
    async with opened() as workspace:
        await shell(
            workspace,
            "mkdir -p a/b/c; echo deep >a/b/c/f; echo secret >s; chmod 0 s a/b/c/f a/b/c a/b a; chmod 0 /work/.",
        )
        done = await workspace.run(["cat", "s", "a/b/c/f"])
        assert (done.returncode, done.stderr.count(b"Permission denied")) == (1, 2)
        assert await shell(workspace, "stat -c %a s a; chmod 700 a") == "0\n0\n"
        assert await shell(workspace, "stat -c %a a a/b; chmod -R u+rwx a s; cat s a/b/c/f") == "700\n0\nsecret\ndeep\n"


@pytest.mark.nsjail
async def test_a_command_gets_its_input_folder_variables_and_ends_as_it_would_in_a_shell() -> None:
    async with opened() as workspace:
        await shell(workspace, "mkdir 'a b'")
        variables = {"PYTHONPATH": "x y", "LC_ALL": "C", "PATH": "/work/own:/usr/bin:/bin"}
        said = await shell(workspace, 'cat; pwd; echo "$PYTHONPATH"', stdin=b"\0in\n", folder="a b", env=variables)
        assert said == "\0in\n/work/a b\nx y\n"
        assert await shell(workspace, "pwd", folder="/usr/bin") == "/usr/bin\n"

        async def ends(*argv: str, **fields: object) -> tuple[int, bytes]:
            done = await workspace.run(argv, **fields)  # type: ignore[arg-type]
            assert (done.verdict, done.not_kept) == (Verdict.EXITED, "")
            return done.returncode, done.stderr.rpartition(b": ")[2]

        assert await ends("sh", "-c", "exit 70") == (70, b"")
        assert await ends("sh", "-c", "kill -TERM $$") == (128 + 15, b"")
        assert await ends("sh", "-c", "kill 0; sleep 9") == (128 + 15, b"")
        assert await ends("sh", "-c", "kill -USR1 0; sleep 9") == (128 + 10, b"")
        assert await ends("no such command") == (127, b"not found\n")
        assert await ends("/etc/passwd") == (126, b"Permission denied\n")
        assert (await ends("ls", folder="none"))[0] == 1
        with pytest.raises(ValueError, match="a-b"):
            await workspace.run(["true"], env={"a-b": "1"})


@pytest.mark.nsjail
async def test_what_a_command_left_running_ends_with_it_and_changes_nothing_later() -> None:
    async with opened() as workspace:
        await shell(workspace, "(setsid sh -c 'while :; do echo x >>grows; done' &) ; while [ ! -s grows ]; do :; done")
        size = await shell(workspace, "wc -c <grows")
        assert await shell(workspace, "sleep 0.1; wc -c <grows; ls /proc | grep -c '^[0-9]' >/dev/null") == size


@pytest.mark.nsjail
async def test_a_command_whose_files_cannot_be_packed_says_so_and_leaves_no_trace() -> None:
    """Out of time, killing what would pack them, or with more than fits; and the next command goes on from before."""
    async with opened() as workspace:
        await shell(workspace, "echo first >a")

        async def lost(script: str, **limits: int) -> Done:
            limits_ = LimitsRequest(**limits)
            done = await workspace.run(["sh", "-c", f"echo second >a; touch b; {script}"], limits=limits_)
            assert done.not_kept
            assert await shell(workspace, "cat *") == "first\n"
            return done

        late = await lost("sleep 60", wall_time_ms=1000)
        assert (late.verdict, late.not_kept) == (Verdict.TIME_LIMIT, "TIME_LIMIT")
        assert (await lost("kill -9 $PPID; sleep 60")).returncode == 128 + 9
        assert (await lost("kill -9 -1")).returncode == 128 + 9
        full = await lost("head -c 3000000 /dev/urandom >b", disk_bytes=4_000_000)
        assert "No space left on device" in full.not_kept
        # The archive's own place, closed to us, is the same; as a link it leads nowhere.
        await lost("mkdir -p .selfalign/x; chmod 0 .selfalign")
        await shell(workspace, "mkdir /tmp/else; echo here >/tmp/else/world; ln -s /tmp/else .selfalign")
        assert await shell(workspace, "ls -A; cat /tmp/else/*") == "a\nhere\n"
        await lost("mkdir .selfalign; cp a .selfalign/world; kill -9 $PPID; sleep 60")

        await shell(workspace, "head -c 3000000 /dev/zero >a")
        cramped = await workspace.run(["echo", "never"], limits=LimitsRequest(disk_bytes=1_000_000))
        assert (cramped.returncode, cramped.stdout) == (125, b"")
        assert "could not be laid out" in cramped.not_kept
        assert await shell(workspace, "wc -c <a") == "3000000\n"


@pytest.mark.nsjail
async def test_files_are_read_and_written_with_the_errors_of_open() -> None:
    async with opened() as workspace:
        await workspace.write("new/folders/f", b"\0\xff\n\n")
        await workspace.write("/tmp/t", b"")
        await workspace.write("-n", b"old, and longer")
        await workspace.write("-n", b"new")
        assert await workspace.read("new/folders/../folders/f") == b"\0\xff\n\n"
        assert (await workspace.read("/tmp/t"), await workspace.read("-n")) == (b"", b"new")
        assert b"program" in await workspace.read("/etc/passwd")
        await shell(workspace, "touch locked; chmod 0 locked; ln -s /etc/passwd there")
        assert b"program" in await workspace.read("there")

        for path, kind in (
            ("none", FileNotFoundError),
            ("-n/x", FileNotFoundError),
            ("/etc", IsADirectoryError),
            ("locked", PermissionError),
        ):
            with pytest.raises(kind) as caught:
                await workspace.read(path)
            assert caught.value.filename == (path if path[0] == "/" else f"/work/{path}")
        for path, kind in (
            ("new", IsADirectoryError),
            ("locked", PermissionError),
            ("/etc/x", PermissionError),
            ("there", PermissionError),
        ):
            with pytest.raises(kind):
                await workspace.write(path, b"x")
        with pytest.raises(OSError, match="too long") as long:
            await workspace.write("n" * 300, b"x")
        assert long.value.errno == errno.ENAMETOOLONG


async def test_commands_wait_for_their_turn_and_trouble_of_the_sandbox_changes_nothing() -> None:
    """Two at once would each lose what the other wrote."""

    async def behave(job: Job) -> Outcome:
        before = b"".join(file.content for file in job.files)
        await asyncio.sleep(0)
        if job.argv[-1] == "fails":
            raise Unavailable("gone")
        return Outcome(Verdict.EXITED, exit_code=0, files=(File(".selfalign/world", before + job.argv[-1].encode()),))

    sandbox = FakeSandbox(behave)
    workspace = Workspace(sandbox)
    told = await asyncio.gather(*(workspace.run([name]) for name in ("a", "fails", "b", "c")), return_exceptions=True)
    await workspace.run(["d"])

    assert [type(answer) for answer in told] == [Done, Unavailable, Done, Done]
    assert [b"".join(file.content for file in job.files) for job in sandbox.started] == [b"", b"a", b"a", b"ab", b"abc"]
