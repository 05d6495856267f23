"""Health and metrics of the process: one implementation for the API port and for the plain metrics port.

`/healthz` and `/livez` say that the process answers; `/readyz` runs the checks. The output is
kube-apiserver's: https://kubernetes.io/docs/reference/using-api/health-checks/
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus

from aiohttp import web
from multidict import MultiMapping
from prometheus_client import CollectorRegistry, generate_latest

Check = Callable[[], str | None]
"""A readiness check: None while it passes, else the reason why not."""

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
NAMES = ("healthz", "livez", "readyz")


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

    def use(self, checks: Mapping[str, Check], notes: Callable[[], Sequence[str]] = tuple) -> None:
        """Replace the readiness checks, and what the verbose output adds without failing."""
        self._checks = dict(checks)
        self._notes = notes

    def knows(self, check: str) -> bool:
        """Whether there is a check of that name."""
        return check in self._checks

    def metrics(self) -> bytes:
        """All metrics in Prometheus' text format, of type METRICS_TYPE."""
        return generate_latest(self.registry)

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


def add_plain(app: web.Application, probes: Probes) -> None:
    """Add the health paths and /metrics to an application, without authentication."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=probes.metrics(), headers={"Content-Type": METRICS_TYPE})

    async def health(request: web.Request) -> web.Response:
        name = request.path.strip("/")
        return probes.health(name, request.query, failure=HTTPStatus.SERVICE_UNAVAILABLE)

    app.router.add_get("/metrics", metrics)
    for name in NAMES:
        app.router.add_get(f"/{name}", health)
