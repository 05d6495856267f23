"""TPUs of GKE and Neuron devices of AWS: what nodes have, what pods hold, and what they are called."""

from __future__ import annotations

import pytest

from adapter.resources import gpus, pods
from adapter.resources.devices import dra, products
from adapter.resources.serving import ports
from tests.adapter.resources.gpu_nodes import Object, got, node, pod, refused, taint, take

TPU, NEURON = "google.com/tpu", "aws.amazon.com/neuron"
ACCELERATOR, TOPOLOGY = "cloud.google.com/gke-tpu-accelerator", "cloud.google.com/gke-tpu-topology"
TYPE, KARPENTER = "node.kubernetes.io/instance-type", "karpenter.k8s.aws/instance-accelerator-name"


def tpus(name: str = "one", topology: str = "2x4", number: str = "8") -> Object:
    """A node of a pool with TPU v6e, with the taint that GKE sets."""
    labels = {ACCELERATOR: "tpu-v6e-slice", TOPOLOGY: topology}
    return node(name, {TPU: number}, labels, taints=[taint(TPU)])


def inferentia(name: str = "one", **labels: str) -> Object:
    """A node of inf2.48xlarge: 12 devices of 2 cores, under all resources of the plugin."""
    given = {NEURON: "12", f"{NEURON}device": "12", f"{NEURON}core": "24"}
    return node(name, given, {TYPE: "inf2.48xlarge", **labels}, taints=[taint(NEURON)])


@pytest.mark.parametrize("asked", ["tpu-v6e-slice-2x4", "tpu-v6e", "TPU v6e", "tpu-v6e-2x4"])
def test_tpus_are_counted_by_chip_and_topology(asked: str) -> None:
    """Of all spellings of the chip; those of another topology are none for a pod that selects one."""
    assert take([tpus(), tpus("two")]).total == {"tpu-v6e-slice-2x4": 16}
    assert got(take([tpus()], [pod("x", 4, resource=TPU)]), asked) == {asked: 4}


def test_chips_of_two_topologies_are_two_types() -> None:
    """The one that is meant has to be written."""
    both = take([tpus(), tpus("two", "2x2", "4")])
    assert both.total == {"tpu-v6e-slice-2x2": 4, "tpu-v6e-slice-2x4": 8}
    assert "may be tpu-v6e-slice-2x2 or tpu-v6e-slice-2x4" in refused(both, "tpu-v6e")[0]
    assert got(both, "tpu-v6e-2x2") == {"tpu-v6e-2x2": 4}


@pytest.mark.parametrize(
    ("label", "asked"),
    [("tpu-v5-lite-podslice", "tpu-v5e"), ("tpu-v5p-slice", "tpu-v5p"), ("tpu7x", "tpu-v7x")],
)
def test_generations_by_googles_labels_and_by_their_names(label: str, asked: str) -> None:
    """A label's word for a chip is often another than its name."""
    assert got(take([node("n", {TPU: "4"}, {ACCELERATOR: label})]), asked) == {asked: 4}
    assert refused(take([node("n", {TPU: "4"}, {ACCELERATOR: label})]), "tpu-v4")


@pytest.mark.parametrize(
    ("labels", "product"),
    [
        ({TYPE: "inf2.xlarge"}, "AWS-Inferentia2"),
        ({TYPE: "inf1.6xlarge"}, "AWS-Inferentia"),
        ({TYPE: "trn1n.32xlarge"}, "AWS-Trainium"),
        ({TYPE: "trn2u.48xlarge"}, "AWS-Trainium2"),
        ({KARPENTER: "trainium"}, "AWS-Trainium"),
        # Karpenter called all of them so at first: the type is surer.
        ({KARPENTER: "inferentia", TYPE: "trn1.2xlarge"}, "AWS-Trainium"),
    ],
)
def test_neuron_devices_by_instance_type(labels: dict[str, str], product: str) -> None:
    """No label names them elsewhere."""
    assert take([node("n", {NEURON: "1"}, labels)]).total == {product: 1}
    short = product.removeprefix("AWS-")
    assert got(take([node("n", {NEURON: "1"}, labels)]), short) == {short: 1}


