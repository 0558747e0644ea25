"""Talk to a trained model: the prompt it was trained with, greedy unless asked otherwise, cut where an answer ends."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, StoppingCriteria, StoppingCriteriaList

from trainer.chat import RESPONSE_HEADING, TERMINATOR, TokenizerUnfit, prompt_of
from trainer.model import ModelUnfit, context_of, first_line, load_failure, load_tokenizer

TAIL_TOKENS = 8
"""The terminator is looked for in the text of so many last tokens; it has three characters, so three would do."""


class ExampleUnfit(ValueError):
    """The one-shot file is not what it should be; the message says what was expected."""


class PromptUnfit(ValueError):
    """The model cannot be asked this; the message says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said.

    Attributes:
        text: with the prefix it was given, without terminator.
        finish_reason: "stop" at EOS or terminator, "length" at the limit.
        prompt_tokens: of prompt and prefix.
        completion_tokens: drawn, the terminator's included.
    """

    text: str
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int


class Responder:
    """A loaded model.

    Args:
        path: folder of a checkpoint, or a hub name.
        device: e.g. "cuda" or "cpu"; empty: the GPU where there is one.

    Raises:
        ModelUnfit, TokenizerUnfit: it cannot be loaded, or has no chat template or EOS.
    """

    def __init__(self, path: str, device: str = "") -> None:
        self.tokenizer = load_tokenizer(path)
        if not self.tokenizer.chat_template:
            raise TokenizerUnfit(f"{path}: the tokenizer has no chat template; models that `selfalign train` made have")
        if self.tokenizer.eos_token_id is None:
            raise TokenizerUnfit(f"{path}: the tokenizer has no end-of-sequence token, so an answer would not end")
        chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(path, dtype="auto")
            self.model = loaded.to(chosen).eval()
            self.model.generation_config = GenerationConfig()  # a base model's penalties would be in every answer
        except Exception as error:
            raise ModelUnfit(load_failure("model", path, error)) from error
        # A response under our headings is over when the next heading begins; other templates end with EOS alone.
        self.terminator = TERMINATOR if RESPONSE_HEADING.strip() in str(self.tokenizer.chat_template) else ""

    def answer(
        self,
        instruction: str,
        *,
        response_prefix: str = "",
        example: tuple[str, str] | None = None,
        max_tokens: int = 512,
        temperature: float = 0.0,
    ) -> Answer:
        """Answer `instruction`.

        Args:
            instruction: the task.
            response_prefix: how the answer begins, e.g. a code fence; put verbatim after the prompt.
            example: instruction and response of a one-shot example that comes before.
            max_tokens: drawn at most; fewer where the model's context ends before.
            temperature: 0 is greedy.

        Raises:
            PromptUnfit: the prompt leaves no room for an answer, or the chat template refuses it.
        """
        prompt = self.prompt(instruction, example) + response_prefix
        inputs = self.tokenizer(prompt, add_special_tokens=False, return_tensors="pt").to(self.model.device)
        before = inputs["input_ids"].shape[1]
        room = context_of(self.model.config) - before
        if room < 1:
            raise PromptUnfit(
                f"the prompt has {before:,} tokens, and the model reads {before + room:,} with its answer; shorten the "
                "instruction or the one-shot example"
            )
        sampling: dict[str, Any] = (
            {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
        )
        criteria = [_Terminated(self.tokenizer, self.terminator, before)] if self.terminator else []
        with torch.inference_mode():
            drawn = self.model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=min(max_tokens, room),
                eos_token_id=self.tokenizer.eos_token_id,
                pad_token_id=self.tokenizer.eos_token_id,
                stopping_criteria=StoppingCriteriaList(criteria),
                **sampling,
            )[0, before:].tolist()
        text: Any = self.tokenizer.decode(drawn, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        ended = bool(drawn) and drawn[-1] == self.tokenizer.eos_token_id
        if self.terminator and self.terminator in text:
            text, ended = text[: text.index(self.terminator)], True
        return Answer((response_prefix + text).rstrip(), "stop" if ended else "length", before, len(drawn))

    def prompt(self, instruction: str, example: tuple[str, str] | None = None) -> str:
        """The text that the model goes on after."""
        messages = [{"role": "user", "content": instruction}]
        if example is not None:
            shown, answer = example
            messages = [{"role": "user", "content": shown}, {"role": "assistant", "content": answer}, *messages]
        try:
            return prompt_of(self.tokenizer, messages)
        except Exception as error:  # templates are programs
            raise PromptUnfit(f"the model's chat template fails: {first_line(error)}") from error


class _Terminated(StoppingCriteria):
    """True once the terminator is in what was drawn."""

    def __init__(self, tokenizer: Any, terminator: str, before: int) -> None:
        self._tokenizer = tokenizer
        self._terminator = terminator
        self._before = before

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
        tails = input_ids[:, max(self._before, input_ids.shape[1] - TAIL_TOKENS) :]
        texts = self._tokenizer.batch_decode(tails, skip_special_tokens=True)
        return torch.tensor([self._terminator in text for text in texts], device=input_ids.device)


def read_example(path: Path) -> tuple[str, str]:
    """Read a one-shot example: JSON with `instruction` and `response`; of JSON lines, an export's say, the first.

    Raises:
        ExampleUnfit: the file cannot be read, or holds something else.
    """
    expected = "expected JSON with the texts `instruction` and `response`"
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ExampleUnfit(f"{path}: cannot be read: {first_line(error)}") from None
    for candidate in (text, text.partition("\n")[0]):
        try:
            value = json.loads(candidate)
        except ValueError:
            continue
        pair = (value.get("instruction"), value.get("response")) if isinstance(value, dict) else (None, None)
        if isinstance(pair[0], str) and isinstance(pair[1], str):
            return pair[0], pair[1]
        break
    raise ExampleUnfit(f"{path}: {expected}")
