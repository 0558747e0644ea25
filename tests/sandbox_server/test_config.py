"""A server is set up by a file, the environment and flags, the later winning."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox_server.config import ServerConfig, TlsConfig, load
from sandbox_server.settings import SettingsError


def test_without_anything_the_defaults_hold() -> None:
    assert load(environment={}) == ServerConfig()


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path) -> None:
    path = tmp_path / "server.toml"
    path.write_text("address = 'unix:/a'\ndrain_grace_s = 1\ndrain_pause_s = 1\n[sandbox]\nslots = 1\n")
    environment = {"SELFALIGN_SANDBOX_DRAIN_GRACE_S": "2", "SELFALIGN_SANDBOX_DRAIN_PAUSE_S": "2", "OTHER": "x"}
    config = load(path, environment, ["drain_pause_s=3.5"])
    assert (config.address, config.drain_grace_s, config.drain_pause_s) == ("unix:/a", 2.0, 3.5)
    assert config.sandbox.slots == 1


def test_tables_can_be_reached_from_everywhere() -> None:
    environment = {
        "SELFALIGN_SANDBOX_TLS__CERTIFICATE": "/c",
        "SELFALIGN_SANDBOX_SANDBOX__DEFAULT_LIMITS__WALL_TIME_MS": "1234",
    }
    config = load(None, environment, ["tls.key=/k", 'sandbox.runtimes=["python"]', "sandbox.cgroup=none"])
    assert config.tls == TlsConfig(Path("/c"), Path("/k"))
    assert config.sandbox.default_limits.wall_time_ms == 1234
    assert (config.sandbox.runtimes, config.sandbox.cgroup) == (("python",), "none")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["drain_grace_s"], "--set drain_grace_s: expected key=value"),
        (["drain_grace=1"], "unknown key 'drain_grace'; did you mean 'drain_grace_s'"),
        (["drain_grace_s=soon"], "drain_grace_s: expected float, got str 'soon'"),
        (["drain_grace_s=-1"], "drain_grace_s: -1.0 is too small; expected at least 0"),
        (["address=1", "address.port=1"], "--set address.port=1: 'address' is not a table"),
        (["address=nowhere"], "address: 'nowhere' is neither host:port nor unix:/path"),
        (["address=::1:50061"], "address: '::1:50061': an IPv6 address stands in brackets, as in [::1]:50061"),
        (["address=unix:/" + "a" * 107], f"address: /{'a' * 107} is longer than the 107 bytes of a socket's path"),
        (["log_level=loud"], "log_level: expected one of 'debug', 'info', 'warning', 'error', got 'loud'"),
        (["tls.key=k"], "missing key 'certificate'"),
        (["drain_grace_s=nan"], "drain_grace_s: nan is no such number; expected at least 0"),
        (["drain_pause_s=inf"], "drain_pause_s: inf is no such number; expected at least 0"),
        (["sandbox.slots=-1"], "slots: expected 0 (one per processor) to 1024, got -1"),
        (["sandbox.slots=100000"], "slots: expected 0 (one per processor) to 1024, got 100000"),
        (["max_message_bytes=10"], "max_message_bytes: 10 is too small"),
    ],
)
def test_a_mistake_is_named(overrides, message) -> None:
    with pytest.raises(SettingsError) as caught:
        load(None, {}, overrides)
    assert message in str(caught.value)


def test_a_mistake_in_a_file_names_the_file(tmp_path) -> None:
    path = tmp_path / "server.toml"
    path.write_text("[tls]\ncertificat = 'x'\n")
    with pytest.raises(SettingsError, match=r"server\.toml tls: unknown key 'certificat'; did you mean 'certificate'"):
        load(path, {})
