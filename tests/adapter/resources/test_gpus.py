"""GPUs by type: what nodes have, what is free, what device types get of it, and what is said of the rest."""

from __future__ import annotations

import pytest

from adapter.resources import gpus as inventory
from tests.adapter.resources.gpu_nodes import (
    A100,
    GPU,
    PRODUCT,
    Object,
    got,
    node,
    pod,
    taint,
    take,
)


@pytest.mark.parametrize(
    ("allocatable", "labels", "total"),
    [
        pytest.param({GPU: "8"}, {PRODUCT: A100}, {A100: 8}, id="nvidia"),
        pytest.param({GPU: "2k"}, {PRODUCT: A100}, {A100: 2000}, id="quantity with a suffix"),
        pytest.param(
            {GPU: "4", "nvidia.com/hostdev": "9", "nvidia.com/gpu.x": "9"},
            {PRODUCT: A100, "nvidia.com/gpu.count": "8", "nvidia.com/gpu.replicas": "0"},
            {A100: 4},
            id="nvidia: other resources are no GPUs; fewer than there are, as others are sliced",
        ),
        pytest.param(
            {GPU: "56"},
            {PRODUCT: "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb", "nvidia.com/gpu.count": "56"},
            {"NVIDIA-A100-SXM4-40GB-MIG-1g.5gb": 56},
            id="nvidia: MIG strategy single",
        ),
        pytest.param(
            {GPU: "6", "nvidia.com/mig-1g.5gb": "7", "nvidia.com/mig-1g.5gb.me": "1"},
            {
                PRODUCT: "NVIDIA-A100-SXM4-40GB",
                "nvidia.com/gpu.count": "8",
                "nvidia.com/mig-1g.5gb.product": "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb",
            },
            {
                "NVIDIA-A100-SXM4-40GB": 6,
                "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb": 7,
                "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb.me": 1,
            },
            id="nvidia: MIG strategy mixed, also where the slice's label is missing",
        ),
        pytest.param(
            {GPU: "0", "nvidia.com/mig-2g.10gb": "3"},
            {PRODUCT: "NVIDIA-A30-SHARED"},
            {"NVIDIA-A30-MIG-2g.10gb": 3},
            id="nvidia: slices of GPUs whose whole ones are shared",
        ),
        pytest.param(
            {GPU: "80"},
            {
                PRODUCT: f"{A100}-SHARED",
                "nvidia.com/gpu.count": "8",
                "nvidia.com/gpu.replicas": "10",
                "nvidia.com/gpu.sharing-strategy": "time-slicing",
            },
            {f"{A100}-SHARED": 80},
            id="nvidia: time-slicing",
        ),
        pytest.param(
            {GPU: "0", "nvidia.com/gpu.shared": "80"},
            {
                PRODUCT: A100,
                "nvidia.com/gpu.count": "8",
                "nvidia.com/gpu.replicas": "10",
                "nvidia.com/gpu.sharing-strategy": "time-slicing",
            },
            {f"{A100}-SHARED": 80},
            id="nvidia: time-slicing with renameByDefault",
        ),
        pytest.param(
            {GPU: "16"},
            {PRODUCT: A100, "nvidia.com/gpu.sharing-strategy": "mps"},
            {f"{A100}-SHARED": 16},
            id="nvidia: MPS that the product does not tell",
        ),
        pytest.param(
            {"nvidia.com/mig-1g.5gb.shared": "14"},
            {"nvidia.com/mig-1g.5gb.product": "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb"},
            {"NVIDIA-A100-SXM4-40GB-MIG-1g.5gb-SHARED": 14},
            id="nvidia: shared slices",
        ),
        pytest.param(
            {"amd.com/gpu": "8"},
            {"amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM", "amd.com/gpu.vram": "192G"},
            {"AMD_Instinct_MI300X_OAM": 8},
            id="amd",
        ),
        pytest.param(
            {"amd.com/gpu": "8"},
            {"beta.amd.com/gpu.product-name": "Instinct_MI210"},
            {"Instinct_MI210": 8},
            id="amd: labels of an old labeller",
        ),
        pytest.param(
            {"amd.com/gpu": "64"},
            {
                "amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM",
                "amd.com/gpu.compute-memory-partition": "cpx_nps4",
            },
            {"AMD_Instinct_MI300X_OAM-cpx_nps4": 64},
            id="amd: partitions, naming strategy single",
        ),
        pytest.param(
            {"amd.com/spx_nps1": "5", "amd.com/cpx_nps1": "24"},
            {"amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM"},
            {"AMD_Instinct_MI300X_OAM": 5, "AMD_Instinct_MI300X_OAM-cpx_nps1": 24},
            id="amd: partitions, naming strategy mixed; SPX is the whole GPU",
        ),
        pytest.param(
            {"gpu.intel.com/i915": "2", "gpu.intel.com/i915_monitoring": "1"},
            {"gpu.intel.com/product": "Max_1550", "gpu.intel.com/device.count": "2"},
            {"Max_1550": 2},
            id="intel: i915; access for monitoring is no GPU",
        ),
        pytest.param(
            {"gpu.intel.com/xe": "4"}, {"gpu.intel.com/product": "B60"}, {"B60": 4}, id="intel: xe"
        ),
        pytest.param(
            {"gpu.intel.com/i915": "2", "gpu.intel.com/xe": "2"},
            {"gpu.intel.com/product": "Max_1550", "gpu.intel.com/device.count": "2"},
            {"Max_1550-SHARED": 4},
            id="intel: more than there are cards are shares",
        ),
        pytest.param(
            {"habana.ai/gaudi": "8"},
            {"habana.ai/product.name": "Intel-Gaudi-2-96GB"},
            {"Intel-Gaudi-2-96GB": 8},
            id="gaudi",
        ),
        pytest.param(
            {"amd.com/gpu": "2", "intel.com/gpu": "3"},
            {"amd.com/gpu.product": "AMD-MI300X-192G", "intel.com/gpu.product": "Gaudi"},
            {"AMD-MI300X-192G": 2, "Gaudi": 3},
            id="an emulated cluster's labels, two vendors in one node",
        ),
        pytest.param(
            {"habana.ai/gaudi": "8", "gpu.intel.com/i915": "4"},
            {
                "habana.ai/product.name": "Gaudi",
                "gpu.intel.com/product": "Flex_170",
                "gpu.intel.com/device.count": "2",
            },
            {"Gaudi": 8, "Flex_170-SHARED": 4},
            id="gaudi beside shared cards",
        ),
        pytest.param({GPU: "0"}, {}, {}, id="none"),
        pytest.param({"example.com/gpu": "8"}, {PRODUCT: A100}, {}, id="another vendor"),
    ],
)
def test_what_a_node_has(
    allocatable: dict[str, str], labels: dict[str, str], total: dict[str, int]
) -> None:
    """By the names that labellers give; slices, partitions and shares are types of their own."""
    counted = take([node(gpus=allocatable, labels=labels)])
    assert counted.total == counted.free == total
    assert counted.left_out == ()


