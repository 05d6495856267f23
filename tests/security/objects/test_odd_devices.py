"""Devices and nodes that say odd things of themselves: no time beyond linear, and no endless texts."""

from __future__ import annotations

from typing import Any

import pytest

from adapter.resources import gpus
from tests.fuzz import neighbours

MANY = 3000


class Counted(str):
    """A name that counts its comparisons."""

    __slots__ = ()
    __hash__ = str.__hash__
    looks = 0

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
            gpus.LeftOut(node="n", gpus=1, what=Counted(name), why="cordoned") for name in names
        ),
    )


def test_products_are_not_compared_with_each_other() -> None:
    """3,000 of them were compared nine million times in each reading of the objects."""
    closed = inventory().closed()
    assert len(closed) == MANY
    assert Counted.looks <= 2 * MANY


def test_a_message_names_few_products() -> None:
    """That an accelerator's device is none of thousands."""
    _, (problem,) = inventory().capacity({"A100": "ConfigMap prices"})
    assert f"and {MANY - gpus.MOST_NAMED} more" in problem
    assert len(problem) < 1000


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
