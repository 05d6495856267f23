"""Servers of a pod by the ports that an InferencePool routes to.

A pool of `inference.networking.k8s.io/v1` lists `targetPorts`: several are data-parallel engines of one pod,
each behind a port of its own, at which the pool's picker scrapes it. The pod itself may declare the first one
only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from adapter.resources.pods import Apart, ByLabel
from adapter.resources.serving.pools import Pool
from adapter.resources.serving.ports import OF_METRICS


def applied(
    all_pods: Sequence[Mapping[str, Any]],
    ported: Iterable[tuple[str, Pool]],
    *,
    apart: Apart = contextlib.nullcontext,
) -> Sequence[Mapping[str, Any]]:
    """The pods with one URL for each port that a pool routes to; the pool with the most ports counts.

    A pod keeps its URLs where it has as many, or is scraped at another port by what it or a monitor says, or
    by a port's name: such a port has the metrics of all of its servers.

    Args:
        all_pods: Pods of the cluster, with the URLs of annotations and monitors.
        ported: Pools with several ports, and their namespaces: a pool routes to pods of its own one.
        apart: Where the error of one pool or pod ends.

    """
    rows = [(namespace, pool) for namespace, pool in ported if pool.selector.requirements]
    if not rows:
        return all_pods
    by_label = ByLabel(all_pods)
    ports: dict[tuple[str, str], tuple[int, ...]] = {}
    for namespace, pool in rows:
        with apart(f"an InferencePool in namespace {namespace}"):
            for pod in by_label.matching(namespace, pool.selector):
                key = (namespace, pod["metadata"]["name"])
                ports[key] = max(ports.get(key, ()), pool.ports, key=len)
    changed = list(all_pods)
    for place, pod in enumerate(all_pods):
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        if own := ports.get((namespace, name)):
            with apart(f"pod {namespace}/{name}"):
                changed[place] = _ported(pod, own)
    return changed


def _ported(pod: Mapping[str, Any], ports: Sequence[int]) -> Mapping[str, Any]:
    if not pod["url"] or len(pod["urls"]) >= len(ports):
        return pod
    parts = urlsplit(str(pod["url"]))
    named = (name for name, number in pod["ports"].items() if number == parts.port)
    aside = pod["annotated"] or pod.get("monitored") or any(map(OF_METRICS.fullmatch, named))
    if parts.port not in ports and aside:
        return pod
    host = parts.netloc.rpartition(":")[0]
    urls = tuple(f"{parts.scheme}://{host}:{number}{parts.path}" for number in ports)
    return {**pod, "url": urls[0], "urls": urls}
