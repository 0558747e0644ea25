"""Seeds come from permissive code only, stand alone, and are left out for a stated reason."""

from __future__ import annotations

import gzip
import json
import lzma
import sys
from dataclasses import replace
from email.message import Message
from pathlib import Path

import pytest

from generator.recipe import SeedColumns, SeedSettings
from generator.records import SeedRecord
from generator.seeds import SEED_FILTERS, gather, judge, select
from generator.seeds.extract import functions, undefined_names
from generator.seeds.licences import is_permissive, read_licence
from sandbox_server.settings import SettingsError

REPOSITORY = Path(__file__).parents[2]
CLAMP = '''def clamp(value, low, high):
    """Limit value to the range from low to high."""
    return max(low, min(value, high))
'''


def record(code: str) -> SeedRecord:
    (function,) = functions(code)
    return SeedRecord(function.name, function.code, function.docstring, "o", "1", "p.py", function.line, "MIT", "x")


def reason(code: str) -> str | None:
    rejection = judge(record(code))
    return rejection.filter.name if rejection else None


def body(text: str, arguments: str = "x") -> str:
    lines = "\n".join(f"    {line}" for line in text.splitlines())
    return f'def f({arguments}):\n    """Say something about the thing."""\n{lines}\n'


# extraction


def test_a_function_comes_with_its_decorators_docstring_and_line() -> None:
    source = "import functools\n\nX = 1\n\n\n@functools.cache\n" + CLAMP + "\n\nclass A:\n    pass\n"
    (function,) = functions(source)
    assert function.name == "clamp"
    assert function.line == 6
    assert function.docstring == "Limit value to the range from low to high."
    assert function.code == "import functools\n\n\n@functools.cache\n" + CLAMP.rstrip()


def test_only_top_level_functions_with_a_docstring_are_found() -> None:
    source = f'''
def bare(x):
    return x

class A:
    def method(self):
        """Methods need their class."""

def outer(x):
    """Outer."""
    def inner(y):
        """Inner."""
        return y
    return inner

async def later(x):
    """Wait for it."""
    return x

if True:
    def conditional(x):
        """Conditional."""

{CLAMP}'''
    assert [function.name for function in functions(source)] == ["outer", "later", "clamp"]


def test_imports_that_are_used_come_along_and_others_do_not() -> None:
    source = '''
from __future__ import annotations
import os, itertools as it
from collections import Counter, deque as queue
try:
    from math import prod
except ImportError:
    prod = None
if TYPE_CHECKING:
    from collections.abc import Iterable

def f(items: Iterable, unused=queue) -> Counter:
    """Use some imports."""
    Counter = 3
    return [it.chain(items) for prod in items]
'''
    (function,) = functions(source)
    assert function.code.splitlines()[:5] == [
        "import itertools as it",
        "from collections import Counter",
        "from collections import deque as queue",
        "from collections.abc import Iterable",
        "",
    ]
    assert undefined_names(function.code) == frozenset()


def test_form_feeds_and_tabs_do_not_shift_lines() -> None:
    source = "x = 1\n\x0c\n" + CLAMP.replace("    ", "\t")
    (function,) = functions(source)
    assert function.code.startswith("def clamp(")
    assert function.line == 3


@pytest.mark.parametrize("source", ["def f(:\n", "\x00", "(" * 5000, "print 1"])
def test_what_is_not_python_is_a_syntax_error(source: str) -> None:
    with pytest.raises(SyntaxError):
        list(functions(source))


def test_warnings_of_foreign_code_stay_inside() -> None:
    assert len(list(functions('def f(x):\n    """Odd \\d escape in here."""\n    return x is "a"\n'))) == 1


# filters


