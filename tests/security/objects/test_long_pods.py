"""Pods with thousands of containers, resources or ports, or with long command lines: read in linear time.

An API server bounds such lists by the 1.5 MiB of an object only, and a pod is read anew whenever it changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from adapter.resources import pods
from adapter.resources.devices import held, products, taints
from adapter.resources.serving import command_lines, ports
from tests.security.objects.test_rows_and_variants import steps

MANY = 600


class Name(str):
    """A name that counts its comparisons."""

    __slots__ = ()
    looks = 0

    def __hash__(self) -> int:
        Name.looks += 1
        return super().__hash__()

    def __eq__(self, other: object) -> bool:
        Name.looks += 1
        return super().__eq__(other)


class Port(int):
    """A port that counts its comparisons."""

    looks = 0

    def __hash__(self) -> int:
        return super().__hash__()

    def __eq__(self, other: object) -> bool:
        Port.looks += 1
        return super().__eq__(other)


def pod(containers: Sequence[object] = (), init: Sequence[object] = ()) -> Mapping[str, Any]:
    """A running pod of these containers."""
    return {
        "metadata": {"namespace": "n", "name": "p"},
        "spec": {"containers": containers, "initContainers": init},
        "status": {"phase": "Running", "podIP": "10.0.0.1"},
    }


def containers(kind: str) -> list[Mapping[str, Any]]:
    """Containers that each hold something of their own."""
    return [
        {
            "name": Name(f"c{number}"),
            "restartPolicy": kind,
            "args": ["vllm"],
            "resources": {"limits": {Name(f"example.com/d{number}"): "1"}},
        }
        for number in range(MANY)
    ]


@pytest.mark.parametrize("place", ["containers", "init"])
def test_containers_are_not_compared_with_each_other(place: str) -> None:
    """6,000 sidecars, each with a device of its own, took 12 s of everybody's time at each change."""
    whole = pod(**{place: containers("Always")})
    Name.looks = 0
    kept = pods.trimmed(whole)
    assert len(kept["requests"]) == held.MOST_RESOURCES
    assert set(kept["requests"].values()) == {1}
    assert Name.looks <= 40 * MANY


def test_declared_ports_are_not_compared_with_each_other() -> None:
    """16,000 of them, highest first, took 2 s."""
    declared = [{"containerPort": Port(60000 - number)} for number in range(MANY)]
    Port.looks = 0
    kept = pods.trimmed(pod([{"name": "v", "ports": declared}]))
    assert kept["urls"][0] == f"http://10.0.0.1:{60001 - MANY}/metrics"
    assert len(kept["urls"]) == ports.MOST
    assert Port.looks <= 40 * MANY


def test_repeated_flags_are_read_once() -> None:
    """Variables make thousands of flags of a few."""
    container = {
        "command": ["vllm serve"],
        "args": ["$(A)" * 400],
        "env": [{"name": "A", "value": "--port 1 " * 2000}],
    }
    few = {**container, "args": ["$(A)"], "env": [{"name": "A", "value": "--port 1 "}]}
    assert command_lines.ports(container) == (1,)
    assert steps(lambda: command_lines.ports(container)) <= 50 * steps(
        lambda: command_lines.ports(few)
    )


def test_long_command_lines_end_the_reading() -> None:
    """Command lines are read until they are 64 KiB together: of few containers where each is long."""
    long = {"name": "v", "args": ["$(A)" * 400], "env": [{"name": "A", "value": "x" * 20_000}]}
    assert len(ports.read({"containers": [long] * 64})["containers"]) == 1
    short = {"name": "v", "args": ["vllm serve m --port 8000"], "restartPolicy": "Always"}
    kept = ports.read({"containers": [short] * 20, "initContainers": [{"name": "i"}, short]})
    assert len(kept["containers"]) == 20
    assert kept["initContainers"] == [short]


def test_devices_are_counted_of_all_containers() -> None:
    """Also of those that are not looked at for servers: what is held is held."""
    container = {"name": "c", "resources": {"limits": {"nvidia.com/gpu": "1"}}}
    assert pods.trimmed(pod([container] * MANY))["requests"] == {"nvidia.com/gpu": MANY}


def test_products_and_slices_are_not_paired() -> None:
    """1,600 of each in one pod, of 120 KiB, took 340 MiB and 5 s."""
    named = [f"NVIDIA-{number}" for number in range(MANY)]
    term = {"key": "nvidia.com/gpu.product", "operator": "In", "values": named}
    required = {"nodeSelectorTerms": [{"matchExpressions": [term]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    limits = {f"nvidia.com/mig-{number}g": "1" for number in range(MANY)}
    spec = {"containers": [{"name": "c", "resources": {"limits": limits}}], "affinity": affinity}
    assert len(products.of_pod(spec)) == products.MOST_PRODUCTS


def test_little_is_kept_of_a_pod_with_much_of_everything() -> None:
    """A Deployment makes thousands of pods of one template of 1.5 MiB."""
    declared = [{"containerPort": 1, "name": f"p{number}"} for number in range(MANY)]
    limits = {f"example.com/{number}": "1" for number in range(MANY)} | {"nvidia.com/gpu": "2"}
    kept = pods.trimmed(pod([{"name": "v", "ports": declared, "resources": {"limits": limits}}]))
    assert len(kept["ports"]) == ports.MOST_NAMED
    assert len(kept["requests"]) == held.MOST_RESOURCES
    assert kept["requests"]["nvidia.com/gpu"] == 2


def test_tolerations_by_the_thousand_are_not_kept_for_each_pod() -> None:
    """1,000 replicas of a template with 10,000 of them took more memory than the adapter may have."""
    tolerated = [{"key": f"k{number}", "operator": "Exists"} for number in range(MANY)]
    objects = [pod(), pod()]
    read = [
        pods.trimmed({**item, "spec": {**item["spec"], "tolerations": [*map(dict, tolerated)]}})
        for item in objects
    ]
    kept = [item["tolerations"] for item in read]
    assert taints.Toleration("k0", None, "") in kept[0]
    assert len(kept[0]) == taints.MOST_TOLERATIONS
    assert kept[0] is kept[1]
