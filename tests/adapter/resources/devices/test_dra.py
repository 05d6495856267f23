"""GPUs by dynamic resource allocation: ResourceSlices, ResourceClaims and DeviceTaintRules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from adapter.resources import gpus as inventory
from adapter.resources import pods
from adapter.resources.devices import dra
from tests.adapter.resources.gpu_nodes import GPU, PRODUCT, Object, got, node, pod, refused

H100 = "NVIDIA-H100-80GB-HBM3"


def resource_slice(node_name: str, names: str, *, generation: int = 1, **more: Any) -> Object:
    """A ResourceSlice of NVIDIA's driver with GB200s."""
    attributes = {"productName": {"string": "NVIDIA GB200"}, "type": {"string": "gpu"}}
    device = {"attributes": attributes, "capacity": {"memory": {"value": "189471Mi"}}}
    return {
        "metadata": {"name": f"{node_name}-{generation}"},
        "spec": {
            "driver": "gpu.nvidia.com",
            "nodeName": node_name,
            "pool": {"name": node_name, "generation": generation, "resourceSliceCount": 1},
            "devices": [{"name": name, **device} for name in names.split()],
            **more,
        },
    }


def claim(device: str, *pods_of: str, node_name: str = "gb", **more: Any) -> Object:
    """A ResourceClaim that holds a device for pods of namespace `n`."""
    result = {"driver": "gpu.nvidia.com", "pool": node_name, "device": device, **more}
    return {
        "metadata": {"namespace": "n", "name": f"claim-{device}"},
        "status": {
            "allocation": {"devices": {"results": [result]}},
            "reservedFor": [{"resource": "pods", "name": name} for name in pods_of],
        },
    }


def allocated(
    slices: list[Object],
    claims: list[Object],
    *ours: str,
    rules: Sequence[Object] = (),
    **spec: Any,
) -> inventory.Inventory:
    """The inventory of node `gb`, which has no GPUs by a device plugin."""
    gb = node("gb", gpus={}, labels={PRODUCT: "NVIDIA-GB200"}, **spec)
    return inventory.take(
        [inventory.trimmed(gb)],
        [],
        variant_pods=frozenset(("n", name) for name in ours),
        allocation=dra.allocation(
            map(dra.trimmed_slice, slices),
            map(dra.trimmed_claim, claims),
            map(dra.trimmed_rule, rules),
        ),
    )


def test_gpus_of_resource_slices() -> None:
    """Capacity is what the slices publish, less what claims of others hold; ours stay ours."""
    slices = [resource_slice("gb", "gpu-0 gpu-1 gpu-2 gpu-3")]
    assert got(allocated(slices, []), "NVIDIA-GB200") == {"NVIDIA-GB200": 4}
    claims = [
        claim("gpu-0", "other"),
        claim("gpu-1", "mine"),
        claim("gpu-2", "other", adminAccess=True),
    ]
    assert got(allocated(slices, claims, "mine"), "NVIDIA-GB200") == {"NVIDIA-GB200": 3}
    cordoned = allocated(slices, claims, "mine", unschedulable=True)
    assert got(cordoned, "NVIDIA-GB200") == {"NVIDIA-GB200": 1}


def test_what_slices_leave_out() -> None:
    """Older generations, other drivers, devices of no node and nodes that are gone have no GPUs."""
    slices = [
        resource_slice("gb", "gpu-0 gpu-1", generation=1),
        resource_slice("gb", "gpu-0", generation=2),
        resource_slice("gb", "nic-0", driver="dra.net"),
        resource_slice("", "gpu-9", pool={"name": "fabric", "generation": 1}),
    ]
    assert allocated(slices, []).total == {"NVIDIA-GB200": 1}
    (gone,) = allocated([resource_slice("lost", "gpu-0")], []).left_out
    assert str(gone) == "node lost: 1 NVIDIA-GB200 not counted: the node is gone"
    nameless = resource_slice("gb", "")
    nameless["spec"]["devices"] = [{"name": "gpu-0"}]
    (left,) = allocated([nameless], []).left_out
    assert left.why == "its devices have no productName"


