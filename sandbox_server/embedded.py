"""A sandbox server of one's own: a child process that lives exactly as long as its parent needs it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from sandbox_server.client import ClientConfig, RemoteSandbox
from sandbox_server.config import ENVIRONMENT_PREFIX, MAX_SOCKET_PATH_BYTES
from sandbox_server.errors import HostUnfit, Unavailable


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
    does not reach it), and is told to stop by the kernel when this process dies, even by ``kill -9``.

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
        address = f"unix:{folder}/sandbox.sock"
        log = Path(folder, "server.log")
        with log.open("wb") as log_file:  # noqa: ASYNC230  # an empty file in a temporary folder
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "sandbox_server", "serve", "--address", address),
                *(
                    "--parent-pid",
                    str(os.getpid()),
                    "--set",
                    "log_level=warning",
                    "--set",
                    "log_format=text",
                    *arguments,
                ),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=log_file,
                start_new_session=True,
                env=_environment(os.environ),
            )
        try:
            sandbox = RemoteSandbox(address, dataclasses.replace(client, connect_timeout_s=start_timeout_s))
            try:
                await _until_ready(sandbox, process, log)
                yield sandbox
            finally:
                await sandbox.close()
        finally:
            await _stop(process, stop_timeout_s)


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
    usual = tempfile.gettempdir()
    return usual if len(f"{usual}/selfalign-12345678/sandbox.sock".encode()) <= MAX_SOCKET_PATH_BYTES else "/tmp"  # noqa: S108


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].removeprefix("Error: ") if lines else ""
