"""Names of GPU products: when two mean the same, and where pods and nodes state them.

GPU feature discovery and AMD's labeller name products; where they are absent, clouds do:
`cloud.google.com/gke-accelerator: nvidia-h100-80gb`, `karpenter.k8s.aws/instance-gpu-name: h100`,
`node.kubernetes.io/instance-type: Standard_NC24ads_A100_v4`. TPUs and AWS's Neuron devices have such alone:
`cloud.google.com/gke-tpu-accelerator: tpu-v6e-slice`, `node.kubernetes.io/instance-type: inf2.48xlarge`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

LEAST_SEEN, MOST_SEEN = 0.9, 1.02
"""Memory that a driver sees, in shares of the size in a GPU's name: 15 GiB of a T4 with 16 GB."""

GPU_VENDORS = (
    "nvidia.com/gpu",
    "nvidia.com/mig-",
    "nvidia.com/vgpu",
    "volcano.sh/vgpu",
    "amd.com/gpu",
    "amd.com/spx_",
    "amd.com/dpx_",
    "amd.com/tpx_",
    "amd.com/qpx_",
    "amd.com/cpx_",
    "gpu.intel.com/",
    "intel.com/gpu",
    "habana.ai/",
    "google.com/tpu",
    "aws.amazon.com/neuron",
    "huawei.com/",
)
"""Beginnings of resources that are accelerators, or slices and shares of one.

NVIDIA's and AMD's operators give network cards under their names too: `nvidia.com/hostdev`, `amd.com/vnic`.
"""

LABELS = (
    "nvidia.com/gpu.product",
    "amd.com/gpu.product-name",
    "beta.amd.com/gpu.product-name",
    "amd.com/gpu.product",
    "gpu.intel.com/product",
    "intel.com/gpu.product",
    "habana.ai/product.name",
)
"""Labels with a product, of vendors."""

CLOUD_LABELS = (
    "cloud.google.com/gke-accelerator",
    "karpenter.k8s.aws/instance-gpu-name",
    "eks.amazonaws.com/instance-gpu-name",
    "k8s.amazonaws.com/accelerator",
    "karpenter.azure.com/sku-gpu-name",
    "gpu.nvidia.com/class",
    "gpu.nvidia.com/model",
    "doks.digitalocean.com/gpu-model",
    "aliyun.accelerator/nvidia_name",
    "nebius.com/gpu-name",
    "skypilot.co/accelerator",
    "crusoe.ai/accelerator",
    "machine.cluster.vke.volcengine.com/gpu-name",
    "eks.tke.cloud.tencent.com/gpu-type",
)
"""Labels with a product, of Google, AWS, Azure, CoreWeave, DigitalOcean, Alibaba, Nebius, SkyPilot, Crusoe,
Volcengine and Tencent."""

_CONNECTED = re.compile(r"_NVLINK|(?:-SXM)?-(?:IB|ROCE)$|-SXM$|-NVL-IB$")
"""What clouds add of how the GPUs of a node are connected, which no profile does."""

CCE_ACCELERATOR = "accelerator"
"""Label of Huawei's nodes with GPUs, such as `nvidia-t4`; others may say anything by a label of this name."""
_CCE_FORM = re.compile(r"nvidia-(?:tesla-)?[a-z]{1,4}\d\w*")

NPU = r"huawei\.com/(?:Ascend910|ascend-1980|npu|(?P<chip>Ascend910[ABC]\d?|Ascend310\w?))"
"""Resources that are whole Ascend NPUs."""
NPU_CHIP = "node.kubernetes.io/npu.chip.name"
"""Label of nodes with Ascend NPUs, such as `910B4`."""

CLOUD_MEMORIES = (
    "karpenter.k8s.aws/instance-gpu-memory",
    "eks.amazonaws.com/instance-gpu-memory",
)
"""Labels with the memory of one GPU in MiB, of clouds."""

INSTANCE_TYPE = "node.kubernetes.io/instance-type"

GKE_SHARING = "cloud.google.com/gke-gpu-sharing-strategy"
GKE_PARTITION = "cloud.google.com/gke-gpu-partition-size"
"""Labels of GKE's nodes whose GPUs are given in shares, and as MIG slices."""

GKE_TPU, GKE_TOPOLOGY = "cloud.google.com/gke-tpu-accelerator", "cloud.google.com/gke-tpu-topology"
"""Labels of GKE's nodes with TPUs, whose pods select both: chips of another topology are none for them."""

KARPENTER_NEURON = "karpenter.k8s.aws/instance-accelerator-name"
"""Label of AWS's nodes with Neuron devices; older versions write `inferentia` for all of them."""

