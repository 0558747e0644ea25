"""Engines ask, wait, give up and remember as their protocol says."""

from __future__ import annotations

import asyncio
import json
import lzma
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from generator.engines import (
    Completion,
    CompletionRequest,
    Engine,
    EngineUnavailable,
    Message,
    Prompt,
    RequestFailed,
    Sampling,
)
from generator.engines.factory import open_engine
from generator.engines.openai import OpenAIEngine, Retry
from generator.engines.recorded import RecordedEngine, Recording, RecordingEngine, completion_key, recording_path
from generator.recipe import ModelSettings
from tests.generator.tiny_gguf import serve_tiny_model

QUICK = Retry(tries=3, first_wait_s=0.001, longest_wait_s=0.05)
SAMPLING = Sampling(temperature=0.7, max_tokens=16, top_p=0.9, stop=("\n##",), seed=7)
CHAT = CompletionRequest("row-1", Prompt(messages=(Message("user", "### Instruction\nAdd two numbers."),)), SAMPLING)
TEXT = CompletionRequest("row-2", Prompt(text="### Instruction\nAdd two numbers."), SAMPLING)
CHAT_ANSWER = {
    "choices": [{"message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2},
}


@dataclass
class Step:
    """One answer of the scripted server; `body` None cuts the connection."""

    status: int = 200
    body: Any = field(default_factory=lambda: CHAT_ANSWER)
    headers: dict[str, str] = field(default_factory=dict)


class ScriptedServer(ThreadingHTTPServer):
    """Gives the answers of a script, the last one for ever, and keeps what it was asked."""

    daemon_threads = True

    def __init__(self, script: list[Step]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = script
        self.asked: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.model = ModelSettings(
            name="tiny", base_url=f"http://127.0.0.1:{self.server_address[1]}/v1", api_key_env="TINY_KEY"
        )


class Handler(BaseHTTPRequestHandler):
    server: ScriptedServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, body, dict(self.headers)))
        step = self.server.script[min(len(self.server.asked), len(self.server.script)) - 1]
        if step.body is None:
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        data = step.body if isinstance(step.body, bytes) else json.dumps(step.body).encode()
        self.send_response(step.status)
        for name, value in {"Content-Length": str(len(data)), **step.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(*script: Step) -> Iterator[ScriptedServer]:
    with ScriptedServer(list(script)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


async def ask(server: ScriptedServer, request: CompletionRequest = CHAT, retry: Retry = QUICK) -> Completion:
    engine = OpenAIEngine(server.model, retry=retry)
    try:
        return await engine.complete(request)
    finally:
        await engine.close()


async def test_a_chat_request_carries_messages_sampling_and_the_rows_key() -> None:
    with serving(Step()) as server:
        assert await ask(server) == Completion("hello", "stop", 5, 2)
    path, body, headers = server.asked[0]
    assert path == "/v1/chat/completions"
    assert body == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "### Instruction\nAdd two numbers."}],
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 16,
        "stop": ["\n##"],
        "seed": 7,
    }
    assert headers["X-Request-Id"] == "row-1"
    assert "Authorization" not in headers


async def test_a_text_prompt_goes_to_the_completions_endpoint() -> None:
    with serving(Step(body={"choices": [{"text": "hi", "finish_reason": "length"}]})) as server:
        assert await ask(server, TEXT) == Completion("hi", "length", None, None)
    path, body, _ = server.asked[0]
    assert path == "/v1/completions"
    assert body["prompt"] == TEXT.prompt.text
    assert "messages" not in body


async def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINY_KEY", "opensesame")
    with serving(Step()) as server:
        await ask(server)
    assert server.asked[0][2]["Authorization"] == "Bearer opensesame"


async def test_a_chat_answer_without_text_is_an_empty_completion() -> None:
    body = {"choices": [{"message": {"content": None}, "finish_reason": None}]}
    with serving(Step(body=body)) as server:
        assert await ask(server) == Completion("", "unknown", None, None)