@pytest.mark.parametrize(
    ("resource", "held", "free"),
    [("neuron", 3, 9), ("neurondevice", 3, 9), ("neuroncore", 4, 10), ("neuroncore", 5, 9)],
)
def test_a_neuron_device_counts_once_whatever_it_is_held_by(
    resource: str, held: int, free: int
) -> None:
    """The plugin gives devices and their cores at once: who holds a core holds its device."""
    gpus = take([inferentia()], [pod("x", held, resource=f"aws.amazon.com/{resource}")])
    assert gpus.total == {"AWS-Inferentia2": 12}
    assert gpus.free == {"AWS-Inferentia2": free}
    ours = take([inferentia()], [pod("x", held, resource=f"aws.amazon.com/{resource}")], "x")
    assert ours.free == {"AWS-Inferentia2": 12}


def test_cores_alone_are_a_type_of_their_own() -> None:
    """Where a node says no devices, and of an older plugin the older name."""
    cores = node("n", {f"{NEURON}core": "4"}, {TYPE: "inf2.xlarge"})
    assert take([cores]).total == {"AWS-Inferentia2-CORE": 4}
    assert refused(take([cores]), "AWS-Inferentia2")
    alias = node("n", {f"{NEURON}device": "2"}, {TYPE: "inf2.xlarge"})
    assert take([alias], [pod("x", 1, on="n", resource=f"{NEURON}device")]).free == {
        "AWS-Inferentia2": 1
    }


def test_what_has_no_name_is_said() -> None:
    """With the label that is missing, and no list of names where there are none."""
    for resource, label in ((TPU, ACCELERATOR), (NEURON, TYPE)):
        (said,) = refused(take([node("n", {resource: "4"}, {})]), "X1")
        assert f"node n: 4 {resource} not counted: no {label} label" in said
        assert "write one of these" not in said


def test_what_a_pod_asks_for() -> None:
    """Product by its node selector, devices by its requests, and the server among its containers."""
    selected = {ACCELERATOR: "tpu-v5-lite-podslice", TOPOLOGY: "2x2"}
    held = {"resources": {"limits": {TPU: "4"}}, "ports": [{"containerPort": 8000}]}
    beside = {"name": "log", "ports": [{"containerPort": 24224}]}
    spec = {"nodeSelector": selected, "containers": [beside, {"name": "x", **held}]}
    assert products.of_pod(spec) == ("tpu-v5-lite-podslice-2x2",)
    assert pods.gpus_of(spec) == 4
    assert ports.of_pod(spec)[0] == (8000,)
    for resource, whole in ((NEURON, 4), (f"{NEURON}device", 4), (f"{NEURON}core", 0)):
        assert pods.gpus_of({"containers": [{"resources": {"limits": {resource: 4}}}]}) == whole


def chips(number: int, held: int, **labels: str) -> gpus.Inventory:
    """A node whose v6e chips Google's driver publishes; a claim of another's pod holds some."""
    devices = [
        {"name": f"accel{at}", "attributes": {"tpuGen": {"string": "v6e"}}} for at in range(number)
    ]
    pool = {"name": "one", "generation": 1}
    published = {"driver": "tpu.google.com", "nodeName": "one", "pool": pool, "devices": devices}
    results = [
        {"driver": "tpu.google.com", "pool": "one", "device": f"accel{at}"} for at in range(held)
    ]
    claim = {
        "metadata": {"namespace": "n", "name": "c"},
        "status": {
            "allocation": {"devices": {"results": results}},
            "reservedFor": [{"resource": "pods", "name": "other"}],
        },
    }
    allocation = dra.allocation(
        [dra.trimmed_slice({"metadata": {"name": "one"}, "spec": published})],
        [dra.trimmed_claim(claim)],
    )
    return gpus.take(
        [gpus.trimmed(node("one", {}, labels))],
        [],
        variant_pods=frozenset(),
        allocation=allocation,
    )


@pytest.mark.parametrize(
    ("labels", "product"),
    [
        ({ACCELERATOR: "tpu-v6e-slice", TOPOLOGY: "2x2"}, "tpu-v6e-slice-2x2"),
        ({}, "tpu-v6e"),
    ],
    ids=["on GKE", "elsewhere"],
)
def test_tpus_of_the_driver_for_dynamic_resource_allocation(
    labels: dict[str, str], product: str
) -> None:
    """Named as with the device plugin where the node's labels say more than the chip does."""
    assert chips(4, 0, **labels).total == {product: 4}
    assert got(chips(4, 1, **labels), "tpu-v6e") == {"tpu-v6e": 3}
