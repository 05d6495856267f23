"""GPUs that tenants price and name themselves: they take those of nobody else, however they spell them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from adapter.controller import stabilization
from adapter.installation import COSTS, NEEDED_CONFIG_MAPS
from adapter.kube.scale import Reference, Scale
from adapter.resources import gpus, inputs, pods
from adapter.resources.configuration.last_good import NOTHING
from adapter.resources.watched import trimming
from adapter.resources.watched.joining import Items, Seen, join
from adapter.resources.watched.scope import Scope
from tests.adapter.resources.gpu_nodes import PRODUCT, Object, node

SYSTEM, DEVICE = "system", "NVIDIA-H100-80GB-HBM3"
MEMORY = "nvidia.com/gpu.memory"
LABEL = "inference.optimization/acceleratorName"
VICTIM = "m"
"""Its namespace; those of others are read before and after it."""


def tenant(namespace: str, product: str, *, count: int, label: str = "") -> tuple[Object, ...]:
    """A variant that prices itself or has the only row, its Deployment and its pod, all of one name."""
    named = {"namespace": namespace, "name": "v", "uid": namespace}
    reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "v"}
    spec = {
        "nodeSelector": {PRODUCT: product} if product else {},
        "containers": [{"resources": {"limits": {"nvidia.com/gpu": str(count)}}}],
    }
    template = {"metadata": {"labels": {"app": "v"}}, "spec": spec}
    selector = {"matchLabels": {"app": "v"}}
    return (
        {
            "metadata": {**named, "labels": {LABEL: label} if label else {}},
            "spec": {"modelID": "m", "scaleTargetRef": reference, "variantCost": "40"},
        },
        {
            "metadata": named,
            "spec": {"replicas": 1, "selector": selector, "template": template},
        },
        {**template, "metadata": {**named, "labels": {"app": "v"}}, "status": {"phase": "Pending"}},
    )


def read(
    *tenants: tuple[Object, ...],
    product: str = DEVICE,
    price: str = "",
    more: Sequence[Object] = (),
    others: Mapping[tuple[str, Reference], Scale] | None = None,
    nodes: Mapping[tuple[str, str], Mapping[str, Any]] | None = None,
) -> inputs.Inputs:
    """The objects of all of them, beside a node or `nodes`; `price`: device of the only row; `more`: pods."""
    key = [(item["metadata"]["namespace"], "v") for item, _, _ in tenants]
    rows = {"row": f'{{"device": "{price}", "cost": 40}}'} if price else {}
    configs: Items = [
        ((SYSTEM, name), {"metadata": {"name": name}, "data": rows if name == COSTS else {}})
        for name in NEEDED_CONFIG_MAPS
    ]
    variants, deployments, running = zip(*tenants, strict=True)
    seen = Seen(
        variants=sorted(zip(key, variants, strict=True), key=lambda item: item[0]),
        deployments=list(zip(key, map(trimming.deployment, deployments), strict=True)),
        pods=[
            ((pod["metadata"]["namespace"], pod["metadata"]["name"]), pods.trimmed(pod))
            for pod in (*running, *more)
        ],
        nodes=nodes or {("", "a"): gpus.trimmed(node("a", "8", {PRODUCT: product, MEMORY: "81559"}))},
        configs=configs,
        scalers=[], slices=[], claims=[], rules=[], pickers=[], ported=[],
        monitors=[], service_monitors=[], services=[], others=others or {},
        configs_read=True, unread="", last_good=NOTHING,
    )  # fmt: skip
    return join(Scope(config_namespace=SYSTEM, limited=True), seen)


def devices_of(known: inputs.Inputs) -> tuple[str, int, int]:
    """The victim's device type, how many a replica holds, and how many there are, as a plan looks them up."""
    (source,) = [item for item in known.variants if item.namespace == VICTIM]
    unit = known.accelerator_named[source.accelerator]
    assert unit.device_type == source.device
    assert known.capacity is not None
    return unit.device_type, unit.multiplicity, known.capacity[unit.device_type]


ALONE = (DEVICE, 8, 8)


