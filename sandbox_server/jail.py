"""The sandbox itself: jobs in, outcomes out, one jail for each program that runs."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import resource
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from sandbox_server import apart, cgroup, image, nsjail, report, runtimes, seccomp, verdict
from sandbox_server.errors import HostUnfit, InvalidJob, Unavailable, Unsupported
from sandbox_server.guest import wire
from sandbox_server.jobs import Isolation, Job, Judge, Limits, Outcome, SandboxInfo, Verdict
from sandbox_server.sandbox import Sandbox
from sandbox_server.slot import Evidence, Slot
from sandbox_server.tasks import to_the_end

_log = logging.getLogger(__name__)
_numbers = itertools.count(1)  # of jails, whichever sandbox of this process they are in
_MIB = 1 << 20
_MOST_SLOTS = 1024  # all of them start at once: a number with too many digits would take the machine
# By limit of a job: the kernel's limit on processes that stands above it, the shell's flag for that, and what fits. Of
# CPU time the kernel's limit is to be twice a job's, and some seconds: see `slot`.
_HOST_LIMITS: dict[str, tuple[int, str, Callable[[int], int]]] = {
    "open_files": (resource.RLIMIT_NOFILE, "n", lambda hard: hard),
    "file_size_bytes": (resource.RLIMIT_FSIZE, "f", lambda hard: hard),
    "memory_bytes": (resource.RLIMIT_AS, "v", lambda hard: hard),
    "processes": (resource.RLIMIT_NPROC, "u", lambda hard: hard),
    "cpu_time_ms": (resource.RLIMIT_CPU, "t", lambda hard: (hard - 3) // 2 * 1000),
}
_DESCRIPTORS, _DESCRIPTORS_PER_SLOT = 100, 40  # of the server: at most, with a separate judge in every slot
_BOOT = (
    "import sys; sys.path.append('/sandbox'); from selfalign_guest.zygote import main; "
    "main(int(sys.argv[1]), 'nested' in sys.argv, 'apart' in sys.argv, sys.argv[2:])"
)
_NAMESPACES = {
    "user": "user",
    "pid": "pid",
    "mnt": "mount",
    "net": "net",
    "ipc": "ipc",
    "uts": "uts",
    "cgroup": "cgroup",
}
# A program that says what holds it: namespaces by what names them in /proc, filter and privileges by the kernel's word.
_LOOK = f"""
import os
for kind in {tuple(_NAMESPACES)}:
    print(kind, os.readlink(f"/proc/self/ns/{{kind}}"))
