"""What programs can be run with: described in TOML, found by name, made ready as an image."""

from __future__ import annotations

import hashlib
import importlib.resources
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path
from typing import Literal

from sandbox_server import image
from sandbox_server.errors import HostUnfit
from sandbox_server.jobs import RuntimeInfo
from sandbox_server.settings import SettingsError, parse, read_toml

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
# Numerical libraries start a thread per processor when they are imported; a fork takes none of them along.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """One runtime, as its TOML file describes it.

    Attributes:
        name: what a job asks for.
        kind: "python" runs `code` and `tests`; "command" runs `argv` with the host's own programs.
        interpreter: a CPython on the host; empty for the one that runs the server.
        preload: modules that are imported once, before any program; a program that imports them pays nothing.
        env: environment variables besides the usual few.
    """

    name: str
    kind: Literal["python", "command"] = "python"
    interpreter: str = ""
    preload: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"name: expected lower-case letters, digits, '-', '_' and '.', got {self.name!r}")


@dataclass(frozen=True, slots=True)
class Runtime:
    """A runtime made ready on this host.

    Attributes:
        root: the jail's root file system.
        mounts: what is mounted in it, as (source, target).
        python: the command that starts the guest's interpreter inside.
        version: of that interpreter.
        library: the image's standard library.
        library_stamp: what tells whether it is still as it was.
    """

    settings: RuntimeSettings
    root: Path
    mounts: tuple[tuple[str, str], ...]
    python: tuple[str, ...]
    version: str
    guest: Path
    fingerprint: str
    packages: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    library: Path
    library_stamp: tuple[int, int] | None

    def is_whole(self) -> bool:
        """Whether nobody has removed the image under us: programs would fail by what they import."""
        return _stamp(self.library) == self.library_stamp

    def info(self) -> RuntimeInfo:
        """What `GetInfo` tells of it."""
        is_python = self.settings.kind == "python"
        return RuntimeInfo(
            name=self.settings.name,
            interpreter=f"CPython {self.version}" if is_python else "",
            packages=self.packages,
            fingerprint=self.fingerprint,
            warm=True,
        )


def open_runtime(name: str, cache_dir: Path) -> Runtime:
    """Find a runtime by name and make its image.

    Raises:
        HostUnfit: there is no such runtime, or its image cannot be made.
    """
    for folder in ("images", "guests", "runtimes"):
        image.remove_unfinished(cache_dir / folder)
    settings, packages_dir = _find(name, cache_dir)
    interpreter = image.find_interpreter(settings.interpreter)
    guest, guest_hash = place_guest(interpreter, cache_dir)
    python = image.image_of(interpreter, packages_dir, cache_dir)
    packages = _installed(packages_dir) if packages_dir is not None else ()
    env = {"HOME": "/work", "LANG": "C.UTF-8", "PATH": "/usr/local/bin:/usr/bin:/bin", "TZ": "UTC"}
    root: Path = python.root
    mounts: tuple[tuple[str, str], ...] = ()
    start: tuple[str, ...] = (python.python,)
    if settings.kind == "python":
        env |= {"PATH": f"{image.PYTHON_PREFIX}/bin:{env['PATH']}", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1"}
    else:
        root, mounts, start = image.command_image(python, cache_dir)
        env["UV_USE_IO_URING"] = "0"  # the filter kills who asks for io_uring, and node may
    env |= settings.env
    identity = repr((interpreter.build, settings, guest_hash, packages, mounts))
    return Runtime(
        settings=settings,
        root=root,
        mounts=mounts,
        python=start,
        version=interpreter.version,
        guest=guest,
        fingerprint=hashlib.sha256(identity.encode()).hexdigest()[:16],
        packages=packages,
        env=tuple(sorted(env.items())),
        library=python.library,
        library_stamp=_stamp(python.library),
    )


def known(cache_dir: Path | None = None) -> tuple[str, ...]:
    """Names of the runtimes that this host has: those that come with the package and those that were built."""
    shipped = importlib.resources.files("sandbox_server").joinpath("runtimes").iterdir()
    built = _built_dir(cache_dir or image.default_cache_dir())
    return tuple(
        sorted(
            {item.name.removesuffix(".toml") for item in shipped if item.name.endswith(".toml")}
            | {path.parent.name for path in built.glob("*/runtime.toml")}
        )
    )


def build_runtime(
    name: str,
    requirements: Iterable[Path] = (),
    packages: Iterable[str] = (),
    preload: Iterable[str] = (),
    interpreter: str = "",
    cache_dir: Path | None = None,
) -> Runtime:
    """Make a Python runtime with packages, or make it anew.

    Args:
        name: what jobs will ask for.
        requirements: requirement files, as pip reads them.
        packages: further requirements, as on pip's command line.
        preload: modules to import once, before any program.
        interpreter: a CPython on the host; empty for the one that runs this.
        cache_dir: where runtimes are kept; None for the usual place.

    Returns:
        The runtime, ready for use.

    Raises:
        HostUnfit: pip failed, a module to preload cannot be imported, or there is no room; nothing is left then.
    """
    cache_dir = cache_dir or image.default_cache_dir()
    settings = _settings(
        {"name": name, "interpreter": interpreter, "preload": tuple(preload), "env": dict(_ONE_THREAD)}, "the runtime"
    )
    if (importlib.resources.files("sandbox_server") / "runtimes" / f"{name}.toml").is_file():
        raise HostUnfit(f"runtime {name!r} comes with the package; choose another name")
    wanted = [*(f"--requirement={path}" for path in requirements), *packages]
    if not wanted:
        raise HostUnfit(f"runtime {name!r}: name at least one package or requirements file")
    found = image.find_interpreter(interpreter)
    target = _built_dir(cache_dir) / name
    try:
        with image.building_in(target.parent) as building:
            building.chmod(0o755)
            _pip(found, building / "packages", wanted)
            _try_imports(found, building / "packages", settings.preload)
            (building / "runtime.toml").write_text(_toml(settings))
            old = building.with_name(f"{building.name}-old")
            if target.exists():
                target.rename(old)
            building.rename(target)
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise image.unwritable(target, error) from error
    return open_runtime(name, cache_dir)


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
        raise image.unwritable(target, error) from error
    image.check_enterable(target)
    return target, key


def _stamp(folder: Path) -> tuple[int, int] | None:
    try:
        seen = folder.stat()
    except OSError:
        return None
    return seen.st_mtime_ns, seen.st_nlink


def _built_dir(cache_dir: Path) -> Path:
    return cache_dir / "runtimes"


def _find(name: str, cache_dir: Path) -> tuple[RuntimeSettings, Path | None]:
    """The description of a runtime and the folder of its packages, if it has any."""
    shipped = importlib.resources.files("sandbox_server").joinpath("runtimes", f"{name}.toml")
    if shipped.is_file():
        return _settings(tomllib.loads(shipped.read_text(encoding="utf-8")), f"{name}.toml:"), None
    built = _built_dir(cache_dir) / name
    if not (built / "runtime.toml").is_file():
        raise HostUnfit(
            f"there is no runtime {name!r}; there are {', '.join(known(cache_dir))}; "
            f"`selfalign sandbox runtime build {name} -r requirements.txt` makes one"
        )
    try:
        return _settings(read_toml(built / "runtime.toml"), f"{built / 'runtime.toml'}:"), built / "packages"
    except SettingsError as error:
        raise HostUnfit(str(error)) from error


def _settings(values: dict[str, object], where: str) -> RuntimeSettings:
    try:
        return parse(RuntimeSettings, values, where)
    except SettingsError as error:
        raise HostUnfit(str(error)) from error


def _toml(settings: RuntimeSettings) -> str:
    """`settings` as TOML; every value of theirs is a string that Python and TOML quote alike."""
    lines = [f"name = {_quoted(settings.name)}", 'kind = "python"', f"interpreter = {_quoted(settings.interpreter)}"]
    lines.append(f"preload = [{', '.join(map(_quoted, settings.preload))}]")
    lines.append("[env]")
    lines += [f"{_quoted(key)} = {_quoted(value)}" for key, value in settings.env.items()]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _installed(packages: Path) -> tuple[str, ...]:
    found = {(item.metadata["Name"], item.version) for item in distributions(path=[str(packages)])}
    return tuple(sorted(f"{name}=={version}" for name, version in found))


def _pip(interpreter: image.Interpreter, target: Path, wanted: list[str]) -> None:
    command = [
        *(sys.executable, "-m", "pip", "--python", str(interpreter.executable), "--disable-pip-version-check"),
        *("install", "--quiet", "--no-compile", "--target", str(target), *wanted),
    ]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
        raise HostUnfit(f"pip cannot install {' '.join(wanted)}: {said[-1] if said else 'it says nothing'}")


def _try_imports(interpreter: image.Interpreter, packages: Path, modules: tuple[str, ...]) -> None:
    for module in modules:
        code = f"import sys; sys.path.append({str(packages)!r}); import {module}"
        done = subprocess.run(
            [interpreter.executable, "-I", "-S", "-B", "-c", code], capture_output=True, check=False, timeout=300
        )
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise HostUnfit(f"{module!r} cannot be preloaded: {said[-1] if said else 'its import fails'}")
