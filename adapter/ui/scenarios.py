"""What else could be: copies of the last planned fleet with other loads, SLO targets, prices and devices.

Everything is a Fleet that the planner takes; nothing is changed in the cluster.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from adapter import errors
from adapter.controller.reconciler import Planner
from adapter.planning import fleet
from adapter.planning import plan as planning

LEAST_SHARE, MOST_SHARE = 0.0, 4.0
"""Range of the factors of load, SLO targets and prices."""

MOST_DEVICES = 100_000

ALL = "all"
"""Scope of the whole fleet."""

CURVE_POINTS = 24
CURVE_REACH = 1.25
"""Load of the last point of a capacity curve, over the largest within the SLO targets."""

_UNLIMITED = 10_000_000


class LastPlan:
    """The planner of the control loop, which keeps the last fleet that was planned, and its plan.

    Attributes:
        fleet: Fleet of the last plan; None before the first one.
        plan: The plan; None before the first one.

    """

    def __init__(self, planner: Planner) -> None:
        self._planner = planner
        self.fleet: fleet.Fleet | None = None
        self.plan: planning.Plan | None = None

    async def __call__(self, snapshot: fleet.Fleet) -> planning.Plan:
        """Plan, and keep both."""
        plan = await self._planner(snapshot)
        self.fleet, self.plan = snapshot, plan
        return plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Changes of a fleet.

    Attributes:
        scope: Variants whose load and SLO targets change: `all`, a variant's key, or the name of a class
            after `class:`.
        load: Factor of the arrival rates.
        ttft: Factor of the TTFT targets.
        itl: Factor of the ITL targets.
        accelerator: Accelerator whose price changes; empty changes the prices of all.
        price: Factor of the prices.
        device: Device type whose number changes; empty leaves the capacity as it is.
        devices: Number of its devices.

    """

    scope: str = ALL
    load: float = 1.0
    ttft: float = 1.0
    itl: float = 1.0
    accelerator: str = ""
    price: float = 1.0
    device: str = ""
    devices: int = 0


def parse(form: Mapping[str, str], known: fleet.Fleet) -> Scenario:
    """Read the fields of a form; shares are per cent.

    Raises:
        InputError: A field has no meaning for that fleet; names the field and the fix.

    """
    scope = form.get("scope", ALL) or ALL
    names = {variant.name for variant in known.variants}
    classes = {f"class:{item.name}" for item in known.service_classes}
    if scope != ALL and scope not in names and scope not in classes:
        raise errors.InputError(
            "scope: names neither a planned variant nor a class; choose one of the list"
        )
    accelerator = form.get("accelerator", "")
    if accelerator and accelerator not in {item.name for item in known.accelerators}:
        raise errors.InputError("accelerator: has no price here; choose one of the list")
    device = form.get("device", "")
    if device and device not in {item.device_type for item in known.accelerators}:
        raise errors.InputError("device: is not known here; choose one of the list")
    return Scenario(
        scope=scope,
        load=_share(form, "load"),
        ttft=_share(form, "ttft", least=0.05),
        itl=_share(form, "itl", least=0.05),
        accelerator=accelerator,
        price=_share(form, "price"),
        device=device,
        devices=_devices(form) if device else 0,
    )


def _share(form: Mapping[str, str], name: str, *, least: float = LEAST_SHARE) -> float:
    text = form.get(name, "100")
    try:
        share = float(text) / 100.0
    except ValueError:
        share = math.nan
    if not least <= share <= MOST_SHARE:
        raise errors.InputError(
            f"{name}: must be from {100 * least:g} to {100 * MOST_SHARE:g} %, not {text[:20]!r}"
        )
    return share


def _devices(form: Mapping[str, str]) -> int:
    text = form.get("devices", "")
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and int(text) <= MOST_DEVICES):
        raise errors.InputError(
            f"devices: must be a whole number from 0 to {MOST_DEVICES}, not {text[:20]!r}"
        )
    return int(text)


def changed(known: fleet.Fleet, scenario: Scenario) -> fleet.Fleet:
    """A copy of the fleet with the changes of the scenario; a group changes with any of its variants."""
    classes = {item.name: item for item in known.service_classes}
    concerned = {item.name for item in known.variants if _concerned(item, scenario.scope)}
    grouped = [group for group in known.groups if not concerned.isdisjoint(group.variants)]
    concerned |= {name for group in grouped for name in group.variants}
    variants = []
    for variant in known.variants:
        if variant.name not in concerned:
            variants.append(variant)
            continue
        own = f"{variant.service_class} of {scenario.scope}"
        before = classes.get(variant.service_class)
        if before is not None and own not in classes:
            classes[own] = replace(
                before,
                name=own,
                targets={model: _targets(item, scenario) for model, item in before.targets.items()},
            )
        load = _loaded(variant.load, scenario.load)
        variants.append(
            replace(
                variant, load=load, service_class=own if own in classes else variant.service_class
            )
        )
    capacity = known.capacity
    if scenario.device:
        kinds = {item.device_type for item in known.accelerators}
        rest = dict.fromkeys(kinds, _UNLIMITED) if capacity is None else dict(capacity)
        capacity = {**rest, scenario.device: scenario.devices}
    return replace(
        known,
        accelerators=tuple(
            replace(item, unit_cost=item.unit_cost * scenario.price)
            if scenario.accelerator in {"", item.name}
            else item
            for item in known.accelerators
        ),
        service_classes=tuple(classes.values()),
        variants=tuple(variants),
        capacity=capacity,
        groups=tuple(
            replace(
                group,
                service_class=own if own in classes else group.service_class,
                traffic=_loaded(group.traffic, scenario.load),
            )
            if group in grouped
            else group
            for group in known.groups
            for own in (f"{group.service_class} of {scenario.scope}",)
        ),
    )