def test_names_and_versions_of_filters_are_their_own() -> None:
    assert len({seed_filter.name for seed_filter in SEED_FILTERS}) == len(SEED_FILTERS)
    assert all(seed_filter.version for seed_filter in SEED_FILTERS)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (CLAMP, None),
        (body("return x"), None),
        (body("yield x"), None),
        (body("yield from x"), None),
        (body("print(x)"), "returns_nothing"),
        (body("return"), "returns_nothing"),
        (body("def g():\n    return 1\ng()"), "returns_nothing"),
        (body("g = lambda: (yield)\ng()"), "returns_nothing"),
        (body("return 1", ""), "takes_nothing"),
        (body("return 1", "*args"), None),
        (body("return 1", "*, x"), None),
        (body("return 1", "x, /"), None),
        (body("return 1", "**kwargs"), None),
        (body("\n".join(["x += 1"] * 147) + "\nreturn x"), None),
        (body("\n".join(["x += 1"] * 148) + "\nreturn x"), "too_long"),
        (body("...\nraise Later((yield))"), "stub"),
        ('def f(x):\n    """Return x."""\n    return x\n', "short_docstring"),
        (body("return x").replace("def f", "def test_f"), "is_test"),
        (body("import os\nreturn os"), "banned_import"),
        (body("import numpy, os.path\nreturn os"), "banned_import"),
        (body("from sys import path\nreturn path"), "banned_import"),
        (body("from system import path\nreturn path"), None),
        (body("import oscar\nreturn oscar"), None),
        ("import os\n" + body("return os.sep"), "banned_import"),
        ("from . import a\n" + body("return a"), "relative_import"),
        ("from .os import a\n" + body("return a"), "relative_import"),
        (body("return helper(x)"), "undefined_name"),
        (body("return f(x)"), None),
        (body("return [y for y in x if y]"), None),
        (body("return 1", "x: Unknown"), "undefined_name"),
        (body("global g\ng = 1\nreturn g"), "undefined_name"),
        (body("return x  # TODO: more"), "marker_word"),
        (body("'a known bug'\nreturn x"), "marker_word"),
        (body("return f'FIXME {x}'"), "marker_word"),
        (body("debug = bugs = x\nreturn debug  # debugging"), None),
        (body("bug = x\nreturn bug"), None),
        (body("return 'anna.keller' + x  # anna.keller" + "@posteo.de"), "private"),
        (body("return x  # someone@example.com"), None),
    ],
)
def test_filters_object_to_what_they_say(code: str, expected: str | None) -> None:
    assert reason(code) == expected


def test_a_rejection_has_its_reason_in_words() -> None:
    rejection = judge(record(body("return helper(other(x))")))
    assert rejection
    assert (rejection.filter.name, rejection.reason) == ("undefined_name", "needs helper, other of its module")


# licences


@pytest.mark.parametrize(
    ("expression", "permissive"),
    [
        ("MIT", True),
        ("mit", True),
        ("Apache-2.0 OR GPL-3.0-only", True),
        ("GPL-3.0-only OR (MIT AND BSD-3-Clause)", True),
        ("MIT AND GPL-2.0-or-later", False),
        ("(MIT OR GPL-3.0-only) AND ISC", True),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("GPL-3.0-only WITH GCC-exception-3.1", False),
        ("Apache-2.0+", True),
        ("LGPL-2.1-only", False),
        ("LicenseRef-Proprietary", False),
        ("", False),
        ("MIT AND", False),
        ("(MIT", False),
        ("MIT)", False),
        ("MIT GPL-3.0-only", False),
        ("MIT / X11", False),
    ],
)
def test_expressions_are_permissive_when_permissive_licences_meet_them(expression: str, permissive: bool) -> None:
    assert is_permissive(expression) is permissive


@pytest.mark.parametrize(
    ("fields", "expression"),
    [
        ([("License-Expression", "MIT OR Apache-2.0")], "MIT OR Apache-2.0"),
        ([("License-Expression", "GPL-3.0-only"), ("License", "MIT")], "GPL-3.0-only"),
        ([("License", "MIT")], "MIT"),
        ([("License", "The MIT License")], "MIT"),
        ([("License", "Apache License, Version 2.0")], "Apache-2.0"),
        ([("License", "BSD")], "LicenseRef-BSD"),
        ([("License", "3-Clause BSD License")], "BSD-3-Clause"),
        ([("License", "GPL"), ("Classifier", "License :: OSI Approved :: MIT License")], "MIT"),
        ([("License", "MIT License\n\nCopyright someone\n"), ("Classifier", "Topic :: Utilities")], None),
        ([("Classifier", "License :: OSI Approved :: ISC License (ISCL)")], "ISC"),
        (
            [
                ("Classifier", "License :: OSI Approved"),
                ("Classifier", "License :: OSI Approved :: BSD License"),
                ("Classifier", "License :: OSI Approved :: Apache Software License"),
            ],
            "Apache-2.0 AND LicenseRef-BSD",
        ),
        (
            [
                ("Classifier", "License :: OSI Approved :: MIT License"),
                ("Classifier", "License :: OSI Approved :: GNU General Public License v3 (GPLv3)"),
            ],
            None,
        ),
        ([("License", "UNKNOWN")], None),
        ([], None),
    ],
)
def test_licences_are_read_from_metadata(fields: list[tuple[str, str]], expression: str | None) -> None:
    metadata = Message()
    for name, value in fields:
        metadata[name] = value
    licence = read_licence(metadata)  # type: ignore[arg-type]
    assert (licence.expression if licence else None) == expression


