"""Samples that a model writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from generator.engines import Completion, CompletionRequest
from trainer.evaluation.data import Source
from trainer.evaluation.formats.cruxeval import CRUXEVAL_I, CRUXEVAL_O
from trainer.evaluation.formats.livecodebench import EXECUTION, TESTS
from trainer.evaluation.generation import ModelSamples, cut, identify, prompt_text
from trainer.evaluation.problems import Problem
from trainer.evaluation.tests_check import Tests

DOUBLE = Problem("T/0", "Double it.", "def double(x):\n", "", Tests("assert double(2) == 4"))
IN_WORDS = Problem("T/1", "Write `half`.", "", "", Tests("assert half(2) == 1"))


class Parrot:
    """Answers every request with the same words, and keeps the requests."""

    def __init__(self, words: str) -> None:
        self.words = words
        self.asked: list[CompletionRequest] = []

    async def complete(self, request: CompletionRequest) -> Completion:
        self.asked.append(request)
        return Completion(self.words, "stop")

    async def close(self) -> None: ...


def render(instruction: str) -> str:
    return f"### Instruction\n{instruction}\n\n### Response\n"


async def test_an_instruct_model_continues_the_code_inside_a_fence() -> None:
    parrot = Parrot("    return x * 2\n```\nThis doubles it.")

    sample = await ModelSamples(parrot, subject="m", render=render).sample(DOUBLE, 0)

    assert sample.code == "def double(x):\n    return x * 2"
    assert parrot.asked[0].prompt.text == ("### Instruction\nDouble it.\n\n### Response\n```python\ndef double(x):\n")
    assert parrot.asked[0].sampling.temperature == 0.0


async def test_a_base_model_gets_the_code_alone_and_its_next_function_is_cut() -> None:
    parrot = Parrot("    return x * 2\n\ndef other():\n    pass\n")

    sample = await ModelSamples(parrot, subject="m", render=None).sample(DOUBLE, 0)

    assert sample.code == "def double(x):\n    return x * 2\n"
    assert parrot.asked[0].prompt.text == "def double(x):\n"


async def test_a_task_in_words_reaches_a_base_model_as_a_docstring() -> None:
    parrot = Parrot("def half(x):\n    return x / 2")

    sample = await ModelSamples(parrot, subject="m", render=None).sample(IN_WORDS, 0)

    assert parrot.asked[0].prompt.text == '"""\nWrite `half`.\n"""\n'
    assert sample.code == "def half(x):\n    return x / 2"


async def test_a_base_models_whole_program_keeps_its_imports_helpers_and_statements() -> None:
    """What ends a function that was begun for it is part of a program that it writes itself."""
    program = "import math\n\n# twice\ndef twice(x):\n    return 2 * x\n\nif True:\n    print(twice(math.pi))\n"
    parrot = Parrot(program + '\n"""\nWrite `third`.\n"""\ndef third(x): ...')

    sample = await ModelSamples(parrot, subject="m", render=None).sample(IN_WORDS, 0)

    assert sample.code == program


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (CRUXEVAL_I, "def f(x):\n    return x + 1\n\n# arguments for which f returns 4\nassert f("),
        (CRUXEVAL_O, "def f(x):\n    return x + 1\n\nassert f(3) =="),
        (EXECUTION, "def f(x):\n    return x + 1\n\nassert f(3) =="),
        (TESTS, '"""\nAdd one.\n"""\ndef f(x):\n\nassert f(3) =='),
    ],
)
def test_a_base_model_reads_what_it_predicts_of(source: Source, told: str) -> None:
    """The assertion that it goes on with does not tell the function."""
    task = {"question_content": "Add one.", "starter_code": "def f(x):", "function_name": "f", "question_id": "1"}
    test = {"test": '[{"input": "3", "output": "4"}]', "test_id": "0"}
    code = {"code": "def f(x):\n    return x + 1", "output": "4", "id": "0"}
    call = {"input": "3" if source is not EXECUTION else "f(3)"}

    problem = source.read(code | call | task | test, "1.0")

    assert prompt_text(problem, None) == told
    assert told.endswith(problem.prefix)


async def test_each_sample_has_a_seed_of_its_own_and_keeps_it() -> None:
    parrot = Parrot("")
    source = ModelSamples(parrot, subject="m", render=None, samples=2, temperature=0.8)

    for index in (0, 1, 0):
        await source.sample(DOUBLE, index)

    first, second, again = (request.sampling.seed for request in parrot.asked)
    assert first == again != second
    assert source.count(DOUBLE) == 2


def test_an_answer_without_a_stop_is_kept_whole() -> None:
    assert cut("abc", ("x", "y")) == "abc"
    assert cut("abcxdy", ("y", "x")) == "abc"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_model_is_identified_by_its_content(tmp_path: Path, name: str) -> None:
    """Where it lies, its optimizer's state, checkpoints and records change nothing."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
        (folder / "config.json").write_text("{}")
    (there / "optimizer.pt").write_bytes(b"state")
    for record in ("run.json", "trainer_state.json", "checkpoint-3/model.safetensors", "state/survey.json"):
        (there / record).parent.mkdir(exist_ok=True)
        (there / record).write_bytes(b"{}")

    same = identify(here) == identify(there)
    (there / name).write_bytes(b"trained on")

    assert same
    assert identify(here) != identify(there)