@pytest.mark.parametrize("namespace", ["a", "z"])
@pytest.mark.parametrize(
    ("product", "count", "label"),
    [
        pytest.param("", 1, f"8x{DEVICE}", id="name-of-another-accelerator"),
        pytest.param("", 1, f"0x{DEVICE}", id="none-of-it"),
        pytest.param("", 1, f"9999x{DEVICE}", id="all-of-it"),
        pytest.param("H100", 1, "", id="part-of-the-product"),
        pytest.param("nvidia_h100_80gb_hbm3", 1, "", id="other-spelling"),
    ],
)
def test_nobody_takes_the_gpus_of_another_tenant(
    namespace: str, product: str, count: int, label: str
) -> None:
    """By a label with the name of its accelerator, or a node selector with a part of its product."""
    victim = tenant(VICTIM, DEVICE, count=8)
    assert devices_of(read(victim)) == ALONE
    known = read(victim, tenant(namespace, product, count=count, label=label))
    assert devices_of(known) == ALONE
    (other,) = [item for item in known.variants if item.namespace == namespace]
    assert known.accelerator_named[other.accelerator].multiplicity == count


def test_two_spellings_share_what_there_is() -> None:
    """Each would have all of it otherwise, or one of them nothing."""
    known = read(tenant("a", DEVICE.lower(), count=1), tenant(VICTIM, DEVICE, count=8))
    assert {item.device for item in known.variants} == {DEVICE}
    assert known.capacity == {DEVICE: 8}


@pytest.mark.parametrize("price", ["", "H100"])
def test_a_label_that_may_be_one_of_two_kinds_is_told(price: str) -> None:
    """Neither has its GPUs, and the condition of the variant says what to write where."""
    there = {
        ("", name): gpus.trimmed(node(name, "8", {PRODUCT: name, MEMORY: "81559"}))
        for name in (DEVICE, "NVIDIA-H100-NVL")
    }
    known = read(tenant(VICTIM, "", count=1, label="H100"), price=price, nodes=there)
    (source,) = known.variants
    may_be = f"'H100' may be {DEVICE} or NVIDIA-H100-NVL; write the one that is meant"
    assert may_be in source.closed
    assert LABEL in source.closed
    assert any(may_be in problem for problem in known.problems)
    (alone,) = read(tenant(VICTIM, "", count=1, label="H100"), price=price).variants
    none = f"'H100' is no GPU of the nodes; they have {DEVICE}; write one of these"
    assert (none in alone.closed) == bool(price)
    assert bool(alone.closed) == bool(price)


@pytest.mark.parametrize("product", ["NVIDIA-H100-PCIe", "NVIDIA-H100-PCIe-79GB", "H100-PCIe"])
def test_nobody_takes_the_gpus_of_a_row(product: str) -> None:
    """A size that the label of the memory allows was another spelling, which came first by name."""
    pcie = "NVIDIA-H100-PCIe"
    row = f"{pcie}-80GB"
    known = read(
        tenant("a", product, count=1),
        tenant(VICTIM, pcie, count=8, label="row"),
        product=pcie,
        price=row,
    )
    assert known.capacity is not None
    assert known.capacity[row] == 8
    assert devices_of(known) == (row, 1, 8)


