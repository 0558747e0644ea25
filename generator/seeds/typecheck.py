"""Type errors in seeds, by basedpyright, many files at a time. The extra `typecheck` installs it.

A function that a type checker finds fault with is often one whose context is missing, or plainly wrong.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sandbox_server.settings import SettingsError

BATCH_FILES = 250
TIMEOUT_S = 300.0
CONFIGURATION = {
    "typeCheckingMode": "standard",
    "pythonVersion": "3.12",
    "pythonPlatform": "Linux",
    "useLibraryCodeForTypes": False,
    # What is installed here says nothing about the function.
    "reportMissingImports": "none",
    "reportMissingModuleSource": "none",
}


def version() -> str:
    """What findings depend on: the checker's version and its configuration.

    Raises:
        SettingsError: it is not installed.
    """
    try:
        return f"{importlib.metadata.version('basedpyright')} {json.dumps(CONFIGURATION, sort_keys=True)}"
    except importlib.metadata.PackageNotFoundError:
        raise SettingsError("[seeds] typecheck: needs basedpyright: pip install 'selfalign[typecheck]'") from None


def type_errors(codes: Sequence[str], timeout_s: float = TIMEOUT_S) -> list[str | None]:
    """Check files, each for itself.

    Args:
        codes: one file each.
        timeout_s: for a batch. One that takes longer or breaks the checker is cut in two until the file is found
            that does it, and that file alone is at fault.

    Returns:
        For each the rule and the line of its first error; None where there is none.

    Raises:
        SettingsError: the checker is not installed.
    """
    version()
    found: list[str | None] = []
    for start in range(0, len(codes), BATCH_FILES):
        found += _checked(codes[start : start + BATCH_FILES], timeout_s)
    return found


def _checked(codes: Sequence[str], timeout_s: float) -> list[str | None]:
    errors = _run(codes, timeout_s)
    if errors is not None:
        return errors
    if len(codes) == 1:
        return ["the type checker cannot read it"]
    half = len(codes) // 2
    return _checked(codes[:half], timeout_s) + _checked(codes[half:], timeout_s)


def _run(codes: Sequence[str], timeout_s: float) -> list[str | None] | None:
    """One run of the checker; None where it did not come to an end."""
    with tempfile.TemporaryDirectory(prefix="selfalign-types-") as folder:
        root = Path(folder).resolve()
        (root / "pyrightconfig.json").write_text(json.dumps(CONFIGURATION), encoding="utf-8")
        for number, code in enumerate(codes):
            # A folder each: files beside each other could import one another.
            (root / f"d{number}").mkdir()
            (root / f"d{number}" / "seed.py").write_text(code, encoding="utf-8", errors="surrogatepass")
        command = [sys.executable, "-m", "basedpyright", "--outputjson", "--project", str(root)]
        try:
            told = json.loads(_output(command, timeout_s))
            diagnostics, checked = told["generalDiagnostics"], told["summary"]["filesAnalyzed"]
        except (subprocess.TimeoutExpired, ValueError, KeyError):
            return None
        if checked < len(codes):
            return None
        found: list[str | None] = [None] * len(codes)
        for diagnostic in diagnostics:
            number = int(Path(diagnostic["file"]).parent.name.removeprefix("d"))
            if diagnostic["severity"] == "error" and found[number] is None:
                line = diagnostic["range"]["start"]["line"] + 1
                found[number] = f"type error: {diagnostic.get('rule', 'syntax')}, line {line}"
        return found


def _output(command: list[str], timeout_s: float) -> bytes:
    # The checker is a child of the one that is started, and would outlive it.
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            return process.communicate(timeout=timeout_s)[0]
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
