"""Devices of tainted nodes: they count only for variants whose pods tolerate the taints.

A variant that tolerates only some nodes of a device type is planned on a narrower type, with the devices of
these nodes. What is planned on the narrower type is taken off the wider one too: no device is planned twice.
Parts that overlap have fewer devices together than each by itself, so their unions are counted too.

A part is an integer with a bit for each kind of nodes, those with the same taints: there may be thousands.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from itertools import chain, compress, groupby, islice

from adapter.kube.scale import Reference
from adapter.resources import gpus
from adapter.resources.devices import taints
from adapter.resources.inputs import Inputs
from adapter.resources.variant import VariantSource
from adapter.resources.watched.unions import unions

Name = tuple[str, str]
"""Namespace and name of a pod."""

Target = tuple[str, Reference]
"""Namespace and reference of a scale target."""

Pods = Mapping[Target, frozenset[Name]]
"""Pods whose devices are those of a scale target."""

Tolerated = Mapping[Target, AbstractSet[taints.Tolerations]]
"""Tolerations of a scale target's pods and template; none where neither is known."""

MOST_TYPES = 8
"""Most such types of a device type for one namespace; its further variants have the nodes without taints."""

_Taints = tuple[taints.Taint, ...]

_Running = Counter[_Taints | None]
"""Devices that pods have on nodes where new ones of theirs may not go, by the taints of these."""

_DIGITS = bytes.maketrans(b"01", b"\0\1")


class _Nodes:
    """Nodes of one device type whose devices somebody may use, by their taints."""

    def __init__(self, free: Mapping[_Taints, int]) -> None:
        kinds = sorted(free, key=lambda kind: [*map(str, kind)])
        self._place = {kind: place for place, kind in enumerate(kinds)}
        self._free = [free[kind] for kind in kinds]
        self.whole = (1 << len(kinds)) - 1
        self.plain = 1 << self._place[()] if () in free else 0
        self._tainted: dict[taints.Taint, list[int]] = defaultdict(list)
        for place, kind in enumerate(kinds):
            for taint in {*kind}:
                self._tainted[taint].append(place)
        self._number = [len({*kind}) for kind in kinds]
        self._keys = [sorted({*map(str, kind)}) for kind in kinds]
        self._with_key = Counter(chain.from_iterable(self._keys))
        self._sorted_keys = sorted(self._with_key)
        self._opened: dict[frozenset[taints.Taint], int] = {}

    def open(self, tolerated: frozenset[taints.Taint]) -> int:
        """The part that pods may use which tolerate these taints."""
        if tolerated not in self._opened:
            each = (self._tainted.get(taint, ()) for taint in tolerated)
            part = self.plain
            for place, count in Counter(chain.from_iterable(each)).items():
                if count == self._number[place]:
                    part |= 1 << place
            self._opened[tolerated] = part
        return self._opened[tolerated]

    def among(self, kind: _Taints | None, part: int) -> bool:
        """Whether nodes with these taints are of a part."""
        return kind in self._place and bool(part >> self._place[kind] & 1)

    def free(self, part: int) -> int:
        """Devices of a part."""
        return sum(compress(self._free, _bits(part)))

    def closed(self, part: int) -> str:
        """Taints of what is not of a part, in messages."""
        inside = Counter(chain.from_iterable(compress(self._keys, _bits(part))))
        number = len(self._with_key) - sum(
            count == self._with_key[key] for key, count in inside.items()
        )
        keys = (key for key in self._sorted_keys if inside[key] < self._with_key[key])
        more = f" and {number - 3} more" if number > 3 else ""
        return f"{', '.join(islice(keys, 3))}{more}"


def _bits(part: int) -> bytes:
    """Bits of a part, the lowest first."""
    return f"{part:b}".encode().translate(_DIGITS)[::-1]


@dataclass(slots=True)
class _Users:
    """Variants that may use one part.

    Attributes:
        devices: Devices of their replicas.
        running: Devices that they have elsewhere.

    """

    devices: int = 0
    running: _Running = field(default_factory=Counter)


