"""GPUs by type: what nodes have, what is free, what device types get of it, and what is said of the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter.resources import config_maps, inputs, pods, watches
from adapter.resources import gpus as inventory

A100 = "NVIDIA-A100-PCIE-80GB"
GPU, PRODUCT = "nvidia.com/gpu", "nvidia.com/gpu.product"

Object = dict[str, Any]


def node(
    name: str = "one",
    gpus: Mapping[str, object] | object = "8",
    labels: Mapping[str, str] | str = A100,
    *,
    ready: str = "True",
    **spec: Any,
) -> Object:
    """A ready node; its GPUs are NVIDIA's unless they are given by resource and label."""
    allocatable = gpus if isinstance(gpus, Mapping) else {GPU: gpus}
    named = labels if isinstance(labels, Mapping) else {PRODUCT: labels}
    return {
        "metadata": {"name": name, "labels": {"zone": "a", **named}},
        "spec": spec,
        "status": {
            "allocatable": {"cpu": "64", **allocatable},
            "conditions": [
                {"type": "FrequentKubeletRestart", "status": "True"},
                {"type": "Ready", "status": ready},
            ],
        },
    }


def taint(key: str, effect: str = "NoSchedule") -> Object:
    return {"key": key, "effect": effect}


def pod(
    name: str, gpus: int, *, on: str = "one", phase: str = "Running", resource: str = GPU
) -> Object:
    """A pod that holds GPUs."""
    resources = {"limits": {resource: str(gpus), "cpu": "4"}}
    return {
        "metadata": {"namespace": "n", "name": name, "labels": {}},
        "spec": {"nodeName": on, "containers": [{"resources": resources}]},
        "status": {"phase": phase},
    }


def take(
    nodes: list[Object], holders: list[Object] | None = None, *ours: str
) -> inventory.Inventory:
    return inventory.take(
        map(inventory.trimmed, nodes),
        map(pods.trimmed, holders or []),
        ours=frozenset(("n", name) for name in ours),
    )


def got(found: inventory.Inventory, *asked: str) -> dict[str, int]:
    """Capacity of device types, of which there must be no more to say."""
    capacity, problems = found.capacity(dict.fromkeys(asked, "costs"))
    assert problems == ()
    return capacity


def refused(found: inventory.Inventory, *asked: str) -> list[str]:
    """What is said of device types; what is said of them has no GPUs."""
    capacity, problems = found.capacity({device: f"data.{device}" for device in asked})
    for device in asked:
        told = any(problem.startswith(f"data.{device}: device: ") for problem in problems)
        assert told == (capacity[device] == 0)
    return list(problems)


# What nodes have.


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
    found = take([node(gpus=allocatable, labels=labels)])
    assert found.total == found.free == total
    assert found.left_out == ()


def test_nodes_are_kept_small() -> None:
    """A large cluster is held in memory: of labels and resources only the vendors' stay."""
    found = inventory.trimmed(node())
    assert found["metadata"]["labels"] == {PRODUCT: A100}
    assert found["allocatable"] == {GPU: 8}


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
            f"3 {GPU} not counted: the node has several models",
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
    found = take([bad, node("good", "1", "H")])
    assert {name: count for name, count in found.total.items() if count} == {"H": 1}
    (sentence,) = map(str, found.left_out)
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
    found = take([node()], [holder], "ours")
    assert (found.total, found.free) == ({A100: 8}, {A100: free})
    assert found.capacity({A100: ""})[0] == {A100: free}


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
    found = take([node(gpus=gpus, labels="P")], holders)
    assert found.free == {"P": 3, "P-MIG-1g.5gb": 5}


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
    found = take([node(**closed), node("two", "2")], holders, "ours")
    assert (found.total, found.free) == ({A100: 2}, {A100: 1})
    assert got(found, A100) == {A100: 1 + kept}


def test_where_all_nodes_are_closed_ours_stay() -> None:
    """While all nodes are cordoned, what runs may go on; never more than the node has."""
    found = take([node(gpus="4", unschedulable=True)], [pod("ours", 3), pod("too", 2)], "ours")
    assert got(found, A100) == {A100: 3}
    found = take(
        [node(gpus="4", unschedulable=True)], [pod("ours", 3), pod("too", 2)], "ours", "too"
    )
    assert got(found, A100) == {A100: 4}


# What device types get.

