"""Draw what `make demo` prints as an animated picture: docs/images/demo.svg. It plays once; waits are shortened.

python scripts/terminal_picture.py [--output FILE]     after `make demo`; runs it again on a database of its own
"""

from __future__ import annotations

import argparse
import codecs
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
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path

from rich.console import Console
from rich.style import Style
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
COLUMNS, ROWS = 104, 30
CHARACTER, LINE, MARGIN = 8.0, 18.0, 16.0  # px
LONGEST_WAIT_S, LONGEST_COMMAND_S = 0.4, 3.5
LINE_S, LINE_READING_S, READING_S, SHORTEST_STATE_S = 0.03, 0.15, 1.5, 0.25
BACKGROUND, FOREGROUND, BORDER = "#11151c", "#d8dee9", "#2b3240"
PALETTE = ("#5c6773", "#e67e80", "#8fcf7a", "#e5c07b", "#7aa2f7", "#c79be0", "#6cc7e0", FOREGROUND)  # ANSI's eight
PROMPT = "\x1b[1m$ "
_TOKEN = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)|\x1b")
_CUT = re.compile(r"(.*?)((?:\x1b(?:\[[0-9;?]*)?)?)", re.DOTALL)
"""What was written, and the beginning of a command that the next part ends."""


class Screen:
    """As much of a terminal as the demo uses: it writes, returns, goes up and erases lines.

    `lines` holds each row as (style, character) cells; `history` each row's texts with the time (s) at which they came.
    """

    def __init__(self) -> None:
        self.lines: list[list[tuple[str, str]]] = [[]]
        self.history: dict[int, list[tuple[float, Text]]] = {}
        self.now = 0.0
        self._row = self._column = 0
        self._style = ""

    def feed(self, text: str) -> None:
        """Take what the program wrote at once; new lines come one after the other, so that the eye can follow."""
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
                    self._keep(touched)
                    touched = set()
                    self.lines.append([])
                    self.now += LINE_S
            elif command == "A":
                self._row = max(0, self._row - int(parameters or 1))
            elif command == "K":
                del self.lines[self._row][0 if parameters == "2" else self._column :]
            elif command == "m":
                self._style = "" if parameters in ("", "0") else f"{self._style}\x1b[{parameters}m"
            touched.add(self._row)
        self._keep(touched)

    def _keep(self, rows: set[int]) -> None:
        for row in rows:
            drawn, states = self._drawn(row), self.history.setdefault(row, [])
            if not states or states[-1][1] != drawn:
                states.append((self.now, drawn))

    def _drawn(self, row: int) -> Text:
        alike = groupby(self.lines[row], key=itemgetter(0))
        return Text.from_ansi("".join(f"\x1b[0m{style}" + "".join(cell[1] for cell in cells) for style, cells in alike))


def record(command: list[str], folder: Path) -> list[tuple[float, str]]:
    """Run `command` in a terminal; gives what it wrote, each with the wait before it (s).

    Raises:
        SystemExit: the command failed; its last words are told.
    """
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execvpe(command[0], command, os.environ | {"TERM": "xterm-256color", "XDG_CACHE_HOME": str(folder)})  # noqa: S606
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    written, last, pending = [], time.monotonic(), ""
    decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # Linux's way to say that the other side is closed
            chunk = b""
        now = time.monotonic()
        text, pending = _CUT.fullmatch(pending + decode(chunk)).groups()  # type: ignore[union-attr]  # anything matches
        written.append((now - last, text))
        last = now
        if not chunk:
            break
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise SystemExit("the demo failed:\n" + "".join(text for _, text in written)[-2000:])
    return written


def play(written: list[tuple[float, str]]) -> Screen:
    """The screen on which that was shown: no command takes longer than `LONGEST_COMMAND_S`, and each can be read."""
    screen = Screen()
    screen.feed(f"{PROMPT}make demo\x1b[0m\r\n")
    commands: list[list[tuple[float, str]]] = [[]]
    for wait, chunk in written:
        for piece in re.split(rf"(?={re.escape(PROMPT)})", chunk):
            if piece.startswith(PROMPT):
                commands.append([])
            commands[-1].append((min(wait, LONGEST_WAIT_S), piece))
    for command in commands:
        lines = len(screen.lines)
        speed = min(1.0, LONGEST_COMMAND_S / max(1e-9, sum(wait for wait, _ in command)))
        for wait, piece in command:
            screen.now += wait * speed
            screen.feed(piece)
        screen.now += min(READING_S, LINE_READING_S * (len(screen.lines) - lines))
    return screen


def draw(screen: Screen) -> str:
    """The picture, as one SVG file without scripts; whoever wants no motion sees the end."""
    rows = [states for _, states in sorted(screen.history.items())]
    hints = next((row for row, states in enumerate(rows) if states[-1][1].plain.startswith("Next, after")), len(rows))
    rows = rows[: hints - 1]
    texts, scrolls = [], {0.0: 0}
    for row, states in enumerate(rows):
        kept = _thinned(states)
        if row >= ROWS:
            scrolls[round(max(kept[0][0], *scrolls), 2)] = row - ROWS + 1
        for (begin, text), following in zip(kept, [*kept[1:], None], strict=True):
            if text.plain.strip():
                texts.append(_line(text, row, begin, following[0] if following else None))
    width, height = COLUMNS * CHARACTER + 2 * MARGIN, ROWS * LINE + 2 * MARGIN
    end = max(1.0, *scrolls)
    steps = "".join(
        f"{100 * when / end:.2f}%{{transform:translateY({-LINE * up:g}px)}}" for when, up in scrolls.items()
    )
    final = f"transform:translateY({-LINE * max(scrolls.values()):g}px)"
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" xml:space="preserve"
role="img" aria-labelledby="t d">
<title id="t">make demo: the whole pipeline, from seeds to a fine-tuned and scored checkpoint</title>
<desc id="d">{escape(chr(10).join(states[-1][1].plain.rstrip() for states in rows))}</desc>
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
<rect x=".5" y=".5" width="{width - 1:g}" height="{height - 1:g}" rx="8" fill="{BACKGROUND}" stroke="{BORDER}"/>
<svg x="{MARGIN:g}" y="{MARGIN:g}" width="{COLUMNS * CHARACTER:g}" height="{ROWS * LINE:g}"><g id="s">
{chr(10).join(texts)}
</g></svg>
</svg>
"""


def _thinned(states: list[tuple[float, Text]]) -> list[tuple[float, Text]]:
    """The first state, later ones that stand for a while or come a while after the one before, and the last."""
    kept = states[:1]
    for state, following in pairwise(states[1:]):
        if max(state[0] - kept[-1][0], following[0] - state[0]) >= SHORTEST_STATE_S:
            kept.append(state)
    return kept + states[max(1, len(states) - 1) :]


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
        number = style.color.number
        if number is not None and number < 2 * len(PALETTE):
            look += f' fill="{PALETTE[number % len(PALETTE)]}"'
        else:
            look += f' fill="{style.color.get_truecolor().hex}"'
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
        screen = play(record([str(folder / "recipes/demo.sh")], folder))
    options.output.write_text(draw(screen), encoding="utf-8")
    print(f"{options.output}: {options.output.stat().st_size / 1000:.0f} kB", file=sys.stderr)


if __name__ == "__main__":
    main()