def decided_for(accelerator: str) -> tuple[Object, ...]:
    """A variant without a label, whose pods name no GPU, after a decision."""
    variant, *others = tenant(VICTIM, "", count=8)
    allocation = {
        "accelerator": accelerator, "numReplicas": 0, "lastRunTime": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    return {**variant, "status": {"desiredOptimizedAlloc": allocation}}, *others


@pytest.mark.parametrize(
    "victim",
    [
        pytest.param(tenant(VICTIM, "", count=8, label=DEVICE), id="label"),
        pytest.param(tenant(VICTIM, "", count=8, label=DEVICE.lower()), id="other-spelling"),
        pytest.param(tenant(VICTIM, "", count=8, label="H100"), id="short-label"),
        pytest.param(tenant(VICTIM, DEVICE, count=8, label="H100"), id="short-label-and-pods"),
        pytest.param(decided_for(f"8x{DEVICE}@40"), id="last-decision"),
        pytest.param(decided_for(f"9999x{DEVICE}@40"), id="forged-decision"),
    ],
)
def test_gpus_are_had_whatever_names_them(victim: tuple[Object, ...]) -> None:
    """There were none for a variant that prices itself, unless its pods named them as its label did."""
    assert devices_of(read(victim)) == ALONE


@pytest.mark.parametrize("label", ["ROW", "h100-80gb", "NVIDIA-H100-PCIe"])
def test_a_label_means_a_row_by_other_case_or_device(label: str) -> None:
    """The row's GPUs were none to whom the label only means it."""
    known = read(
        tenant(VICTIM, "", count=8, label=label),
        product="NVIDIA-H100-PCIe",
        price="NVIDIA-H100-PCIe-80GB",
    )
    assert devices_of(known) == ("NVIDIA-H100-PCIe-80GB", 1, 8)


def test_a_label_that_no_node_has_is_told() -> None:
    known = read(tenant(VICTIM, "", count=1, label="L40S"))
    assert known.capacity == {"L40S": 0}
    assert f"VariantAutoscaling {VICTIM}/v: device: 'L40S' is no GPU of the nodes" in str(
        known.problems
    )


@pytest.mark.parametrize(("replicas", "count"), [(9999, 1), (1, 9999)])
def test_what_a_deployment_only_asks_for_is_left_to_others(replicas: int, count: int) -> None:
    """One pod of thousands, without metrics, left no GPU of eight; nor did one that fits nowhere."""
    variant, workload, pod = tenant("a", DEVICE, count=count)
    workload = {**workload, "spec": {**workload["spec"], "replicas": replicas}}
    known = read((variant, workload, pod), tenant(VICTIM, DEVICE, count=8))
    unsized = [item for item in known.variants if item.namespace == "a"]
    free = stabilization.free_capacity(known, unsized)
    assert free is not None
    assert free[DEVICE] >= 7


def bound(item: Object, **more: object) -> Object:
    """A pod on the node, with other metadata."""
    metadata = {**item["metadata"], **more}
    return {**item, "metadata": metadata, "spec": {**item["spec"], "nodeName": "a"}}


def controlled_by(kind: str, name: str) -> list[dict[str, object]]:
    return [{"kind": kind, "name": name, "controller": True}]


BY_HAND: dict[str, object] = {"name": "by-hand", "labels": {"app": "v"}}
OF_A_JOB = {**BY_HAND, "ownerReferences": controlled_by("Job", "train")}
OF_ANOTHER = {**BY_HAND, "ownerReferences": controlled_by("ReplicaSet", "other")}


@pytest.mark.parametrize("kind", ["Deployment", "ReplicaSet"])
@pytest.mark.parametrize("metadata", [BY_HAND, OF_A_JOB, OF_ANOTHER], ids=["hand", "job", "set"])
def test_what_a_selector_says_makes_no_devices_free(kind: str, metadata: Object) -> None:
    """Pods of a Job, or made by hand, with the labels of a variant's target keep their devices."""
    variant, workload, pod = tenant("a", DEVICE, count=1)
    reference = {**variant["spec"]["scaleTargetRef"], "kind": kind}
    variant = {**variant, "spec": {**variant["spec"], "scaleTargetRef": reference}}
    own = bound(pod, name="v-1", ownerReferences=controlled_by("ReplicaSet", "v"))
    training = bound(tenant("a", DEVICE, count=4)[2], **metadata)
    scale = Scale(replicas=1, spec_replicas=1, uid="u", selector="app=v")
    target = {("a", Reference(name="v", kind=kind)): scale} if kind == "ReplicaSet" else {}
    known = read((variant, workload, own), more=[training], others=target)
    assert known.refused == ()
    assert known.capacity == {DEVICE: 4}


@pytest.mark.parametrize("spec", [{"modelID": ""}, {"variantCost": "-1"}, {"scaleTargetRef": None}])
def test_who_is_not_used_keeps_its_devices(spec: Object) -> None:
    """Those of pods of an invalid variant were free for all, and its pods had them."""
    variant, workload, pod = tenant("a", DEVICE, count=6)
    odd = {**variant, "spec": {**variant["spec"], **spec}}
    known = read((odd, workload, bound(pod)), tenant(VICTIM, DEVICE, count=1))
    assert known.capacity == {DEVICE: 2}


@pytest.mark.parametrize("label", ["L40S", "unknown", "9999xH200"])
def test_a_label_does_not_free_what_pods_hold(label: str) -> None:
    """A variant whose accelerator is no GPU of the nodes was planned without devices, beside its pods."""
    variant, workload, pod = tenant("a", "", count=6, label=label)
    known = read((variant, workload, bound(pod)), tenant(VICTIM, DEVICE, count=1))
    assert known.capacity is not None
    assert known.capacity[DEVICE] == 2
    assert devices_of(known)[2] == 2


def test_devices_of_a_variants_own_pods_are_its_to_plan() -> None:
    """As before: what its replicas hold is given anew in each cycle."""
    honest = tenant(VICTIM, DEVICE, count=1)
    variant, workload, pod = tenant("a", DEVICE, count=6)
    assert read((variant, workload, bound(pod)), honest).capacity == {DEVICE: 8}
