"""Health and metrics of the process: one implementation for the API port and for the plain metrics port.

`/healthz` and `/livez` say that the process answers; `/readyz` runs the checks. The output is
kube-apiserver's: https://kubernetes.io/docs/reference/using-api/health-checks/
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus

from aiohttp import web
from multidict import MultiMapping
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from adapter import tasks

Check = Callable[[], str | None]
"""A readiness check: None while it passes, else the reason why not."""

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
NAMES = ("healthz", "livez", "readyz")

PART_SAMPLES = 100
"""Samples that are written before other requests have their turn."""


class Probes:
    """Checks and metrics of one process.

    Attributes:
        registry: Metrics of the process.

    """

    def __init__(self, registry: CollectorRegistry, checks: Mapping[str, Check]) -> None:
        """`checks`: readiness checks by name, in the order of the output."""
        self.registry = registry
        self._checks = dict(checks)
        self._notes: Callable[[], Sequence[str]] = tuple
        self._writing = asyncio.Lock()

    def use(self, checks: Mapping[str, Check], notes: Callable[[], Sequence[str]] = tuple) -> None:
        """Replace the readiness checks, and what the verbose output adds without failing."""
        self._checks = dict(checks)
        self._notes = notes

    def knows(self, check: str) -> bool:
        """Whether there is a check of that name."""
        return check in self._checks

    async def metrics(self) -> bytes:
        """All metrics in Prometheus' text format, of type METRICS_TYPE.

        Other requests have their turn meanwhile, but for these: of 1,000 variants they are 3 MB of text, and
        more before they are text.
        """
        async with self._writing:
            return await self._written()

    async def _written(self) -> bytes:
        texts, pieces = [], tasks.Pieces()
        for family in self.registry.collect():
            for number, part in enumerate(_parts(family)):
                text = generate_latest(_Family(part))
                # Help and type are said once.
                texts.append(text if number == 0 else text.split(b"\n", 2)[2])
                await pieces.breathe()
        return b"".join(texts)

    def health(
        self,
        name: str,
        query: MultiMapping[str],
        *,
        check: str = "",
        failure: HTTPStatus = HTTPStatus.INTERNAL_SERVER_ERROR,
    ) -> web.Response:
        """Answer a health request.

        Args:
            name: one of NAMES.
            query: `verbose` lists all checks, `exclude` leaves some out.
            check: name of the only check to run; empty runs all.
            failure: status where a check fails; kube-apiserver's is 500.

        """
        excluded = set(query.getall("exclude", []))
        # Only readiness depends on anything: a server that answers is alive.
        selected = {check} if check else set(self._checks) - excluded
        failed = {
            item: reason
            for item, test in self._checks.items()
            if name == "readyz" and item in selected and (reason := test()) is not None
        }
        headers = {"X-Content-Type-Options": "nosniff"}
        if not failed and (check or "verbose" not in query):
            return web.Response(text="ok", headers=headers)
        lines = []
        for item in self._checks:
            if item in failed:
                lines.append(f"[-]{item} failed: {failed[item]}\n")
            elif item in excluded:
                lines.append(f"[+]{item} excluded: ok\n")
            else:
                lines.append(f"[+]{item} ok\n")
        if name == "readyz" and not check:
            lines += [f"[!]{note}\n" for note in self._notes()]
        lines.append(f"{name} check {'failed' if failed else 'passed'}\n")
        status = failure if failed else HTTPStatus.OK
        return web.Response(text="".join(lines), headers=headers, status=status)


class _Family(Collector):
    """A registry of one family."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return (self._family,)


def _parts(family: Metric) -> Iterator[Metric]:
    """A family by so many samples; whole where some of them stand at the end of its text."""
    samples = family.samples
    ends = any(item.name.endswith(("_created", "_gsum", "_gcount")) for item in samples)
    if ends or len(samples) <= PART_SAMPLES:
        yield family
        return
    for start in range(0, len(samples), PART_SAMPLES):
        part = Metric(family.name, family.documentation, family.type)
        part.samples = samples[start : start + PART_SAMPLES]
        yield part


def add_plain(app: web.Application, probes: Probes) -> None:
    """Add the health paths and /metrics to an application, without authentication."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=await probes.metrics(), headers={"Content-Type": METRICS_TYPE})

    async def health(request: web.Request) -> web.Response:
        name = request.path.strip("/")
        return probes.health(name, request.query, failure=HTTPStatus.SERVICE_UNAVAILABLE)

    app.router.add_get("/metrics", metrics)
    for name in NAMES:
        app.router.add_get(f"/{name}", health)
