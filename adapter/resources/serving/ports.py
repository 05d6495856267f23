"""Ports of a pod at which model servers answer, by what its containers declare and how they are started."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

VLLM_PORT, SGLANG_PORT = 8000, 30000
"""Default ports of the servers."""

NAMES = ("metrics", "http-metrics", "http", "vllm", "serve", "http1", "h2c", "user-port")
"""Names of ports that metrics are at, the likeliest first."""

MOST = 16
"""Most servers of one pod."""

_GPU_VENDORS = ("nvidia.com/", "amd.com/", "gpu.intel.com/", "habana.ai/")

_BESIDE = re.compile(
    r"(?:istio|queue|linkerd|routing|envoy|kube-rbac|auth|oauth)-?proxy|envoy|(?:.*-)?sidecar|.*dcgm.*|.*exporter"
    r"|vault-agent|fluent-?bit|.*-agent"
)
"""Names of containers that stand beside a server."""

_PORT_FLAG = re.compile(r"(?:^|\s)--port(?:=|\s+)(\d{1,5})(?:\s|$)")


def of_pod(spec: Mapping[str, Any]) -> tuple[tuple[int, ...], Mapping[str, int]]:
    """Ports of the servers in a pod, and all of its named ports.

    There are several where the server's container has a row of ports that follow each other, none of them
    named: data-parallel engines, each with a port of its own.
    """
    names = named(spec)
    servers = _servers(list(spec.get("containers") or ()))
    ports = [port for container in servers for port in _ports(container)]
    by_name = {port.get("name"): port["containerPort"] for port in ports}
    number = next((by_name[name] for name in NAMES if name in by_name), None)
    if number is not None:
        return (number,), names
    started = next((flag for container in servers if (flag := _flag(container))), None)
    if not ports:
        return (started or _default(servers),), names
    declared = [port["containerPort"] for port in ports if not port.get("name")]
    first: int = ports[0]["containerPort"]
    return _row(started if started in declared and started else first, declared), names


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
    return any(name.startswith(_GPU_VENDORS) for name in held)


def _ports(container: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    return [
        port
        for port in container.get("ports") or ()
        if port.get("protocol", "TCP") == "TCP" and isinstance(port.get("containerPort"), int)
    ]


def _text(container: Mapping[str, Any]) -> str:
    parts = [*(container.get("command") or ()), *(container.get("args") or ())]
    return " ".join(map(str, parts))


def _flag(container: Mapping[str, Any]) -> int | None:
    """The port that a container's command line gives its server."""
    flag = _PORT_FLAG.search(_text(container))
    number = int(flag[1]) if flag else 0
    return number if 0 < number < 65536 else None


def _default(containers: Iterable[Mapping[str, Any]]) -> int:
    says = " ".join(f"{_text(item)} {item.get('image', '')}" for item in containers)
    return SGLANG_PORT if "sglang" in says else VLLM_PORT