def applied(
    known: Inputs,
    inventory: gpus.Inventory,
    given: Mapping[str, str],
    pods: Pods,
    tolerated: Tolerated,
) -> Inputs:
    """The inputs with such types.

    Args:
        known: with what everybody may use together, by device type.
        inventory: what there is.
        given: name of the GPU type that a device type means.
        pods: pods of the scale targets.
        tolerated: their tolerations.

    """
    by_type = {item.name: item.by_taints for item in inventory.types}
    tainted = {
        device: _Nodes(by_type[name])
        for device, name in given.items()
        if any(by_type.get(name, ()))
    }
    if not tainted:
        return known
    admission = taints.Admission(
        {kind for device in tainted for kind in by_type[given[device]]}, ()
    )
    users: dict[str, dict[int, _Users]] = defaultdict(lambda: defaultdict(_Users))
    opened: dict[str, dict[str, int]] = {}
    by_namespace: dict[tuple[str, str], set[int]] = defaultdict(set)
    for source in known.variants:
        target = source.namespace, source.reference
        free = [admission.tolerated(each) for each in tolerated.get(target, ())]
        for device in _devices(known, source) & tainted.keys() if free else ():
            nodes = tainted[device]
            part = 0
            for each in free:
                part |= nodes.open(each)
            if part == nodes.whole:
                continue
            mine = by_namespace[source.namespace, device]
            if part not in mine and len(mine) >= MOST_TYPES:
                part = nodes.plain
            mine.add(part)
            opened.setdefault(source.key, {})[device] = part
            using = users[device][part]
            using.devices += _held(known, source, device)
            # What runs where new pods may not go any more stays there.
            for pod in pods.get(target, ()):
                for (name, at), count in inventory.held.get(pod, {}).items():
                    if name == given[device] and not nodes.among(at, part):
                        using.running[at] += count
    return _with_types(known, tainted, users, opened)


def _devices(known: Inputs, source: VariantSource) -> set[str]:
    """Device types that a variant may be planned on."""
    named = {source.accelerator, *(item.accelerator for item in source.profiles)}
    units = (known.accelerator_named.get(name) for name in named)
    return {item.device_type for item in units if item is not None}


def _held(known: Inputs, source: VariantSource, device: str) -> int:
    """Devices of a type that the replicas of a variant have or wait for."""
    unit = known.accelerator_named.get(source.accelerator)
    if unit is None or unit.device_type != device:
        return 0
    replicas = max(source.replicas, source.spec_replicas)
    return replicas * source.units(source.accelerator) * unit.multiplicity


def _with_types(
    known: Inputs,
    tainted: Mapping[str, _Nodes],
    users: Mapping[str, Mapping[int, _Users]],
    opened: Mapping[str, Mapping[str, int]],
) -> Inputs:
    """The inputs with the types of these parts; `opened`: parts by variant key and device type."""
    capacity, within = dict(known.capacity or {}), dict[str, tuple[str, ...]]()
    names: dict[tuple[str, int], str] = {}
    alike_named = Counter[str]()
    for device, parts in sorted(users.items()):
        nodes = tainted[device]
        held = {part: using.devices for part, using in parts.items()}
        more = unions(held, nodes.free, nodes.whole)
        running = [(part, using.running) for part, using in parts.items() if using.running]
        wider: list[tuple[int, str]] = []
        # The widest first: what a part is within is there already.
        order = sorted((*parts, *more), key=lambda part: (-part.bit_count(), part))
        for _, alike in groupby(order, int.bit_count):
            named = []
            for part in alike:
                name = text = f"{device} without nodes tainted by {nodes.closed(part)}"
                # Thousands may be named alike, and a tenant may name its own device so.
                while name in capacity:
                    alike_named[text] += 1
                    name = f"{text} ({alike_named[text] + 1})"
                # All of them: the nodes of one may be among those of two that are not among each other's.
                around = (*(other for mask, other in wider if mask & part == part), device)
                # What runs elsewhere counts in each wider type, and so is among what there is of each.
                count = nodes.free(part) + sum(
                    number
                    for inner, elsewhere in running
                    if inner & part == inner
                    for at, number in elsewhere.items()
                    if not nodes.among(at, part)
                )
                capacity[name] = min(count, *(capacity[each] for each in around))
                named.append((part, name))
                if part in parts:
                    names[device, part], within[name] = name, around
            wider += named
    variants = tuple(
        replace(
            source,
            narrowed={device: names[device, part] for device, part in opened[source.key].items()},
        )
        if source.key in opened
        else source
        for source in known.variants
    )
    return replace(known, variants=variants, capacity=capacity, within=within)
