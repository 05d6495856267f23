"""Pods of scale targets, and where their metrics are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from adapter import selectors

DEFAULT_PORT = 8000
"""Of vLLM's server."""

PORT, PATH, SCHEME = "prometheus.io/port", "prometheus.io/path", "prometheus.io/scheme"
_PORT_NAMES = ("metrics", "http-metrics", "http", "vllm", "serve")


def trimmed(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    """The few fields of a pod that are read: thousands of whole ones would fill the memory."""
    metadata, spec = pod.get("metadata") or {}, pod.get("spec") or {}
    status = pod.get("status") or {}
    annotations = metadata.get("annotations") or {}
    ready = any(
        item.get("type") == "Ready" and item.get("status") == "True"
        for item in status.get("conditions") or ()
    )
    return {
        "metadata": {
            "namespace": metadata.get("namespace"),
            "name": metadata.get("name"),
            "resourceVersion": metadata.get("resourceVersion"),
            "labels": metadata.get("labels") or {},
        },
        "node": spec.get("nodeName") or "",
        "phase": status.get("phase") or "",
        "ready": ready and not metadata.get("deletionTimestamp"),
        "url": _url(annotations, spec, status),
        "requests": _requests(spec),
    }


class ByLabel:
    """Pods that can be found by what a selector demands, without looking at each."""

    def __init__(self, pods: Iterable[Mapping[str, Any]]) -> None:
        self._by_namespace: dict[str, list[Mapping[str, Any]]] = {}
        self._by_label: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
        for pod in pods:
            namespace = pod["metadata"]["namespace"]
            self._by_namespace.setdefault(namespace, []).append(pod)
            for key, value in pod["metadata"]["labels"].items():
                self._by_label.setdefault((namespace, key, value), []).append(pod)

    def matching(self, namespace: str, selector: selectors.Selector) -> list[Mapping[str, Any]]:
        """Pods of the namespace that the selector matches; none for an empty one."""
        if not selector.requirements:
            return []
        among = self._by_namespace.get(namespace, [])
        for requirement in selector.requirements:
            value = selector.equality(requirement.key)
            if value is not None:
                found = self._by_label.get((namespace, requirement.key, value), [])
                among = min(among, found, key=len)
        return [pod for pod in among if selector.matches(pod["metadata"]["labels"])]

    def endpoints(self, namespace: str, selector: selectors.Selector) -> tuple[str, ...]:
        """Metrics URLs of the ready pods, in a fixed order."""
        found = self.matching(namespace, selector)
        return tuple(sorted(pod["url"] for pod in found if pod["ready"] and pod["url"]))


def selector_of(spec: Mapping[str, Any]) -> selectors.Selector:
    """A LabelSelector object as a selector; one that we cannot read selects nothing."""
    parts = [f"{key}={value}" for key, value in (spec.get("matchLabels") or {}).items()]
    for item in spec.get("matchExpressions") or ():
        key, operator = item.get("key"), item.get("operator")
        values = ",".join(item.get("values") or ())
        forms = {
            "In": f"{key} in ({values})",
            "NotIn": f"{key} notin ({values})",
            "Exists": f"{key}",
            "DoesNotExist": f"!{key}",
        }
        if operator not in forms:
            return selectors.Selector()
        parts.append(forms[operator])
    return parsed(",".join(parts))


def parsed(text: str) -> selectors.Selector:
    """A selector from text; one that we cannot read selects nothing."""
    try:
        return selectors.parse(text)
    except selectors.SelectorError:
        return selectors.Selector()


def _url(annotations: Mapping[str, str], spec: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    address = str(status.get("podIP") or "")
    if not address:
        return ""
    ports = [
        port
        for container in spec.get("containers") or ()
        for port in container.get("ports") or ()
        if port.get("protocol", "TCP") == "TCP"
    ]
    named = {port.get("name"): port.get("containerPort") for port in ports}
    wanted = annotations.get(PORT)
    number = next((named[name] for name in _PORT_NAMES if name in named), None)
    if number is None:
        number = ports[0].get("containerPort") if ports else DEFAULT_PORT
    if wanted is not None:
        number = named.get(wanted, wanted)
    scheme = annotations.get(SCHEME, "http")
    path = annotations.get(PATH, "/metrics")
    host = f"[{address}]" if ":" in address else address
    return f"{scheme}://{host}:{number}/{path.lstrip('/')}"


def _requests(spec: Mapping[str, Any]) -> dict[str, str]:
    """Extended resources (with a domain in their name) that the pod's containers hold together."""
    found: dict[str, int] = {}
    for container in spec.get("containers") or ():
        resources = container.get("resources") or {}
        for name, value in {
            **(resources.get("requests") or {}),
            **(resources.get("limits") or {}),
        }.items():
            if "/" in name and str(value).isdigit():
                found[name] = found.get(name, 0) + int(value)
    return {name: str(value) for name, value in found.items()}