READ_LABELS = (
    *CLOUD_LABELS,
    *CLOUD_MEMORIES,
    INSTANCE_TYPE,
    GKE_SHARING,
    GKE_PARTITION,
    GKE_TPU,
    GKE_TOPOLOGY,
    KARPENTER_NEURON,
    CCE_ACCELERATOR,
    NPU_CHIP,
)
"""All labels of clouds that are read."""

MOST_PRODUCTS = 64
"""Most products that are read of a pod."""

_SIZE = re.compile(r"(\d+)g(?:i?b)?")
_VENDORS = frozenset({"nvidia", "amd", "intel", "instinct", "tesla", "geforce", "aws", "google"})
_CHIP = re.compile(r"[a-z]{1,4}\d+[a-z]*|\d+[a-z]+|\d{4}|(?:inferentia|trainium|gaudi)\d?")
_ASCEND_SPELLING = re.compile(r"\bascend[\s_-](?=\d)")
_GAUDI_SPELLING = re.compile(r"\bgaudi[\s_-]?(?=\d\b)")
_TPU_SPELLINGS = ((re.compile(r"\bv5-?lite\b"), "v5e"), (re.compile(r"\btpu-?(?=v?\d)v?"), "tpu-v"))
"""Google's names of TPUs in labels (`tpu-v5-lite-podslice`, `tpu7x`), and what the chips are called."""
_PARTS = frozenset({"mig", "shared", "vgpu", "pro", "ada", "ti", "super"})
"""Words that make another thing of a chip: parts of one, and other chips of the same number."""
_VGPU = re.compile(r"\d{1,3}[abcq]")
"""Words of NVIDIA's vGPUs with the memory and the kind of one, such as `A100-10C` and `L40S-12Q`."""
_AZURE = re.compile(
    r"Standard_N\w*?_(A100|H100|H200|A10|T4|V100|MI300X|GB200|GB300)_", re.IGNORECASE
)

_INSTANCES = {
    r"Standard_NC\d+r?s_v3|Standard_ND\d+rs_v2": "V100",
    r"Standard_ND\d+asr_v4": "A100-40GB",
    r"Standard_N(?:C\d+ads|D\d+amsr)_A100_v4": "A100-80GB",
    r"Standard_NC\d+adis?_H100_v5|Standard_NCC?\d+ads?_H100_v5": "H100-NVL",
    r"Standard_ND\d+isr_H100_v5": "H100-80GB",
    r"Standard_NC[0-9a-z]+(?:_[a-z]+)?_RTXPRO6000[a-z]*_v6": "RTX-PRO-6000",
    r"g4dn\..*": "T4",
    r"g5\..*": "A10G",
    r"g5g\..*": "T4G",
    r"g7e\..*": "RTX-PRO-6000",
    r"gr?6f?\..*": "L4",
    r"g6e\..*": "L40S",
    r"p3\..*": "V100-16GB",
    r"p3dn\..*": "V100-32GB",
    r"p4d\..*": "A100-40GB",
    r"p4de\..*": "A100-80GB",
    r"p5\..*": "H100-80GB",
    r"p5en?\..*": "H200",
    r"dl1\..*": "Gaudi",
    r"inf1\..*": "AWS-Inferentia",
    r"inf2\..*": "AWS-Inferentia2",
    r"trn1n?\..*": "AWS-Trainium",
    r"trn2u?\..*": "AWS-Trainium2",
    r"trn3\w*\..*": "AWS-Trainium3",
    r"BM\.GPU(?:4|\.B4)\.\d+": "A100-40GB",
    r"BM\.GPU\.A100-v2\.\d+": "A100-80GB",
    r"VM\.GPU\.A100\.B?40G\.\d+": "A100-40GB",
    r"VM\.GPU\.A100\.80G\.\d+": "A100-80GB",
    r"(?:VM|BM)\.GPU3\.\d+": "V100-16GB",
    r"a2-(?:high|mega)gpu-\d+g": "A100-40GB",
    r"a2-ultragpu-\d+g": "A100-80GB",
    r"a3-(?:high|mega|edge)gpu-\d+g": "H100-80GB",
    r"a3-ultragpu-\d+g": "H200",
    r"a4-highgpu-\d+g": "B200",
    r"a4x-highgpu-\d+g": "GB200",
    r"a4x-maxgpu-\d+g(?:-metal)?": "GB300",
    r"g2-standard-\d+": "L4",
    r"g4-standard-\d+": "RTX-PRO-6000",
    r"ecs\.(?:ebm)?gn6i\W.*": "T4",
    r"ecs\.(?:ebm)?gn6v\W.*": "V100-16GB",
    r"ecs\.(?:ebm)?gn6e\W.*": "V100-32GB",
    r"ecs\.(?:ebm)?gn7i\W.*": "A10",
    r"ecs\.(?:ebm)?gn7\W.*": "A100-40GB",
    r"ecs\.(?:ebm)?gn7e\W.*": "A100-80GB",
    r"gpu_\d+x_a100(?:_sxm4)?": "A100-40GB",
    r"gpu_\d+x_a100_80gb\w*": "A100-80GB",
    r"a100-(?:le-)?\d+": "A100-80GB",
    r"t1-(?:le-)?\d+": "V100-16GB",
    r"t2-(?:le-)?\d+": "V100S",
}
"""Accelerators by instance types whose names do not have them, or not which size: of Azure, AWS, Oracle,
Google, Alibaba, Lambda and OVH."""
_IN_TYPE = re.compile(
    r"p6e?-(\w+)\.|(?:VM|BM)\.GPU\.([A-Z]{1,3}\d+[A-Z]*)(?:-(?:NC|v\d))?\.\d"
    r"|gx\dd?[-.]\d+x\d+[x.](?:\d+x?)?([ahlv]\d+s?|gaudi\d|mi\d{3}x)\b"
    # CoreWeave, Nebius, Lambda, OVH, Crusoe, and Scaleway, which has the size too: `H100-SXM-2-80G`.
    r"|gd-\d+x([abghl]{1,2}\d+s?)(?:ib)?(?:-\w+)*$"
    r"|gpu-([abghl]\d+s?)-[a-z]+$|gpu_\d+x_([abghl]{1,2}\d+s?)(?:_\w+)?$|([ahl]\d+s?)-(?:le-)?\d{2,4}$"
    r"|([abghl]\d+s?|mi\d{3}x)-(\d+gb)(?:-[a-z]+)*\.\d+x$|([ABHL]\d+S?)(?:-SXM)?-\d-(\d+G)$"
)
"""Types with the accelerator in their name, of AWS, Oracle, IBM and others."""

