"""What device plugins and node labels of each vendor say of a node's GPUs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from adapter.resources.devices import neuron, products
from adapter.resources.devices.held import devices

_SHARED, INVALID = "-SHARED", "-MIG-INVALID"

Object = Mapping[str, Any]

_MORE = (
    "more than its nvidia.com/gpu.count: it has several models, or gives GPUs in shares, and which of them a"
    " pod gets is not known"
)
_UNLIKE = "the node has several models, and which of them a pod gets is not known"

_HAMI, _REGISTER = "hami.io/node-", "-register"
"""Prefix of HAMi's annotations at nodes, and end of those that list the devices of one vendor."""

_NO_PRODUCT = "no nvidia.com/gpu.product label; install NVIDIA GPU feature discovery"

SLICE = re.compile(r"-MIG-|-[a-z]px_nps\d+")


def split(annotations: Mapping[str, str]) -> bool:
    """Whether HAMi gives a node's GPUs in shares: each is given `count` times, by the list of its plugin.

    Older versions write the list otherwise, where once is not told from several times.
    """
    own = {name: text for name, text in annotations.items() if name.startswith(_HAMI)}
    lists = [text for name, text in own.items() if name.endswith(_REGISTER)]
    if not own:
        return False
    try:
        listed = [device for text in lists for device in json.loads(text)]
        return not listed or any(int(device.get("count", 0)) != 1 for device in listed)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return True


def _nvidia(match: re.Match[str], node: Object) -> tuple[str, str]:
    labels, count = node["metadata"]["labels"], node["allocatable"][match.string]
    base = f"nvidia.com/{match['base'] or 'gpu'}"
    name = first(labels, "nvidia.com/gpu.product") or _of_cloud(labels, "NVIDIA-")
    slices = labels.get(products.GKE_PARTITION, "")
    if slices and name and not SLICE.search(name):
        name = f"{name}-MIG-{slices}"
    if name.endswith(INVALID):
        return "", "their MIG slices are unlike, which strategy single cannot name; use mixed"
    if match["profile"]:
        whole = name.removesuffix(_SHARED)
        name = labels.get(f"{base}.product") or (whole and f"{whole}-MIG-{match['profile']}")
    elif _shared(match, node):
        return (
            f"{name.removesuffix(_SHARED)}{_SHARED}" if name else ""
        ), "" if name else _NO_PRODUCT
    elif count > devices(labels.get(f"{base}.count", str(count))):
        # The count is of the product that is named; feature discovery names one of several.
        return "", _MORE
    if not name:
        return "", _NO_PRODUCT
    if match["shared"]:
        name = name.removesuffix(_SHARED) + _SHARED
    return name, ""


def _shared(match: re.Match[str], node: Object) -> bool:
    """Whether a node's GPUs are given in shares: by time-slicing or MPS, HAMi, or Volcano's vGPUs."""
    labels, allocatable = node["metadata"]["labels"], node["allocatable"]
    base = f"nvidia.com/{match['base'] or 'gpu'}"
    if match["shared"] or not match["base"]:
        return True
    if labels.get(f"{base}.sharing-strategy") in {"time-slicing", "mps"}:
        return True
    whole = devices(labels.get(f"{base}.count"))
    # Where older versions say how often each is given, and not by which strategy.
    if devices(labels.get(f"{base}.replicas")) > 1 and allocatable[match.string] > whole > 0:
        return True
    if labels.get(products.GKE_SHARING) in {"time-sharing", "mps"} or products.is_fraction(labels):
        return True
    cores = allocatable.get("nvidia.com/gpucores", 0)
    if not (cores or allocatable.get("nvidia.com/gpumem") or node["split"]):
        return False
    # A core of HAMi is a hundredth of a GPU; one share per GPU is a whole one.
    cards = devices(labels.get(f"{base}.count")) or cores // 100
    return not 0 < allocatable[match.string] <= cards


def _of_cloud(labels: Mapping[str, str], vendor: str) -> str:
    """Product by the labels of a cloud, where it is of the vendor whose resource it is to be."""
    name = products.of_cloud(labels)
    return name if name.startswith(vendor) else ""


def _amd(match: re.Match[str], node: Object) -> tuple[str, str]:
    labels = node["metadata"]["labels"]
    name = first(labels, *_AMD_PRODUCTS) or _of_cloud(labels, "AMD-")
    if not name:
        counted = tuple(f"{label}." for label in _AMD_PRODUCTS)
        if any(label.startswith(counted) for label in labels):
            return "", _UNLIKE
        return "", f"no {_AMD_PRODUCTS[0]} label; run AMD's node labeller with -product-name"
    if node["split"]:
        return f"{name}{_SHARED}", ""
    partition = match["partition"] or first(labels, *_AMD_PARTITIONS)
    # SPX is the whole GPU as one.
    return (name if not partition or partition.startswith("spx") else f"{name}-{partition}"), ""