MI300X = {"amd.com/gpu.product-name": "AMD-MI300X-192G"}
OAM = {"amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM", "amd.com/gpu.vram": "192G"}


@pytest.mark.parametrize(
    ("device", "labels"),
    [
        (A100, {PRODUCT: A100}),
        ("nvidia a100_pcie-80gb", {PRODUCT: A100}),
        ("NVIDIA-A100-PCIE-80G", {PRODUCT: A100}),
        ("NVIDIA-A100-PCIE-80GiB", {PRODUCT: A100}),
        ("NVIDIA-A100-80GB-PCIe", {PRODUCT: A100}),
        ("AMD-MI300X-192GB", MI300X),
        ("AMD-Instinct-MI300X-OAM", OAM),
        ("AMD-Instinct-MI300X-OAM-192GB", OAM),
        ("NVIDIA-H200-141GB", {PRODUCT: "NVIDIA-H200", "nvidia.com/gpu.memory": "143771"}),
        ("Tesla-T4-16GB", {PRODUCT: "Tesla-T4", "nvidia.com/gpu.memory": "15360"}),
        ("NVIDIA-L4-24GB", {PRODUCT: "NVIDIA-L4", "nvidia.com/gpu.memory": "23034"}),
        (
            "NVIDIA-H100-PCIe-80GB-SHARED",
            {PRODUCT: "NVIDIA-H100-PCIe-SHARED", "nvidia.com/gpu.memory": "81559"},
        ),
        ("nvidia-a30-mig-1g.6gb", {PRODUCT: "NVIDIA-A30-MIG-1g.6gb"}),
    ],
)
def test_device_types_as_people_write_them(device: str, labels: dict[str, str]) -> None:
    """Case, separators, units, and the memory's size, which some products have in a label only."""
    gpus = {"amd.com/gpu" if PRODUCT not in labels else GPU: "8"}
    assert got(take([node(gpus=gpus, labels=labels)]), device) == {device: 8}


H100 = {PRODUCT: "NVIDIA-H100-PCIe", "nvidia.com/gpu.memory": "81559"}


@pytest.mark.parametrize(
    ("device", "labels"),
    [
        ("A100", {PRODUCT: A100}),
        ("NVIDIA-A100-PCIE", {PRODUCT: A100}),
        ("NVIDIA-A100-PCIE-40GB", {PRODUCT: A100}),
        ("NVIDIA-A100-PCIE-40GB", {PRODUCT: A100, "nvidia.com/gpu.memory": "40960"}),
        ("NVIDIA-H100-PCIe-94GB", H100),
        ("NVIDIA-H100-PCIe-64GB", H100),
        ("NVIDIA-H100-PCIe-80GB", {PRODUCT: "NVIDIA-H100-PCIe"}),
        ("NVIDIA-H100-PCIe-80GB", {PRODUCT: "NVIDIA-H100-PCIe", "nvidia.com/gpu.memory": "?"}),
        (A100, {PRODUCT: f"{A100}-SHARED"}),
        (A100, {PRODUCT: f"{A100}-MIG-1g.10gb"}),
        (f"{A100}-SHARED", {PRODUCT: A100}),
        (
            "NVIDIA-A30-MIG-1g.6gb-6GB",
            {PRODUCT: "NVIDIA-A30-MIG-1g.6gb", "nvidia.com/gpu.memory": "6144"},
        ),
        ("AMD-MI300X-192GB", {PRODUCT: "AMD_Instinct_MI300X_OAM"}),
    ],
)
def test_device_types_that_nodes_do_not_have(device: str, labels: dict[str, str]) -> None:
    """Nothing is guessed: another size, a slice, a share, a part of a name gets none, and the fix is said."""
    (problem,) = refused(take([node(labels=labels)]), device)
    assert problem == (
        f"data.{device}: device: {device!r} is no GPU of the nodes; they have {labels[PRODUCT]};"
        " write one of these"
    )


def test_gpus_without_a_name_are_told_to_who_asks() -> None:
    """Three of them: who finds nothing learns of GPUs that nobody could name, not of cordoned ones."""
    nodes = [node(name, labels={}) for name in "abcde"]
    (problem,) = refused(take([*nodes, node("z", unschedulable=True, labels="H")]), A100)
    assert f"they have H; write one of these; node a: 8 {GPU} not counted: no {PRODUCT}" in problem
    assert problem.endswith("; and 2 more")
    assert "node d" not in problem
    assert "cordoned" not in problem
    (problem,) = refused(take([]), A100)
    assert "they have none with a name" in problem


