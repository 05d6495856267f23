"""GPUs by dynamic resource allocation: what ResourceSlices publish, and ResourceClaims hold.

Drivers publish a node's devices as ResourceSlices instead of a count (`resource.k8s.io`); the pods that hold
a device are those that its claim is reserved for.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from adapter.kube import quantity
from adapter.resources.gpu_vendors import SLICE

VERSION = "resource.k8s.io/v1"

TAINT_RULES = "devicetaintrules"
TAINT_VERSIONS = ("resource.k8s.io/v1beta2", "resource.k8s.io/v1alpha3")
"""Versions of DeviceTaintRules, of which a cluster may have both, one or none."""

TPU_DRIVER = "tpu.google.com"
"""Google's; its devices have a generation (`v6e`), and no topology: that is the node's."""

DRIVERS = frozenset(
    {
        "gpu.nvidia.com",
        "gpu.amd.com",
        "gpu.intel.com",
        "gaudi.intel.com",
        "neuron.aws.com",
        TPU_DRIVER,
    }
)
"""Drivers whose devices are accelerators."""

_GIB = 2**30
_MIG, _SHARED = "-MIG-", "-SHARED"

_EXTENDED = "resource.kubernetes.io/extended-resource-claim"
"""Annotation of a claim that the scheduler makes for an extended resource that a pod requests."""

_PASSED_THROUGH = "vfio"
"""Type of a GPU as drivers publish it once more, for virtual machines."""

_WHOLE = "spx"
"""Beginning of the partition of AMD's GPUs that is the whole of one."""

_KEEPS_PODS_OUT = frozenset({"NoSchedule", "NoExecute"})
"""Effects of a device's taint, which drivers set where a device is not healthy."""

_DOUBTED = (
    "DeviceTaintRule {name} selects devices by class or expression, which is not evaluated here, so that all"
    " which its other fields allow count as tainted; select by driver, pool or device"
)

_SELECTED = ("driver", "pool", "device")
"""Fields by which a DeviceTaintRule selects devices, in the order of `_Device`."""

_NODE_NAMES = frozenset({"metadata.name", "kubernetes.io/hostname"})

