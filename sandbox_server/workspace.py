"""Files that outlive the world they were made in: each command finds what the commands before it left.

A run's world is fresh and ends with the run. A `Workspace` packs ``/work`` and ``/tmp`` inside the world when a command
has ended, keeps the archive here, and lays it out in the next command's world: modes, links, empty folders, times and
deletions included. Nothing else is carried over, processes least of all.

The archive is the program's own word. It is never opened here, only handed to the next world, where it is unpacked with
no more power than the program had.
"""

from __future__ import annotations

import asyncio
import errno
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sandbox_server.jobs import File, Job, LimitsRequest, Verdict
from sandbox_server.sandbox import Sandbox

HOME = "/work"
"""What relative paths start from."""
_KEEP = Path(__file__).with_name("keep.sh").read_text(encoding="utf-8")
_OWN = ".selfalign"
_WORLD, _WHY, _ANSWER = f"{_OWN}/world", f"{_OWN}/why", f"{_OWN}/answer"
_READ = 'mkdir /work/.selfalign && cat -- "$1" >/work/.selfalign/answer'
_WRITE = 'mkdir -p -- "${1%/*}/" && tee -- "$1" >/dev/null'
_NO_LIMITS = LimitsRequest()
_C = {"LC_ALL": "C"}
_SIGNALLED = 128  # what a shell adds to a signal's number
# What cat, mkdir and tee say of an error in the C locale, and what the caller is told. A path through a file leads
# nowhere, and a place that nobody may write to is one that the caller may not.
_ERRORS = {
    "No such file or directory": errno.ENOENT,
    "Not a directory": errno.ENOENT,
    "Is a directory": errno.EISDIR,
    "Permission denied": errno.EACCES,
    "Read-only file system": errno.EACCES,
    "File name too long": errno.ENAMETOOLONG,
    "No space left on device": errno.ENOSPC,
    "File too large": errno.EFBIG,
}


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended.

    Attributes:
        verdict: how the server saw it end. Not EXITED: a limit or a signal ended it.
        returncode: its exit code, or 128 and the signal's number, as a shell tells it.
        stdout: its bytes, cut at the limit.
        stderr: the same.
        truncated: the limit cut one of the two.
        not_kept: why the files are as they were before the command; empty when they are as it left them.
    """

    verdict: Verdict
    returncode: int
    stdout: bytes
    stderr: bytes
    truncated: bool
    not_kept: str


class Workspace:
    """Commands on the same files, one after another.

    Args:
        sandbox: where they run; not closed here.
        runtime: a command runtime of it, in which sh, find, tar and gzip are.
        limits: of each command, the work of laying out and packing included.
    """

    def __init__(self, sandbox: Sandbox, runtime: str = "command", limits: LimitsRequest = _NO_LIMITS) -> None:
        self._sandbox = sandbox
        self._runtime = runtime
        self._limits = limits
        self._world = b""
        self._turn = asyncio.Lock()

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        folder: str = HOME,
        env: Mapping[str, str] | None = None,
        limits: LimitsRequest | None = None,
    ) -> Done:
        """Run a command when those before it have ended.

        A command that a time limit ends, or that kills what would have packed its files, leaves no trace.

        Args:
            argv: the command and its arguments.
            stdin: what it reads.
            folder: where it starts; relative to `HOME`.
            env: variables added to the runtime's own.
            limits: instead of the workspace's own.

        Raises:
            InvalidJob: a value is malformed or too large.
            ValueError: a variable's name is none that a shell can export.
            SandboxError: the sandbox's own trouble. The files are as before.
        """
        for name in env or ():
            if not (name.isascii() and name.isidentifier()):
                raise ValueError(f"env: {name!r} is not a name that a shell can export")
        done, _ = await self._run("keep", argv, stdin, folder, env or {}, limits or self._limits)
        return done

    async def read(self, path: str) -> bytes:
        """The content of a file.

        Raises:
            OSError: of the kind that opening it would raise; EFBIG where it is larger than an answer may be.
            SandboxError: the sandbox's own trouble.
        """
        path = posixpath.join(HOME, path)
        done, answer = await self._run("leave", ("/bin/sh", "-c", _READ, "sh", path), b"", "/", _C, self._limits)
        if done.returncode or done.verdict is not Verdict.EXITED:
            raise _error(done, path)
        if answer is None:
            raise OSError(errno.EFBIG, "larger than an answer of the sandbox may be", path)
        return answer

    async def write(self, path: str, content: bytes) -> None:
        """Make a file, and the folders above it, or replace its content.

        Raises:
            OSError: of the kind that writing it would raise.
            SandboxError: the sandbox's own trouble.
        """
        path = posixpath.join(HOME, path)
        done, _ = await self._run("keep", ("/bin/sh", "-c", _WRITE, "sh", path), content, "/", _C, self._limits)
        if done.returncode or done.verdict is not Verdict.EXITED or done.not_kept:
            raise _error(done, path)

    async def _run(
        self,
        mode: str,
        argv: Sequence[str],
        stdin: bytes,
        folder: str,
        env: Mapping[str, str],
        limits: LimitsRequest,
    ) -> tuple[Done, bytes | None]:
        variables = [f"{name}={value}" for name, value in env.items()]
        async with self._turn:
            outcome = await self._sandbox.run(
                Job(
                    runtime=self._runtime,
                    argv=("/bin/sh", "-c", _KEEP, "sh", mode, folder, str(len(variables)), *variables, *argv),
                    stdin=stdin,
                    files=(File(_WORLD, self._world),) if self._world else (),
                    collect=(_WORLD, _WHY) if mode == "keep" else (_ANSWER, _WHY),
                    limits=limits,
                )
            )
            files = {file.path: file.content for file in outcome.files}
            not_kept = ""
            if mode == "keep":
                # Without an exit code, what packs was killed, and the archive is not its work.
                ended = outcome.exit_code is not None and outcome.verdict is not Verdict.TIME_LIMIT
                if ended and files.get(_WORLD):
                    self._world = files[_WORLD]
                else:
                    not_kept = _reason(outcome.verdict, files.get(_WHY), outcome.files_refused)
        returncode = outcome.exit_code
        if returncode is None:
            returncode = _SIGNALLED + (outcome.signal or 0)
        done = Done(
            verdict=outcome.verdict,
            returncode=returncode,
            stdout=outcome.stdout,
            stderr=outcome.stderr,
            truncated=outcome.stdout_truncated or outcome.stderr_truncated,
            not_kept=not_kept,
        )
        return done, files.get(_ANSWER)


def _reason(verdict: Verdict, why: bytes | None, refused: tuple[str, ...]) -> str:
    if why:
        return why.decode("utf-8", "replace").strip()
    if refused:
        return f"they are more than an answer of the sandbox may hold ({refused[0]})"
    return "the command's world ended before they were packed" if verdict is Verdict.EXITED else str(verdict)


def _error(done: Done, path: str) -> OSError:
    said = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
    for text, number in _ERRORS.items():
        if said.endswith(text):
            return OSError(number, text, path)
    return OSError(errno.EIO, said or done.not_kept or str(done.verdict), path)
