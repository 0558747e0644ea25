"""What the stages read and write, as plain frozen values: no table, no model, no prompt is known here."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from generator.keys import key_of


@dataclass(frozen=True, slots=True)
class SeedRecord:
    """One function with a docstring, and where it comes from; the columns of `seeds`.

    Attributes:
        code: the function's source, decorators and docstring included.
        origin: package or repository.
        version: the package's version or the repository's revision; empty when there is none.
        path: file inside the package or repository, with forward slashes.
        line: of the function's first line, from 1.
        licence: SPDX expression.
        licence_source: where the licence was read, e.g. the metadata field and its text.
    """

    name: str
    code: str
    docstring: str
    origin: str
    version: str
    path: str
    line: int
    licence: str
    licence_source: str

    @property
    def key(self) -> str:
        """The row's key: the same function has it wherever it is found."""
        return seed_key(self.code)


def normalise_code(code: str) -> str:
    """Even out line ends, tabs, common indentation, trailing blanks and outer blank lines; only for comparing.

    Comments, names and inner layout stay: they are what the model reads.
    """
    lines = textwrap.dedent(code.replace("\r\n", "\n").replace("\r", "\n").expandtabs(4)).split("\n")
    return "\n".join(line.rstrip() for line in lines).strip("\n")


def seed_key(code: str) -> str:
    """The key of the seed with this code: a hash of the normalised code and of nothing else."""
    return key_of("seed", normalise_code(code))


def program_key(code: str, tests: str) -> str:
    """The key of a program with its tests: what `executions` are found by."""
    return key_of("program", code, tests)


@dataclass(frozen=True, slots=True)
class ConceptsInput:
    """What an instruction is invented from. The properties are drawn by the stage, from its `index_key`."""

    concepts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InstructionInput:
    """What a response answers."""

    instruction: str


@dataclass(frozen=True, slots=True)
class Properties:
    """What an instruction is asked to be; drawn by `stages.properties(seed, index_key)`, never by the model."""

    category: str
    difficulty: str
    language: str


@dataclass(frozen=True, slots=True)
class JudgeFields:
    """What was read in a completion of the stage `judge`.

    Attributes:
        worth: whether the function is worth reading.
        reason: the model's own words after its Yes or No; may be empty.
    """

    worth: bool
    reason: str


@dataclass(frozen=True, slots=True)
class ConceptsFields:
    """What was read in a completion of the stage `concepts`."""

    concepts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InstructionFields:
    """What was read in a completion of the stage `instructions`; its `Properties` were known before."""

    instruction: str


@dataclass(frozen=True, slots=True)
class ResponseFields:
    """What was read in a completion of the stage `responses`.

    Attributes:
        code: the program: the Python blocks of `implementation`, joined.
        test_code: the Python block of `tests`.
    """

    reasoning: str
    implementation: str
    explanation: str
    tests: str
    code: str
    test_code: str


Parent = SeedRecord | ConceptsInput | InstructionInput
Fields = JudgeFields | ConceptsFields | InstructionFields | ResponseFields
