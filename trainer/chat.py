"""From a pair to token ids with a prompt that is read and a response that is learned.

Text is made by one chat template, ours or the tokenizer's own, so that training, `selfalign respond` and any other
program that loads the saved tokenizer write the same prompt.
"""

from __future__ import annotations

import datetime
import json
import re
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

TODAY = datetime.date(2024, 7, 26)
"""What a template that writes today's date writes instead (Llama's do, and this is what they fall back to): a run that
goes on tomorrow, and a model that is asked next year, read the prompts that were trained on."""

_DATED = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")

REFUSALS = {
    "overlong": "longer than max_tokens",
    "no_response": "prompt so long, or response so short, that no token is left to learn",
    "prompt_not_prefix": "prompt's tokens are not the first tokens of prompt and response",
    "special_inside": "instruction or response spells one of the tokenizer's special tokens",
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
        TokenizerUnfit: it has no EOS token, or no chat template of its own although it shall be used, or one that
            fails.
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
    elif isinstance(tokenizer.chat_template, str):
        tokenizer.chat_template = _DATED.sub(
            lambda found: json.dumps(TODAY.strftime(found[2])), tokenizer.chat_template
        )
    try:
        text_of(tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
        prompt_of(tokenizer, [{"role": "user", "content": "a"}])
    except Exception as error:  # templates are programs
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TokenizerUnfit(
            f"{source}: the tokenizer's chat template fails for an instruction and its response: {reason}; set [train] "
            'template = { kind = "sections" }'
        ) from error


def text_of(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]) -> str:
    """A conversation that ends with the model's response as text; `messages` are role and content."""
    return str(tokenizer.apply_chat_template(list(messages), tokenize=False))


def prompt_of(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]) -> str:
    """The text after which the model's response begins; `messages` are role and content, the last one the user's."""
    return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))


def special_texts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """How the tokenizer's special tokens are written, longest first; without those that plain text has too ("!")."""
    known = {str(token): tokenizer.convert_tokens_to_ids(str(token)) for token in tokenizer.all_special_tokens}
    known |= {token.content: number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    plain: Any = tokenizer(list(known), add_special_tokens=False, split_special_tokens=True)
    pieces = dict(zip(known, plain["input_ids"], strict=True))
    return sorted((text for text, number in known.items() if pieces[text] != [number]), key=len, reverse=True)


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
        self._special = re.compile("|".join(map(re.escape, special_texts(tokenizer))))

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
        wholes = self._tokenise([text_of(self.tokenizer, messages) for messages in answered])
        return [
            self._refused(*pair) or self._example(prompt, whole)
            for pair, prompt, whole in zip(pairs, prompts, wholes, strict=True)
        ]

    def _refused(self, instruction: str, response: str) -> str:
        if not response.strip():
            return "no_response"
        # The template's text is tokenised in one piece, and a turn's end in an instruction would be one.
        return "special_inside" if self._special.search(instruction) or self._special.search(response) else ""

    def _example(self, prompt: list[int], whole: list[int]) -> Example | str:
        if whole[: len(prompt)] != prompt:
            return "prompt_not_prefix"
        response = whole[len(prompt) :]
        # What a template writes after EOS belongs to the next turn; one that writes no EOS gets it.
        ends = self._eos in response
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
