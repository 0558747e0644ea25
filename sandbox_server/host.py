"""Can this host hold jails? Each need is tried, and a missing one comes with its remedy."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sandbox_server import cgroup, image, nsjail, seccomp
from sandbox_server.errors import HostUnfit

_NOBODY = "65534:65534"


@dataclass(frozen=True, slots=True)
class HostCheck:
    """One need of the sandbox.

    Attributes:
        name: what is needed.
        ok: it is there.
        found: what was found.
        remedy: what to do when it is not; empty when it is.
        required: without it no program runs; else programs run, but are held less well.
    """

    name: str
    ok: bool
    found: str
    remedy: str = ""
    required: bool = True


def check_host() -> list[HostCheck]:
    """Try everything that the sandbox needs of this host, in the order in which it would be missed."""
    return [_run(name, check) for name, check in _CHECKS]


def _run(name: str, check: Callable[[], HostCheck]) -> HostCheck:
    try:
        return check()
    except HostUnfit as error:
        return HostCheck(name, False, str(error), "see the line itself")
    except OSError as error:
        return HostCheck(name, False, str(error), "run as root, or on a host that allows it")


def _processor() -> HostCheck:
    seccomp.machine()
    return HostCheck("processor", True, os.uname().machine)


def _binary() -> HostCheck:
    path = nsjail.binary()
    missing = missing_library(path)
    if missing:
        return HostCheck(
            "nsjail", False, f"{path.name} needs {missing}", "apt-get install libnl-route-3-200 libprotobuf32"
        )
    return HostCheck("nsjail", True, str(path))


def missing_library(path: Path) -> str:
    """The first shared library that `path` needs and the host lacks; empty when there is none."""
    done = subprocess.run(["ldd", path], capture_output=True, check=False)  # noqa: S607
    for line in done.stdout.decode(errors="replace").splitlines():
        if "not found" in line:
            return line.split()[0]
    return ""


def _namespaces() -> HostCheck:
    try:
        nsjail.first_uid(2 * (os.cpu_count() or 1))
    except HostUnfit as error:
        found, _, remedy = str(error).partition(": ")
        return HostCheck("namespaces", False, found, remedy)
    # As in a jail, root maps another user than itself, which alone would take one more capability (CAP_SETFCAP).
    users = ["--user", _NOBODY, "--group", _NOBODY] if os.geteuid() == 0 else []
    command = [str(nsjail.binary()), "-Mo", "-Q", *users, "--chroot", "/", "--", "/bin/true"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=30, stdin=subprocess.DEVNULL, env={})
    if done.returncode == 0:
        return HostCheck("namespaces", True, "user, mount, pid, net, ipc, uts and cgroup")
    return HostCheck(
        "namespaces",
        False,
        _why(done.stderr),
        "; ".join(_namespace_remedies())
        or "run as root, or start the container without its default seccomp profile and with all of /proc "
        "(docker run --security-opt seccomp=unconfined --security-opt systempaths=unconfined; docs/deploy.md)",
    )


def _why(said: bytes) -> str:
    lines = [line for line in said.decode(errors="replace").splitlines() if "no version information" not in line]
    return lines[0][:300] if lines else "a jail with /bin/true does not start"


def _namespace_remedies() -> Iterator[str]:
    if not Path("/proc/self/uid_map").read_text().strip():
        yield "map a user into the user namespace that this runs in (unshare --map-auto --map-current-user, say)"
    for name, bad, remedy in (
        ("user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=15000"),
        ("kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for nsjail",
        ),
    ):
        path = Path("/proc/sys", name)
        if path.exists() and path.read_text().strip() == bad:
            yield remedy


def _filters() -> HostCheck:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("Seccomp"):
            return HostCheck("seccomp", True, "the kernel filters system calls")
    return HostCheck("seccomp", False, "the kernel was built without it", "use a kernel with CONFIG_SECCOMP_FILTER")


def _interpreter() -> HostCheck:
    interpreter = image.find_interpreter()
    return HostCheck("interpreter", True, f"CPython {interpreter.version} at {interpreter.executable}")


def _control_groups() -> HostCheck:
    parent = cgroup.open_parent()
    parent.remove()
    if parent.version != "none":
        return HostCheck("control groups", True, parent.version, required=False)
    return HostCheck(
        "control groups",
        False,
        parent.reason,
        ("mount the memory, pids and cpuacct controllers writable" if os.geteuid() == 0 else "run as root")
        + ", or have a group delegated (systemd-run --user --scope -p Delegate=yes ..., or "
        "docker run --cgroupns=private with a writable /sys/fs/cgroup); without one, limits on memory and processes "
        "hold for each process and not for the whole tree",
        required=False,
    )


_CHECKS: tuple[tuple[str, Callable[[], HostCheck]], ...] = (
    ("processor", _processor),
    ("nsjail", _binary),
    ("namespaces", _namespaces),
    ("seccomp", _filters),
    ("interpreter", _interpreter),
    ("control groups", _control_groups),
)
