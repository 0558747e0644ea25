"""MBPP (google-research) and MBPP+ (evalplus)."""

from __future__ import annotations

from typing import Any

from trainer.evaluation.data import Source
from trainer.evaluation.evalplus import MBPP_0_2_1, MBPP_0_3_1, mbpp_arguments
from trainer.evaluation.problems import Problem
from trainer.evaluation.reference import SameOutputs
from trainer.evaluation.tests_check import PARAMETERS, Tests

_RULES = {"v0.1.0": MBPP_0_2_1, "v0.2.0": MBPP_0_3_1}


def _instruction(task: str, example: str) -> str:
    return f"{task}\nYour code must satisfy:\n\n```python\n{example}\n```"


def _read(row: dict[str, Any], version: str) -> Problem:
    # The setup code builds the trees that two tasks (367 and 927) are called with; whoever leaves it out fails them.
    tests = "\n".join([row["test_setup_code"], *row["test_list"]]).strip() + "\n"
    return Problem(
        task_id=f"Mbpp/{row['task_id']}",
        instruction=_instruction(row["text"].strip(), row["test_list"][0]),
        prefix="",
        solution=row["code"],
        check=Tests(tests),
        text=f"{row['text']}\n{row['code']}",
    )


def _read_plus(row: dict[str, Any], version: str) -> Problem:
    # The prompt is a docstring: the task in words, then one assertion.
    words = row["prompt"].strip().strip('"').strip()
    task, _, example = words.partition("\nassert ")
    number = int(row["task_id"].partition("/")[2])
    given = [*row["base_input"], *row["plus_input"]]
    inputs = [mbpp_arguments(number, arguments) for arguments in given]
    return Problem(
        task_id=row["task_id"],
        instruction=_instruction(task, f"assert {example}"),
        prefix="",
        solution=row["prompt"] + row["canonical_solution"],
        check=SameOutputs(
            reference=row["prompt"] + row["canonical_solution"],
            entry_point=row["entry_point"],
            inputs=tuple(inputs),
            base=len(row["base_input"]),
            atol=row["atol"],
            rules=_RULES[version],
            typed=any(made is not plain for made, plain in zip(inputs, given, strict=True)),
        ),
        text=row["prompt"] + row["canonical_solution"],
    )


MBPP = Source(
    files=("mbpp.jsonl", "mbpp.jsonl.gz"),
    versions={"f50124cdd150eac633c8e26828e0b3c1": "1.0"},
    read=_read,
    parameters=lambda version: PARAMETERS,
    obtain="mbpp.jsonl of github.com/google-research/google-research/tree/master/mbpp (CC-BY-4.0)",
)

MBPP_PLUS = Source(
    files=(
        "MbppPlus-v0.1.0.jsonl.gz",
        "MbppPlus-v0.1.0.jsonl",
        "MbppPlus-v0.2.0.jsonl.gz",
        "MbppPlus-v0.2.0.jsonl",
        "MbppPlus.jsonl.gz",
        "MbppPlus.jsonl",
    ),
    # v0.1.0 was hashed here; v0.2.0 is what other projects' records of the published file agree on.
    versions={"ebe95df0d5220f00cedd6f4bddea35e4": "v0.1.0", "ee43ecabebf20deef4bb776a405ac5b1": "v0.2.0"},
    read=_read_plus,
    obtain="MbppPlus.jsonl.gz of github.com/evalplus/mbppplus_release, tag v0.1.0 or v0.2.0 (Apache-2.0)",
    parameters=lambda version: {"rules": f"evalplus {_RULES[version].release}"},
)