@pytest.mark.parametrize(
    "trouble",
    [
        Step(429, {"error": {"message": "slow down"}}),
        Step(429, {"error": "x"}, {"Retry-After": "0"}),
        Step(503, b"busy", {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
        Step(500, b""),
        Step(502, b"<html>bad gateway</html>"),
        Step(200, b"{ not json"),
        Step(200, {"choices": []}),
        Step(200, {"choices": [{"message": {"content": 5}}]}),
        Step(200, [1]),
        Step(200, b"[" * 100_000),
        Step(200, b"\x1f\x8b cut", {"Content-Encoding": "gzip"}),
        Step(body=None),
    ],
    ids=lambda step: f"{step.status}-{str(step.body)[:20]}",
)
async def test_what_passes_by_itself_is_waited_out(trouble: Step) -> None:
    with serving(trouble, trouble, Step()) as server:
        assert (await ask(server)).text == "hello"
    assert len(server.asked) == 3


@pytest.mark.parametrize("tokens", ["5", 5.0, -1, 2**31, True, {}])
async def test_what_is_no_number_of_tokens_is_not_stored(tokens: object) -> None:
    """On PostgreSQL it would end the build."""
    body = CHAT_ANSWER | {"usage": {"prompt_tokens": tokens, "completion_tokens": 2}}
    with serving(Step(200, body)) as server:
        assert await ask(server) == Completion("hello", "stop", None, 2)


@pytest.mark.parametrize("status", [429, 503])
async def test_a_server_that_stays_busy_stops_the_build(status: int) -> None:
    """Rows of an overloaded hour must not be stored as failed."""
    words = rf"HTTP {status}: no slot \(3 tries\)"
    step = Step(status, {"error": {"message": "no slot"}})
    with serving(step) as server, pytest.raises(EngineUnavailable, match=words):
        await ask(server)
    assert len(server.asked) == 3


@pytest.mark.parametrize("trouble", [Step(500, b"boom"), Step(200, b"nonsense"), Step(body=None)])
async def test_a_request_that_fails_again_and_again_fails_alone(trouble: Step) -> None:
    with serving(trouble) as server, pytest.raises(RequestFailed, match=r"3 tries"):
        await ask(server)
    assert len(server.asked) == 3


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_refused_request_is_not_tried_again(status: int) -> None:
    step = Step(status, {"error": {"message": "prompt is\n too long"}})
    with serving(step) as server, pytest.raises(RequestFailed, match=f"^HTTP {status}: prompt is too long$"):
        await ask(server)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Step(401, b""), "refuses the key .* set TINY_KEY"),
        (Step(402, {"error": "out of credits"}), "refuses the key .*out of credits"),
        (Step(403, b""), "refuses the key"),
        (Step(404, {"detail": "Not Found"}), "has no model 'tiny' or no /chat/completions .* Not Found"),
        (Step(308, b""), "no /chat/completions .HTTP 308."),
        (Step(501, b"Unsupported method"), "no /chat/completions .HTTP 501.: Unsupported method"),
    ],
)
async def test_a_wrong_key_or_model_stops_the_build_at_once(step: Step, words: str) -> None:
    with serving(step) as server, pytest.raises(EngineUnavailable, match=words):
        await ask(server)
    assert len(server.asked) == 1


async def test_nobody_at_the_address_is_said_in_one_line() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    engine = OpenAIEngine(ModelSettings(name="tiny", base_url=url), retry=QUICK)
    with pytest.raises(EngineUnavailable) as raised:
        await engine.complete(CHAT)
    await engine.close()
    assert str(raised.value).startswith(f"no model server answers at {url} (")
    assert "vllm serve tiny" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("url", ["localhost", "ftp://localhost/v1", "http://[::1/v1", ""])
async def test_what_is_no_url_is_named(url: str) -> None:
    async def complete() -> None:
        await OpenAIEngine(ModelSettings(name="tiny", base_url=url), retry=QUICK).complete(CHAT)

    with pytest.raises(EngineUnavailable, match=r"\[model\] base_url: not a URL"):
        await complete()


async def test_a_server_that_goes_away_is_waited_for() -> None:
    with serving(Step()) as server:
        engine = OpenAIEngine(server.model, retry=QUICK)
        await engine.complete(CHAT)
    with pytest.raises(EngineUnavailable, match=r"went away .*3 tries|no model server"):
        await engine.complete(CHAT)
    await engine.close()


