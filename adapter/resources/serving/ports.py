"""Ports of a pod at which model servers answer, by what its containers declare and how they are started."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

VLLM_PORT, SGLANG_PORT, TRITON_PORT = 8000, 30000, 8002
"""Default ports of the servers' metrics."""

NAMES = ("metrics", "http-metrics", "http", "vllm", "serve", "http1", "h2c", "user-port")
"""Names of ports that metrics are at, the likeliest first."""

MOST = 16
"""Most servers of one pod."""

_MOST_TEXT = 64 * 1024
"""Most characters of a command line that are read."""

_GPU_VENDORS = ("nvidia.com/", "amd.com/", "gpu.intel.com/", "habana.ai/")

_BESIDE = re.compile(
    r"(?:istio|queue|linkerd|routing|envoy|kube-rbac|auth|oauth)-?proxy|envoy|(?:.*-)?sidecar|.*dcgm.*|.*exporter"
    r"|vault-agent|fluent-?bit|.*-agent"
)
"""Names of containers that stand beside a server."""

_RANKED = re.compile(r"(.*[a-z])-(?:rank-?)?\d{1,2}")
"""Name of a port with the number of its engine at the end."""

_VARIABLE = re.compile(r"\$\((\w+)\)")

_CERTIFICATE_FLAG = re.compile(r"(?:^|\s)--ssl-certfile(?:=|\s)")

_PORT_FLAG = re.compile(r"(?:^|\s)--port(?:=|\s+)(\d{1,5})(?:\s|$)")


def of_pod(spec: Mapping[str, Any]) -> tuple[tuple[int, ...], Mapping[str, int]]:
    """Ports of the servers in a pod, and all of its named ports.

    There are several where the server's container has a row of ports that follow each other, none of them
    named or with a number at the end of one name: data-parallel engines, each with a port of its own. Of
    several containers with GPUs each is a server.
    """
    names = named(spec)
    containers = list(spec.get("containers") or ())
    with_gpus = [item for item in containers if _has_gpus(item)]
    if len(with_gpus) > 1 and all(_ports(item) or _flag(item) for item in with_gpus):
        rows = [number for item in with_gpus for number in _of_servers([item])]
        return tuple(dict.fromkeys(rows))[:MOST], names
    return _of_servers(_servers(containers)), names


def secured(spec: Mapping[str, Any]) -> frozenset[int]:
    """Ports of a pod that answer by https, by what its probes say or how its server is started.

    KServe's servers have a certificate each, and no annotation; their probes ask by HTTPS.
    """
    names = named(spec)
    numbers: set[int] = set()
    for container in spec.get("containers") or ():
        for kind in ("readinessProbe", "livenessProbe", "startupProbe"):
            asked = (container.get(kind) or {}).get("httpGet") or {}
            port = names.get(str(asked.get("port")), asked.get("port"))
            if asked.get("scheme") == "HTTPS" and isinstance(port, int):
                numbers.add(port)
        if _CERTIFICATE_FLAG.search(_text(container)):
            numbers.update(_of_servers([container]))
    return frozenset(numbers)


def _of_servers(servers: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    """Ports of the server in these containers."""
    ports = [port for container in servers for port in _ports(container)]
    by_name = {str(port.get("name") or ""): port["containerPort"] for port in ports}
    number = next((by_name[name] for name in NAMES if name in by_name), None)
    if number is not None:
        return _ranks(number, next(name for name in NAMES if name in by_name), by_name)
    ranked = min((name for name in by_name if _RANKED.fullmatch(name)), default="")
    if ranked and _RANKED.sub(r"\1", ranked) in NAMES:
        return _ranks(by_name[ranked], _RANKED.sub(r"\1", ranked), by_name)
    started = next((flag for container in servers if (flag := _flag(container))), None)
    default = _default(servers)
    if not ports:
        return (started or default,)
    declared = [port["containerPort"] for port in ports if not port.get("name")]
    if default == TRITON_PORT and TRITON_PORT in declared:
        return (TRITON_PORT,)  # those before it are of its HTTP and gRPC services
    likely = [number for number in (started, default) if number in declared]
    first: int = (*likely, *declared, ports[0]["containerPort"])[0]
    # Declared in any order: the row begins at its lowest port.
    while not started and first - 1 in declared:
        first -= 1
    return _row(first, declared)


def _ranks(number: int, stem: str, by_name: Mapping[str, int]) -> tuple[int, ...]:
    """The port of that name, and those named alike with a number at the end, where they follow each other."""
    alike = [value for name, value in by_name.items() if _RANKED.sub(r"\1", name) == stem]
    return _row(number, alike)


def named(spec: Mapping[str, Any]) -> dict[str, int]:
    """Ports of a pod by name."""
    return {
        str(port["name"]): port["containerPort"]
        for container in spec.get("containers") or ()
        for port in _ports(container)
        if port.get("name")
    }


def _row(first: int, declared: Sequence[int]) -> tuple[int, ...]:
    """The first port and those that follow it one by one."""
    row = [first]
    while first in declared and row[-1] + 1 in declared and len(row) < MOST:
        row.append(row[-1] + 1)
    return tuple(row)


def _servers(containers: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The containers that serve: those with GPUs, else those that are not known to stand beside a server."""
    with_gpus = [item for item in containers if _has_gpus(item)]
    others = [item for item in containers if not _BESIDE.fullmatch(str(item.get("name") or ""))]
    return with_gpus or others or containers


def _has_gpus(container: Mapping[str, Any]) -> bool:
    resources = container.get("resources") or {}
    held = {**(resources.get("requests") or {}), **(resources.get("limits") or {})}
    # Claims of dynamic resource allocation are of devices.
    return bool(resources.get("claims")) or any(name.startswith(_GPU_VENDORS) for name in held)


def _ports(container: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return [
        port
        for port in container.get("ports") or ()
        if port.get("protocol", "TCP") == "TCP" and isinstance(port.get("containerPort"), int)
    ]


def _text(container: Mapping[str, Any]) -> str:
    parts = [*(container.get("command") or ()), *(container.get("args") or ())]
    values = {str(item.get("name")): item.get("value") for item in container.get("env") or ()}
    text = " ".join(map(str, parts))[:_MOST_TEXT]
    return _VARIABLE.sub(lambda variable: str(values.get(variable[1], variable[0])), text)


def _flag(container: Mapping[str, Any]) -> int | None:
    """The port that a container's command line gives its server."""
    flag = _PORT_FLAG.search(_text(container))
    number = int(flag[1]) if flag else 0
    return number if 0 < number < 65536 else None


def _default(containers: Iterable[Mapping[str, Any]]) -> int:
    says = " ".join(f"{_text(item)} {item.get('image', '')}" for item in containers)
    if "tritonserver" in says:
        return TRITON_PORT
    return SGLANG_PORT if "sglang" in says else VLLM_PORT
