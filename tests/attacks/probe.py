"""The innocent program that runs after each attack, in the same slot, and describes all of its world that it can see.

A fresh slot's answer is the standard: after an attack it must be the same to the letter.
"""

from __future__ import annotations

import json
from typing import Any

from sandbox_server.jobs import Job, Outcome, Verdict

_CODE = r"""
import builtins, gc, json, locale, os, random, re, resource, signal, socket, sys, threading, time

def listing(path):
    try:
        return sorted(os.listdir(path))
    except OSError as error:
        return error.strerror

def lines(path):
    try:
        with open(path) as file:
            return file.read().splitlines()
    except OSError as error:
        return [error.strerror]

def describe():
    return {
        "cwd": os.getcwd(),
        "files": {path: listing(path) for path in (".", "/", "/tmp", "/dev", "/dev/shm", "/etc")},
        "space used": [(f.f_blocks - f.f_bfree, f.f_files - f.f_ffree) for f in map(os.statvfs, (".", "/tmp"))],
        "processes": [name for name in listing("/proc") if name.isdigit()],
        "pid": [os.getpid(), os.getppid(), os.getpgrp(), os.getsid(0)],
        "threads": [thread.name for thread in threading.enumerate()],
        "descriptors": {name: re.sub(r"\d+", "N", os.readlink(f"/proc/self/fd/{name}")) for name in "012"},
        "descriptors open": len(listing("/proc/self/fd")),
        "ids": [os.getresuid(), os.getresgid(), os.getgroups(), os.umask(0o22)],
        "host": [socket.gethostname(), [line.split(":")[0] for line in lines("/proc/net/dev")[2:]]],
        "sockets": [lines("/proc/self/net/sockstat")[:1], [(name, lines("/proc/self/net/" + name)[1:]) for name in
                    ("unix", "tcp", "tcp6", "udp", "udp6", "raw", "raw6", "packet", "ip6_flowlabel")]],
        "system v": [len(lines("/proc/sysvipc/" + name)) for name in ("shm", "sem", "msg")],
        "status": [line for line in lines("/proc/self/status") if re.match("Cap|NoNew|Secc|Sig(Blk|Ign|Cgt)|Groups", line)],
        "mounts": sorted(line.split(" - ")[0].split(" ", 3)[3] for line in lines("/proc/self/mountinfo")),
        "out of memory": lines("/proc/self/oom_score_adj"),
        "signals": [str(signal.getsignal(number)) for number in signal.valid_signals()],
        "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "timers": [signal.getitimer(timer) for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)],
        "priority": [os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0), sorted(os.sched_getaffinity(0))],
        "limits": [resource.getrlimit(number) for number in range(16)],
        "environment": dict(os.environ),
        "interpreter": [sys.argv, sys.path, list(sys.flags), sys.getrecursionlimit(), sys.getswitchinterval(),
                        sys.get_int_max_str_digits(), sys.gettrace() is None, sys.getprofile() is None,
                        sys.excepthook is sys.__excepthook__, sys.stdout is sys.__stdout__, len(sys.meta_path)],
        "modules": {name: len(vars(module)) for name, module in sorted(sys.modules.items())},
        "builtins": {name: type(value).__name__ for name, value in sorted(vars(builtins).items())},
        "patches": [value.__code__.co_filename for value in (json.dumps, os.fsencode, random.seed, random.shuffle)],
        "collector": [gc.isenabled(), gc.get_threshold(), gc.get_debug()],
        "locale": [locale.setlocale(locale.LC_ALL), time.tzname],
        "random": [random.random(), hash("selfalign")],
    }
"""

PROBE = Job(
    code=_CODE + "print(json.dumps(describe()))\n",
    tests="assert describe()['threads'] == ['MainThread']\nassert sum(range(10)) == 45\n",
    random_seed=7,
    env=(("PROBE", "1"),),
)


def world(outcome: Outcome) -> dict[str, Any]:
    """What the probe saw.

    Raises:
        AssertionError: it did not pass, so it was disturbed.
    """
    assert outcome.verdict is Verdict.PASSED, f"the next run is not innocent any more: {outcome}"
    assert not outcome.stderr, outcome.stderr
    seen: dict[str, Any] = json.loads(outcome.stdout)
    return seen


def differences(fresh: dict[str, Any], seen: dict[str, Any]) -> list[str]:
    """What differs from a fresh slot's world, a line each."""
    return [f"{key}: {seen.get(key)} and not {value}" for key, value in fresh.items() if seen.get(key) != value]
