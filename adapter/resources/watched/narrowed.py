"""Devices of tainted nodes: they count only for variants whose pods tolerate the taints.

A variant that tolerates only some nodes of a device type is planned on a narrower type, with the devices of
these nodes. What is planned on the narrower type is taken off the wider one too: no device is planned twice.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace

from adapter.kube.scale import Reference
from adapter.resources import gpus
from adapter.resources.devices import taints
from adapter.resources.inputs import Inputs
from adapter.resources.variant import VariantSource

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

_Open = frozenset[tuple[taints.Taint, ...]]
"""Taints of each kind of nodes whose devices somebody may use."""

_PLAIN: _Open = frozenset({()})

_Running = Counter[tuple[taints.Taint, ...] | None]
"""Devices that pods have on nodes where new ones of theirs may not go, by the taints of these."""


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
    whole: dict[str, _Open] = {
        device: frozenset(by_type[name])
        for device, name in given.items()
        if any(by_type.get(name, ()))
    }
    if not whole:
        return known
    admission = taints.Admission((each for item in whole.values() for each in item), ())
    kept: dict[tuple[str, _Open], _Running] = defaultdict(Counter)
    opened: dict[str, dict[str, _Open]] = {}
    by_namespace: dict[tuple[str, str], set[_Open]] = defaultdict(set)
    for source in known.variants:
        target = source.namespace, source.reference
        free = [admission.tolerated(each) for each in tolerated.get(target, ())]
        for device in _devices(known, source) & whole.keys() if free else ():
            part = frozenset(
                item for item in whole[device] if any(each.issuperset(item) for each in free)
            )
            if part == whole[device]:
                continue
            mine = by_namespace[source.namespace, device]
            if part not in mine and len(mine) >= MOST_TYPES:
                part = _PLAIN & whole[device]
            mine.add(part)
            opened.setdefault(source.key, {})[device] = part
            # What runs where new pods may not go any more stays there.
            running = kept[device, part]
            for pod in pods.get(target, ()):
                for (name, at), count in inventory.held.get(pod, {}).items():
                    if name == given[device] and at not in part:
                        running[at] += count
    return _with_types(known, {d: by_type[given[d]] for d in whole}, kept, opened)


def _devices(known: Inputs, source: VariantSource) -> set[str]:
    """Device types that a variant may be planned on."""
    named = {source.accelerator, *(item.accelerator for item in source.profiles)}
    units = (known.accelerator_named.get(name) for name in named)
    return {item.device_type for item in units if item is not None}


def _with_types(
    known: Inputs,
    free: Mapping[str, Mapping[tuple[taints.Taint, ...], int]],
    kept: Mapping[tuple[str, _Open], _Running],
    opened: Mapping[str, Mapping[str, _Open]],
) -> Inputs:
    """The inputs with the types of these parts; `opened`: parts by variant key and device type."""
    capacity, within = dict(known.capacity or {}), dict[str, tuple[str, ...]]()
    names: dict[tuple[str, _Open], str] = {}
    running = [(of, inner, held) for (of, inner), held in kept.items() if held]
    # The widest first: what a part is within is there already.
    for device, part in sorted(
        kept, key=lambda item: (item[0], -len(item[1]), str(sorted(map(str, item[1]))))
    ):
        # All of them: the nodes of one may be among those of two that are not among each other's.
        wider = [name for (of, other), name in names.items() if of == device and other > part]
        name = _name(device, frozenset(free[device]) - part)
        while name in capacity:
            name += "'"
        names[device, part] = name
        # What runs elsewhere counts in each wider type, and so is among what there is of each.
        count = sum(free[device][item] for item in part) + sum(
            number
            for of, inner, held in running
            if of == device and inner <= part
            for at, number in held.items()
            if at not in part
        )
        within[name] = (*wider, device)
        capacity[name] = min(count, *(capacity[each] for each in within[name]))
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


def _name(device: str, closed: _Open) -> str:
    """Name of a type in messages: the device without the nodes of some taints."""
    keys = sorted({str(taint) for item in closed for taint in item})
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return f"{device} without nodes tainted by {', '.join(keys[:3])}{more}"
