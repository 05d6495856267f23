"""Ports of a pod at which model servers answer, by what its containers declare and how they are started."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from adapter.resources.devices.products import GPU_VENDORS
from adapter.resources.serving import command_lines
from adapter.resources.serving.command_lines import TRITON_PORT

NAMES = ("metrics", "http-metrics", "http", "vllm", "serve", "http1", "h2c", "user-port")
"""Names of ports that metrics are at, the likeliest first."""

MOST = 16
"""Most servers of one pod."""

MOST_NAMED = 256
"""Most ports of a pod that are known by name."""

MOST_CONTAINERS = 64
"""Most containers of a pod whose command lines and ports are read, and as many sidecars."""

MOST_TEXT = 64 * 1024
"""Characters of a pod's command lines, with their variables, after which no further container is read."""

_PROBES = ("readinessProbe", "livenessProbe", "startupProbe")

_BESIDE = re.compile(
    r"(?:istio|queue|linkerd|routing|envoy|kube-rbac|auth|oauth)-?proxy|envoy|(?:.*-)?sidecar|.*dcgm.*|.*exporter"
    r"|vault-agent|fluent-?bit|.*-agent|.*-collector|(?:.*-)?(?:tokenizer|render)(?:-.*)?"
)
"""Names of containers that stand beside a server."""

_REWRITTEN = "/app-health/"
"""Beginning of the path of a probe that Istio sends to a port of its own container."""

_MERGED = "ISTIO_PROMETHEUS_ANNOTATIONS"
"""Variable of Istio's container with the annotations for Prometheus that a pod had itself."""

OF_METRICS = re.compile(r"(?:.*-)?metrics(?:-.*)?")
"""Name of a port that has nothing but metrics."""

_RANKED = re.compile(r"(.*?[a-z])(?:-(?:rank-?)?\d{1,5}|(?<!http)\d{1,2})")
"""Name of a port with the number of its engine, or its own number, at the end; `http2` is a protocol."""

_RANK = re.compile(r"(?:.*-)?rank-?\d{1,5}")
"""Name of a port of one more engine, whatever the first one's is: llm-d's pods have `http` and `rank1`."""


def of_pod(spec: Mapping[str, Any]) -> tuple[tuple[int, ...], Mapping[str, int]]:
    """Ports of the servers in a pod, and all of its named ports.

    There are several where the server's container has a row of ports that follow each other, none of them
    named or with a number at the end of one name: data-parallel engines, each with a port of its own. Of
    several containers with GPUs each is a server, and so is each server that one container starts.
    """
    names = named(spec)
    containers = _containers(spec)
    with_gpus = [item for item in containers if _gpus(item)]
    if len(with_gpus) > 1 and all(_ports(item) or command_lines.ports(item) for item in with_gpus):
        rows = [number for item in with_gpus for number in _of_servers([item])]
        return tuple(dict.fromkeys(rows))[:MOST], names
    return _of_servers(_servers(containers)), names


def servers(spec: Mapping[str, Any]) -> frozenset[str]:
    """Names of the containers that serve."""
    return frozenset(str(item.get("name") or "") for item in _servers(_containers(spec)))


