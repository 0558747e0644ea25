"""TLS and mTLS with certificates made here: who is let in, and who learns why not."""

from __future__ import annotations

import datetime as dt
import ipaddress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sandbox_server import errors
from sandbox_server.client import ClientConfig, Credentials, connect
from sandbox_server.config import ServerConfig, TlsConfig
from sandbox_server.jobs import Job, Verdict
from sandbox_server.server import serving
from sandbox_server.settings import SettingsError
from tests.fakes import FakeSandbox

JOB = Job(code="1", request_id="a")


class Authority:
    """A certificate authority in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.path = self._write(f"{name}.pem", self._sign(self.name, self.key, authority=True))

    def issue(self, name: str) -> tuple[Path, Path]:
        """Make a certificate and its key for `name` and 127.0.0.1."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key, authority=False)
        key_path = self.folder / f"{name}.key"
        key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return self._write(f"{name}.pem", certificate), key_path

    def _sign(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, authority: bool) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
            )
        )
        return builder.sign(self.key, hashes.SHA256())

    def _write(self, name: str, certificate: x509.Certificate) -> Path:
        path = self.folder / name
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return path


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
