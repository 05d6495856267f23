"""Endpoint pickers of inference gateways, found by the InferencePools that select the pods of variants.

A pool names its picker's Service (`endpointPickerRef`, before v1 `extensionRef`); the pods behind the Service
have the metrics of the pool's requests. A picker belongs to the pool's namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from adapter import logs
from adapter.kube import labels, paths
from adapter.kube.client import Cluster
from adapter.kube.errors import ApiError, NotFound, Unavailable
from adapter.kube.informer import Informer
from adapter.resources.pods import Apart, ByLabel
from adapter.resources.serving import ports
from adapter.tasks import while_time

log = logs.LazyLogger()

VERSIONS = ("inference.networking.k8s.io/v1", "inference.networking.x-k8s.io/v1alpha2")
"""Versions of InferencePools, the newest first; not every cluster has them."""

METRICS_PORT, METRICS_NAME = 9090, "metrics"
"""Port of a picker's metrics, unless its pods name one so."""

SERVICE_SECONDS = 60.0
"""Seconds after which a picker's Service is read again."""

MOST_PICKERS = 256
"""Most pods of pickers that are scraped."""

MOST_POOLS = 512
"""Most pools that are used: the Service of each is read."""

READ_SECONDS = 2.0
"""Seconds for which Services are read at a time. The objects of all wait as long. What is left comes next."""

CONCURRENCY = 8
"""Services that are read at the same time."""

Named = tuple[str, str]
"""Namespace and name."""

Row = TypeVar("Row", bound=tuple[str, Any])


@dataclass(frozen=True, slots=True)
class Pool:
    """An InferencePool.

    Attributes:
        selector: Selector of the pods that it routes to.
        service: Service of its endpoint picker; empty where it has none.
        ports: Ports of each pod that it routes to; of several each is one of a server of its own.

    """

    selector: labels.Selector
    service: str
    ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Picked:
    """A pool whose picker's pods are known by a selector."""

    namespace: str
    pool: Pool
    picker: labels.Selector
    name: str = ""


