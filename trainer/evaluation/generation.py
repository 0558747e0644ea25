"""Samples that a model writes: how it is asked, where its answer ends, and which program that makes."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import Any

from generator.engines import CompletionRequest, Engine, Prompt, Sampling
from generator.keys import key_of
from trainer.evaluation.problems import Problem
from trainer.evaluation.rows import ScoredSample
from trainer.evaluation.samples import Sample
from trainer.evaluation.show import reason
from trainer.folder import RUN_FILE

_FENCE = "```python\n"
# The answer was begun inside a fence, so the next one ends it; `###` begins the template's next turn.
_INSTRUCT_STOPS = ("\n```", "```", "###")
# A base model goes on past the function, with whatever usually follows one at the left margin. A whole program, whose
# task is told in words, has all of that itself: imports before its functions, helpers, statements. It ends with a test,
# or with the next task, which begins as its own did.
_BASE_STOPS = ("\nclass ", "\ndef ", "\n#", "\n@", "\nprint", "\nif ", "\nassert", "\n```", "<file_sep>")
_BASE_PROGRAM_STOPS = ('\n"""', "\nassert", "\n```", "<file_sep>")
_PROMPT_VERSION = 2


class ModelSamples:
    """Samples of a model through an engine.

    An instruct model gets the instruction in its template, and its response is begun for it with a code fence and the
    code to continue; a base model gets only the code to continue (or the task as a docstring).

    Args:
        engine: where completions come from.
        subject: the model with what identifies its content (see `identify`).
        render: turns an instruction into the template's text up to the response; None for a base model.
        samples: of each problem.
        temperature: 0 is greedy.
        max_tokens: of each completion.
        concurrency: requests that the engine takes at once.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        subject: str,
        render: Callable[[str], str] | None,
        samples: int = 1,
        temperature: float = 0.0,
        max_tokens: int = 512,
        concurrency: int = 0,
    ) -> None:
        self.subject = subject
        self.concurrency = concurrency
        self.parameters: dict[str, Any] = {
            "prompt_version": _PROMPT_VERSION,
            "style": "base" if render is None else "instruct",
            "samples": samples,
            "temperature": temperature,
            "max_tokens": max_tokens,
        }
        self._engine = engine
        self._render = render
        self._samples = samples
        self._temperature = temperature
        self._max_tokens = max_tokens

    def count(self, problem: Problem) -> int:
        """The same number for every problem."""
        return self._samples

    async def sample(self, problem: Problem, index: int) -> Sample:
        """Ask the model, and cut its answer to the program."""
        key = key_of("evaluation sample", self.subject, self.parameters, problem.task_id, index)
        sampling = Sampling(
            temperature=self._temperature,
            max_tokens=self._max_tokens,
            stop=self._stops(problem),
            seed=int(key[:8], 16) >> 1,  # a server's seed is often a signed 32-bit integer
        )
        prompt = Prompt(text=prompt_text(problem, self._render))
        answer = (await self._engine.complete(CompletionRequest(key, prompt, sampling))).text
        text = cut(answer, sampling.stop)
        return Sample(completion=text, code=problem.prefix + text)

    def _stops(self, problem: Problem) -> tuple[str, ...]:
        if self._render is not None:
            return _INSTRUCT_STOPS
        return _BASE_STOPS if problem.prefix else _BASE_PROGRAM_STOPS


def prompt_text(problem: Problem, render: Callable[[str], str] | None) -> str:
    """What the model continues."""
    if render is not None:
        return render(problem.instruction) + _FENCE + problem.prefix
    return problem.context + problem.prefix or f'"""\n{problem.instruction}\n"""\n'


def cut(answer: str, stops: tuple[str, ...]) -> str:
    """The answer up to the first stop string: engines may return it, or stop a token late."""
    return answer[: min((at for stop in stops if (at := answer.find(stop)) >= 0), default=len(answer))]


def identify(path: Path) -> str:
    """Hash a model's files (names and contents), so that moving it changes nothing and training it on does.

    A run's checkpoints and its own records lie beside the model and change no answer: they may be deleted.

    Returns:
        32 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path)
        if _belongs_to_model(name) and file.is_file():
            digest.update(name.as_posix().encode() + b"\0")
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=16)).digest())
    return digest.hexdigest()


def _belongs_to_model(name: PurePath) -> bool:
    if name.parts[0] == "state" or name.parts[0].startswith("checkpoint-"):
        return False
    # Optimizer and trainer state stand beside the weights.
    return name.suffix in _MODEL_SUFFIXES and name.name not in (RUN_FILE, "trainer_state.json")


_MODEL_SUFFIXES = {".safetensors", ".bin", ".json", ".model", ".txt", ".jinja"}


class RepairSamples:
    """Second attempts: a sample that was wrong is shown to the model with what went wrong; a right one stays.

    Args:
        model: writes them.
        earlier: the first attempts, all finished.
        evaluation: id of theirs.
    """

    def __init__(self, model: ModelSamples, earlier: Sequence[ScoredSample], evaluation: str) -> None:
        self.subject = model.subject
        self.concurrency = model.concurrency
        self.parameters: dict[str, Any] = {**model.parameters, "repairs": evaluation}
        self._model = model
        self._earlier = {(sample.task_id, sample.sample_index): sample for sample in earlier}
        self._counts = Counter(sample.task_id for sample in earlier)

    def count(self, problem: Problem) -> int:
        """As many as there were first attempts."""
        return self._counts[problem.task_id]

    async def sample(self, problem: Problem, index: int) -> Sample:
        """The first attempt, if it was right, else a second."""
        earlier = self._earlier[problem.task_id, index]
        if earlier.passed:
            return Sample(earlier.completion, earlier.code)
        instruction = (
            f"{problem.instruction}\n\nThis attempt is wrong:\n\n```python\n{earlier.code.strip()}\n```\n\n"
            f"What went wrong: {earlier.verdict}. {reason(earlier.details)}\n\n"
            "Write the whole program again without the mistake."
        )
        return await self._model.sample(dataclasses.replace(problem, instruction=instruction), index)
