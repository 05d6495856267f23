"""The what-if page: its form, and both plans side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapter.planning import fleet
from adapter.planning import plan as planning
from adapter.ui import scenarios
from adapter.ui.snapshots import Snapshot
from adapter.ui.workshop import Comparison

SLIDERS = (
    ("load", "Load", 0, 400),
    ("ttft", "TTFT target", 5, 400),
    ("itl", "ITL target", 5, 400),
    ("price", "Price", 0, 400),
)
"""Name, title, least and largest per cent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """One sum over both plans."""

    label: str
    before: float
    after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One variant whose plan changes; `cost` is the difference in cents per hour."""

    name: str
    before: str
    after: str
    cost: float
    ttft: float | None
    itl: float | None
    why: str


def context(
    snapshot: Snapshot,
    known: fleet.Fleet | None,
    given: Mapping[str, str],
    comparison: Comparison | None = None,
    problem: str = "",
    *,
    devices: Mapping[str, int],
) -> dict[str, Any]:
    """What the template needs.

    Args:
        snapshot: For what every page shows.
        known: Fleet that was planned last.
        given: Fields of the form, as they were sent.
        comparison: Both plans.
        problem: Why there are none.
        devices: Devices by type, as they are.

    """
    if known is None and not problem:
        problem = "This process has made no plan yet; only the leader plans, once per interval."
    form = {"scope": scenarios.ALL, "accelerator": "", "device": "", "devices": "0"}
    form |= {name: "100" for name, *_ in SLIDERS}
    form |= {name: value for name, value in given.items() if name in form}
    return {
        "here": "what-if",
        "at": snapshot.at,
        "form": form,
        "scopes": _scopes(known, form["scope"]),
        "sliders": SLIDERS,
        "accelerators": () if known is None else [item.name for item in known.accelerators],
        "devices": devices,
        "most_devices": min(
            max([16, *(2 * count for count in devices.values())]), scenarios.MOST_DEVICES
        ),
        "comparison": comparison,
        "what_if_problem": problem,
        "sums": [] if comparison is None else _sums(comparison),
        "changes": [] if comparison is None else _changes(comparison),
    }


def _scopes(known: fleet.Fleet | None, scope: str) -> list[tuple[str, str]]:
    """Choices of the first field: all, each class, and the variant that was linked to."""
    scopes = [(scenarios.ALL, "all variants")]
    if known is None:
        return scopes
    used = {variant.service_class for variant in known.variants}
    scopes += [(f"class:{name}", f"class {name}") for name in sorted(used)]
    if any(variant.name == scope for variant in known.variants):
        scopes.append((scope, f"variant {scope}"))
    return scopes


def _sums(comparison: Comparison) -> list[Sum]:
    both = (comparison.before, comparison.after)

    def of(label: str, numbers: list[float]) -> Sum:
        return Sum(label=label, before=numbers[0], after=numbers[1])

    return [
        of("Cents/h", [plan.total_cost for plan in both]),
        of("Replicas", [_replicas(plan) for plan in both]),
        *(
            of(f"Variants served {words}", [_served(plan, served) for plan in both])
            for served, words in (
                ("full", "in full"),
                ("partial", "in part"),
                ("none", "not at all"),
            )
        ),
        of("Variants that cannot be planned", [float(len(plan.set_aside)) for plan in both]),
    ]


def _replicas(plan: planning.Plan) -> float:
    return float(sum(item.candidate.replicas for item in plan.decisions.values()))


def _served(plan: planning.Plan, served: str) -> float:
    return float(sum(item.served == served for item in plan.decisions.values()))


def _changes(comparison: Comparison) -> list[Change]:
    """Variants whose replicas, accelerator, service or cost differ; the largest differences of cost first."""
    changes = []
    for name in {**comparison.before.decisions, **comparison.after.decisions}:
        before, after = comparison.before.decisions.get(name), comparison.after.decisions.get(name)
        cost = (after.candidate.cost if after else 0.0) - (before.candidate.cost if before else 0.0)
        texts = _short(before), _short(after)
        if texts[0] == texts[1] and abs(cost) < 1e-9:
            continue
        serves = after is not None and after.candidate.replicas > 0
        changes.append(
            Change(
                name=name,
                before=texts[0],
                after=texts[1],
                cost=cost,
                ttft=after.candidate.ttft_ms if after and serves else None,
                itl=after.candidate.itl_ms if after and serves else None,
                why=after.reason if after else comparison.after.set_aside.get(name, ""),
            )
        )
    return sorted(changes, key=lambda item: (-abs(item.cost), item.name))


def _short(decision: planning.Decision | None) -> str:
    if decision is None:
        return "cannot be planned"
    if decision.served == "none":
        return "not served"
    chosen = decision.candidate
    part = " (part of its load)" if decision.served == "partial" else ""
    return f"{chosen.replicas} \u00d7 {chosen.accelerator or 'nothing'}{part}"
