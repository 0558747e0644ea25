"""Completions in this process with `transformers`: small models, no server, CPU or one accelerator.

Requests that wait together are answered as one batch. Each still draws from its own seed (Gumbel noise, with which the
largest logit is an exact sample of the softmax), so that what it gets does not depend on its neighbours, up to the
rounding of padded arithmetic.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generator import hub
from generator.engines import Completion, CompletionRequest, EngineUnavailable, RequestFailed
from generator.recipe import ModelSettings

# As many tokens as a stop string may take, so that looking for one does not cost more with every token drawn.
_STOP_TOKENS = 64


@dataclass(slots=True)
class _Waiting:
    request: CompletionRequest
    answer: asyncio.Future[Completion]


class TransformersEngine:
    """A causal language model in this process. The weights are loaded when the first request comes.

    Args:
        model: `path` (a local folder) or else `name` and `revision` (on the hub) say what to load; `concurrency` is the
            largest batch.
        device: such as "cuda:1"; empty picks CUDA, then MPS, then the CPU.
    """

    def __init__(self, model: ModelSettings, *, device: str = "") -> None:
        self._settings = model
        self._device = device
        self._waiting: list[_Waiting] = []
        self._runner: asyncio.Task[None] | None = None
        self._model: _Model | None = None
        # One thread: a model answers one batch at a time, and the event loop stays free.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="transformers")
        self._stopped = threading.Event()

    async def complete(self, request: CompletionRequest) -> Completion:
        """Draw one completion together with whatever else waits.

        Raises:
            RequestFailed: the prompt does not fit the model or its memory.
            EngineUnavailable: the model cannot be loaded.
        """
        waiting = _Waiting(request, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        return await waiting.answer

    async def close(self) -> None:
        """Stop after the token that is being drawn, and free the model."""
        self._stopped.set()
        if self._runner is not None:
            await asyncio.gather(self._runner, return_exceptions=True)
        self._thread.shutdown(wait=True)
        self._model = None

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0)  # let everything that was started together queue up
        while self._waiting:
            size = max(1, self._settings.concurrency)
            batch, self._waiting = self._waiting[:size], self._waiting[size:]
            batch = [each for each in batch if not each.answer.done()]  # cancelled meanwhile
            if not batch:
                continue
            try:
                answers = await loop.run_in_executor(self._thread, self._answer, [each.request for each in batch])
            except BaseException as error:
                for each in batch:
                    _settle(each, error if isinstance(error, Exception) else RequestFailed("cancelled"))
                if not isinstance(error, Exception):
                    raise
                continue
            for each, answer in zip(batch, answers, strict=True):
                _settle(each, answer)

    def _answer(self, requests: list[CompletionRequest]) -> list[Completion | RequestFailed]:
        if self._model is None:
            self._model = _load(self._settings, self._device)
        return self._model.answer(requests, self._stopped)


def _settle(waiting: _Waiting, answer: Completion | Exception) -> None:
    if waiting.answer.done():
        return
    if isinstance(answer, Exception):
        waiting.answer.set_exception(answer)
    else:
        waiting.answer.set_result(answer)


def _load(settings: ModelSettings, device: str) -> _Model:
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar
    except ImportError as error:
        raise EngineUnavailable(
            f"[model] engine: 'transformers' needs torch and transformers ({error}): pip install 'selfalign[train]'"
        ) from error
    if settings.path and not Path(settings.path).is_dir():
        raise EngineUnavailable(f"[model] path: no such folder: {settings.path}")
    disable_progress_bar()  # progress is told by whoever draws completions
    source = settings.path or settings.name
    revision = {"revision": settings.revision} if settings.revision and not settings.path else {}
    if why := hub.unreachable(source):
        raise EngineUnavailable(f"[model] name: {source}: {why}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left", **revision)
        model = AutoModelForCausalLM.from_pretrained(source, dtype="auto", **revision)
    except (OSError, ValueError) as error:
        where = f"[model] path: {source}" if settings.path else f"[model] name: {source} from the hub"
        raise EngineUnavailable(f"{where}: cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    if not device:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return _Model(model.eval().to(torch.device(device)), tokenizer)


class _Model:
    """A loaded model with its tokenizer; called from one thread."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model = model
        self._tokenizer = tokenizer
        eos = model.generation_config.eos_token_id
        self._eos = {tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos])} - {None}
        self._context = int(getattr(model.config, "max_position_embeddings", None) or 2**31)

    def answer(
        self, requests: Sequence[CompletionRequest], stopped: threading.Event
    ) -> list[Completion | RequestFailed]:
        """Answer a batch; a request that cannot be answered does not take the others with it."""
        prompts = [self._encode(request) for request in requests]
        answers: dict[int, Completion | RequestFailed] = {}
        fitting = []
        for index, (request, prompt) in enumerate(zip(requests, prompts, strict=True)):
            if len(prompt) + request.sampling.max_tokens > self._context:
                answers[index] = RequestFailed(
                    f"prompt of {len(prompt)} tokens and max_tokens {request.sampling.max_tokens} exceed the model's "
                    f"{self._context}"
                )
            else:
                fitting.append(index)
        for index, completion in self._draw(requests, prompts, fitting, stopped):
            answers[index] = completion
        return [answers[index] for index in range(len(requests))]

    def _encode(self, request: CompletionRequest) -> list[int]:
        if not request.prompt.messages:
            return list(self._tokenizer(request.prompt.text)["input_ids"])
        if not self._tokenizer.chat_template:
            raise EngineUnavailable(
                "[model] mode: 'chat' needs a model with a chat template; base models use 'completion'"
            )
        messages = [{"role": each.role, "content": each.content} for each in request.prompt.messages]
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        # The template has written the special tokens already.
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _draw(
        self,
        requests: Sequence[CompletionRequest],
        prompts: Sequence[list[int]],
        indices: list[int],
        stopped: threading.Event,
    ) -> Iterator[tuple[int, Completion | RequestFailed]]:
        """Draw for the requests at `indices`, in halves where memory does not suffice."""
        import torch

        if not indices:
            return
        try:
            drawn = self._generate([requests[i] for i in indices], [prompts[i] for i in indices], stopped)
        except torch.OutOfMemoryError:
            if len(indices) == 1:
                yield indices[0], RequestFailed("out of memory, even alone")
                return
            torch.cuda.empty_cache()
            half = len(indices) // 2
            yield from self._draw(requests, prompts, indices[:half], stopped)
            yield from self._draw(requests, prompts, indices[half:], stopped)
            return
        yield from zip(indices, drawn, strict=True)

    def _generate(
        self, requests: list[CompletionRequest], prompts: list[list[int]], stopped: threading.Event
    ) -> list[Completion]:
        import torch

        batch = self._tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(self._model.device)
        width = batch["input_ids"].shape[1]
        rows = [_Row(request, self._tokenizer, self._eos) for request in requests]

        def choose(ids: Any, logits: Any) -> Any:
            return torch.stack([row.perturb(each) for row, each in zip(rows, logits, strict=True)])

        def ended(ids: Any, logits: Any, **_: Any) -> Any:
            done = [row.ends(each[width:].tolist()) or stopped.is_set() for row, each in zip(rows, ids, strict=True)]
            return torch.tensor(done, device=ids.device)

        with torch.inference_mode():
            self._model.generate(
                **batch,
                do_sample=False,
                max_new_tokens=max(request.sampling.max_tokens for request in requests),
                logits_processor=[choose],
                stopping_criteria=[ended],
                pad_token_id=self._tokenizer.pad_token_id,
                # The model's own sampling settings are not the recipe's.
                temperature=None,
                top_p=None,
                top_k=None,
                repetition_penalty=None,
            )
        if stopped.is_set():
            raise RequestFailed("stopped")
        return [row.completion(len(prompt)) for row, prompt in zip(rows, prompts, strict=True)]


