"""Commands of this floor: thin, and importing nothing heavy until one runs."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import gc
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from sandbox_server.config import ServerConfig
    from sandbox_server.jobs import Job, Outcome, SandboxInfo
    from sandbox_server.sandbox import Sandbox

T = TypeVar("T")

_HUNG_SECONDS = 30  # past the longest drain
_ADDRESS_HELP = "host:port or unix:/path of a server."
_TOKEN_VARIABLE = "SELFALIGN_TOKEN"  # noqa: S105  # a variable's name; recipes read the token from the same one

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


def _reach(help_text: str, default: str | None = None) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Options for where a server is and how it is convinced; they arrive as `address` and `credentials`."""

    def decorate(command: Callable[..., T]) -> Callable[..., T]:
        @click.option("--address", default=default, show_default=bool(default), help=_ADDRESS_HELP + help_text)
        @click.option("--tls", is_flag=True, help=f"The server speaks TLS. Its token is read from ${_TOKEN_VARIABLE}.")
        @click.option("--ca", type=_FILE, help="Authority to check the server by, not the system's; implies --tls.")
        @click.option("--certificate", type=_FILE, help="This client's certificate, for servers that want one.")
        @click.option("--key", type=_FILE, help="The certificate's key.")
        @functools.wraps(command)
        def reaching(tls: bool, ca: Path | None, certificate: Path | None, key: Path | None, **others: Any) -> T:
            if bool(certificate) != bool(key):
                raise click.UsageError("--certificate and --key go together")
            token = os.environ.get(_TOKEN_VARIABLE) or None
            given = {"token": token, "tls": tls, "ca": ca, "certificate": certificate, "key": key}
            return command(credentials=given, **others)

        return reaching

    return decorate


@click.group()
def sandbox() -> None:
    """Run programs that nobody has read."""
    from sandbox_server.logs import open_standard_streams

    open_standard_streams()


@sandbox.command()
@click.option("--config", "config_path", type=click.Path(path_type=Path), help="TOML file.")
@click.option("--address", help="host:port or unix:/path to listen on; the same as --set address=...")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="One setting; may be given many times.")
@click.option("--parent-pid", type=int, hidden=True, help="Stop when this process, the parent, dies.")
def serve(config_path: Path | None, address: str | None, overrides: tuple[str, ...], parent_pid: int | None) -> None:
    """Serve the sandbox over gRPC until SIGTERM, SIGHUP or Ctrl-C; a second one does not wait for runs in flight."""
    # Read when grpc is first imported: the jails are started by fork and exec, which its fork handlers only disturb.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # it writes lines of its own form, and waits for whoever reads them
    import uvloop

    from sandbox_server import logs
    from sandbox_server.config import load
    from sandbox_server.guest.kernel import take_short_slices

    if parent_pid is not None:
        _die_with(parent_pid)
    take_short_slices(pass_on=True)
    with _user_errors():
        flags = (*overrides, f"address={address}") if address else overrides
        config = load(config_path, overrides=flags)
        logs.configure(config.log_level, config.log_format)
        _raise_descriptor_limit()
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_serve(config))
        finally:
            logs.finish()


async def _serve(config: ServerConfig) -> None:
    from sandbox_server.jail import open_sandbox
    from sandbox_server.server import serving

    stopping = asyncio.Event()
    task = asyncio.current_task()
    assert task is not None

    def stop() -> None:
        if stopping.is_set():
            task.cancel()
        stopping.set()
        # Should the drain itself hang, the kernel ends us, and every jail with its socket. Python's own handling of the
        # signal would need the loop that hangs.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(config.drain_pause_s + config.drain_grace_s) + _HUNG_SECONDS)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup: it outlives its terminal
            loop.add_signal_handler(number, stop)
    with contextlib.suppress(asyncio.CancelledError):
        jails = await open_sandbox(config.sandbox)
        try:
            async with serving(jails, config) as bound:
                # What lives as long as the server need not be walked by every full collection: that is a pause.
                gc.collect()
                gc.freeze()
                click.echo(f"serving on {bound}")
                await stopping.wait()
        finally:
            await jails.close()


