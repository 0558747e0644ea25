"""Completions in this process with vLLM, for one box with an accelerator and nothing else to set up.

vLLM pins its own torch and belongs into an environment of its own; where that is in the way, `vllm serve` with the
engine `openai` does the same from another process.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from generator import hub
from generator.engines import Completion, CompletionRequest, EngineUnavailable, RequestFailed
from generator.recipe import ModelSettings


class VllmEngine:
    """A model in vLLM's asynchronous engine, which batches whatever is in flight. It starts with the first request.

    Args:
        model: `path` (a local folder) or else `name` and `revision` (on the hub) say what to load; `concurrency` is the
            largest batch; `vllm` holds more of vLLM's engine arguments, by name.
    """

    def __init__(self, model: ModelSettings) -> None:
        if find_spec("vllm") is None:
            raise EngineUnavailable(
                "[model] engine: 'vllm' needs vLLM: install it with selfalign into an environment of its own, or use "
                "`vllm serve` and the engine 'openai'"
            )
        self._settings = model
        self._starting: asyncio.Task[None] | None = None
        self._engine: Any = None

    async def complete(self, request: CompletionRequest) -> Completion:
        """Draw one completion; cancelling frees its place in the batch.

        Raises:
            RequestFailed: the prompt does not fit the model.
            EngineUnavailable: the model cannot be loaded, or the engine died.
        """
        if self._starting is None:  # in a thread: it takes minutes, in which a build must go on saying that it is alive
            self._starting = asyncio.create_task(asyncio.to_thread(self._start))
        await asyncio.shield(self._starting)
        engine = self._engine
        from vllm import SamplingParams
        from vllm.exceptions import VLLMValidationError
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        sampling = SamplingParams(
            temperature=request.sampling.temperature,
            top_p=request.sampling.top_p,
            max_tokens=request.sampling.max_tokens,
            stop=list(request.sampling.stop),
            seed=request.sampling.seed,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        try:
            outputs = [output async for output in engine.generate(self._prompt(engine, request), sampling, request.id)]
        except EngineDeadError as error:
            raise EngineUnavailable(f"vLLM died; its log above says why ({error})") from error
        except (ValueError, VLLMValidationError, EngineGenerateError) as error:  # what does not fit, or is refused
            raise RequestFailed(_line(error.__cause__ or error)) from error
        if not outputs or not outputs[-1].outputs:
            raise RequestFailed("vLLM answered nothing")
        drawn = outputs[-1].outputs[0]
        prompt_tokens = len(outputs[-1].prompt_token_ids or ())
        return Completion(drawn.text, drawn.finish_reason or "unknown", prompt_tokens, len(drawn.token_ids))

    async def close(self) -> None:
        """Stop the engine and free the accelerator."""
        if self._starting is not None:
            with suppress(EngineUnavailable):
                await self._starting
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        if self._engine is not None:
            self._engine.shutdown()
        self._engine = None

    def _start(self) -> None:
        settings = self._settings
        if settings.path and not Path(settings.path).is_dir():
            raise EngineUnavailable(f"[model] path: no such folder: {settings.path}")
        source = settings.path or settings.name
        if why := hub.unreachable(source):
            raise EngineUnavailable(f"[model] name: {source}: {why}")
        os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # what is printed belongs to the command
        arguments = {
            "model": source,
            "revision": None if settings.path else settings.revision or None,
            "max_num_seqs": settings.concurrency,
            "enable_prefix_caching": True,
            "generation_config": "vllm",  # the model's own sampling settings are not the recipe's
        }
        try:
            from vllm import AsyncEngineArgs
            from vllm.v1.engine.async_llm import AsyncLLM

            chosen = self._chosen(AsyncEngineArgs, arguments | settings.vllm)
            self._engine = AsyncLLM.from_engine_args(chosen)
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            raise EngineUnavailable(f"vLLM cannot load {source}: {_line(error)}") from error

    @staticmethod
    def _chosen(kind: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        try:
            return kind(**arguments)
        except TypeError as error:
            raise EngineUnavailable(f"[model.vllm]: {_line(error)}") from error

    @staticmethod
    def _prompt(engine: Any, request: CompletionRequest) -> Any:
        if not request.prompt.messages:
            return request.prompt.text
        tokenizer = engine.get_tokenizer()
        if not tokenizer.chat_template:
            raise EngineUnavailable(
                "[model] mode: 'chat' needs a model with a chat template; base models use 'completion'"
            )
        messages = [{"role": message.role, "content": message.content} for message in request.prompt.messages]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        # As tokens, since the template has written the special ones already.
        return {"prompt_token_ids": tokenizer(text, add_special_tokens=False)["input_ids"]}


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
