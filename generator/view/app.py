"""The local pages: routes, and what keeps them harmless.

Only this machine can reach them (loopback), only under a name of this machine (a page elsewhere cannot rebind its own
name to 127.0.0.1 and read them), only reading requests are answered, and no page may run a script or load anything
from elsewhere.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import re
import threading
from collections.abc import AsyncIterator
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from generator.lineage import UnknownRow, show
from generator.models import Dataset
from generator.store import Database, DatabaseError
from generator.view import counts as counting
from generator.view import html, reading
from generator.view.reading import PAGE_ROWS, Filters, Row
from generator.view.sidecar import Counted, Sidecar, clock, stamp

_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; "
        b"frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
_FIRST_COUNT_S, _RECOUNT_S = 3.0, 0.5
_FIRST_INDEX_S = 2.0
_HITS = 200
_MOST_HITS = 4000
_KEY = re.compile(r"[0-9a-f]{6,32}")


class OnlyFromHere:
    """Refuse requests for another host name or that do not read; tell browsers what pages may do."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let through."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        hosts = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"]
        name = re.sub(r":\d{1,5}$", "", hosts[0]) if len(hosts) == 1 else ""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        if name not in _LOCAL_NAMES:
            refusal = PlainTextResponse("these pages are for this machine: ask for localhost or 127.0.0.1\n", 421)
            return await refusal(scope, receive, send_with_headers)
        if scope["method"] not in ("GET", "HEAD"):
            return await PlainTextResponse("read only\n", 405)(scope, receive, send_with_headers)
        return await self._app(scope, receive, send_with_headers)


class Work:
    """What is done behind the pages: counting, and adding words to the index. One of each at a time."""

    def __init__(self, database: Database, sidecar: Sidecar) -> None:
        self._database, self._sidecar = database, sidecar
        self._pool = concurrent.futures.ThreadPoolExecutor(2, thread_name_prefix="view")
        self._lock = threading.Lock()
        self._running: dict[str, concurrent.futures.Future[None]] = {}
        self._stopped = threading.Event()

    def counted(self, pipeline: str) -> tuple[Counted | None, bool]:
        """The counts of a pipeline, waited for a little while, and whether they are of now."""
        state, last = stamp(self._database), self._sidecar.counted(pipeline)
        if last and last.stamp == state:
            return last, True
        # A database that a build writes to changes all the time: a tenth of the time is spent counting, not all.
        if last is None or clock() - last.counted_at > max(2.0, 10 * last.took_s):
            future = self._start(f"counts {pipeline}", lambda: self._count(pipeline))
            with contextlib.suppress(concurrent.futures.TimeoutError):
                future.result(_FIRST_COUNT_S if last is None else _RECOUNT_S)
            last = self._sidecar.counted(pipeline)
        return last, last is not None and last.stamp == state

    def index(self) -> tuple[int, bool]:
        """How many pairs can be found, after a little while of adding what is new, and whether that is all."""
        state = stamp(self._database)
        if self._sidecar.indexed()[1] != state:
            future = self._start("index", lambda: self._sidecar.index(self._database, self._stopped))
            with contextlib.suppress(concurrent.futures.TimeoutError):
                future.result(_FIRST_INDEX_S)
        pairs, indexed = self._sidecar.indexed()
        return pairs, indexed == state

    def close(self) -> None:
        """Stop at the next batch."""
        self._stopped.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _count(self, pipeline: str) -> None:
        self._sidecar.keep(pipeline, counting.count(self._database, pipeline))

    def _start(self, name: str, work: Any) -> concurrent.futures.Future[None]:
        with self._lock:
            running = self._running.get(name)
            if running is None or running.done():
                running = self._running[name] = self._pool.submit(work)
            return running


