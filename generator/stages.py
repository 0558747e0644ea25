"""The three generation stages: seed -> concepts -> instruction -> response. Each makes prompts and reads answers.

Before them, where a recipe asks for it, `JUDGE` asks the model whether a seed is worth reading at all.

A prompt is a pure function of the recipe's seed, the parent and the stage's settings, never of order or of what else is
in flight: examples and properties are drawn by hash from `index_key(parent)`. The fixed text comes first, what varies
comes last, so that servers reuse the prefix.

The parts are literal: `STAGES`, and the texts in `generator.prompts`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import asdict
from functools import lru_cache
from typing import Any, ClassVar, Literal

from generator import codeblocks
from generator.engines import CompletionRequest, Message, Prompt, Sampling
from generator.keys import key_of
from generator.prompts import Example, JudgedSeed, examples, judged_seeds, stage_text
from generator.recipe import StageSettings
from generator.records import (
    ConceptsFields,
    ConceptsInput,
    Fields,
    InstructionFields,
    InstructionInput,
    JudgeFields,
    Parent,
    Properties,
    ResponseFields,
    SeedRecord,
)

Mode = Literal["completion", "chat"]

CATEGORIES = ("function", "function", "function", "class")
DIFFICULTIES = ("easy", "medium", "hard")
LANGUAGE = "Python"
PARTS = ("Reasoning", "Implementation", "Explanation", "Tests")

_ENDED = frozenset({"stop", "eos", "eos_token", "end_turn"})
_EXAMPLE = "## Example"


class ParseError(ValueError):
    """A completion cannot be used; the message says why, in words that are worth counting."""


@lru_cache(maxsize=1024)  # all samples of one parent ask for it
def index_key(parent: Parent) -> str:
    """What draws depend on: the parent's content, so that they outlive changes of row keys.

    The same seed, concepts or instruction draw the same examples and properties wherever they come from.
    """
    match parent:
        case SeedRecord():
            return parent.key
        case ConceptsInput(concepts):
            return key_of("concepts", concepts)
        case InstructionInput(instruction):
            return key_of("instruction", instruction)


def properties(seed: int, index_key: str) -> Properties:
    """Draw what an instruction is asked to be."""
    return Properties(
        category=CATEGORIES[_draw(seed, "category", index_key) % len(CATEGORIES)],
        difficulty=DIFFICULTIES[_draw(seed, "difficulty", index_key) % len(DIFFICULTIES)],
        language=LANGUAGE,
    )


def sampling_seed(seed: int, stage: str, index_key: str, sample_index: int) -> int:
    """The seed that the server is given for one sample, in 31 bits, which every server takes."""
    return _draw(seed, f"{stage} sample {sample_index}", index_key) % 2**31


def choose_examples(
    seed: int, stage: str, index_key: str, count: int, among: tuple[Any, ...] | None = None
) -> tuple[Any, ...]:
    """Draw `count` of the worked examples, or of those given, in a random order."""
    among = examples() if among is None else among
    return tuple(sorted(among, key=lambda example: _draw(seed, f"{stage} {example.name}", index_key))[:count])


class Stage(ABC):
    """One step of generation. Subclasses say how a query and an answer are written and how an answer is read."""

    name: ClassVar[str]
    parser_version: ClassVar[int]
    """Raised whenever `parse` reads some text differently."""

    @abstractmethod
    def query(self, parent: Parent, *, seed: int, index_key: str) -> str:
        """What is asked about `parent`."""

    def examples(self) -> tuple[Any, ...]:
        """What is shown; each has a `name`."""
        return examples()

    @abstractmethod
    def example_query(self, example: Any) -> str:
        """What would have been asked in the example."""

    @abstractmethod
    def example_answer(self, example: Any) -> str:
        """The answer that the model is meant to imitate."""

    @abstractmethod
    def read(self, text: str) -> Fields:
        """Read a complete answer.

        Raises:
            ParseError: it does not have the form asked for.
        """

    def prompt(self, parent: Parent, *, seed: int, index_key: str, settings: StageSettings, mode: Mode) -> Prompt:
        """Write the prompt for one parent.

        Args:
            parent: what this stage reads.
            seed: the recipe's.
            index_key: what draws depend on, see the function of that name.
            settings: the number of examples is taken from here.
            mode: "completion" for base models, "chat" for instruct models.
        """
        shots = [
            (self.example_query(example), self.example_answer(example))
            for example in choose_examples(seed, self.name, index_key, settings.fewshots, self.examples())
        ]
        query = self.query(parent, seed=seed, index_key=index_key)
        return self._chat(shots, query) if mode == "chat" else self._completion(shots, query)

    def stop(self, mode: Mode) -> tuple[str, ...]:
        """Where a base model that goes on with an example of its own is cut; chat models end their turn."""
        return (f"\n{_EXAMPLE}", f"\n### {stage_text(self.name).query}") if mode == "completion" else ()

    def request(
        self, parent: Parent, *, id: str, sample_index: int, seed: int, settings: StageSettings, mode: Mode
    ) -> CompletionRequest:
        """Everything that an engine needs to draw one sample; `id` does not change what is drawn."""
        key = index_key(parent)
        sampling = Sampling(
            temperature=settings.temperature,
            max_tokens=settings.max_tokens,
            top_p=settings.top_p,
            stop=self.stop(mode),
            seed=sampling_seed(seed, self.name, key, sample_index),
        )
        prompt = _prompt(self, parent, seed, key, settings, mode)
        return CompletionRequest(id, prompt, sampling)

    def parse(self, text: str, finish_reason: str) -> Fields:
        """Read what the model wrote.

        Raises:
            ParseError: it was cut off, or does not have the form asked for.
        """
        if finish_reason not in _ENDED:
            raise ParseError(f"truncated: finish reason {finish_reason!r}")
        return self.read(text)

    def fingerprint(self, settings: StageSettings, mode: Mode) -> dict[str, Any]:
        """Every cause of this stage's prompts and fields that is not in the parent or the recipe's seed."""
        text = stage_text(self.name)
        template = [asdict(text), self._completion([("q", "a")], "q").text, CATEGORIES, DIFFICULTIES]
        shots = [
            [example.name, self.example_query(example), self.example_answer(example)] for example in self.examples()
        ]
        return {
            "mode": mode,
            "template": key_of("template", template),
            "examples": key_of("examples", shots),
            "fewshots": settings.fewshots,
            "stop": list(self.stop(mode)),
            "parser": self.parser_version,
        }

    def _completion(self, shots: list[tuple[str, str]], query: str) -> Prompt:
        text = stage_text(self.name)
        parts = [text.system]
        for number, (asked, answered) in enumerate([*shots, (query, "")], start=1):
            parts.append(f"{_EXAMPLE} {number}\n### {text.query}\n{asked}\n\n### {text.answer}\n{answered}".rstrip())
        return Prompt(text="\n\n".join(parts) + "\n")

    def _chat(self, shots: list[tuple[str, str]], query: str) -> Prompt:
        text = stage_text(self.name)
        messages = [Message("system", text.system)]
        for asked, answered in shots:
            messages += [Message("user", f"### {text.query}\n{asked}"), Message("assistant", answered)]
        return Prompt(messages=(*messages, Message("user", f"### {text.query}\n{query}")))


class JudgeStage(Stage):
    """Seed function -> whether it is worth reading, and why."""

    name = "judge"
    parser_version = 1

    def query(self, parent: Parent, *, seed: int, index_key: str) -> str:
        """The function, docstring included."""
        assert isinstance(parent, SeedRecord)
        return codeblocks.fence(parent.code.strip("\n"))

    def examples(self) -> tuple[JudgedSeed, ...]:
        """Its own, of which half are bad."""
        return judged_seeds()

    def example_query(self, example: JudgedSeed) -> str:
        """The example's function."""
        return codeblocks.fence(example.seed)

    def example_answer(self, example: JudgedSeed) -> str:
        """Yes or No, and the reason."""
        return example.answer

    def stop(self, mode: Mode) -> tuple[str, ...]:
        """The end of the line."""
        return ("\n",) if mode == "completion" else ()

    def parse(self, text: str, finish_reason: str) -> JudgeFields:
        """As for every stage, but the first word is the answer: it counts, whatever is cut off behind it."""
        return self.read(text)

    def read(self, text: str) -> JudgeFields:
        """Read the first word and, of the rest, the first line."""
        match = _YES_OR_NO.match(_without_heading(text, stage_text(self.name).answer))
        if not match:
            raise ParseError("neither Yes nor No")
        return JudgeFields(match["answer"].casefold() == "yes", match["reason"].strip())