def test_a_type_on_closed_nodes_only() -> None:
    """Said with the reasons of its nodes, not of others."""
    nodes = [node("a", unschedulable=True), node("b", labels="H", ready="False"), node("c", "0")]
    (problem,) = refused(take(nodes), A100)
    assert problem == (
        f"data.{A100}: device: {A100!r} is on no node that takes pods;"
        f" node a: 8 {A100} not counted: cordoned"
    )


def test_none_free_is_no_problem_of_writing() -> None:
    """Where others hold all, there is nothing to fix in the ConfigMap."""
    assert got(take([node()], [pod("p", 8)]), A100) == {A100: 0}


def test_one_product_in_several_sizes() -> None:
    """Apart by the label with the memory; without a size it is not clear which is meant."""
    label = "nvidia.com/gpu.memory"
    nodes = [
        node("a", "1", {PRODUCT: "NVIDIA-X", label: "40960"}),
        node("b", "2", {PRODUCT: "NVIDIA-X", label: "81920"}),
        node("c", "4", {PRODUCT: "NVIDIA-X", label: "81559"}),
        node("d", "8", {PRODUCT: "NVIDIA-Y", label: "81920"}),
        node("e", "16", {PRODUCT: "NVIDIA-Y", label: "81559"}),
    ]
    found = take(nodes)
    assert found == take(nodes[::-1])
    assert found.total == {"NVIDIA-X-40GB": 1, "NVIDIA-X-80GB": 6, "NVIDIA-Y": 24}
    assert got(found, "nvidia-x-80G", "NVIDIA-X-40GB") == {"nvidia-x-80G": 6, "NVIDIA-X-40GB": 1}
    (problem,) = refused(found, "NVIDIA-X")
    assert problem == (
        "data.NVIDIA-X: device: 'NVIDIA-X' may be NVIDIA-X-40GB or NVIDIA-X-80GB;"
        " write the one that is meant"
    )


def test_a_size_in_the_name_counts_more_than_its_label() -> None:
    """A product that says its size is one type, and the same as one of that size that does not say it."""
    label = "nvidia.com/gpu.memory"
    nodes = [
        node("a", labels={PRODUCT: A100, label: "81920"}),
        node("b", labels={PRODUCT: A100, label: "1"}),
    ]
    assert take(nodes).total == {A100: 16}
    more = [
        node("c", "1", {PRODUCT: A100.removesuffix("-80GB"), label: "81920"}),
        node("d", "2", {PRODUCT: A100.removesuffix("-80GB"), label: "40960"}),
    ]
    found = take(nodes + more)
    assert found.total == {A100: 17, A100.replace("80", "40"): 2}
    assert found == take(more + nodes)


def test_types_that_differ_in_spelling_only() -> None:
    """The very name is meant; another spelling could be either."""
    found = take([node("a", "1", "AMD-X"), node("b", "2", "AMD_X")])
    assert got(found, "AMD-X", "AMD_X") == {"AMD-X": 1, "AMD_X": 2}
    (problem,) = refused(found, "amd x")
    assert "may be AMD-X or AMD_X" in problem


def test_each_gpu_is_given_once() -> None:
    """Two spellings of one type would count it twice: the type's own name has it, else the first."""
    found = take([node()])
    other, third = A100.lower(), A100.replace("-", " ")
    capacity, (problem,) = found.capacity({third: "x", A100: "y"})
    assert capacity == {A100: 8, third: 0}
    assert problem == (
        f"x: device: {third!r} is the same GPU as {A100!r}, which has all of them; write both alike"
    )
    assert found.capacity({other: "x", third: "y"})[0] == {third: 8, other: 0}


def test_who_asks_is_told_where_to_write() -> None:
    """Device types of accelerators that variants name are asked for, with their line of the ConfigMap."""
    reader = inputs.Reader()
    costs = {
        "A100": '{"device": "A100-80GB", "cost": 40}',
        "also": '{"device": "A100-80GB", "cost": 50}',
        "unused": '{"device": "MI300X", "cost": 65}',
    }
    metadata = {"name": config_maps.COSTS, "namespace": "n"}
    reader.read_config_map("costs", {"metadata": metadata, "data": costs})
    profiles = [
        {"acc": name, "maxBatchSize": 4, "alpha": 20, "beta": 1} for name in ("also", "A100")
    ]
    spec = {"modelID": "m", "modelProfile": {"accelerators": profiles}}
    reader.read_variant("v", {"metadata": {"name": "v", "namespace": "n"}, "spec": spec})
    asked = watches._device_types(watches.Scope(config_namespace="n"), reader)
    assert reader.problems == []
    assert asked == {"A100-80GB": "ConfigMap n/accelerator-unit-costs: data.A100"}


