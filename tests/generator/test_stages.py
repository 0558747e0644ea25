"""Prompts are golden and depend on their causes alone; answers are read strictly, with a reason when they are not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from generator.engines import Prompt
from generator.prompts import examples
from generator.recipe import StageSettings
from generator.records import (
    ConceptsFields,
    ConceptsInput,
    InstructionFields,
    InstructionInput,
    Parent,
    ResponseFields,
    SeedRecord,
)
from generator.stages import (
    CATEGORIES,
    DIFFICULTIES,
    JUDGE,
    STAGES,
    Mode,
    ParseError,
    Stage,
    choose_examples,
    index_key,
    properties,
    sampling_seed,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "prompts"
CONCEPTS, INSTRUCTIONS, RESPONSES = STAGES
SEED = SeedRecord(
    name="clamp",
    code=(
        'def clamp(value, low, high):\n    """Limit value to the range from low to high."""\n'
        "    return max(low, min(value, high))"
    ),
    docstring="Limit value to the range from low to high.",
    origin="example",
    version="1.0",
    path="example.py",
    line=1,
    licence="MIT",
    licence_source="",
)
PARENTS: dict[str, Parent] = {
    "judge": SEED,
    "concepts": SEED,
    "instructions": ConceptsInput(("comparison", "numeric ranges", "default arguments")),
    "responses": InstructionInput("Write a function `clamp(value, low, high)` that limits a number to a closed range."),
}
SETTINGS = StageSettings(fewshots=2, samples=4)


def show(prompt: Prompt) -> str:
    """A prompt as a person reads it."""
    if prompt.text:
        return prompt.text
    return "".join(f"<{message.role}>\n{message.content}\n" for message in prompt.messages)


def ask(stage: Stage, mode: Mode, *, seed: int = 3407, settings: StageSettings = SETTINGS) -> Prompt:
    parent = PARENTS[stage.name]
    return stage.prompt(parent, seed=seed, index_key=index_key(parent), settings=settings, mode=mode)


@pytest.mark.parametrize("mode", ["completion", "chat"])
@pytest.mark.parametrize("stage", [JUDGE, *STAGES], ids=lambda stage: stage.name)
def test_prompts_are_golden(stage: Stage, mode: Mode) -> None:
    """A prompt changes only when somebody means it: recordings and rows depend on every character.

    `SELFALIGN_UPDATE_GOLDEN=1 pytest tests/generator/test_stages.py` writes them anew; `make record` comes after.
    """
    path = GOLDEN / f"{stage.name}-{mode}.txt"
    text = show(ask(stage, mode))
    if os.environ.get("SELFALIGN_UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("stage", [JUDGE, *STAGES], ids=lambda stage: stage.name)
def test_the_fixed_text_comes_first_and_the_query_last(stage: Stage) -> None:
    query = stage.query(PARENTS[stage.name], seed=3407, index_key=index_key(PARENTS[stage.name]))
    chat, text = ask(stage, "chat").messages, ask(stage, "completion").text
    assert chat[0].role == "system"
    assert text.startswith(chat[0].content)
    assert chat[-1].role == "user"
    assert chat[-1].content.endswith(query)
    assert text.rpartition("## Example 3\n")[2].count(query) == 1


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_the_number_of_examples_is_the_settings(stage: Stage) -> None:
    for count in (0, 1, 16):
        settings = StageSettings(fewshots=count)
        assert len(ask(stage, "chat", settings=settings).messages) == 2 + 2 * count
        assert ask(stage, "completion", settings=settings).text.count("## Example") == count + 1


def test_draws_depend_on_seed_and_parent_alone() -> None:
    key = index_key(SEED)
    assert choose_examples(1, "concepts", key, 5) == choose_examples(1, "concepts", key, 5)
    assert choose_examples(1, "concepts", key, 3) == choose_examples(1, "concepts", key, 5)[:3]
    assert choose_examples(1, "concepts", key, 5) != choose_examples(2, "concepts", key, 5)
    assert choose_examples(1, "concepts", key, 5) != choose_examples(1, "concepts", "other", 5)
    assert sampling_seed(1, "concepts", key, 0) != sampling_seed(1, "concepts", key, 1)


def test_draws_cover_everything() -> None:
    keys = [str(number) for number in range(300)]
    drawn = [properties(3407, key) for key in keys]
    assert {each.category for each in drawn} == set(CATEGORIES)
    assert {each.difficulty for each in drawn} == set(DIFFICULTIES)
    assert {choose_examples(3407, "responses", key, 1)[0].name for key in keys} == {each.name for each in examples()}
    assert all(0 <= sampling_seed(3407, "responses", key, 0) < 2**31 for key in keys)


def test_the_key_of_a_parent_is_its_content() -> None:
    assert index_key(ConceptsInput(("a", "b"))) != index_key(ConceptsInput(("a, b",)))
    assert index_key(InstructionInput("x")) != index_key(InstructionInput("y"))
    assert index_key(SEED) == SEED.key


def test_requests_differ_in_their_seed_only_from_sample_to_sample() -> None:
    first, second = (
        RESPONSES.request(PARENTS["responses"], id=str(i), sample_index=i, seed=3407, settings=SETTINGS, mode="chat")
        for i in range(2)
    )
    assert first.prompt == second.prompt
    assert first.sampling.seed != second.sampling.seed
    assert first.sampling.temperature == second.sampling.temperature == 0.7


def test_only_base_models_are_stopped_at_the_next_example() -> None:
    assert RESPONSES.stop("chat") == ()
    assert RESPONSES.stop("completion") == ("\n## Example", "\n### Instruction")


def test_the_fingerprint_holds_what_changes_prompts_or_fields() -> None:
    base = RESPONSES.fingerprint(SETTINGS, "chat")
    assert base == RESPONSES.fingerprint(StageSettings(fewshots=2, samples=9), "chat")
    assert base != RESPONSES.fingerprint(StageSettings(fewshots=1), "chat")
    assert base != RESPONSES.fingerprint(SETTINGS, "completion")
    assert base["template"] != INSTRUCTIONS.fingerprint(SETTINGS, "chat")["template"]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_every_example_answer_is_read_as_the_example_means_it(stage: Stage) -> None:
    """What the model is asked to imitate would itself be accepted."""
    for example in examples():
        fields = stage.parse(stage.example_answer(example), "stop")
        match fields:
            case ConceptsFields(concepts):
                assert concepts == example.concepts
            case InstructionFields(instruction):
                assert instruction == example.instruction
            case ResponseFields():
                assert (fields.code, fields.test_code) == (example.implementation, example.tests)
                assert (fields.reasoning, fields.explanation) == (example.reasoning, example.explanation)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
@pytest.mark.parametrize("finish_reason", ["length", "content_filter", "unknown", ""])
def test_a_truncated_answer_is_refused(stage: Stage, finish_reason: str) -> None:
    with pytest.raises(ParseError, match="truncated"):
        stage.parse(stage.example_answer(examples()[0]), finish_reason)


@pytest.mark.parametrize(
    ("text", "concepts"),
    [
        ("sorting, recursion", ("sorting", "recursion")),
        ("sorting,\nrecursion.", ("sorting", "recursion")),
        ("- sorting\n- recursion\n", ("sorting", "recursion")),
        ("1. sorting\n2) recursion", ("sorting", "recursion")),
        ("### Concepts\nsorting", ("sorting",)),
        ("Concepts: \nsorting", ("sorting",)),
        ("Sorting, sorting", ("sorting",)),
        ("sorting (stable, in place), maps", ("sorting (stable, in place)", "maps")),
        ("`map`, **filter**", ("map", "filter")),
    ],
)
def test_concepts_are_read_from_lists(text: str, concepts: tuple[str, ...]) -> None:
    assert CONCEPTS.parse(text, "stop") == ConceptsFields(concepts)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no concepts"),
        (" ,\n, ", "no concepts"),
        (", ".join(map(str, range(17))), "more than 16 concepts"),
        ("This function shows how one may sort a list of things in place without any further memory at all.", "longer"),
    ],
)
def test_what_is_no_list_of_concepts_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ParseError, match=reason):
        CONCEPTS.parse(text, "stop")


@pytest.mark.parametrize("heading", ["### Instruction\n", "**Instruction**\n", "Instruction:\n", "\n## Instruction:\n"])
def test_a_repeated_heading_is_no_part_of_an_instruction(heading: str) -> None:
    text = "Write a function `f(x)` that returns x."
    assert INSTRUCTIONS.parse(heading + text + "\n", "stop") == InstructionFields(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("  \n", "no instruction"),
        ("### Instruction\n", "no instruction"),
        ("Write a function.", "fewer than 6 words"),
        ("word " * 401, "more than 400 words"),
        ("Write a function that does what follows:\n```python\nx", "open code block"),
    ],
)
def test_what_is_no_instruction_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ParseError, match=reason):
        INSTRUCTIONS.parse(text, "stop")


def response(
    reasoning: str = "Add.",
    implementation: str = "```python\ndef f(x):\n    return x\n```",
    explanation: str = "It returns x.",
    tests: str = "```python\nassert f(1) == 1\n```",
) -> str:
    return (
        f"#### Reasoning\n{reasoning}\n\n#### Implementation\n{implementation}\n\n"
        f"#### Explanation\n{explanation}\n\n#### Tests\n{tests}"
    )


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda text: text,
        lambda text: text.replace("#### ", "## "),
        lambda text: text.replace("#### Tests", "**Tests**"),
        lambda text: text.replace("#### Tests", "### **Tests:**"),
        lambda text: text.replace("#### Tests", "[Tests]"),
        lambda text: text.replace("#### Tests", "#### 4. Tests"),
        lambda text: text.replace("#### Reasoning\n", "#### Reasoning: "),
        lambda text: text.replace("#### Tests", "#### TESTS"),
        lambda text: "Here is the answer.\n" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("Add.", "Tests are easy. #### Tests come later."),
    ],
)
def test_the_four_parts_are_found_however_their_headings_are_written(rewrite: object) -> None:
    assert callable(rewrite)
    fields = RESPONSES.parse(rewrite(response()), "stop")
    assert isinstance(fields, ResponseFields)
    assert (fields.code, fields.test_code) == ("def f(x):\n    return x", "assert f(1) == 1")
    assert fields.explanation == "It returns x."


def test_a_heading_inside_code_is_code() -> None:
    fields = RESPONSES.parse(response(implementation="```python\n# Tests\ndef f(x):\n    return x\n```"), "stop")
    assert isinstance(fields, ResponseFields)
    assert fields.code.startswith("# Tests")


def test_several_blocks_of_an_implementation_are_one_program() -> None:
    fields = RESPONSES.parse(
        response(implementation="First\n```python\na = 1\n```\nthen\n```python\nb = 2\n```"), "stop"
    )
    assert isinstance(fields, ResponseFields)
    assert fields.code == "a = 1\n\nb = 2"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no part Reasoning"),
        ("I cannot help with that.", "no part Reasoning"),
        (response().replace("#### Explanation", "Explanation:"), "no part Explanation"),
        (response() + "\n\n#### Tests\nmore", "the part Tests twice"),
        (response().replace("Tests", "X").replace("Reasoning", "Tests").replace("X", "Reasoning"), "out of order"),
        (response(reasoning=" "), "the part Reasoning is empty"),
        (response(implementation="def f(x): ..."), "no Python block in Implementation"),
        (response(implementation="```\ndef f(x): ...\n```"), "no Python block in Implementation"),
        (response(tests="assert f(1) == 1"), "no Python block in Tests"),
        (response(tests="```python\na\n```\n```python\nb\n```"), "more than one Python block in Tests"),
        (response(tests="```python\n\n```"), "an empty Python block in Tests"),
        (response(tests="```python\nassert f(1) == 1"), "an open code block"),
    ],
)
def test_what_is_no_complete_response_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ParseError, match=reason):
        RESPONSES.parse(text, "stop")


def test_reading_takes_linear_time_on_hostile_text() -> None:
    """No pattern backtracks: 200,000 characters of heading signs are read at once."""
    for text in ("#" * 200_000, "*" * 200_000, "[" * 200_000, "`" * 200_000, "# " * 100_000, "\n" * 200_000):
        with pytest.raises(ParseError):
            RESPONSES.parse(text, "stop")
