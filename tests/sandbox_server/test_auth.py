"""TLS and mTLS with certificates made here: who is let in, and who learns why not."""

from __future__ import annotations

import pytest

from sandbox_server import errors
from sandbox_server.client import ClientConfig, Credentials, connect
from sandbox_server.config import ServerConfig, TlsConfig
from sandbox_server.jobs import Job, Verdict
from sandbox_server.server import serving
from sandbox_server.settings import SettingsError
from tests.certificates import Authority
from tests.fakes import FakeSandbox

JOB = Job(code="1", request_id="a")


@pytest.fixture
def authority(tmp_path) -> Authority:
    return Authority(tmp_path, "authority")


def calling(**credentials) -> ClientConfig:
    return ClientConfig(credentials=Credentials(**credentials))


def calling_in_vain(**credentials) -> ClientConfig:
    """A refused handshake looks like a server that is away, so it is waited for: not long."""
    return ClientConfig(connect_timeout_s=0.5, credentials=Credentials(**credentials))


async def test_tls_with_a_token_lets_in_who_has_both(tmp_path, authority) -> None:
    (tmp_path / "token").write_text("tig3r")
    tls = TlsConfig(*authority.issue("server"))
    config = ServerConfig(address="127.0.0.1:0", tls=tls, token_file=tmp_path / "token")
    async with serving(FakeSandbox(), config) as address:
        async with connect(address, calling(ca=authority.path, token="tig3r")) as sandbox:
            assert (await sandbox.run(JOB)).verdict is Verdict.PASSED
        with pytest.raises(errors.Unauthenticated):
            async with connect(address, calling(ca=authority.path)):
                pytest.fail("let in without a token")
        stranger = Authority(tmp_path, "stranger")
        for credentials in ({}, {"tls": True}, {"ca": stranger.path, "token": "tig3r"}):
            with pytest.raises(errors.Unavailable):
                async with connect(address, calling_in_vain(**credentials)):
                    pytest.fail("trusted a server that it cannot know")


async def test_mtls_lets_in_who_has_a_certificate_and_queues_him_by_its_name(tmp_path, authority) -> None:
    certificate, key = authority.issue("server")
    config = ServerConfig(
        address="127.0.0.1:0", tls=TlsConfig(certificate, key, client_ca=authority.path), log_runs=True
    )
    async with serving(FakeSandbox(), config) as address:
        certificate, key = authority.issue("alice")
        credentials = calling(ca=authority.path, certificate=certificate, key=key)
        async with connect(address, credentials) as sandbox:
            assert (await sandbox.run(JOB)).verdict is Verdict.PASSED
        certificate, key = Authority(tmp_path, "stranger").issue("mallory")
        for refused in ({"ca": authority.path}, {"ca": authority.path, "certificate": certificate, "key": key}):
            with pytest.raises(errors.Unavailable):
                async with connect(address, calling_in_vain(**refused)):
                    pytest.fail("let in a stranger")


async def test_a_certificate_that_cannot_be_read_is_named(tmp_path, authority) -> None:
    certificate, key = authority.issue("server")
    none = tmp_path / "none"
    for tls, name in (
        (TlsConfig(none, key), r"tls\.certificate"),
        (TlsConfig(certificate, none), r"tls\.key"),
        (TlsConfig(certificate, key, none), r"tls\.client_ca"),
    ):
        with pytest.raises(SettingsError, match=rf"{name}: .*none: cannot be read"):
            async with serving(FakeSandbox(), ServerConfig(address="127.0.0.1:0", tls=tls)):
                pytest.fail("served")
    with pytest.raises(SettingsError, match="none: cannot be read"):
        async with connect("127.0.0.1:1", calling(ca=none)):
            pytest.fail("connected")


async def test_a_certificate_that_is_none_is_refused(tmp_path, authority) -> None:
    _, key = authority.issue("server")
    (tmp_path / "garbage").write_text("garbage")
    config = ServerConfig(address="127.0.0.1:0", tls=TlsConfig(tmp_path / "garbage", key))
    with pytest.raises(SettingsError, match=r"tls|cannot be bound"):
        async with serving(FakeSandbox(), config):
            pytest.fail("served")
