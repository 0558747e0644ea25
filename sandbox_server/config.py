"""How a sandbox server is set up: a TOML file, then the environment, then flags; the later wins.

A key is spelled the same everywhere: ``tls.certificate`` is the key ``certificate`` of the table ``[tls]``, the
variable ``SELFALIGN_SANDBOX_TLS__CERTIFICATE``, and the flag ``--set tls.certificate=...``.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import math
import os
import tomllib
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sandbox_server.jail import SandboxConfig
from sandbox_server.settings import SettingsError, parse, read_toml

DEFAULT_ADDRESS = "127.0.0.1:50061"
# What the address of a unix socket has room for (sun_path, 108 bytes with the terminating NUL).
MAX_SOCKET_PATH_BYTES = 107
ENVIRONMENT_PREFIX = "SELFALIGN_SANDBOX_"


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """Transport security.

    Args:
        certificate: file of the server's certificate, with its chain.
        key: file of the certificate's key.
        client_ca: only clients with a certificate of this authority are let in (mTLS).
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The service, and in its own table the sandbox behind it.

    Args:
        address: ``host:port`` (port 0: any free one) or ``unix:/path``. Anything but loopback and unix sockets needs
            `tls`, and `token_file` or `tls.client_ca`.
        tls: certificate and key; absent means plain text.
        token_file: file whose first line clients must send as ``authorization: Bearer ...``.
        max_message_bytes: largest request and largest response. A quarter of it bounds `limits.output_bytes`.
        queue_size: calls of Execute that may wait for a slot; one more is refused with RESOURCE_EXHAUSTED.
        queue_bytes: what all requests that wait or run may hold in memory together.
        max_streams: calls of ExecuteStream and ExecuteBatches at once.
        max_streams_per_client: of these, by one client.
        stream_window: programs in flight on one of them.
        max_memory_pressure_percent: share of the last 10 s in which some process of the host waited for memory (PSI).
            Above it programs run one at a time, instead of failing for want of it; 0 never looks.
        max_cpu_pressure_percent: the same for processors. Off by default: a busy sandbox makes that pressure itself,
            and CPU time, which decides, does not pass while a program waits.
        cache_bytes: what the verdict cache may hold, for requests with `cache`; 0 turns it off.
        metrics_address: ``host:port`` for Prometheus, in plain HTTP; absent means none.
        health_address: ``host:port`` that answers ``grpc.health.v1`` and nothing else, in plain text, for probes that
            know no TLS; absent means none.
        trace_endpoint: an OTLP collector, e.g. ``http://127.0.0.1:4317``; absent means no traces.
        drain_grace_s: how long runs in flight may go on after SIGTERM.
        drain_pause_s: how long to keep serving, already NOT_SERVING, so that load balancers take notice.
        log_level: least severe record to log.
        log_format: ``json`` (one object a line) or ``text``.
        log_runs: log a record for every run, at level info.
        sandbox: what runs the programs.
    """

    address: str = DEFAULT_ADDRESS
    tls: TlsConfig | None = None
    token_file: Path | None = None
    max_message_bytes: int = 32 * 1024 * 1024
    queue_size: int = 256
    queue_bytes: int = 256 * 1024 * 1024
    max_streams: int = 256
    max_streams_per_client: int = 32
    stream_window: int = 64
    max_memory_pressure_percent: float = 60.0
    max_cpu_pressure_percent: float = 0.0
    cache_bytes: int = 64 * 1024 * 1024
    metrics_address: str | None = None
    health_address: str | None = None
    trace_endpoint: str | None = None
    drain_grace_s: float = 30.0
    drain_pause_s: float = 0.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "text"] = "json"
    log_runs: bool = False
    sandbox: SandboxConfig = SandboxConfig()

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not least <= value < math.inf:  # TOML knows nan and inf
                problem = "too small" if value < least else "no such number"
                raise ValueError(f"{name}: {value} is {problem}; expected at least {least}")
        if not is_private(self.address):
            problem = "can be reached from other machines"
            if self.tls is None:
                raise ValueError(
                    f"address: {self.address} {problem}; set tls.certificate and tls.key, or bind 127.0.0.1"
                )
            if self.token_file is None and self.tls.client_ca is None:
                raise ValueError(f"address: {self.address} {problem}; set token_file or tls.client_ca")


_LEAST = {
    "max_message_bytes": 16 * 1024 * 1024,  # below, an answer might not fit
    "queue_size": 0,
    "queue_bytes": 0,
    "max_streams": 1,
    "max_streams_per_client": 1,
    "stream_window": 1,
    "max_memory_pressure_percent": 0,
    "max_cpu_pressure_percent": 0,
    "cache_bytes": 0,
    "drain_grace_s": 0,
    "drain_pause_s": 0,
}


def is_private(address: str) -> bool:
    """True if only this machine can reach `address`.

    Raises:
        ValueError: `address` is neither ``host:port`` nor ``unix:/path``.
    """
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        if not path:
            raise ValueError("address: 'unix:' names no path; expected unix:/path")
        if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
            raise ValueError(f"address: {path} is longer than the {MAX_SOCKET_PATH_BYTES} bytes of a socket's path")
        return True
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"address: {address!r} is neither host:port nor unix:/path")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"address: {address!r}: an IPv6 address stands in brackets, as in [::1]:{port}")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def load(
    path: Path | None = None, environment: Mapping[str, str] | None = None, overrides: Iterable[str] = ()
) -> ServerConfig:
    """Read the whole configuration.

    Args:
        path: TOML file, if any.
        environment: variables; those that begin with ``SELFALIGN_SANDBOX_`` are read. None means the process's own.
        overrides: ``key=value``, dotted keys for tables.

    Raises:
        SettingsError: with the file, variable or flag, and what was expected.
    """
    values = read_toml(path) if path is not None else {}
    for name, text in sorted((os.environ if environment is None else environment).items()):
        if name.startswith(ENVIRONMENT_PREFIX):
            key = name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
            _put(values, key, _read(key, text), name)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise SettingsError(f"--set {override}: expected key=value")
        _put(values, key, _read(key, text), f"--set {override}")
    return parse(ServerConfig, values, str(path) if path is not None else "settings")


def _put(values: dict[str, Any], key: str, value: Any, where: str) -> None:
    *tables, last = key.split(".")
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise SettingsError(f"{where}: {table!r} is not a table")
    values[last] = value


def _read(key: str, text: str) -> Any:
    """Read the text of a variable or flag as the type that the key has; unknown keys are left for `parse` to name."""
    hint: Any = ServerConfig
    for part in key.split("."):
        hints = typing.get_type_hints(hint) if dataclasses.is_dataclass(hint) else {}
        hint = hints.get(part, str)
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        if typing.get_origin(hint) not in (tuple, dict, Literal) and len(options) == 1:
            hint = options[0]
    if hint in (str, Path) or typing.get_origin(hint) is Literal:
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