def test_waits_double_up_to_the_longest_and_the_servers_wish_counts() -> None:
    retry = Retry(first_wait_s=1.0, longest_wait_s=10.0)
    for failures, most in [(1, 1.0), (2, 2.0), (4, 8.0), (9, 10.0), (200, 10.0)]:
        assert most / 2 <= retry.wait_s(failures, None) <= most
    assert retry.wait_s(1, 3.5) == 3.5
    assert retry.wait_s(1, 900.0) == 10.0


# a real server: llama.cpp with a model of a few thousand weights


@pytest.fixture(scope="module")
def llama_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelSettings]:
    with serve_tiny_model(tmp_path_factory.mktemp("llama")) as url:
        yield ModelSettings(name="tiny", base_url=url, api_key_env="")


@pytest.mark.parametrize("request_", [CHAT, TEXT], ids=["chat", "completion"])
async def test_a_real_server_answers_many_requests(llama_server: ModelSettings, request_: CompletionRequest) -> None:
    engine = open_engine(llama_server)
    requests = [
        replace(request_, id=str(seed), sampling=Sampling(1.0, max_tokens=12, seed=seed, stop=("zz",)))
        for seed in range(12)
    ]
    answers = await asyncio.gather(*map(engine.complete, requests))
    await engine.close()
    assert {answer.finish_reason for answer in answers} <= {"stop", "length"}
    assert len({answer.text for answer in answers}) == 12
    for answer in answers:
        assert answer.prompt_tokens
        assert answer.completion_tokens is not None
        assert answer.completion_tokens <= 12


async def test_a_real_server_honours_the_seed(llama_server: ModelSettings) -> None:
    engine = open_engine(llama_server)
    request = replace(TEXT, sampling=Sampling(1.0, max_tokens=12, seed=5))
    first, second = [await engine.complete(request) for _ in range(2)]
    await engine.close()
    assert first.text == second.text


async def test_a_real_server_refuses_a_prompt_that_does_not_fit(llama_server: ModelSettings) -> None:
    engine = open_engine(llama_server)
    with pytest.raises(RequestFailed, match=r"HTTP 400: .*context"):
        await engine.complete(replace(TEXT, prompt=Prompt(text="x y " * 3000)))
    await engine.close()


class Counting:
    """An engine that answers with a number, one higher each time."""

    def __init__(self) -> None:
        self.count = 0
        self.closed = False

    async def complete(self, request: CompletionRequest) -> Completion:
        self.count += 1
        return Completion(f"answer {self.count}\u2028", "stop", 1, 2)

    async def close(self) -> None:
        self.closed = True


