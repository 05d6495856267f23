"""Endpoint pickers that are found through the InferencePool of a variant, in a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes import cluster_world as worlds
from tests.fakes.cluster_world import CORE, until

POOLS = "/apis/inference.networking.k8s.io/v1"


@pytest.mark.virtual_time
async def test_a_request_at_the_picker_of_the_variants_pool_wakes_it(tmp_path: Path) -> None:
    """No flag names the gateway: pool, Service and pod do, also while the variant has no pod."""
    async with worlds.running(tmp_path) as world:
        world.standard()
        world.deploy("v", 0)
        config = worlds.manifests()[2]
        config["data"]["WVA_SCALE_TO_ZERO"] = "true"
        world.api.put(CORE, "configmaps", config)
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
