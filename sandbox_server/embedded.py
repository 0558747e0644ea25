"""A sandbox server of one's own: a child process that lives exactly as long as its parent needs it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from sandbox_server.client import ClientConfig, RemoteSandbox
from sandbox_server.config import ENVIRONMENT_PREFIX, MAX_SOCKET_PATH_BYTES
from sandbox_server.errors import HostUnfit, Unavailable
from sandbox_server.tasks import to_the_end

_logger = logging.getLogger(__name__)
_LONGEST_PAUSE_S = 30.0  # before a server that keeps ending is started again


@contextlib.asynccontextmanager
async def embedded_sandbox(
    arguments: Sequence[str] = (),
    *,
    client: ClientConfig | None = None,
    start_timeout_s: float = 60.0,
    stop_timeout_s: float = 40.0,
) -> AsyncIterator[RemoteSandbox]:
    """Start a sandbox server, yield a client of it, and drain it at the end.

    The server listens on a unix socket in a private temporary folder, has its own session (a Ctrl-C in the terminal
    does not reach it), and is told to stop by the kernel when this process dies, even by ``kill -9``. Should it be
    killed itself, another is started, and the runs that it had are tried again there.

    Args:
        arguments: further arguments of ``selfalign sandbox serve``, e.g. ``("--set", "sandbox.slots=2")``.
        client: how to call it.
        start_timeout_s: how long it may take to pass its self-test.
        stop_timeout_s: how long it may take to drain before it is killed.

    Raises:
        HostUnfit: it ended instead of serving; the message is its own last line.
        Unavailable: it did not serve in time.
    """
    client = client or ClientConfig()
    with tempfile.TemporaryDirectory(prefix="selfalign-", dir=_short_folder()) as folder:
        server = _Server(Path(folder), arguments)
        try:
            await server.start()
        except OSError as error:
            raise HostUnfit(f"the sandbox server does not start in {folder}: {error}") from error
        try:
            sandbox = RemoteSandbox(server.address, dataclasses.replace(client, connect_timeout_s=start_timeout_s))
            keeping: asyncio.Task[None] | None = None
            try:
                await _until_ready(sandbox, server.process, server.log)
                keeping = asyncio.create_task(server.keep())
                yield sandbox
            finally:
                if keeping is not None:
                    keeping.cancel()
                    await asyncio.gather(keeping, return_exceptions=True)
                await sandbox.close()
        finally:
            await _stop(server.process, stop_timeout_s)


class _Server:
    """The child process, and the next one should it be killed.

    Attributes:
        process: the one that runs, or ran last.
    """

    process: asyncio.subprocess.Process

    def __init__(self, folder: Path, arguments: Sequence[str]) -> None:
        self.address = f"unix:{folder}/sandbox.sock"
        self.log = folder / "server.log"
        self._command = (
            *(sys.executable, "-m", "sandbox_server", "serve", "--address", self.address),
            *("--parent-pid", str(os.getpid()), "--set", "log_level=warning", "--set", "log_format=text"),
            *arguments,
        )

    async def start(self) -> None:
        """Start it; it is not ready yet."""
        with self.log.open("ab") as log_file:
            self.process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=log_file,
                start_new_session=True,
                env=_environment(os.environ),
            )

    async def keep(self) -> None:
        """Start another whenever it ends, killed for memory say; the client tries its runs again there."""
        clock = asyncio.get_running_loop().time
        pause_s = 0.0
        while True:
            started_s = clock()
            status = await self.process.wait()
            pause_s = 0.0 if clock() - started_s > _LONGEST_PAUSE_S else min(2 * pause_s + 0.5, _LONGEST_PAUSE_S)
            _logger.warning(
                "the embedded sandbox server ended with status %s and is started again; it said last: %s",
                *(status, _last_line(self.log) or "nothing"),
            )
            await asyncio.sleep(pause_s)
            try:
                await to_the_end(self.start())
            except OSError as error:
                _logger.warning("the embedded sandbox server does not start: %s", error)


async def _until_ready(sandbox: RemoteSandbox, process: asyncio.subprocess.Process, log: Path) -> None:
    ready = asyncio.ensure_future(sandbox.wait_until_serving())
    ended = asyncio.ensure_future(process.wait())
    try:
        await asyncio.wait((ready, ended), return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            raise HostUnfit(_last_line(log) or f"the sandbox server ended at once, with status {ended.result()}")
        try:
            await ready
        except Unavailable as error:
            raise Unavailable(f"the sandbox server that was started here does not answer; {_last_line(log)}") from error
    finally:
        for task in (ready, ended):
            task.cancel()
        await asyncio.gather(ready, ended, return_exceptions=True)


async def _stop(process: asyncio.subprocess.Process, timeout_s: float) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), timeout_s)
    except TimeoutError:
        pass
    finally:
        if process.returncode is None:  # it hangs, or nobody wants to wait
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Let the child find this very package, however the parent found it, and keep other servers' settings from it."""
    package_root = str(Path(__file__).resolve().parents[1])
    paths = [package_root, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    kept = {
        name: value
        for name, value in environment.items()
        if not name.startswith(ENVIRONMENT_PREFIX) or name.startswith(f"{ENVIRONMENT_PREFIX}SANDBOX__")
    }
    return {**kept, "PYTHONPATH": os.pathsep.join(paths)}


def _short_folder() -> str | None:
    """The usual temporary folder, or /tmp where a socket's path in that would be too long."""
    try:
        usual = tempfile.gettempdir()
    except FileNotFoundError as error:
        raise HostUnfit(f"{error.strerror}: free some space, or set TMPDIR to a folder that can be written") from error
    return usual if len(f"{usual}/selfalign-12345678/sandbox.sock".encode()) <= MAX_SOCKET_PATH_BYTES else "/tmp"  # noqa: S108


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].removeprefix("Error: ") if lines else ""