MODEL = ModelSettings(name="tiny", revision="abc", engine="recorded")


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.xz"])
async def test_a_recording_replays_what_was_drawn(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"tiny{suffix}"
    live, recording = Counting(), Recording(path)
    engine = RecordingEngine(live, MODEL, recording)
    drawn = [await engine.complete(CHAT), await engine.complete(TEXT)]
    assert [await engine.complete(CHAT), await engine.complete(TEXT)] == drawn
    assert live.count == 2
    await engine.close()
    assert live.closed
    recording.save({"model": "tiny"})

    replay = open_engine(replace(MODEL, recording=str(path)))
    assert [await replay.complete(CHAT), await replay.complete(TEXT)] == drawn
    await replay.close()
    assert Recording(path).header["model"] == "tiny"


async def test_an_interrupted_recording_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tiny.jsonl.xz"
    await RecordingEngine(Counting(), MODEL, Recording(path)).complete(CHAT)
    part = tmp_path / "tiny.jsonl.xz.part"
    part.write_text(part.read_text(encoding="utf-8") + '{"key": "cut', encoding="utf-8")

    again = Recording(path)
    assert len(again) == 1
    again.save({})
    assert not part.exists()
    assert len(Recording(path)) == 1


async def test_equal_recordings_are_equal_bytes_and_unused_rows_can_go(tmp_path: Path) -> None:
    data = []
    for name, order in [("a", (CHAT, TEXT)), ("b", (TEXT, CHAT))]:
        recording = Recording(tmp_path / f"{name}.jsonl.xz")
        for request in order:
            recording.add(completion_key(MODEL, request), Completion(request.id, "stop"))
        recording.save({"model": "tiny"})
        data.append(recording.path.read_bytes())
    assert data[0] == data[1]
    recording.save({}, keep := frozenset({completion_key(MODEL, CHAT)}))
    assert len(Recording(recording.path)) == len(keep)


async def test_a_missing_recording_says_which_prompt_and_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "tiny.jsonl"
    Recording(path).save({})
    engine = RecordedEngine(replace(MODEL, recording=str(path)))
    for request in (CHAT, replace(TEXT, prompt=Prompt(text=f"system\n\n## Example 1\n{TEXT.prompt.text}"))):
        with pytest.raises(EngineUnavailable) as raised:
            await engine.complete(request)
        message = str(raised.value)
        assert message.startswith("tiny.jsonl has no completion for '")
        assert "### Instruction Add two numbers." in message
        assert "make record" in message


def test_the_key_of_a_completion_is_what_was_asked_and_not_for_which_row() -> None:
    key = completion_key(MODEL, CHAT)
    assert key == completion_key(replace(MODEL, engine="openai", base_url="http://x"), replace(CHAT, id="other"))
    changed = [
        completion_key(replace(MODEL, revision="abd"), CHAT),
        completion_key(replace(MODEL, name="other"), CHAT),
        completion_key(MODEL, replace(CHAT, prompt=TEXT.prompt)),
        *(
            completion_key(MODEL, replace(CHAT, sampling=replace(SAMPLING, **{name: value})))
            for name, value in {"temperature": 0.8, "max_tokens": 17, "top_p": 1.0, "stop": (), "seed": 8}.items()
        ),
    ]
    assert len({key, *changed}) == len(changed) + 1


def test_keys_of_recordings_never_change() -> None:
    """Every stored completion is found by this hash."""
    assert completion_key(MODEL, CHAT) == "9c6eaaf1cad9c462fa7cfccf6ce4296c"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"not xz",
        lzma.compress(b"[]\n"),
        lzma.compress(b'{"format": "other"}\n'),
        lzma.compress(b'{"format": "selfalign-recording-1"}\n{"text": 1}\n'),
        lzma.compress(b"\xff\n"),
    ],
)
def test_a_broken_recording_is_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "tiny.jsonl.xz"
    path.write_bytes(data)
    with pytest.raises(EngineUnavailable, match=r"tiny\.jsonl\.xz: not a recording"):
        RecordedEngine(replace(MODEL, recording=str(path)))


def test_a_recording_that_is_not_there_is_named() -> None:
    with pytest.raises(EngineUnavailable, match=r"\[model\] recording: no such file: .*nowhere\.jsonl"):
        RecordedEngine(replace(MODEL, recording="nowhere.jsonl"))


def test_a_recordings_name_means_the_packages_own() -> None:
    assert recording_path("tiny").parts[-3:] == ("generator", "recordings", "tiny.jsonl.xz")
    assert recording_path("x/tiny.jsonl") == Path("x/tiny.jsonl")


# transformers, with a real model of a few thousand weights


def in_process(folder: Path, **changes: Any) -> Engine:
    return open_engine(ModelSettings(name="tiny", engine="transformers", path=str(folder), **changes))


def text_request(number: int, **sampling: Any) -> CompletionRequest:
    given = {"temperature": 1.0, "max_tokens": 12, "seed": number, **sampling}
    return CompletionRequest(str(number), Prompt(text="def f" + "x" * number), Sampling(**given))


@pytest.mark.train
async def test_transformers_answers_many_requests_together(tiny_model: Path) -> None:
    engine = in_process(tiny_model, concurrency=4)
    answers = await asyncio.gather(*(engine.complete(text_request(number)) for number in range(10)))
    await engine.close()
    assert [answer.prompt_tokens for answer in answers] == [5 + number for number in range(10)]
    for answer in answers:
        assert answer.finish_reason in {"stop", "length"}
        assert answer.completion_tokens is not None
        assert answer.completion_tokens <= 12
        assert (answer.completion_tokens == 12) == (answer.finish_reason == "length")
    assert len({answer.text for answer in answers}) == 10


