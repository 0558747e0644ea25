"""The folder of a run: whose it is, what is already there, where to go on.

FOLDER/run.json              which run this is, and whether it has finished
FOLDER/state/                tokenizer and survey, so that a run that goes on need not read the data again
FOLDER/checkpoint-STEP/      transformers' checkpoints
FOLDER/config.json, ...      the finished model, its tokenizer and its card
"""

from __future__ import annotations

import errno
import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RUN_FILE = "run.json"


class FolderTaken(Exception):
    """The output folder holds something else; nothing in it was touched."""


class FolderUnwritable(Exception):
    """The output folder cannot be written, or no further; what was whole in it is whole."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """An output folder that is this run's."""

    path: Path
    key: str

    @property
    def state(self) -> Path:
        """Where tokenizer and survey are kept."""
        return self.path / "state"

    @property
    def finished_metrics(self) -> dict[str, Any] | None:
        """Of the finished run; None while it has not finished."""
        run = json.loads((self.path / RUN_FILE).read_text())
        metrics: dict[str, Any] | None = run["metrics"]
        return metrics

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes of this machine off the folder; however this one ends, the kernel then lets it go.

        Raises:
            FolderTaken: another process has it.
            FolderUnwritable: it cannot be written.
        """
        try:
            self.state.mkdir(exist_ok=True)
            lock = (self.state / "lock").open("w")
        except OSError as error:
            raise FolderUnwritable(f"{self.path} cannot be written: {error.strerror}; give another --output") from None
        with lock:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock, which forked workers would keep
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    raise FolderTaken(
                        f"another process is training in {self.path}; wait for it, or give another --output"
                    ) from None
                # A file system without locks; then it is up to the user.
            yield

    def finish(self, description: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
        """Write down that the run has finished."""
        write_json(self.path / RUN_FILE, {"key": self.key, **description, "metrics": metrics})

    def last_checkpoint(self) -> Path | None:
        """The newest whole checkpoint: transformers writes `trainer_state.json` last."""
        found = [folder for folder in self.path.glob("checkpoint-*") if _step(folder) is not None]
        return max(found, key=lambda folder: _step(folder) or 0, default=None)


def claim(path: Path, key: str, description: Mapping[str, Any]) -> RunFolder:
    """Take a folder for a run: a new or empty one, or one that the same run has begun.

    Args:
        path: of the folder.
        key: of the run.
        description: what the run is, for people.

    Raises:
        FolderTaken: another run's checkpoint or other files are there.
        FolderUnwritable: it cannot be written.
    """
    run_file = path / RUN_FILE
    if path.exists() and not path.is_dir():
        raise FolderTaken(f"{path} is a file; give another --output")
    if run_file.exists():
        try:
            found = json.loads(run_file.read_text())["key"]
        except (ValueError, KeyError, TypeError):
            raise FolderTaken(f"{run_file} is not a run's; give another --output, nothing was changed") from None
        if found != key:
            raise FolderTaken(
                f"{path} holds a checkpoint of another recipe or data set{_difference(run_file, description)}; "
                "give another --output, nothing was changed"
            )
    elif path.exists() and any(file.name != _partial(run_file).name for file in path.iterdir()):
        raise FolderTaken(f"{path} is not empty and holds no run; give another --output, nothing was changed")
    else:
        try:
            path.mkdir(parents=True, exist_ok=True)
            write_json(run_file, {"key": key, **description, "metrics": None})
        except OSError as error:
            raise FolderUnwritable(f"{path} cannot be written: {error.strerror}; give another --output") from None
    return RunFolder(path, key)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write whole or not at all."""
    partial = _partial(path)
    partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _difference(run_file: Path, description: Mapping[str, Any]) -> str:
    """Where the run of `run_file` and another one part, in brackets; nothing if they do not tell."""
    before, now = json.loads(run_file.read_text()), json.loads(json.dumps(description))
    told = [
        f"[train] {name} was {json.dumps(old)} and is {json.dumps(new)}"
        for name, old, new in _parted(before.get("train"), now.get("train"))
    ]
    if before.get("dataset") != now.get("dataset"):
        told.insert(0, f"data set {before.get('dataset')}, not {now.get('dataset')}")
    return f" ({'; '.join(told)})" if told else ""


def _parted(before: Any, now: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted names of the settings that differ, and both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys((*before, *now)):
            yield from _parted(before.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif before != now:
        yield name, before, now


def _step(folder: Path) -> int | None:
    try:
        step = json.loads((folder / "trainer_state.json").read_text())["global_step"]
    except (OSError, ValueError, KeyError):
        return None
    return int(step)