class ConceptsStage(Stage):
    """Seed function -> the concepts in it."""

    name = "concepts"
    parser_version = 1

    def query(self, parent: Parent, *, seed: int, index_key: str) -> str:
        """The function, docstring included."""
        assert isinstance(parent, SeedRecord)
        return codeblocks.fence(parent.code.strip("\n"))

    def example_query(self, example: Example) -> str:
        """The example's seed."""
        return codeblocks.fence(example.seed)

    def example_answer(self, example: Example) -> str:
        """Its concepts in one line."""
        return ", ".join(example.concepts)

    def read(self, text: str) -> ConceptsFields:
        """Read a list separated by commas or written as one item a line."""
        listed = [_BULLET.sub("", line) for line in _without_heading(text, "Concepts").splitlines()]
        # Commas inside brackets belong to the concept: "sorting (stable, in place)".
        items = [item.strip(" \t.`*\"'") for line in listed for item in re.split(r",(?![^()]*\))", line)]
        concepts = tuple({item.casefold(): item for item in items if item}.values())
        if not concepts:
            raise ParseError("no concepts")
        if len(concepts) > 16:
            raise ParseError("more than 16 concepts")
        if any(len(concept) > 80 for concept in concepts):
            raise ParseError("a concept longer than 80 characters")
        return ConceptsFields(concepts)