@sandbox.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--tests", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="File with its tests.")
@click.option("--expect-tests", is_flag=True, help="FILE tests itself: count its assertions.")
@click.option("--runtime", "runtime_name", default="python", show_default=True, help="What to run it with.")
@_reach(" Without it, the program runs in a jail of this process.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole outcome as JSON.")
def run(
    file: Path,
    tests: Path | None,
    expect_tests: bool,
    runtime_name: str,
    address: str | None,
    credentials: dict[str, Any],
    as_json: bool,
) -> None:
    """Run the Python program FILE and tell how it ended. The status is 0 for PASSED, and for EXITED with 0."""
    from sandbox_server.jobs import Job

    tests_text = _text(tests) if tests else ""
    job = Job(code=_text(file), tests=tests_text, expect_tests=expect_tests, runtime=runtime_name)
    outcome = _with_sandbox(address, credentials, lambda sandbox: sandbox.run(job), runtime_name)
    if as_json:
        click.echo(_json(outcome))
    else:
        _print_outcome(job, outcome)
    raise SystemExit(0 if outcome.verdict == "PASSED" or (outcome.verdict == "EXITED" and not outcome.exit_code) else 1)


@sandbox.command()
@click.option(
    "--listen", default="127.0.0.1:8080", show_default=True, metavar="HOST:PORT", help="Where to answer HTTP."
)
@_reach(" embedded: a server of this one's own.", default="embedded")
def http(listen: str, address: str, credentials: dict[str, Any]) -> None:
    """Answer SandboxFusion's HTTP interface (POST /run_code), which verl and others speak, with a sandbox server.

    Whoever reaches it can run programs: keep it on a private address.
    """
    try:
        from sandbox_server import fusion
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        raise click.ClickException(f"needs {error.name}: pip install 'selfalign[http]'") from None
    import socket

    from sandbox_server.client import ClientConfig, Credentials, connect

    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise click.UsageError(f"--listen {listen}: expected HOST:PORT")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET

    async def main() -> None:
        with socket.create_server((host.strip("[]"), int(port)), family=family) as listener:
            calling = ClientConfig(timeout_s=None, retry_for_s=5.0, credentials=Credentials(**credentials))
            async with connect(address, calling) as remote:
                click.echo(f"http://{host}:{listener.getsockname()[1]}/run_code, by {remote.address}")
                await fusion.serve(remote, listener)

    with _user_errors():
        try:
            asyncio.run(main())
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
            raise click.ClickException(f"--listen {listen}: {reason}") from None
        except KeyboardInterrupt:
            click.echo()  # after the terminal's ^C


@sandbox.command()
@_reach(" Without it, what this host would offer.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def info(address: str | None, credentials: dict[str, Any], as_json: bool) -> None:
    """Show version, runtimes, limits, and the isolation that is really in force."""
    answer = _with_sandbox(address, credentials, lambda sandbox: sandbox.info())
    if as_json:
        click.echo(_json(answer))
    else:
        _print_info(answer)


@sandbox.command()
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def check(as_json: bool) -> None:
    """Tell what this host lacks to hold programs, and how to give it. The status is 0 when programs can run."""
    from sandbox_server.host import check_host

    checks = check_host()
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(one) for one in checks]))
    else:
        for one in checks:
            state = "ok" if one.ok else "missing" if one.required else "weaker"
            click.echo(f"{state:8} {one.name}: {one.found}")
            if one.remedy:
                click.echo(f"{'':8} -> {one.remedy}")
    raise SystemExit(0 if all(one.ok or not one.required for one in checks) else 1)


@sandbox.group()
def runtime() -> None:
    """Make and list what programs can be run with."""


@runtime.command(name="build")
@click.argument("name")
@click.option(
    "-r",
    "--requirement",
    "requirements",
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    help="File of requirements, as pip reads it; may be repeated.",
)
@click.option("-p", "--package", "packages", multiple=True, help="One requirement, as on pip's command line.")
@click.option("--preload", multiple=True, metavar="MODULE", help="Import it before any program; may be repeated.")
@click.option("--interpreter", default="", help="A CPython 3.11 or newer; by default the one that runs this.")
def build_runtime(
    name: str, requirements: tuple[Path, ...], packages: tuple[str, ...], preload: tuple[str, ...], interpreter: str
) -> None:
    """Make the Python runtime NAME with packages, or make it anew. Offer it with `serve --set sandbox.runtimes=...`."""
    from sandbox_server import runtimes

    with _user_errors():
        made = runtimes.build_runtime(name, requirements, packages, preload, interpreter)
    click.echo(f"{name}: CPython {made.version}, {len(made.packages)} packages, fingerprint {made.fingerprint}")


@runtime.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def list_runtimes(as_json: bool) -> None:
    """Show the runtimes that this host has."""
    from sandbox_server import image, runtimes

    cache_dir = image.default_cache_dir()
    with _user_errors():
        found = [runtimes.open_runtime(name, cache_dir).info() for name in runtimes.known(cache_dir)]
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(item) for item in found]))
        return
    for item in found:
        packages = f", {len(item.packages)} packages" if item.packages else ""
        click.echo(f"{item.name}: {item.interpreter or 'commands'}{packages}")