# sources


def install(folder: Path, name: str, code: str, licence: str = "License-Expression: MIT") -> None:
    """Put a package into a folder as pip does."""
    module = name.replace("-", "_")
    (folder / module / "tests").mkdir(parents=True)
    (folder / module / "__init__.py").write_text(code)
    (folder / module / "tests" / "test_it.py").write_text(CLAMP.replace("clamp", "in_tests"))
    info = folder / f"{module}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.2\n{licence}\n")
    files = [f"{module}/__init__.py", f"{module}/tests/test_it.py", f"{info.name}/METADATA", "../../bin/tool.py"]
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))


def test_packages_give_their_functions_with_origin_and_licence(tmp_path: Path) -> None:
    install(tmp_path, "Good-Package", CLAMP)
    install(tmp_path, "viral", CLAMP.replace("clamp", "viral"), "License-Expression: GPL-3.0-only")
    install(tmp_path, "unknown", CLAMP.replace("clamp", "unknown"), "Summary: nothing said")
    (found,) = gather(SeedSettings(path=str(tmp_path)))
    assert found == SeedRecord(
        name="clamp",
        code=CLAMP.rstrip(),
        docstring="Limit value to the range from low to high.",
        origin="Good-Package",
        version="1.2",
        path="Good_Package/__init__.py",
        line=1,
        licence="MIT",
        licence_source="License-Expression: MIT",
    )


def test_the_same_function_is_gathered_once_and_chosen_by_key(tmp_path: Path) -> None:
    others = "\n\n".join(CLAMP.replace("clamp", name) for name in "abcdefgh")
    install(tmp_path, "one", CLAMP + "\n\n" + others)
    install(tmp_path, "two", CLAMP.replace("\n", "\r\n"))
    records = list(gather(SeedSettings(path=str(tmp_path))))
    assert len(records) == 9
    assert {each.origin for each in records} == {"one"}
    by_key = sorted(records, key=lambda each: each.key)
    assert select(reversed(records), 4) == select(records, 4) == tuple(by_key[:4])
    assert select(records, 0) == tuple(by_key)


def test_named_packages_must_be_there_and_permissive(tmp_path: Path) -> None:
    install(tmp_path, "good", CLAMP)
    install(tmp_path, "viral", CLAMP, "License: GPL")
    assert len(list(gather(SeedSettings(path=str(tmp_path), packages=("Good",))))) == 1
    for packages, words in {
        ("goood",): r"\[seeds\] packages: 'goood' is not installed",
        ("viral",): r"\[seeds\] packages: 'viral' cannot be used: its metadata names no known licence",
    }.items():
        with pytest.raises(SettingsError, match=words):
            list(gather(SeedSettings(path=str(tmp_path), packages=packages)))


def test_a_folder_needs_a_permissive_licence(tmp_path: Path) -> None:
    (tmp_path / "sub" / ".hidden").mkdir(parents=True)
    (tmp_path / "sub" / "a.py").write_text(CLAMP)
    (tmp_path / "sub" / ".hidden" / "b.py").write_text(CLAMP.replace("clamp", "hidden"))
    (tmp_path / "broken.py").write_text("def (")
    (tmp_path / "latin.py").write_bytes(b"# caf\xe9\n" + CLAMP.replace("clamp", "latin").encode())
    settings = SeedSettings(source="folder", path=str(tmp_path), licence="Apache-2.0")
    (found,) = gather(settings)
    assert (found.path, found.licence, found.origin) == ("sub/a.py", "Apache-2.0", tmp_path.name)
    for licence in ("", "GPL-3.0-only"):
        with pytest.raises(SettingsError, match=r"\[seeds\] licence: expected the SPDX expression"):
            list(gather(SeedSettings(source="folder", path=str(tmp_path), licence=licence)))


