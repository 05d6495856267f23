"""What a former leader sent, and what arrives late, changes nothing once another leads."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import cluster_world as worlds
from tests.fakes import kubernetes_api
from tests.fakes.cluster_world import APPS, CORE, SCALERS, SYSTEM, until
from tests.fakes.kubernetes_objects import VARIANTS

pytestmark = pytest.mark.virtual_time

LATE_SECONDS = 2.5
ACTUATING = ("manifests/base/rbac.yaml", "manifests/overlays/actuate/scale.yaml")


def is_status(method: str, path: str) -> bool:
    return method == "PATCH" and path.endswith("/v/status")


async def test_a_status_of_a_former_leader_is_refused(tmp_path: Path) -> None:
    """Its PATCH arrives 2.5 s after another took the lease: 409, and the status stays the other's."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        async with world.replica("a") as (a, way), world.replica("b") as (b, _):
            await until(lambda: world.desired() == 2 and b.loop.states["team-a/v"].desired == 2)
            sent = asyncio.Event()

            def late(method: str, path: str) -> float:
                if not is_status(method, path):
                    return 0.0
                way.isolate()
                sent.set()
                return 2 * worlds.LEASE.duration + LATE_SECONDS

            way.late = late
            world.load["v"] = 240.0
            await sent.wait()
            assert (a.loop.states["team-a/v"].desired or 0) > 2
            world.load["v"] = 60.0
            await until(lambda: b.loop.leading)
            assert world.api.late == []
            await until(lambda: world.api.late)
            assert world.api.late == [("a", 409)]
            assert world.desired() == b.loop.states["team-a/v"].desired


async def test_a_status_of_a_former_leader_is_refused_before_the_next_one_has_written(
    tmp_path: Path,
) -> None:
    """The object is as the former leader read it, so its version holds: the Lease's number refuses it."""
    collection = replace(worlds.LOOP.collection, interval=30.0, window=60.0)
    slow = replace(worlds.LOOP, interval=100.0, collection=collection)
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        async with (
            world.replica("a") as (_, way),
            world.replica("b", loop=slow, interval=100.0) as (b, _),
        ):
            await until(lambda: world.desired() == 2 and b.loop.states["team-a/v"].desired == 2)
            version = world.variant()["metadata"]["resourceVersion"]

            def late(method: str, path: str) -> float:
                if not is_status(method, path):
                    return 0.0
                way.isolate()
                return worlds.LEASE.duration + LATE_SECONDS

            way.late = late
            world.load["v"] = 240.0
            await until(lambda: world.api.late)
            assert world.api.late == [("a", 422)]
            assert b.loop.leading
            assert b.loop.cycles == 0
            assert world.variant()["metadata"]["resourceVersion"] == version
            # What the present leader sends is let through, with its own number.
            await until(lambda: (world.desired() or 0) > 2)
            assert world.status()["leaderTransitions"] == 1


