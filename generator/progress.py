"""Telling how far a build is: bars in a terminal, plain lines elsewhere, nothing for programs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

PLAIN_EVERY_S = 10.0


class Progress(Protocol):
    """What a build tells. Stages begin and end one after the other or side by side."""

    def begin(self, stage: str, total: int | None) -> None:
        """A stage begins; `total` rows are to be made, None when that is not known."""
        ...

    def advance(self, stage: str, rows: int = 1) -> None:
        """So many more rows are stored."""
        ...

    def end(self, stage: str, summary: str) -> None:
        """A stage is over; `summary` is what came of it."""
        ...

    def say(self, line: str) -> None:
        """Something happened that is worth a line."""
        ...


class Silent:
    """Tells nothing."""

    def begin(self, stage: str, total: int | None) -> None:
        """Nothing."""

    def advance(self, stage: str, rows: int = 1) -> None:
        """Nothing."""

    def end(self, stage: str, summary: str) -> None:
        """Nothing."""

    def say(self, line: str) -> None:
        """Nothing."""


class Plain:
    """A line when a stage begins, one now and then, one when it ends."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._stages: dict[str, _Stage] = {}

    def begin(self, stage: str, total: int | None) -> None:
        """Say what is to do."""
        self._stages[stage] = _Stage(total)
        self.say(f"{stage}: {total} to do" if total is not None else f"{stage}: started")

    def advance(self, stage: str, rows: int = 1) -> None:
        """Count, and say so from time to time."""
        state = self._stages[stage]
        state.done += rows
        if time.monotonic() - state.said_at >= PLAIN_EVERY_S:
            state.said_at = time.monotonic()
            self.say(f"{stage}: {state.done} of {state.total}" if state.total is not None else f"{stage}: {state.done}")

    def end(self, stage: str, summary: str) -> None:
        """Say what came of it."""
        state = self._stages.pop(stage)
        self.say(f"{stage}: {summary} ({time.monotonic() - state.began_at:.1f} s)")

    def say(self, line: str) -> None:
        """Print the line."""
        print(line, file=self._stream, flush=True)


class _Stage:
    def __init__(self, total: int | None) -> None:
        self.total = total
        self.done = 0
        self.began_at = self.said_at = time.monotonic()


@contextmanager
def to_stream(stream: TextIO = sys.stderr) -> Iterator[Progress]:
    """Tell progress on `stream`, with bars where it is a terminal."""
    if not stream.isatty():
        yield Plain(stream)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description:<13}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[summary]}"),
    )
    with RichProgress(*columns, console=Console(file=stream)) as bars:
        yield _Bars(bars)


class _Bars:
    def __init__(self, bars: object) -> None:
        from rich.progress import Progress as RichProgress
        from rich.progress import TaskID

        assert isinstance(bars, RichProgress)
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def begin(self, stage: str, total: int | None) -> None:
        self._tasks[stage] = self._bars.add_task(stage, total=total, summary="")

    def advance(self, stage: str, rows: int = 1) -> None:
        self._bars.advance(self._tasks[stage], rows)

    def end(self, stage: str, summary: str) -> None:
        task = self._tasks.pop(stage)
        self._bars.update(task, summary=summary)
        state = self._bars.tasks[self._bars.task_ids.index(task)]
        if state.total is None:  # now it is known; a bar that goes to and fro would say that there is more
            self._bars.update(task, total=state.completed)
        self._bars.stop_task(task)

    def say(self, line: str) -> None:
        self._bars.console.print(line, markup=False, highlight=False)