Object = Mapping[str, Any]
ProductOnNode = tuple[str, str]
"""Node, and driver with product: what is counted together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """Devices of one product on one node; `node` is empty where they are of no single one."""

    node: str
    resource: str
    product: str
    memory_gib: float | None
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """All devices of a cluster, and the pods that hold them by place.

    Attributes:
        devices: devices that can be had, or are held.
        doubtful: free devices that are left out for a taint rule which may not concern them, and why.
        held: pods of each held device, by place.

    """

    devices: tuple[Devices, ...] = ()
    doubtful: tuple[tuple[Devices, str], ...] = ()
    held: Mapping[ProductOnNode, tuple[frozenset[tuple[str, str]], ...]] | None = None

    def holders(
        self, elsewhere: Mapping[ProductOnNode, ProductOnNode]
    ) -> Iterable[tuple[ProductOnNode, frozenset[tuple[str, str]]]]:
        """Place of each held device, or another one that stands for it, with the names of its pods."""
        for place, devices in (self.held or {}).items():
            for pods in devices:
                yield elsewhere.get(place, place), pods


NONE = Allocation()


class Claimed(NamedTuple):
    """A device that a claim holds; `whole` where it is no slice of a GPU, `product` as its slice says.

    `claim` is the claim's name. `extended`: its annotation says that the scheduler made it for an extended
    resource; whoever creates a claim can write that too.
    """

    driver: str
    pool: str
    name: str
    whole: bool
    product: str = ""
    claim: str = ""
    extended: bool = False


_Device = tuple[str, str, str]
"""Driver, pool and name; of a set of counters the same."""


def trimmed_slice(item: Object) -> Object:
    """The few fields of a ResourceSlice that are read."""
    metadata, spec = item.get("metadata") or {}, item.get("spec") or {}
    pool = spec.get("pool") or {}
    gpus = [
        device
        for device in spec.get("devices") or ()
        if spec.get("driver") in DRIVERS and _text(device, "type") != _PASSED_THROUGH
    ]
    apart = bool(spec.get("perDeviceNodeSelection"))
    return {
        "metadata": _metadata(metadata),
        "driver": str(spec.get("driver") or ""),
        "pool": str(pool.get("name") or ""),
        "generation": int(pool.get("generation") or 0),
        "nodes": {
            str(device.get("name")): _node((device.get("basic") or device) if apart else spec)
            for device in gpus
        },
        "devices": {str(device.get("name")): _product(device) for device in gpus},
        "counters": {str(device.get("name")): _counters(device) for device in gpus},
        "tainted": frozenset(str(device.get("name")) for device in gpus if _tainted(device)),
    }


def trimmed_claim(item: Object) -> Object:
    """The few fields of a ResourceClaim that are read."""
    metadata, status = item.get("metadata") or {}, item.get("status") or {}
    namespace = str(metadata.get("namespace") or "")
    results = ((status.get("allocation") or {}).get("devices") or {}).get("results") or ()
    return {
        "metadata": _metadata(metadata),
        "devices": tuple(
            (str(result.get("driver")), str(result.get("pool")), str(result.get("device")))
            for result in results
            if result.get("driver") in DRIVERS and not result.get("adminAccess")
        ),
        "extended": (metadata.get("annotations") or {}).get(_EXTENDED) == "true",
        "pods": frozenset(
            (namespace, str(user.get("name")))
            for user in status.get("reservedFor") or ()
            if user.get("resource") == "pods"
        ),
    }


def trimmed_rule(item: Object) -> Object:
    """The few fields of a DeviceTaintRule that are read; `devices` is None where it taints none.

    Rules of 2025 may select by class or expression too, which only the scheduler evaluates: `doubtful` ones
    may taint fewer devices than those that their other fields select.
    """
    spec = item.get("spec") or {}
    selector = spec.get("deviceSelector")
    blocks = (spec.get("taint") or {}).get("effect") in _KEEPS_PODS_OUT
    concerned = None
    if blocks and isinstance(selector, dict):
        concerned = tuple(
            None if selector.get(name) is None else str(selector[name]) for name in _SELECTED
        )
    others = {**selector} if isinstance(selector, dict) else {}
    return {
        "metadata": _metadata(item.get("metadata") or {}),
        "devices": concerned,
        "doubtful": any(bool(value) for name, value in others.items() if name not in _SELECTED),
    }


def allocation(
    slices: Iterable[Object], claims: Iterable[Object], rules: Iterable[Object] = ()
) -> Allocation:
    """Join trimmed slices, claims and taint rules; of a pool only the newest generation counts."""
    items, claims = list(slices), list(claims)
    rules = [item for item in rules if item["devices"] is not None]
    tainting = _Rules(item for item in rules if not item["doubtful"])
    doubted = _Rules(item for item in rules if item["doubtful"])
    doubtful: Counter[tuple[ProductOnNode, str]] = Counter()
    taken = {device for claim in claims if claim["pods"] for device in claim["devices"]}
    newest: dict[tuple[str, str], int] = {}
    for item in items:
        pool = item["driver"], item["pool"]
        newest[pool] = max(newest.get(pool, 0), item["generation"])
    places: dict[_Device, ProductOnNode] = {}
    counts: Counter[ProductOnNode] = Counter()
    kinds: dict[ProductOnNode, tuple[str, float | None]] = {}
    for item in items:
        driver, pool = item["driver"], item["pool"]
        if item["generation"] < newest[driver, pool]:
            continue
        for name, (product, memory) in item["devices"].items():
            place = item["nodes"][name], f"{driver}/{product}"
            tainted = name in item["tainted"] or tainting.of((driver, pool, name)) is not None
            if tainted and (driver, pool, name) not in taken:
                continue  # none is given; a pod that has one keeps it, as on a node that is cordoned
            kinds[place] = product, memory
            may = doubted.of((driver, pool, name))
            if may is not None and (driver, pool, name) not in taken:
                doubtful[place, may] += 1
                continue
            places[driver, pool, name] = place
            counts[place] += 1
    held: dict[ProductOnNode, list[frozenset[tuple[str, str]]]] = {}
    for device, pods in _holders(items, claims, places).items():
        held.setdefault(places[device], []).append(pods)
    return Allocation(
        devices=tuple(_at(place, *kinds[place], count) for place, count in sorted(counts.items())),
        held={place: tuple(pods) for place, pods in held.items()},
        doubtful=tuple(
            (_at(place, *kinds[place], count), _DOUBTED.format(name=rule))
            for (place, rule), count in sorted(doubtful.items())
        ),
    )


def _at(place: ProductOnNode, product: str, memory_gib: float | None, count: int) -> Devices:
    return Devices(
        node=place[0], resource=place[1], product=product, memory_gib=memory_gib, count=count
    )


def claimed(
    slices: Iterable[Object], claims: Iterable[Object]
) -> dict[tuple[str, str], frozenset[Claimed]]:
    """Devices of trimmed claims by namespace and name of the pods that hold them."""
    products = {
        (item["driver"], item["pool"], name): product
        for item in slices
        for name, (product, _) in item["devices"].items()
    }
    held: dict[tuple[str, str], frozenset[Claimed]] = {}
    for claim in claims:
        name_of_claim = str(claim["metadata"]["name"])
        devices = frozenset(
            Claimed(
                driver, pool, name, not _part(product), product, name_of_claim, claim["extended"]
            )
            for driver, pool, name in claim["devices"]
            for product in (products.get((driver, pool, name), ""),)
        )
        for pod in claim["pods"] if devices else ():
            held[pod] = held.get(pod, frozenset()) | devices
    return held


def _holders(
    items: Iterable[Object], claims: Iterable[Object], places: Mapping[_Device, ProductOnNode]
) -> dict[_Device, frozenset[tuple[str, str]]]:
    """Pods that hold each device by their claims, or one that cannot be had beside it.

    A whole GPU and its slices share counters, so that who holds one holds the other; slices are each apart.
    """
    claimed: dict[_Device, set[tuple[str, str]]] = {}
    for claim in claims:
        for device in claim["devices"]:
            if device in places:
                claimed.setdefault(device, set()).update(claim["pods"])
    counters: dict[_Device, list[_Device]] = {}
    by_slice: dict[tuple[bool, _Device], set[tuple[str, str]]] = {}
    for item in items:
        for name, sets in item["counters"].items():
            device = item["driver"], item["pool"], name
            if device in places:
                own = [(item["driver"], item["pool"], counter) for counter in sets]
                counters.setdefault(device, []).extend(own)
                for counter in own if device in claimed else ():
                    beside = by_slice.setdefault((_is_slice(places[device]), counter), set())
                    beside.update(claimed[device])
    held = {device: frozenset(pods) for device, pods in claimed.items()}
    shared = {place: frozenset(pods) for place, pods in by_slice.items()}
    for device, sharing in counters.items():
        for counter in sharing:
            pods = shared.get((not _is_slice(places[device]), counter))
            if pods is not None:
                # Without own ones, thousands of slices have the same set.
                held[device] = held[device] | pods if held.get(device) else pods
    return held


def _is_slice(place: ProductOnNode) -> bool:
    return SLICE.search(place[1]) is not None


def _part(product: str) -> bool:
    """Whether a product is a slice or a share of a GPU."""
    return product.endswith(_SHARED) or SLICE.search(product) is not None


def _counters(device: Object) -> frozenset[str]:
    """Sets of counters of its pool that a device consumes."""
    basic = device.get("basic") or device
    return frozenset(str(item.get("counterSet")) for item in basic.get("consumesCounters") or ())


def _node(spec: Object) -> str:
    """The one node that a slice or device is of; empty where it names none, several or a kind of them."""
    if spec.get("nodeName"):
        return str(spec["nodeName"])
    terms = (spec.get("nodeSelector") or {}).get("nodeSelectorTerms") or ()
    named = [
        list(item.get("values") or ())
        for term in terms
        for item in (*(term.get("matchFields") or ()), *(term.get("matchExpressions") or ()))
        if item.get("key") in _NODE_NAMES and item.get("operator") == "In"
    ]
    return str(named[0][0]) if len(terms) == len(named) == 1 and len(named[0]) == 1 else ""


class _Rules:
    """Rules by the fields that they select devices by; what a rule leaves open is any."""

    def __init__(self, rules: Iterable[Object]) -> None:
        self._first: dict[tuple[str | None, ...], tuple[int, str]] = {}
        for place, rule in enumerate(rules):
            named = place, str(rule["metadata"]["name"])
            self._first.setdefault(tuple(rule["devices"]), named)

    def of(self, device: _Device) -> str | None:
        """Name of the first rule that taints a device; None without any."""
        if not self._first:
            return None
        patterns = itertools.product(*((None, field) for field in device))
        matching = [self._first[each] for each in patterns if each in self._first]
        return min(matching)[1] if matching else None


def _tainted(device: Object) -> bool:
    """Whether the scheduler gives a device to no new claim."""
    basic = device.get("basic") or device
    return any(taint.get("effect") in _KEEPS_PODS_OUT for taint in basic.get("taints") or ())


def _product(device: Object) -> tuple[str, float | None]:
    """Product of a device, spelt as feature discovery spells it, and its memory in GiB (None of parts)."""
    basic = device.get("basic") or device
    capacity = basic.get("capacity") or {}
    generation = _text(device, "tpuGen")
    named = _text(device, "productName") or _text(device, "model")
    named = named or (generation and f"tpu-{generation}")
    product = "-".join(named.split())
    profile, partition = _text(device, "profile"), _partition(device)
    if product and profile:
        # Names of resources and labels have no plus sign: device plugins write `1g.10gb.me`.
        return f"{product}{_MIG}{profile.replace('+', '.')}", None
    if product and partition and not partition.startswith(_WHOLE):
        return f"{product}-{partition}", None
    if product and basic.get("allowMultipleAllocations") and not partition:
        # Claims take a part of its capacity each, and how many there is room for is theirs to say.
        return f"{product}{_SHARED}", None
    amount = (capacity.get("memory") or {}).get("value")
    try:
        return product, None if amount is None else float(quantity.parse(str(amount))) / _GIB
    except ValueError:
        return product, None


def _partition(device: Object) -> str:
    """Partition of an AMD GPU that a device is, as its plugin names it (`cpx_nps4`); empty of none.

    Either all GPUs are partitioned so, or the driver makes the partition that a claim asks for.
    """
    modes = (_text(device, "computePartition"), _text(device, "memoryPartition"))
    return _text(device, "partitionProfile") or "_".join(filter(None, modes))


def _text(device: Object, name: str) -> str:
    """A text among the attributes of a device; empty without it."""
    attributes = (device.get("basic") or device).get("attributes") or {}
    return str((attributes.get(name) or {}).get("string") or "")


def _metadata(metadata: Object) -> Object:
    return {name: metadata.get(name) for name in ("namespace", "name", "resourceVersion")}
