"""Completions in this process with vLLM, for one box with an accelerator and nothing else to set up.

vLLM pins its own torch and belongs into an environment of its own; where that is in the way, `vllm serve` with the
engine `openai` does the same from another process.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from generator.engines import Completion, CompletionRequest, EngineUnavailable, RequestFailed
from generator.recipe import ModelSettings


class VllmEngine:
    """A model in vLLM's asynchronous engine, which batches whatever is in flight. It starts with the first request.

    Args:
        model: `path` (a local folder) or else `name` and `revision` (on the hub) say what to load; `concurrency` is the
            largest batch.
        options: more of vLLM's engine arguments, by name.
    """

    def __init__(self, model: ModelSettings, **options: Any) -> None:
        try:
            import vllm
        except ImportError as error:
            raise EngineUnavailable(
                f"[model] engine: 'vllm' needs vLLM ({error}): install it with selfalign into an environment of its "
                "own, or use `vllm serve` and the engine 'openai'"
            ) from error
        self._vllm = vllm
        self._settings = model
        self._options = options
        self._starting = asyncio.Lock()
        self._engine: Any = None

    async def complete(self, request: CompletionRequest) -> Completion:
        """Draw one completion; cancelling frees its place in the batch.

        Raises:
            RequestFailed: the prompt does not fit the model.
            EngineUnavailable: the model cannot be loaded, or the engine died.
        """
        from vllm.exceptions import VLLMValidationError
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError

        engine = await self._started()
        sampling = self._vllm.SamplingParams(
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
        except (ValueError, VLLMValidationError) as error:  # a prompt that does not fit, a setting that it refuses
            raise RequestFailed(" ".join(str(error).split())[:300]) from error
        if not outputs or not outputs[-1].outputs:
            raise RequestFailed("vLLM answered nothing")
        drawn = outputs[-1].outputs[0]
        prompt_tokens = len(outputs[-1].prompt_token_ids or ())
        return Completion(drawn.text, drawn.finish_reason or "unknown", prompt_tokens, len(drawn.token_ids))

    async def close(self) -> None:
        """Stop the engine and free the accelerator."""
        if self._engine is not None:
            self._engine.shutdown()
            self._engine = None

    async def _started(self) -> Any:
        async with self._starting:
            if self._engine is None:
                self._engine = self._start()
            return self._engine

    def _start(self) -> Any:
        from vllm.v1.engine.async_llm import AsyncLLM

        settings = self._settings
        if settings.path and not Path(settings.path).is_dir():
            raise EngineUnavailable(f"[model] path: no such folder: {settings.path}")
        source = settings.path or settings.name
        try:
            return AsyncLLM.from_engine_args(
                self._vllm.AsyncEngineArgs(
                    model=source,
                    revision=None if settings.path else settings.revision or None,
                    max_num_seqs=settings.concurrency,
                    enable_prefix_caching=True,
                    # The model's own sampling settings are not the recipe's.
                    generation_config="vllm",
                    **self._options,
                )
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise EngineUnavailable(f"vLLM cannot load {source}: {' '.join(str(error).split())[:300]}") from error

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
