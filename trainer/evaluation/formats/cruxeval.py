"""CRUXEval (facebookresearch/cruxeval): what does a function give, or what does it give that for?"""

from __future__ import annotations

from typing import Any

from trainer.evaluation.data import Source
from trainer.evaluation.prediction import Input, Output
from trainer.evaluation.problems import Problem


def _read_output(row: dict[str, Any], version: str) -> Problem:
    call = f"f({row['input']})"
    return Problem(
        task_id=f"CRUXEval-O/{row['id']}",
        instruction=(
            "Complete the assertion with the value that the call returns, as a literal and with nothing after it.\n\n"
            f"```python\n{row['code']}\n\nassert {call} ==\n```"
        ),
        prefix=f"assert {call} ==",
        solution=f"assert {call} == {row['output']}",
        check=Output(row["output"]),
        text=row["code"],
        context=f"{row['code']}\n\n",
    )


def _read_input(row: dict[str, Any], version: str) -> Problem:
    return Problem(
        task_id=f"CRUXEval-I/{row['id']}",
        instruction=(
            "Write the assertion with arguments for which it holds, and nothing after it.\n\n"
            f"```python\n{row['code']}\n\nassert f(...) == {row['output']}\n```"
        ),
        prefix="assert f(",
        solution=f"assert f({row['input']}) == {row['output']}",
        check=Input(row["code"], "f", row["output"]),
        text=row["code"],
        context=f"{row['code']}\n\n# arguments for which f returns {row['output']}\n",
    )


_FILES = ("cruxeval.jsonl", "cruxeval.jsonl.gz")
_VERSIONS = {"909218466adc7ef626ae886ddb79a42d": "1.0"}
_OBTAIN = "data/cruxeval.jsonl of github.com/facebookresearch/cruxeval (MIT)"

CRUXEVAL_I = Source(files=_FILES, versions=_VERSIONS, read=_read_input, obtain=_OBTAIN)
CRUXEVAL_O = Source(files=_FILES, versions=_VERSIONS, read=_read_output, obtain=_OBTAIN)
