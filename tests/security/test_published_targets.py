"""A status is written by whoever may: what it says is followed within the bounds of the variant only."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from adapter.app.endpoints import Endpoints
from adapter.resources.stored_status import published
from tests.fakes import cluster_world as worlds
from tests.fakes.cluster_world import SCALERS, World, until
from tests.fakes.kubernetes_objects import VARIANTS

pytestmark = pytest.mark.virtual_time


def forge(world: World, *, replicas: int, at: str) -> None:
    """Write a target into the status of `v`."""
    target = {"numReplicas": replicas, "accelerator": "A100", "lastRunTime": at}
    world.api.set_status(
        VARIANTS, "variantautoscalings", "team-a", "v", desiredOptimizedAlloc=target
    )


def served(endpoints: Endpoints) -> int | None:
    """Replicas that the replica of the adapter publishes for `v`."""
    state = endpoints.loop.states.get("team-a/v")
    return None if state is None else state.desired


def decided_at(endpoints: Endpoints) -> float:
    return endpoints.loop.states["team-a/v"].decided_at


def stamp(world: World, seconds: float = 0.0) -> str:
    at = datetime.fromtimestamp(world.clock.time() + seconds, UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


async def test_a_forged_status_stays_within_bounds(tmp_path: Path) -> None:
    """777 replicas are no more than the HPA's maximum, and without one than twice the last or four more."""
    async with worlds.running(tmp_path) as world:
        world.pages.finished.clear()
        entrance = await world.site.entrance("a")
        entrance.answer = lambda _, path: 403 if "/leases" in path else None
        async with world.replica("a", entrance=entrance) as (endpoints, _):
            forge(world, replicas=777, at=stamp(world))
            await until(lambda: served(endpoints) == 5)
            world.api.put(SCALERS, "horizontalpodautoscalers", worlds.scaler("v", high=10))
            await until(lambda: served(endpoints) == 10)


async def test_a_target_of_the_future_ends_in_time(tmp_path: Path) -> None:
    """A decision of the year 2999 counts from when it was seen, once, and expires as any other."""
    loop = replace(worlds.LOOP, time_to_live=200.0)
    async with worlds.running(tmp_path) as world:
        entrance = await world.site.entrance("a")
        entrance.answer = lambda _, path: 403 if "/leases" in path else None
        async with world.replica("a", entrance=entrance, loop=loop) as (endpoints, _):
            forge(world, replicas=3, at="2999-01-01T00:00:00Z")
            await until(lambda: served(endpoints) == 3)
            assert decided_at(endpoints) <= world.clock.time()
            seen_at = world.clock.time()
            await until(lambda: served(endpoints) is None)
            # It goes at the first reading after its time: these are 15 s apart.
            assert 20.0 <= world.clock.time() - seen_at <= 20.0 + 16.0


async def test_a_new_leader_without_metrics_says_what_it_continues(tmp_path: Path) -> None:
    """It serves the old target, and its condition says that it decided nothing."""
    async with worlds.running(tmp_path) as world:
        await until(lambda: world.pages.finished)
        forge(world, replicas=2, at=stamp(world, -5))
        failing = replace(
            worlds.LOOP, collection=replace(worlds.LOOP.collection, source="prometheus")
        )
        async with world.replica("a", loop=failing) as (endpoints, _):
            await until(lambda: endpoints.loop.leading and endpoints.loop.cycles >= 1)
            assert served(endpoints) == 2
            await until(
                lambda: (
                    "only continues the target of 2 replicas"
                    in world.condition("OptimizationReady")[2]
                )
            )
            assert world.condition("OptimizationReady")[0] == "False"


@pytest.mark.parametrize(
    "target",
    [
        {"numReplicas": "3", "lastRunTime": "2026-01-01T00:00:00Z"},
        {"numReplicas": -1, "lastRunTime": "2026-01-01T00:00:00Z"},
        {"numReplicas": True, "lastRunTime": "2026-01-01T00:00:00Z"},
        {"numReplicas": 1e400, "lastRunTime": "2026-01-01T00:00:00Z"},
        {"numReplicas": 3, "lastRunTime": 17},
        {"numReplicas": 3},
        [],
        "x",
    ],
)
async def test_what_is_no_target_is_none(target: object) -> None:
    """Numbers that are no whole ones, and times that are none, are not followed."""
    assert published({"desiredOptimizedAlloc": target}) is None
