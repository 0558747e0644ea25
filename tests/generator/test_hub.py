from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from generator import hub

constants = pytest.importorskip("huggingface_hub.constants")


@pytest.fixture(autouse=True)
def client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A client that kept nothing and looks for its hub where a test says."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "kept"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A listener that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def address(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a hub that is not there."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    return "http://127.0.0.1:1"


def test_a_hub_where_nobody_answers_is_named_with_what_to_do(nobody: str) -> None:
    assert hub.unreachable("some/model") == (
        f"{nobody} cannot be reached (Connection refused), and no download of it is kept here; name a folder"
    )


def test_what_was_downloaded_a_folder_and_offline_mode_ask_nobody(
    nobody: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hub.unreachable(str(tmp_path)) == ""
    (tmp_path / "kept/models--some--model/snapshots").mkdir(parents=True)
    assert hub.unreachable("some/model") == ""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.unreachable("other/model") == ""


def test_a_slow_hub_is_left_to_the_client(silent: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", address(silent))
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.1)

    assert hub.unreachable("some/model") == ""


class _Refuses(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_error(403)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def test_a_hub_that_refuses_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with HTTPServer(("127.0.0.1", 0), _Refuses) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", address(server.socket))

        assert hub.unreachable("some/model") == ""
