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