def read(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """The containers of a pod in which servers are looked for; an API server bounds bytes only."""
    left = MOST_TEXT
    kept: dict[str, list[Mapping[str, Any]]] = {}
    for name, among in (
        ("containers", spec.get("containers") or ()),
        ("initContainers", _sidecars(spec)),
    ):
        kept[name] = []
        for container in among[:MOST_CONTAINERS]:
            if left > 0:
                kept[name].append(container)
                left -= len(command_lines.text_of(container))
    return kept


def secured(spec: Mapping[str, Any]) -> frozenset[int]:
    """Ports of a pod that answer by https, by what its probes say or how its server is started.

    KServe's servers have a certificate each, and no annotation; their probes ask by HTTPS. What is so of one
    server of a container is so of all that it starts; other containers of the pod may have no certificate.
    """
    names = named(spec)
    numbers: set[int] = set()
    for container in _containers(spec):
        probed: set[int] = set()
        for kind in _PROBES:
            asked = (container.get(kind) or {}).get("httpGet") or {}
            port = names.get(str(asked.get("port")), asked.get("port"))
            if asked.get("scheme") == "HTTPS" and isinstance(port, int):
                probed.add(port)
        own = _of_servers([container])
        if command_lines.has_certificate(container) or not probed.isdisjoint(own):
            numbers.update(own)
        numbers |= probed
    return frozenset(numbers)


def _containers(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Containers that run as long as the pod: init containers that are restarted always are among them."""
    return [*(spec.get("containers") or ()), *_sidecars(spec)]


def _sidecars(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [
        item for item in spec.get("initContainers") or () if item.get("restartPolicy") == "Always"
    ]


def _of_servers(servers: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    """Ports of the server in these containers.

    A declared port is information only: what the command line says is where a server listens.
    """
    ports = [port for container in servers for port in _ports(container)]
    by_name = {str(port["name"]): port["containerPort"] for port in ports if port.get("name")}
    of_metrics = min(
        (name for name in by_name if OF_METRICS.fullmatch(name)),
        key=lambda name: (NAMES.index(name) if name in NAMES else len(NAMES), name),
        default="",
    )
    if of_metrics:
        return _ranks(by_name[of_metrics], by_name)
    declared = [port["containerPort"] for port in ports if not port.get("name")]
    started = tuple(number for item in servers for number in command_lines.ports(item))
    if started:
        rows = [
            number
            for first in started
            for number in (
                _ranks(first, by_name) if first in by_name.values() else _row(first, declared)
            )
        ]
        return tuple(dict.fromkeys(rows))[:MOST]
    default = command_lines.default(servers)
    return _of_declared(ports, by_name, declared, probed=_probed(servers, by_name), default=default)


def _of_declared(
    ports: Sequence[Mapping[str, Any]],
    by_name: Mapping[str, int],
    declared: Sequence[int],
    *,
    probed: Sequence[int],
    default: int,
) -> tuple[int, ...]:
    """Ports of a server by those that its containers declare, where no command line says them.

    Args:
        ports: all of them.
        by_name: numbers of those with a name.
        declared: numbers of those without one.
        probed: numbers of those that answer HTTP, by the probes.
        default: port of this kind of server.

    """
    if default == TRITON_PORT:
        return (TRITON_PORT,)  # those that are declared or probed are of its HTTP and gRPC services
    name = next((name for name in NAMES if name in by_name), "")
    ranked = min((name for name in by_name if _stem(name) in NAMES), default="")
    if name or ranked:
        return _ranks(by_name[name or ranked], by_name)
    if not ports:
        return (*probed, default)[:1]
    numbers = {port["containerPort"] for port in ports}
    likely = [number for number in (*probed, default) if number in numbers]
    first: int = (*likely, *declared, ports[0]["containerPort"])[0]
    if first in by_name.values():
        return _ranks(first, by_name)
    # Declared in any order: the row begins at its lowest port.
    there = frozenset(declared)
    while first - 1 in there:
        first -= 1
    return _row(first, there)


def _probed(servers: Sequence[Mapping[str, Any]], by_name: Mapping[str, int]) -> tuple[int, ...]:
    """Ports that the probes of these containers ask by HTTP."""
    asked = [
        (container.get(kind) or {}).get("httpGet") or {}
        for container in servers
        for kind in _PROBES
    ]
    numbers = [
        by_name.get(str(item.get("port")), item.get("port"))
        for item in asked
        if not str(item.get("path") or "").startswith(_REWRITTEN)
    ]
    return tuple(dict.fromkeys(number for number in numbers if isinstance(number, int)))


def _stem(name: str) -> str:
    """Name of a port without the number of its engine; empty where it has none."""
    form = _RANKED.fullmatch(name)
    return form[1] if form else ""


def _ranks(number: int, by_name: Mapping[str, int]) -> tuple[int, ...]:
    """A named port, and those named alike with a number at the end, where they follow each other."""
    own = next(name for name, value in by_name.items() if value == number)
    stem = _stem(own) or own
    alike = [
        value
        for name, value in by_name.items()
        if stem in {name, _stem(name)} or _RANK.fullmatch(name)
    ]
    return _row(number, alike)


def named(spec: Mapping[str, Any]) -> dict[str, int]:
    """Ports of a pod by name, the first 256."""
    each = (
        (str(port["name"]), port["containerPort"])
        for container in _containers(spec)
        for port in _ports(container)
        if port.get("name")
    )
    return dict(itertools.islice(each, MOST_NAMED))


def _row(first: int, declared: Collection[int]) -> tuple[int, ...]:
    """The first port and those that follow it one by one."""
    row = [first]
    while first in declared and row[-1] + 1 in declared and len(row) < MOST:
        row.append(row[-1] + 1)
    return tuple(row)


def of_mesh(spec: Mapping[str, Any]) -> bool:
    """Whether annotations for Prometheus are a mesh's alone, which has no metrics of the server.

    Istio sets them at every pod, and keeps in its container's environment those that the pod had before: of
    them alone it shows the metrics beside its own. A container without any environment is none that Istio
    wrote, and says nothing of it: the annotations are then what the pod's author says.
    """
    everyone = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    proxy = next((item for item in everyone if item.get("name") == "istio-proxy"), None)
    names = {item.get("name") for item in (proxy or {}).get("env") or ()}
    return bool(names) and _MERGED not in names


def _servers(containers: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The containers that serve: those with GPUs, else those that are not known to stand beside a server."""
    with_gpus = [item for item in containers if _gpus(item)]
    others = [
        item
        for item in containers
        if not (_BESIDE.fullmatch(str(item.get("name") or "")) or command_lines.renders(item))
    ]
    known = [item for item in others if command_lines.known(item)]
    # Accelerators of other vendors too.
    holding = [item for item in others if any("/" in name for name in _held(item))]
    return (
        with_gpus
        or [item for item in holding if item in known]
        # What stands beside a server may name it in its arguments.
        or [item for item in known if command_lines.runs(item)]
        or holding
        or known
        or others
        or containers
    )


def _held(container: Mapping[str, Any]) -> Collection[str]:
    """Resources that a container holds."""
    resources = container.get("resources") or {}
    return {**(resources.get("requests") or {}), **(resources.get("limits") or {})}.keys()


def _gpus(container: Mapping[str, Any]) -> bool:
    # Claims of dynamic resource allocation are of devices.
    claims = (container.get("resources") or {}).get("claims")
    return bool(claims) or any(name.startswith(GPU_VENDORS) for name in _held(container))


def _ports(container: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return [
        port
        for port in container.get("ports") or ()
        if port.get("protocol", "TCP") == "TCP" and isinstance(port.get("containerPort"), int)
    ]
