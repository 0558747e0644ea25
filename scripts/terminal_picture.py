"""Draw what `make demo` prints as an animated picture: docs/images/demo.svg. It plays once; waits are shortened.

python scripts/terminal_picture.py [--output FILE]     after `make demo`; runs it again on a database of its own
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import re
import struct
import sys
import tempfile
import termios
import time
from html import escape
from pathlib import Path

from rich.console import Console
from rich.style import Style
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
COLUMNS, ROWS = 104, 30
CHARACTER, LINE, MARGIN = 8.0, 18.0, 16.0  # px
LONGEST_WAIT_S, SHORTEST_STATE_S, SECONDS = 0.4, 0.25, 20.0
BACKGROUND, FOREGROUND = "#11151c", "#d8dee9"
NAMED = {"cyan": "#6cc7e0", "green": "#8fcf7a", "yellow": "#e5c07b", "red": "#e67e80", "magenta": "#c79be0"}
_TOKEN = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)|\x1b")


class Screen:
    """As much of a terminal as the demo uses: it writes, returns, goes up and erases lines.

    `lines` holds each row as (style, character) cells; `history` each row's texts with the time at which they came.
    """

    def __init__(self) -> None:
        self.lines: list[list[tuple[str, str]]] = [[]]
        self.history: dict[int, list[tuple[float, Text]]] = {}
        self._row = self._column = 0
        self._style = ""

    def feed(self, text: str, now: float) -> None:
        """Take what the program wrote at time `now` (s)."""
        touched = {self._row}
        for parameters, command, control, plain in _TOKEN.findall(text):
            if plain:
                line = self.lines[self._row]
                line += [("", " ")] * (self._column - len(line))
                line[self._column : self._column + len(plain)] = [(self._style, character) for character in plain]
                self._column += len(plain)
            elif control == "\r":
                self._column = 0
            elif control == "\n":
                self._row += 1
                if self._row == len(self.lines):
                    self.lines.append([])
            elif command == "A":
                self._row = max(0, self._row - int(parameters or 1))
            elif command == "K":
                del self.lines[self._row][0 if parameters == "2" else self._column :]
            elif command == "m":
                self._style = "" if parameters in ("", "0") else f"{self._style}\x1b[{parameters}m"
            touched.add(self._row)
        for row in touched:
            drawn = self._drawn(row)
            states = self.history.setdefault(row, [])
            if not states or states[-1][1] != drawn:
                states.append((now, drawn))

    def _drawn(self, row: int) -> Text:
        cells = self.lines[row]
        return Text.from_ansi("".join(f"\x1b[0m{style}{character}" for style, character in cells))


def record(command: list[str], folder: Path) -> Screen:
    """Run `command` in a terminal and keep what its screen showed, with waits cut to `LONGEST_WAIT_S`.

    Raises:
        SystemExit: the command failed; its last lines are told.
    """
    screen = Screen()
    screen.feed("\x1b[1m$ make demo\x1b[0m\r\n", 0.0)
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execvpe(command[0], command, os.environ | {"TERM": "xterm-256color", "XDG_CACHE_HOME": str(folder)})  # noqa: S606
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    shown, last, pending = 0.0, time.monotonic(), b""
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # Linux's way to say that the other side is closed
            chunk = b""
        if not chunk:
            break
        now = time.monotonic()
        shown, last = shown + min(now - last, LONGEST_WAIT_S), now
        *whole, pending = re.split(rb"(?<=[\n\r])", pending + chunk)
        screen.feed(b"".join(whole).decode(errors="replace"), shown)
    screen.feed(pending.decode(errors="replace"), shown)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise SystemExit(
            "the demo failed:\n" + "\n".join(text[-1][1].plain for text in screen.history.values())[-2000:]
        )
    return screen


def draw(screen: Screen) -> str:
    """The picture, as one SVG file without scripts; whoever wants no motion sees the end."""
    rows = [states for _, states in sorted(screen.history.items())]
    hints = next((row for row, states in enumerate(rows) if states[-1][1].plain.startswith("Next, after")), len(rows))
    rows = rows[: hints - 1]
    speed = min(1.0, SECONDS / max(states[-1][0] for states in rows))
    texts, scrolls = [], [(0.0, 0)]
    for row, states in enumerate(rows):
        kept = _thinned([(when * speed, text) for when, text in states])
        if row >= ROWS and kept[0][0] >= scrolls[-1][0]:
            scrolls.append((kept[0][0], row - ROWS + 1))
        for (begin, text), following in zip(kept, [*kept[1:], None], strict=True):
            if text.plain.strip():
                texts.append(_line(text, row, begin, following[0] if following else None))
    width, height = COLUMNS * CHARACTER + 2 * MARGIN, ROWS * LINE + 2 * MARGIN
    end = max(1.0, scrolls[-1][0])
    steps = "".join(f"{100 * when / end:.2f}%{{transform:translateY({-LINE * up}px)}}" for when, up in scrolls)
    final = f"transform:translateY({-LINE * scrolls[-1][1]}px)"
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img">
<title>make demo: the whole pipeline, from seeds to a fine-tuned and scored checkpoint</title>
<style>
text{{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;fill:{FOREGROUND};white-space:pre}}
@keyframes come{{to{{visibility:visible}}}}
@keyframes go{{to{{visibility:hidden}}}}
@keyframes scroll{{{steps}}}
.l{{visibility:hidden}}
#s{{animation:scroll {end:.2f}s step-end both;{final}}}
@media (prefers-reduced-motion:reduce){{
#s{{animation:none}}.l{{animation:none!important;visibility:visible}}.p{{visibility:hidden}}
}}
</style>
<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>
<svg x="{MARGIN:g}" y="{MARGIN:g}" width="{COLUMNS * CHARACTER:g}" height="{ROWS * LINE:g}"><g id="s">
{chr(10).join(texts)}
</g></svg>
</svg>
"""