def test_devices_of_a_slice_that_have_nodes_of_their_own() -> None:
    """With `perDeviceNodeSelection` each device names its node; those of no single node are named."""

    def selected(*nodes: str, key: str = "kubernetes.io/hostname") -> Object:
        match = {"key": key, "operator": "In", "values": list(nodes)}
        field = "matchFields" if key == "metadata.name" else "matchExpressions"
        return {"nodeSelector": {"nodeSelectorTerms": [{field: [match]}]}}

    item = resource_slice("", "a b c d e f", perDeviceNodeSelection=True)
    nodes = (
        {"nodeName": "gb"},
        selected("gb", key="metadata.name"),
        selected("gb"),
        {"allNodes": True},
        selected("gb", "other"),
        {"nodeName": "lost"},
    )
    for device, place in zip(item["spec"]["devices"], nodes, strict=True):
        device.update(place)
    of_devices = allocated([item], [claim("b", "other", node_name="")])
    assert got(of_devices, "NVIDIA-GB200") == {"NVIDIA-GB200": 2}
    assert sorted(map(str, of_devices.left_out)) == [
        "ResourceSlices: 2 NVIDIA-GB200 not counted: they name no single node",
        "node lost: 1 NVIDIA-GB200 not counted: the node is gone",
    ]
    fabric = resource_slice("", "a b", allNodes=True)
    (told,) = refused(allocated([fabric], []), "NVIDIA-GB200")
    assert "ResourceSlices: 2 NVIDIA-GB200 not counted: they name no single node" in told


@pytest.mark.parametrize(
    "more", [{"deviceClassName": "a"}, {"selectors": [{"cel": {"expression": "device.x"}}]}]
)
def test_a_rule_that_only_the_scheduler_evaluates_is_said(more: Object) -> None:
    """All free devices that its other fields select count as tainted; those that are held stay."""
    selector = {"driver": "gpu.nvidia.com", **more}
    taint = {"key": "example.com/sick", "effect": "NoSchedule"}
    rule = {"metadata": {"name": "sick"}, "spec": {"deviceSelector": selector, "taint": taint}}
    slices = [resource_slice("gb", "gpu-0 gpu-1 gpu-2")]
    held = allocated(slices, [claim("gpu-1", "a")], "a", rules=[rule])
    assert got(held, "NVIDIA-GB200") == {"NVIDIA-GB200": 1}
    told = held.closed()["NVIDIA-GB200"]
    assert (
        "node gb: 2 NVIDIA-GB200 not counted: DeviceTaintRule sick selects devices by class" in told
    )
    other = allocated([resource_slice("gb", "x", driver="gpu.amd.com")], [], rules=[rule])
    assert got(other, "NVIDIA-GB200") == {"NVIDIA-GB200": 1}


@pytest.mark.parametrize(
    ("selector", "free"),
    [
        ({"device": "gpu-1", "pool": "gb"}, 2),
        ({"driver": "gpu.nvidia.com"}, 0),
        ({}, 0),
        ({"pool": "other"}, 3),
        (None, 3),
        ({"selectors": [{"cel": {"expression": "true"}}]}, 0),
        ({"selectors": [{"cel": {"expression": "true"}}], "pool": "other"}, 3),
        ({"selectors": [], "device": "gpu-1"}, 2),
    ],
)
def test_devices_that_rules_taint_are_no_capacity(selector: Object | None, free: int) -> None:
    """A DeviceTaintRule taints what it selects, an empty selector all, none nothing; ours stay ours."""
    taint = {"key": "example.com/sick", "effect": "NoExecute"}
    spec = {"deviceSelector": selector, "taint": taint}
    rule = {"metadata": {"name": "r"}, "spec": spec}
    slices = [resource_slice("gb", "gpu-0 gpu-1 gpu-2")]
    assert allocated(slices, [], rules=[rule]).free.get("NVIDIA-GB200", 0) == free
    held = allocated(slices, [claim("gpu-1", "a")], "a", rules=[rule])
    assert held.free["NVIDIA-GB200"] == max(free, 1) + (free == 2)
    taint["effect"] = "None"
    assert allocated(slices, [], rules=[rule]).free == {"NVIDIA-GB200": 3}