print(open("/proc/self/status").read())
"""


@dataclass(frozen=True, slots=True)
class SandboxConfig:
    """How to hold programs.

    Attributes:
        slots: programs run at once; 0 for one per processor.
        runtimes: names of the runtimes offered; an empty name in a job takes the first.
        default_limits: for what a job leaves out.
        maximum_limits: what a job may ask.
        warm: keep a started interpreter in each slot and fork it; else start one for each run.
        runs_per_jail: a warm jail is renewed after so many.
        cgroup: which control groups to use; "auto" takes the best that works.
        cache_dir: where images are kept; None for /var/cache/selfalign as root, else the user's own cache.
    """

    slots: int = 0
    runtimes: tuple[str, ...] = ("python",)
    default_limits: Limits = Limits(
        wall_time_ms=20_000,
        cpu_time_ms=5_000,
        memory_bytes=512 * _MIB,
        processes=64,
        open_files=256,
        file_size_bytes=64 * _MIB,
        disk_bytes=128 * _MIB,
        output_bytes=1 * _MIB,
    )
    maximum_limits: Limits = Limits(
        wall_time_ms=300_000,
        cpu_time_ms=120_000,
        memory_bytes=8192 * _MIB,
        processes=1_024,
        open_files=4_096,
        file_size_bytes=1024 * _MIB,
        disk_bytes=2048 * _MIB,
        output_bytes=64 * _MIB,
    )
    warm: bool = True
    runs_per_jail: int = 20_000
    cgroup: Literal["auto", "v2", "v1", "none"] = "auto"
    cache_dir: Path | None = field(default=None)

    def __post_init__(self) -> None:
        if not 0 <= self.slots <= _MOST_SLOTS:
            raise ValueError(f"slots: expected 0 (one per processor) to {_MOST_SLOTS}, got {self.slots}")
        if not self.runtimes:
            raise ValueError("runtimes: expected at least one name")
        for name in Limits.__slots__:
            default, maximum = getattr(self.default_limits, name), getattr(self.maximum_limits, name)
            if not 0 < default <= maximum:
                raise ValueError(f"default_limits.{name}: expected 1 to {maximum}, the maximum, got {default}")


async def open_sandbox(settings: SandboxConfig) -> Sandbox:
    """Make a sandbox on this host and run one program in it, so that what it promises was tried.

    Raises:
        HostUnfit: the host lacks something; the message says what, and what to do.
    """
    opening = asyncio.ensure_future(asyncio.to_thread(_Jails, settings))
    try:
        sandbox = await to_the_end(opening)
    except asyncio.CancelledError:
        if not opening.exception():
            await opening.result().close()
        raise
    try:
        await sandbox.try_out()
    except BaseException:
        await sandbox.close()
        raise
    return sandbox


class _Jails:
    """A `Sandbox` of nsjails."""

    def __init__(self, settings: SandboxConfig) -> None:
        self._slots = settings.slots or os.cpu_count() or 1
        self._settings = _within_host(settings, self._slots)
        nsjail.binary()
        cache_dir = settings.cache_dir or image.default_cache_dir()
        self._runtimes = {name: runtimes.open_runtime(name, cache_dir) for name in settings.runtimes}
        self._filter = seccomp.candidate_filter()
        self._first_uid = nsjail.first_uid(2 * self._slots)  # a separate judge has a jail of its own
        self._parent = cgroup.open_parent(settings.cgroup)
        self._free = list(range(self._slots))
        self._available = asyncio.Semaphore(self._slots)
        self._warm: dict[tuple[str, int, bool], Slot] = {}
        self._running: set[asyncio.Task[Outcome]] = set()
        self._closed = False
        self._nested = settings.warm
        self._namespaces: tuple[str, ...] = ()
        self._started = 0
        self._lost = 0

    @property
    def jails_started(self) -> int:
        """Jails that were started, renewed ones included."""
        return self._started

    @property
    def jails_lost(self) -> int:
        """Jails that broke and were thrown away."""
        return self._lost

    async def try_out(self) -> None:
        """Run one program in each runtime, and have a jail of the first in every slot."""
        try:
            await self._try_runtimes()
        except Unavailable as error:
            if not self._nested:
                raise HostUnfit(str(error)) from error
            # The jail stands, but perhaps cannot make worlds in it.
            self._nested = False
            _log.warning("one jail for each program, since a jail here cannot make further namespaces: %s", error)
            await self.try_out()
        if self._nested:
            first = self._runtimes[self._settings.runtimes[0]]
            waiting = [
                number for number in range(self._slots) if (first.settings.name, number, False) not in self._warm
            ]
            started = await _all_or_none([self._start(first, number, nested=True, apart=False) for number in waiting])
            self._warm |= {
                (first.settings.name, number, False): slot for number, slot in zip(waiting, started, strict=True)
            }

    async def _try_runtimes(self) -> None:
        for name, runtime in self._runtimes.items():
            if runtime.settings.kind == "command":
                job, wanted = Job(argv=("true",), runtime=name), Verdict.EXITED
            else:
                job, wanted = Job(code="x = 1", tests="assert x == 1", runtime=name), Verdict.PASSED
            seen = await self.run(job)
            if seen.verdict is not wanted or seen.exit_code:
                raise Unavailable(f"runtime {name!r} fails its self-test: {seen}")
        # Every jail has the guest's interpreter, one for commands too.
        await self._look_around(runtime, self._limits(job))

    async def _look_around(self, runtime: runtimes.Runtime, limits: Limits) -> None:
        """Learn from inside a jail what holds a program, and refuse to serve when a wall is missing."""
        seen = await self._once(Job(code=_LOOK), runtime, limits, 0)
        lines = (line.split(None, 1) for line in seen.stdout.decode(errors="replace").splitlines())
        facts = {line[0]: line[1] for line in lines if len(line) == 2}
        self._namespaces, problems = _walls(facts)
        if problems:
            raise HostUnfit(f"a program here is not held: {'; '.join(problems)}")

    async def run(self, job: Job) -> Outcome:
        """Run one job; see `Sandbox.run`."""
        if self._closed:
            raise Unavailable("the sandbox is closed")
        runtime = self._runtimes.get(job.runtime or self._settings.runtimes[0])
        if runtime is None:
            raise InvalidJob("runtime", f"unknown runtime {job.runtime!r}; known: {', '.join(self._runtimes)}")
        if bool(job.argv) != (runtime.settings.kind == "command"):
            raise Unsupported(
                f"argv: runtime {job.runtime!r} runs {'programs' if job.argv else 'commands'}, "
                f"not {'commands' if job.argv else 'programs'}"
            )
        limits = self._limits(job)
        task = asyncio.current_task()
        async with self._available:
            if self._closed:  # while we waited
                raise Unavailable("the sandbox is closed")
            number = self._free.pop()
            try:
                self._running.add(task)  # type: ignore[arg-type]
                once = self._once if job.judge is Judge.SAME_INTERPRETER else self._once_apart
                outcomes = [await once(job, runtime, limits, number) for _ in range(max(job.repeat, 1))]
            finally:
                self._running.discard(task)
                self._free.append(number)
        if len(outcomes) == 1:
            return outcomes[0]
        verdicts = tuple(seen.verdict for seen in outcomes)
        told = next((seen for seen in outcomes if seen.verdict is not Verdict.PASSED), outcomes[0])
        return replace(told, repeat_verdicts=verdicts, flaky=len(set(verdicts)) > 1)

    async def info(self) -> SandboxInfo:
        """What this sandbox is; see `Sandbox.info`."""
        rootless = os.geteuid() != 0
        warnings = []
        if self._parent.version == "none":
            warnings.append(
                "Without control groups, memory and processes are limited for each process and not for the whole tree "
                f"({self._parent.reason})."
            )
        if not self._nested:
            warnings.append("Each program starts an interpreter of its own: slower, with the same walls.")
        if rootless:
            warnings.append("Without root, programs run as the server's own user, in a user namespace without rights.")
        infos = [runtime.info() for runtime in self._runtimes.values()]
        return SandboxInfo(
            version=_version(),
            runtimes=tuple(replace(info, warm=self._nested) for info in infos),
            default_limits=self._settings.default_limits,
            maximum_limits=self._settings.maximum_limits,
            slots=self._slots,
            queue_size=0,
            judges=(Judge.SAME_INTERPRETER, Judge.SEPARATE),
            isolation=Isolation(
                namespaces=self._namespaces,
                seccomp=True,
                cgroup=self._parent.version,
                rootless=rootless,
                warnings=tuple(warnings),
            ),
        )

    async def close(self) -> None:
        """Kill what runs and give everything back."""
        if self._closed:
            return
        self._closed = True
        await to_the_end(self._end())

    async def _end(self) -> None:
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await asyncio.gather(*(slot.close() for slot in self._warm.values()))
        self._warm.clear()
        await asyncio.to_thread(self._parent.remove)

    async def _once(self, job: Job, runtime: runtimes.Runtime, limits: Limits, number: int) -> Outcome:
        slot = await self._slot(job, runtime, number)
        try:
            nonce = secrets.token_hex(16)
            evidence = await slot.run(_request(job, nonce), job.stdin, limits, bool(job.collect))
            told = report.parse(bytes(evidence.report), nonce)
            outcome = verdict.outcome(job, evidence, told, runtime.fingerprint)
            _excuse(outcome, runtime, evidence)
            if job.collect:
                files, refused = report.collected(bytes(evidence.collected))
                outcome = replace(outcome, files=files, files_refused=refused)
            return outcome
        finally:
            await self._put_back(slot, runtime, number)

    async def _once_apart(self, job: Job, runtime: runtimes.Runtime, limits: Limits, number: int) -> Outcome:
        """Run a program in its place's jail, and its tests in the jail of the place beside it."""
        places = (number, self._slots + number)
        program, judge = await _all_or_none([self._slot(job, runtime, place, apart=True) for place in places])
        try:
            nonce = secrets.token_hex(16)
            requests = (
                _request(replace(job, tests=""), "", side="program"),
                _request(replace(job, code="", files=(), collect=(), env=()), nonce, side="judge"),
            )
            seen, judged = await apart.run(program, judge, requests, job.stdin, limits, bool(job.collect))
            told = report.parse(bytes(judged.report), nonce)
            outcome = verdict.apart(job, seen, judged, told, runtime.fingerprint)
            _excuse(outcome, runtime, seen, judged)
            if told is not None and told.end == "refused" and outcome.verdict is Verdict.INCOMPLETE:
                raise Unsupported(f"judge: SEPARATE cannot judge these tests: {told.reason}")
            if job.collect:
                files, refused = report.collected(bytes(seen.collected))
                outcome = replace(outcome, files=files, files_refused=refused)
            return outcome
        finally:
            await to_the_end(
                asyncio.gather(
                    *(
                        self._put_back(slot, runtime, place, apart=True)
                        for slot, place in zip((program, judge), places, strict=True)
                    )
                )
            )

    async def _slot(self, job: Job, runtime: runtimes.Runtime, number: int, apart: bool = False) -> Slot:
        """A jail for one run: the warm one of this place, or a new one."""
        hash_seed = (job.random_seed or 0) % 2**32
        if not self._nested or hash_seed:
            return await self._start(runtime, number, nested=False, apart=apart, hash_seed=hash_seed)
        slot = self._warm.pop((runtime.settings.name, number, apart), None)
        if slot is not None and not slot.healthy:  # it died while it was idle
            self._lost += 1
            await slot.close()
            slot = None
        return slot or await self._start(runtime, number, nested=True, apart=apart)

    async def _put_back(self, slot: Slot, runtime: runtimes.Runtime, number: int, apart: bool = False) -> None:
        self._lost += not slot.healthy
        reusable = slot.nested and slot.healthy and slot.served < self._settings.runs_per_jail
        if reusable and not self._closed:
            self._warm[runtime.settings.name, number, apart] = slot
        else:
            await slot.close()

    async def _start(
        self, runtime: runtimes.Runtime, number: int, nested: bool, apart: bool, hash_seed: int = 0
    ) -> Slot:
        self._started += 1
        # The guest's libraries are bound when it starts, or each fork would look up what it is the first to call.
        env = (*runtime.env, ("PYTHONHASHSEED", str(hash_seed)), ("LD_BIND_NOW", "1"))
        kind = ("nested",) * nested + ("apart",) * apart
        kind += tuple(f"preload={module}" for module in runtime.settings.preload)

        def jail(control: int, log: int) -> nsjail.Jail:
            return nsjail.Jail(
                root=runtime.root,
                mounts=runtime.mounts,
                guest=runtime.guest,
                argv=(*runtime.python, "-s", "-S", "-P", "-B", "-X", "utf8", "-c", _BOOT, str(control), *kind),
                env=env,
                pass_fds=(control,),
                log_fd=log,
                host_uid=self._first_uid + 2 * number,
                proc="" if nested else "hidepid=invisible,subset=pid",
            )

        try:
            group = self._parent.group(f"jail-{next(_numbers)}")
        except OSError as error:
            raise HostUnfit(f"a jail gets no control group: {error}") from error
        return await Slot.start(jail, group, self._filter, nested)

    def _limits(self, job: Job) -> Limits:
        """The job's limits, completed."""
        asked = {name: getattr(job.limits, name) for name in Limits.__slots__}
        for name, value in asked.items():
            maximum = getattr(self._settings.maximum_limits, name)
            if value is not None and not 0 < value <= maximum:
                raise InvalidJob(f"limits.{name}", f"expected 1 to {maximum}, got {value}")
        return replace(self._settings.default_limits, **{name: value for name, value in asked.items() if value})


