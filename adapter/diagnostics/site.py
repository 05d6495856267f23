"""What the checks of `doctor` share: findings, and the installation that they read."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from adapter.auth.users import ReviewError
from adapter.installation import Names
from adapter.kube import advice, paths
from adapter.kube.client import Cluster
from adapter.kube.errors import ApiError, Forbidden, NotFound, Unavailable

if TYPE_CHECKING:
    from adapter.collector.prometheus import PrometheusOptions

VARIANTS = "llmd.ai/v1alpha1"

SCALERS = paths.collection("autoscaling/v2", "horizontalpodautoscalers")
"""The HPAs of all namespaces."""

CONCURRENT = 16
"""Most requests to the API server at a time: hundreds of variants one after the other take half a minute."""

PER_CONNECTION = 8
"""Requests for which a connection is worth opening: its TLS handshake takes as long as some of them."""

MOST_NAMED = 20
"""Most objects of one kind that are named though nothing is wrong with them; more are counted."""

T = TypeVar("T")

Level = Literal["ok", "warning", "error"]
"""Severity of what a check says."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        level: Severity.
        what: Sentence that names the object and its state.
        fix: Command or change that helps; empty where none is needed.

    """

    level: Level
    what: str
    fix: str = ""


_LATER = "try again later; the API server may be starting or overloaded"


def failed(error: ApiError | ReviewError) -> Finding:
    """The finding of a check that the API server refused or did not answer, with the fix by what it said."""
    refusal = error.__cause__ if isinstance(error, ReviewError) else error
    if isinstance(refusal, Forbidden):
        fix = advice.NO_RIGHT
    elif isinstance(refusal, Unavailable):
        fix = _LATER if refusal.answered else advice.NO_ANSWER
    else:
        known = advice.of(refusal) if isinstance(refusal, ApiError) else ""
        fix = known or "run doctor with more rights, or try again later"
    return Finding("error", f"check failed: {error}", fix)


class Site:
    """One installation in a cluster, read with the permissions of the user who runs the command.

    Attributes:
        cluster: API server.
        names: Names of the adapter's own objects.
        prometheus: Where Prometheus is; None: it is not checked.

    """

    def __init__(
        self,
        cluster: Cluster,
        names: Names,
        *,
        prometheus: PrometheusOptions | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.cluster = cluster
        self.names = names
        self.prometheus = prometheus
        self.now = now
        self._version: Mapping[str, Any] | None = None
        self._lists: dict[str, list[dict[str, Any]]] = {}
        self._deployment: Mapping[str, Any] | None = None

    async def find(self, path: str) -> Mapping[str, Any] | None:
        """Read an object; None where it does not exist.

        Raises:
            ApiError: the API server refused, or did not answer.

        """
        try:
            return await self.cluster.request("GET", path)
        except NotFound:
            return None

    async def objects(self, path: str) -> list[dict[str, Any]]:
        """List a collection, once for all checks.

        Raises:
            ApiError: the API server refused, or did not answer.

        """
        if path not in self._lists:
            self._lists[path], _ = await self.cluster.list_objects(path)
        return self._lists[path]

    async def variants(self) -> list[dict[str, Any]]:
        """List the VariantAutoscalings of all namespaces, once for all checks.

        Raises:
            ApiError: the API server refused, or did not answer.

        """
        return await self.objects(paths.collection(VARIANTS, "variantautoscalings"))

    async def version(self) -> Mapping[str, Any]:
        """Read `/version`, once for all checks.

        Raises:
            ApiError: the API server refused, or did not answer.

        """
        if self._version is None:
            self._version = await self.cluster.request("GET", "/version")
        return self._version

    async def deployment(self) -> Mapping[str, Any]:
        """The adapter's Deployment, of its Service's name, read once for all checks; empty: there is none.

        Raises:
            ApiError: the API server refused, or did not answer.

        """
        if self._deployment is None:
            path = paths.item(
                "apps/v1", "deployments", self.names.service, namespace=self.names.namespace
            )
            self._deployment = await self.find(path) or {}
        return self._deployment

    async def flag(self, name: str) -> str | None:
        """Value of a flag of the adapter's Deployment; None where it is not given.

        Raises:
            ApiError: the API server refused, or did not answer.

        """
        template = ((await self.deployment()).get("spec") or {}).get("template") or {}
        words = [
            str(word)
            for container in (template.get("spec") or {}).get("containers") or ()
            for word in (*(container.get("command") or ()), *(container.get("args") or ()))
        ]
        for word, following in itertools.pairwise([*words, ""]):
            flag, equals, value = word.partition("=")
            if flag == name:
                return value if equals else following
        return None

    def seconds_since(self, text: object) -> float | None:
        """Seconds since a time that an object has; None where it has none.

        One without a zone is UTC, as all times of the API are: other tools than Kubernetes' write it so.
        """
        try:
            at = datetime.fromisoformat(str(text))
        except ValueError:
            return None
        return (self.now() - (at if at.tzinfo else at.replace(tzinfo=UTC))).total_seconds()

    async def minor(self) -> int:
        """Minor version of Kubernetes; 0 where it is not known."""
        try:
            version = await self.version()
        except ApiError:
            return 0
        return int("".join(filter(str.isdigit, str(version.get("minor") or ""))) or 0)


async def in_order(work: Iterable[Awaitable[T]]) -> list[T]:
    """Results of requests in their order; one in `PER_CONNECTION` runs at a time, up to `CONCURRENT`."""
    work = list(work)
    slots = asyncio.Semaphore(min(CONCURRENT, math.ceil(len(work) / PER_CONNECTION)))

    async def one(item: Awaitable[T]) -> T:
        async with slots:
            return await item

    return list(await asyncio.gather(*map(one, work)))


Check = Callable[[Site], AsyncIterator[Finding]]
"""A check: reads the site and gives findings; raises ApiError or ReviewError where it may not read."""


def key_of(item: Mapping[str, Any]) -> str:
    """`NAMESPACE/NAME` of an object."""
    metadata = item.get("metadata") or {}
    return f"{metadata.get('namespace')}/{metadata.get('name')}"
