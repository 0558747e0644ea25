from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from generator.recipe import load_recipe
from trainer.cli import respond_command
from trainer.config import train_settings
from trainer.model import ModelUnfit
from trainer.respond import ExampleUnfit, Responder, read_example
from trainer.train import train

pytestmark = pytest.mark.train

LEARNED = [
    ("Add two numbers.", "```python\nreturn a + b\n```"),
    ("Say hello, then go on.", "hello\n\n### Instruction\nAnd so on without end."),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, store: Callable[..., str]) -> Path:
    """A small model that knows `LEARNED` by heart."""
    folder = tmp_path_factory.mktemp("respond")
    url = f"sqlite:///{folder}/pairs.db"
    store(url, LEARNED * 4)
    recipe = folder / "tiny.toml"
    recipe.write_text(
        'name = "tiny"\nmodel = { name = "teacher" }\n[train]\n'
        'model = { kind = "new", vocabulary = 400, hidden_size = 64, layers = 2, heads = 2 }\n'
        'template = { system = "Answer." }\n'
        'batch_size = 8\nepochs = 80\nlearning_rate = 5e-3\nprecision = "fp32"\nsave_steps = 1000\nreport_to = []\n'
    )
    loaded = load_recipe(recipe)
    settings = train_settings(loaded.train, "[train]", loaded.seed)
    return train(loaded, settings, url=url, output=folder / "model").output


@pytest.fixture(scope="module")
def responder(model: Path) -> Responder:
    return Responder(str(model), device="cpu")


def command(*arguments: object, stdin: str = "") -> Result:
    return CliRunner().invoke(respond_command, [str(argument) for argument in arguments], input=stdin)


def test_a_model_says_what_it_learned_and_ends(responder: Responder) -> None:
    answer = responder.answer(LEARNED[0][0])
    assert (answer.text, answer.finish_reason) == (LEARNED[0][1], "stop")


def test_an_answer_ends_where_the_next_heading_begins(responder: Responder) -> None:
    """The model goes on with `### Instruction`; nobody sees it."""
    answer = responder.answer(LEARNED[1][0])
    assert (answer.text, answer.finish_reason) == ("hello", "stop")
    assert answer.completion_tokens < 20


def test_a_response_prefix_begins_the_answer_verbatim(responder: Responder) -> None:
    answer = responder.answer(LEARNED[0][0], response_prefix="```python\nreturn")
    assert answer.text == LEARNED[0][1]
    assert answer.completion_tokens < responder.answer(LEARNED[0][0]).completion_tokens


def test_an_answer_that_does_not_end_is_cut_and_says_so(responder: Responder) -> None:
    answer = responder.answer(LEARNED[0][0], max_tokens=3)
    assert (answer.completion_tokens, answer.finish_reason) == (3, "length")


def test_a_one_shot_example_comes_before_as_a_finished_turn(responder: Responder) -> None:
    prompt = responder.prompt("Second?", example=("First?", "One."))
    assert prompt == (
        "<|begin_of_text|>Answer.\n\n### Instruction\nFirst?\n\n### Response\nOne.<|end_of_text|>\n\n"
        "### Instruction\nSecond?\n\n### Response\n"
    )


def test_a_prompt_longer_than_the_context_is_refused_and_an_answer_ends_with_it(model: Path, tmp_path: Path) -> None:
    """As they would be by a server; positions past the end are of no model, or none that was trained."""
    short = tmp_path / "short"
    shutil.copytree(model, short)
    config = json.loads((short / "config.json").read_text())
    before = Responder(str(model), device="cpu").answer("Unknown task.", max_tokens=60)
    context = before.prompt_tokens + 5
    (short / "config.json").write_text(json.dumps({**config, "max_position_embeddings": context}))
    answer = Responder(str(short), device="cpu").answer("Unknown task.", max_tokens=60)
    assert (answer.completion_tokens, answer.finish_reason) == (5, "length")
    assert before.text.startswith(answer.text)
    result = command(short, "Unknown task. " * 9, "--one-shot", example_file(tmp_path))
    assert result.exit_code == 1
    assert f"tokens, and the model reads {context} with its answer; shorten the instruction" in result.stderr


def test_greedy_is_greedy_whatever_the_base_model_advised(model: Path, tmp_path: Path) -> None:
    """Instruction models bring a penalty on repetition, which no code survives."""
    advised = tmp_path / "advised"
    shutil.copytree(model, advised)
    config = json.loads((advised / "generation_config.json").read_text())
    more = {"repetition_penalty": 9.0, "do_sample": True, "temperature": 0.7, "top_k": 20}
    (advised / "generation_config.json").write_text(json.dumps({**config, **more}))
    assert Responder(str(advised), device="cpu").answer(LEARNED[0][0]).text == LEARNED[0][1]


def test_a_template_that_refuses_a_conversation_is_told_in_a_line(model: Path, tmp_path: Path) -> None:
    single = tmp_path / "single"
    shutil.copytree(model, single)
    template = (
        "{% if messages | length > 1 %}{{ raise_exception('one turn only') }}{% endif %}{{ messages[0]['content'] }}"
    )
    (single / "chat_template.jinja").write_text(template)
    result = command(single, "Add.", "--one-shot", example_file(tmp_path))
    assert (result.exit_code, result.stderr) == (1, "Error: the model's chat template fails: one turn only\n")


def example_file(folder: Path) -> Path:
    path = folder / "example.json"
    path.write_text(json.dumps({"instruction": "Add.", "response": "a + b"}))
    return path


def test_the_command_prints_the_answer(model: Path) -> None:
    result = command(model, LEARNED[0][0])
    assert result.exit_code == 0, result.output
    assert result.stdout == LEARNED[0][1] + "\n"


def test_the_command_reads_stdin_and_prints_json(model: Path) -> None:
    result = command(model, "-", "--json", stdin=LEARNED[1][0])
    answer = json.loads(result.stdout)
    assert answer["text"] == "hello"
    assert set(answer) == {"text", "finish_reason", "prompt_tokens", "completion_tokens"}


@pytest.mark.parametrize(
    "text", ['{"instruction": "a", "response": "b"}', '{"instruction": "a", "response": "b"}\n{"instruction": "c"}\n']
)
def test_an_example_is_json_or_the_first_of_json_lines(tmp_path: Path, text: str) -> None:
    path = tmp_path / "example.json"
    path.write_text(text)
    assert read_example(path) == ("a", "b")


@pytest.mark.parametrize("text", ["", "words", "[1]", '{"instruction": "a"}', '{"instruction": 1, "response": "b"}'])
def test_an_example_of_another_form_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "example.json"
    path.write_text(text)
    with pytest.raises(ExampleUnfit, match="expected JSON with the texts `instruction` and `response`"):
        read_example(path)


def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`runs/mistyped` has the form of a hub's name, but lies where folders lie."""
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("trainer.model.AutoTokenizer", None)
    with pytest.raises(ModelUnfit, match="cannot load the tokenizer: no folder runs/mistyped"):
        Responder("runs/mistyped")


def test_mistakes_are_one_line(model: Path, tmp_path: Path) -> None:
    for arguments, message in [
        ((tmp_path / "none", "Add."), "cannot load the tokenizer: no folder"),
        ((model, " "), "the instruction is empty"),
        ((model, "Add.", "--one-shot", tmp_path / "none.json"), "none.json: cannot be read"),
    ]:
        result = command(*arguments)
        assert result.exit_code == 1
        assert message in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
