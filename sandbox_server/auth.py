"""Who may call: transport security and the token."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never

import grpc

from sandbox_server.config import TlsConfig
from sandbox_server.errors import Unauthenticated
from sandbox_server.settings import SettingsError
from sandbox_server.statuses import Context, abort_with

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]  # generic in the stubs only


class RequireToken(grpc.aio.ServerInterceptor):
    """Let in only calls with ``authorization: Bearer <token>``.

    Health checks need none: a kubelet's probe cannot send one, and the answer tells nothing but that the server is up.
    """

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()
        self._refusals: dict[bool, Handler] = {  # by whether the request streams
            False: grpc.unary_unary_rpc_method_handler(_refuse),
            True: grpc.stream_stream_rpc_method_handler(_refuse),
        }

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Replace the handler of a call without the token by a refusal."""
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith("/grpc.health.v1.Health/"):
            return handler
        for key, value in handler_call_details.invocation_metadata or ():
            given = value if isinstance(value, bytes) else value.encode()
            if key == "authorization" and hmac.compare_digest(given, self._expected):
                return handler
        return self._refusals[handler.request_streaming]


async def _refuse(_request: object, context: Context) -> Never:
    error = Unauthenticated("this server wants a token: send the metadata 'authorization: Bearer TOKEN'")
    await abort_with(error, context)


def server_credentials(tls: TlsConfig) -> grpc.ServerCredentials:
    """Load the certificate and key of a server, and the authority of its clients if it wants one."""
    return grpc.ssl_server_credentials(
        [(_read(tls.key, "tls.key"), _read(tls.certificate, "tls.certificate"))],
        root_certificates=_read(tls.client_ca, "tls.client_ca") if tls.client_ca else None,
        require_client_auth=tls.client_ca is not None,
    )


def read_token(path: Path) -> str:
    """Read a token: the first line of a file.

    Raises:
        SettingsError: the file cannot be read, or its first line is empty or holds white space.
    """
    text = _read(path, "token_file").decode("utf-8", "replace")
    token = text.partition("\n")[0].strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise SettingsError(f"token_file: {path}: the first line must be a token of printable ASCII without spaces")
    return token


def _read(path: Path, key: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{key}: {path}: cannot be read: {error.strerror}") from error