# Whatever the cluster is like.

PRODUCTS = [A100, f"{A100}-SHARED", "NVIDIA-H200", ""]
RESOURCES = [GPU, "nvidia.com/mig-1g.10gb", "amd.com/gpu"]
SPELLINGS = [*PRODUCTS[:-1], A100.lower(), "NVIDIA-H200-141GB", f"{A100}-MIG-1g.10gb", "none"]


@st.composite
def clusters(draw: st.DrawFn) -> tuple[list[Object], list[Object]]:
    """Nodes and pods that may be on them."""
    names = [f"node-{number}" for number in range(draw(st.integers(1, 3)))]
    counts = st.dictionaries(st.sampled_from(RESOURCES), st.integers(0, 4), min_size=1)
    product = st.sampled_from(PRODUCTS)
    nodes = [
        node(
            name,
            draw(counts),
            {
                PRODUCT: draw(product),
                "nvidia.com/gpu.count": draw(st.sampled_from(["2", "8", ""])),
                "amd.com/gpu.product-name": draw(product),
                "nvidia.com/gpu.memory": draw(st.sampled_from(["143771", "90000", ""])),
            },
            ready=draw(st.sampled_from(["True", "True", "True", "False"])),
            unschedulable=draw(st.sampled_from([False, False, True])),
            taints=[taint(key) for key in draw(st.sampled_from([[], [], [GPU], ["keep-out"]]))],
        )
        for name in names
    ]
    holders = [
        pod(
            str(number),
            draw(st.integers(0, 5)),
            on=draw(st.sampled_from([*names, *names, ""])),
            phase=draw(st.sampled_from(["Running", "Pending", "Failed"])),
            resource=draw(st.sampled_from([GPU, *RESOURCES])),
        )
        for number in range(draw(st.integers(2, 8)))
    ]
    return nodes, holders


def usable(item: Object) -> bool:
    keys = {taint["key"] for taint in item["spec"]["taints"]}
    ready = item["status"]["conditions"][-1]["status"] == "True"
    return ready and not item["spec"]["unschedulable"] and keys <= {GPU}


def allocatable(nodes: list[Object]) -> int:
    """Of all GPU resources."""
    return sum(item["status"]["allocatable"].get(name, 0) for item in nodes for name in RESOURCES)


@given(
    cluster=clusters(),
    ours=st.sets(st.sampled_from("0123")),
    data=st.data(),
)
def test_no_more_than_there_is(
    cluster: tuple[list[Object], list[Object]], ours: set[str], data: st.DataObject
) -> None:
    """Never negative, never beyond usable nodes and what ours run on closed ones; in whatever order."""
    nodes, holders = cluster
    found = take(nodes, holders, *ours)
    capacity, problems = found.capacity(dict.fromkeys(SPELLINGS, "x"))
    open_nodes = [item for item in nodes if usable(item)]
    closed = {item["metadata"]["name"] for item in nodes} - {
        item["metadata"]["name"] for item in open_nodes
    }
    kept = sum(
        int(limit)
        for item in holders
        if item["metadata"]["name"] in ours and item["spec"]["nodeName"] in closed
        for name, limit in item["spec"]["containers"][0]["resources"]["limits"].items()
        if name in RESOURCES
    )
    assert list(capacity) == SPELLINGS
    assert all(count >= 0 for count in capacity.values())
    assert all(0 <= found.free[name] <= count for name, count in found.total.items())
    assert sum(found.total.values()) <= allocatable(open_nodes)
    assert sum(capacity.values()) <= allocatable(open_nodes) + kept
    if not kept:
        assert sum(capacity.values()) <= sum(found.free.values())
    again = take(data.draw(st.permutations(nodes)), data.draw(st.permutations(holders)), *ours)
    assert again == found
    assert again.capacity(dict.fromkeys(SPELLINGS[::-1], "x")) == (capacity, problems)
    without = take(nodes, [], *ours)
    assert without.free == without.total == found.total
