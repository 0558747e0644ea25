"""LiveCodeBench's four scenarios: code generation, self repair, test output prediction, code execution.

Rows are those of the hub's data sets livecodebench/code_generation(_lite), test_generation and execution-v2. They are
added to every few months, so a file is known by its hash alone, which is part of an evaluation's causes.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import pickle
import zlib
from typing import Any

from trainer.evaluation.contest import Functional, StandardIO, json_arguments
from trainer.evaluation.data import Source
from trainer.evaluation.prediction import Output
from trainer.evaluation.problems import Problem

_MAX_TEST_BYTES = 1 << 30


def _read_generation(row: dict[str, Any], version: str) -> Problem:
    public, private = (_test_cases(row[key]) for key in ("public_test_cases", "private_test_cases"))
    cases = [*public, *private]
    if not cases:
        raise ValueError("holds no test case")
    starter = row.get("starter_code") or ""
    function = json.loads(row.get("metadata") or "{}").get("func_name")
    check: Functional | StandardIO
    if function:
        check = Functional(
            function,
            tuple(json_arguments(case["input"]) for case in cases),
            tuple(json.loads(case["output"]) for case in cases),
        )
        task = f"Complete this code so that it solves the problem.\n\n```python\n{starter.strip()}\n```"
    else:
        check = StandardIO(tuple((case["input"], case["output"]) for case in cases))
        task = "Write a Python program that reads from standard input and writes the answer to standard output."
    return Problem(
        task_id=f"LiveCodeBench/{row['question_id']}",
        instruction=f"{row['question_content'].strip()}\n\n{task}",
        prefix="",
        solution="",
        check=check,
        text=row["question_content"],
    )


def _test_cases(text: str) -> list[dict[str, Any]]:
    """Test cases as JSON, or as base64 of zlib of a pickled string of JSON: the hub's form of the private ones."""
    try:
        cases = json.loads(text)
    except ValueError:
        try:
            unpacker = zlib.decompressobj()
            packed = unpacker.decompress(base64.b64decode(text, validate=True), _MAX_TEST_BYTES)
            cases = json.loads(_PlainUnpickler(io.BytesIO(packed)).load())
        except (binascii.Error, zlib.error, pickle.UnpicklingError, EOFError, IndexError, TypeError) as error:
            raise ValueError(f"test cases that cannot be read: {error}") from error
    if not isinstance(cases, list):
        raise ValueError("test cases that are no list")
    return cases


class _PlainUnpickler(pickle.Unpickler):
    """Reads plain values only: a data file must not name code to run."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}; a pickle of test cases is a string")


def _read_tests(row: dict[str, Any], version: str) -> Problem:
    (case, *_) = json.loads(row["test"])
    arguments = ", ".join(line.strip() for line in case["input"].strip().split("\n"))
    assertion = f"assert {row['function_name']}({arguments}) =="
    return Problem(
        task_id=f"LiveCodeBench/{row['question_id']}/{row['test_id']}",
        instruction=(
            f"{row['question_content'].strip()}\n\nThe solution has this form:\n\n```python\n"
            f"{row['starter_code'].strip()}\n```\n\nComplete the test with what a right solution returns:\n\n"
            f"```python\n{assertion}\n```"
        ),
        prefix=assertion,
        solution=f"{assertion} {json.loads(case['output'])!r}",
        check=Output(case["output"], form="json"),
        text=row["question_content"],
        context=f'"""\n{row["question_content"].strip()}\n"""\n{row["starter_code"].strip()}\n\n',
    )


def _read_execution(row: dict[str, Any], version: str) -> Problem:
    assertion = f"assert {row['input']} =="
    return Problem(
        task_id=f"LiveCodeBench/{row['id']}",
        instruction=(
            "Complete the assertion with the value that the call returns, as a literal and with nothing after it.\n\n"
            f"```python\n{row['code']}\n\n{assertion}\n```"
        ),
        prefix=assertion,
        solution=f"{assertion} {row['output']}",
        check=Output(row["output"]),
        text=row["code"],
        context=f"{row['code']}\n\n",
    )


_GENERATION_FILES = ("livecodebench-generation.jsonl", "livecodebench-generation.jsonl.gz", "test.jsonl")
_GENERATION = "the .jsonl files of the hub's livecodebench/code_generation_lite, put together into one"

GENERATION = Source(files=_GENERATION_FILES, read=_read_generation, obtain=_GENERATION)
TESTS = Source(
    files=("livecodebench-tests.jsonl", "livecodebench-tests.jsonl.gz", "test.jsonl"),
    read=_read_tests,
    obtain="test.jsonl of the hub's livecodebench/test_generation",
)
EXECUTION = Source(
    files=("livecodebench-execution.jsonl", "livecodebench-execution.jsonl.gz", "test.jsonl"),
    read=_read_execution,
    obtain="test.jsonl of the hub's livecodebench/execution-v2",
)
