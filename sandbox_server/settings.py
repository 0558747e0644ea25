"""Read a mapping (parsed TOML) into a dataclass, strictly: a mistake is named with its place and the right word."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class SettingsError(ValueError):
    """A setting is missing, unknown or of the wrong type; the message says which, where, and what was expected."""


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file; every failure is a `SettingsError` that names the file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read: {getattr(error, 'strerror', error)}") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from error


def parse(cls: type[T], values: Mapping[str, Any], where: str, base: T | None = None) -> T:
    """Build the dataclass `cls` from `values`.

    Nested dataclasses take nested tables, tuples take arrays, `X | None` takes X or absence. An int is accepted for a
    float, nothing else is converted. The dataclass may check itself further by raising ValueError in `__post_init__`.

    Args:
        cls: a dataclass type.
        values: the table.
        where: how to name the table in messages, e.g. ``"demo.toml: [train]"``.
        base: what to take absent keys from; by default the fields' own defaults. A table whose field has a default of
            its own changes only the keys that it names.

    Raises:
        SettingsError: with the key, the place and what was expected.
    """
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    refuse_unknown(values, fields, where)
    hints = typing.get_type_hints(cls)
    arguments: dict[str, Any] = {}
    for name, field in fields.items():
        if name in values:
            default = field.default if base is None else getattr(base, name)
            arguments[name] = _convert(hints[name], values[name], f"{where} {name}", default)
        elif base is not None:
            arguments[name] = getattr(base, name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise SettingsError(f"{where}: missing key {name!r}")
    try:
        return cls(**arguments)
    except SettingsError:
        raise
    except ValueError as error:
        raise SettingsError(f"{where}: {error}") from error


def refuse_unknown(given: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
    """Refuse keys of `given` that are not in `known`, naming the nearest one that is."""
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(sorted(known))}"
            raise SettingsError(f"{where}: unknown key {key!r}{hint}")


def _convert(hint: Any, value: Any, where: str, default: Any = None) -> Any:
    if hint is Any:
        return value
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        return (
            _convert(options[0], value, where, default) if len(options) == 1 else _convert_one_of(options, value, where)
        )
    if origin is typing.Literal:
        if value not in typing.get_args(hint):
            choices = ", ".join(repr(choice) for choice in typing.get_args(hint))
            raise SettingsError(f"{where}: expected one of {choices}, got {value!r}")
        return value
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise SettingsError(f"{where}: expected a table, got {_name(value)}")
        return parse(typing.cast("type[Any]", hint), value, where, default if type(default) is hint else None)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise SettingsError(f"{where}: expected an array, got {_name(value)}")
        item = typing.get_args(hint)[0]
        return tuple(_convert(item, element, f"{where}[{index}]") for index, element in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise SettingsError(f"{where}: expected a table, got {_name(value)}")
        item = typing.get_args(hint)[1]
        return {key: _convert(item, element, f"{where}.{key}") for key, element in value.items()}
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise SettingsError(f"{where}: expected {getattr(hint, '__name__', hint)}, got {_name(value)} {value!r}")
    return value


def _convert_one_of(options: list[Any], value: Any, where: str) -> Any:
    for option in options:
        if type(value) is option:
            return value
    names = " or ".join(getattr(option, "__name__", str(option)) for option in options)
    raise SettingsError(f"{where}: expected {names}, got {_name(value)} {value!r}")


def _name(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a table"
    return "an array" if isinstance(value, list) else type(value).__name__