async def test_a_status_is_written_although_the_object_changed_meanwhile(tmp_path: Path) -> None:
    """Who still leads reads the object again and writes: a user's edits do not hold a status back."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        async with world.replica("a") as (_, way):
            await until(lambda: world.desired() == 2)

            def edited(method: str, path: str) -> float:
                if not is_status(method, path):
                    return 0.0
                way.late = lambda _method, _path: 0.0
                item = world.variant()
                item["metadata"]["annotations"] = {"edited": "1"}
                world.api.put(VARIANTS, "variantautoscalings", item)
                return 0.1

            way.late = edited
            world.load["v"] = 240.0
            await until(lambda: (world.desired() or 0) > 2)
            assert world.api.late == [("a", 409)]
            assert world.variant()["metadata"]["annotations"] == {"edited": "1"}


async def test_a_patch_of_a_former_leader_is_refused_where_nothing_changed(tmp_path: Path) -> None:
    """The next leader keeps the replicas, so the target's version holds: the Lease's number refuses it."""
    rules = kubernetes_api.manifest_rules(*ACTUATING)
    async with worlds.running(tmp_path, rules=rules) as world:
        world.api.fenced = True
        item = worlds.workload("v", 1)
        item["metadata"]["annotations"] = {"llmd.ai/allow-scale": "true"}
        world.api.put(APPS, "deployments", item)
        world.load["v"] = 60.0

        def target() -> dict[str, Any]:
            deployment: dict[str, Any] = world.api.get(APPS, "deployments", "team-a", "v")
            return deployment

        async with (
            world.replica("a", actuate_scale=True) as (_, way),
            world.replica("b", actuate_scale=True) as (b, _),
        ):
            await until(lambda: target()["spec"]["replicas"] == 2 and world.desired() == 2)
            await until(lambda: (target().get("status") or {}).get("replicas") == 2)
            version = target()["metadata"]["resourceVersion"]
            sent = asyncio.Event()

            def late(method: str, path: str) -> float:
                if method != "PATCH" or not path.endswith("/v/scale"):
                    return 0.0
                way.isolate()
                sent.set()
                return 2 * worlds.LEASE.duration + LATE_SECONDS

            way.late = late
            world.load["v"] = 240.0
            await sent.wait()
            world.load["v"] = 60.0
            await until(lambda: b.loop.leading)
            await until(lambda: world.api.late)
            assert world.api.late == [("a", 422)]
            assert target()["metadata"]["resourceVersion"] == version
            # What the present leader sends is let through.
            world.load["v"] = 240.0
            await until(lambda: target()["spec"]["replicas"] > 2)


async def test_a_patch_of_a_former_leader_scales_nothing(tmp_path: Path) -> None:
    """Its PATCH of /scale arrives after another leader has scaled the target: 409, and the replicas stay."""
    rules = kubernetes_api.manifest_rules(*ACTUATING)
    async with worlds.running(tmp_path, rules=rules) as world:
        item = worlds.workload("v", 1)
        item["metadata"]["annotations"] = {"llmd.ai/allow-scale": "true"}
        world.api.put(APPS, "deployments", item)
        world.load["v"] = 60.0

        def replicas() -> int:
            number: int = world.api.get(APPS, "deployments", "team-a", "v")["spec"]["replicas"]
            return number

        async with (
            world.replica("a", actuate_scale=True) as (_, way),
            world.replica("b", actuate_scale=True) as (b, _),
        ):
            await until(lambda: replicas() == 2)
            sent = asyncio.Event()

            def late(method: str, path: str) -> float:
                if method != "PATCH" or not path.endswith("/v/scale"):
                    return 0.0
                way.isolate()
                sent.set()
                return 30.0

            way.late = late
            world.load["v"] = 240.0
            await sent.wait()
            world.load["v"] = 120.0
            await until(lambda: b.loop.leading and replicas() > 2)
            assert world.api.late == []
            await until(lambda: world.api.late)
            assert world.api.late == [("a", 409)]
            await until(lambda: replicas() == b.loop.states["team-a/v"].desired)


async def test_targets_of_a_former_leader_are_refused_where_nothing_changed(
    tmp_path: Path,
) -> None:
    """HPAs without a variant: the next leader keeps the target, and its first write refuses the old one."""
    async with worlds.running(tmp_path) as world:
        world.api.remove(VARIANTS, "variantautoscalings", "team-a", "v")
        (targets,) = worlds.manifests("base/managed-targets.yaml")
        world.api.put(CORE, "configmaps", targets)
        world.load["v"] = 60.0
        notes = {"llm-d.ai/managed": "true", "llm-d.ai/model-id": worlds.MODEL}

        def at_least(replicas: int) -> None:
            item = worlds.scaler("v", low=replicas)
            item["metadata"]["annotations"] = {**notes, "llm-d.ai/variant-cost": "10.0"}
            world.api.put(SCALERS, "horizontalpodautoscalers", item)

        at_least(1)
        name = targets["metadata"]["name"]

        def entry() -> dict[str, Any]:
            data = world.api.get(CORE, "configmaps", SYSTEM, name).get("data") or {}
            target: dict[str, Any] = json.loads(data.get("team-a_v") or "{}")
            return target

        slow = replace(worlds.LOOP, time_to_live=6000.0)  # no target is written for its age
        async with (
            world.replica("a", loop=slow) as (a, way),
            world.replica("b", loop=slow) as (b, _),
        ):
            await until(lambda: entry().get("numReplicas") == 1)
            await until(lambda: b.loop.states["team-a/v"].desired == 1)
            sent = asyncio.Event()

            def late(method: str, path: str) -> float:
                if method != "PATCH" or not path.endswith(name):
                    return 0.0
                way.isolate()
                sent.set()
                return 4 * worlds.LEASE.duration + LATE_SECONDS

            way.late = late
            at_least(3)
            await sent.wait()
            assert (a.loop.states["team-a/v"].desired or 0) > 1
            at_least(1)
            await until(lambda: b.loop.leading and b.loop.cycles > 0)
            before = entry()
            await until(lambda: world.api.late)
            assert world.api.late == [("a", 409)]
            assert entry()["numReplicas"] == before["numReplicas"]
