"""What programs can be run with: described in TOML, found by name, made ready as an image."""

from __future__ import annotations

import hashlib
import importlib.resources
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sandbox_server import image
from sandbox_server.errors import HostUnfit
from sandbox_server.jobs import RuntimeInfo
from sandbox_server.settings import SettingsError, parse, read_toml


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """One runtime, as its TOML file describes it.

    Attributes:
        name: what a job asks for.
        kind: "python" runs `code` and `tests`.
        interpreter: a CPython on the host; empty for the one that runs the server.
        preload: modules that are imported once, before any program.
    """

    name: str
    kind: Literal["python"] = "python"
    interpreter: str = ""
    preload: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Runtime:
    """A runtime made ready on this host."""

    settings: RuntimeSettings
    image: image.Image
    guest: Path
    fingerprint: str
    packages: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = field(default=())

    def info(self) -> RuntimeInfo:
        """What `GetInfo` tells of it."""
        return RuntimeInfo(
            name=self.settings.name,
            interpreter=f"CPython {self.image.interpreter.version}",
            packages=self.packages,
            fingerprint=self.fingerprint,
            warm=True,
        )


def open_runtime(name: str, cache_dir: Path) -> Runtime:
    """Find a runtime by name and make its image.

    Raises:
        HostUnfit: there is no such runtime, or its image cannot be made.
    """
    settings = _read(name)
    interpreter = image.find_interpreter(settings.interpreter)
    guest, guest_hash = place_guest(interpreter, cache_dir)
    identity = repr((interpreter.build, settings, guest_hash))
    return Runtime(
        settings=settings,
        image=image.image_of(interpreter, None, cache_dir),
        guest=guest,
        fingerprint=hashlib.sha256(identity.encode()).hexdigest()[:16],
        env=(
            ("HOME", "/work"),
            ("LANG", "C.UTF-8"),
            ("PATH", f"{image.PYTHON_PREFIX}/bin:/usr/local/bin:/usr/bin:/bin"),
            ("PYTHONDONTWRITEBYTECODE", "1"),
            ("PYTHONUTF8", "1"),
            ("TZ", "UTC"),
        ),
    )


def place_guest(interpreter: image.Interpreter, cache_dir: Path) -> tuple[Path, str]:
    """Copy the guest to where the jail's user can read it, compiled; answers the folder and the source's hash."""
    modules: dict[str, bytes] = {}
    pending = [("", importlib.resources.files("sandbox_server").joinpath("guest"))]
    for prefix, folder in pending:
        for item in folder.iterdir():
            if item.is_dir() and item.name != "__pycache__":
                pending.append((f"{prefix}{item.name}/", item))
            elif item.name.endswith(".py"):
                modules[prefix + item.name] = item.read_bytes()
    key = hashlib.sha256(repr(sorted(modules.items())).encode()).hexdigest()[:16]
    target = cache_dir / "guests" / f"{interpreter.short}-{key}"
    try:
        image.place_modules(target, {f"selfalign_guest/{name}": text for name, text in modules.items()}, interpreter)
    except OSError as error:
        raise HostUnfit(
            f"{target} cannot be written: {error}; free some space or set cache_dir to a folder that can be written"
        ) from error
    image.check_enterable(target)
    return target, key


def _read(name: str) -> RuntimeSettings:
    source = importlib.resources.files("sandbox_server").joinpath("runtimes", f"{name}.toml")
    try:
        with importlib.resources.as_file(source) as path:
            return parse(RuntimeSettings, read_toml(path), f"{path.name}:")
    except SettingsError as error:
        raise HostUnfit(f"runtime {name!r}: {error}") from error