def _loaded(load: fleet.Load, factor: float) -> fleet.Load:
    return replace(
        load,
        arrival_rate_rps=load.arrival_rate_rps * factor,
        in_flight=load.in_flight * factor,
    )


def _concerned(variant: fleet.Variant, scope: str) -> bool:
    return scope in {ALL, variant.name, f"class:{variant.service_class}"}


def _targets(before: fleet.Targets, scenario: Scenario) -> fleet.Targets:
    return replace(
        before, itl_ms=before.itl_ms * scenario.itl, ttft_ms=before.ttft_ms * scenario.ttft
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """One change of a single variant.

    Attributes:
        label: The change in words.
        variant: The variant with it.
        targets: SLO targets with it.
        pinned: Whether the number of replicas is given.

    """

    label: str
    variant: fleet.Variant
    targets: fleet.Targets
    pinned: bool = False


def alone(known: fleet.Fleet, variant: fleet.Variant, decision: planning.Decision) -> fleet.Variant:
    """The variant with the load that its decision was made for: of a group, its part of the demand."""
    group = next((item for item in known.groups if item.name == decision.group), None)
    if group is None:
        return variant
    return replace(
        variant,
        load=replace(
            group.traffic,
            arrival_rate_rps=decision.arrival_rate_rps,
            in_flight=group.traffic.in_flight * (decision.share or 0.0),
            ordered=variant.load.ordered,
        ),
    )


def alternatives(
    variant: fleet.Variant, targets: fleet.Targets, *, accelerator: str, replicas: int
) -> list[Alternative]:
    """Changes that show what the answer depends on: one replica, 20 % of load, each SLO target.

    Args:
        variant: As it was planned.
        targets: Its SLO targets.
        accelerator: Accelerator that was decided; one replica more or fewer stays on it.
        replicas: Replicas that were decided.

    """
    there = tuple(item for item in variant.profiles if item.accelerator == accelerator)
    changes = [Alternative(label="as it is", variant=variant, targets=targets)]
    for count, label in ((replicas - 1, "one replica fewer"), (replicas + 1, "one replica more")):
        if count >= 1 and there:
            bound = replace(
                variant,
                profiles=there,
                keep_accelerator=False,
                min_replicas=count,
                max_replicas=count,
                load=replace(variant.load, in_flight=0.0),
            )
            changes.append(Alternative(label=label, variant=bound, targets=targets, pinned=True))
    for share, label in ((0.8, "20 % less load"), (1.2, "20 % more load")):
        rate = variant.load.arrival_rate_rps * share
        load = replace(variant.load, arrival_rate_rps=rate)
        changes.append(
            Alternative(label=label, variant=replace(variant, load=load), targets=targets)
        )
    for name, title, unit in (
        ("ttft_ms", "TTFT", "ms"),
        ("itl_ms", "ITL", "ms"),
        ("tps", "throughput", "tokens/s"),
    ):
        value = getattr(targets, name)
        if value:
            for share in (0.8, 1.25):
                other = replace(targets, **{name: value * share})
                label = f"{title} target {value * share:.4g} {unit} instead of {value:.4g}"
                changes.append(Alternative(label=label, variant=variant, targets=other))
    return changes


def of_alternatives(known: fleet.Fleet, some: Sequence[Alternative]) -> fleet.Fleet:
    """One fleet with every alternative as a variant of its own, named by its place; nothing is limited."""
    priorities = {item.name: item.priority for item in known.service_classes}
    classes, variants = [], []
    for place, item in enumerate(some):
        name = str(place)
        priority = priorities.get(item.variant.service_class, 1)
        classes.append(
            fleet.ServiceClass(
                name=name, priority=priority, targets={item.variant.model: item.targets}
            )
        )
        variants.append(replace(item.variant, name=name, service_class=name))
    return replace(
        known,
        service_classes=tuple(classes),
        variants=tuple(variants),
        capacity=None,
        groups=(),
        budgets=(),
    )


def curve(variant: fleet.Variant, accelerator: str, largest_rps: float) -> list[Alternative]:
    """One replica at loads from little to `CURVE_REACH` of the largest within the SLO targets.

    Without targets, so that the model says what latencies become beyond them.
    """
    profiles = tuple(item for item in variant.profiles if item.accelerator == accelerator)
    points = []
    for place in range(CURVE_POINTS):
        rate = largest_rps * CURVE_REACH * (place + 1) / CURVE_POINTS
        one = replace(
            variant,
            profiles=profiles,
            keep_accelerator=False,
            min_replicas=1,
            max_replicas=1,
            load=replace(variant.load, arrival_rate_rps=rate, in_flight=0.0, ordered=0),
        )
        points.append(Alternative(label=f"{rate}", variant=one, targets=fleet.Targets()))
    return points
