"""Pods that hold shares of GPUs, in a cluster that counts devices: they are what their node gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adapter.resources.watched.scope import Scope
from tests.fakes import cluster_world as worlds
from tests.fakes.cluster_world import APPS, CORE, SYSTEM, World, until
from tests.fakes.kubernetes_objects import VARIANTS

pytestmark = pytest.mark.virtual_time

A100 = "NVIDIA-A100-PCIE-80GB"
LIMITED = Scope(config_namespace=SYSTEM, limited=True)
HAMI = {"hami.io/node-nvidia-register": json.dumps([{"id": "GPU-0", "count": 10}])}

Given = dict[str, str]


def put(world: World, allocatable: Given, limits: Given, notes: Given, **spec: Any) -> None:
    """One node with four GPUs, given so, and a Deployment with two ready pods there that hold these."""
    labels = {"nvidia.com/gpu.product": A100, "nvidia.com/gpu.count": "4"}
    ready = {"type": "Ready", "status": "True"}
    world.api.put(
        CORE,
        "nodes",
        {
            "metadata": {"name": "node", "annotations": notes, "labels": labels},
            "spec": {},
            "status": {"allocatable": allocatable, "conditions": [ready]},
        },
    )
    deployment = worlds.workload("v", 2)
    containers = {"containers": [{"name": "c", "resources": {"limits": limits}}]}
    deployment["spec"]["template"]["spec"] = containers
    world.api.put(APPS, "deployments", deployment)
    for name in ("v-0", "v-1"):
        pod = world._pod("team-a", "v", name)
        pod["spec"].update(containers)
        world.pages.finished[name] = 0.0
        world.api.put(CORE, "pods", pod)
    if spec:
        item = world.variant()
        item["metadata"]["labels"], item["spec"] = {}, spec
        world.api.put(VARIANTS, "variantautoscalings", item)


SHARES: dict[str, tuple[Given, Given, Given, int]] = {
    "HAMi": (
        {"nvidia.com/gpu": "40"},
        {"nvidia.com/gpu": "1", "nvidia.com/gpumem": "20000"},
        HAMI,
        40,
    ),
    "Volcano": (
        {"volcano.sh/vgpu-number": "40", "volcano.sh/vgpu-memory": "320000"},
        {"volcano.sh/vgpu-number": "1", "volcano.sh/vgpu-memory": "20000"},
        {},
        40,
    ),
    "time-slicing": ({"nvidia.com/gpu.shared": "8"}, {"nvidia.com/gpu.shared": "1"}, {}, 8),
}


@pytest.mark.parametrize("kind", SHARES)
async def test_a_variant_that_prices_itself_has_the_shares_of_its_node(
    tmp_path: Path, kind: str
) -> None:
    """Whatever gives them: its pods' product is a type of its own, of which there are so many."""
    allocatable, limits, notes, count = SHARES[kind]
    reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "v"}
    spec = {"scaleTargetRef": reference, "modelID": worlds.MODEL, "variantCost": "5"}
    async with worlds.running(tmp_path, limited=True) as world:
        put(world, allocatable, limits, notes, **spec)
        world.load["v"] = 60.0
        async with world.replica("a", scope=LIMITED) as (endpoints, _):
            await until(lambda: world.desired() == 2)
            source = endpoints.loop.states["team-a/v"].source
            assert (source.device, source.gpus) == (f"{A100}-SHARED", 0)
            assert endpoints.loop.inputs.capacity == {f"{A100}-SHARED": count}


async def test_a_profile_of_a_whole_gpu_where_there_are_shares_is_told(tmp_path: Path) -> None:
    """The condition of the variant says what the nodes have, and where to write it."""
    allocatable, limits, notes, _ = SHARES["HAMi"]
    async with worlds.running(tmp_path, limited=True) as world:
        put(world, allocatable, limits, notes)
        world.load["v"] = 60.0
        async with world.replica("a", scope=LIMITED):
            await until(lambda: world.condition("OptimizationReady")[1] == "OptimizationFailed")
            message = world.condition("OptimizationReady")[2]
    assert f"{A100!r} is no GPU of the nodes; they have {A100}-SHARED; write one" in message
    assert "metadata.labels[inference.optimization/acceleratorName] or the device of" in message


async def test_network_cards_of_the_vendor_are_no_gpus(tmp_path: Path) -> None:
    """Two GPUs and two cards are two GPUs: four have room for two such replicas, not for four."""
    async with worlds.running(tmp_path, limited=True) as world:
        cards = {"nvidia.com/gpu": "4", "nvidia.com/hostdev": "4"}
        held = {"nvidia.com/gpu": "2", "nvidia.com/hostdev": "2"}
        reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "v"}
        spec = {"scaleTargetRef": reference, "modelID": worlds.MODEL, "minReplicas": 3}
        put(world, cards, held, {}, **spec)
        world.load["v"] = 60.0
        async with world.replica("a", scope=LIMITED) as (endpoints, _):
            await until(lambda: world.desired() == 2)
            assert endpoints.loop.states["team-a/v"].source.gpus == 2
            assert world.condition("OptimizationReady")[1] == "CapacityShort"
