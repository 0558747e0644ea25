"""vLLM in this process. `make test-apart` runs this in an environment of vLLM's own, on the CPU."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

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
from generator.recipe import ModelSettings
from sandbox_server.settings import SettingsError, parse

TEXT = "def add(a, b):\n    return a + b\n\n\ndef sub(a, b):\n    return"
here = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed; `make test-apart` has it")
# One loop for all: an engine belongs to the loop that it was started in.
pytestmark = [pytest.mark.slow, pytest.mark.train, pytest.mark.asyncio(loop_scope="module")]


def opened(folder: Path, **options: Any) -> Engine:
    arguments = {"enforce_eager": True, "max_model_len": 192, **options}
    return open_engine(ModelSettings(name="tiny", engine="vllm", path=str(folder), concurrency=4, vllm=arguments))


@pytest.fixture(scope="module", autouse=True)
def small_cache() -> Iterator[None]:
    """A GiB for keys and values, where vLLM on a CPU takes half of the memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        yield


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(tiny_model: Path) -> AsyncIterator[Engine]:
    engine = opened(tiny_model)
    yield engine
    await engine.close()


def request(id: str, prompt: Prompt | str = TEXT, **sampling: Any) -> CompletionRequest:
    given = {"temperature": 1.0, "max_tokens": 12, "seed": 1, **sampling}
    return CompletionRequest(id, Prompt(text=prompt) if isinstance(prompt, str) else prompt, Sampling(**given))


async def test_where_it_is_not_installed_that_is_said() -> None:
    if find_spec("vllm") is None:
        with pytest.raises(EngineUnavailable, match=r"\[model\] engine: 'vllm' needs vLLM.*`vllm serve`"):
            open_engine(ModelSettings(name="tiny", engine="vllm"))


async def test_a_table_of_arguments_cannot_name_another_model() -> None:
    with pytest.raises(SettingsError, match=r"\[model\]: vllm.model: which model it is, `name`, .* say"):
        parse(ModelSettings, {"name": "tiny", "vllm": {"model": "other"}}, "small.toml: [model]")


@here
async def test_a_seed_gives_one_answer_whoever_is_beside(engine: Engine) -> None:
    requests = [request(str(number), seed=number % 4) for number in range(12)]
    answers = await asyncio.gather(*map(engine.complete, requests))
    assert answers[:4] == answers[4:8] == answers[8:]
    assert len(set(answers)) == 4
    assert await engine.complete(request("alone", seed=2)) == answers[2]
    for answer in answers:
        assert answer.prompt_tokens == len(TEXT)
        assert answer.completion_tokens is not None
        assert 0 < answer.completion_tokens <= 12
        assert answer.finish_reason in {"stop", "length"}


@here
async def test_at_temperature_0_it_continues_what_it_said(engine: Engine) -> None:
    short, long = await asyncio.gather(
        engine.complete(request("short", temperature=0.0, max_tokens=4)),
        engine.complete(request("long", temperature=0.0, max_tokens=16)),
    )
    assert (short.finish_reason, short.completion_tokens) == ("length", 4)
    assert long.text.startswith(short.text.rstrip("\ufffd"))


@here
async def test_an_answer_ends_before_a_stop_string(engine: Engine) -> None:
    whole = await engine.complete(request("whole", temperature=0.0, max_tokens=32))
    stop = next(letter for letter in whole.text[1:] if letter.isprintable() and letter != "\ufffd")
    cut = await engine.complete(request("cut", temperature=0.0, max_tokens=32, stop=(stop,)))
    assert cut.finish_reason == "stop"
    assert cut.text == whole.text[: whole.text.index(stop)]


@here
async def test_messages_go_through_the_chat_template(engine: Engine) -> None:
    messages = Prompt(messages=(Message("user", "Add."),))
    by_hand = Prompt(text="user: Add.\nassistant: ")
    chat, text = await asyncio.gather(
        engine.complete(request("chat", messages, temperature=0.0)),
        engine.complete(request("text", by_hand, temperature=0.0)),
    )
    assert chat == text


@here
async def test_a_prompt_that_does_not_fit_fails_alone(engine: Engine) -> None:
    fits, long, empty = await asyncio.gather(
        *(
            engine.complete(request(id, prompt))
            for id, prompt in {"fits": TEXT, "long": "x" * 500, "empty": ""}.items()
        ),
        return_exceptions=True,
    )
    assert isinstance(fits, Completion)
    assert isinstance(long, RequestFailed)
    assert "192" in str(long)
    assert isinstance(empty, RequestFailed)


@here
async def test_a_cancelled_request_frees_its_place(engine: Engine) -> None:
    await engine.complete(request("first"))
    tasks = [asyncio.create_task(engine.complete(request(f"gone {n}", max_tokens=100))) for n in range(8)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(answer, asyncio.CancelledError) for answer in ended)
    assert (await engine.complete(request("after"))).completion_tokens


@here
@pytest.mark.parametrize(
    ("folder", "options", "said"),
    [
        ("nowhere", {}, r"\[model\] path: no such folder: .*nowhere"),
        ("", {"max_modellen": 3}, r"\[model.vllm\]: .*max_modellen"),
        ("", {"max_model_len": 10**7}, "vLLM cannot load .*max_model_len"),
    ],
    ids=["folder", "argument", "value"],
)
async def test_what_cannot_start_says_why(tiny_model: Path, folder: str, options: dict[str, Any], said: str) -> None:
    engine = opened(tiny_model / folder, **options)
    try:
        for _ in range(2):
            with pytest.raises(EngineUnavailable, match=said):
                await engine.complete(request("one"))
    finally:
        await engine.close()


@here
async def test_a_hub_out_of_reach_is_said_before_its_client_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    engine = open_engine(ModelSettings(name="nobody/tiny", engine="vllm"))
    with pytest.raises(EngineUnavailable, match=r"\[model\] name: nobody/tiny: http://127.0.0.1:9 cannot be reached"):
        await engine.complete(request("one"))
    await engine.close()


@here
async def test_the_loop_goes_on_while_the_model_loads_and_its_death_ends_the_build(tiny_model: Path) -> None:
    """A build says every 15 seconds that it lives, and is taken for dead after 60."""
    import psutil  # vLLM brings it

    before = set(psutil.Process().children())
    engine = opened(tiny_model)
    loading = asyncio.create_task(engine.complete(request("one")))
    turns = 0
    while not loading.done():
        await asyncio.sleep(0.05)
        turns += 1
    assert isinstance(await loading, Completion)
    assert turns > 10
    started = [child for child in psutil.Process().children() if child not in before]
    (core,) = [child for child in started if "EngineCore" in " ".join(child.cmdline())]
    os.kill(core.pid, 9)
    core.wait(30)
    with pytest.raises(EngineUnavailable, match="vLLM died"):
        await draw_on(engine)
    await engine.close()


async def draw_on(engine: Engine) -> None:
    while True:
        await engine.complete(request("more", max_tokens=100))