def _thinned(states: list[tuple[float, Text]]) -> list[tuple[float, Text]]:
    """States that stand long enough to be seen, and the last one."""
    return [
        state
        for state, following in zip(states, [*states[1:], None], strict=True)
        if following is None or following[0] - state[0] >= SHORTEST_STATE_S
    ]


def _line(text: Text, row: int, begin: float, end: float | None) -> str:
    animation = f"come 1ms {begin:.2f}s forwards" + (f",go 1ms {end:.2f}s forwards" if end is not None else "")
    spans, column = [], 0
    for segment in text.render(Console(width=10_000)):
        if segment.text.strip():
            place = f'x="{column * CHARACTER:g}" textLength="{len(segment.text) * CHARACTER:g}"'
            spans.append(f"<tspan {place}{_look(segment.style)}>{escape(segment.text)}</tspan>")
        column += len(segment.text)
    kind = "l p" if end is not None else "l"
    return f'<text class="{kind}" y="{(row + 0.75) * LINE:g}" style="animation:{animation}">{"".join(spans)}</text>'


def _look(style: Style | None) -> str:
    if style is None:
        return ""
    look = ' font-weight="700"' if style.bold else ""
    if style.color is not None and not style.color.is_default:
        name = style.color.name.removeprefix("bright_")
        look += f' fill="{NAMED.get(name) or style.color.get_truecolor().hex}"'
    return look + (' opacity=".6"' if style.dim else "")


def main() -> None:
    """Run, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "docs/images/demo.svg")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for link in ("recipes", "examples", ".selfalign", os.environ.get("VENV", ".venv")):
            (folder / link).symlink_to(ROOT / link)
        screen = record([str(folder / "recipes/demo.sh")], folder)
    options.output.write_text(draw(screen), encoding="utf-8")
    print(f"{options.output}: {options.output.stat().st_size / 1000:.0f} kB", file=sys.stderr)


if __name__ == "__main__":
    main()
