"""Build the root file system that programs see: one Python runtime and nothing else of the host.

An image is a folder, made once per interpreter and kept in a cache. It is a copy and not a view of the host: the jail's
user can read it wherever the interpreter was installed (even below a home folder that only its owner may enter), later
changes on the host cannot change a verdict, and the fewer mounts a jail has, the cheaper each of its namespaces is.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox_server.errors import HostUnfit

_log = logging.getLogger(__name__)
PYTHON_PREFIX = "/python"
LAYOUT = 4  # part of an image's key: raise it when this file lays images out differently

# Parts of a standard library that no program can use in a jail, by size the most of it.
_LEFT_OUT = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3"}
)
_HOST_FOLDERS = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc/alternatives")
_BUILDING = ".building-"
_LITTLE_ROOM = 1 << 20  # bytes
_DEVICES = ("null", "zero", "full", "random", "urandom")
# Opened by name at run time, so `ldd` does not tell of it: glibc wants it when a thread ends.
_OPENED_BY_NAME = ("libgcc_s.so.1",)

# What is no Python is left alone. On a full disk CPython may write half a file and not say so: importing it would fail.
_COMPILE = """
import compileall, importlib.util, marshal, pathlib, sys
compileall.compile_dir(sys.argv[1], maxlevels=100, quiet=2)
for path in pathlib.Path(sys.argv[1]).rglob("__pycache__/*.pyc"):
    compiled = path.read_bytes()
    if compiled.startswith(importlib.util.MAGIC_NUMBER):
        marshal.loads(compiled[16:])
"""

_DESCRIBE = """
import json, sys, sysconfig
print(json.dumps({
    "version": ".".join(map(str, sys.version_info[:3])),
    "implementation": sys.implementation.name,
    "executable": sys._base_executable if hasattr(sys, "_base_executable") else sys.executable,
    "prefix": sys.base_prefix,
    "stdlib": sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix, "base": sys.base_prefix}),
    "platstdlib": sysconfig.get_path(
        "platstdlib", vars={"installed_platbase": sys.base_exec_prefix, "platbase": sys.base_exec_prefix}
    ),
    "build": sys.version,
}))
"""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A CPython installation on the host."""

    executable: Path
    version: str
    build: str
    prefix: Path
    stdlib: Path
    platstdlib: Path

    @property
    def short(self) -> str:
        """Name of its library folder, e.g. ``python3.11``."""
        return "python" + ".".join(self.version.split(".")[:2])


@dataclass(frozen=True, slots=True)
class Image:
    """A root file system on the host's disk."""

    root: Path
    python: str  # path of the interpreter inside
    interpreter: Interpreter

    @property
    def library(self) -> Path:
        """The standard library, on the host."""
        inside = self.interpreter.stdlib.relative_to(self.interpreter.prefix)
        return self.root / PYTHON_PREFIX.lstrip("/") / inside


def find_interpreter(executable: str = "") -> Interpreter:
    """Describe the interpreter at `executable`; empty means the one that runs this, without its virtual environment.

    Raises:
        HostUnfit: it does not start, or is not a CPython 3.11 or newer.
    """
    path = executable or sys.executable
    try:
        done = subprocess.run([path, "-I", "-S", "-c", _DESCRIBE], capture_output=True, check=True, timeout=60)
        facts: dict[str, Any] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise HostUnfit(f"the interpreter {path} does not start: {error}; name a working CPython 3.11+") from error
    if facts["implementation"] != "cpython" or tuple(map(int, facts["version"].split("."))) < (3, 11):
        raise HostUnfit(f"{path} is {facts['implementation']} {facts['version']}; programs need CPython 3.11 or newer")
    return Interpreter(
        executable=Path(facts["executable"]).resolve(),
        version=facts["version"],
        build=facts["build"],
        prefix=Path(facts["prefix"]),
        stdlib=Path(facts["stdlib"]),
        platstdlib=Path(facts["platstdlib"]),
    )


def default_cache_dir() -> Path:
    """Where images are kept: below /var/cache for root, since a jail's user must be able to enter it."""
    if os.geteuid() == 0:
        return Path("/var/cache/selfalign")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "selfalign"


def image_of(interpreter: Interpreter, packages: Path | None, cache_dir: Path) -> Image:
    """The image of an interpreter, built if the cache has none.

    Args:
        interpreter: whose standard library programs see.
        packages: a folder to become the image's site-packages; None for the standard library alone.
        cache_dir: where images are kept.

    Raises:
        HostUnfit: the cache cannot be written, or the jail's user could not enter it.
    """
    stamp = interpreter.executable.stat()
    identity = [LAYOUT, interpreter.build, str(interpreter.executable), stamp.st_size, stamp.st_mtime_ns]
    if packages is not None:
        identity += [str(packages), packages.stat().st_mtime_ns]
    key = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
    root = cache_dir / "images" / f"{interpreter.short}-{key}"
    image = Image(root, f"{PYTHON_PREFIX}/bin/{interpreter.short}", interpreter)
    if not root.is_dir():
        try:
            root.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
            with (cache_dir / "images.lock").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # two servers that start together build one image
                except BlockingIOError:
                    _log.warning("waiting for another process that builds an image in %s", cache_dir)
                    fcntl.flock(lock, fcntl.LOCK_EX)
                if not root.is_dir():
                    _build(image, packages)
        except OSError as error:
            raise unwritable(root, error) from error
    elif census(root).encode() != _read(_census_file(root)):
        raise damaged(root)
    check_enterable(root)
    return image


