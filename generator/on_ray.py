"""A build whose stages run on a Ray cluster: `selfalign build --executor ray`.

Ray holds no state of the build. Workers claim rows of the one database by lease and store each under its key, as
several builds on one database do; Ray starts them, and tells when one is lost. So a lost worker, node or driver costs
what was in flight, and starting again is going on.

The driver does what is done once (seeds before the stages, selection after them), takes the workers through the stages
as one process goes through them (`line.STEPS`: programs run while responses are drawn), and frees the leases of a lost
worker at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from generator import line
from generator.causes import Cause
from generator.engines import Engine
from generator.engines.factory import open_engine
from generator.leases import Leases, clear_dead, remove_worker, this_host
from generator.line import Group, LazyEngine, Line, Tally
from generator.pipeline import Pipeline, Report, declare_executions, freeze_pairs, prepare
from generator.progress import Progress
from generator.recipe import ModelSettings, Recipe
from generator.store import Database, open_database
from generator.work import Share
from generator.writer import Writer
from sandbox_server.jobs import SandboxInfo
from sandbox_server.settings import SettingsError

_LOCAL = "local"
_REACH_S = 10.0
_LOOK_S = 0.5
_TELL_EVERY_S = 10.0
_LEAVE_S = 10.0
_MOST_LOST = 5
_OBJECT_STORE_BYTES = 80 * 2**20
"""Near the least that Ray takes: nothing of a build passes through it."""


class ClusterError(Exception):
    """The cluster cannot be had, or loses every worker; the message is one line that says what to do."""


@dataclass(frozen=True)
class Assignment:
    """What every worker is told.

    Attributes:
        recipe: the whole file.
        url: of the database, with its password.
        executions: how programs run; a worker whose sandbox would run them otherwise is refused.
        folder: the driver's, against which the recipe's paths are meant.
        secrets: environment variables that the recipe names.
        host: the driver's, see `this_host`.
        of: how many workers there are.
        open_engine: makes a worker's engine.
    """

    recipe: Recipe
    url: str
    executions: Cause
    folder: str
    secrets: dict[str, str] = field(repr=False)
    host: str
    of: int
    open_engine: Callable[[ModelSettings], Engine]


class Worker:
    """What one Ray actor does. Its methods may be called side by side.

    Args:
        assignment: what every worker is told.
        id: its name in `workers`, which the driver knows.
        index: which of them it is, from 0.
    """

    def __init__(self, assignment: Assignment, id: str, index: int) -> None:
        self._assignment = assignment
        self._id = id
        self._share = Share(index, assignment.of)
        self._leaving = asyncio.Event()
        self._tallies: dict[str, Tally] = {}
        self._line: Line | None = None
        self._life: asyncio.Task[None] | None = None
        self._work: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Open the database, the sandbox and the model.

        Raises:
            DatabaseError: the database cannot be reached from here.
            SandboxError: the sandbox cannot be had.
            SettingsError: what is here is not what the driver has.
        """
        ready = asyncio.get_running_loop().create_future()
        self._life = asyncio.create_task(self._live(ready))
        await asyncio.wait((self._life, ready), return_when=asyncio.FIRST_COMPLETED)
        if self._life.done():
            self._life.result()
        self._line = ready.result()

    async def work(self, stages: Sequence[str]) -> dict[str, Tally]:
        """Go once through what is missing of stages that are worked off together, see `Line.work`.

        Returns:
            What came of the rows that were made, by stage.
        """
        assert self._line is not None
        self._tallies = {stage: Tally() for stage in stages}
        self._work = asyncio.create_task(self._line.work(stages, self._tallies, self._share))
        await self._work
        return self._tallies

    async def tallies(self) -> dict[str, Tally]:
        """Tell how far the work is."""
        return self._tallies

    async def close(self) -> None:
        """Stop the work, store what is finished, give up what is not."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait((self._work,))
        self._leaving.set()
        if self._life is not None:
            await asyncio.wait((self._life,))

    async def _live(self, ready: asyncio.Future[Line]) -> None:
        """Hold everything open, in one task from beginning to end."""
        told = self._assignment
        recipe = told.recipe
        os.environ.update(told.secrets)
        with contextlib.suppress(OSError):  # on another machine it need not be there
            os.chdir(told.folder)
        if told.url.startswith("sqlite") and this_host() != told.host:
            raise SettingsError(
                "[database] url: a SQLite file serves the workers of one machine, and the cluster has more; "
                "use postgresql://HOST/NAME"
            )
        async with contextlib.AsyncExitStack() as stack:
            database = await asyncio.to_thread(open_database, told.url)
            stack.callback(database.close)
            sandbox = await stack.enter_async_context(line.open_sandbox(recipe.sandbox))
            info = await sandbox.info()
            if (here := line.execution_cause(recipe.sandbox, info)) != told.executions:
                raise SettingsError(
                    f"[sandbox] address: the sandbox that a worker reaches at {recipe.sandbox.address} is not like the "
                    f"driver's: {_difference(told.executions, here)}"
                )
            engine = LazyEngine(recipe.model, told.open_engine)
            stack.push_async_callback(engine.close)
            leases = await stack.enter_async_context(Leases(database, self._id))
            writer = await stack.enter_async_context(Writer(database))
            runs = recipe.sandbox.concurrency or 2 * info.slots
            chain = Pipeline(recipe).chain
            ready.set_result(Line(recipe, chain, told.executions, database, leases, writer, engine, sandbox, runs))
            await self._leaving.wait()


def build_on_ray(
    recipe: Recipe,
    database: Database,
    progress: Progress,
    *,
    address: str = "",
    workers: int = 0,
    open_engine: Callable[[ModelSettings], Engine] = open_engine,
) -> Report:
    """Make everything that the recipe asks for and the database does not have, with the workers of a Ray cluster.

    Args:
        recipe: the whole file.
        database: open, of this code's schema. Workers open it by its URL: PostgreSQL, or SQLite where the cluster is
            this machine.
        progress: told how far it is.
        address: of the cluster; empty: the one that RAY_ADDRESS names, else one on this machine as long as the build
            takes.
        workers: how many; 0 means one for each CPU of the cluster.
        open_engine: makes each worker's engine.

    Raises:
        ClusterError: the cluster cannot be had, or loses workers as fast as they start.
        SettingsError: Ray is not installed, or the recipe asks for what workers cannot have.
        DatabaseError, EngineError, SandboxError: as `generator.pipeline.build`; what is finished is stored.
    """
    if recipe.model.engine in ("vllm", "transformers"):
        raise SettingsError(
            f"[model] engine: {recipe.model.engine!r} holds the model in one process; with --executor ray serve it "
            "(vllm serve) and use 'openai'"
        )
    with _cluster(address) as ray:
        pipeline = Pipeline(recipe)
        report = Report(pipeline.name)
        prepare(database, pipeline, progress, report)
        executions = declare_executions(database, pipeline, asyncio.run(_ask_sandbox(recipe)))
        of = workers or int(ray.cluster_resources().get("CPU", 1)) or 1
        names = (recipe.model.api_key_env, recipe.sandbox.token_env)
        secrets = {name: os.environ[name] for name in names if name in os.environ}
        url = _absolute(database)
        here = str(Path.cwd())
        assignment = Assignment(recipe, url, executions, here, secrets, this_host(), of, open_engine)
        missing = partial(line.missing, database, pipeline.chain, executions.id)
        with contextlib.closing(_Crew(ray, assignment, database, missing, progress)) as crew:
            for stages in line.STEPS:
                report.add(crew.work_off(stages))
            report.workers_lost = crew.lost
        freeze_pairs(database, pipeline, executions, progress, report)
    return report


@dataclass(eq=False)
class _Member:
    """A worker as the driver sees it.

    Attributes:
        call: what it is doing; None while it waits.
        is_open: whether it can work: it has a place in the cluster, and everything that it needs.
        tallies: how far its work is, as last heard.
    """

    index: int
    id: str
    actor: Any
    call: Any
    is_open: bool = False
    tallies: dict[str, Tally] = field(default_factory=dict)


class _Crew:
    """The workers, as many as asked for, whatever becomes of single ones.

    Attributes:
        lost: how many had to be replaced.
    """

    def __init__(
        self, ray: Any, assignment: Assignment, database: Database, missing: Callable[[str], int], progress: Progress
    ) -> None:
        self.lost = 0
        self._ray = ray
        self._database = database
        self._missing = missing
        self._progress = progress
        # Ray restarts none itself: the next one has a name of its own, so that a lost one that comes back does not
        # prolong its leases.
        self._actor: Any = ray.remote(num_cpus=1, max_restarts=0, scheduling_strategy="SPREAD")(Worker)
        self._assignment = assignment
        self._members: list[_Member] = []
        self._lost_since_row = 0

    def work_off(self, stages: Sequence[str]) -> dict[str, Tally]:
        """Make what is missing of stages that are worked off together, and wait for what other builds have claimed.

        Returns:
            What came of each. Programs that a lost worker ran in its last moments, and did not tell of, are left out.

        Raises:
            ClusterError: workers are lost as fast as they start.
            Exception: what a worker raised.
        """
        group = Group(stages, self._missing, self._progress)
        before: tuple[str, ...] = ()
        lost = self.lost
        while lacking := group.lacking(unheard=self.lost > lost):
            # All have been through the list. What is missing still is a lost worker's, or another build's.
            if lacking == before and not clear_dead(self._database):
                time.sleep(_LOOK_S)
            for index in range(0 if self._members else self._assignment.of):
                self._hire(index)
            self._go_through(lacking, group)
            before = lacking
        return group.tallies

    def _go_through(self, stages: Sequence[str], group: Group) -> None:
        """Have every worker go once through what is missing."""
        done = [dict(group.tallies)]  # of passes that are over, and as last heard of lost workers
        told_at = time.monotonic()
        self._send(stages)
        while True:
            for tallies in self._finished(stages):
                done.append(tallies)
            self._listen()
            heard = done + [member.tallies for member in self._members]
            now = {stage: sum((each[stage] for each in heard if stage in each), Tally()) for stage in group.tallies}
            if now != group.tallies:
                self._lost_since_row = 0
                group.tallies.update(now)
                group.tell()
            is_open = [member for member in self._members if member.is_open]
            if is_open and all(member.call is None for member in is_open):
                return
            if not is_open and time.monotonic() - told_at > _TELL_EVERY_S:
                free = self._ray.available_resources().get("CPU", 0)
                self._progress.say(f"{stages[0]}: waiting for a worker to start; the cluster has {free:g} free CPUs")
                told_at = time.monotonic()

    def close(self) -> None:
        """Let the workers store what they have finished, and end them."""
        calls = [member.actor.close.remote() for member in self._members if member.is_open]
        if calls:
            self._ray.wait(calls, num_returns=len(calls), timeout=_LEAVE_S)
        for member in self._members:
            self._ray.kill(member.actor)

    def _hire(self, index: int) -> None:
        id = uuid.uuid4().hex
        actor = self._actor.remote(self._assignment, id, index)
        self._members.append(_Member(index, id, actor, actor.open.remote()))

    def _send(self, stages: Sequence[str]) -> None:
        for member in self._members:
            if member.is_open and member.call is None:
                member.call = member.actor.work.remote(stages)

    def _finished(self, stages: Sequence[str]) -> Iterator[dict[str, Tally]]:
        """Wait a moment for calls to end: yield what came of those, put others in the place of lost workers."""
        calls = {member.call: member for member in self._members if member.call is not None}
        if not calls:
            return
        ready, _ = self._ray.wait(list(calls), num_returns=1, timeout=_LOOK_S)
        for call in ready:
            member = calls[call]
            try:
                result = self._ray.get(call)
            except self._ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except self._ray.exceptions.RayActorError as error:
                yield member.tallies
                self._replace(member, error)
                self._send(stages)  # what it had claimed is free
                continue
            member.call = None
            member.tallies = {}
            if member.is_open:
                yield result
            else:
                member.is_open = True
                self._send(stages)

    def _replace(self, member: _Member, error: Exception) -> None:
        self._members.remove(member)
        self._ray.kill(member.actor)  # it may only be out of reach
        remove_worker(self._database, member.id)
        self.lost += 1
        self._lost_since_row += 1
        reason = str(error).strip().splitlines()[-1]
        if self._lost_since_row >= _MOST_LOST + len(self._members):
            raise ClusterError(f"{self._lost_since_row} workers were lost one after the other, the last one: {reason}")
        self._progress.say("a worker was lost; another takes its place and what it was making is made again")
        self._hire(member.index)

    def _listen(self) -> None:
        """Hear how far the workers are; one that does not answer is heard again later."""
        busy = {member.actor.tallies.remote(): member for member in self._members if member.is_open and member.call}
        if not busy:
            return
        heard, _ = self._ray.wait(list(busy), num_returns=len(busy), timeout=_LOOK_S)
        for answer in heard:
            with contextlib.suppress(self._ray.exceptions.RayError):  # its work tells the same
                busy[answer].tallies = self._ray.get(answer)


@contextlib.contextmanager
def _cluster(address: str) -> Iterator[Any]:
    """Join the cluster as long as the block runs, unless this process is in one already."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a build reports to nobody unless asked to
    try:
        import ray
    except ImportError:
        raise SettingsError("--executor ray needs Ray: pip install 'selfalign[ray]'") from None
    if ray.is_initialized():
        yield ray
        return
    address = address or os.environ.get("RAY_ADDRESS") or _LOCAL
    local: dict[str, Any] = (
        {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES} if address == _LOCAL else {}
    )
    try:
        _look_for(address)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **local)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ClusterError(f"--address {address}: no Ray cluster there: {reason}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _look_for(address: str) -> None:
    """Fail at once where nothing listens: Ray itself tries for two minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_S).close()


async def _ask_sandbox(recipe: Recipe) -> SandboxInfo:
    async with line.open_sandbox(recipe.sandbox) as sandbox:
        return await sandbox.info()


def _absolute(database: Database) -> str:
    """The database's URL, password and all; the path of a file from the root."""
    url = database.engine.url
    if url.get_backend_name() == "sqlite":
        url = url.set(database=str(Path(url.database or "").resolve()))
    return url.render_as_string(hide_password=False)


def _difference(one: Cause, other: Cause) -> str:
    """Name the parameters in which two causes differ."""
    mine, its = one.parameters, other.parameters
    return ", ".join(key for key in mine.keys() | its.keys() if mine.get(key) != its.get(key))
