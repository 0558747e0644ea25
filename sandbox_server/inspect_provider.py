"""A sandbox for inspect_ai: ``sandbox="selfalign"`` in a task runs its tools and scorers here.

inspect_ai finds this module by its entry point; nothing else imports it. A sample's files are a `Workspace`: every
`exec` is a run of its own in a fresh world, on the files that the one before left. What that cannot be (processes that
live on, files elsewhere than in /work and /tmp, other users) is refused by name or said in docs/clients.md.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, overload

from inspect_ai.util import (
    ExecResult,
    OutputLimitExceededError,
    SandboxEnvironment,
    SandboxEnvironmentLimits,
    SandboxUnavailableError,
    SandboxUserUnsupportedError,
    sandboxenv,
)
from pydantic import BaseModel, ConfigDict

from sandbox_server.client import EMBEDDED, ClientConfig, Credentials, connect
from sandbox_server.embedded import embedded_sandbox
from sandbox_server.errors import InvalidJob, SandboxError
from sandbox_server.jobs import LimitsRequest, SandboxInfo, Verdict
from sandbox_server.sandbox import Sandbox
from sandbox_server.settings import read_toml
from sandbox_server.workspace import Done, Workspace

_USERS = ("program", "1000")
"""The one user that programs are, by name and number."""
_FAILED, _NOT_EXECUTABLE = 125, 126
# A quarter of it bounds the answers, and inspect_ai's own limit of a file is 100 MiB before it is packed.
_EMBEDDED_SETTINGS = ("--set", 'sandbox.runtimes=["command"]', "--set", f"max_message_bytes={128 << 20}")


class SelfalignSandboxConfig(BaseModel):
    """What ``SandboxEnvironmentSpec("selfalign", SelfalignSandboxConfig(...))`` takes, or a TOML file with these keys.

    Attributes:
        address: of the servers, as `connect` takes it; ``embedded`` starts one for as long as the evaluation runs.
        runtime: a command runtime of theirs.
        token_env: the variable that holds the servers' token.
        ca: the authority to check the servers by; implies TLS.
        memory_bytes: of one command, its files included; absent: the server's default.
        disk_bytes: of a sample's files, with room for their packed copy; absent: the server's default.
        processes: of one command; absent: the server's default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str = EMBEDDED
    runtime: str = "command"
    token_env: str | None = None
    ca: Path | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    processes: int | None = None


@dataclass(slots=True)
class _Server:
    sandbox: Sandbox
    info: SandboxInfo
    leave: contextlib.AsyncExitStack
    users: int = 0


_servers: dict[SelfalignSandboxConfig, _Server] = {}


@sandboxenv(name="selfalign")
class SelfalignSandboxEnvironment(SandboxEnvironment):
    """The files of one sample, and the commands on them."""

    def __init__(self, server: _Server, config: SelfalignSandboxConfig) -> None:
        super().__init__()
        self._maximum = server.info.maximum_limits
        self._limits = LimitsRequest(
            wall_time_ms=self._maximum.wall_time_ms,
            cpu_time_ms=self._maximum.cpu_time_ms,
            memory_bytes=config.memory_bytes,
            file_size_bytes=min(
                self._maximum.file_size_bytes, config.disk_bytes or server.info.default_limits.disk_bytes
            ),
            disk_bytes=config.disk_bytes,
            processes=config.processes,
        )
        self._workspace = Workspace(server.sandbox, config.runtime, self._limits)

    @classmethod
    async def task_init(cls, task_name: str, config: Any) -> None:
        """Reach the servers, or start one."""
        config = _config(config)
        server = _servers.get(config)
        if server is None:
            server = _servers[config] = await _reach(config)
        server.users += 1

    @classmethod
    async def task_cleanup(cls, task_name: str, config: Any, cleanup: bool) -> None:
        """Leave the servers, or end the one that was started; its files lie nowhere that could be kept."""
        config = _config(config)
        server = _servers[config]
        server.users -= 1
        if not server.users:
            del _servers[config]
            await server.leave.aclose()

    @classmethod
    async def sample_init(cls, task_name: str, config: Any, metadata: dict[str, str]) -> dict[str, SandboxEnvironment]:
        """Give a sample its own, empty files."""
        config = _config(config)
        return {"default": cls(_servers[config], config)}

    @classmethod
    async def sample_cleanup(
        cls, task_name: str, config: Any, environments: dict[str, SandboxEnvironment], interrupted: bool
    ) -> None:
        """Nothing is left to clean up: the files are this process's memory."""

    @classmethod
    def config_deserialize(cls, config: dict[str, Any]) -> BaseModel:
        """Read what a log holds of the configuration."""
        return SelfalignSandboxConfig(**config)

    async def exec(
        self,
        cmd: list[str],
        input: str | bytes | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        user: str | None = None,
        timeout: int | None = None,
        timeout_retry: bool = True,
        concurrency: bool = True,
    ) -> ExecResult[str]:
        """Run a command; see `SandboxEnvironment.exec`. One that is out of time leaves no trace, so none is retried."""
        if user is not None and user not in _USERS:
            raise SandboxUserUnsupportedError(f"user {user!r}: programs are always {_USERS[0]!r} here")
        wall_time_ms = self._maximum.wall_time_ms
        if timeout is not None:
            wall_time_ms = max(1, min(timeout * 1000, wall_time_ms))
        output_bytes = min(SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE, self._maximum.output_bytes)
        limits = replace(self._limits, wall_time_ms=wall_time_ms, output_bytes=output_bytes)
        stdin = input.encode() if isinstance(input, str) else input or b""
        try:
            with _trouble():
                done = await self._workspace.run(cmd, stdin=stdin, folder=cwd or ".", env=env, limits=limits)
        except InvalidJob as error:
            if error.field.startswith("argv") and cmd and cmd[0] and not any("\0" in text for text in cmd):
                return ExecResult(False, _NOT_EXECUTABLE, "", f"{cmd[0]}: Argument list too long ({error})\n")
            raise
        return _result(done, wall_time_ms)

    async def exec_remote(self, cmd: list[str], options: Any = None, *, stream: bool = True) -> Any:
        """Not here: it would talk to a process that lives on between commands."""
        raise RuntimeError("exec_remote: in sandbox 'selfalign' no process outlives the command that started it")

    async def write_file(self, file: str, contents: str | bytes) -> None:
        """Make a file or replace its content; see `SandboxEnvironment.write_file`."""
        with _trouble():
            await self._workspace.write(file, contents.encode() if isinstance(contents, str) else contents)

    @overload
    async def read_file(self, file: str, text: Literal[True] = True) -> str: ...

    @overload
    async def read_file(self, file: str, text: Literal[False]) -> bytes: ...

    async def read_file(self, file: str, text: bool = True) -> str | bytes:
        """The content of a file; see `SandboxEnvironment.read_file`."""
        try:
            with _trouble():
                content = await self._workspace.read(file)
        except OSError as error:
            if error.errno == errno.EFBIG:
                raise OutputLimitExceededError(SandboxEnvironmentLimits.MAX_READ_FILE_SIZE_STR, None) from error
            raise
        if len(content) > SandboxEnvironmentLimits.MAX_READ_FILE_SIZE:
            raise OutputLimitExceededError(SandboxEnvironmentLimits.MAX_READ_FILE_SIZE_STR, None)
        return content.decode("utf-8") if text else content


