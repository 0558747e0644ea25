"""Checks of predictions: an output or an input of a function that is given, told as an expression.

A literal is read here and runs nowhere. What else a model writes is evaluated in the sandbox, apart from what it is
compared with, and comes back as data.
"""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from typing import Any, Literal

from sandbox_server.jobs import Assurance, Verdict
from trainer.evaluation import calls
from trainer.evaluation.evalplus import shorten
from trainer.evaluation.problems import Bench, Scored
from trainer.evaluation.tests_check import details_of

_CPU_LIMIT_MS = 3_000  # the benchmarks' own, which they take of the wall clock
_ENTRY = "_selfalign_entry"


@dataclass(frozen=True, slots=True)
class Output:
    """The output is predicted: ``assert f(...) == PREDICTION``, or the prediction alone.

    Attributes:
        expected: the right output.
        form: how it is written: as a Python expression, or as JSON.
    """

    expected: str
    form: Literal["python", "json"] = "python"

    async def score(self, code: str, name: str, bench: Bench) -> Scored:
        """Compare the prediction; see `Check.score`."""
        predicted = right_side(code)
        if predicted is None:
            return _unreadable(code)
        found, answers = await _value(predicted, "", name, bench)
        if answers is not None and answers.stopped is not None:
            return _stopped(answers)
        if self.form == "json":
            expected: Any = json.loads(self.expected)
        else:
            expected, told = await _value(self.expected, "", f"expected output of {name}", bench)
            if told is not None and told.stopped is not None:
                raise calls.CannotScore(
                    f"{name} cannot be scored: its data's own output, {self.expected!r}, has no value"
                )
        return _compared(found, expected, answers, Assurance.TESTS_JUDGED)


@dataclass(frozen=True, slots=True)
class Input:
    """The input is predicted: ``assert f(PREDICTION) == ...``; whatever gives the output is right.

    Attributes:
        program: defines `f`.
        function: its name.
        expected: the output, as a Python expression.
    """

    program: str
    function: str
    expected: str

    async def score(self, code: str, name: str, bench: Bench) -> Scored:
        """Call the function with the prediction; see `Check.score`.

        Arguments that are literals go to a run that holds nothing of the model's. Others (a lambda) are evaluated where
        the function runs, which the assurance tells.
        """
        call = _call(code, self.function)
        if call is None:
            return _unreadable(code)
        try:
            if call.keywords:
                raise ValueError("keywords")
            arguments = [ast.literal_eval(argument) for argument in call.args]
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            assurance = Assurance.TESTS_COMPLETED
            body = f"def {_ENTRY}():\n    return {ast.unparse(call)}\n"
            answers = await _run(f"{self.program}\n\n{body}", _ENTRY, [], name, bench)
        else:
            assurance = Assurance.TESTS_JUDGED
            answers = await _run(self.program, self.function, arguments, name, bench)
        if answers.stopped is not None:
            return _stopped(answers)
        expected, _ = await _value(self.expected, "", f"expected output of {name}", bench)
        return _compared(_decoded(answers.values[0]), expected, answers, assurance)


def right_side(code: str) -> str | None:
    """The prediction of ``assert ... == PREDICTION`` (of several lines the first such), or the whole expression."""
    lines = [line.strip() for line in code.strip().splitlines()]
    text = next((line for line in lines if line.startswith("assert ")), code.strip())
    for candidate in (code.strip(), text):
        try:
            match ast.parse(candidate).body[:1]:
                case [ast.Assert(test=ast.Compare(ops=[ast.Eq()], comparators=[right]))]:
                    return ast.unparse(right)
                case [ast.Expr(value=value)]:
                    return ast.unparse(value)
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            continue
    return None


def _call(code: str, function: str) -> ast.Call | None:
    """The call of ``assert f(...) == ...`` or of ``f(...)`` alone."""
    try:
        body = ast.parse(code.strip()).body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    match body[:1]:
        case [ast.Assert(test=ast.Compare(left=ast.Call() as call, ops=[ast.Eq()]))]:
            pass
        case [ast.Assert(test=ast.Call() as call) | ast.Expr(value=ast.Call() as call)]:
            pass
        case _:
            return None
    return call if isinstance(call.func, ast.Name) and call.func.id == function else None


async def _value(expression: str, program: str, name: str, bench: Bench) -> tuple[Any, calls.Answers | None]:
    """Value of an expression, and the run that it took, if it took one."""
    try:
        return ast.literal_eval(expression), None
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        body = f"{program}\n\ndef {_ENTRY}():\n    return {expression}\n"
        answers = await _run(body, _ENTRY, [], name, bench)
        return _decoded(answers.values[0]) if answers.values else None, answers


async def _run(program: str, function: str, arguments: list[Any], name: str, bench: Bench) -> calls.Answers:
    inputs = calls.encode_inputs([arguments], typed=True)
    return await calls.call(
        program,
        calls.Calls(function, inputs, number=1, typed=True, base=1),
        cpu_limits_ms=[_CPU_LIMIT_MS],
        task_cpu_limit_ms=2 * _CPU_LIMIT_MS,
        limits=bench.limits,
        sandbox=bench.sandbox,
        info=bench.info,
        runtime=bench.runtime,
        name=name,
    )


def _decoded(line: bytes) -> Any:
    try:
        return calls.decode_value(line)
    except calls.Unreadable:
        return calls.Opaque("unreadable")


def _unreadable(code: str) -> Scored:
    return Scored(
        Verdict.SYNTAX_ERROR, {"error": {"type": "SyntaxError", "message": f"no prediction in {code[:200]!r}"}}
    )


def _stopped(answers: calls.Answers) -> Scored:
    assert answers.stopped is not None
    return Scored(answers.stopped, details_of(answers.outcome) | {"error": answers.error})


def _compared(found: Any, expected: Any, answers: calls.Answers | None, assurance: Assurance) -> Scored:
    details: dict[str, Any] = details_of(answers.outcome) if answers is not None else {}
    details["assurance"] = assurance.value
    try:
        equal = bool(found == expected)
    except RecursionError:
        equal = False
    if not equal:
        details["first_failure"] = {"expected": shorten(expected), "output": shorten(found)}
    return Scored(Verdict.PASSED if equal else Verdict.FAILED, details)
