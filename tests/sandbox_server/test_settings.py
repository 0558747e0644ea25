"""Settings are read strictly, and a mistake is named with its place and the right word."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from sandbox_server.settings import SettingsError, parse, read_toml


@dataclass(frozen=True)
class Box:
    width: int = 1
    height: int = 2


@dataclass(frozen=True)
class Settings:
    name: str
    ratio: float = 0.5
    kind: Literal["a", "b"] = "a"
    tags: tuple[str, ...] = ()
    folder: Path | None = None
    box: Box = Box(7, 8)
    counts: dict[str, int] | None = None

    def __post_init__(self) -> None:
        if self.ratio > 1:
            raise ValueError(f"ratio: {self.ratio} is above 1")


def test_values_become_their_types() -> None:
    values = {"name": "n", "ratio": 1, "tags": ["x"], "folder": "/f", "counts": {"a": 1}}
    assert parse(Settings, values, "s") == Settings("n", 1.0, "a", ("x",), Path("/f"), Box(7, 8), {"a": 1})


def test_a_table_changes_only_the_keys_that_it_names() -> None:
    assert parse(Settings, {"name": "n", "box": {"width": 3}}, "s").box == Box(3, 8)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "s: missing key 'name'"),
        ({"name": "n", "ratoi": 1}, "s: unknown key 'ratoi'; did you mean 'ratio'?"),
        (
            {"name": "n", "zzzzzz": 1},
            "s: unknown key 'zzzzzz'; known keys: box, counts, folder, kind, name, ratio, tags",
        ),
        ({"name": 3}, "s name: expected str, got int 3"),
        ({"name": "n", "ratio": True}, "s ratio: expected float, got bool True"),
        ({"name": "n", "kind": "c"}, "s kind: expected one of 'a', 'b', got 'c'"),
        ({"name": "n", "tags": "x"}, "s tags: expected an array, got str"),
        ({"name": "n", "tags": ["x", 1]}, "s tags[1]: expected str, got int 1"),
        ({"name": "n", "box": 1}, "s box: expected a table, got int"),
        ({"name": "n", "box": {"width": "1"}}, "s box width: expected int, got str '1'"),
        ({"name": "n", "counts": {"a": "1"}}, "s counts.a: expected int, got str '1'"),
        ({"name": "n", "ratio": 2}, "s: ratio: 2.0 is above 1"),
    ],
)
def test_a_mistake_is_named(values, message) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(Settings, values, "s")
    assert str(caught.value) == message


def test_a_file_that_cannot_be_read_is_named(tmp_path) -> None:
    with pytest.raises(SettingsError, match=r"none\.toml: no such file"):
        read_toml(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("a = ")
    with pytest.raises(SettingsError, match=r"bad\.toml: not valid TOML"):
        read_toml(tmp_path / "bad.toml")
    (tmp_path / "latin.toml").write_bytes(b"a = '\xe4'")
    with pytest.raises(SettingsError, match=r"latin\.toml: cannot be read"):
        read_toml(tmp_path / "latin.toml")
    with pytest.raises(SettingsError, match="cannot be read"):
        read_toml(tmp_path)