@pytest.mark.train
async def test_transformers_draws_the_same_for_a_seed_whoever_is_beside(tiny_model: Path) -> None:
    engine = in_process(tiny_model)
    together = await asyncio.gather(*(engine.complete(text_request(number)) for number in range(6)))
    alone = [await engine.complete(text_request(number)) for number in range(6)]
    other = await engine.complete(text_request(0, seed=99))
    await engine.close()
    assert together == alone
    assert other.text != alone[0].text


@pytest.mark.train
async def test_transformers_at_temperature_0_takes_the_likeliest_token(tiny_model: Path) -> None:
    engine = in_process(tiny_model)
    first, second = await asyncio.gather(
        *(engine.complete(text_request(3, temperature=0.0, seed=seed)) for seed in (1, 2))
    )
    narrow = await engine.complete(text_request(3, top_p=1e-9))
    await engine.close()
    assert first == second == narrow


@pytest.mark.train
async def test_transformers_samples_from_the_softmax(tiny_model: Path) -> None:
    """Gumbel noise gives each token its probability: 400 first tokens fit the model's own distribution."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    with torch.inference_mode():
        logits = model(**tokenizer("def fx", return_tensors="pt")).logits[0, -1]
    probabilities = torch.softmax(logits / 0.1, dim=-1)
    texts = [tokenizer.decode([token], skip_special_tokens=True) for token in range(len(tokenizer))]
    likeliest = texts[int(probabilities.argmax())]  # bytes that are no letter alone share a text

    engine = in_process(tiny_model, concurrency=400)
    requests = [replace(text_request(1, temperature=0.1, max_tokens=1, seed=seed), id=str(seed)) for seed in range(400)]
    answers = await asyncio.gather(*map(engine.complete, requests))
    await engine.close()
    hits = sum(answer.text == likeliest for answer in answers)
    expected = 400 * sum(float(share) for share, text in zip(probabilities, texts, strict=False) if text == likeliest)
    assert abs(hits - expected) < 5 * (expected * (1 - expected / 400)) ** 0.5 + 1


@pytest.mark.train
async def test_transformers_cuts_at_a_stop_string(tiny_model: Path) -> None:
    engine = in_process(tiny_model)
    free = await engine.complete(text_request(2))
    stop = free.text[4:6]
    cut, other = await asyncio.gather(engine.complete(text_request(2, stop=(stop,))), engine.complete(text_request(4)))
    await engine.close()
    assert cut.text == free.text[: free.text.index(stop)]
    assert cut.finish_reason == "stop"
    assert other.finish_reason == "length"


@pytest.mark.train
async def test_transformers_uses_the_chat_template(tiny_model: Path) -> None:
    engine = in_process(tiny_model)
    answer = await engine.complete(CHAT)
    await engine.close()
    assert answer.prompt_tokens == len("user: ### Instruction\nAdd two numbers.\nassistant: ")


@pytest.mark.train
async def test_transformers_fails_a_prompt_that_does_not_fit_alone(tiny_model: Path) -> None:
    engine = in_process(tiny_model)
    long, short = await asyncio.gather(
        engine.complete(text_request(300)), engine.complete(text_request(1)), return_exceptions=True
    )
    await engine.close()
    assert isinstance(long, RequestFailed)
    assert "305 tokens" in str(long)
    assert isinstance(short, Completion)


@pytest.mark.train
@pytest.mark.parametrize("content", [None, "not a model"])
async def test_transformers_names_a_folder_without_a_model(tmp_path: Path, content: str | None) -> None:
    folder = tmp_path / "model"
    if content:
        folder.mkdir()
        (folder / "config.json").write_text(content)
    engine = in_process(folder)
    with pytest.raises(EngineUnavailable, match=r"\[model\] path: "):
        await engine.complete(TEXT)
    await engine.close()


@pytest.mark.train
async def test_closing_transformers_ends_what_is_being_drawn(tiny_model: Path) -> None:
    engine = in_process(tiny_model)
    await engine.complete(text_request(0))
    assert engine._model is not None
    engine._model._eos, engine._model._context = set(), 2**31  # nothing else ends it
    engine._model._model.generation_config.eos_token_id = None
    task = asyncio.create_task(engine.complete(text_request(1, max_tokens=1_000_000)))
    await asyncio.sleep(0.05)
    await engine.close()
    with pytest.raises((RequestFailed, asyncio.CancelledError)):
        await task
