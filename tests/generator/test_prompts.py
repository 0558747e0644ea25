"""The worked examples are complete, different from each other, and their tests pass in the sandbox."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from generator.prompts import Example, examples, stage_text
from generator.records import SeedRecord
from generator.seeds import judge
from generator.seeds.extract import functions
from generator.stages import CATEGORIES, DIFFICULTIES, STAGES

EXAMPLES = examples()


def test_there_are_sixteen_examples_of_every_difficulty_and_category() -> None:
    assert len(EXAMPLES) == 16
    assert {example.difficulty for example in EXAMPLES} == set(DIFFICULTIES)
    assert {example.category for example in EXAMPLES} == set(CATEGORIES)


def test_no_two_examples_share_a_text() -> None:
    for field in ("seed", "instruction", "implementation", "tests", "concepts"):
        assert len({getattr(example, field) for example in EXAMPLES}) == 16, field


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_examples_seed_would_be_gathered(example: Example) -> None:
    (function,) = functions(example.seed)
    record = SeedRecord(function.name, function.code, function.docstring, "", "", "", 1, "MIT", "")
    assert judge(record) is None


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_instruction_names_what_its_tests_call_and_not_its_seed(example: Example) -> None:
    defined = [node.name for node in ast.parse(example.implementation).body if hasattr(node, "name")]
    (seed,) = functions(example.seed)
    assert all(f"`{name}" in example.instruction for name in defined)
    assert all(name in example.tests for name in defined)
    assert f"`{seed.name}" not in example.instruction


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_uses_the_standard_library_only(example: Example) -> None:
    import sys

    for program in (example.implementation, example.tests):
        for node in ast.walk(ast.parse(program)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
                assert module in sys.stdlib_module_names


def test_every_stage_has_a_text() -> None:
    for stage in STAGES:
        text = stage_text(stage.name)
        assert text.system
        assert text.query != text.answer


def test_the_texts_travel_with_the_package() -> None:
    """Nothing depends on the working folder."""
    import generator.prompts

    folder = Path(generator.prompts.__file__).parent
    assert (folder / "stages.toml").is_file()
    assert len(list((folder / "examples").glob("*.toml"))) == 16


@pytest.mark.nsjail
async def test_every_example_passes_its_own_tests_in_the_sandbox() -> None:
    from sandbox_server.client import connect
    from sandbox_server.jobs import Job, Verdict

    async with connect("embedded") as sandbox:
        for example in EXAMPLES:
            result = await sandbox.run(Job(code=example.implementation, tests=example.tests))
            assert result.verdict is Verdict.PASSED, (example.name, result)
