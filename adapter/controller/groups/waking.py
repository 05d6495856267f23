"""Which variant of a group wakes it from zero: one that is ready soon, at little cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from adapter.controller.groups.availability import NO_LIMIT
from adapter.controller.groups.demanded import startup
from adapter.controller.groups.state import GroupRecord
from adapter.controller.settings import LoopSettings
from adapter.resources.configuration import attainable
from adapter.resources.variant import VariantSource

SLACK_SECONDS = 30.0
"""Time by which a cheaper variant may be ready later than the one that is ready first."""

SLACK_SHARE = 0.25
"""The same as a share of the start-up time of the one that is ready first; the longer time counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sleeper:
    """A variant at zero replicas.

    Attributes:
        key: Key of the variant.
        startup_seconds: Time until a new replica serves.
        cost: Cost of one replica, cents per hour.
        able: Whether its replicas can come, and keep the SLO targets.

    """

    key: str
    startup_seconds: float
    cost: float
    able: bool = True


def sleeper(
    record: GroupRecord, source: VariantSource, costs: Mapping[str, float], settings: LoopSettings
) -> Sleeper:
    """A variant at zero replicas as a candidate; `costs`: of one unit of each accelerator."""
    own = costs.get(source.accelerator, 0.0) * source.units(source.accelerator)
    units = (costs.get(p.accelerator, 0.0) * p.accelerator_count for p in source.profiles)
    return Sleeper(
        key=source.key,
        startup_seconds=startup(record, source, settings),
        cost=min(units, default=own),
        able=not attainable.problem(source.profiles, source.targets)
        and record.limits.get(source.key, NO_LIMIT).replicas != 0
        and source.max_replicas != 0
        and not source.held,
    )


def first(sleepers: Iterable[Sleeper]) -> tuple[str, str]:
    """The variant to wake, and why: the cheapest of those that are ready about as soon as the first one.

    Those that cannot come, or cannot keep the SLO targets, count where there are no others.
    """
    known = list(sleepers)
    able = [item for item in known if item.able] or known
    soonest = min(item.startup_seconds for item in able)
    slack = max(SLACK_SECONDS, SLACK_SHARE * soonest)
    soon = [item for item in able if item.startup_seconds <= soonest + slack]
    chosen = min(soon, key=lambda item: (item.cost, item.startup_seconds, item.key))
    others = "; ".join(
        f"{item.key} {_shown(item)}"
        + ("" if item.able else ", but cannot come or keep the targets")
        for item in sorted(known, key=lambda item: (item.startup_seconds, item.key))
        if item is not chosen
    )
    text = f"{chosen.key} wakes first: ready in {_shown(chosen)}"
    return chosen.key, f"{text} ({others})" if others else text


def _shown(item: Sleeper) -> str:
    return f"{item.startup_seconds:.0f} s at {item.cost:g} cents/h"
