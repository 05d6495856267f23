"""PodMonitors and ServiceMonitors: port, scheme and path at which people have their model servers scraped.

A ServiceMonitor selects Services, and so the pods behind them; its port is one of the Service's, which stands
for one of the pods'. Credentials that a monitor names are not used: the operator names the file of a token.

They count for pods that say nothing themselves by annotations, and only for those of their own namespace,
unless they stand in the adapter's: else a tenant could have another one's pods scraped where nothing answers.
Whatever a monitor says, the URLs are ones of the pods' own addresses.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from adapter import logs
from adapter.kube import labels, quantity
from adapter.resources.pods import Apart, ByLabel
from adapter.resources.serving.selection import OverlapError

log = logs.LazyLogger()

VERSION = "monitoring.coreos.com/v1"
PLURAL, OF_SERVICES = "podmonitors", "servicemonitors"

_PATH = re.compile(r"[\x21\x24-\x7e]{0,512}")
_MOST = 16
"""Most endpoints of a monitor that are used."""
_MOST_MONITORS = 256
"""Most monitors of one namespace that are used, those of Services by Service, and as many ServiceMonitors."""

_MOST_NAMESPACES, _MOST_PORTS, _MOST_TEXT = 1024, 256, 63
"""Most namespaces that a monitor names and ports of a Service that are used, and characters of their names,
the API server's own limit: the schemas of monitors bound neither, and a Service may have 65,535 ports."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where one server of a pod is scraped.

    Attributes:
        port: Name or number of the port.
        scheme: http or https.
        path: Path without the first slash.

    """

    port: str
    scheme: str
    path: str

    def url(self, pod: Mapping[str, Any]) -> str:
        """Its URL at a pod; empty where the pod has no such port."""
        try:
            number = quantity.whole(
                str(pod["ports"].get(self.port, self.port)), least=1, most=65535
            )
        except ValueError:
            return ""
        address = pod["address"]
        host = f"[{address}]" if ":" in address else address
        return f"{self.scheme}://{host}:{number}/{self.path}"


@dataclass(frozen=True, slots=True)
class Monitor:
    """A PodMonitor, or a ServiceMonitor of one Service.

    Attributes:
        home: Namespace that it stands in.
        namespaces: Namespaces of the pods that it selects; None for all.
        selector: Selector of these pods.
        endpoints: Where they are scraped.

    """

    home: str
    namespaces: tuple[str, ...] | None
    selector: labels.Selector
    endpoints: tuple[Endpoint, ...]


def trimmed(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """Fields of a PodMonitor that are read."""
    metadata, spec = item.get("metadata") or {}, item.get("spec") or {}
    among = spec.get("namespaceSelector") or {}
    names = among.get("matchNames") or [metadata.get("namespace")]
    used = [name for name in map(str, names) if len(name) <= _MOST_TEXT]
    if len(used) > _MOST_NAMESPACES and among.get("any") is not True:
        log.warning(
            "monitor names more namespaces than are used; using the first of them, for all set"
            " namespaceSelector.any",
            object=(metadata.get("namespace"), metadata.get("name")),
            namespaces=len(used),
            used=_MOST_NAMESPACES,
        )
    monitor = Monitor(
        str(metadata.get("namespace")),
        None if among.get("any") is True else tuple(used[:_MOST_NAMESPACES]),
        labels.selector_of(spec.get("selector") or {}),
        tuple(filter(None, map(_endpoint, spec.get("podMetricsEndpoints") or ())))[:_MOST],
    )
    return {
        "metadata": {key: metadata.get(key) for key in ("namespace", "name", "resourceVersion")},
        "monitor": monitor,
    }


def _endpoint(item: Mapping[str, Any]) -> Endpoint | None:
    port = item.get("port") or item.get("portNumber") or item.get("targetPort")
    scheme = str(item.get("scheme") or "http").lower()
    path = str(item.get("path") or "/metrics").lstrip("/")
    if port is None or len(str(port)) > len(_SERVICE_PORT) + _MOST_TEXT:
        return None
    if scheme not in {"http", "https"} or not _PATH.fullmatch(path):
        return None
    return Endpoint(str(port), scheme, path)


@dataclass(frozen=True, slots=True)
class Service:
    """A Service.

    Attributes:
        labelled: Its own labels.
        selector: Selector of its pods.
        ports: Names or numbers of the pods' ports by the Service's names.

    """

    labelled: Mapping[str, str]
    selector: labels.Selector
    ports: Mapping[str, str]


def trimmed_service(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """Fields of a Service that are read."""
    metadata, spec = item.get("metadata") or {}, item.get("spec") or {}
    service = Service(
        metadata.get("labels") or {},
        labels.selector_of({"matchLabels": spec.get("selector") or {}}),
        {
            str(port.get("name") or ""): str(port.get("targetPort") or port.get("port") or "")
            for port in list(spec.get("ports") or ())[:_MOST_PORTS]
        },
    )
    return {
        "metadata": {key: metadata.get(key) for key in ("namespace", "name", "resourceVersion")},
        "service": service,
    }


def trimmed_of_services(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """Fields of a ServiceMonitor that are read: as of a PodMonitor that selects Services."""
    spec = item.get("spec") or {}
    endpoints = [
        # The name of a Service's port, or the name or number of the pods' one.
        {**each, "portNumber": None, "port": f"{_SERVICE_PORT}{each['port']}"}
        if each.get("port")
        else each
        for each in spec.get("endpoints") or ()
    ]
    return trimmed({**item, "spec": {**spec, "podMetricsEndpoints": endpoints}})


_SERVICE_PORT = "service port "
"""What the port of a Service is marked by, until it is known which one of the pods it stands for."""


def of_services(
    monitors: Iterable[Monitor], services: Iterable[tuple[str, Service]], *, trusted: str
) -> Iterable[Monitor]:
    """ServiceMonitors as monitors of the pods behind the Services that they select.

    Args:
        monitors: ServiceMonitors.
        services: Services with their namespaces.
        trusted: Namespace whose monitors count for the Services of others too.

    """
    index = ByLabel(
        {"metadata": {"namespace": namespace, "labels": service.labelled}, "service": service}
        for namespace, service in services
        if service.selector.requirements
    )
    # All monitors of a namespace with all of its Services would be quadratic.
    looks: Counter[str] = Counter()
    used: Counter[str] = Counter()
    for monitor in monitors:
        spaces = index.namespaces if monitor.namespaces is None else monitor.namespaces
        own = monitor.home != trusted
        for namespace in sorted({monitor.home} & {*spaces} if own else spaces):
            looks[monitor.home] += 1
            if own and max(looks[monitor.home], used[monitor.home] + 1) > _MOST_MONITORS:
                break
            # An empty selector selects every Service here, and every pod of a namespace is too much.
            for item in _selected(index, namespace, monitor)[:_MOST_MONITORS]:
                used[monitor.home] += 1
                service = item["service"]
                endpoints = tuple(_resolved(each, service) for each in monitor.endpoints)
                yield replace(
                    monitor,
                    namespaces=(namespace,),
                    selector=service.selector,
                    endpoints=tuple(each for each in endpoints if each.port),
                )


def _selected(index: ByLabel, namespace: str, monitor: Monitor) -> list[Mapping[str, Any]]:
    """Services that a monitor selects; none where those of their namespace were compared too often."""
    try:
        return index.matching(namespace, monitor.selector)
    except OverlapError:
        return []


def _resolved(endpoint: Endpoint, service: Service) -> Endpoint:
    """The endpoint with the port of the pods; an empty one where the Service has no such port."""
    if not endpoint.port.startswith(_SERVICE_PORT):
        return endpoint
    return replace(endpoint, port=service.ports.get(endpoint.port.removeprefix(_SERVICE_PORT), ""))


def applied(
    all_pods: Sequence[Mapping[str, Any]],
    monitors: Iterable[Monitor],
    *,
    trusted: str,
    apart: Apart = contextlib.nullcontext,
) -> Sequence[Mapping[str, Any]]:
    """The pods with the URLs that monitors have for them; the first one that fits counts.

    Args:
        all_pods: Pods of the cluster.
        monitors: PodMonitors of the cluster, and ServiceMonitors by Service.
        trusted: Namespace whose monitors count for pods of others too, where these have none that fits.
        apart: Where the error of one monitor ends.

    """
    by_home: Counter[str] = Counter()
    used = []
    for item in monitors:
        by_home[item.home] += 1
        if item.endpoints and item.selector.requirements and by_home[item.home] <= _MOST_MONITORS:
            used.append(item)
    if not used:
        return all_pods
    by_label = ByLabel(all_pods)
    spaces = {pod["metadata"]["namespace"] for pod in all_pods}
    urls: dict[tuple[str, str], tuple[str, ...]] = {}
    rows = [(item, item.home) for item in used if _selects(item, item.home)]
    rows += [
        (item, namespace)
        for item in used
        if item.home == trusted
        for namespace in sorted(spaces - {trusted})
        if _selects(item, namespace)
    ]
    for monitor, namespace in rows:
        with apart(f"a monitor in namespace {monitor.home}"):
            for pod in by_label.matching(namespace, monitor.selector):
                key = (namespace, pod["metadata"]["name"])
                if key in urls or pod["annotated"] or not pod["address"]:
                    continue
                fitting = tuple(filter(None, (item.url(pod) for item in monitor.endpoints)))
                if fitting:
                    urls[key] = tuple(dict.fromkeys(fitting))
    changed = []
    for pod in all_pods:
        own = urls.get((pod["metadata"]["namespace"], pod["metadata"]["name"]))
        if own and own[0] == pod["url"] and set(own) <= set(pod["urls"]):
            own = pod["urls"]  # an endpoint at the first of a row of servers stands for all of them
        seen = {"url": own[0], "urls": own, "monitored": True} if own else {}
        changed.append({**pod, **seen} if seen else pod)
    return changed


def _selects(monitor: Monitor, namespace: str) -> bool:
    return monitor.namespaces is None or namespace in monitor.namespaces
