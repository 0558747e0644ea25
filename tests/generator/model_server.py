"""A local OpenAI-compatible server that answers by rule and counts its calls."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from generator.engines import CompletionRequest, Message, Prompt, Sampling
from tests.generator.rules import answer


class ModelServer(ThreadingHTTPServer):
    """See the module.

    Attributes:
        calls: ids of the requests that were answered, in order.
        delay_s: how long each answer takes.
        answers: how many are given before all others wait for `gate`; None: nothing waits.
        gate: open it by `set`.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, delay_s: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.calls: list[str] = []
        self.delay_s = delay_s
        self.answers: int | None = None
        self.gate = threading.Event()
        self._asked = 0
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """What `[model] base_url` must be."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def wait_for_turn(self) -> None:
        """Return at once for the first `answers` requests, and for all others when the gate is open."""
        with self._lock:
            self._asked += 1
            waits = self.answers is not None and self._asked > self.answers
        if waits:
            self.gate.wait()

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients here are killed on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ModelServer

    def do_POST(self) -> None:
        """Answer one chat completion."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(self.server.delay_s)
        self.server.wait_for_turn()
        messages = tuple(Message(turn["role"], turn["content"]) for turn in body["messages"])
        request = CompletionRequest("", Prompt(messages=messages), Sampling(0.7, 1, seed=body["seed"]))
        choice = {"message": {"role": "assistant", "content": answer(request)}, "finish_reason": "stop"}
        data = json.dumps({"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 3}}).encode()
        self.server.calls.append(self.headers["X-Request-Id"])
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def serve_model(delay_s: float = 0.0) -> Iterator[ModelServer]:
    """Serve as long as the block runs."""
    with ModelServer(delay_s) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.gate.set()
            server.shutdown()
            thread.join()
