"""One tenant with thousands of objects that have to be read one by one: it delays no other tenant's."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.fakes import cluster_world as worlds
from tests.fakes.cluster_world import APPS, World, until
from tests.fakes.kubernetes_objects import VARIANTS

MANY = 200
"""Variants of the other tenant, whose scale targets are StatefulSets that do not exist."""

READ_SECONDS = 2.0
"""Seconds that the API server takes for each `/scale` of theirs: 400 s for one after the other."""

pytestmark = pytest.mark.virtual_time


def of_stateful_sets(world: World) -> None:
    """Variants of another namespace, sorted before those of the others."""
    for number in range(MANY):
        target = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": f"b{number}"}
        item = worlds.variant(f"b{number}", scaleTargetRef=target)
        item["metadata"]["namespace"] = "a-team"
        world.api.put(VARIANTS, "variantautoscalings", item)


def late(method: str, path: str) -> float:
    """Seconds that a reading of their targets is on its way."""
    return READ_SECONDS if "/namespaces/a-team/" in path and path.endswith("/scale") else 0.0


async def test_objects_of_others_are_used_while_their_scale_targets_are_read(
    tmp_path: Path,
) -> None:
    """A new variant of another namespace, whose target is a StatefulSet too, is read meanwhile."""
    async with worlds.running(tmp_path) as world:
        loop = asyncio.get_running_loop()
        async with world.replica("a") as (_, way):
            await until(lambda: world.desired() is not None)
            way.late = late
            of_stateful_sets(world)
            await asyncio.sleep(5.0)
            world.api.put(APPS, "statefulsets", worlds.workload("w", 1, "StatefulSet"))
            target = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "w"}
            world.api.put(
                VARIANTS, "variantautoscalings", worlds.variant("w", scaleTargetRef=target)
            )
            asked_at = loop.time()
            await until(lambda: world.condition("TargetResolved", "w")[0] == "True")
            assert loop.time() - asked_at <= 15.0