def census(root: Path) -> str:
    """A hash of the names and sizes of all files below `root`."""
    files: list[tuple[str, int]] = []
    pending = [str(root)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                else:
                    files.append((entry.path[len(str(root)) :], entry.stat(follow_symlinks=False).st_size))
    return hashlib.sha256(ascii(sorted(files)).encode()).hexdigest()


def _census_file(root: Path) -> Path:
    return root.with_name(f"{root.name}.census")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def damaged(folder: Path) -> HostUnfit:
    """What to say of a part of the cache that somebody has changed: programs would fail by what is missing."""
    return HostUnfit(
        f"{folder} is not as it was made, files of it are gone or changed; once no other server uses it, remove it "
        f"(rm -r {folder}), and keep what tidies old files up away from there, or set cache_dir to another folder"
    )


def command_image(python: Image, cache_dir: Path) -> tuple[Path, tuple[tuple[str, str], ...], tuple[str, ...]]:
    """A root for plain commands: the host's own programs, read-only, with the guest's Python beside them.

    Args:
        python: the image whose Python the guest runs on; it brings its own libraries.
        cache_dir: where images are kept.

    Returns:
        The root, what to mount in it (source, target), and the command that starts the guest's Python.

    Raises:
        HostUnfit: the cache cannot be written, or the jail's user could not enter it.
    """
    links: dict[str, str] = {}
    mounts = [(str(python.root / "python"), PYTHON_PREFIX)]
    for name in _HOST_FOLDERS:
        path = Path("/", name)
        if path.is_symlink():
            links[name] = str(path.readlink())
        elif path.is_dir():
            mounts.append((str(path), str(path)))
    loader = next(python.root.glob("lib*/ld-linux*"))
    libraries = next(python.root.glob("**/libc.so.6")).parent
    mounts += [(str(libraries), "/python-libraries"), (str(loader.parent), "/python-loader")]
    key = hashlib.sha256(repr((LAYOUT, mounts, links)).encode()).hexdigest()[:16]
    root = cache_dir / "images" / f"command-{key}"
    if not root.is_dir():
        try:
            with building_in(root.parent) as building:
                _furnish(building)
                for _, target in mounts:
                    (building / target.lstrip("/")).mkdir(parents=True, exist_ok=True)
                for name, target in links.items():
                    (building / name).symlink_to(target)
                if Path("/etc/ld.so.cache").exists():
                    shutil.copy2("/etc/ld.so.cache", building / "etc/ld.so.cache")
                _open_to_others(building)
                _put_in_place(building, root)
        except OSError as error:
            raise unwritable(root, error) from error
    check_enterable(root)
    start = (f"/python-loader/{loader.name}", "--library-path", "/python-libraries", python.python)
    return root, tuple(mounts), start


def check_enterable(folder: Path) -> None:
    """Refuse a folder that the jail's user could not reach.

    Raises:
        HostUnfit: a folder on the way is closed to others, and we run as root (so jails run as another user).
    """
    if os.geteuid() != 0:
        return
    for step in (folder, *folder.parents):
        if not step.stat().st_mode & 0o001:
            raise HostUnfit(
                f"{step} is closed to other users (mode {step.stat().st_mode & 0o777:o}), and jails run as one; "
                f"`chmod o+x {step}` or set cache_dir to another folder"
            )


def unwritable(folder: Path, error: OSError) -> HostUnfit:
    """What to say when `folder`, which is in the cache, cannot be made."""
    reason = error.args[0][0][2] if isinstance(error, shutil.Error) else error  # of copying a tree: of its first file
    return HostUnfit(
        f"{folder} cannot be written: {reason}; free some space or set cache_dir to a folder that can be written"
    )


@contextlib.contextmanager
def building_in(folder: Path) -> Iterator[Path]:
    """A new folder in `folder`, to be renamed when what is in it is complete; else it is gone afterwards.

    It is locked meanwhile, which `remove_unfinished` respects.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o755)
    while True:
        building = Path(tempfile.mkdtemp(prefix=_BUILDING, dir=folder))
        lock = os.open(building, os.O_RDONLY | os.O_DIRECTORY)
        with contextlib.suppress(OSError):  # not every network file system knows locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        if building.is_dir():
            break
        os.close(lock)  # another server took it for left behind before it was locked
    try:
        yield building
    finally:
        shutil.rmtree(building, ignore_errors=True)
        os.close(lock)


def remove_unfinished(folder: Path) -> None:
    """Remove what servers that were killed while they built something in `folder` have left there."""
    for building in folder.glob(f"{_BUILDING}*"):
        with contextlib.suppress(OSError):
            lock = os.open(building, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(building, ignore_errors=True)
            finally:
                os.close(lock)


def _build(image: Image, packages: Path | None) -> None:
    interpreter = image.interpreter
    with building_in(image.root.parent) as root:
        root.chmod(0o755)
        prefix = root / PYTHON_PREFIX.lstrip("/")
        for library in {interpreter.stdlib, interpreter.platstdlib}:
            target = prefix / library.relative_to(interpreter.prefix)
            shutil.copytree(library, target, ignore=_leave_out, dirs_exist_ok=True)
        executable = root / image.python.lstrip("/")
        executable.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(interpreter.executable, executable)
        site = prefix / interpreter.stdlib.relative_to(interpreter.prefix) / "site-packages"
        if packages is not None:
            shutil.copytree(packages, site, symlinks=True)
        copy_libraries(root, [executable, *root.rglob("*.so"), *root.rglob("*.so.*")])
        _furnish(root)
        _open_to_others(root)
        # What is not compiled would be compiled again by every program that imports it: the image is read-only.
        _compile(interpreter, prefix)
        _census_file(image.root).write_text(census(root))
        root.rename(image.root)


def _put_in_place(building: Path, folder: Path) -> None:
    try:
        building.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another server was faster
            raise


def _compile(interpreter: Interpreter, folder: Path) -> None:
    command = [str(interpreter.executable), "-I", "-S", "-c", _COMPILE, str(folder)]
    done = subprocess.run(command, check=False, timeout=600, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if shutil.disk_usage(folder).free < _LITTLE_ROOM:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    if done.returncode:
        raise OSError(errno.EIO, "what was compiled does not read back", str(folder))


def _leave_out(folder: str, names: list[str]) -> set[str]:
    return {
        name for name in names if name in _LEFT_OUT or name.startswith(("config-3", "_tkinter")) or name.endswith(".a")
    }


def copy_libraries(root: Path, binaries: Iterable[Path]) -> None:
    """Copy the shared libraries that `binaries` need into `root`, all beside its C library, where the loader looks."""
    inside = str(root) + os.sep
    found: dict[str, Path] = {}
    loader: Path | None = None
    names = [str(binary) for binary in binaries]
    for start in range(0, len(names), 200):
        done = subprocess.run(["ldd", *names[start : start + 200]], capture_output=True, check=False, timeout=120)  # noqa: S607
        for line in done.stdout.decode().splitlines():
            match = re.match(r"\s+(?:(\S+) => )?(/\S+) \(0x", line)
            if match and not match[2].startswith(inside):
                if match[1] is None or "ld-linux" in match[2]:
                    loader = Path(match[2])
                else:
                    found[Path(match[2]).name] = Path(match[2])
    libc = found.get("libc.so.6")
    if libc is None or loader is None:
        raise HostUnfit("ldd does not tell which C library Python uses; the sandbox needs glibc and its ldd")
    for name in _OPENED_BY_NAME:
        if (libc.parent / name).exists():
            found[name] = libc.parent / name
    home = root / str(libc.parent).lstrip("/")
    home.mkdir(parents=True, exist_ok=True)
    for name, path in found.items():
        shutil.copy2(path, home / name)
    target = root / str(loader).lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(loader, target)


def _furnish(root: Path) -> None:
    for folder in ("dev", "etc", "proc", "box", "sandbox", "usr/share"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for device in _DEVICES:
        (root / "dev" / device).touch()
    # One tmpfs per run serves all three, and a mount less is time saved in each run.
    (root / "tmp").symlink_to("box/tmp")
    (root / "work").symlink_to("box/work")
    (root / "dev/shm").symlink_to("../box/shm")
    (root / "dev/fd").symlink_to("../proc/self/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        (root / "dev" / name).symlink_to(f"../proc/self/fd/{number}")
    (root / "etc/passwd").write_text(
        "root:x:0:0:root:/:/bin/false\nprogram:x:1000:1000:program:/work:/bin/false\n"
        "nobody:x:65534:65534:nobody:/:/bin/false\n"
    )
    (root / "etc/group").write_text("root:x:0:\nprogram:x:1000:\nnogroup:x:65534:\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
    (root / "etc/nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files\n")
    zones = Path("/usr/share/zoneinfo")
    if zones.is_dir():
        shutil.copytree(zones, root / "usr/share/zoneinfo", symlinks=True, dirs_exist_ok=True)


def _open_to_others(root: Path) -> None:
    for folder, _, files in os.walk(root):
        Path(folder).chmod(0o755)
        for name in files:
            path = Path(folder, name)
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


def place_modules(folder: Path, files: dict[str, bytes], interpreter: Interpreter) -> None:
    """Write Python files into a new `folder` and compile them, all or nothing; one that is there must hold them.

    Compiling is more than a saving of time: what an interpreter compiles for itself leaves holes all over its memory,
    and every fork pays for them.
    """
    if folder.is_dir():
        if any(_read(folder / name) != content for name, content in files.items()):
            raise damaged(folder)
        return
    with building_in(folder.parent) as building:
        for name, content in files.items():
            path = building / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        _compile(interpreter, building)
        _open_to_others(building)
        _put_in_place(building, folder)
