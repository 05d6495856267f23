"""Pods of scale targets, and where their metrics are."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypedDict

from adapter.kube import labels, quantity
from adapter.resources.devices import dra, held, products, taints
from adapter.resources.serving import command_lines, groups, owners, ports, stuck
from adapter.resources.serving.selection import Index, Looks

WHOLE_GPUS = frozenset(
    {
        "nvidia.com/gpu",
        "amd.com/gpu",
        "gpu.intel.com/i915",
        "gpu.intel.com/xe",
        "intel.com/gpu",
        "habana.ai/gaudi",
        "google.com/tpu",
        "aws.amazon.com/neuron",
        "aws.amazon.com/neurondevice",
    }
)
"""Resources that are whole GPUs; others of their vendors are slices or shares of one."""

_NPU = re.compile(products.NPU)


def is_whole(resource: str) -> bool:
    """Whether a resource is of whole GPUs."""
    return resource in WHOLE_GPUS or _NPU.fullmatch(resource) is not None


ENDED = frozenset({"Succeeded", "Failed"})
"""Phases of pods that hold nothing any more."""

PORT, PATH, SCHEME = "prometheus.io/port", "prometheus.io/path", "prometheus.io/scheme"
KSERVE = "prometheus.kserve.io/"
"""Where KServe's annotations have the same names, which count after those."""
_ANNOTATED = frozenset({PORT, PATH, SCHEME})
MESH_PATH = "/stats/prometheus"
"""Path at which Istio has the metrics of a pod beside its own."""
_PATH_TEXT = re.compile(r"[\x21\x24-\x7e]{0,512}")
"""Visible ASCII without `"` and `#`, which ends a path."""

_PROBLEMS = 3
"""Most problems of one target's pods that are reported."""

QUEUE = "kueue.x-k8s.io/queue-name"
"""Label of pods that Kueue admits."""