def test_nodes_are_kept_small() -> None:
    """A large cluster is held in memory: of labels and resources only the vendors' stay."""
    trimmed = inventory.trimmed(node())
    assert trimmed["metadata"]["labels"] == {PRODUCT: A100}
    assert trimmed["allocatable"] == {GPU: 8}


def test_nodes_add_up_by_product() -> None:
    """Sizes of memory are products apart."""
    small = A100.replace("80", "40")
    nodes = [node("one"), node("two", "4"), node("three", "2", small)]
    assert take(nodes).total == {A100: 12, small: 2}


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (node(unschedulable=True), f"8 {A100} not counted: cordoned"),
        (node(ready="False"), f"8 {A100} not counted: NotReady"),
        (node(ready="Unknown"), f"8 {A100} not counted: NotReady"),
        (node(ready="False", unschedulable=True), f"8 {A100} not counted: NotReady"),
        (
            node(taints=[taint("b"), taint("a", "NoExecute"), taint("c", "PreferNoSchedule")]),
            f"8 {A100} not counted: tainted by a, b",
        ),
        (node(taints=[taint("nvidia.com/gpu-broken")]), "tainted by nvidia.com/gpu-broken"),
        (node(labels={}), f"8 {GPU} not counted: no {PRODUCT} label; install NVIDIA GPU feature"),
        (node(gpus={"nvidia.com/mig-1g.5gb": 7}, labels={}), f"no {PRODUCT} label"),
        (node(gpus={"amd.com/gpu": 8}), "no amd.com/gpu.product-name label; run AMD's node"),
        (node(gpus={"gpu.intel.com/xe": 8}), "no gpu.intel.com/product label; set it"),
        (node(gpus={"habana.ai/gaudi": 8}), "no habana.ai/product.name label"),
        (
            node(gpus="3", labels={PRODUCT: "Tesla-V100", "nvidia.com/gpu.count": "1"}),
            f"3 {GPU} not counted: more than its nvidia.com/gpu.count: it has several models",
        ),
        (
            node(
                gpus={"amd.com/gpu": 2},
                labels={
                    "amd.com/gpu.product-name.Instinct_MI210": "1",
                    "amd.com/gpu.product-name.Instinct_MI300X": "1",
                },
            ),
            "2 amd.com/gpu not counted: the node has several models",
        ),
        (
            node(gpus="0", labels="NVIDIA-A30-MIG-INVALID"),
            f"0 {GPU} not counted: their MIG slices are unlike",
        ),
        (node(gpus="8", labels="NVIDIA-A30-MIG-INVALID"), "their MIG slices are unlike"),
    ],
)
def test_gpus_that_are_left_out(bad: Object, told: str) -> None:
    """Of nodes that take no pods, and those that nobody can name: not counted, and said why."""
    counted = take([bad, node("good", "1", "H")])
    assert {name: count for name, count in counted.total.items() if count} == {"H": 1}
    (sentence,) = map(str, counted.left_out)
    assert sentence.startswith("node one: ")
    assert told in sentence


