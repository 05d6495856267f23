"""The adapter in a cluster: a Kubernetes API in memory, real watches, real TLS, real metrics pages."""

from __future__ import annotations

from pathlib import Path

from tests import cluster_world as worlds
from tests.cluster_world import until


async def test_a_variant_gets_its_target_status_and_event(tmp_path: Path) -> None:
    """60 requests a minute take two replicas: served to the HPA, written to the status, told in an Event."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        async with world.replica("a") as (front, _):
            await until(lambda: world.desired() == 2)
            await until(world.ca_bundle)
            assert await world.metric(front) == ["2"]
            found = world.variant()["status"]
            print(found, world.events())
            assert found["currentAlloc"]["numReplicas"] == 1
            assert found["currentAlloc"]["accelerator"] == "A100"
            assert found["observedGeneration"] == 1
            assert found["actuation"] == {"applied": True}
            assert world.condition("MetricsAvailable")[:2] == ("True", "MetricsFound")
            assert world.condition("OptimizationReady")[:2] == ("True", "OptimizationSucceeded")
            assert world.condition("TargetResolved")[:2] == ("True", "TargetFound")
            (kind, reason, note), *_ = [e for e in world.events() if "2 replicas" in e[2]]
            assert (kind, reason) == ("Normal", "ScalingDecision")
            assert "A100" in note