class InstructionsStage(Stage):
    """Concepts -> a task that needs them."""

    name = "instructions"
    parser_version = 1

    def query(self, parent: Parent, *, seed: int, index_key: str) -> str:
        """The concepts with the drawn properties."""
        assert isinstance(parent, ConceptsInput)
        return _property_lines(properties(seed, index_key), parent.concepts)

    def example_query(self, example: Example) -> str:
        """The example's properties."""
        drawn = Properties(example.category, example.difficulty, example.language)
        return _property_lines(drawn, example.concepts)

    def example_answer(self, example: Example) -> str:
        """The example's instruction."""
        return example.instruction

    def read(self, text: str) -> InstructionFields:
        """Read a task; a repeated heading is not part of it."""
        instruction = _without_heading(text, "Instruction")
        words = len(instruction.split())
        if not words:
            raise ParseError("no instruction")
        if words < 6:
            raise ParseError("an instruction of fewer than 6 words")
        if words > 400:
            raise ParseError("an instruction of more than 400 words")
        if not all(block.closed for block in codeblocks.code_blocks(instruction)):
            raise ParseError("an instruction with an open code block")
        return InstructionFields(instruction)


class ResponsesStage(Stage):
    """Instruction -> an answer in four parts, tests included."""

    name = "responses"
    parser_version = 1

    def query(self, parent: Parent, *, seed: int, index_key: str) -> str:
        """The task."""
        assert isinstance(parent, InstructionInput)
        return parent.instruction

    def example_query(self, example: Example) -> str:
        """The example's task."""
        return example.instruction

    def example_answer(self, example: Example) -> str:
        """The example's answer under its four headings."""
        implementation, tests = codeblocks.fence(example.implementation), codeblocks.fence(example.tests)
        bodies = (example.reasoning, implementation, example.explanation, tests)
        return "\n\n".join(f"#### {part}\n{body}" for part, body in zip(PARTS, bodies, strict=True))

    def read(self, text: str) -> ResponseFields:
        """Read the four parts, each there once and in order."""
        parts = _parts(text)
        programs = codeblocks.python_blocks(parts["Implementation"])
        tests = codeblocks.python_blocks(parts["Tests"])
        if not programs:
            raise ParseError("no Python block in Implementation")
        if len(tests) != 1:
            raise ParseError("no Python block in Tests" if not tests else "more than one Python block in Tests")
        if not all(block.closed for block in (*programs, *tests)):
            raise ParseError("an open code block")
        if not tests[0].code.strip():
            raise ParseError("an empty Python block in Tests")
        return ResponseFields(
            reasoning=parts["Reasoning"],
            implementation=parts["Implementation"],
            explanation=parts["Explanation"],
            tests=parts["Tests"],
            code="\n\n".join(block.code for block in programs),
            test_code=tests[0].code,
        )