class Pages:
    """One method a page. They are called in threads, so that a long query holds up no other page."""

    def __init__(self, database: Database, work: Work, sidecar: Sidecar) -> None:
        self._database, self._work, self._sidecar = database, work, sidecar
        self._compare = lru_cache(maxsize=4)(self._compared)  # snapshots never change

    def overview(self, request: Request) -> Response:
        """The funnel and everything else at a glance."""
        with self._database.reading() as session:
            names = reading.pipelines(session)
            name = request.query_params.get("pipeline") or (names[0] if names else "")
            values: Row = {
                "snapshots": reading.snapshots(session)[:10],
                "trainings": reading.trainings(session)[:10],
                "evaluations": reading.evaluations(session)[:20],
            }
        if names and name not in names:
            return self._missing(f"There is no pipeline {name!r}; there are: {', '.join(names)}.")
        counted, is_current = self._work.counted(name) if names else (None, True)
        return self._page(
            "overview.html", pipeline=name, pipelines=names, counted=counted, is_current=is_current, **values
        )

    def pairs(self, request: Request) -> Response:
        """Search, or browse in order."""
        asked = request.query_params
        words = asked.get("q", "").strip()[:500]
        kept = {"yes": True, "no": False}.get(asked.get("kept", ""))
        filters = Filters(asked.get("verdict", ""), kept, asked.get("filter", ""), asked.get("reason", ""))
        if _KEY.fullmatch(words.lower()):
            with contextlib.suppress(UnknownRow), self._database.reading() as session:
                show(session, words)
                return RedirectResponse(f"/show/{words.lower()}", 303)
        with self._database.reading() as session:
            names = reading.pipelines(session)
            name = asked.get("pipeline") or (names[0] if names else "")
            hits, indexed, is_complete = None, 0, True
            if words:
                indexed, is_complete = self._work.index()
                rows, after = self._find(session, name, words, filters, asked.get("after", ""))
                hits = self._sidecar.how_many(words)
                looked_at = 0
            else:
                page = reading.pairs_after(session, name, filters, asked.get("after", "")[:64])
                rows, after, looked_at = page.rows, page.after, page.looked_at
        choices = {key: value for key, value in asked.items() if key != "after" and value}
        return self._page(
            "pairs.html",
            words=words,
            filters=filters,
            kept=asked.get("kept", ""),
            pipeline=name,
            pipelines=names,
            rows=rows,
            hits=hits,
            indexed=indexed,
            is_complete=is_complete,
            looked_at=looked_at,
            is_first=not asked.get("after"),
            next_url=f"/pairs?{urlencode(choices | {'after': after})}" if after else None,
        )

    def _find(self, session: Any, name: str, words: str, filters: Filters, after: str) -> tuple[list[Row], str | None]:
        """Hits that pass the filters; of very many that do not, only some thousands are looked at for one page."""
        before = int(after) if after.isdecimal() and len(after) < 16 else None
        found: list[Row] = []
        for _ in range(_MOST_HITS // _HITS):
            hits = self._sidecar.find(words, before, _HITS if filters != Filters() else PAGE_ROWS)
            numbers = {id: number for number, id in hits}
            for row in reading.pairs_by_id(session, name, list(numbers)):
                if filters.admits(row):
                    found.append(row)
                    if len(found) == PAGE_ROWS:
                        return found, str(numbers[row["id"]])
            if not hits:
                return found, None
            before = hits[-1][0]
        return found, str(before)

    def show(self, request: Request) -> Response:
        """Any row, by its id or the beginning of it."""
        prefix = request.path_params["id"]
        with self._database.reading() as session:
            try:
                story = show(session, prefix)
                row = next((story[table] for table in _OWN if self._is_it(story.get(table), prefix)), None)
                if row is not None and self._is_it(story.get("responses"), prefix):
                    return self._page("pair.html", **reading.named(reading.pair(session, row["id"])))
            except UnknownRow as error:
                return self._missing(f"{error}.")
        return self._page("row.html", story=story, prefix=prefix)

    @staticmethod
    def _is_it(row: Any, prefix: str) -> bool:
        return isinstance(row, dict) and str(row.get("id", "")).startswith(prefix.lower())

    def snapshots(self, request: Request) -> Response:
        """All snapshots, and a form to compare two."""
        with self._database.reading() as session:
            return self._page("snapshots.html", snapshots=reading.snapshots(session))

    def diff(self, request: Request) -> Response:
        """Two snapshots side by side."""
        asked = request.query_params
        kind, start = asked.get("kind", ""), asked.get("start", "0")
        first = int(start) if start.isdecimal() and len(start) < 9 else 0
        with self._database.reading() as session:
            found = {key: session.get(Dataset, asked.get(key, "")) for key in ("old", "new")}
            if not all(found.values()):
                return self._missing("Choose two snapshots to compare.")
            old, new = found["old"], found["new"]
            assert old is not None
            assert new is not None
            comparison = self._compare(old.id, new.id)
            changes = [change for change in comparison.changes if kind in ("", change[0])]
            page = changes[first : first + PAGE_ROWS]
            before = reading.items_by_response(session, old.id, [change[1] for change in page])
            after = reading.items_by_response(session, new.id, [change[2] for change in page])
        rows = [
            {"kind": change[0], "before": before.get(change[1] or ""), "after": after.get(change[2] or "")}
            for change in page
        ]
        choices = {"old": old.id, "new": new.id} | ({"kind": kind} if kind else {})
        more = (
            f"/diff?{urlencode(choices | {'start': first + PAGE_ROWS})}" if len(changes) > first + PAGE_ROWS else None
        )
        return self._page(
            "diff.html", old=old, new=new, comparison=comparison, rows=rows, kind=kind, first=first, next_url=more
        )

    def _compared(self, old: str, new: str) -> reading.Comparison:
        with self._database.reading() as session:
            return reading.compare(session, session.get_one(Dataset, old), session.get_one(Dataset, new))

    def trainings(self, request: Request) -> Response:
        """All trainings."""
        with self._database.reading() as session:
            return self._page("trainings.html", trainings=reading.trainings(session))

    def training(self, request: Request) -> Response:
        """One training: its curves, settings and scores."""
        with self._database.reading() as session:
            found = reading.training(session, request.path_params["id"])
            if found is None:
                return self._missing("There is no such training.")
            scores = reading.evaluations(session, found["id"])
        curves = reading.curves(found["output"], self._database)
        return self._page("training.html", training=found, curves=curves, evaluations=scores)

    def evaluations(self, request: Request) -> Response:
        """All scores."""
        with self._database.reading() as session:
            return self._page("evaluations.html", evaluations=reading.evaluations(session))

    def evaluation(self, request: Request) -> Response:
        """One evaluation with its samples."""
        with self._database.reading() as session:
            found = reading.evaluation(session, request.path_params["id"])
        return (
            self._page("evaluation.html", evaluation=found) if found else self._missing("There is no such evaluation.")
        )

    def style(self, request: Request) -> Response:
        """The style sheet."""
        return Response(html.style(), media_type="text/css")

    def missing(self, request: Request, error: Exception) -> Response:
        """A page that there is none of."""
        return self._missing("There is no such page.")

    def troubled(self, request: Request, error: Exception) -> Response:
        """The database went away, is locked or damaged."""
        return self._page("message.html", status=503, title="The database cannot be read", message=f"{error}.")

    def _missing(self, message: str) -> Response:
        return self._page("message.html", status=404, title="Not found", message=message)

    def _page(self, template: str, *, status: int = 200, **values: Any) -> Response:
        where = self._database.name
        return HTMLResponse(html.render(template, database=where, is_file=False, **values), status)


_OWN = (
    "responses",
    "instructions",
    "concepts",
    "seeds",
    "executions",
    "recipes",
    "datasets",
    "trainings",
    "evaluations",
)


def make_app(database: Database, cache: Path | None = None) -> Starlette:
    """The pages over an open database.

    Args:
        database: opened by `generator.store.open_read_only`.
        cache: folder of the viewer's own file; None is the user's cache folder.
    """
    sidecar = Sidecar(database, cache)
    work = Work(database, sidecar)
    pages = Pages(database, work, sidecar)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        work.close()

    return Starlette(
        routes=[
            Route("/", pages.overview),
            Route("/pairs", pages.pairs),
            Route("/show/{id}", pages.show),
            Route("/snapshots", pages.snapshots),
            Route("/diff", pages.diff),
            Route("/trainings", pages.trainings),
            Route("/training/{id}", pages.training),
            Route("/evaluations", pages.evaluations),
            Route("/evaluation/{id}", pages.evaluation),
            Route("/style.css", pages.style),
        ],
        middleware=[Middleware(OnlyFromHere)],
        exception_handlers={404: pages.missing, DatabaseError: pages.troubled},
        lifespan=lifespan,
    )


def serve(database: Database, port: int, on_ready: Any) -> None:
    """Serve the pages on 127.0.0.1 until interrupted.

    Args:
        database: opened by `generator.store.open_read_only`.
        port: 0 takes a free one.
        on_ready: called with the address, once it listens.

    Raises:
        OSError: the port is taken.
    """
    import socket

    import uvicorn

    with socket.create_server(("127.0.0.1", port)) as listener:
        on_ready(f"http://127.0.0.1:{listener.getsockname()[1]}")
        config = uvicorn.Config(make_app(database), log_level="warning", access_log=False, server_header=False)
        uvicorn.Server(config).run(sockets=[listener])
