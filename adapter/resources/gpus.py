"""GPUs by type: what the Nodes have, what is free of it, and how much of it our variants may hold.

A vendor's device plugin gives a node's GPUs to the scheduler as a resource; labels say what they are:

- NVIDIA (k8s-device-plugin, GPU feature discovery): `nvidia.com/gpu` is what `nvidia.com/gpu.product` says.
  MIG slices are `nvidia.com/mig-PROFILE` (strategy mixed), or `nvidia.com/gpu` with `-MIG-PROFILE` in the
  product (single). Time-sliced and MPS GPUs have `-SHARED` in the product, or `.shared` in the resource.
- AMD (k8s-device-plugin, its node labeller): `amd.com/gpu` is `amd.com/gpu.product-name`; partitions are
  `amd.com/cpx_nps4` (strategy mixed), or `amd.com/gpu` with a label that names the partition (single).
- Intel (gpu-plugin, rules for NFD): `gpu.intel.com/i915` and `/xe` are what `gpu.intel.com/product` says.
- Google (GKE's plugin): `google.com/tpu` is what `cloud.google.com/gke-tpu-accelerator` says, by topology;
  its driver for dynamic resource allocation says the generation of each chip.
- AWS (Neuron's plugin): `aws.amazon.com/neuron` is what the instance type has; cores are parts of the same.
- The workload-variant-autoscaler's: `VENDOR/gpu.product` for the three, `habana.ai/product.name` for Gaudi,
  whose own feature discovery labels the number, driver and kind of machine, and no product.

A slice or a share is a type of its own, never a whole GPU: no profile of a whole one holds for it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from adapter.resources.annotations import ACCELERATOR_LABEL
from adapter.resources.devices import dra, in_use, neuron, products, taints
from adapter.resources.devices.by_product import ByProduct, given_twice
from adapter.resources.devices.held import devices
from adapter.resources.devices.left_out import MOST_NAMED, LeftOut, clauses, several
from adapter.resources.gpu_vendors import (
    INVALID,
    SLICE,
    VENDORS,
    WHOLE,
    Object,
    first,
    memory_gib,
    of_node,
    of_vendors,
    split,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuType:
    """GPUs of one type in the cluster.

    Attributes:
        name: the product as labelled, with its memory where one product comes in several sizes.
        product: product label of the node.
        memory_gib: memory of one GPU by the label; None where the product name has it, and for slices.
        total: allocatable GPUs on nodes that accept new pods.
        free: allocatable GPUs on such nodes, less those that other workloads hold.
        coarse: True where only a cloud's label names the product, which says less than the vendor's.
        by_taints: those free ones by the taints of their nodes.
        held_on_closed: GPUs that our variants hold on nodes that accept no new pods (cordoned, tainted).

    """

    name: str
    product: str
    memory_gib: float | None
    total: int
    free: int
    held_on_closed: int
    coarse: bool = False
    by_taints: Mapping[tuple[taints.Taint, ...], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """All GPUs of a cluster.

    Attributes:
        types: GPUs by type.
        left_out: GPUs that are not counted.
        held: what each of the variants' pods holds by type and taints of the node, by namespace and name.

    """

    types: tuple[GpuType, ...]
    left_out: tuple[LeftOut, ...]
    held: Mapping[tuple[str, str], Mapping[in_use.Kind, int]] = field(default_factory=dict)

    @property
    def total(self) -> dict[str, int]:
        """Allocatable on nodes that take new pods, by type."""
        return {item.name: item.total for item in self.types}

    @property
    def free(self) -> dict[str, int]:
        """Allocatable devices by type, less those that pods of others than the variants hold."""
        return {item.name: item.free for item in self.types}

    def capacity(self, asked: Mapping[str, str]) -> tuple[dict[str, int], tuple[str, ...]]:
        """What our variants may hold together, by device type, and why some types have nothing.

        Args:
            asked: device types of accelerators, each with the place that names it.

        """
        taken, problems = self._taken(asked)
        # Without what is kept, a cordon would scale down replicas that it lets run.
        capacity = {item.name: item.free + item.held_on_closed for item in self.types}
        given = {device: capacity[name] for name, device in taken.items()}
        told = (f"{asked[device]}: device: {device!r} {why}" for device, why in problems.items())
        return {**dict.fromkeys(asked, 0), **given}, tuple(told)

    def given(self, asked: Mapping[str, str]) -> dict[str, str]:
        """Name of the type whose GPUs each device type has; without those that have none."""
        return {device: name for name, device in self._taken(asked)[0].items()}

    def _taken(self, asked: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
        """Device types by the name of the type whose GPUs they have, and why the others have none."""
        problems, taken = dict[str, str](), dict[str, str]()
        alike, closed, nothing = ByProduct(self.types), self._closed(), self._none()
        # Each GPU is given once.
        for device in alike.in_turn(asked):
            matching = alike.meant(device)
            problem = _problem(matching, closed) if matching else ""
            problem = problem or several(alike.unclear(device)) or ("" if matching else nothing)
            if not problem and matching[0].name in taken:
                same = taken[matching[0].name]
                problem = f"is the same GPU as {same!r}, which has all of them; write both alike"
            if problem:
                problems[device] = problem
            else:
                taken[matching[0].name] = device
        return taken, problems

    def counted_as(self, priced: Iterable[str], others: Iterable[str]) -> dict[str, str]:
        """Device types under which the GPUs of others are counted, as `ByProduct.counted_as`."""
        return ByProduct(self.types).counted_as(priced, others)

    def closed(self, asked: Collection[str] = ()) -> dict[str, str]:
        """GPUs that no pod of a variant may use, as a clause, by device type.

        Those of the types `asked` that are no GPU of the nodes, or may be one of several kinds, are of none.
        """
        by_type, none = self._closed(), self._taken(asked)[1] if asked else {}
        return {
            device: f"its GPU {device!r} {why}; metadata.labels[{ACCELERATOR_LABEL}] or the device of its row"
            " names it"
            for device, why in none.items()
        } | {
            item.name: clauses(by_type[item.name]).removeprefix("; ")
            for item in self.types
            if item.name in by_type
        }

    def _closed(self) -> Mapping[str, list[LeftOut]]:
        by_type: dict[str, list[LeftOut]] = defaultdict(list)
        for one in self.left_out:
            by_type[one.what].append(one)
        return by_type

    def _none(self) -> str:
        """What is said of a device type that is none of these."""
        # Resources have a slash, which labels cannot have.
        unnamed = [item for item in self.left_out if "/" in item.what]
        if not self.types:
            return f"is no GPU of the nodes; they have none with a name{clauses(unnamed)}"
        named = list(self.total)
        more = [f"and {len(named) - MOST_NAMED} more"] if len(named) > MOST_NAMED else []
        names = ", ".join([*named[:MOST_NAMED], *more])
        return f"is no GPU of the nodes; they have {names}; write one of these{clauses(unnamed)}"


def _problem(matching: Sequence[GpuType], closed: Mapping[str, list[LeftOut]]) -> str:
    """Why none can be had of a device type with these matches."""
    if len(matching) > 1:
        return several([item.name for item in matching])
    if matching[0].total + matching[0].held_on_closed == 0:
        return f"is on no node that takes pods{clauses(closed.get(matching[0].name, ()))}"
    return ""


def trimmed(node: Object) -> Object:
    """The few fields of a node that are read."""
    metadata, spec = node.get("metadata") or {}, node.get("spec") or {}
    status = node.get("status") or {}
    given = of_vendors(status.get("allocatable") or {})
    allocatable = {name: devices(value) for name, value in given.items()}
    ready = any(
        item.get("type") == "Ready" and item.get("status") == "True"
        for item in status.get("conditions") or ()
    )
    return {
        "metadata": {
            "name": metadata.get("name"),
            "resourceVersion": metadata.get("resourceVersion"),
            "labels": of_node(metadata.get("labels") or {}),
        },
        "allocatable": neuron.once(allocatable),
        "cores": neuron.cores_of(allocatable),
        "ready": ready,
        "cordoned": bool(spec.get("unschedulable")),
        # Taints by the name of a node's GPU resource are common, and pods that ask for it tolerate them.
        "taints": taints.of_node(spec, {*allocatable, *WHOLE}),
        "split": split(metadata.get("annotations") or {}),
    }


def take(
    nodes: Iterable[Object],
    pods: Iterable[Object],
    *,
    variant_pods: frozenset[tuple[str, str]] = frozenset(),
    tolerations: Iterable[taints.Tolerations] = (),
    allocation: dra.Allocation = dra.NONE,
) -> Inventory:
    """The inventory of trimmed nodes and pods.

    Args:
        nodes: trimmed nodes.
        pods: trimmed pods.
        variant_pods: namespace and name of the variants' pods.
        tolerations: tolerations of the pods that variants will have, besides those of their pods.
        allocation: devices of dynamic resource allocation.

    """
    pods = list(pods)
    by_name = {str(node["metadata"]["name"]): node for node in nodes}
    admitted = taints.Admission(
        (node["taints"] for node in by_name.values()),
        {pod["tolerations"] for pod in pods if in_use.name_of(pod) in variant_pods}
        | set(tolerations),
    )
    pools = [pool for node in by_name.values() for pool in _pools(node, admitted)]
    published = list(_allocated_pools(allocation, by_name, admitted))
    twice = given_twice(pools, published)
    pools += [pool for pool in published if pool.key not in twice]
    offering = {pool.node for pool in pools}
    pools += [
        pool for name, node in by_name.items() if name not in offering for pool in _none_of(node)
    ]
    others, own, places = in_use.by_place(neuron.by_device(pods, by_name), variant_pods)
    for place, holders in allocation.holders(twice):
        (others if holders.isdisjoint(variant_pods) else own)[place] += 1
        for pod in holders & variant_pods:
            places[pod][place] += 1
    several = _several_sizes(pools)
    kind_at = {
        pool.key: (pool.type(several), None if pool.why else pool.taints)
        for pool in pools
        if pool.ready or not pool.why
    }
    by_type: dict[str, list[_Pool]] = defaultdict(list)
    for pool in pools:
        by_type[pool.type(several)].append(pool)
    return Inventory(
        types=tuple(_type(name, by_type[name], others, own) for name in sorted(by_type) if name),
        left_out=tuple(
            LeftOut(node=pool.node, gpus=pool.count, what=name or pool.resource, why=pool.why)
            for name, alike in sorted(by_type.items())
            for pool in sorted(alike, key=lambda pool: pool.key)
            if pool.why
        ),
        held={
            pod: {kind_at[place]: count for place, count in held.items() if place in kind_at}
            for pod, held in places.items()
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pool:
    """What one node has of one resource; `why` it is not counted is empty where it is."""

    node: str
    resource: str
    count: int
    product: str
    memory_gib: float | None
    ready: bool
    why: str
    coarse: bool = False
    taints: tuple[taints.Taint, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        return self.node, self.resource

    def type(self, several: frozenset[str]) -> str:
        """Name of the type; products of `several` sizes go by their memory too."""
        if self.product in several and self.memory_gib:
            return f"{self.product}-{self.memory_gib:.0f}GB"
        return self.product


def _closed(node: Object, admitted: taints.Admission) -> str:
    """Why a node takes no new pods of the variants; empty if it does."""
    if not node["ready"]:
        return "NotReady"
    if node["cordoned"]:
        return "cordoned"
    kept_out = sorted(map(str, admitted.blocking(node["taints"])))
    return f"tainted by {', '.join(kept_out)}" if kept_out else ""


def _pools(node: Object, admitted: taints.Admission) -> Iterator[_Pool]:
    closed, labels = _closed(node, admitted), node["metadata"]["labels"]
    for resource, count in node["allocatable"].items():
        for resources, read, memories in VENDORS:
            match = resources.fullmatch(resource)
            # The plugin may then give none, and that is worth a word.
            invalid = labels.get("nvidia.com/gpu.product", "").endswith(INVALID)
            if match is None or not (count or invalid):
                continue
            product, problem = read(match, node)
            sliced = SLICE.search(product) or products.spelt(product)[1]
            yield _Pool(
                node=str(node["metadata"]["name"]),
                resource=resource,
                count=count,
                product=product,
                memory_gib=None if sliced else memory_gib(first(labels, *memories)),
                ready=node["ready"],
                why=problem or closed,
                coarse=product == products.of_cloud(labels),
                taints=node["taints"],
            )


def _none_of(node: Object) -> Iterator[_Pool]:
    """GPUs that a node is labelled with, where neither a device plugin nor a driver gives any."""
    labels = node["metadata"]["labels"]
    product, count = labels.get("nvidia.com/gpu.product"), labels.get("nvidia.com/gpu.count")
    if product and devices(count) > 0:
        yield _Pool(
            node=str(node["metadata"]["name"]),
            resource="nvidia.com/gpu",
            count=devices(count),
            product="",
            memory_gib=None,
            ready=False,
            why=f"labelled {product!r}, and neither a device plugin nor ResourceSlices of a driver give any"
            " there; look whether it runs on this node",
        )


def _allocated_pools(
    allocation: dra.Allocation,
    nodes: Mapping[str, Object],
    admitted: taints.Admission,
) -> Iterator[_Pool]:
    """Pools of dynamic resource allocation."""
    for item, doubt in (*((item, "") for item in allocation.devices), *allocation.doubtful):
        node = nodes.get(item.node)
        gone = "the node is gone" if item.node else "they name no single node"
        why = gone if node is None else _closed(node, admitted)
        # The label of a node with TPUs has the topology too, as with the device plugin.
        labels = node["metadata"]["labels"] if node is not None else {}
        labelled = products.of_cloud(labels) if item.resource.startswith(dra.TPU_DRIVER) else ""
        product = labelled or item.product
        yield _Pool(
            node=item.node,
            resource=item.resource,
            count=item.count,
            product=product,
            memory_gib=item.memory_gib,
            # What pods hold there is of the devices that are counted.
            ready=node is not None and node["ready"] and not doubt,
            why=why or ("" if product else "its devices have no productName") or doubt,
            coarse=bool(labelled),
            taints=() if node is None else node["taints"],
        )


def _several_sizes(pools: Iterable[_Pool]) -> frozenset[str]:
    """Products whose name leaves open which of several sizes it is."""
    sizes: dict[str, set[float]] = defaultdict(set)
    for pool in pools:
        if pool.memory_gib:
            sizes[pool.product].add(pool.memory_gib)
    return frozenset(
        name for name, gib in sizes.items() if min(gib) < products.LEAST_SEEN * max(gib)
    )


def _type(name: str, pools: Sequence[_Pool], others: in_use.Held, own: in_use.Held) -> GpuType:
    counted = [pool for pool in pools if not pool.why]
    running = [pool for pool in pools if pool.why and pool.ready]
    # Node by node: what is held where a GPU broke is not taken off another node.
    free = Counter[tuple[taints.Taint, ...]]()
    for pool in counted:
        free[pool.taints] += max(pool.count - others[pool.key], 0)
    return GpuType(
        name=name,
        product=min(pool.product for pool in pools),
        memory_gib=max(pool.memory_gib or 0.0 for pool in pools) or None,
        total=sum(pool.count for pool in counted),
        free=free.total(),
        by_taints=free,
        held_on_closed=sum(min(own[pool.key], pool.count) for pool in running),
        coarse=all(pool.coarse for pool in pools),
    )
