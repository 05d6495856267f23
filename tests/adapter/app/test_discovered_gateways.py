"""Endpoint pickers that are found through the InferencePool of a variant, in a cluster."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import cluster_world as worlds
from tests.fakes.cluster_world import CORE, until

POOLS = "/apis/inference.networking.k8s.io/v1"
MONITORS = "/apis/monitoring.coreos.com/v1"


@pytest.mark.virtual_time
async def test_a_request_at_the_picker_of_the_variants_pool_wakes_it(tmp_path: Path) -> None:
    """No flag names the gateway: pool, Service and pod do, also while the variant has no pod."""
    async with worlds.running(tmp_path) as world:
        world.standard()
        world.deploy("v", 0)
        worlds.scale_to_zero(world)
        meta = {"namespace": "team-a"}
        spec = {
            "selector": {"matchLabels": {"app": "v"}},
            "endpointPickerRef": {"name": "epp", "port": {"number": 9002}},
        }
        world.api.put(POOLS, "inferencepools", {"metadata": {"name": "p", **meta}, "spec": spec})
        service = {"metadata": {"name": "epp", **meta}, "spec": {"selector": {"app": "epp"}}}
        world.api.put(CORE, "services", service)
        notes = {
            "prometheus.io/port": str(world.pages.port),
            "prometheus.io/path": "/gateway",
        }
        pod = {
            "metadata": {
                "name": "epp-0", **meta, "labels": {"app": "epp"}, "annotations": notes,
            },
            "spec": {"containers": [{"name": "epp"}]},
            "status": {
                "podIP": "127.0.0.1",
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }  # fmt: skip
        world.api.put(CORE, "pods", pod)
        async with world.replica("a") as _:
            await until(lambda: world.desired() == 0)
            world.waiting = 3
            await until(lambda: (world.desired() or 0) >= 1)


IN_FLIGHT = """llm_d_epp_inflight_requests{{endpoint_name="{pod}",namespace="team-a"}} {number}
llm_d_epp_inflight_tokens{{endpoint_name="{pod}",namespace="team-a"}} 700
llm_d_epp_flow_control_pool_saturation{{inference_pool="p"}} {saturation}
"""


@pytest.mark.virtual_time
async def test_a_saturated_pool_lets_no_target_fall(tmp_path: Path) -> None:
    """While the gateway holds requests back; what is in flight is shown, and afterwards it may fall."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 120.0
        async with world.replica("a", gateways=(("", world.gateway),)) as (front, _):
            await until(lambda: (world.desired() or 0) > 1)
            high = world.desired() or 0

            def flow(number: int, saturation: float) -> None:
                world.picker_lines = IN_FLIGHT.format(
                    pod="v-0", number=number, saturation=saturation
                )

            flow(9, 1.2)
            await until(lambda: "saturated (1.20)" in world.condition("MetricsAvailable")[2])
            world.load["v"] = 6.0
            for number in range(60):
                flow(9 + number % 2, 1.2)
                await asyncio.sleep(0.25)
            assert (world.desired() or 0) >= high
            observation = front.loop.states["team-a/v"].observation
            assert observation is not None
            assert "in flight (700 tokens), pool saturation 1.20" in observation.gateway
            flow(0, 0.2)
            await until(lambda: (world.desired() or high) < high)


async def test_a_service_monitor_says_where_pods_are_scraped(tmp_path: Path) -> None:
    """Pods that say nothing, behind a Service whose port a ServiceMonitor names, with a path."""
    async with worlds.running(tmp_path) as world:
        bare = world._pod

        def unannotated(namespace: str, workload: str, name: str) -> dict[str, Any]:
            return without_annotations(bare(namespace, workload, name))

        world._pod = unannotated  # type: ignore[assignment,method-assign] # without annotations
        meta = {"namespace": "team-a", "name": "s", "labels": {"app": "v"}}
        service = {
            "metadata": meta,
            "spec": {
                "selector": {"app": "v"},
                "ports": [{"name": "web", "port": 80, "targetPort": world.pages.port}],
            },
        }
        world.api.put(CORE, "services", service)
        endpoint = {"port": "web", "path": "/pods/v-0"}
        spec = {"selector": {"matchLabels": {"app": "v"}}, "endpoints": [endpoint]}
        world.api.put(MONITORS, "servicemonitors", {"metadata": meta, "spec": spec})
        async with world.replica("a"):
            await until(lambda: world.condition("MetricsAvailable")[1] == "MetricsFound")


def without_annotations(pod: dict[str, Any]) -> dict[str, Any]:
    """The pod as it is, but for its annotations."""
    return {**pod, "metadata": {**pod["metadata"], "annotations": {}}}