def _excuse(outcome: Outcome, runtime: runtimes.Runtime, *evidence: Evidence) -> None:
    """Take no failure for the program's while the host fell short of what the program was allowed, or promised.

    Raises:
        Unavailable: the host, or a control group above the server's, ran out of memory or processes; or the runtime's
            image is gone.
    """
    if outcome.verdict is not Verdict.PASSED and not runtime.is_whole():
        _log.error(
            "the image of runtime %s, %s, was changed or removed: restart the server",
            *(outcome.runtime_fingerprint, runtime.library),
        )
        raise Unavailable("a part of the sandbox's runtime is gone from its host")
    short = next((seen.host_short for seen in evidence if seen.host_short), "")
    if short and outcome.verdict is not Verdict.PASSED:
        _log.warning(
            "the host, or the control group that the server is in, ran out of %s below a program's own limit, and its "
            "run is not judged: give the server more, or set fewer slots or a lower limit for programs",
            short,
        )
        raise Unavailable(f"the sandbox's host ran short of {short}; try again")


async def _all_or_none(starts: list[Coroutine[Any, Any, Slot]]) -> list[Slot]:
    """All of these slots; when one fails or the caller is cancelled, none is left."""
    tasks = [asyncio.ensure_future(start) for start in starts]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        await to_the_end(_give_up(tasks))
        raise


