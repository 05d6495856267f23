"""Device types of accelerators, matched with the GPUs of the nodes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter.installation import COSTS
from adapter.resources import inputs
from adapter.resources.configuration import last_good
from adapter.resources.devices.asked import device_types
from tests.adapter.resources.gpu_nodes import (
    A100,
    GPU,
    PRODUCT,
    Object,
    got,
    node,
    pod,
    refused,
    taint,
    take,
)

DEPLOYMENT = {"kind": "Deployment", "apiVersion": "apps/v1"}

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
    gpus = take(nodes)
    assert gpus == take(nodes[::-1])
    assert gpus.total == {"NVIDIA-X-40GB": 1, "NVIDIA-X-80GB": 6, "NVIDIA-Y": 24}
    assert got(gpus, "nvidia-x-80G", "NVIDIA-X-40GB") == {"nvidia-x-80G": 6, "NVIDIA-X-40GB": 1}
    (problem,) = refused(gpus, "NVIDIA-X")
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
    gpus = take(nodes + more)
    assert gpus.total == {A100: 17, A100.replace("80", "40"): 2}
    assert gpus == take(more + nodes)


def test_types_that_differ_in_spelling_only() -> None:
    """The very name is meant; another spelling could be either."""
    gpus = take([node("a", "1", "AMD-X"), node("b", "2", "AMD_X")])
    assert got(gpus, "AMD-X", "AMD_X") == {"AMD-X": 1, "AMD_X": 2}
    (problem,) = refused(gpus, "amd x")
    assert "may be AMD-X or AMD_X" in problem


def test_each_gpu_is_given_once() -> None:
    """Two spellings of one type would count it twice: the type's own name has it, else the first."""
    gpus = take([node()])
    other, third = A100.lower(), A100.replace("-", " ")
    capacity, (problem,) = gpus.capacity({third: "x", A100: "y"})
    assert capacity == {A100: 8, third: 0}
    assert problem == (
        f"x: device: {third!r} is the same GPU as {A100!r}, which has all of them; write both alike"
    )
    assert gpus.capacity({other: "x", third: "y"})[0] == {third: 8, other: 0}


def test_who_asks_is_told_where_to_write() -> None:
    """Device types of accelerators that variants name are asked for, with their line of the ConfigMap."""
    reader = inputs.Reader()
    costs = {
        "A100": '{"device": "A100-80GB", "cost": 40}',
        "also": '{"device": "A100-80GB", "cost": 50}',
        "unused": '{"device": "MI300X", "cost": 65}',
    }
    metadata = {"name": COSTS, "namespace": "n"}
    reader.read_config_map("costs", {"metadata": metadata, "data": costs})
    profiles = [
        {"acc": name, "maxBatchSize": 4, "alpha": 20, "beta": 1} for name in ("also", "A100")
    ]
    spec = {"modelID": "m", "modelProfile": {"accelerators": profiles}}
    reader.read_variant("v", {"metadata": {"name": "v", "namespace": "n"}, "spec": spec})
    asked = device_types(reader, "n")
    assert reader.problems == []
    assert asked == {"A100-80GB": "ConfigMap n/accelerator-unit-costs: data.A100"}


# Whatever the cluster is like.

PRODUCTS = [A100, f"{A100}-SHARED", "NVIDIA-H200", ""]
RESOURCES = [GPU, "nvidia.com/mig-1g.10gb", "amd.com/gpu"]
SPELLINGS = [*PRODUCTS[:-1], A100.lower(), "NVIDIA-H200-141GB", f"{A100}-MIG-1g.10gb", "none"]


@pytest.mark.parametrize("name", ["A100", "A100-80"])
def test_the_only_price_may_get_another_name(name: str) -> None:
    """Nothing names an accelerator but the last decision: the only row is it, whatever it was called."""
    row = '{"device": "A100-80GB", "cost": 40}'
    status = {
        "desiredOptimizedAlloc": {
            "accelerator": "A100", "numReplicas": 2, "lastRunTime": "2026-01-01T00:00:00Z",
        }
    }  # fmt: skip
    metadata = {"name": "v", "namespace": "n"}
    variant = {"metadata": metadata, "spec": {"modelID": "m", "scaleTargetRef": {"name": "v"}}}
    known = last_good.NOTHING
    for key in ("A100", name, name):
        reader = inputs.Reader(last_good=known)
        costs = {"metadata": {"name": COSTS, "namespace": "n"}, "data": {key: row}}
        reader.read_config_map("costs", costs)
        reader.read_object("", {**DEPLOYMENT, "metadata": metadata})
        reader.read_variant("v", {**variant, "status": status})
        assert device_types(reader, "n").keys() == {"A100-80GB"}
        read = reader.inputs()
        (source,) = read.variants
        assert source.accelerator == key
        known = read.last_good


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
    gpus = take(nodes, holders, *ours)
    capacity, problems = gpus.capacity(dict.fromkeys(SPELLINGS, "x"))
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
    assert all(0 <= gpus.free[name] <= count for name, count in gpus.total.items())
    assert sum(gpus.total.values()) <= allocatable(open_nodes)
    assert sum(capacity.values()) <= allocatable(open_nodes) + kept
    if not kept:
        assert sum(capacity.values()) <= sum(gpus.free.values())
    again = take(data.draw(st.permutations(nodes)), data.draw(st.permutations(holders)), *ours)
    assert again == gpus
    assert again.capacity(dict.fromkeys(SPELLINGS[::-1], "x")) == (capacity, problems)
    without = take(nodes, [], *ours)
    assert without.free == without.total == gpus.total
