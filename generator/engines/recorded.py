"""Completions that were drawn once and stored: replayed by `RecordedEngine`, drawn and stored by `RecordingEngine`.

A recording is a JSON Lines file, usually compressed (`.xz`). Its first line tells where completions come from, every
other line is one completion under the key of what was asked. While it is being made, lines are appended to a plain file
beside it (`.part`), so that an interruption loses nothing.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from generator.engines import Completion, CompletionRequest, Engine, EngineUnavailable, Prompt
from generator.keys import key_of
from generator.recipe import ModelSettings

FORMAT = "selfalign-recording-1"


def completion_key(model: ModelSettings, request: CompletionRequest) -> str:
    """The key of a completion: prompt, sampling (its seed included) and model, whatever row it is drawn for."""
    sampling = request.sampling
    # Spelt out: a field that these classes gain later must not change the key of what is recorded.
    return key_of(
        "completion",
        model.name,
        model.revision,
        request.prompt.text,
        [[message.role, message.content] for message in request.prompt.messages],
        [sampling.temperature, sampling.top_p, sampling.max_tokens, list(sampling.stop), sampling.seed],
    )


def recording_path(name: str) -> Path:
    """The file that `[model] recording` means: a path, or the name of a recording that ships with the package."""
    path = Path(name)
    if path.suffix in {".jsonl", ".xz"}:
        return path
    return Path(str(files("generator") / "recordings" / f"{name}.jsonl.xz"))


class Recording:
    """Stored completions by key.

    Args:
        path: `.jsonl` or `.jsonl.xz`; it need not exist yet.

    Raises:
        EngineUnavailable: the file exists and is no recording.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: dict[str, Any] = {"format": FORMAT}
        self._rows: dict[str, dict[str, Any]] = {}
        self._part = path.with_name(path.name + ".part")
        if path.exists():
            self._read()
        if self._part.exists():
            self._rows |= {row["key"]: row for row in _whole_lines(self._part)}

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: str) -> Completion | None:
        """The completion stored under a key."""
        row = self._rows.get(key)
        if row is None:
            return None
        return Completion(row["text"], row["finish_reason"], row["prompt_tokens"], row["completion_tokens"])

    def add(self, key: str, completion: Completion) -> None:
        """Store a completion, at once on disk."""
        row = {"key": key, **asdict(completion)}
        self._rows[key] = row
        self._part.parent.mkdir(parents=True, exist_ok=True)
        with self._part.open("a", encoding="utf-8") as part:
            part.write(json.dumps(row, ensure_ascii=False) + "\n")

    def save(self, header: dict[str, Any], keys: frozenset[str] | None = None) -> None:
        """Write the whole file anew and remove the part; sorted by key, so that equal content makes equal bytes.

        Args:
            header: what to say about the completions, besides the format.
            keys: what to keep; None keeps all.
        """
        self.header = {"format": FORMAT, **header}
        self._rows = {key: row for key, row in sorted(self._rows.items()) if keys is None or key in keys}
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in [self.header, *self._rows.values()])
        data = text.encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_name(self.path.name + ".new")
        fresh.write_bytes(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME) if self.path.suffix == ".xz" else data)
        fresh.replace(self.path)
        self._part.unlink(missing_ok=True)

    def _read(self) -> None:
        try:
            data = self.path.read_bytes()
            text = (lzma.decompress(data) if self.path.suffix == ".xz" else data).decode()
            header, *rows = map(json.loads, text.rstrip("\n").split("\n"))
            if header["format"] != FORMAT:
                raise ValueError(f"format {header['format']!r}, expected {FORMAT!r}")
            self.header = header
            self._rows = {row["key"]: row for row in rows}
        except (OSError, lzma.LZMAError, ValueError, LookupError, TypeError) as error:
            raise EngineUnavailable(f"{self.path}: not a recording of completions: {error}") from error


class RecordedEngine:
    """Replays a recording; a prompt that it does not know stops the build.

    Args:
        model: name and revision are part of every key; `recording` names the file.
    """

    def __init__(self, model: ModelSettings) -> None:
        path = recording_path(model.recording or model.name)
        if not path.exists():
            raise EngineUnavailable(f"[model] recording: no such file: {path}; `make record` makes the demo's")
        self._model = model
        self._recording = Recording(path)

    async def complete(self, request: CompletionRequest) -> Completion:
        """Look the completion up.

        Raises:
            EngineUnavailable: it was never recorded.
        """
        completion = self._recording.get(completion_key(self._model, request))
        if completion is None:
            raise EngineUnavailable(
                f"{self._recording.path.name} has no completion for {_describe(request.prompt)}: a prompt, a seed, the "
                "model or a sampling setting is not the recorded one; `make record` draws what is missing, and "
                "`--engine openai --base-url URL` asks a live model"
            )
        return completion

    async def close(self) -> None:
        """Nothing is held."""


class RecordingEngine:
    """Passes requests to a live engine and stores what it answers; what is stored already is not drawn again.

    Args:
        live: where new completions come from; closed with this engine.
        model: name and revision are part of every key.
        recording: where completions are stored.
    """

    def __init__(self, live: Engine, model: ModelSettings, recording: Recording) -> None:
        self._live = live
        self._model = model
        self._recording = recording
        self.used: set[str] = set()
        """Keys that were asked for, to leave out of the file what no prompt needs any more."""

    async def complete(self, request: CompletionRequest) -> Completion:
        """Look the completion up, or draw and store it."""
        key = completion_key(self._model, request)
        self.used.add(key)
        completion = self._recording.get(key)
        if completion is None:
            completion = await self._live.complete(request)
            self._recording.add(key, completion)
        return completion

    async def close(self) -> None:
        """Close the live engine."""
        await self._live.close()


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file whose last line may have been cut off by an interruption."""
    for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
        yield json.loads(line)


def _describe(prompt: Prompt) -> str:
    """What was asked, as far as a line has room: the heading tells the stage."""
    asked = prompt.messages[-1].content if prompt.messages else prompt.text.rpartition("## Example")[2]
    words = " ".join(asked.split())
    return repr(words if len(words) <= 90 else f"{words[:90]}...")
