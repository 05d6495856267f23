"""Accelerators that only the labels of a cloud name."""

from __future__ import annotations

import pytest

from adapter.resources.devices import products
from tests.adapter.resources.gpu_nodes import node, take

TYPE = products.INSTANCE_TYPE


@pytest.mark.parametrize(
    ("label", "text", "product"),
    [
        (TYPE, "gx3d-160x1792x8gaudi3", "Gaudi3"),
        (TYPE, "gx3d-208x1792x8mi300x", "AMD-MI300X"),
        (TYPE, "gx3d.160x1792.8h200", "NVIDIA-H200"),
        ("nebius.com/gpu-name", "H200", "NVIDIA-H200"),
        (TYPE, "gpu-b200-sxm", "NVIDIA-B200"),
        (TYPE, "H100-SXM-8-80G", "NVIDIA-H100-80G"),
        (TYPE, "L40S-4-48G", "NVIDIA-L40S-48G"),
        (TYPE, "l40s-180", "NVIDIA-L40S"),
        (TYPE, "t1-le-90", "NVIDIA-V100-16GB"),
        (TYPE, "a100-180", "NVIDIA-A100-80GB"),
        (TYPE, "BM.GPU.MI355X-v1.8", "AMD-MI355X"),
        (TYPE, "VM.GPU.A100.40G.1", "NVIDIA-A100-40GB"),
        (TYPE, "gpu_8x_h100_sxm5", "NVIDIA-H100"),
        (TYPE, "gpu_8x_a100_80gb_sxm4", "NVIDIA-A100-80GB"),
        (TYPE, "h100-80gb-sxm-ib.8x", "NVIDIA-H100-80GB"),
        (TYPE, "ecs.ebmgn7e.32xlarge", "NVIDIA-A100-80GB"),
        (TYPE, "ecs.gn7i-c8g1.2xlarge", "NVIDIA-A10"),
        ("accelerator", "nvidia-t4", "NVIDIA-T4"),
        (TYPE, "gd-8xh100ib-i128", "NVIDIA-H100"),
        (TYPE, "gd-4xgb200-i128", "NVIDIA-GB200"),
        (TYPE, "a4x-highgpu-4g", "NVIDIA-GB200"),
        (TYPE, "a4x-maxgpu-4g-metal", "NVIDIA-GB300"),
        (TYPE, "Standard_NC128ds_xl_RTXPRO6000BSE_v6", "NVIDIA-RTX-PRO-6000"),
        ("gpu.nvidia.com/class", "H100_NVLINK_80GB", "NVIDIA-H100_80GB"),
        ("gpu.nvidia.com/model", "NVIDIA_H100_80GB_HBM3", "NVIDIA-H100_80GB_HBM3"),
        ("crusoe.ai/accelerator", "nvidia-a100-80gb-sxm-ib", "NVIDIA-A100-80GB"),
        ("crusoe.ai/accelerator", "nvidia-tesla-a40", "NVIDIA-A40"),
        ("crusoe.ai/accelerator", "amd-mi355x-288gb-roce", "AMD-MI355X-288GB"),
        ("machine.cluster.vke.volcengine.com/gpu-name", "Tesla-V100", "NVIDIA-V100"),
        ("eks.tke.cloud.tencent.com/gpu-type", "A10", "NVIDIA-A10"),
        # Parts of a GPU, and what names none.
        (TYPE, "ecs.sgn7i-vws-m2.xlarge", ""),
        (TYPE, "m5.large", ""),
        (TYPE, "b3-8", ""),
        ("accelerator", "nvidia", ""),
        ("accelerator", "fast", ""),
    ],
)
def test_a_label_of_a_cloud_names_the_product(label: str, text: str, product: str) -> None:
    """Where it determines the accelerator; anything else names nothing."""
    assert products.of_cloud({label: text}) == product


@pytest.mark.parametrize("device", ["Gaudi3", "Intel-Gaudi-3-128GB", "gaudi 3"])
def test_gaudi_by_the_instance_type(device: str) -> None:
    """Its feature discovery labels no product; prices may spell it in any way."""
    gpus = take([node(gpus={"habana.ai/gaudi": "8"}, labels={TYPE: "gx3d-160x1792x8gaudi3"})])
    assert gpus.capacity({device: "data.X"}) == ({device: 8}, ())


def test_a_node_without_such_a_label_is_refused_with_the_fix() -> None:
    """What to install is named."""
    gpus = take([node(gpus={"nvidia.com/gpu": "8"}, labels={TYPE: "b3-8"})])
    capacity, (problem,) = gpus.capacity({"NVIDIA-H100": "data.X"})
    assert capacity == {"NVIDIA-H100": 0}
    assert "install NVIDIA GPU feature discovery" in problem


@pytest.mark.parametrize(
    ("resource", "labels", "device", "count"),
    [
        ("huawei.com/Ascend910", {products.NPU_CHIP: "910B4"}, "Ascend910B4", 8),
        ("huawei.com/ascend-1980", {products.NPU_CHIP: "Ascend910C"}, "Ascend-910C", 8),
        ("huawei.com/Ascend910B3", {}, "Ascend910B3", 8),
        ("huawei.com/Ascend910", {}, "Ascend910B4", 0),
        # A part of one.
        ("huawei.com/Ascend910B4-memory", {products.NPU_CHIP: "910B4"}, "Ascend910B4", 0),
        ("huawei.com/Ascend910-2c", {products.NPU_CHIP: "910A"}, "Ascend910A", 0),
    ],
)
def test_ascend(resource: str, labels: dict[str, str], device: str, count: int) -> None:
    """By the label of the chip, else by a resource that names it; a number of a series names none."""
    gpus = take([node(gpus={resource: "8"}, labels=labels)])
    capacity, problems = gpus.capacity({device: "data.X"})
    assert capacity == {device: count}
    assert bool(problems) == (not count)
    if not labels:
        assert count or products.NPU_CHIP in problems[0]


def test_a_labelled_node_that_offers_no_gpu_is_named() -> None:
    """A device plugin that does not run there, or resource slices that are missing, are no lack of nodes."""
    labels = {"nvidia.com/gpu.product": "NVIDIA-GB200", "nvidia.com/gpu.count": "4"}
    gpus = take([node(gpus={}, labels=labels)])
    capacity, (problem,) = gpus.capacity({"NVIDIA-GB200": "data.X"})
    assert capacity == {"NVIDIA-GB200": 0}
    assert "node one: 4 nvidia.com/gpu not counted: labelled 'NVIDIA-GB200'" in problem
    assert "device plugin" in problem
    assert "ResourceSlices" in problem


def test_a_node_whose_gpus_are_slices_offers_some() -> None:
    """No word of whole ones that the node does not give besides."""
    labels = {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB", "nvidia.com/gpu.count": "1"}
    gpus = take([node(gpus={"nvidia.com/gpu": "0", "nvidia.com/mig-1g.10gb": "7"}, labels=labels)])
    assert gpus.left_out == ()