def _config(config: Any) -> SelfalignSandboxConfig:
    if config is None:
        return SelfalignSandboxConfig()
    if isinstance(config, str):  # --sandbox selfalign:FILE
        return SelfalignSandboxConfig(**read_toml(Path(config)))
    if isinstance(config, SelfalignSandboxConfig):
        return config
    raise TypeError(f"sandbox 'selfalign': expected a TOML file's name or SelfalignSandboxConfig, got {config!r}")


async def _reach(config: SelfalignSandboxConfig) -> _Server:
    token = os.environ.get(config.token_env) if config.token_env else None
    # A sample waits for its turn as long as it takes; each command's own limit ends it.
    client = ClientConfig(timeout_s=None, credentials=Credentials(token=token or None, ca=config.ca))
    async with contextlib.AsyncExitStack() as stack:
        if config.address == EMBEDDED:
            entered = embedded_sandbox(_EMBEDDED_SETTINGS, client=client)
        else:
            entered = connect(config.address, client)
        sandbox = await stack.enter_async_context(entered)
        info = await sandbox.info()
        # What every sample needs, told before the first: the runtime, and its sh, find, tar and gzip.
        await Workspace(sandbox, config.runtime).write("probe", b"")
        return _Server(sandbox, info, stack.pop_all())


@contextlib.contextmanager
def _trouble() -> Iterator[None]:
    """The sandbox's own trouble in inspect_ai's words, never a command's result."""
    try:
        yield
    except InvalidJob:
        raise
    except SandboxError as error:
        raise SandboxUnavailableError(str(error)) from error


def _result(done: Done, wall_time_ms: int) -> ExecResult[str]:
    """Say how a command ended in inspect_ai's words."""
    stdout, stderr = done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
    if done.verdict is Verdict.TIME_LIMIT:
        raise TimeoutError(f"the command was killed at its limit of {wall_time_ms / 1000:g} s; its files are as before")
    if done.truncated or done.verdict is Verdict.OUTPUT_LIMIT:
        raise OutputLimitExceededError(SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE_STR, stdout + stderr)
    if done.returncode == _NOT_EXECUTABLE and stderr.rstrip().endswith("Permission denied"):
        raise PermissionError(errno.EACCES, stderr.strip())
    returncode = done.returncode
    notes = [] if done.verdict is Verdict.EXITED else [str(done.verdict)]
    if done.not_kept:
        notes.append(f"the files are as before this command: {done.not_kept}")
        returncode = returncode or _FAILED
    if notes:
        stderr += f"{'' if not stderr or stderr.endswith(chr(10)) else chr(10)}sandbox: {'; '.join(notes)}\n"
    return ExecResult(returncode == 0, returncode, stdout, stderr)