@pytest.mark.parametrize(
    "harmless",
    [
        taint("spot", "PreferNoSchedule"),
        taint(GPU),
        taint("nvidia.com/mig-1g.5gb", "NoExecute"),
    ],
)
def test_taints_that_keep_no_pod_of_ours_away(harmless: Object) -> None:
    """A preference, and the names of the vendor's or the node's resources, which GPU nodes commonly have."""
    mig = {"nvidia.com/mig-1g.5gb": "7"}
    assert take([node(gpus=mig, labels="P", taints=[harmless])]).total == {"P-MIG-1g.5gb": 7}


# What pods hold.


@pytest.mark.parametrize(
    ("holder", "free"),
    [
        (pod("p", 3), 5),
        (pod("p", 9), 0),
        (pod("p", 3, phase="Pending"), 5),
        (pod("p", 3, phase="Succeeded"), 8),
        (pod("p", 3, phase="Failed"), 8),
        (pod("p", 3, on=""), 8),
        (pod("p", 3, on="elsewhere"), 8),
        (pod("p", 3, resource="nvidia.com/mig-1g.5gb"), 8),
        (pod("ours", 3), 8),
    ],
)
def test_what_others_hold_is_not_free(holder: Object, free: int) -> None:
    """By pods that are bound to the node and have not ended; what ours hold is ours to give."""
    counted = take([node()], [holder], "ours")
    assert (counted.total, counted.free) == ({A100: 8}, {A100: free})
    assert counted.capacity({A100: ""})[0] == {A100: free}


def test_whose_a_pod_is_takes_its_namespace_too() -> None:
    """A pod of our pod's name in another namespace is not ours."""
    other = pod("ours", 3)
    other["metadata"]["namespace"] = "m"
    assert take([node()], [other], "ours").free == {A100: 5}


def test_a_node_that_lost_gpus_does_not_take_them_from_others() -> None:
    """More may be held on a node than it has left, when a GPU broke."""
    assert take([node("one", "1"), node("two", "4")], [pod("p", 3)]).free == {A100: 4}


def test_slices_are_held_as_slices() -> None:
    """Who holds a slice holds no whole GPU of the node, and the other way round."""
    gpus = {GPU: "4", "nvidia.com/mig-1g.5gb": "7"}
    holders = [pod("a", 1), pod("b", 2, resource="nvidia.com/mig-1g.5gb")]
    counted = take([node(gpus=gpus, labels="P")], holders)
    assert counted.free == {"P": 3, "P-MIG-1g.5gb": 5}


@pytest.mark.parametrize(
    ("closed", "kept"),
    [
        ({"unschedulable": True}, 3),
        ({"taints": [taint("maintenance")]}, 3),
        ({"ready": "False"}, 0),
    ],
)
def test_what_ours_hold_on_a_closed_node_stays_ours(closed: Object, kept: int) -> None:
    """A cordon lets pods run: it must not scale them down. On a node that is gone they do not run."""
    holders = [pod("ours", 3), pod("theirs", 2), pod("more", 1, on="two")]
    counted = take([node(**closed), node("two", "2")], holders, "ours")
    assert (counted.total, counted.free) == ({A100: 2}, {A100: 1})
    assert got(counted, A100) == {A100: 1 + kept}


def test_where_all_nodes_are_closed_ours_stay() -> None:
    """While all nodes are cordoned, what runs may go on; never more than the node has."""
    counted = take([node(gpus="4", unschedulable=True)], [pod("ours", 3), pod("too", 2)], "ours")
    assert got(counted, A100) == {A100: 3}
    counted = take(
        [node(gpus="4", unschedulable=True)], [pod("ours", 3), pod("too", 2)], "ours", "too"
    )
    assert got(counted, A100) == {A100: 4}