def test_a_source_in_another_encoding_is_read_as_it_says(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(b"# -*- coding: latin-1 -*-\n" + CLAMP.replace("Limit", "Límit").encode("latin-1"))
    (found,) = gather(SeedSettings(source="folder", path=str(tmp_path), licence="MIT"))
    assert found.docstring.startswith("Límit")


@pytest.mark.parametrize("source", ["packages", "folder"])
def test_a_missing_folder_is_named(tmp_path: Path, source: str) -> None:
    settings = SeedSettings(source=source, path=str(tmp_path / "nowhere"), licence="MIT")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"\[seeds\] path: .*nowhere"):
        list(gather(settings))


def test_an_empty_folder_of_packages_says_how_to_fill_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="pip install --target"):
        list(gather(SeedSettings(path=str(tmp_path))))


ROWS = [
    {"content": CLAMP, "max_stars_repo_licenses": ["MIT", "Apache-2.0"], "max_stars_repo_name": "a/b", "stars": 3},
    {"content": CLAMP.replace("clamp", "viral"), "max_stars_repo_licenses": ["MIT", "GPL-3.0-only"]},
    {"content": CLAMP.replace("clamp", "bare"), "max_stars_repo_licenses": []},
    {"content": "def (", "max_stars_repo_licenses": ["MIT"]},
]


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> None:
    opener = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    with opener(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def write_parquet(path: Path, rows: list[dict[str, object]]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), path)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.jsonl.xz", "rows.parquet", "folder"])
def test_tables_give_their_functions_with_origin_and_licence(tmp_path: Path, name: str) -> None:
    kind = "parquet" if name.endswith("parquet") else "jsonl"
    file = tmp_path / ("sub.jsonl" if name == "folder" else name)
    (write_parquet if kind == "parquet" else write_jsonl)(file, ROWS)
    path = tmp_path if name == "folder" else file
    (found,) = gather(SeedSettings(source=kind, path=str(path)))  # type: ignore[arg-type]
    assert (found.name, found.origin, found.path, found.version) == ("clamp", "a/b", "", "")
    assert found.licence == "(MIT) AND (Apache-2.0)"
    assert found.licence_source == "column max_stars_repo_licenses: MIT, Apache-2.0"


@pytest.mark.parametrize(("source", "module"), [("parquet", "pyarrow"), ("hub", "datasets")])
def test_a_source_whose_reader_is_not_installed_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "a.parquet").touch()

    with pytest.raises(SettingsError, match=rf"needs {module}: pip install 'selfalign\[{source}\]'$"):
        list(gather(SeedSettings(source=source, path=str(tmp_path), licence="MIT")))  # type: ignore[arg-type]


def test_a_tables_columns_can_be_named(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"body": CLAMP, "content": 5, "spdx": "ISC"}])
    columns = SeedColumns(code="body", licence="spdx")
    (found,) = gather(SeedSettings(source="jsonl", path=str(tmp_path / "a.jsonl"), columns=columns))
    assert (found.name, found.licence) == ("clamp", "ISC")


