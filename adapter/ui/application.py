"""The pages on the metrics port: routes, updates, and the tasks that record and announce changes."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.resources
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import structlog
from aiohttp import web

from adapter import errors, tasks
from adapter.controller.reconciler import Planner
from adapter.planning.worker_child import PlanningError
from adapter.tasks import Pieces
from adapter.ui import guard, rendering, scenarios
from adapter.ui.events import Streams
from adapter.ui.history import SAMPLE_SECONDS
from adapter.ui.pages import fleet as fleet_page
from adapter.ui.pages import past as past_page
from adapter.ui.pages import variant as variant_page
from adapter.ui.pages import what_if as what_if_page
from adapter.ui.rendering import Budget
from adapter.ui.scenarios import LastPlan
from adapter.ui.snapshots import Snapshot, Snapshots, Source
from adapter.ui.workshop import Analysis, BusyError, Workshop

log = structlog.get_logger()

CPU_SHARE = 0.005
"""Part of one core that keeping open pages up to date may take."""

LEAST_SECONDS, MOST_SECONDS = 2.0, 60.0
"""Range of the seconds between two updates of the pages."""

POLL_SECONDS = 1.0
"""Seconds between two checks for changes."""

KEPT_PAGES = 16
"""Rendered pages that are kept for other viewers of the same."""

STATIC = {
    "style.css": "text/css",
    "page.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
"""Files that are served, with their type."""

FRAGMENT = "X-Fragment"
"""Header of a request for the part of a page that changes, and of the response with it."""


class Pages:
    """All pages of one process."""

    def __init__(self, source: Source, last: LastPlan, *, planner: Planner | None = None) -> None:
        """Make pages that nobody can reach yet.

        Args:
            source: Where they get what they show.
            last: The control loop's last plan.
            planner: Plans what people ask for; None: a worker process of its own.

        """
        self._source = source
        self._budget = Budget(CPU_SHARE, least=LEAST_SECONDS, most=MOST_SECONDS)
        self._snapshots = Snapshots(source, self._budget)
        self._workshop = Workshop(last, planner=planner)
        self._streams = Streams()
        self._pasts = past_page.Pasts(source.past, self._streams.again)
        self._rendered: dict[tuple[int, str, str], bytes] = {}
        self._rendering = asyncio.Lock()

    def add(self, app: web.Application) -> None:
        """Add the routes to an application."""
        for path, handler in (
            ("/ui", self._fleet),
            ("/ui/", self._fleet),
            ("/ui/what-if", self._what_if),
            ("/ui/events", self._events),
            ("/ui/static/{name}", _static),
            ("/ui/variants/{namespace}/{name}", self._variant),
            ("/ui/variants/{namespace}/{name}/analysis", self._analysis),
        ):
            app.router.add_get(path, handler)
        app.router.add_post("/ui/what-if", self._plan)
        app.on_shutdown.append(self._end_streams)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Record the history and announce changes until the context ends."""
        async with self._workshop.running():
            jobs = [
                asyncio.create_task(self._record(), name="record history"),
                asyncio.create_task(self._announce(), name="announce changes"),
            ]
            try:
                yield
            finally:
                self._streams.end()
                for job in jobs:
                    await tasks.cancel(job)
                await self._pasts.close()

    async def _end_streams(self, _: web.Application) -> None:
        self._streams.end()

    async def _record(self) -> None:
        while True:
            try:
                await self._snapshots.record()
            except Exception:
                log.exception("history not recorded; retrying at the next sample")
            await asyncio.sleep(SAMPLE_SECONDS)

    async def _announce(self) -> None:
        number = 0
        while True:
            await self._streams.viewed()
            await asyncio.sleep(POLL_SECONDS)
            try:
                latest = await self._snapshots.current()
            except Exception:
                log.exception("pages not updated; retrying with the next change")
                continue
            if latest.number != number:
                number = latest.number
                self._streams.tick(number)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        return await self._streams.serve(request)

    async def _fleet(self, request: web.Request) -> web.Response:
        snapshot = await self._snapshots.current(fresh=not _fragment(request))
        selection = fleet_page.Selection.of(request.query)
        return await self._page(
            request,
            snapshot,
            "fleet",
            repr(selection),
            lambda pieces: fleet_page.context(snapshot, selection, pieces),
        )

    async def _variant(self, request: web.Request) -> web.Response:
        key = _key(request)
        snapshot = await self._snapshots.current(fresh=not _fragment(request))
        document = snapshot.document(key)
        if document is None:
            return await self._unknown(key)
        row = next(item for item in snapshot.rows if item.key == key)
        shown = "analysis" in request.query
        # Updates of an open page ask Prometheus nothing.
        fragment = _fragment(request)
        answer = self._pasts.known(key) if fragment else await self._pasts.opened(key)
        now = self._source.time()
        context = variant_page.context(
            snapshot, row, document, self._snapshots.history, answer, now=now
        )
        context |= {
            "path": f"/ui/variants/{rendering.path(row.namespace)}/{rendering.path(row.name)}",
            "analysis_shown": shown,
        }
        if shown and not _fragment(request):
            context |= variant_page.analysis_context(row, *await self._analyzed(key))
        return await self._html(request, "variant", context)

    async def _analysis(self, request: web.Request) -> web.Response:
        key = _key(request)
        snapshot = await self._snapshots.current(fresh=True)
        row = next((item for item in snapshot.rows if item.key == key), None)
        if row is None:
            return await self._unknown(key)
        context = variant_page.analysis_context(row, *await self._analyzed(key))
        body = await rendering.page("_analysis.html", context, self._budget)
        return _response(body, 200, fragment=True)

    async def _analyzed(self, key: str) -> tuple[Analysis | None, str]:
        try:
            return await self._workshop.analyze(key), ""
        except (errors.AdapterError, PlanningError) as error:
            return None, _sentence(error)

    async def _what_if(self, request: web.Request) -> web.Response:
        snapshot = await self._snapshots.current()
        context = what_if_page.context(
            snapshot, self._workshop.fleet, request.query, devices=self._workshop.devices
        )
        return await self._html(request, "what_if", context)

    async def _plan(self, request: web.Request) -> web.Response:
        form = _fields(await request.read())
        snapshot, known = await self._snapshots.current(), self._workshop.fleet
        status, comparison, problem = 200, None, ""
        try:
            if known is None:
                raise errors.InputError(
                    "this process has made no plan yet; only the leader plans, once per interval"
                )
            comparison = await self._workshop.compare(scenarios.parse(form, known))
        except BusyError as error:
            status, problem = 429, _sentence(error)
        except errors.AdapterError as error:
            status, problem = 400, _sentence(error)
        except PlanningError as error:
            status, problem = 503, _sentence(error)
        context = what_if_page.context(
            snapshot, known, form, comparison, problem, devices=self._workshop.devices
        )
        return await self._html(request, "what_if", context, status=status)

    async def _page(
        self,
        request: web.Request,
        snapshot: Snapshot,
        template: str,
        asked: str,
        context: Callable[[Pieces], Awaitable[Mapping[str, Any]]],
    ) -> web.Response:
        """A page that is the same for all who ask the same of one snapshot."""
        fragment = _fragment(request)
        key = (snapshot.number, f"{template} {fragment}", asked)
        async with self._rendering:
            body = self._rendered.get(key)
            if body is None:
                pieces = Pieces(self._budget)
                values = await context(pieces)
                await pieces.rest()
                name = f"_{template}.html" if fragment else f"{template}.html"
                body = await rendering.page(name, values, self._budget)
                self._rendered = {
                    k: v for k, v in self._rendered.items() if k[0] == snapshot.number
                }
                while len(self._rendered) >= KEPT_PAGES:
                    self._rendered.pop(next(iter(self._rendered)))
                self._rendered[key] = body
        return _response(body, 200, fragment=fragment)

    async def _html(
        self, request: web.Request, template: str, context: Mapping[str, Any], status: int = 200
    ) -> web.Response:
        fragment = _fragment(request)
        name = f"_{template}.html" if fragment else f"{template}.html"
        body = await rendering.page(name, context, self._budget)
        return _response(body, status, fragment=fragment)

    async def _unknown(self, key: str) -> web.Response:
        context = {
            "here": "",
            "title": "No such variant",
            "text": f"There is no variant {key} now.",
        }
        body = await rendering.page("message.html", context, self._budget)
        return _response(body, 404, fragment=False)


def _fragment(request: web.Request) -> bool:
    return FRAGMENT in request.headers


def _fields(body: bytes) -> dict[str, str]:
    """Fields of a form as browsers encode it; of another encoding there are none."""
    text = body.decode("utf-8", "replace")
    return dict(urllib.parse.parse_qsl(text, keep_blank_values=True))


def _key(request: web.Request) -> str:
    return f"{request.match_info['namespace']}/{request.match_info['name']}"


def _sentence(error: Exception) -> str:
    """The message of an error as a sentence."""
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."


def _response(body: bytes, status: int, *, fragment: bool) -> web.Response:
    headers = {**guard.HEADERS, **({FRAGMENT: "1"} if fragment else {})}
    return web.Response(
        body=body, status=status, headers=headers, content_type="text/html", charset="utf-8"
    )


async def _static(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    if name not in STATIC:
        return web.Response(status=404, text="no such file\n", headers=guard.HEADERS)
    body = importlib.resources.files("adapter.ui").joinpath("static", name).read_bytes()
    headers = {**guard.HEADERS, "Cache-Control": "no-cache"}
    return web.Response(body=body, headers=headers, content_type=STATIC[name], charset="utf-8")
