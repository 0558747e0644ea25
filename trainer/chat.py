"""From a pair to token ids with a prompt that is read and a response that is learned.

Text is made by one chat template, ours or the tokenizer's own, so that training, `selfalign respond` and any other
program that loads the saved tokenizer write the same prompt.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from trainer.config import TemplateSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

INSTRUCTION_HEADING = "### Instruction\n"
RESPONSE_HEADING = "### Response\n"
TERMINATOR = "###"
"""The headings' first characters: a model that goes on after its answer writes them next."""

REFUSALS = {
    "overlong": "longer than max_tokens",
    "no_response": "prompt so long, or response so short, that no token is left to learn",
    "prompt_not_prefix": "prompt's tokens are not the first tokens of prompt and response",
    "eos_inside": "response contains the end-of-sequence token",
}
"""Why a pair is not trained on: short name and meaning."""


class TokenizerUnfit(Exception):
    """The tokenizer lacks something that training needs; the message says what."""


@dataclass(frozen=True, slots=True)
class Example:
    """One tokenised pair. The first `prompt_tokens` of `input_ids` are read, the others, EOS the last, are learned."""

    input_ids: list[int]
    prompt_tokens: int
    truncated: bool = False

    @property
    def trained_tokens(self) -> int:
        """Tokens that the loss is taken over."""
        return len(self.input_ids) - self.prompt_tokens


def sections_template(system: str) -> str:
    """The chat template of `TemplateSettings` kind "sections", in Jinja.

    BOS if the tokenizer has one, `system`, then each instruction and response under its heading; EOS ends a response.
    """
    return (
        "{%- if bos_token %}{{ bos_token }}{% endif -%}"
        f"{{{{ {json.dumps(system, ensure_ascii=False)} }}}}{{{{ '\\n\\n' }}}}"
        "{%- for message in messages -%}"
        "{%- if message['role'] == 'user' -%}"
        f"{{{{ {INSTRUCTION_HEADING!r} + (message['content'] | trim) + '\\n\\n' }}}}"
        "{%- elif message['role'] == 'assistant' -%}"
        f"{{{{ {RESPONSE_HEADING!r} + (message['content'] | trim) + eos_token + '\\n\\n' }}}}"
        "{%- else -%}"
        "{{ raise_exception('only the roles user and assistant are known, got ' + message['role']) }}"
        "{%- endif -%}"
        "{%- endfor -%}"
        f"{{%- if add_generation_prompt -%}}{{{{ {RESPONSE_HEADING!r} }}}}{{%- endif -%}}"
    )


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, template: TemplateSettings, *, source: str) -> None:
    """Give `tokenizer` the chat template that is trained on, and refuse one that cannot be trained with.

    Args:
        tokenizer: changed in place; saved with the model, it carries the template along.
        template: the recipe's.
        source: how messages name the tokenizer.

    Raises:
        TokenizerUnfit: it has no EOS token, or no chat template of its own although it shall be used.
    """
    if tokenizer.eos_token_id is None:
        raise TokenizerUnfit(
            f"{source}: the tokenizer has no end-of-sequence token, so a model could not learn where to stop; "
            'set "eos_token" in its tokenizer_config.json'
        )
    if template.kind == "sections":
        tokenizer.chat_template = sections_template(template.system)
    elif not tokenizer.chat_template:
        raise TokenizerUnfit(
            f'{source}: the tokenizer has no chat template; set [train] template = {{ kind = "sections" }}'
        )


def prompt_of(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]) -> str:
    """The text after which the model's response begins; `messages` are role and content, the last one the user's."""
    return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))


class Encoder:
    """Tokenises pairs.

    Args:
        tokenizer: prepared by `prepare_tokenizer`.
        max_tokens: longest example, EOS included.
        overlong: what happens to a longer one: it is dropped, or its response is cut and ended with EOS.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, max_tokens: int, overlong: Literal["drop", "truncate"]
    ) -> None:
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.overlong = overlong
        self._eos = int(tokenizer.eos_token_id)

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[Example | str]:
        """Tokenise (instruction, response) pairs.

        Returns:
            For each pair its example, or the key of `REFUSALS` that says why there is none.
        """
        if not pairs:
            return []
        asked = [[{"role": "user", "content": instruction}] for instruction, _ in pairs]
        answered = [
            [*messages, {"role": "assistant", "content": response}]
            for messages, (_, response) in zip(asked, pairs, strict=True)
        ]
        prompts = self._tokenise([prompt_of(self.tokenizer, messages) for messages in asked])
        wholes = self._tokenise(
            [str(self.tokenizer.apply_chat_template(messages, tokenize=False)) for messages in answered]
        )
        empty = [not response.strip() for _, response in pairs]
        return [
            "no_response" if nothing else self._example(prompt, whole)
            for prompt, whole, nothing in zip(prompts, wholes, empty, strict=True)
        ]

    def _example(self, prompt: list[int], whole: list[int]) -> Example | str:
        if whole[: len(prompt)] != prompt:
            return "prompt_not_prefix"
        response = whole[len(prompt) :]
        ends = response.count(self._eos)
        if ends > 1:
            return "eos_inside"
        # What a template writes after EOS belongs to the next turn; one that writes no EOS gets it.
        response = response[: response.index(self._eos) + 1] if ends else [*response, self._eos]
        too_many = len(prompt) + len(response) - self.max_tokens
        if too_many > 0:
            if self.overlong == "drop":
                return "overlong"
            response = [*response[: max(0, len(response) - 1 - too_many)], self._eos]
        if not prompt or len(response) < 2 or len(prompt) + len(response) > self.max_tokens:
            return "no_response"
        return Example(prompt + response, len(prompt), truncated=too_many > 0)

    def _tokenise(self, texts: list[str]) -> list[list[int]]:
        encoded: Any = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False)
        ids: list[list[int]] = encoded["input_ids"]
        return ids