def _intel(match: re.Match[str], node: Object) -> tuple[str, str]:
    labels, allocatable = node["metadata"]["labels"], node["allocatable"]
    label = _INTEL_PRODUCTS[match.string]
    name = first(labels, label)
    if not name and label in _GAUDI:
        name = first(labels, *_GAUDI) or _of_cloud(labels, "Gaudi")
    if not name:
        return "", f"no {label} label; set it, by a rule for node feature discovery or by hand"
    # Older versions list the cards in place of counting them.
    listed = filter(None, labels.get("gpu.intel.com/cards", "").split("."))
    cards = devices(labels.get("gpu.intel.com/device.count")) or len(list(listed))
    given = allocatable.get("gpu.intel.com/i915", 0) + allocatable.get("gpu.intel.com/xe", 0)
    # The plugin's -shared-dev-num leaves no other trace.
    return (f"{name}{_SHARED}" if label == _INTEL_GPU and 0 < cards < given else name), ""


def _google(_: re.Match[str], node: Object) -> tuple[str, str]:
    name = _of_cloud(node["metadata"]["labels"], "tpu")
    return name, "" if name else f"no {products.GKE_TPU} label, which GKE sets at nodes with TPUs"


def _aws(match: re.Match[str], node: Object) -> tuple[str, str]:
    name = _of_cloud(node["metadata"]["labels"], "AWS-")
    if not name:
        return "", f"no {products.INSTANCE_TYPE} label of an instance with Neuron devices"
    # Only where the node does not say its devices.
    return (f"{name}-CORE" if match.string == neuron.CORE else name), ""


def _huawei(match: re.Match[str], node: Object) -> tuple[str, str]:
    chip = node["metadata"]["labels"].get(products.NPU_CHIP, "") or match["chip"] or ""
    number = re.sub(r"^ascend-?", "", chip, flags=re.IGNORECASE).upper()
    if not number:
        return "", f"no {products.NPU_CHIP} label; set it to the chip, such as 910B4"
    return f"Ascend{number}", ""


_AMD_PRODUCTS = ("amd.com/gpu.product-name", "beta.amd.com/gpu.product-name", "amd.com/gpu.product")

_AMD_PARTITIONS = ("amd.com/gpu.compute-memory-partition", "amd.com/compute-memory-partition")

_INTEL_GPU = "gpu.intel.com/product"

_INTEL_PRODUCTS = {
    "gpu.intel.com/i915": _INTEL_GPU,
    "gpu.intel.com/xe": _INTEL_GPU,
    "intel.com/gpu": "intel.com/gpu.product",
    "habana.ai/gaudi": "habana.ai/product.name",
}

_GAUDI = ("habana.ai/product.name", "habana.ai/gpu.product")
"""Labels of Gaudi's nodes with the product."""

_Read = Callable[[re.Match[str], Object], tuple[str, str]]

VENDORS: tuple[tuple[re.Pattern[str], _Read, tuple[str, ...]], ...] = (
    (
        re.compile(
            r"nvidia\.com/(?P<base>gpu|mig-(?P<profile>.+?))(?P<shared>\.shared)?"
            r"|volcano\.sh/vgpu-number|nvidia\.com/vgpu"
        ),
        _nvidia,
        ("nvidia.com/gpu.memory", *products.CLOUD_MEMORIES),
    ),
    (
        re.compile(r"amd\.com/(?:gpu|(?P<partition>[a-z]px_nps\d+))"),
        _amd,
        ("amd.com/gpu.vram", "beta.amd.com/gpu.vram", "amd.com/gpu.memory"),
    ),
    (
        re.compile("|".join(map(re.escape, _INTEL_PRODUCTS))),
        _intel,
        ("gpu.intel.com/memory", "intel.com/gpu.memory", "habana.ai/device.memory"),
    ),
    (re.compile(r"google\.com/tpu"), _google, ()),
    (re.compile(f"{re.escape(neuron.DEVICE)}(?:core)?"), _aws, ()),
    # A resource that names only the series is of any chip of it.
    (re.compile(products.NPU), _huawei, ()),
)
"""Resources that are GPUs, what they are or why that cannot be said, and labels with the memory of one."""


def held(node: Object, requests: Mapping[str, int]) -> tuple[str, ...]:
    """Products that a pod with these requests holds of a node's GPUs, as the inventory names them."""
    named = [
        read(match, node)[0]
        for resource in requests
        if node["allocatable"].get(resource)
        for resources, read, _ in VENDORS
        if (match := resources.fullmatch(resource))
    ]
    labelled = products.of_labels(node["metadata"]["labels"])
    return products.distinct(named) or products.held([labelled], requests)


WHOLE = frozenset(
    {"nvidia.com/gpu", "amd.com/gpu", "google.com/tpu", neuron.DEVICE, *_INTEL_PRODUCTS}
)

_DOMAINS = {
    "volcano.sh",
    "nvidia.com",
    "amd.com",
    "beta.amd.com",
    "intel.com",
    "gpu.intel.com",
    "habana.ai",
    "google.com",
    "aws.amazon.com",
    "huawei.com",
}


def of_vendors(named: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in named.items() if name.partition("/")[0] in _DOMAINS}


def of_node(labels: Mapping[str, str]) -> dict[str, str]:
    """Labels of a node that say something of its GPUs."""
    return of_vendors(labels) | {
        name: labels[name] for name in products.READ_LABELS if name in labels
    }


def first(labels: Mapping[str, str], *names: str) -> str:
    return next(filter(None, (labels.get(name) for name in names)), "")


def memory_gib(text: str) -> float | None:
    """From `192G`, or MiB without a unit."""
    number = text.rstrip("GBi")
    if not (number.isascii() and number.isdigit()):
        return None
    return float(number) if number != text else float(number) / 1024
