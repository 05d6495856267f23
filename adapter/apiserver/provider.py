"""Sources of external metrics: the interface between the API server and what provides values.

The two methods are those of custom-metrics-apiserver, the library that other adapters are built with. The
store of published targets is one provider, another adapter that requests are delegated to is one, and
`Merged` combines two. The caller's identity and request are in the context variable `CALLER`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

from multidict import CIMultiDictProxy

from adapter.auth.users import User
from adapter.kube.labels import Selector


class MetricValue(Protocol):
    """One item of an ExternalMetricValueList."""

    @property
    def encoded(self) -> bytes:
        """The item as compact JSON."""

    @property
    def decided_at(self) -> float:
        """Unix time of the value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relayed:
    """A whole response of another API server, passed to the client unchanged.

    Attributes:
        status: HTTP status.
        headers: Headers that belong to the body.
        body: Body, possibly compressed.

    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class ExternalMetricsProvider(Protocol):
    """A source of external metrics."""

    async def get_external_metric(
        self, namespace: str, name: str, selector: Selector
    ) -> Sequence[MetricValue] | Relayed:
        """Values of a metric whose labels match; none where nothing matches, or the metric is unknown.

        Raises:
            StatusError: the source cannot be reached.

        """

    def list_external_metrics(self) -> Sequence[str]:
        """Names of all metrics, sorted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The request that is being answered.

    Attributes:
        user: User that sent it, authenticated and authorized.
        path_qs: Raw path and query.
        headers: Headers of the request.

    """

    user: User
    path_qs: str
    headers: CIMultiDictProxy[str]


CALLER: ContextVar[Caller] = ContextVar("caller")
"""Set for every call of a provider, as the official library passes a context. Only providers that forward
requests read it."""


class Merged:
    """The adapter's metrics from its own provider, all others from another one."""

    def __init__(
        self,
        own: ExternalMetricsProvider,
        other: ExternalMetricsProvider,
        *,
        reserved: Collection[str],
    ) -> None:
        """`reserved`: names that belong to the own provider even while it has no value of them."""
        self._own = own
        self._other = other
        self._reserved = frozenset(reserved)

    async def get_external_metric(
        self, namespace: str, name: str, selector: Selector
    ) -> Sequence[MetricValue] | Relayed:
        """Values of a metric, from its owner."""
        is_own = name in self._reserved or name in self._own.list_external_metrics()
        provider = self._own if is_own else self._other
        return await provider.get_external_metric(namespace, name, selector)

    def list_external_metrics(self) -> Sequence[str]:
        """Names of both providers' metrics, sorted."""
        names = {*self._own.list_external_metrics(), *self._other.list_external_metrics()}
        return tuple(sorted(names))