def _with_sandbox(
    address: str | None,
    credentials: dict[str, Any],
    use: Callable[[Sandbox], Coroutine[Any, Any, T]],
    runtime_name: str = "python",
) -> T:
    async def main() -> T:
        async with _sandbox(address, credentials, runtime_name) as sandbox:
            return await use(sandbox)

    with _user_errors():
        return asyncio.run(main())


@contextlib.asynccontextmanager
async def _sandbox(address: str | None, credentials: dict[str, Any], runtime_name: str) -> AsyncIterator[Sandbox]:
    if address is not None:
        from sandbox_server.client import ClientConfig, Credentials, connect

        async with connect(address, ClientConfig(credentials=Credentials(**credentials))) as remote:
            yield remote
        return
    from sandbox_server.jail import SandboxConfig, open_sandbox

    local = await open_sandbox(SandboxConfig(slots=1, runtimes=(runtime_name,)))
    try:
        yield local
    finally:
        await local.close()


@contextlib.contextmanager
def _user_errors() -> Any:
    """Let what the user can mend leave as one line."""
    from sandbox_server.errors import SandboxError, Unauthenticated
    from sandbox_server.settings import SettingsError

    try:
        yield
    except Unauthenticated as error:
        raise click.ClickException(f"{error}; the token is read from ${_TOKEN_VARIABLE}") from error
    except (SandboxError, SettingsError) as error:
        raise click.ClickException(str(error)) from error


def _die_with(parent_pid: int) -> None:
    """Have the kernel send SIGTERM when the parent dies, however it dies."""
    import ctypes

    pr_set_pdeathsig = 1
    if ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGTERM, 0, 0, 0) != 0:
        raise click.ClickException(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent_pid:  # it died before the call above
        raise click.ClickException(f"the parent process, {parent_pid}, is gone")


def _raise_descriptor_limit() -> None:
    """Allow as many connections and pipes as the system lets this process have; the usual soft limit is 1024."""
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{path}: cannot be read as UTF-8 text: {error}") from error


def _json(value: Any) -> str:
    return json.dumps(dataclasses.asdict(value), default=lambda data: data.decode("utf-8", "replace"))


def _print_outcome(job: Job, outcome: Outcome) -> None:
    click.echo(outcome.stdout, nl=False)
    click.echo(outcome.stderr, nl=False, err=True)
    usage = outcome.usage
    line = [str(outcome.verdict)]
    if outcome.tests is not None:
        line.append(f"{outcome.tests.assertions_run - outcome.tests.assertions_failed}/{outcome.tests.assertions_run}")
    if outcome.exit_code is not None:
        line.append(f"exit code {outcome.exit_code}")
    if outcome.signal is not None:
        line.append(f"signal {outcome.signal}")
    line.append(f"{usage.wall_time_ms:.1f} ms wall, {usage.cpu_time_ms:.1f} ms CPU")
    if usage.peak_memory_bytes:
        line.append(f"{usage.peak_memory_bytes / 2**20:.1f} MiB")
    click.echo("  ".join(line), err=True)
    failure = outcome.tests.first_failure if outcome.tests else None
    if failure is not None:
        click.echo(f"line {failure.line}: {failure.assertion}", err=True)
        if failure.operator:
            click.echo(f"  {failure.left} {failure.operator} {failure.right} does not hold", err=True)
        if failure.message:
            click.echo(f"  {failure.message}", err=True)
    if outcome.error is not None:
        error = outcome.error  # its traceback is in stderr
        click.echo(f"{error.type}: {error.message}" if error.message else error.type, err=True)


def _print_info(info: SandboxInfo) -> None:
    click.echo(f"version     {info.version}")
    click.echo(f"slots       {info.slots}, queue {info.queue_size}")
    for runtime in info.runtimes:
        packages = f", {len(runtime.packages)} packages" if runtime.packages else ""
        warm = "warm" if runtime.warm else "cold"
        click.echo(f"runtime     {runtime.name}: {runtime.interpreter or 'commands'}, {warm}{packages}")
    for name, default in dataclasses.asdict(info.default_limits).items():
        click.echo(f"limit       {name} {default}, at most {getattr(info.maximum_limits, name)}")
    isolation = info.isolation
    click.echo(f"namespaces  {', '.join(isolation.namespaces) or 'none'}")
    click.echo(f"seccomp     {'yes' if isolation.seccomp else 'no'}")
    click.echo(f"cgroup      {isolation.cgroup}")
    click.echo(f"rootless    {'yes' if isolation.rootless else 'no'}")
    for warning in isolation.warnings:
        click.echo(f"weaker      {warning}")


COMMANDS: tuple[click.Command, ...] = (sandbox,)
