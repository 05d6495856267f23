"""PodMonitors: the port, scheme and path at which people have their model servers scraped already.

They count for pods that say nothing themselves by annotations, and only for those of their own namespace,
unless they stand in the adapter's: else a tenant could have another one's pods scraped where nothing answers.
Whatever a PodMonitor says, the URLs are ones of the pods' own addresses.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapter.kube import labels
from adapter.resources import pods
from adapter.resources.pods import ByLabel

VERSION = "monitoring.coreos.com/v1"
PLURAL = "podmonitors"

_PATH = re.compile(r"[\x21\x24-\x7e]{0,512}")
_MOST = 16
"""Most endpoints of a PodMonitor that are used."""
_MOST_MONITORS = 256
"""Most PodMonitors of one namespace that are used."""


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
        number = pod["ports"].get(self.port, self.port)
        if not str(number).isdigit() or not 0 < int(number) < 65536:
            return ""
        address = pod["address"]
        host = f"[{address}]" if ":" in address else address
        return f"{self.scheme}://{host}:{int(number)}/{self.path}"


@dataclass(frozen=True, slots=True)
class Monitor:
    """A PodMonitor.

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
    monitor = Monitor(
        str(metadata.get("namespace")),
        None if among.get("any") is True else tuple(map(str, names)),
        pods.selector_of(spec.get("selector") or {}),
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
    if port is None or scheme not in {"http", "https"} or not _PATH.fullmatch(path):
        return None
    return Endpoint(str(port), scheme, path)


def applied(
    all_pods: Sequence[Mapping[str, Any]], monitors: Iterable[Monitor], *, trusted: str
) -> Sequence[Mapping[str, Any]]:
    """The pods with the URLs that PodMonitors have for them; the first one that fits counts.

    Args:
        all_pods: Pods of the cluster.
        monitors: PodMonitors of the cluster.
        trusted: Namespace whose PodMonitors count for pods of others too, where these have none that fits.

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
        changed.append({**pod, "url": own[0], "urls": own} if own else pod)
    return changed


def _selects(monitor: Monitor, namespace: str) -> bool:
    return monitor.namespaces is None or namespace in monitor.namespaces