async def _give_up(tasks: list[asyncio.Task[Slot]]) -> None:
    for task in tasks:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.gather(*(slot.close() for slot in ended if isinstance(slot, Slot)))


def _request(job: Job, nonce: str, side: str = "") -> bytes:
    code, tests = (text.encode("utf-8", "surrogatepass") for text in (job.code, job.tests))
    if not (side or job.files or job.env or job.argv or job.collect or job.entry_point) and job.random_seed is None:
        return wire.pack_plain(nonce, code, tests, job.expect_tests)
    header = {
        "side": side,
        "files": [(file.path, file.executable) for file in job.files],
        "env": dict(job.env),
        "argv": list(job.argv),
        "collect": list(job.collect),
        "seed": job.random_seed,
        "expect_tests": job.expect_tests,
        "entry_point": job.entry_point,
        "nonce": nonce,
    }
    return wire.pack(header, [code, tests, *(file.content for file in job.files)])


def _walls(facts: dict[str, str]) -> tuple[tuple[str, ...], list[str]]:
    """What a program's look at itself proves.

    Args:
        facts: what `_LOOK` prints, by the first word of each line.

    Returns:
        The namespaces that are not the server's own; and what is missing.
    """
    own = {kind: str(Path("/proc/self/ns", kind).readlink()) for kind in _NAMESPACES}
    apart = tuple(name for kind, name in _NAMESPACES.items() if facts.get(kind, own[kind]).strip() != own[kind])
    problems = [f"the server's {name} namespace is its own" for name in _NAMESPACES.values() if name not in apart]
    wanted = (
        ("Seccomp:", "2", "no system call filter"),
        ("NoNewPrivs:", "1", "it can gain privileges by exec"),
        ("CapEff:", "0" * 16, "it has capabilities"),
        ("CapBnd:", "0" * 16, "it can gain capabilities"),
    )
    problems += [problem for field, value, problem in wanted if facts.get(field, "").strip() != value]
    return apart, problems


