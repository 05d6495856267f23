"""Patches of /scale where the API server is slow: each namespace has its turn, and nobody is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from adapter.controller.actuator import CONCURRENCY, Actuator
from adapter.controller.live.turns import PATIENCE_SECONDS
from adapter.controller.state import VariantState
from adapter.kube.client import Cluster
from adapter.kube.scale import Reference, Scales, Workload
from adapter.planning import fleet
from adapter.resources.annotations import ALLOW_SCALE
from adapter.resources.variant import VariantSource

SECONDS = 1.0
"""Seconds of each answer."""

A_CYCLE = int(CONCURRENCY * PATIENCE_SECONDS / SECONDS)
"""Answers within the patience of one cycle."""

pytestmark = pytest.mark.virtual_time


class SlowScales(Scales):
    """Scale targets that consent where their names begin with `v`.

    Attributes:
        asked: Targets in the order in which they were asked for.

    """

    def __init__(self) -> None:
        super().__init__(object.__new__(Cluster))
        self.asked: list[str] = []

    async def workload(self, namespace: str, reference: Reference) -> Workload:
        self.asked.append(f"{namespace}/{reference.name}")
        await asyncio.sleep(SECONDS)
        consent = {ALLOW_SCALE: "true"} if reference.name.startswith("v") else {}
        return Workload(version="1", annotations=consent)

    async def namespace_annotations(self, namespace: str) -> dict[str, str]:  # noqa: ARG002
        return {}

    async def write(self, *_: Any, **__: Any) -> None:
        pass


def states(keys: Iterable[str], *, replicas: int = 1) -> dict[str, VariantState]:
    """Variants with one replica, of which two are desired."""
    made = {}
    for key in keys:
        namespace, _, name = key.partition("/")
        source = VariantSource(
            namespace=namespace, name=name, model="m", service_class="c", profiles=(),
            targets=fleet.Targets(itl_ms=24.0), accelerator="A100", endpoints=(),
            replicas=replicas, spec_replicas=replicas, reference=Reference(name=name),
        )  # fmt: skip
        made[key] = VariantState(source=source, desired=2, accelerator="A100")
    return made


def actuator(scales: Scales) -> Actuator:
    return Actuator(scales, default=True, leads=lambda: True, transitions=lambda: 1)


async def test_thousands_of_one_namespace_hold_up_no_other() -> None:
    """Its second waits for the first of each; those that need no patch take nobody's turn."""
    scales = SlowScales()
    settled = states((f"a/v{number}" for number in range(500)), replicas=2)
    crowd = states(f"b/v{number}" for number in range(2000))
    await actuator(scales).act({**crowd, **settled, **states(["a/v500", "c/v"])}, frozenset())
    assert set(scales.asked[:3]) == {"b/v0", "a/v500", "c/v"}
    assert len(scales.asked) <= A_CYCLE + CONCURRENCY


@pytest.mark.parametrize("where", ["b/x{}", "n{}/x"])
async def test_what_is_refused_again_and_again_keeps_no_other_from_its_patch(where: str) -> None:
    """What time did not suffice for comes first in the next cycle, in its namespace and beside others."""
    scales = SlowScales()
    refused = [where.format(number) for number in range(2 * A_CYCLE)]
    every = states([*refused, where.format("z").replace("x", "v")])
    acting = actuator(scales)
    for _ in range(4):
        await acting.act(every, frozenset())
    assert set(scales.asked) == every.keys()


async def test_a_problem_stays_told_while_there_is_no_time_for_another_attempt() -> None:
    """Its condition does not come and go with the length of others' queues."""
    scales = SlowScales()
    refused = states(f"b/x{number}" for number in range(2 * A_CYCLE))
    acting = actuator(scales)
    first = await acting.act(refused, frozenset())
    second = await acting.act(refused, frozenset())
    assert first.keys() < second.keys() == refused.keys()
    assert acting._logged == second


async def test_nothing_is_kept_of_variants_that_are_gone() -> None:
    """A tenant who makes and deletes variants for ever would fill the memory with their names."""
    acting = actuator(SlowScales())
    for number in range(5):
        every = states([f"b/x{number}", f"b/v{number}", "a/x"])
        acting.keep(every.keys())
        await acting.act(every, frozenset())
    # What a wake asks for is a part of them: the others stay known.
    await acting.act(states(["a/v"]), frozenset())
    assert acting._logged.keys() == {"b/x4", "a/x"}
    assert acting._asked.keys() == {"b/x4", "b/v4", "a/x", "a/v"}
