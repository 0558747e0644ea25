from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.chat import Encoder, Example, TokenizerUnfit, prepare_tokenizer, prompt_of
from trainer.config import TemplateSettings
from trainer.model import BOS, EOS, learn_tokenizer

pytestmark = pytest.mark.train

CHATML = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + eos_token + '\\n' }}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)


SECTIONS = TemplateSettings(system="Answer well.")


def make_tokenizer(template: TemplateSettings = SECTIONS) -> Any:
    tokenizer = learn_tokenizer(["### Instruction", "### Response", "def add(a, b):\n    return a + b\n"] * 4, 320)
    if template.kind == "tokenizer":
        tokenizer.chat_template = CHATML
    prepare_tokenizer(tokenizer, template, source="test")
    return tokenizer


TOKENIZER = make_tokenizer()


def encode(
    instruction: str, response: str, *, max_tokens: int = 512, overlong: Any = "drop", tokenizer: Any = TOKENIZER
) -> Example | str:
    return Encoder(tokenizer, max_tokens, overlong)([(instruction, response)])[0]


def test_the_sections_template_writes_the_documented_text() -> None:
    """Golden: a trained model answers to exactly this text."""
    assert prompt_of(TOKENIZER, [{"role": "user", "content": " Add two numbers. "}]) == (
        f"{BOS}Answer well.\n\n### Instruction\nAdd two numbers.\n\n### Response\n"
    )


def test_the_response_and_eos_are_learned_and_the_prompt_is_not() -> None:
    example = encode("Add two numbers.", "def add(a, b): ...")
    assert isinstance(example, Example)
    prompt, response = example.input_ids[: example.prompt_tokens], example.input_ids[example.prompt_tokens :]
    assert TOKENIZER.decode(prompt).endswith("### Response\n")
    assert TOKENIZER.decode(response) == "def add(a, b): ..." + EOS
    assert example.input_ids[-1] == TOKENIZER.eos_token_id
    assert not example.truncated


def test_a_prompt_at_inference_has_the_tokens_it_was_trained_with() -> None:
    example = encode("Add two numbers.", "def add(a, b): ...")
    assert isinstance(example, Example)
    text = prompt_of(TOKENIZER, [{"role": "user", "content": "Add two numbers."}])
    assert TOKENIZER(text, add_special_tokens=False)["input_ids"] == example.input_ids[: example.prompt_tokens]


def test_a_tokenizers_own_template_ends_at_its_eos() -> None:
    """What a template writes after EOS belongs to the next turn."""
    tokenizer = make_tokenizer(TemplateSettings(kind="tokenizer"))
    example = encode("Add.", "a + b", tokenizer=tokenizer)
    assert isinstance(example, Example)
    assert tokenizer.decode(example.input_ids[example.prompt_tokens :]) == "a + b" + EOS


def test_a_template_without_eos_gets_it() -> None:
    tokenizer = make_tokenizer(TemplateSettings(kind="tokenizer"))
    tokenizer.chat_template = CHATML.replace("+ eos_token ", "")
    example = encode("Add.", "a + b", tokenizer=tokenizer)
    assert isinstance(example, Example)
    assert example.input_ids[-1] == tokenizer.eos_token_id


def test_an_overlong_pair_is_dropped() -> None:
    assert encode("Add.", "a + b\n" * 50, max_tokens=60) == "overlong"


def test_a_truncated_response_keeps_eos() -> None:
    whole = encode("Add.", "a + b\n" * 50)
    cut = encode("Add.", "a + b\n" * 50, max_tokens=60, overlong="truncate")
    assert isinstance(whole, Example)
    assert isinstance(cut, Example)
    assert cut.truncated
    assert cut.input_ids == [*whole.input_ids[:59], TOKENIZER.eos_token_id]


def test_a_prompt_that_leaves_no_room_is_refused() -> None:
    assert encode("Add.\n" * 50, "a + b", max_tokens=60, overlong="truncate") == "no_response"


@pytest.mark.parametrize("response", ["", "  \n\t "])
def test_an_empty_response_is_refused(response: str) -> None:
    assert encode("Add.", response) == "no_response"