class _Row:
    """One request in a batch: its random numbers, and where it ends."""

    def __init__(self, request: CompletionRequest, tokenizer: Any, eos: set[int]) -> None:
        import torch

        self._sampling = request.sampling
        self._tokenizer = tokenizer
        self._eos = eos
        # On the CPU whatever the device is, so that a seed means the same everywhere.
        self._random = torch.Generator("cpu")
        if self._sampling.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(self._sampling.seed)
        self._tokens: list[int] = []
        self._text: str | None = None
        """What stands before a stop string."""
        self._finish_reason = ""

    def perturb(self, logits: Any) -> Any:
        """Turn logits into scores whose largest entry is a sample: float32, shape (vocabulary,)."""
        import torch

        scores = logits.float()
        if self._sampling.temperature <= 0:
            return scores
        scores = scores / self._sampling.temperature
        if self._sampling.top_p < 1:
            descending, order = torch.sort(scores, descending=True)
            probabilities = torch.softmax(descending, dim=-1)
            # The smallest set whose probability reaches top_p; the first token always stays.
            outside = torch.cumsum(probabilities, dim=-1) - probabilities >= self._sampling.top_p
            scores = scores.masked_fill(outside.scatter(0, order, outside), float("-inf"))
        noise = torch.rand(scores.shape, generator=self._random, dtype=torch.float64).clamp_min(1e-300)
        return scores - torch.log(-torch.log(noise)).to(scores)

    def ends(self, tokens: list[int]) -> bool:
        """Take note of what was drawn so far, and tell whether this request is answered."""
        if self._finish_reason:
            return True
        if tokens[-1] in self._eos:
            self._tokens, self._finish_reason = tokens[:-1], "stop"
        else:
            self._tokens = tokens
            if self._sampling.stop and self._has_stop(tokens[-_STOP_TOKENS:]):
                text = self._decode(tokens)
                self._text = text[: min(place for stop in self._sampling.stop if (place := text.find(stop)) >= 0)]
                self._finish_reason = "stop"
            elif len(tokens) >= self._sampling.max_tokens:
                self._finish_reason = "length"
        return bool(self._finish_reason)

    def completion(self, prompt_tokens: int) -> Completion:
        """What was drawn, without the stop string or the end token."""
        text = self._decode(self._tokens) if self._text is None else self._text
        return Completion(text, self._finish_reason, prompt_tokens, len(self._tokens))

    def _has_stop(self, tokens: list[int]) -> bool:
        text = self._decode(tokens)
        return any(stop in text for stop in self._sampling.stop)

    def _decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))
