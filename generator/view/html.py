"""From values to HTML. What a model wrote is hostile text: templates escape it, and no page runs a script.

Control and direction characters are shown as symbols, so that code reads as it runs.
"""

from __future__ import annotations

import difflib
import json
import re
from functools import lru_cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from generator.view import charts
from generator.view.reading import readable_time
from generator.view.sidecar import terms_of
from sandbox_server.visible import visible

_MOST_HIGHLIGHTED = 200_000
_MOST_COMPARED_LINES = 2000
_EXCERPT = 240
_EMPTY: frozenset[int] = frozenset()


def python(code: str | None, marked: int | None = None) -> Markup:
    """Program text, coloured; `marked` is a line to point at. Very long text stays plain."""
    text = code or ""
    if len(text) > _MOST_HIGHLIGHTED:
        return Markup('<div class="code"><pre>{}</pre></div>').format(text)
    lines = [marked] if marked and marked > 0 else []
    formatter = HtmlFormatter(cssclass="code", hl_lines=lines, linenos="inline" if lines else False, wrapcode=True)
    # Pygments escapes what it colours.
    return Markup(highlight(text, PythonLexer(stripnl=False), formatter))  # noqa: S704


def excerpt(text: str | None, words: str = "", length: int = _EXCERPT) -> Markup:
    """A piece of `text` around the first of the words that were searched for, all of them marked."""
    flat = " ".join((text or "").split())
    wanted = [re.escape(term) for term, _, is_excluded in terms_of(words) if not is_excluded]
    if not wanted:
        return Markup("{}{}").format(flat[:length], "…" if len(flat) > length else "")
    pattern = re.compile("|".join(sorted(wanted, key=len, reverse=True)), re.IGNORECASE)
    first = pattern.search(flat)
    start = max(0, first.start() - length // 3) if first else 0
    piece = flat[start : start + length]
    parts, at = [Markup("…") if start else Markup("")], 0
    for match in pattern.finditer(piece):
        parts.append(Markup("{}<mark>{}</mark>").format(piece[at : match.start()], match.group()))
        at = match.end()
    parts.append(Markup("{}{}").format(piece[at:], "…" if start + length < len(flat) else ""))
    return Markup("").join(parts)


def holds(text: str | None, words: str) -> bool:
    """Whether any of the words that were searched for is in `text`."""
    lowered = (text or "").casefold()
    return any(term.casefold() in lowered for term, _, is_excluded in terms_of(words) if not is_excluded)


def side_by_side(before: str, after: str) -> list[tuple[str, str, str]]:
    """Two texts line by line: (kind, left, right), kind being same, changed, removed or added."""
    left, right = before.splitlines()[:_MOST_COMPARED_LINES], after.splitlines()[:_MOST_COMPARED_LINES]
    rows: list[tuple[str, str, str]] = []
    for tag, a, b, c, d in difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        for number in range(max(b - a, d - c)):
            old = left[a + number] if a + number < b else None
            new = right[c + number] if c + number < d else None
            kind = "same" if tag == "equal" else "added" if old is None else "removed" if new is None else "changed"
            rows.append((kind, old or "", new or ""))
    return rows


@lru_cache(maxsize=1)
def style() -> str:
    """The one style sheet: ours, and Pygments' colours for light and dark."""
    own = resources.files("generator.view").joinpath("static/style.css").read_text(encoding="utf-8")
    light = HtmlFormatter(style="default", cssclass="code").get_style_defs(".code")
    dark = HtmlFormatter(style="github-dark", cssclass="code").get_style_defs(".code")
    colours = re.compile(r"^\.code \.\w+ \{.*$", re.MULTILINE)
    light, dark = ("\n".join(colours.findall(text)) for text in (light, dark))
    return f"{own}\n{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n{_MARKED}"


_MARKED = ".code .hll { background: var(--mark); display: block; }\n"


@lru_cache(maxsize=1)
def templates() -> Environment:
    """The templates, escaping on, and a name that is missing is an error."""
    environment = Environment(
        loader=PackageLoader("generator.view"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {
        "python": python,
        "excerpt": excerpt,
        "time": readable_time,
        "pretty": lambda value: json.dumps(value, indent=2, ensure_ascii=False, default=str),
        "kind": charts.kind_class,
        "side_by_side": side_by_side,
    }
    environment.globals |= {"charts": charts, "holds": holds}
    return environment


def render(template: str, **values: Any) -> str:
    """One page."""
    return visible(templates().get_template(template).render(**values))