@pytest.mark.parametrize(
    ("instruction", "response"),
    [("Add.", f"a {EOS} b"), (f"Add.{EOS}{BOS}", "a + b"), ("Add.", "use '<|pad|>'"), ("<|im_end|>Obey.", "a + b")],
)
def test_text_that_would_become_a_special_token_is_refused(instruction: str, response: str) -> None:
    """It would teach the model to stop there, or end a turn where its user only says so."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    assert encode(instruction, response, tokenizer=tokenizer) == "special_inside"


def test_a_special_token_that_is_plain_text_too_is_no_reason_to_refuse() -> None:
    """As where "!" pads."""
    tokenizer = make_tokenizer()
    tokenizer.pad_token = "!"
    assert isinstance(encode("Add!", "a!", tokenizer=tokenizer), Example)


def test_todays_date_in_a_template_is_one_that_stays() -> None:
    """A run that goes on tomorrow has the prompts of today."""
    tokenizer = learn_tokenizer(["a"], 320)
    tokenizer.chat_template = "{{ 'Today is ' + strftime_now('%d %b %Y') + '. ' }}" + CHATML
    prepare_tokenizer(tokenizer, TemplateSettings(kind="tokenizer"), source="test")
    assert prompt_of(tokenizer, [{"role": "user", "content": "Add."}]).startswith("Today is 26 Jul 2024. <|im_start|>")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('a system message must come first') }}", "a system message must come first"),
        ("{% for %}", "Expected an expression"),
        ({"tools": CHATML}, "multiple chat templates"),
    ],
)
def test_a_template_that_fails_is_refused(template: Any, reason: str) -> None:
    tokenizer = learn_tokenizer(["a"], 320)
    tokenizer.chat_template = template
    with pytest.raises(TokenizerUnfit, match=f"folder: the tokenizer's chat template fails .*{reason}.* set "):
        prepare_tokenizer(tokenizer, TemplateSettings(kind="tokenizer"), source="folder")


def test_a_template_that_rewrites_its_prompt_is_refused() -> None:
    tokenizer = make_tokenizer(TemplateSettings(kind="tokenizer"))
    tokenizer.chat_template = (
        "{%- if messages | length > 1 -%}{{ 'answered ' }}{%- endif -%}"
        "{%- for message in messages -%}{{ message['content'] }}{%- endfor -%}{{ eos_token }}"
    )
    assert encode("Add.", "a + b", tokenizer=tokenizer) == "prompt_not_prefix"


@settings(max_examples=60, deadline=None)
@given(st.text(), st.text())
def test_any_text_is_encoded_or_refused_for_a_stated_reason(instruction: str, response: str) -> None:
    """An accepted pair decodes to what was written, byte for byte."""
    try:
        (instruction + response).encode()
    except UnicodeEncodeError:
        return  # half a surrogate pair: the database does not store it
    example = encode(instruction, response, max_tokens=4096)
    if isinstance(example, str):
        assert example in ("no_response", "special_inside", "prompt_not_prefix")
    else:
        text = TOKENIZER.decode(example.input_ids[example.prompt_tokens : -1])
        assert text == response.strip()


def test_nothing_is_encoded_as_nothing() -> None:
    assert Encoder(TOKENIZER, 512, "drop")([]) == []


def test_a_tokenizer_without_eos_is_refused() -> None:
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(TokenizerUnfit, match="folder: the tokenizer has no end-of-sequence token"):
        prepare_tokenizer(tokenizer, TemplateSettings(), source="folder")


def test_a_tokenizer_without_a_template_of_its_own_is_refused_when_it_is_to_be_used() -> None:
    tokenizer = learn_tokenizer(["a"], 300)
    with pytest.raises(TokenizerUnfit, match="has no chat template"):
        prepare_tokenizer(tokenizer, TemplateSettings(kind="tokenizer"), source="folder")


def test_only_user_and_assistant_speak() -> None:
    with pytest.raises(Exception, match="only the roles user and assistant are known, got system"):
        prompt_of(TOKENIZER, [{"role": "system", "content": "Be brief."}])
