"""Which licence a distribution has, as an SPDX expression, and whether that lets its code be learnt from and passed on.

The core metadata is read in the order of its reliability: `License-Expression` (PEP 639), then `License` where it is a
name and not a text, then the classifiers. Nothing is guessed from licence files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import PackageMetadata

PERMISSIVE = frozenset(
    {
        *("0BSD", "AFL-3.0", "Apache-2.0", "Artistic-2.0", "BSD-1-Clause", "BSD-2-Clause", "BSD-3-Clause"),
        *("BSL-1.0", "BlueOak-1.0.0", "CC0-1.0", "CNRI-Python", "HPND", "ISC", "LicenseRef-BSD", "MIT", "MIT-0"),
        *("MIT-CMU", "NCSA", "PSF-2.0", "PostgreSQL", "Python-2.0", "UPL-1.0", "Unlicense", "WTFPL", "X11", "ZPL-2.1"),
        "Zlib",
    }
)
"""SPDX identifiers of licences without copyleft."""

_CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "LicenseRef-BSD",  # does not say which of them
    "Boost Software License 1.0 (BSL-1.0)": "BSL-1.0",
    "CC0 1.0 Universal (CC0 1.0) Public Domain Dedication": "CC0-1.0",
    "Historical Permission Notice and Disclaimer (HPND)": "HPND",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "MIT No Attribution License (MIT-0)": "MIT-0",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
    "Universal Permissive License (UPL)": "UPL-1.0",
    "University of Illinois/NCSA Open Source License": "NCSA",
    "Zero-Clause BSD (0BSD)": "0BSD",
    "zlib/libpng License": "Zlib",
}

# What authors write into `License`, in lower case and without "the", "license", "licence", commas and quotes.
_NAMES = {
    "2-clause bsd": "BSD-2-Clause",
    "3-clause bsd": "BSD-3-Clause",
    "apache": "Apache-2.0",
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache software 2.0": "Apache-2.0",
    "apache version 2.0": "Apache-2.0",
    "bsd": "LicenseRef-BSD",
    "bsd 2-clause": "BSD-2-Clause",
    "bsd 3-clause": "BSD-3-Clause",
    "bsd-2": "BSD-2-Clause",
    "bsd-3": "BSD-3-Clause",
    "expat": "MIT",
    "iscl": "ISC",
    "modified bsd": "BSD-3-Clause",
    "new bsd": "BSD-3-Clause",
    "psf": "PSF-2.0",
    "python software foundation": "PSF-2.0",
    "simplified bsd": "BSD-2-Clause",
}

_TOKEN = re.compile(r"[()]|[A-Za-z0-9.+:-]+")


@dataclass(frozen=True, slots=True)
class Licence:
    """An SPDX expression, and the field and words that it was read from."""

    expression: str
    source: str


def read_licence(metadata: PackageMetadata) -> Licence | None:
    """Read the licence of a distribution; None where its metadata does not name one that is known."""
    expression = _first(metadata, "License-Expression")
    if expression:
        return Licence(expression, f"License-Expression: {expression}")
    text = _first(metadata, "License")
    if text and (named := _from_name(text)):
        return Licence(named, f"License: {text}")
    found = []
    for classifier in metadata.get_all("Classifier") or ():
        *root, name = (part.strip() for part in str(classifier).split("::"))
        if root and root[0] == "License" and name != "OSI Approved":
            found.append((_CLASSIFIERS.get(name), f"Classifier: {classifier}"))
    # Several classifiers do not say whether one may choose, so all of them have to be known and are taken to hold.
    if found and all(identifier for identifier, _ in found):
        identifiers = sorted({str(identifier) for identifier, _ in found})
        return Licence(" AND ".join(identifiers), "; ".join(source for _, source in found))
    return None


def _first(metadata: PackageMetadata, field: str) -> str:
    return str((metadata.get_all(field) or [""])[0]).strip()


def is_permissive(expression: str) -> bool:
    """Whether an SPDX expression can be met with permissive licences alone; malformed expressions cannot."""
    tokens = _TOKEN.findall(expression)
    if not tokens or "".join(tokens) != re.sub(r"\s+", "", expression):
        return False
    try:
        value, rest = _any_of(tokens)
    except IndexError:
        return False
    return value and not rest


def _any_of(tokens: list[str]) -> tuple[bool, list[str]]:
    value, tokens = _all_of(tokens)
    while tokens and tokens[0].upper() == "OR":
        other, tokens = _all_of(tokens[1:])
        value = value or other
    return value, tokens


def _all_of(tokens: list[str]) -> tuple[bool, list[str]]:
    value, tokens = _single(tokens)
    while tokens and tokens[0].upper() == "AND":
        other, tokens = _single(tokens[1:])
        value = value and other
    return value, tokens


def _single(tokens: list[str]) -> tuple[bool, list[str]]:
    if tokens[0] == "(":
        value, tokens = _any_of(tokens[1:])
        if tokens[0] != ")":
            raise IndexError
        return value, tokens[1:]
    value = tokens[0].removesuffix("+").casefold() in {identifier.casefold() for identifier in PERMISSIVE}
    tokens = tokens[1:]
    # An exception only ever grants more.
    return value, tokens[2:] if tokens and tokens[0].upper() == "WITH" else tokens


def _from_name(text: str) -> str | None:
    if "\n" in text or len(text) > 60:
        return None
    if is_permissive(text):
        return text
    words = re.sub(r"\b(?:the|licen[sc]e)\b|[,\"']", " ", text.casefold())
    name = " ".join(words.split())
    return _NAMES.get(name) or next((known for known in PERMISSIVE if known.casefold() == name), None)