_GKE_SIZES = {"nvidia-tesla-a100": "A100-40GB"}
"""Google's names of accelerators that leave out the memory, which is that of the first size."""

NAMES_KEPT = 16_384
"""Names whose words are kept: each variant's product is compared with the device of each price."""

_FRACTION = re.compile(r"Standard_NV(?:6|12|18)ads_A10_v5|gr?6f\..*", re.IGNORECASE)
"""Instance types with a part of a GPU."""


@functools.lru_cache(maxsize=NAMES_KEPT)
def spelt(name: str) -> tuple[tuple[str, ...], int | None]:
    """The words of a name without the size of the memory, and that size in GB."""
    text = name.strip().casefold()
    for form, usual in _TPU_SPELLINGS if "tpu" in text else ():
        text = form.sub(usual, text)
    text = _ASCEND_SPELLING.sub("ascend", _GAUDI_SPELLING.sub("gaudi", text))
    words = re.split(r"[\s_-]+", text)
    sizes = [int(size[1]) for word in words if (size := _SIZE.fullmatch(word))]
    if len(sizes) != 1:
        return tuple(words), None
    return tuple(word for word in words if not _SIZE.fullmatch(word)), sizes[0]


def same(device: str, product: str, memory_gib: float | None = None) -> bool:
    """Whether a device type may mean a product, spelt otherwise: case, blanks, and memory."""
    (words, size), (have, has) = spelt(device), spelt(product)
    return words == have and _sizes_agree(size, has, memory_gib)


def of_one_size(device: str, product: str, memory_gib: float | None) -> bool:
    """Whether two names are alike and of one size, such as `AMD-MI300X-192GB` with 192 GiB."""
    sized = spelt(device)[1] is not None and memory_gib is not None
    return sized and alike(device, product, memory_gib)


def chips(name: str) -> frozenset[str]:
    """The words of a name that are a chip's; names are alike only where they share one."""
    return frozenset(word for word in spelt(name)[0] if _CHIP.fullmatch(word)) - _VENDORS


def alike(device: str, product: str, memory_gib: float | None = None) -> bool:
    """Whether one of two names says less of the same chip: `H100` of `NVIDIA-H100-80GB-HBM3`."""
    (words, size), (have, has) = spelt(device), spelt(product)
    left, right = set(words) - _VENDORS, set(have) - _VENDORS
    if _parts(left) != _parts(right) or not (left <= right or right <= left):
        return False
    if not any(_CHIP.fullmatch(word) for word in left & right):
        return False
    return (
        size is None or (has is None and memory_gib is None) or _sizes_agree(size, has, memory_gib)
    )