STAGES: tuple[Stage, ...] = (ConceptsStage(), InstructionsStage(), ResponsesStage())
JUDGE = JudgeStage()
"""Comes before them where a recipe has `[judge]`."""

# "Yes", "**No**", "No: the reason", "Yes, the reason", but neither "Yesterday" nor "None".
_YES_OR_NO = re.compile(r"\W*(?P<answer>yes|no)\b[\s*.,:;-]*(?P<reason>.*)", flags=re.IGNORECASE)

_BULLET = re.compile(r"^\s*(?:[-*+]|\d+[.)])\s+")
# A heading as models write it: "#### Tests", "## **Tests**:", "**Tests**", "[Tests]".
_PART = re.compile(
    rf"^(?:#{{1,6}}[ \t]*(?:\d[.)][ \t]*)?|(?=[*\[]))[*\[]*(?P<part>{'|'.join(PARTS)})(?:[*\]]*|:[*\]]*|[*\]]*:)"
    r"(?:(?<=:)[*]*[ \t]*(?P<rest>.*)|[ \t]*)$",
    flags=re.IGNORECASE,
)
_PART_BEGINS = frozenset("#*[")


@lru_cache(maxsize=1024)  # all samples of one parent have the same one
def _prompt(stage: Stage, parent: Parent, seed: int, index_key: str, settings: StageSettings, mode: Mode) -> Prompt:
    return stage.prompt(parent, seed=seed, index_key=index_key, settings=settings, mode=mode)


def _draw(seed: int, purpose: str, key: str) -> int:
    return int(key_of("draw", seed, purpose, key), 16)


def _property_lines(drawn: Properties, concepts: tuple[str, ...]) -> str:
    return (
        f"category: {drawn.category}\nlanguage: {drawn.language}\n"
        f"concepts: {', '.join(concepts)}\ndifficulty: {drawn.difficulty}"
    )


def _without_heading(text: str, heading: str) -> str:
    return re.sub(rf"\A\s*(?:#{{1,6}}\s*|\*\*|\[)?{heading}(?:\*\*|\])?:?(?:\*\*)?[ \t]*\n", "", text).strip()


def _parts(text: str) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    current: list[str] | None = None
    for line in codeblocks.lines(text):
        match = _PART.match(line.text) if line.block is None and line.text[:1] in _PART_BEGINS else None
        if match:
            part = match["part"].capitalize()
            if part in found:
                raise ParseError(f"the part {part} twice")
            current = found[part] = [match["rest"]] if match["rest"] else []
        elif current is not None:
            current.append(line.text)
        # What stands before the first heading (often the instruction once more) belongs to no part.
    for part in PARTS:
        if part not in found:
            raise ParseError(f"no part {part}")
    if tuple(found) != PARTS:
        raise ParseError("parts out of order")
    parts = {part: "\n".join(body).strip() for part, body in found.items()}
    for part, body in parts.items():
        if not body:
            raise ParseError(f"the part {part} is empty")
    return parts