def test_slices_of_gpus_are_types_of_their_own() -> None:
    """A device with a MIG profile is no whole GPU; a device of the older version of the API is one."""
    attributes = {
        "productName": {"string": "NVIDIA H100 80GB HBM3"},
        "type": {"string": "mig"},
        "profile": {"string": "1g.10gb"},
    }
    item = resource_slice("gb", "")
    item["spec"]["devices"] = [{"name": "mig-0", "attributes": attributes}]
    assert allocated([item], []).total == {f"{H100}-MIG-1g.10gb": 1}
    del attributes["profile"]
    item["spec"]["devices"] = [{"name": "gpu-0", "basic": {"attributes": attributes}}]
    assert got(allocated([item], []), H100) == {H100: 1}


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_devices_that_drivers_taint_are_no_capacity(version: str) -> None:
    """Tainted devices are given to no pod, but for taints without an effect on scheduling."""
    item = resource_slice("gb", "gpu-0 gpu-1 gpu-2 gpu-3")
    sick, draining, noted, _ = devices = item["spec"]["devices"]
    sick["taints"] = [{"key": "gpu.nvidia.com/unhealthy", "effect": "NoExecute"}]
    draining["taints"] = [{"key": "example.com/drain", "value": "yes", "effect": "NoSchedule"}]
    noted["taints"] = [{"key": "example.com/slow", "effect": "None"}]
    if version == "v1beta1":
        item["spec"]["devices"] = [
            {"name": each.pop("name"), "basic": each} for each in map(dict, devices)
        ]
    assert allocated([item], []).free == {"NVIDIA-GB200": 2}
    held = [claim("gpu-0", "other"), claim("gpu-2", "other")]
    assert allocated([item], held).free == {"NVIDIA-GB200": 1}
    # Ours stay ours, as on a node that is cordoned: a replica that runs is not taken away.
    assert allocated([item], [*held, claim("gpu-1", "a")], "a").free == {"NVIDIA-GB200": 2}


def test_devices_that_several_claims_share_are_no_whole_gpus() -> None:
    """Consumable capacity: a claim has a part of a device, so a replica that holds one has no whole GPU."""
    item = resource_slice("gb", "gpu-0 gpu-1")
    item["spec"]["devices"][0]["allowMultipleAllocations"] = True
    assert allocated([item], []).total == {"NVIDIA-GB200": 1, "NVIDIA-GB200-SHARED": 1}
    part = claim("gpu-0", "p", shareID="a6b1", consumedCapacity={"memory": "4Gi"})
    other = claim("gpu-1", "q")
    held = dra.claimed(map(dra.trimmed_slice, [item]), map(dra.trimmed_claim, [part, other]))
    assert {pod: [each.whole for each in devices] for pod, devices in held.items()} == {
        ("n", "p"): [False],
        ("n", "q"): [True],
    }


def test_a_gpu_and_its_slices_are_not_had_together() -> None:
    """Partitionable devices share the counters of their GPU: a slice takes it, and it takes all slices."""

    def device(name: str, gpu: str, profile: str = "") -> Object:
        attributes = {"productName": {"string": "NVIDIA H100"}}
        if profile:
            attributes["profile"] = {"string": profile}
        counters = [{"counterSet": gpu, "counters": {}}]
        return {"name": name, "attributes": attributes, "consumesCounters": counters}

    item = resource_slice("gb", "")
    item["spec"]["devices"] = [
        device(f"gpu-{gpu}{part}", f"counters-{gpu}", "1g.10gb" if part else "")
        for gpu in (0, 1)
        for part in ("", "-mig-0", "-mig-1")
    ]
    whole, slices = "NVIDIA-H100", "NVIDIA-H100-MIG-1g.10gb"
    assert allocated([item], []).free == {whole: 2, slices: 4}
    both = [claim("gpu-0-mig-0", "other"), claim("gpu-0-mig-1", "other")]
    assert allocated([item], both).free == {whole: 1, slices: 2}
    assert allocated([item], [claim("gpu-1", "other")]).free == {whole: 1, slices: 2}
    assert allocated([item], [claim("gpu-1", "mine")], "mine").free == {whole: 2, slices: 4}


def test_a_gpu_that_is_published_for_virtual_machines_too_is_one() -> None:
    """Drivers publish each GPU once more where it may be passed through, until one of both is taken."""
    item = resource_slice("gb", "gpu-0 gpu-1 gpu-vfio-0 gpu-vfio-1")
    for device in item["spec"]["devices"][2:]:
        device["attributes"] = {**device["attributes"], "type": {"string": "vfio"}}
    assert allocated([item], []).total == {"NVIDIA-GB200": 2}


