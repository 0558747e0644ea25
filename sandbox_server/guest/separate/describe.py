"""What the judge is told of the program's classes, so that it can make stand-ins of the right kind.

plain        instances stay with the program; the judge holds references
exception    raised and caught on both sides
enum, namedtuple, dataclass
             pure structure: the judge makes a twin from this description, once, and builds, compares and orders its
             instances itself, so that the program's word is not needed for any of it
"""

from __future__ import annotations

import enum
import sys
import types
from typing import Any

# Operators that an instance's class may define, and that a reference to it passes on.
PASSED_ON = frozenset(
    f"__{name}__"
    for name in """
    len getitem setitem delitem contains iter next reversed call enter exit bool str repr format bytes int float complex
    index round trunc floor ceil neg pos abs invert add sub mul matmul truediv floordiv mod divmod pow lshift rshift and
    or xor radd rsub rmul rmatmul rtruediv rfloordiv rmod rdivmod rpow rlshift rrshift rand ror rxor iadd isub imul
    imatmul itruediv ifloordiv imod ipow ilshift irshift iand ior ixor
    """.split()  # noqa: SIM905  ninety lines of one word each say no more
)
# Comparisons that only the program could decide: they are not judged.
_OF_NAMEDTUPLES = frozenset({"__new__", "__init__", "__getitem__", "__iter__", "__len__"})
_OF_DATACLASSES = frozenset({"__init__", "__post_init__", "__new__", "__getattr__", "__setattr__", "__getattribute__"})
COMPARISONS = frozenset({"__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__"})

_ENUMS = {
    enum.Enum: "Enum", enum.IntEnum: "IntEnum", enum.StrEnum: "StrEnum", enum.Flag: "Flag", enum.IntFlag: "IntFlag"
}  # fmt: skip
_FACTORIES: dict[Any, str] = {list: "list", dict: "dict", set: "set"}


def is_reserved(name: str) -> bool:
    """Does the interpreter, or `enum`, give a meaning to this name?"""
    return name.startswith("__") or (name.startswith("_") and name.endswith("_"))


def is_of_library(kind: type) -> bool:
    """Does it come from the standard library, so that the judge has it too?"""
    module = getattr(kind, "__module__", "")
    if type(module) is not str or module.partition(".")[0] not in sys.stdlib_module_names or module == "__main__":
        return False
    found: Any = sys.modules.get(module)
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is kind


def kind_of(cls: type) -> str:
    """Which of the kinds above a class is."""
    if issubclass(cls, BaseException):
        return "exception"
    if issubclass(cls, enum.Enum):
        simple = any(cls.__bases__ == (base,) for base in _ENUMS) and not _own(
            cls, COMPARISONS | {"__init__", "__new_member__"}
        )
        return "enum" if simple and len(cls) else "plain"
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return "plain" if _overridden(cls, COMPARISONS | _OF_NAMEDTUPLES) else "namedtuple"
    if "__dataclass_fields__" in cls.__dict__:
        return "dataclass" if _is_plain_dataclass(cls) else "plain"
    return "plain"


def _own(cls: type, names: frozenset[str]) -> set[str]:
    return {name for name in names if isinstance(cls.__dict__.get(name), types.FunctionType)}


def _overridden(cls: type, names: frozenset[str]) -> bool:
    """Does a namedtuple's own class, or one between, replace what namedtuple made?"""
    for step in cls.__mro__:
        if step is tuple:
            return False
        made_here = "_fields" in step.__dict__
        if any(name in step.__dict__ and not (made_here and name == "__new__") for name in names):
            return True
    return True


def _is_plain_dataclass(cls: Any) -> bool:
    parameters = cls.__dataclass_params__
    if cls.__bases__ != (object,) or not parameters.eq or not parameters.init:
        return False
    written = {
        name
        for name in COMPARISONS
        | {"__init__", "__post_init__", "__new__", "__getattr__", "__setattr__", "__getattribute__"}
        if isinstance(function := cls.__dict__.get(name), types.FunctionType)
        and function.__code__.co_filename != "<string>"
    }
    from dataclasses import MISSING
    from dataclasses import fields as fields_of

    fields = fields_of(cls)
    all_fields = len(fields) == len(cls.__dataclass_fields__)  # no ClassVar or InitVar in disguise
    simple = all(
        field.init and field.compare and field.hash is None
        and (field.default_factory is MISSING or field.default_factory in _FACTORIES)
        for field in fields
    )  # fmt: skip
    return not written and all_fields and simple


def describe(cls: Any, kind: str) -> dict[str, Any]:
    """What the judge is told; values are the host's to encode (see `Host`)."""
    methods, special = [], []
    for step in cls.__mro__:
        if step in (object, tuple, BaseException, Exception) or is_of_library(step):
            continue
        for name, value in step.__dict__.items():
            if name in PASSED_ON or name in COMPARISONS:
                if value is not None and not _is_generated(value):
                    special.append(name)
            elif isinstance(value, types.FunctionType | staticmethod | classmethod) and not is_reserved(name):
                methods.append(name)
    told: dict[str, Any] = {
        "kind": kind,
        "name": str(cls.__name__),
        "qualname": str(cls.__qualname__),
        "module": str(cls.__module__),
        "doc": cls.__doc__ if type(cls.__doc__) is str else None,
        "methods": sorted(set(methods)),
        "special": sorted(set(special)),
    }
    if kind == "enum":
        told["base"] = _ENUMS[cls.__bases__[0]]
        told["members"] = [[name, member.value] for name, member in cls.__members__.items()]
    elif kind == "namedtuple":
        told["fields"] = list(cls._fields)
        told["defaults"] = list(cls._field_defaults.values())
    elif kind == "dataclass":
        from dataclasses import MISSING, fields

        parameters = cls.__dataclass_params__
        told["options"] = {name: getattr(parameters, name) for name in ("frozen", "order", "unsafe_hash")}
        told["fields"] = [
            [
                field.name,
                "factory" if field.default_factory is not MISSING
                else "required" if field.default is MISSING else "default",
                _FACTORIES[field.default_factory] if field.default_factory is not MISSING
                else None if field.default is MISSING else field.default,
                bool(field.kw_only),
            ]
            for field in fields(cls)
        ]  # fmt: skip
    return told


def _is_generated(value: Any) -> bool:
    """Was it written by dataclasses or namedtuple, which the twin's makers write again?"""
    code = getattr(value, "__code__", None)
    if code is None:
        code = getattr(getattr(value, "__wrapped__", None), "__code__", None)
    if code is None:
        return False
    return code.co_filename == "<string>" or "dataclasses" in code.co_filename or "collections" in code.co_filename
