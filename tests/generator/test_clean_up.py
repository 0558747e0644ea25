from __future__ import annotations

import pytest

from generator import clean_up
from generator.recipe import DatasetSettings

SHOWN = DatasetSettings(assertions_shown=1.0)
TESTS = "assert f(1) == 2\nassert f(2) == 3\n\nassert f(\n    3\n) == 4\n"


def test_nothing_is_changed_by_default() -> None:
    usual = DatasetSettings()
    sections = {"reasoning": "r", "implementation": "i", "explanation": "e"}

    assert clean_up.instruction("Write f.", TESTS, "k", usual) == "Write f."
    assert clean_up.response(sections, "Write f.", "k", usual) == "r\n\ni\n\ne"


def test_an_instruction_shows_one_to_five_of_the_assertions() -> None:
    tests = "\n".join(f"assert f({number}) == {number}" for number in range(9))
    counts = set()
    for key in range(100):
        text = clean_up.instruction("Write f.\n", tests, str(key), SHOWN)
        head, _, block = text.partition("\n\n")
        said, *shown = block.splitlines()
        assert head == "Write f."
        assert shown[0] == "```python"
        assert set(shown[1:-1]) <= set(tests.splitlines())
        assert said == f"Your code should pass the following assertion{'s' if len(shown) > 3 else ''}:"
        counts.add(len(shown) - 2)

    assert counts == {1, 2, 3, 4, 5}


def test_about_the_share_that_is_asked_for_shows_them_and_always_the_same() -> None:
    half = DatasetSettings(assertions_shown=0.5)
    shown = [clean_up.instruction("Write f.", TESTS, str(key), half) for key in range(400)]

    assert 150 < sum("assert" in text for text in shown) < 250
    assert shown == [clean_up.instruction("Write f.", TESTS, str(key), half) for key in range(400)]


@pytest.mark.parametrize(
    ("instruction", "tests"),
    [
        ("Write f and test it.", TESTS),
        ("Write f, for example f(1) is 2.", TESTS),
        ("Write f; assert that it is positive.", TESTS),
        ("Write f.", "def test_f():\n    assert f(1) == 2\n"),
        ("Write f.", "assert f(1) ="),
        ("Write f.", ""),
    ],
)
def test_an_instruction_with_tests_or_tests_that_are_more_than_assertions_stay_as_they_are(
    instruction: str, tests: str
) -> None:
    assert clean_up.instruction(instruction, tests, "k", SHOWN) == instruction


def test_an_instruction_about_a_contest_is_not_about_tests() -> None:
    """The original looked for the letters."""
    assert "assert" in clean_up.instruction("Rank the contestants of the latest round.", TESTS, "k", SHOWN)


def test_reasoning_and_explanation_are_dropped_each_for_itself_and_the_implementation_never() -> None:
    half = DatasetSettings(sections_dropped=0.5)
    sections = {"reasoning": "r", "implementation": "i", "explanation": "e"}
    seen = {clean_up.response(sections, "Write f.", str(key), half) for key in range(100)}

    assert seen == {"r\n\ni\n\ne", "r\n\ni", "i\n\ne", "i"}


def test_an_answer_is_never_left_empty() -> None:
    settings = DatasetSettings(sections=("reasoning",), sections_dropped=1.0)

    assert clean_up.response({"reasoning": "r"}, "Write f.", "k", settings) == "r"


@pytest.mark.parametrize(
    "instruction",
    [
        "Write f, and tests for it.",
        "Write f with a unit test.",
        "Write a Test for f",
        "Write f.\n\nInclude testcases, please.",
        "Write f and three test_cases.",
        "Write f and check it by unittest, pytest or a doctest.",
        "Write f with test cases. `f(1)` is 2.",
        "Test whether a number is prime, and add tests.",
    ],
)
def test_an_instruction_that_wants_tests_is_known_by_its_words(instruction: str) -> None:
    assert clean_up.asks_for_tests(instruction)


@pytest.mark.parametrize(
    "instruction",
    [
        "Write f.",
        "Return the shortest of the latest attestations of a contest, the fastest first.",
        "Write a function that tests whether a number is prime.",
        "test if a list is sorted",
        'Centre a text: `centre("test", 10)` is right, "a test" is not.',
        "Write f.\n\n```python\ntest = 3  # tests\n```\n\nThat is all.",
        "Write f.\n\n```\na test that is cut off",
        "Write `test` and `run_tests`, two functions.",
        "Your code should pass the following assertion:\n```python\nassert test(1) == 2\n```",
        "",
    ],
)
def test_an_instruction_that_only_holds_the_letters_wants_no_tests(instruction: str) -> None:
    """Of the recorded instructions that hold them ("shortest", "This is a test." in an example), none does."""
    assert not clean_up.asks_for_tests(instruction)


def test_an_answer_keeps_its_tests_where_the_instruction_asks_for_them() -> None:
    asked, usual = DatasetSettings(tests_when_asked=True), DatasetSettings()
    sections = {"reasoning": "r", "implementation": "i", "explanation": "e", "tests": "t"}

    assert clean_up.response(sections, "Write f and tests.", "k", asked) == "r\n\ni\n\ne\n\nt"
    assert clean_up.response(sections, "Write f.", "k", asked) == "r\n\ni\n\ne"
    assert clean_up.response(sections, "Write f and tests.", "k", usual) == "r\n\ni\n\ne"


def test_tests_are_no_answer_by_themselves_and_come_once() -> None:
    sections = {"reasoning": "r", "tests": "t"}
    dropped = DatasetSettings(sections=("reasoning",), sections_dropped=1.0, tests_when_asked=True)
    always = DatasetSettings(sections=("tests", "reasoning"), tests_when_asked=True)

    assert clean_up.response(sections, "Write tests.", "k", dropped) == "r\n\nt"
    assert clean_up.response(sections, "Write tests.", "k", always) == "t\n\nr"


def test_comments_are_those_of_python_and_not_what_looks_like_them() -> None:
    code = "# one\nx = '# two'  # three\n\n    # four\ny = '''\n# five\n'''\n"

    assert clean_up.without_comments(code) == "x = '# two'\n\ny = '''\n# five\n'''\n"
    assert clean_up.without_comments("x = (  # no Python") == "x = (  # no Python"


def test_comments_go_out_of_python_blocks_alone() -> None:
    text = "# Title\n\n```python\nx = 1  # one\n```\n\n```sh\nls  # files\n```\n"
    settings = DatasetSettings(sections=("implementation",), comments=False)

    assert clean_up.response({"implementation": text}, "Write f.", "k", settings) == text.replace("  # one", "")
