"""Followers take what the leader writes to a status as it is; they join no objects for it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from adapter.app.endpoints import Endpoints
from adapter.kube.informer import same_but_scale, same_but_status
from adapter.resources.watches import ClusterObjects
from adapter.store import CURRENT, RATIO
from tests.fakes import cluster_world as worlds
from tests.fakes.cluster_world import APPS, SCALERS, until

pytestmark = pytest.mark.virtual_time


def count_joins(monkeypatch: pytest.MonkeyPatch) -> list[ClusterObjects]:
    """Who joins all its objects, once for every time."""
    joins: list[ClusterObjects] = []
    join = ClusterObjects.inputs

    async def counted(self: ClusterObjects) -> object:
        joins.append(self)
        return await join(self)

    monkeypatch.setattr(ClusterObjects, "inputs", counted)
    return joins


def served(replica: Endpoints, metric: str) -> str:
    """Value of a metric of variant `v` that a replica serves now."""
    store = replica.loop.live._store
    (entry,) = store.answer("team-a", metric, None, now=replica.loop._clock.time())
    value: str = json.loads(entry.encoded)["value"]
    return value


async def test_a_follower_serves_new_targets_without_a_join(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statuses of targets that rise, and are confirmed, and statuses of HPAs, are no reason to join."""
    joins = count_joins(monkeypatch)
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
            # The rise and two confirmations, of which the second may still be on its way.
            await until(lambda: len(world.api.writes("variantautoscalings")) >= writes + 3)
            # What is not watched is looked at every 15 s, on each of the two.
            assert len(joins) <= 2


async def test_a_follower_serves_ratios_to_new_replicas_without_a_join(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An HPA multiplies a ratio by the present replicas: an old one would scale up twice."""
    joins = count_joins(monkeypatch)
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        async with world.replica("a"), world.replica("b") as (b, _):
            await until(lambda: b.loop.live.served("team-a/v") == 2)
            assert served(b, RATIO) == "2"
            leader = joins[0]
            await asyncio.sleep(4.0)
            joins.clear()
            world.api.put(APPS, "deployments", worlds.workload("v", 2))
            # The kubelets make a pod, and its Deployment counts it.
            await asyncio.sleep(0.5)
            assert served(b, CURRENT) == "2"
            assert served(b, RATIO) == "1"
            assert joins
            assert all(item is leader for item in joins)


@pytest.mark.parametrize(
    ("change", "same", "scaled"),
    [
        ({"status": {"replicas": 2}}, True, True),
        ({"status": {"replicas": 1, "conditions": ["x"]}}, True, True),
        ({"metadata": {"name": "v", "resourceVersion": "2", "managedFields": []}}, True, True),
        ({"metadata": {"name": "v", "labels": {"a": "b"}}}, False, False),
        ({"metadata": {"name": "v", "generation": 2}, "spec": {"replicas": 2}}, False, True),
        ({"spec": {"replicas": 1, "template": {}}}, False, False),
        ({"data": {}}, False, False),
    ],
)
def test_what_is_no_change(change: dict[str, object], *, same: bool, scaled: bool) -> None:
    """Versions, managers of fields and the status; of what is scaled, the replicas asked for, too."""
    before = {
        "metadata": {"name": "v", "resourceVersion": "1"},
        "spec": {"replicas": 1},
        "status": {"replicas": 1},
    }
    assert same_but_status(before, {**before, **change}) is same
    assert same_but_scale(before, {**before, **change}) is scaled