@pytest.mark.parametrize(
    ("attributes", "product"),
    [
        ({}, "AMD_Instinct_MI300X"),
        ({"partitionProfile": "spx_nps1"}, "AMD_Instinct_MI300X"),
        ({"partitionProfile": "cpx_nps4"}, "AMD_Instinct_MI300X-cpx_nps4"),
        ({"computePartition": "spx", "memoryPartition": "nps1"}, "AMD_Instinct_MI300X"),
        ({"computePartition": "dpx", "memoryPartition": "nps2"}, "AMD_Instinct_MI300X-dpx_nps2"),
    ],
)
def test_partitions_of_amd_are_no_whole_gpus(attributes: dict[str, str], product: str) -> None:
    """Those that nodes have, and those that the driver makes when a claim asks, as the plugin names them."""
    named = {"productName": "AMD_Instinct_MI300X", **attributes}
    item = resource_slice("gb", "", driver="gpu.amd.com")
    item["spec"]["devices"] = [
        {
            "name": "gpu-0-128",
            "attributes": {name: {"string": text} for name, text in named.items()},
            "allowMultipleAllocations": "computePartition" in attributes,
        }
    ]
    assert allocated([item], []).total == {product: 1}
    held = dra.claimed(
        [dra.trimmed_slice(item)],
        [dra.trimmed_claim(claim("gpu-0-128", "p", driver="gpu.amd.com"))],
    )
    assert [each.whole for each in held["n", "p"]] == ["px_" not in product]


def test_what_the_scheduler_claims_for_extended_resources_counts_once() -> None:
    """A pod that requests `nvidia.com/gpu` of a driver has a claim for it, which its status names.

    The scheduler's annotation of that claim, set by hand at another one, hides no GPU.
    """
    limits = {"limits": {GPU: "2"}}
    item = {
        "metadata": {"namespace": "n", "name": "p", "labels": {}},
        "spec": {"nodeName": "gb", "containers": [{"name": "vllm", "resources": limits}]},
        "status": {
            "phase": "Running",
            "extendedResourceClaimStatus": {"resourceClaimName": "claim-gpu-0"},
        },
    }
    made = claim("gpu-0", "p")
    results = made["status"]["allocation"]["devices"]["results"]
    results.append({**results[0], "device": "gpu-1"})
    own = claim("gpu-2", "p")
    own["metadata"]["annotations"] = {"resource.kubernetes.io/extended-resource-claim": "true"}
    slices = [dra.trimmed_slice(resource_slice("gb", "gpu-0 gpu-1 gpu-2 gpu-3"))]
    seen = pods.trimmed(item)
    for claims, gpus in (([made], 2), ([made, own], 3)):
        held = dra.claimed(slices, map(dra.trimmed_claim, claims))
        assert pods.serving_of([{**seen, "claimed": held["n", "p"]}]).gpus == gpus
    made["metadata"]["annotations"] = own["metadata"]["annotations"]
    held = dra.claimed(slices, [dra.trimmed_claim(made)])
    unbound = {**seen, "claimed": held["n", "p"], "node": "", "extended": ""}
    assert pods.serving_of([unbound]).gpus == 2


def test_gpus_of_a_plugin_and_of_a_driver_are_the_same_ones() -> None:
    """A node that gives them both ways, as on the way from one to the other, has them once."""
    both = node("gb", gpus="4", labels={PRODUCT: "NVIDIA-GB200", "nvidia.com/gpu.count": "4"})
    items = [dra.trimmed_slice(resource_slice("gb", "gpu-0 gpu-1 gpu-2 gpu-3"))]
    held = [dra.trimmed_claim(claim("gpu-1", "other"))]
    seen = inventory.take(
        [inventory.trimmed(both)],
        [pods.trimmed(pod("plugged", 1, on="gb"))],
        allocation=dra.allocation(items, held),
    )
    assert seen.total == {"NVIDIA-GB200": 4}
    assert got(seen, "NVIDIA-GB200") == {"NVIDIA-GB200": 2}


@pytest.mark.parametrize(
    ("resource", "labels", "driver", "attributes"),
    [
        (
            "gpu.intel.com/i915",
            {"gpu.intel.com/product": "Flex_170"},
            "gpu.intel.com",
            {"model": "Flex 170"},
        ),
        (
            "nvidia.com/mig-1g.10gb.me",
            {PRODUCT: H100},
            "gpu.nvidia.com",
            {"productName": "NVIDIA H100 80GB HBM3", "profile": "1g.10gb+me"},
        ),
    ],
)
def test_a_driver_spells_otherwise_than_the_plugin(
    resource: str, labels: Object, driver: str, attributes: dict[str, str]
) -> None:
    """Also names without a chip's number, and slices of profiles with media engines."""
    item = resource_slice("gb", "", driver=driver)
    named = {name: {"string": text} for name, text in attributes.items()}
    item["spec"]["devices"] = [
        {"name": f"gpu-{number}", "attributes": named} for number in range(4)
    ]
    seen = inventory.take(
        [inventory.trimmed(node("gb", gpus={resource: "4"}, labels=labels))],
        [],
        allocation=dra.allocation([dra.trimmed_slice(item)], []),
    )
    assert list(seen.total.values()) == [4]
