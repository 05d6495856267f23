"""Devices and nodes that say odd things of themselves: no time beyond linear, and no endless texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from adapter.kube import scale
from adapter.resources import gpus, inputs
from adapter.resources.devices import asked, dra, left_out, products, taints
from adapter.resources.variant import Target
from tests.fuzz import neighbours

MANY = 3000


class Counted(str):
    """A name that counts its comparisons."""

    __slots__ = ()
    looks = 0

    def __hash__(self) -> int:
        Counted.looks += 1
        return super().__hash__()

    def __eq__(self, other: object) -> bool:
        Counted.looks += 1
        return super().__eq__(other)


def inventory() -> gpus.Inventory:
    """Each device of another product, on a node that takes no pods."""
    names = [f"GPU-{number}" for number in range(MANY)]
    return gpus.Inventory(
        types=tuple(
            gpus.GpuType(
                name=name, product=name, memory_gib=None, total=0, free=0, held_on_closed=0
            )
            for name in names
        ),
        left_out=tuple(
            left_out.LeftOut(node="n", gpus=1, what=Counted(name), why="cordoned") for name in names
        ),
    )


def test_products_are_not_compared_with_each_other() -> None:
    """3,000 of them were compared nine million times in each reading of the objects."""
    closed = inventory().closed()
    assert len(closed) == MANY
    assert Counted.looks <= 4 * MANY


def test_a_message_names_few_products() -> None:
    """That an accelerator's device is none of thousands."""
    _, (problem,) = inventory().capacity({"A100": "ConfigMap prices"})
    assert f"and {MANY - left_out.MOST_NAMED} more" in problem
    assert len(problem) < 1000


def test_devices_are_not_compared_with_each_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of prices on nodes of as many products took the cube of their number."""
    looks: Counter[str] = Counter()
    for name in ("same", "of_one_size", "alike"):
        monkeypatch.setattr(products, name, counting(getattr(products, name), looks))
    asked = {f"gpu {number}": "prices" for number in range(MANY)} | {"X": "prices"}
    capacity, problems = inventory().capacity(asked)
    assert (set(capacity.values()), len(problems)) == ({0}, MANY + 1)
    assert sum("is on no node that takes pods" in problem for problem in problems) == MANY
    assert looks.total() <= 4 * MANY


def counting(compare: Callable[..., bool], looks: Counter[str]) -> Callable[..., bool]:
    def counted(*names: Any) -> bool:
        looks[compare.__name__] += 1
        return compare(*names)

    return counted


def test_tolerations_are_not_compared_with_each_node() -> None:
    """Each pod of a tenant may tolerate something else, and each node has the same taints."""
    node_taints = tuple(
        taints.Taint(Counted(f"t{number}"), Counted("yes"), "NoSchedule") for number in range(8)
    )
    tolerated = [
        frozenset(taints.Toleration(Counted(f"k{number}-{one}"), None, "") for one in range(4))
        for number in range(MANY)
    ]
    some = frozenset(
        {taints.Toleration("t1", None, ""), taints.Toleration("t2", "yes", "NoSchedule")}
    )
    Counted.looks = 0
    admission = taints.Admission([node_taints] * MANY, [*tolerated, some])
    for _ in range(MANY):
        assert len(admission.blocking(node_taints)) == 6
    assert Counted.looks <= 150 * MANY


def test_slices_and_whole_devices_of_one_set_of_counters_are_not_paired() -> None:
    """A driver may put thousands of devices on one set; who holds one slice holds the whole ones."""
    names = [Counted(f"gpu-{number}") for number in range(MANY)]
    published = {
        "driver": "gpu.nvidia.com",
        "pool": "a",
        "generation": 1,
        "nodes": dict.fromkeys(names, "a"),
        "devices": {
            name: ("X-MIG-1g" if number % 2 else "X", None) for number, name in enumerate(names)
        },
        "counters": dict.fromkeys(names, frozenset({"c"})),
        "tainted": frozenset[str](),
    }
    rules = [
        {
            "metadata": {"name": f"r{number}"},
            "devices": (None, None, f"other-{number}"),
            "doubtful": number % 2 == 0,
        }
        for number in range(MANY)
    ]
    claim = {"devices": [("gpu.nvidia.com", "a", "gpu-1")], "pods": frozenset({("n", "p")})}
    Counted.looks = 0
    held = dra.allocation([published], [claim], rules).held or {}
    assert {place[1]: len(pods) for place, pods in held.items()} == {
        "gpu.nvidia.com/X": MANY // 2,
        "gpu.nvidia.com/X-MIG-1g": 1,
    }
    assert Counted.looks <= 100 * MANY


def test_products_that_only_pods_of_one_namespace_name_are_few() -> None:
    """A node selector may say anything, and what no node has takes no time of others."""
    reader = inputs.Reader()
    for number in range(MANY):
        name = f"v{number}"
        variant = {
            **neighbours.VARIANT,
            "metadata": {"namespace": "t" if number else "u", "name": name},
            "spec": {"modelID": "m", "sloClassRef": {"name": "c", "key": "c"}, "variantCost": "4"},
        }
        reader.read_variant(name, variant)
        key = ("t" if number else "u", scale.Reference(name=name))
        reader.targets[key] = Target(replicas=1, spec_replicas=1, products=(f"H100-x{number}",))
    assert len(asked.own_devices(reader)) == asked.MOST_OWN + 1


@pytest.mark.parametrize("count", ["-5", "1e999999", "9" * 400, "0.5", "1Ki", "\u00b2", "", "NaN"])
def test_odd_counts_and_quantities_take_no_other_node_away(count: str) -> None:
    """In what a node may give, in its labels, and as the memory of a device."""
    node: Any = {
        **neighbours.NODE,
        "metadata": {
            "name": "odd",
            "labels": {"nvidia.com/gpu.product": "X", "nvidia.com/gpu.count": count},
            "annotations": {"hami.io/node-nvidia-register": "[" * 30_000 + count},
        },
        "status": {
            "allocatable": {"nvidia.com/gpu": count},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }
    named = {"name": "a", "labels": {"nvidia.com/gpu.product": neighbours.DEVICE}}
    known = gpus.trimmed({**neighbours.NODE, "metadata": named, "spec": {}})
    taken = gpus.take([known, gpus.trimmed(node)], [])
    assert taken.total[neighbours.DEVICE] == 8
    assert all(0 <= total < 10**9 for total in taken.total.values())
    device = {
        "name": "gpu-0",
        "attributes": {"productName": {"string": "X"}},
        "capacity": {"memory": {"value": count}},
    }
    spec = {"driver": "gpu.nvidia.com", "nodeName": "a", "pool": {"name": "a"}, "devices": [device]}
    neighbours.check("slices", {"metadata": {"name": "s"}, "spec": spec})
