"""Followers take what the leader writes to a status as it is; they join no objects for it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from adapter.kube.informer import same_but_status
from adapter.resources.watches import ClusterObjects
from tests.fakes import cluster_world as worlds
from tests.fakes.cluster_world import SCALERS, until

pytestmark = pytest.mark.virtual_time


async def test_a_follower_serves_new_targets_without_a_join(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statuses of targets that rise, and are confirmed, and statuses of HPAs, are no reason to join."""
    joins: list[ClusterObjects] = []
    join = ClusterObjects.inputs

    async def counted(self: ClusterObjects) -> object:
        joins.append(self)
        return await join(self)

    monkeypatch.setattr(ClusterObjects, "inputs", counted)
    short = replace(worlds.LOOP, time_to_live=60.0)  # confirmed every 2 s of the loop
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 20.0
        world.api.put(SCALERS, "horizontalpodautoscalers", worlds.scaler("v"))
        async with world.replica("a", loop=short), world.replica("b", loop=short) as (b, _):
            await until(lambda: world.desired() == 1)
            await until(lambda: b.loop.live.served("team-a/v") == 1)
            await asyncio.sleep(1.0)
            joins.clear()
            writes = len(world.api.writes("variantautoscalings"))
            world.load["v"] = 60.0
            for turn in range(10):
                world.api.set_status(
                    SCALERS, "horizontalpodautoscalers", "team-a", "v", currentReplicas=turn
                )
                await asyncio.sleep(0.5)
            await until(lambda: world.desired() == 2)
            # At once: the debounce of statuses and the way of the event.
            await asyncio.sleep(0.15)
            assert b.loop.live.served("team-a/v") == 2
            assert len(world.api.writes("variantautoscalings")) >= writes + 3
            # What is not watched is looked at every 15 s, on each of the two.
            assert len(joins) <= 2


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"status": {"replicas": 2}}, False),
        ({"status": {"replicas": 1, "conditions": ["x"]}}, True),
        ({"metadata": {"name": "v", "resourceVersion": "2", "managedFields": []}}, True),
        ({"metadata": {"name": "v", "labels": {"a": "b"}}}, False),
        ({"spec": {"replicas": 2}}, False),
        ({"data": {}}, False),
    ],
)
def test_what_is_no_change(change: dict[str, object], *, same: bool) -> None:
    """Versions, managers of fields, and the status but for the fields that are read."""
    before = {
        "metadata": {"name": "v", "resourceVersion": "1"},
        "spec": {"replicas": 1},
        "status": {"replicas": 1},
    }
    assert same_but_status(before, {**before, **change}, status=("replicas",)) is same
