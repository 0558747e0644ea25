"""What a person sees while it runs: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_INTERVAL_S = 5.0
"""Between two plain lines; the last one is always written."""


class Bar:
    """Counts up to `total`; on leaving, the last state stays on the screen.

    Args:
        what: the bar's name.
        total: where it ends.
        console: where to; by default stderr.
    """

    def __init__(self, what: str, total: int, console: Console | None = None) -> None:
        self.what = what
        self.total = total
        self.console = console or Console(stderr=True)
        self._bar: Progress | None = None
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._task = self._bar.add_task(what, total=total, note="")
        self._first: tuple[float, int] | None = None
        self._last_line = float("-inf")

    def __enter__(self) -> Self:
        """Show the bar."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.stop()

    def show(self, done: int, note: str = "") -> None:
        """Tell how far it is, and a few words beside."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, note=note)
            return
        now = time.monotonic()
        if self._first is None:
            self._first = now, done
        if done < self.total and now - self._last_line < LINE_INTERVAL_S:
            return
        self._last_line = now
        since, before = self._first
        left = f"  {clock((now - since) / (done - before) * (self.total - done))} left" if done > before else ""
        self.console.print(f"{self.what} {done:,}/{self.total:,}  {note}{left}", highlight=False, soft_wrap=True)


def clock(seconds: float) -> str:
    """Seconds as hours, minutes and seconds: ``"1:02:03"``, ``"0:07"``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def step_note(logs: dict[str, Any]) -> str:
    """A step's log in a line, the fields that are there."""
    forms = (
        ("loss", "loss {:.4f}"),
        ("eval_loss", "held-out loss {:.4f}"),
        ("learning_rate", "lr {:.2e}"),
        ("tokens_per_second", "{:,.0f} tokens/s"),
        ("packing_fill", "fill {:.0%}"),
        ("mfu", "MFU {:.1%}"),
    )
    parts = [form.format(logs[key]) for key, form in forms if key in logs]
    if "peak_memory_bytes" in logs:
        parts.append(f"{logs['peak_memory_bytes'] / 2**30:.1f} GiB")
    return "  ".join(parts)
