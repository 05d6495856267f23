"""GPUs as clouds label them, shares of GPUs, and taints that the variants' pods tolerate."""

from __future__ import annotations

from typing import Any

import pytest

from adapter.resources import gpus as inventory
from adapter.resources import pods
from adapter.resources.devices import products, taints
from tests.adapter.resources.gpu_nodes import GPU, PRODUCT, Object, got, node, pod, refused, take

H100 = "NVIDIA-H100-80GB-HBM3"
A100 = "NVIDIA-A100-SXM4-80GB"
RTX_PRO = "NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition"
GKE, SHARING = "cloud.google.com/gke-accelerator", "cloud.google.com/gke-gpu-sharing"
SLICED = "cloud.google.com/gke-gpu-partition-size"
TYPE, FLEX = "node.kubernetes.io/instance-type", "gpu.intel.com/product"


@pytest.mark.parametrize(
    ("labels", "device"),
    [
        ({"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}, H100),
        ({"cloud.google.com/gke-accelerator": "nvidia-tesla-t4"}, "Tesla-T4"),
        ({"cloud.google.com/gke-accelerator": "nvidia-l4"}, "NVIDIA-L4"),
        (
            {
                "karpenter.k8s.aws/instance-gpu-name": "h100",
                "karpenter.k8s.aws/instance-gpu-memory": "81559",
            },
            H100,
        ),
        ({"eks.amazonaws.com/instance-gpu-name": "l40s"}, "NVIDIA-L40S"),
        ({"k8s.amazonaws.com/accelerator": "nvidia-tesla-v100"}, "Tesla-V100-SXM2-16GB"),
        ({"karpenter.azure.com/sku-gpu-name": "A100"}, A100),
        ({"gpu.nvidia.com/class": "A100_NVLINK_80GB"}, A100),
        ({"gpu.nvidia.com/model": "H200"}, "NVIDIA-H200"),
        ({"node.kubernetes.io/instance-type": "Standard_NC24ads_A100_v4"}, "NVIDIA-A100-PCIE-80GB"),
        ({"node.kubernetes.io/instance-type": "Standard_ND96isr_H100_v5"}, "H100"),
        ({"node.kubernetes.io/instance-type": "Standard_NC24s_v3"}, "Tesla-V100-PCIE-16GB"),
        ({"node.kubernetes.io/instance-type": "Standard_ND96asr_v4"}, "NVIDIA-A100-SXM4-40GB"),
        ({"node.kubernetes.io/instance-type": "p5.48xlarge"}, H100),
        ({"node.kubernetes.io/instance-type": "p5en.48xlarge"}, "NVIDIA-H200"),
        ({"node.kubernetes.io/instance-type": "p4d.24xlarge"}, "NVIDIA-A100-SXM4-40GB"),
        ({"node.kubernetes.io/instance-type": "p4de.24xlarge"}, A100),
        ({"node.kubernetes.io/instance-type": "p6-b200.48xlarge"}, "NVIDIA-B200"),
        ({"node.kubernetes.io/instance-type": "g4dn.12xlarge"}, "Tesla-T4"),
        ({"node.kubernetes.io/instance-type": "g5.48xlarge"}, "NVIDIA-A10G"),
        ({"node.kubernetes.io/instance-type": "g6.12xlarge"}, "NVIDIA-L4"),
        ({"node.kubernetes.io/instance-type": "g6e.12xlarge"}, "NVIDIA-L40S"),
        ({"cloud.google.com/gke-accelerator": "nvidia-h100-mega-80gb"}, H100),
        ({TYPE: "a3-megagpu-8g"}, H100),
        ({TYPE: "a2-ultragpu-2g"}, A100),
        ({TYPE: "g2-standard-48"}, "NVIDIA-L4"),
        ({TYPE: "VM.GPU.A10.1"}, "NVIDIA-A10"),
        ({TYPE: "BM.GPU.H100.8"}, H100),
        ({TYPE: "BM.GPU.L40S-NC.4"}, "NVIDIA-L40S"),
        ({TYPE: "BM.GPU4.8"}, "NVIDIA-A100-SXM4-40GB"),
        ({TYPE: "BM.GPU.B4.8"}, "NVIDIA-A100-SXM4-40GB"),
        ({TYPE: "BM.GPU.A100-v2.8"}, A100),
        ({TYPE: "gx3-64x320x4l4"}, "NVIDIA-L4"),
        ({TYPE: "gx3d.160x1792.8h100"}, H100),
        ({"cloud.google.com/gke-accelerator": "nvidia-tesla-a100"}, "NVIDIA-A100-SXM4-40GB"),
        ({"cloud.google.com/gke-accelerator": "nvidia-rtx-pro-6000"}, RTX_PRO),
        ({TYPE: "g7e.48xlarge"}, RTX_PRO),
        ({TYPE: "g4-standard-384"}, RTX_PRO),
        ({TYPE: "Standard_NC40ads_H100_v5"}, "NVIDIA-H100-NVL"),
        ({TYPE: "Standard_ND96amsr_A100_v4"}, A100),
        ({"doks.digitalocean.com/gpu-model": "h100"}, H100),
        ({"aliyun.accelerator/nvidia_name": "Tesla-V100-SXM2-16GB"}, "Tesla-V100-SXM2-16GB"),
    ],
)
def test_products_by_the_labels_of_clouds(labels: dict[str, str], device: str) -> None:
    """Without feature discovery the cloud's label names the GPU, and says less than the vendor's."""
    assert got(take([node(labels=labels)]), device) == {device: 8}


@pytest.mark.parametrize(
    ("labels", "device"),
    [
        ({"cloud.google.com/gke-accelerator": "nvidia-tesla-a100"}, "NVIDIA-A100-SXM4-80GB"),
        ({TYPE: "Standard_NC24ads_A100_v4"}, "NVIDIA-A100-SXM4-40GB"),
        ({TYPE: "Standard_NC40ads_H100_v5"}, "NVIDIA-H100-80GB-HBM3"),
        ({TYPE: "g7e.48xlarge"}, "NVIDIA-RTX-6000-Ada-Generation"),
        ({TYPE: "g7e.48xlarge"}, "NVIDIA-RTX-6000"),
    ],
)
def test_clouds_name_one_size_and_chip(labels: dict[str, str], device: str) -> None:
    """The other size of an A100, another form of an H100, and another chip of the same number."""
    assert take([node(labels=labels)]).capacity({device: "costs"})[0] == {device: 0}


@pytest.mark.parametrize(
    ("labels", "allocatable", "whole"),
    [
        ({"nvidia.com/gpu.replicas": "4"}, 32, 0),
        ({"nvidia.com/gpu.replicas": "4"}, 8, 8),
        ({"nvidia.com/gpu.replicas": "1"}, 8, 8),
        ({}, 32, 0),
    ],
)
def test_gpus_given_several_times_are_no_whole_ones(
    labels: dict[str, str], allocatable: int, whole: int
) -> None:
    """Whatever version of feature discovery says so, or none: more than there are cards are shares."""
    given = {PRODUCT: H100, "nvidia.com/gpu.count": "8", **labels}
    gpus = take([node(gpus=str(allocatable), labels=given)])
    assert gpus.capacity({H100: "costs"})[0] == {H100: whole}


@pytest.mark.parametrize("product", ["GRID-A100-10C", "NVIDIA-A100-40C", "NVIDIA-A100-1-5C"])
def test_a_vgpu_is_no_gpu_of_its_chip(product: str) -> None:
    """In a virtual machine the product has memory and kind of the vGPU: a part of one, under its name."""
    gpus = take([node(gpus="1", labels={PRODUCT: product})])
    assert got(gpus, product) == {product: 1}
    assert gpus.capacity({"A100": "costs"})[0] == {"A100": 0}
    assert gpus.counted_as([], ["A100"]) == {}
    assert not products.alike("NVIDIA-A100", product)


@pytest.mark.parametrize("device", ["NVIDIA-H200", "NVIDIA-H100-94GB", f"{H100}-MIG-1g.10gb"])
def test_clouds_do_not_make_one_gpu_another(device: str) -> None:
    """Another chip, another size, and a slice are none of it."""
    labels = {
        "karpenter.k8s.aws/instance-gpu-name": "h100",
        "karpenter.k8s.aws/instance-gpu-memory": "81559",
    }
    assert len(refused(take([node(labels=labels)]), device)) == 1


def test_a_size_on_both_sides_is_enough() -> None:
    """The spelling of WVA's ConfigMap, which has no OAM, means the GPU of that chip and size."""
    labels = {"amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM", "amd.com/gpu.vram": "192G"}
    item = node(gpus={"amd.com/gpu": "8"}, labels=labels)
    assert got(take([item]), "AMD-MI300X-192GB") == {"AMD-MI300X-192GB": 8}
    assert len(refused(take([item]), "AMD-MI300X-128GB", "AMD-MI300X", "AMD-MI325X-192GB")) == 3


def test_the_vendors_label_comes_first() -> None:
    """With feature discovery there is nothing to guess from the cloud's label."""
    labels = {PRODUCT: H100, "cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}
    assert got(take([node(labels=labels)]), H100) == {H100: 8}
    assert len(refused(take([node(labels=labels)]), "NVIDIA-H100-80GB")) == 1


@pytest.mark.parametrize(
    ("allocatable", "labels", "type_", "count"),
    [
        ({GPU: "80", "nvidia.com/gpumem": "1", "nvidia.com/gpucores": "800"},
         {PRODUCT: A100, f"{GPU}.count": "8", f"{GPU}.replicas": "1"}, f"{A100}-SHARED", 80),
        ({GPU: "80", "nvidia.com/gpumem": "655360", "nvidia.com/gpucores": "800"},
         {PRODUCT: A100}, f"{A100}-SHARED", 80),
        ({GPU: "8", "nvidia.com/gpumem": "1", "nvidia.com/gpucores": "800"},
         {PRODUCT: A100}, A100, 8),
        ({GPU: "0", f"{GPU}.shared": "50"},
         {PRODUCT: "Tesla-T4", f"{GPU}.count": "1", f"{GPU}.replicas": "1"}, "Tesla-T4-SHARED", 50),
        ({GPU: "12"}, {PRODUCT: "Tesla-T4-SHARED", f"{GPU}.count": "1", f"{GPU}.replicas": "1",
                       f"{GPU}.sharing-strategy": "time-slicing"}, "Tesla-T4-SHARED", 12),
        ({"volcano.sh/vgpu-number": "20"}, {PRODUCT: "Tesla-V100"}, "Tesla-V100-SHARED", 20),
        ({"nvidia.com/vgpu": "20"}, {PRODUCT: "Tesla-V100"}, "Tesla-V100-SHARED", 20),
        ({GPU: "4"}, {GKE: "nvidia-l4", f"{SHARING}-strategy": "time-sharing"}, "NVIDIA-L4-SHARED", 4),
        ({GPU: "4"}, {PRODUCT: "NVIDIA-L4", f"{SHARING}-strategy": "mps"}, "NVIDIA-L4-SHARED", 4),
        ({GPU: "7"}, {GKE: "nvidia-h100-80gb", SLICED: "1g.10gb"}, "NVIDIA-H100-80GB-MIG-1g.10gb", 7),
        ({GPU: "1"}, {TYPE: "Standard_NV12ads_A10_v5"}, "NVIDIA-A10-SHARED", 1),
        ({GPU: "1"}, {TYPE: "g6f.large"}, "NVIDIA-L4-SHARED", 1),
        ({"gpu.intel.com/i915": "20"}, {FLEX: "Flex_170", "gpu.intel.com/cards": "card0.card1"},
         "Flex_170-SHARED", 20),
    ],
)  # fmt: skip
def test_shares_are_never_whole_gpus(
    allocatable: dict[str, str], labels: dict[str, str], type_: str, count: int
) -> None:
    """Shares and slices are a type of their own, whatever the count says: HAMi, Volcano, clouds."""
    assert take([node(gpus=allocatable, labels=labels)]).total == {type_: count}


@pytest.mark.parametrize(
    ("resource", "labels", "type_"),
    [
        ("habana.ai/gaudi", {"habana.ai/product.name": "Gaudi2"}, "Gaudi2"),
        ("habana.ai/gaudi", {"habana.ai/gpu.product": "HL-325L"}, "HL-325L"),
        ("habana.ai/gaudi", {TYPE: "dl1.24xlarge"}, "Gaudi"),
        ("gpu.intel.com/i915", {FLEX: "Max_1550"}, "Max_1550"),
        ("gpu.intel.com/xe", {FLEX: "B60"}, "B60"),
        ("amd.com/gpu", {TYPE: "Standard_ND96isr_MI300X_v5"}, "AMD-MI300X"),
        ("amd.com/gpu", {TYPE: "BM.GPU.MI300X.8"}, "AMD-MI300X"),
        ("amd.com/gpu", {"doks.digitalocean.com/gpu-model": "mi325x"}, "AMD-MI325X"),
    ],
)
def test_gpus_of_other_vendors(resource: str, labels: dict[str, str], type_: str) -> None:
    """By their own labels, or the type of the instance; never by another vendor's."""
    assert take([node(gpus={resource: "8"}, labels=labels)]).total == {type_: 8}
    assert take([node(gpus={resource: "8"}, labels={GKE: "nvidia-l4"})]).total == {}


def test_an_annotation_of_hami_is_enough() -> None:
    """Where the scheduler extender keeps memory and cores for itself, the annotation tells of the split."""
    item = node(gpus="80", labels=A100)
    item["metadata"]["annotations"] = {"hami.io/node-nvidia-register": "GPU-1,10,81920,100"}
    assert take([item]).total == {f"{A100}-SHARED": 80}


AKS = [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}]


def tolerating(*tolerations: Object) -> Object:
    item = pod("v", 1)
    item["spec"]["tolerations"] = list(tolerations)
    return item


@pytest.mark.parametrize(
    ("toleration", "free"),
    [
        ({"key": "sku", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"}, 8),
        ({"key": "sku", "value": "gpu"}, 8),
        ({"key": "sku", "operator": "Exists"}, 8),
        ({"operator": "Exists"}, 8),
        ({"key": "sku", "value": "cpu"}, 0),
        ({"key": "sku", "value": "gpu", "effect": "NoExecute"}, 0),
        ({"key": "node.kubernetes.io/not-ready", "operator": "Exists"}, 0),
        ({"key": "sku", "operator": "Exists", "tolerationSeconds": 300}, 0),
        ({"key": "sku", "operator": "Gt", "value": "gpu"}, 0),
    ],
)
def test_taints_that_the_pods_tolerate(toleration: Object, free: int) -> None:
    """A pool with a taint is the variants' where one of their pods tolerates it, as the scheduler does."""
    gpus = take([node(taints=AKS)], [tolerating(toleration)], "v")
    assert sum(gpus.free.values()) == free
    assert [str(item).rpartition(": ")[2] for item in gpus.left_out] == (
        [] if free else ["tainted by sku=gpu"]
    )
    others = take([node(taints=AKS)], [tolerating(toleration)])
    assert sum(others.free.values()) == 0


def test_the_taint_that_blocks_is_named() -> None:
    """Of two taints only the one that no pod tolerates; a template counts before there is a pod."""
    both: list[Any] = [*AKS, {"key": "spot", "effect": "NoExecute"}]
    tolerations = taints.of_pod({"tolerations": [{"key": "sku", "operator": "Exists"}]})
    gpus = inventory.take([inventory.trimmed(node(taints=both))], [], tolerations=[tolerations])
    assert [item.why for item in gpus.left_out] == ["tainted by spot"]
    gpus = inventory.take([inventory.trimmed(node(taints=AKS))], [], tolerations=[tolerations])
    assert sum(gpus.free.values()) == 8


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ({"nodeSelector": {PRODUCT: H100}}, (H100,)),
        ({"nodeSelector": {"cloud.google.com/gke-accelerator": "nvidia-l4"}}, ("NVIDIA-L4",)),
        (
            {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [
                    {"key": PRODUCT, "operator": "In", "values": [H100, A100]},
                    {"key": "zone", "operator": "In", "values": ["a"]},
                    {"key": PRODUCT, "operator": "NotIn", "values": ["Tesla-T4"]},
                ]}]}}}},
            (H100, A100),
        ),
        ({}, ()),
    ],
)  # fmt: skip
def test_products_that_pods_ask_for(spec: Object, named: tuple[str, ...]) -> None:
    """By node selector or required affinity, each once."""
    assert products.of_pod(spec) == named
    assert pods.trimmed({"spec": spec})["products"] == named