def _within_host(settings: SandboxConfig, slots: int) -> SandboxConfig:
    """Bound what jobs may ask by what this process may have: a jail inherits it, and cannot have more.

    Raises:
        HostUnfit: not even the default can be had.
    """
    maximum = settings.maximum_limits
    for name, (kind, flag, most_within) in _HOST_LIMITS.items():
        hard = resource.getrlimit(kind)[1]
        if hard == resource.RLIM_INFINITY:
            continue
        most, default, wanted = most_within(hard), getattr(settings.default_limits, name), getattr(maximum, name)
        if default > most:
            raise HostUnfit(
                f"sandbox.default_limits.{name} is {default}, and within this process' own limit (ulimit -H{flag}: "
                f"{hard}) no program can have more than {max(most, 0)}; raise the one or lower the other"
            )
        if wanted > most:
            _log.warning("programs may ask for limits.%s up to %d, not %d: ulimit -H%s", name, most, wanted, flag)
            maximum = replace(maximum, **{name: most})
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if 0 < descriptors < _DESCRIPTORS + slots * _DESCRIPTORS_PER_SLOT:
        _log.warning(
            "%d open files (ulimit -Hn) may not do for %d slots: runs will be refused; allow %d, or set fewer slots",
            *(descriptors, slots, _DESCRIPTORS + slots * _DESCRIPTORS_PER_SLOT),
        )
    return replace(settings, maximum_limits=maximum)


def _version() -> str:
    try:
        return version("selfalign")
    except PackageNotFoundError:
        return "0+unknown"