def trimmed(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """Fields of an InferencePool that are read."""
    metadata, spec = item.get("metadata") or {}, item.get("spec") or {}
    selector = spec.get("selector") or {}
    if "matchLabels" not in selector and "matchExpressions" not in selector:
        selector = {"matchLabels": selector}
    reference = spec.get("endpointPickerRef") or spec.get("extensionRef") or {}
    other = reference.get("kind") not in {None, "", "Service"}
    return {
        "metadata": {key: metadata.get(key) for key in ("namespace", "name", "resourceVersion")},
        "pool": Pool(
            labels.selector_of(selector),
            "" if other else str(reference.get("name") or ""),
            _target_ports(spec.get("targetPorts") or ()),
        ),
    }


def _target_ports(listed: Iterable[Mapping[str, Any]]) -> tuple[int, ...]:
    numbers = (item.get("number") for item in listed)
    return tuple(
        dict.fromkeys(
            number for number in numbers if isinstance(number, int) and 0 < number < 65536
        )
    )[: ports.MOST]


class Pickers:
    """Pools of a cluster, and the Services of their pickers."""

    def __init__(
        self, cluster: Cluster, namespaces: Sequence[str], *, changed: Callable[[], None]
    ) -> None:
        self._cluster, self._changed = cluster, changed
        self._services: dict[Named, tuple[labels.Selector, float]] = {}
        self.informers = [
            Informer(
                cluster,
                paths.collection(version, "inferencepools", namespace=namespace),
                changed=changed,
                trim=trimmed,
                optional=True,
            )
            for version in VERSIONS
            for namespace in namespaces or ("",)
        ]

    def pools(self) -> dict[Named, Pool]:
        """Pools with a picker by namespace and name; one that two versions show counts once."""
        known = self._known()
        named = sorted(key for key, pool in known.items() if pool.service)
        return {key: known[key] for key in fair(named, MOST_POOLS)}

    def ported(self) -> list[tuple[str, Pool]]:
        """Pools that route to several ports of each pod, with a picker or not, and their namespaces."""
        known = self._known()
        named = sorted(key for key, pool in known.items() if len(pool.ports) > 1)
        return [(key[0], known[key]) for key in fair(named, MOST_POOLS)]

    def _known(self) -> dict[Named, Pool]:
        return {
            key: item["pool"]
            for informer in reversed(self.informers)
            for key, item in informer.objects.items()
        }

    async def refresh(self) -> None:
        """Read the pickers' Services that are new, or were read long ago, of each namespace in turn."""
        now = asyncio.get_running_loop().time
        referenced = {(key[0], pool.service) for key, pool in self.pools().items()}
        self._services = {name: self._services[name] for name in referenced & self._services.keys()}
        due = [
            name
            for name in referenced
            if name not in self._services or now() - self._services[name][1] >= SERVICE_SECONDS
        ]
        due.sort(
            key=lambda name: (name in self._services, self._services.get(name, ("", 0.0))[1], name)
        )

        async def one(name: Named) -> None:
            self._services[name] = (await self._read(name), now())

        left = await while_time(fair(due, len(due)), one, at_once=CONCURRENCY, seconds=READ_SECONDS)
        if not left <= self._services.keys():
            self._changed()

    async def _read(self, service: Named) -> labels.Selector:
        """The selector of a Service's pods; one that selects nothing where it cannot be read."""
        before = self._services.get(service)
        try:
            return await self._selector(*service)
        except ApiError as error:
            # One that does not answer says nothing of the Service; a refusal does.
            if before is not None and isinstance(error, Unavailable):
                return before[0]
            if not isinstance(error, NotFound):
                log.warning(
                    "Service of an endpoint picker not readable; its requests are not counted",
                    service="/".join(service),
                    error=str(error),
                )
        except Exception:
            # Whatever one Service makes of us is the problem of the pools that name it.
            log.exception(
                "Service of an endpoint picker cannot be read; its requests are not counted",
                service="/".join(service),
            )
        return labels.Selector()

    async def _selector(self, namespace: str, name: str) -> labels.Selector:
        path = paths.item("v1", "services", name, namespace=namespace)
        spec = (await self._cluster.request("GET", path)).get("spec") or {}
        return labels.selector_of({"matchLabels": spec.get("selector") or {}})

    def picked(self) -> list[Picked]:
        """The pools whose picker is known."""
        return [
            Picked(key[0], pool, self._services[key[0], pool.service][0], key[1])
            for key, pool in sorted(self.pools().items())
            if (key[0], pool.service) in self._services
        ]


def endpoints(
    picked: Iterable[Picked],
    by_label: ByLabel,
    served: Mapping[str, Sequence[Mapping[str, str]]],
    *,
    apart: Apart = contextlib.nullcontext,
) -> tuple[tuple[str, str], ...]:
    """Namespace and metrics URL of every picker that serves a variant.

    Args:
        picked: Pools with their pickers.
        by_label: Pods of the cluster.
        served: Labels of the variants' pods, running or to be, by namespace; other pools are not ours.
        apart: Where the error of one pool ends.

    """
    urls: dict[tuple[str, str], None] = {}
    routed = ByLabel(
        {"metadata": {"namespace": namespace, "labels": labelled}}
        for namespace, of_variants in served.items()
        for labelled in of_variants
    )
    for item in picked:
        with apart(f"InferencePool {item.namespace}/{item.name}"):
            urls |= {(item.namespace, url): None for url in _urls(item, by_label, routed)}
    return tuple(fair(urls, MOST_PICKERS))


def _urls(item: Picked, by_label: ByLabel, routed: ByLabel) -> Iterator[str]:
    """Metrics URLs of one pool's pickers, where it routes to one of these pods."""
    if not routed.matching(item.namespace, item.pool.selector):
        return
    among = [pod for pod in by_label.matching(item.namespace, item.picker) if pod["address"]]
    # Of several one leads; the others are not ready, or show zeros.
    ready = [pod for pod in among if pod["ready"]] or among
    for pod in sorted(ready, key=lambda pod: str(pod["address"])):
        yield _url(pod)


def fair(rows: Iterable[Row], most: int) -> list[Row]:
    """At most so many of the rows, whose first field is a namespace: of each one the first, then the second.

    So a namespace with many takes nothing from those with few.
    """
    seen: Counter[str] = Counter()
    ranked: list[tuple[int, Row]] = []
    for row in rows:
        ranked.append((seen[row[0]], row))
        seen[row[0]] += 1
    ranked.sort(key=lambda pair: pair[0])
    return [row for _, row in ranked[:most]]


def _url(pod: Mapping[str, Any]) -> str:
    if pod["annotated"]:
        return str(pod["url"])
    # A port that is declared may not be the one that its command line gives it.
    (started_at, secured), address = pod["picker"], pod["address"]
    port = started_at or pod["ports"].get(METRICS_NAME, METRICS_PORT)
    # What else is in its pod, such as a renderer of prompts, may have a certificate of its own.
    beside = urlsplit(str(pod["url"]))
    scheme = "https" if secured or (beside.scheme, beside.port) == ("https", port) else "http"
    return f"{scheme}://{f'[{address}]' if ':' in address else address}:{port}/metrics"