def _parts(words: set[str]) -> set[str]:
    return {word for word in words if word in _PARTS or _VGPU.fullmatch(word)}


def _sizes_agree(size: int | None, has: int | None, memory_gib: float | None) -> bool:
    if size == has:
        return True
    if size is None or memory_gib is None:
        return False
    return LEAST_SEEN * size <= memory_gib <= MOST_SEEN * size


def of_cloud(labels: Mapping[str, str]) -> str:
    """Product of a node by the labels of its cloud; empty where they say nothing."""
    if GKE_TPU in labels:
        return "-".join(filter(None, (labels[GKE_TPU], labels.get(GKE_TOPOLOGY))))
    name = next(filter(None, (labels.get(label) for label in CLOUD_LABELS)), "")
    stated = labels.get(CCE_ACCELERATOR, "")
    name = name or _of_instance(labels.get(INSTANCE_TYPE, ""))
    name = name or (stated if _CCE_FORM.fullmatch(stated) else "")
    if not name and KARPENTER_NEURON in labels:
        name = f"AWS-{labels[KARPENTER_NEURON].capitalize()}"
    if name.startswith(("Gaudi", "AWS-")):
        return name
    if name.startswith("gaudi"):
        return name.capitalize()
    name = _GKE_SIZES.get(name, name)
    name = _CONNECTED.sub("", name.upper()).replace("-MEGA-", "-")
    name = re.sub(r"^(?:NVIDIA[-_]|AMD[-_])?(?:TESLA[-_])?", "", name)
    vendor = "AMD" if name.startswith("MI") else "NVIDIA"
    return f"{vendor}-{name}" if name else ""


def _of_instance(text: str) -> str:
    """What an instance type has; empty where it does not say."""
    for form, name in _INSTANCES.items():
        if re.fullmatch(form, text, re.IGNORECASE):
            return name
    match = _AZURE.match(text) or _IN_TYPE.match(text)
    return "" if match is None else "-".join(filter(None, match.groups()))


def is_fraction(labels: Mapping[str, str]) -> bool:
    """Whether a GPU of a node is a part of one, by the type of its instance."""
    return _FRACTION.fullmatch(labels.get(INSTANCE_TYPE, "")) is not None


def of_labels(labels: Mapping[str, str]) -> str:
    """Product of a node; empty where its labels do not say."""
    return next(filter(None, (labels.get(name) for name in LABELS)), "") or of_cloud(labels)


def of_pod(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """Products that a pod's node selector and required node affinity name, as far as it holds of them."""
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    stated: list[Mapping[str, str]] = [spec.get("nodeSelector") or {}]
    for term in required.get("nodeSelectorTerms") or ():
        stated += [
            {str(item.get("key")): str(value)}
            for item in term.get("matchExpressions") or ()
            if item.get("operator") == "In"
            for value in item.get("values") or ()
        ]
    resources = {
        name
        for container in spec.get("containers") or ()
        for given in (container.get("resources") or {}).values()
        if isinstance(given, Mapping)
        for name in given
    }
    return held([of_labels(labels) for labels in stated], resources)


_PART = re.compile(
    r"nvidia\.com/(?:mig-(?P<profile>.+?)|gpu)(?P<shared>\.shared)?"
    r"|(?P<share>nvidia\.com/(?:gpumem|gpucores|vgpu)|volcano\.sh/vgpu)(?:-\w+)?"
)
"""Resources by which pods request GPUs: whole ones, MIG slices, or shares (HAMi's and Volcano's)."""


def held(names: Iterable[str], resources: Iterable[str]) -> tuple[str, ...]:
    """What a pod with these resources holds of GPUs of these names: slices and shares are types of their own.

    A node that gives MIG slices of several profiles is labelled as the whole GPU, and so may pods select it.
    At most `MOST_PRODUCTS` are returned, of the first so many names and slices: a pod's author writes both.
    """
    ends = [
        f"-MIG-{form['profile']}" if form["profile"] else "-SHARED"
        for form in map(_PART.fullmatch, sorted(resources))
        if form and (form["profile"] or form["shared"] or form["share"])
    ]
    return distinct(
        name
        if not name.startswith("NVIDIA-") or name.endswith(end) or "-MIG-" in name
        else name + end
        for name in distinct(names)[:MOST_PRODUCTS]
        for end in ends[:MOST_PRODUCTS] or [""]
    )[:MOST_PRODUCTS]


def distinct(names: Iterable[str]) -> tuple[str, ...]:
    """Names without empty ones, repetitions, and what is no text, in order."""
    return tuple(dict.fromkeys(name for name in names if name and isinstance(name, str)))