def trimmed(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    """Fields of a pod that are read; thousands of whole pods would fill the memory."""
    metadata, spec = pod.get("metadata") or {}, pod.get("spec") or {}
    status = pod.get("status") or {}
    annotations = metadata.get("annotations") or {}
    ready = next(
        (
            item
            for item in status.get("conditions") or ()
            if item.get("type") == "Ready" and item.get("status") == "True"
        ),
        None,
    )
    address = _address(status)
    containers = ports.read(spec)
    urls, problem = _urls(address, annotations, containers)
    return {
        "metadata": {
            "namespace": metadata.get("namespace"),
            "name": metadata.get("name"),
            "resourceVersion": metadata.get("resourceVersion"),
            "labels": metadata.get("labels") or {},
        },
        "owner": owners.of_pod(metadata),
        "controlled": owners.controlled(metadata),
        "node": str(spec.get("nodeName") or ""),
        "phase": str(status.get("phase") or ""),
        "ready": ready is not None and not metadata.get("deletionTimestamp"),
        "startup_seconds": _between(
            _began(metadata, status), (ready or {}).get("lastTransitionTime")
        ),
        "address": address,
        "url": urls[0] if urls else "",
        "ports": ports.named(containers),
        "picker": command_lines.of_picker(containers["containers"]),
        "annotated": not _ANNOTATED.isdisjoint(
            name.replace(KSERVE, "prometheus.io/") for name in annotations
        ),
        "urls": urls,
        "problem": problem,
        "requests": held.of_pod(spec),
        "products": products.of_pod(spec),
        "tolerations": taints.of_pod(spec),
        "role": command_lines.role(containers["containers"]),
        "gated": bool(spec.get("schedulingGates")),
        "stuck": stuck.of_pod(status),
        "restarted_at": stuck.restarted_at(status, ports.servers(containers)),
        **_extended(status),
    }


def _extended(status: Mapping[str, Any]) -> Mapping[str, str]:
    """The claim that the scheduler made for a pod's extended resources; few pods have one."""
    # One more field of every pod would double the table of each dictionary.
    name = (status.get("extendedResourceClaimStatus") or {}).get("resourceClaimName")
    return {"extended": str(name)} if name else {}


class Counts(TypedDict, total=False):
    """Numbers of pods of a scale target, as `Serving` explains them."""

    gated: int
    unschedulable: int
    failing: int
    existing: int
    prefilling: frozenset[str]
    beside: Mapping[str, str]
    restarts: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """Serving pods of a scale target.

    Attributes:
        endpoints: metrics URLs of the pods; of some several, each of one server.
        names: names of their pods, in the same order.
        startup_seconds: median time from creation until ready; None where unknown.
        addresses: IP addresses of all its pods, also of those that are not ready.
        problems: annotations of pods that are not used, one line each.
        gated: pods that a scheduling gate holds, such as those that wait in a Kueue queue.
        unschedulable: pods that the scheduler finds no node for.
        failing: pods whose containers end or cannot start.
        existing: all pods, ready or not.
        prefilling: endpoints of the pods that only prefill, where others of the target generate.
        beside: group of each endpoint, as `groups.beside`.
        restarts: when the containers behind endpoints last started again, Unix seconds, where they did.
        workload: the role that its pods are, as `owners.of_role`.
        gpus: whole GPUs that a replica requests, a group of pods counted whole, the most where they differ
            (groups that are not complete, and rollouts); 0 where it has slices or shares of one; None where
            they request none.

    """

    endpoints: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    startup_seconds: float | None = None
    addresses: frozenset[str] = frozenset()
    problems: tuple[str, ...] = ()
    gpus: int | None = None
    gated: int = 0
    unschedulable: int = 0
    failing: int = 0
    existing: int = 0
    prefilling: frozenset[str] = frozenset()
    beside: Mapping[str, str] = field(default_factory=dict)
    restarts: Mapping[str, float] = field(default_factory=dict)
    workload: str = ""

    @property
    def counts(self) -> Counts:
        """Pods that exist, those that will not serve soon, and what prefills for others."""
        return {
            "gated": self.gated,
            "unschedulable": self.unschedulable,
            "failing": self.failing,
            "existing": self.existing,
            "prefilling": self.prefilling,
            "beside": self.beside,
            "restarts": self.restarts,
        }


Apart = Callable[[str], contextlib.AbstractContextManager[object]]
"""Where the error of one object, named so, ends: those of others are joined without it."""


class ByLabel:
    """Index of pods by label, so that a selector need not be matched against every pod."""

    def __init__(
        self,
        pods: Iterable[Mapping[str, Any]],
        *,
        deployments: Iterable[tuple[str, str]] | None = None,
    ) -> None:
        """`deployments`: Namespace and name of all; None: not known."""
        self._deployments = None if deployments is None else frozenset(deployments)
        self._all = Index(pods)
        self._looks = Looks()

    @property
    def namespaces(self) -> Iterable[str]:
        """Namespaces of the pods."""
        return self._all.by_namespace.keys()

    @functools.cached_property
    def _owned(self) -> tuple[Mapping[tuple[str, owners.Owner], list[Mapping[str, Any]]], Index]:
        """Pods of one workload alone, by namespace and workload, and all others."""
        owned: dict[tuple[str, owners.Owner], list[Mapping[str, Any]]] = {}
        others: list[Mapping[str, Any]] = []
        for pod in (pod for pods in self._all.by_namespace.values() for pod in pods):
            owner = owners.exclusive(pod, self._deployments)
            mine = owned.setdefault((pod["metadata"]["namespace"], owner), []) if owner else others
            mine.append(pod)
        return owned, Index(others)

    def of_workload(
        self, namespace: str, selector: labels.Selector, workload: owners.Owner
    ) -> list[Mapping[str, Any]]:
        """Pods that the selector matches, without those of other workloads.

        Raises:
            OverlapError: too much was compared in this namespace.

        """
        if workload[0] not in owners.OWN_PODS:
            return self.matching(namespace, selector)
        owned, others = self._owned
        own = self._matching(namespace, selector, owned.get((namespace, workload), []))
        both = [*own, *self._matching(namespace, selector, others.among(namespace, selector))]
        return sorted(both, key=lambda pod: str(pod["metadata"]["name"])) if own else both

    def matching(self, namespace: str, selector: labels.Selector) -> list[Mapping[str, Any]]:
        """Pods of the namespace that the selector matches; none for an empty one.

        Raises:
            OverlapError: as `of_workload`.

        """
        return self._matching(namespace, selector, self._all.among(namespace, selector))

    def _matching(
        self, namespace: str, selector: labels.Selector, among: Sequence[Mapping[str, Any]]
    ) -> list[Mapping[str, Any]]:
        if not selector.requirements:
            return []
        self._looks.check(namespace, pods=len(self._all.by_namespace.get(namespace, ())))
        matching = [pod for pod in among if selector.matches(pod["metadata"]["labels"])]
        self._looks.note(namespace, compared=len(among), matching=len(matching))
        return matching

    def serving(
        self, namespace: str, selector: labels.Selector, workload: owners.Owner = ("", "")
    ) -> Serving:
        """Ready pods of the workload that have an address, ordered by URL."""
        return serving_of(self.of_workload(namespace, selector, workload))


def serving_of(matching: Sequence[Mapping[str, Any]]) -> Serving:
    """Ready pods of a workload's pods that have an address, ordered by URL."""
    ready = [pod for pod in matching if pod["ready"] and pod["url"]]
    ready.sort(key=lambda pod: str(pod["url"]))
    starts = [pod["startup_seconds"] for pod in ready if pod["startup_seconds"] is not None]
    return Serving(
        endpoints=tuple(url for pod in ready for url in pod["urls"]),
        names=tuple(pod["metadata"]["name"] for pod in ready for _ in pod["urls"]),
        # One pod that became ready again late says nothing of how long a start takes.
        startup_seconds=statistics.median_low(starts) if starts else None,
        addresses=frozenset(pod["address"] for pod in matching if pod["address"]),
        problems=tuple(sorted({pod["problem"] for pod in ready if pod["problem"]})[:_PROBLEMS]),
        gpus=_gpus(pod for pod in matching if pod["phase"] not in ENDED),
        gated=sum(pod["gated"] for pod in matching),
        unschedulable=sum(pod["stuck"] == stuck.UNSCHEDULABLE for pod in matching),
        failing=sum(pod["stuck"] == stuck.FAILING for pod in matching),
        existing=len(matching),
        restarts={
            url: pod["restarted_at"] for pod in ready if pod["restarted_at"] for url in pod["urls"]
        },
    )


def _began(metadata: Mapping[str, Any], status: Mapping[str, Any]) -> object:
    """When a pod began to start: its creation, or its scheduling where Kueue held it until then."""
    if QUEUE in (metadata.get("labels") or {}):
        for item in status.get("conditions") or ():
            if item.get("type") == "PodScheduled" and item.get("status") == "True":
                return item.get("lastTransitionTime")
    return metadata.get("creationTimestamp")


def gpus_of(spec: Mapping[str, Any]) -> int | None:
    """Whole GPUs that a pod of this spec requests, as `Serving.gpus`."""
    return _gpus([{"metadata": {"labels": {}}, "requests": held.of_pod(spec)}])


def _gpus(pods: Iterable[Mapping[str, Any]]) -> int | None:
    """Whole GPUs that each replica of these pods requests, as `Serving.gpus`."""
    by_replica: dict[tuple[str, ...], Counter[str]] = {}
    claimed: dict[tuple[str, ...], set[dra.Claimed]] = {}
    asked_for: dict[tuple[str, ...], set[dra.Claimed]] = {}
    for pod in pods:
        replica = groups.of_pod(pod)
        by_replica.setdefault(replica, Counter()).update(pod["requests"])
        devices = pod.get("claimed", ())
        claimed.setdefault(replica, set()).update(devices)
        own = (device for device in devices if _asked_for(pod, device))
        asked_for.setdefault(replica, set()).update(own)
    counts: set[int] = set()
    for replica, requests in by_replica.items():
        amounts = {
            name: count
            for name, count in requests.items()
            if count and name.startswith(products.GPU_VENDORS)
        }
        parts = any(not device.whole for device in claimed[replica])
        whole = sum(count for name, count in amounts.items() if is_whole(name))
        if amounts or claimed[replica]:
            split = parts or not all(map(is_whole, amounts))
            # What the scheduler claims for extended resources is what these ask for.
            extended = len(asked_for[replica])
            counts.add(0 if split else max(whole, extended) + len(claimed[replica]) - extended)
    return max(counts, default=None)


def _asked_for(pod: Mapping[str, Any], device: dra.Claimed) -> bool:
    """Whether the scheduler claimed a device for an extended resource that the pod requests.

    Its word is the pod's status, which comes a moment later than the claim, and before the pod has a node.
    """
    return device.claim == pod.get("extended") or (device.extended and not pod["node"])


def _between(first: object, last: object) -> float | None:
    """Seconds between two times of the API; None where one is missing."""
    try:
        span = datetime.fromisoformat(str(last)) - datetime.fromisoformat(str(first))
    except ValueError:
        return None
    return max(span.total_seconds(), 0.0)


def _address(status: Mapping[str, Any]) -> str:
    """IP address of a pod; empty where it has none."""
    if status.get("phase") in ENDED:
        return ""  # it was given back, and may be another pod's
    try:
        return str(ipaddress.ip_address(str(status.get("podIP") or "")))
    except ValueError:
        return ""


def _urls(
    address: str, annotations: Mapping[str, str], spec: Mapping[str, Any]
) -> tuple[tuple[str, ...], str]:
    """Metrics URLs of a pod's servers, none without an address, and which of its annotations are not used.

    Their values are the tenants': whatever they say, the URLs are ones of the pod's own address.
    """
    if not address:
        return (), ""
    problems = []
    numbers, named = ports.of_pod(spec)
    annotations = {
        **{name.replace(KSERVE, "prometheus.io/"): text for name, text in annotations.items()},
        **{name: text for name, text in annotations.items() if not name.startswith(KSERVE)},
    }
    if annotations.get(PATH) == MESH_PATH and ports.of_mesh(spec):
        annotations = {name: text for name, text in annotations.items() if name not in _ANNOTATED}
    port_text = annotations.get(PORT)
    if port_text is not None:
        try:
            port = quantity.whole(str(named.get(port_text, port_text)), least=1, most=65535)
            # It has room for one: the first of a row of servers stands for all of them, where names or
            # flags say that it is one. What only follows it may be anything, and never answer.
            row = port in named.values() or command_lines.several(spec.get("containers") or ())
            numbers = numbers if row and port == numbers[0] else (port,)
        except ValueError as error:
            problems.append(
                f"pod annotation {PORT}: {error}, or the name of a port; {numbers[0]} is used"
            )
    secured = ports.secured(spec)
    by_spec = ["https" if number in secured else "http" for number in numbers]
    scheme = annotations.get(SCHEME)
    if scheme not in {None, "http", "https"}:
        problems.append(f"pod annotation {SCHEME}: must be http or https; {by_spec[0]} is used")
        scheme = None
    path = annotations.get(PATH, command_lines.path(spec.get("containers") or ())).lstrip("/")
    if not _PATH_TEXT.fullmatch(path):
        problems.append(f"pod annotation {PATH}: must be a path without blanks; /metrics is used")
        path = "metrics"
    host = f"[{address}]" if ":" in address else address
    urls = tuple(
        f"{scheme or by_port}://{host}:{number}/{path}"
        for by_port, number in zip(by_spec, numbers, strict=True)
    )
    return urls, "; ".join(problems)
