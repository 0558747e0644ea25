"""What every benchmark comes down to: problems, each with a check of its own kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from sandbox_server.jobs import Judge, LimitsRequest, SandboxInfo, Verdict
from sandbox_server.sandbox import Sandbox

if TYPE_CHECKING:
    from trainer.evaluation.reference import References


@dataclass(frozen=True, slots=True)
class Scored:
    """Verdict of one sample. `details` holds the first failure or error, counts, assurance and usage; JSON-able."""

    verdict: Verdict
    details: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Bench:
    """What checks work with.

    Attributes:
        sandbox: where programs run.
        info: what it can do.
        limits: those asked for; a check chooses what is None.
        judge: where tests run that are code.
        runtime: name of the sandbox's runtime.
        references: outputs of reference programs, kept.
    """

    sandbox: Sandbox
    info: SandboxInfo
    limits: LimitsRequest
    judge: Judge
    runtime: str
    references: References


class Check(Protocol):
    """Decides whether a sample is right."""

    async def score(self, code: str, name: str, bench: Bench) -> Scored:
        """Run a sample and judge it.

        Args:
            code: the sample's program.
            name: of the sample, for messages.
            bench: what to work with.

        Raises:
            CannotJudge: the separate judge cannot judge it.
            CannotScore: the sandbox refuses to run it.
            SandboxError: the sandbox's own trouble, which is no verdict.
        """
        ...


@dataclass(frozen=True, slots=True)
class Problem:
    """One task, whichever benchmark it is from.

    Attributes:
        task_id: as published, e.g. ``"HumanEval/0"``.
        instruction: the task in words (and code), for a model to read.
        prefix: the code that a `completion` continues; empty where the task is told in words only.
        solution: the reference program, complete; empty where none is published.
        check: decides on a sample.
        text: all that a model must not have been trained on: the task and its solution.
        context: what a base model reads before `prefix`; empty where the prefix tells the task, or there is none.
    """

    task_id: str
    instruction: str
    prefix: str
    solution: str
    check: Check
    text: str = ""
    context: str = ""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """The problems of one version of one benchmark, in published order.

    Attributes:
        name: as in `benchmarks.NAMES`.
        version: the publisher's word for it; empty for data whose versions are not known.
        md5: of the uncompressed data.
        problems: all of them.
        parameters: what else of the benchmark changes a verdict; JSON-able.
    """

    name: str
    md5: str
    problems: tuple[Problem, ...]
    version: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
