"""What no program may reach, see or change on the host, and how it would be noticed."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import socket
import tempfile
from pathlib import Path

# Programs use these for what would be visible on the host if it got there.
SYSV_KEY = 0x5E1FA116
NAME_PREFIX = "selfalign-attack"


class Host:
    """Canaries on the host, for as long as the attacks run.

    Listening sockets that must get no connection; a secret in files, in the servers' environment, on their standard
    input and on a descriptor that they inherit, which must come out nowhere.
    """

    def __init__(self) -> None:
        self.secret = f"host-secret-{secrets.token_hex(12)}"
        self.folder = Path(tempfile.mkdtemp(prefix="selfalign-host-"))
        self.home, self.cwd = self.folder / "home", self.folder / "cwd"
        self.files = [self.folder / "secret", self.home / "secret", self.cwd / "secret", self.cwd / ".env"]
        for file in self.files:
            file.parent.mkdir(exist_ok=True)
            file.write_text(f"{self.secret}\n")
            file.chmod(0o644)
        self.servers = self.folder / "servers"  # their sockets and logs
        self.servers.mkdir()
        self.servers.chmod(0o777)
        for folder in (self.folder, self.home, self.cwd):
            folder.chmod(0o755)  # what keeps them apart is the jail and not the mode
        self._tcp = _listener(socket.AF_INET, ("127.0.0.1", 0))
        self._tcp6 = _listener(socket.AF_INET6, ("::1", 0)) if _has_ipv6() else None
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", 0))
        self._udp.setblocking(False)
        self._abstract = f"{NAME_PREFIX}-{secrets.token_hex(6)}"
        self._unix_abstract = _listener(socket.AF_UNIX, f"\0{self._abstract}")
        self._unix_path = self.folder / "canary.sock"
        self._unix = _listener(socket.AF_UNIX, str(self._unix_path))
        self._unix_path.chmod(0o777)
        self._mounts = _mounts()
        self._listings = self._list()
        self.facts = {
            "TCP_PORT": str(self._tcp.getsockname()[1]),
            "TCP6_PORT": str(self._tcp6.getsockname()[1] if self._tcp6 else 9),
            "UDP_PORT": str(self._udp.getsockname()[1]),
            "ADDRESS": _own_address(),
            "ABSTRACT": self._abstract,
            "UNIX_PATH": str(self._unix_path),
            "SECRET_FILE": str(self.files[0]),
            "HOME": str(self.home),
            "CWD": str(self.cwd),
            "NAME": f"{NAME_PREFIX}-{secrets.token_hex(4)}",
            "SYSV_KEY": str(SYSV_KEY),
            "TEST_PID": str(os.getpid()),
        }

    def close(self) -> None:
        """Take the canaries away."""
        for listener in (self._tcp, self._tcp6, self._udp, self._unix_abstract, self._unix):
            if listener is not None:
                listener.close()
        shutil.rmtree(self.folder)

    def words_that_must_not_come_out(self) -> list[bytes]:
        """Secrets and names of the host."""
        words = [self.secret]
        name = socket.gethostname()
        if len(name) > 4 and name != "localhost":
            words.append(name)
        return [word.encode() for word in words]

    def harm(self) -> list[str]:
        """What has happened to the host, a line each."""
        found = []
        listeners = {"TCP": self._tcp, "TCP over IPv6": self._tcp6, "abstract": self._unix_abstract, "path": self._unix}
        for name, listener in listeners.items():
            if listener is not None:
                with contextlib.suppress(BlockingIOError):
                    listener.accept()[0].close()
                    found.append(f"a program reached the host's {name} socket")
        with contextlib.suppress(BlockingIOError):
            found.append(f"a program reached the host's UDP socket: {self._udp.recv(100)!r}")
        for file in self.files:
            if not file.exists() or file.read_text() != f"{self.secret}\n":
                found.append(f"{file} was changed")
        found += [f"left on the host: {path}" for path in sorted(self._list() - self._listings)]
        found += [f"mounted on the host: {line}" for line in sorted(_mounts() - self._mounts)]
        for kind in ("shm", "sem", "msg"):
            lines = Path(f"/proc/sysvipc/{kind}").read_text().splitlines()[1:]
            if any(int(line.split()[0]) & 0xFFFFFFFF == SYSV_KEY for line in lines):
                found.append(f"a System V {kind} of a program is on the host")
        return found

    def _list(self) -> set[str]:
        """The server's folders whole, and what bears a program's name or is a core file where others write too."""
        whole = {str(path) for folder in (self.folder, self.home, self.cwd) for path in folder.iterdir()}
        shared = {
            str(path)
            for folder in ("/tmp", "/dev/shm", "/var/tmp", str(Path.cwd()))
            for path in (Path(folder).iterdir() if Path(folder).is_dir() else ())
            if path.name.startswith((NAME_PREFIX, "core.")) or path.name == "core"
        }
        return whole | shared


def descendants(pid: int) -> dict[int, str]:
    """Pid and name of every process below `pid`; a zombie's name says so."""
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                name, _, rest = (entry / "stat").read_text(errors="replace").rpartition(")")
                state, parent = rest.split()[:2]
                parents[int(entry.name)] = int(parent)
                names[int(entry.name)] = name.partition("(")[2] + (" (zombie)" if state == "Z" else "")
    below: dict[int, str] = {}
    while True:
        more = {child for child, parent in parents.items() if child not in below and (parent == pid or parent in below)}
        if not more:
            return below
        below |= {child: names[child] for child in more}


def _listener(family: int, address: object) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind(address)  # type: ignore[arg-type]
    listener.listen()
    listener.setblocking(False)
    return listener


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            return False
        raise
    return True


def _own_address() -> str:
    """An address of this host beside loopback, if it has one; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def _mounts() -> set[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {line.split(" ", 4)[4] for line in lines}