def test_a_table_without_licences_takes_the_recipes(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_jsonl(path, [{"code": CLAMP}])
    (found,) = gather(SeedSettings(source="jsonl", path=str(path), licence="BSD-2-Clause"))
    assert (found.licence, found.licence_source) == ("BSD-2-Clause", "recipe: [seeds] licence")
    with pytest.raises(SettingsError, match=r"a\.jsonl, row 1: nothing says the code's licence"):
        list(gather(SeedSettings(source="jsonl", path=str(path))))
    with pytest.raises(SettingsError, match=r"\[seeds\] licence: expected a permissive licence"):
        list(gather(SeedSettings(source="jsonl", path=str(path), licence="GPL-3.0-only")))


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.jsonl", b'{"code": 1}\n', "row 1: expected text in 'code', got int"),
        ("a.jsonl", b'{"x": "", "y": ""}\n', r"row 1: no column of source code \(content, .*it has x, y"),
        ("a.jsonl", b'{"code": ""}\n{"code"\n', r"a\.jsonl:2: not JSON Lines"),
        ("a.jsonl", b"[1]\n", r"a\.jsonl:1: not JSON Lines: expected an object, got list"),
        ("a.jsonl", b"\xff\n", r"a\.jsonl:1: not JSON Lines"),
        ("a.jsonl.gz", b"not gzip", r"a\.jsonl\.gz:1: not JSON Lines"),
        ("a.jsonl.gz", gzip.compress(b'{"code": ""}\n' * 999)[:-9], r"a\.jsonl\.gz:\d+: not JSON Lines"),
        ("a.parquet", b"not parquet", r"a\.parquet: not a Parquet file"),
    ],
)
def test_a_broken_table_is_named_with_its_row(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    kind = "parquet" if name.endswith("parquet") else "jsonl"
    with pytest.raises(SettingsError, match=words):
        list(gather(SeedSettings(source=kind, path=str(tmp_path / name), licence="MIT")))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_table_that_is_not_there_is_named(tmp_path: Path, kind: str) -> None:
    for path in ("", str(tmp_path), str(tmp_path / "no")):
        with pytest.raises(SettingsError, match=rf"\[seeds\] path: expected a file or a folder of \.{kind} files"):
            list(gather(SeedSettings(source=kind, path=path, licence="MIT")))  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_local_copy_of_a_data_set_is_read_through_datasets(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    write_jsonl(tmp_path / "train.jsonl", ROWS[:1])
    (found,) = gather(SeedSettings(source="hub", path=str(tmp_path)))
    assert (found.name, found.licence) == ("clamp", "(MIT) AND (Apache-2.0)")
    with pytest.raises(SettingsError, match=r"\[seeds\] path: the data set .*nowhere.* cannot be read"):
        list(gather(SeedSettings(source="hub", path=str(tmp_path / "nowhere"))))


def test_the_demos_seeds_are_the_recorded_ones() -> None:
    """The pinned packages give the very functions that the recordings answer."""
    folder = REPOSITORY / ".selfalign" / "seeds"
    if not folder.is_dir():
        pytest.skip("the demo's packages are not installed: make setup-demo")
    golden = REPOSITORY / "tests" / "golden" / "demo_seeds.json"
    seeds = select(gather(SeedSettings(path=str(folder))), 64)
    assert [[each.key, each.name, each.origin] for each in seeds] == json.loads(golden.read_text())


def inferred(source: str) -> str:
    """What is put in front of the one function of a module."""
    (function,) = functions(source, infer_imports=True)
    return function.code.partition("def f")[0].strip()


@pytest.mark.parametrize(
    ("body", "header"),
    [
        ("np.sqrt(math.pi) + a", "import math\nimport numpy as np"),
        ("Counter(a).most_common()", "from collections import Counter"),
        ("[json.loads(x) for x in a]", "import json"),
        ("re", ""),
        ("re.sub(re, a)", ""),
        ("time(a).time", ""),
        ("unheard_of.f(a)", ""),
        ("a.math.pi", ""),
        ("a", ""),
    ],
)
def test_a_well_known_name_before_a_dot_is_its_module(body: str, header: str) -> None:
    assert inferred(f'def f(a):\n    """Doc."""\n    return {body}\n') == header


def test_annotations_are_used_names_too() -> None:
    assert inferred('def f(a: Optional[int]) -> List[int]:\n    """Doc."""\n    return [a]\n') == (
        "from typing import List\nfrom typing import Optional"
    )


@pytest.mark.parametrize(
    "above",
    [
        "math = load()",
        "import mymath as math",
        "from tools import *",
        "class math: pass",
        "def g(): global math; math = 1",
    ],
)
def test_what_a_module_defines_or_may_define_is_not_inferred(above: str) -> None:
    assert "import math\n" not in inferred(f'{above}\n\ndef f(a):\n    """Doc."""\n    return math.pi\n') + "\n"


def test_nothing_is_inferred_unless_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text('def f(a):\n    """Return the square root."""\n    return math.sqrt(a)\n')
    settings = SeedSettings(source="folder", path=str(tmp_path), licence="MIT")

    plain, inferring = (list(gather(each)) for each in (settings, replace(settings, infer_imports=True)))

    assert plain[0].code.startswith("def f")
    assert inferring[0].code.startswith("import math\n\n\ndef f")
    assert [judge(record) is None for record in (plain[0], inferring[0])] == [False, True]
