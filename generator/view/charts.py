"""Charts as inline SVG: no script, no library to keep up to date, readable in a file that is sent around.

Geometry is in attributes and colour in classes, so that a strict content security policy holds and dark mode works.
Every chart stands beside a table of the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 720, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 8, 10, 24


def bar(share: float, kind: str = "") -> Markup:
    """One horizontal bar of `share` (0 to 1) of its cell's width."""
    width = max(0.0, min(1.0, share)) * 100
    return Markup(
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" width="100" height="10"/><rect class="fill {}" width="{:.2f}" height="10"/></svg>'
    ).format(kind_class(kind), width)


def interval(value: float, low: float, high: float) -> Markup:
    """A share (0 to 1) with its interval."""
    return Markup(
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" width="100" height="10"/><rect class="fill" width="{:.2f}" height="10"/>'
        '<rect class="interval" x="{:.2f}" y="4" width="{:.2f}" height="2"/></svg>'
    ).format(value * 100, low * 100, max(0.5, (high - low) * 100))


def stacked(moments: Sequence[tuple[str, Mapping[str, int]]], order: Sequence[str], title: str) -> Markup:
    """Columns over time, one for each moment, cut by kind.

    Args:
        moments: what to call each, and its count by kind.
        order: the kinds, from the bottom up.
        title: what the chart shows, for those who cannot see it.
    """
    most = max((sum(counts.values()) for _, counts in moments), default=0)
    if not most:
        return Markup("")
    top = _nice(most)
    step = (_WIDTH - _LEFT - _RIGHT) / len(moments)
    parts = [_frame(title, 0, top)]
    for number, (moment, counts) in enumerate(moments):
        x, y = _LEFT + number * step, float(_HEIGHT - _BOTTOM)
        for kind in order:
            if count := counts.get(kind, 0):
                height = count / top * (_HEIGHT - _TOP - _BOTTOM)
                y -= height
                parts.append(
                    Markup(
                        '<rect class="{}" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}">'
                        "<title>{}: {:,} {}</title></rect>"
                    ).format(kind_class(kind), x + step * 0.06, y, max(0.5, step * 0.88), height, moment, count, kind)
                )
    parts += [_label(_LEFT, moments[0][0], "start"), _label(_WIDTH - _RIGHT, moments[-1][0], "end"), Markup("</svg>")]
    return Markup("").join(parts)


def line(points: Sequence[tuple[float, float]], title: str) -> Markup:
    """A curve of (step, value); values that are no number leave a gap."""
    points = [point for point in points if all(map(math.isfinite, point))]
    if not points:
        return Markup("")
    points = _thin(points)
    (first, last), values = (points[0][0], points[-1][0]), [value for _, value in points]
    low, high = min(values), max(values)
    if low == high:
        low, high = low - (abs(low) or 1) * 0.05, high + (abs(high) or 1) * 0.05
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    places = [
        (
            _LEFT + ((step - first) / (last - first) if last > first else 0.5) * width,
            _TOP + (high - value) / (high - low) * height,
        )
        for step, value in points
    ]
    drawn = " ".join(f"{x:.2f},{y:.2f}" for x, y in places)
    parts = [_frame(title, low, high), Markup('<polyline class="line" points="{}"/>').format(drawn)]
    if len(places) <= 120:
        parts += [
            Markup(
                '<circle class="dot" cx="{:.2f}" cy="{:.2f}" r="3"><title>step {:g}: {:.6g}</title></circle>'
            ).format(x, y, step, value)
            for (x, y), (step, value) in zip(places, points, strict=True)
        ]
    parts += [_label(_LEFT, f"step {first:g}", "start"), _label(_WIDTH - _RIGHT, f"{last:g}", "end"), Markup("</svg>")]
    return Markup("").join(parts)


def kind_class(kind: str) -> str:
    """The class that colours a verdict or a filter; unknown ones share a few colours by their letters."""
    known = kind.lower().replace("_", "-").replace(" ", "-")
    if known in _KNOWN:
        return f"k-{known}"
    return f"k-{sum(kind.encode()) % 6}" if kind else ""


_VERDICTS = """
passed failed error syntax-error no-tests incomplete time-limit memory-limit output-limit disk-limit process-limit
killed exited refused not-run accepted
"""
_FILTERS = ("read", "passed", "written", "one-per-instruction", "new-instruction", "new-code")
_KNOWN = frozenset(_VERDICTS.split()) | {f"rejected-by-{name}" for name in _FILTERS}


def _frame(title: str, low: float, high: float) -> Markup:
    parts = [
        Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title>').format(
            _WIDTH, _HEIGHT, title, title
        )
    ]
    for share in (0.0, 0.5, 1.0):
        y = _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)
        parts.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(_LEFT, _WIDTH - _RIGHT, y, y)
        )
        parts.append(
            Markup('<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(
                _LEFT - 6, y + 4, _short(low + share * (high - low))
            )
        )
    return Markup("").join(parts)


def _label(x: float, text: str, anchor: str) -> Markup:
    return Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="{}">{}</text>').format(
        x, _HEIGHT - 7, anchor, escape(text)
    )


def _short(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _nice(most: float) -> float:
    """The next number above that reads well on an axis."""
    size = 10.0 ** math.floor(math.log10(most))
    return next(size * step for step in (1, 2, 4, 5, 6, 8, 10) if size * step >= most)


def _thin(points: Sequence[tuple[float, float]], most: int = 1000) -> list[tuple[float, float]]:
    """At most about `most` points: of each stretch the lowest and the highest, so that no spike is lost."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(len(points) / (most / 2))
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        kept += sorted({min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])})
    return kept
