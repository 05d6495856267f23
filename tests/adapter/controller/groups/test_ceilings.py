"""Ceilings beside the plan: what is held counts, and what only stays never exceeds one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from adapter.controller import stabilization
from adapter.controller.groups import ceilings
from adapter.controller.stabilization import StableTarget
from adapter.planning import fleet
from adapter.planning import plan as planning
from adapter.planning.groups import EVERY, Budget
from adapter.resources.inputs import Inputs
from adapter.settings.budgets import budgets
from optimizer.explain import Explanation
from optimizer.problem import Candidate
from tests.adapter.resources.model_groups.test_forming import source
from tests.fakes.fleet_states import fleet_of

SOURCES = tuple(
    replace(source(key), accelerator=accelerator)
    for key, accelerator in (("a/x", "H100"), ("a/y", "A100"), ("b/z", "2xA100"))
)
INPUTS = Inputs(
    accelerators=(
        fleet.Accelerator(name="H100", device_type="nvidia-h100", unit_cost=90.0),
        fleet.Accelerator(name="A100", device_type="nvidia-a100", unit_cost=40.0),
        fleet.Accelerator(name="2xA100", device_type="nvidia-a100", unit_cost=80.0, multiplicity=2),
    ),
    variants=SOURCES,
)


def decision(accelerator: str, replicas: int, group: str = "") -> planning.Decision:
    candidate = Candidate(
        accelerator=accelerator if replicas else "", replicas=replicas, max_batch=1, cost=0.0,
        itl_ms=1.0, ttft_ms=1.0, max_rate_rpm=1.0,
    )  # fmt: skip
    explanation = Explanation(binding="itl", sized="", runner_up=None, shortages=())
    return planning.Decision(
        candidate=candidate, value=0.0, served="full", arrival_rate_rps=0.0, group=group,
        why=planning.Why(planning.Reasons(explanation, "")),
    )  # fmt: skip


def within(
    targets: dict[str, int],
    planned: dict[str, int],
    *budgets: Budget,
    present: dict[str, int] | None = None,
    carried: bool = False,
) -> dict[str, int]:
    names = {"a/x": "H100", "a/y": "A100", "b/z": "2xA100"}
    capped = ceilings.within(
        {key: StableTarget(replicas=number) for key, number in targets.items()},
        {key: decision(names[key], number, "g") for key, number in planned.items()},
        present or {},
        carried=frozenset({"g"} if carried else ()),
        inputs=INPUTS,
        budgets=budgets,
    )
    return {key: target.replicas for key, target in capped.items()}


def test_devices_and_units_are_counted() -> None:
    """A quota by device type counts devices; one by accelerator name counts its units."""
    used = ceilings.use(INPUTS, SOURCES[2], "2xA100", 3)
    assert (used.cost, used.devices) == (240.0, 6)
    assert used.by_name == {"nvidia-a100": 6, "2xA100": 3}


def test_what_only_stays_goes_where_a_ceiling_has_no_room() -> None:
    """The planned part stays, and so do variants of other namespaces."""
    budget = Budget(name="a", scope="namespace", subject="a", cost=130.0)
    targets, planned = {"a/x": 1, "a/y": 2, "b/z": 9}, {"a/x": 1, "a/y": 1, "b/z": 1}
    assert within(targets, planned, budget) == {"a/x": 1, "a/y": 1, "b/z": 9}
    assert within(targets, planned, replace(budget, cost=170.0)) == targets
    assert within(targets, planned) == targets


def test_a_move_between_variants_is_not_begun_without_room() -> None:
    """What serves carries the demand: it stays, rather than to end before its successor is ready."""
    budget = Budget(name="all", devices=2)
    moves: dict[str, Any] = {"present": {"a/x": 0, "a/y": 2}, "carried": True}
    assert within({"a/x": 1, "a/y": 2}, {"a/x": 1, "a/y": 0}, budget, **moves) == {
        "a/x": 0,
        "a/y": 2,
    }
    moves["carried"] = False
    assert within({"a/x": 1, "a/y": 2}, {"a/x": 1, "a/y": 0}, budget, **moves) == {
        "a/x": 1,
        "a/y": 0,
    }


def test_held_variants_take_their_part() -> None:
    """Also of a ceiling for every namespace: that of their own namespace is then another one."""
    every = Budget(
        name="each", scope="namespace", subject=EVERY, cost=200.0,
        devices_by_type={"nvidia-a100": 3},
    )  # fmt: skip
    all_ = Budget(name="all", cost=500.0, devices=-1)
    rest = ceilings.unplanned((every, all_), INPUTS, {"a/y": 2})
    assert rest == (
        every,
        replace(all_, cost=420.0),
        Budget(
            name="each (a)", scope="namespace", subject="a", cost=120.0, devices_by_type={"nvidia-a100": 1}
        ),
    )  # fmt: skip
    assert ceilings.unplanned((all_,), INPUTS, {"a/x": 9})[0].cost == 0.0


def test_held_variants_of_a_namespace_called_default_take_their_part_of_its_own() -> None:
    """The word people write for each namespace is its name: what is held there lowers no other's ceiling."""
    (every,) = budgets("- {scope: namespace, namespace: default, gpus: 3}")
    assert every.subject == EVERY
    named = replace(source("default/y"), accelerator="A100", namespace="default")
    inputs = replace(INPUTS, variants=(*INPUTS.variants, named))
    rest = ceilings.unplanned((every,), inputs, {"default/y": 2})
    assert [(item.subject, item.devices) for item in rest] == [(EVERY, 3), ("default", 1)]


def test_several_ceilings_for_every_namespace_stay_in_force() -> None:
    """Where what is held takes of one of them, the namespace has its own; it loses no other one by that."""
    cost = Budget(name="cost", scope="namespace", subject=EVERY, cost=200.0)
    quota = replace(cost, name="quota", cost=-1, devices_by_type={"nvidia-h100": 1})
    rest = ceilings.unplanned((cost, quota), INPUTS, {"a/y": 1})
    assert [(item.name, item.cost) for item in rest[2:]] == [("cost (a)", 160.0), ("quota (a)", -1)]
    assert within({"a/x": 2, "b/z": 1}, {"a/x": 1, "b/z": 1}, *rest) == {"a/x": 1, "b/z": 1}
    assert ceilings.unplanned((quota,), INPUTS, {"a/y": 1}) == (quota,)


def test_a_budget_for_every_namespace_holds_for_each_of_them() -> None:
    """What another namespace keeps is not counted; one that is called `default` is one of them too."""
    every = Budget(name="each", scope="namespace", subject=EVERY, devices=3)
    assert within({"a/x": 3, "b/z": 1}, {"a/x": 1, "b/z": 1}, every) == {"a/x": 3, "b/z": 1}
    assert within({"a/x": 4, "b/z": 1}, {"a/x": 1, "b/z": 1}, every) == {"a/x": 1, "b/z": 1}
    (named,) = (replace(source("default/x"), accelerator="H100"),)
    capped = ceilings.within(
        {"default/x": StableTarget(replicas=4)},
        {"default/x": decision("H100", 1)},
        {},
        carried=frozenset(),
        inputs=replace(INPUTS, variants=(named,)),
        budgets=(every,),
    )
    assert capped["default/x"].replicas == 1


class Iterated(tuple[Any, ...]):
    """Counts the items that are taken out of it one after the other."""

    __slots__ = ()
    looks = 0

    def __iter__(self) -> Iterator[Any]:
        for item in super().__iter__():
            Iterated.looks += 1
            yield item


class Compared(str):
    """A name that counts its comparisons."""

    __slots__ = ()
    __hash__ = str.__hash__
    looks = 0

    def __eq__(self, other: object) -> bool:
        Compared.looks += 1
        return super().__eq__(other)


def test_variants_times_accelerators_and_budgets_is_nobodys_time() -> None:
    """2,000 variants of as many namespaces, each with an accelerator and a budget of its own."""
    many = 2000
    names = [Compared(f"n{number}") for number in range(many)]
    inputs = Inputs(
        accelerators=Iterated(
            fleet.Accelerator(name=f"gpu-{name}", device_type=f"d-{name}", unit_cost=1.0)
            for name in names
        ),
        variants=tuple(
            replace(
                source(f"{name}/x"), accelerator=f"gpu-{name}", namespace=Compared(name), replicas=1
            )
            for name in names
        ),
        capacity={f"d-{name}": 8 for name in names},
    )
    budgets = (
        *(Budget(name=f"b-{name}", scope="namespace", subject=name, cost=0.0) for name in names),
        Budget(name="every", scope="namespace", subject=EVERY, cost=0.0),
        Budget(name="all", devices=many),
    )
    Iterated.looks = Compared.looks = 0
    assert stabilization.free_capacity(inputs, inputs.variants) == {
        f"d-{name}": 7 for name in names
    }
    keys = [item.key for item in inputs.variants]
    left = ceilings.unplanned(budgets, inputs, dict.fromkeys(keys, 1))
    assert left[-1].devices == 0
    capped = ceilings.within(
        dict.fromkeys(keys, StableTarget(replicas=2)),
        {item.key: decision(item.accelerator, 1) for item in inputs.variants},
        {},
        carried=frozenset(),
        inputs=inputs,
        budgets=budgets,
    )
    assert {item.replicas for item in capped.values()} == {1}
    assert Iterated.looks == 0
    assert Compared.looks <= 20 * many


@pytest.mark.parametrize("subject", ["Premium", EVERY])
def test_a_budget_of_a_class_counts_replicas_of_one_part_of_its_requests(subject: str) -> None:
    """Prefill and decode have targets of their own, and are of the class all the same."""
    names = ("Premium (prefill)", "Premium (decode)", "Premium")
    sources = [replace(item, service_class=own) for item, own in zip(SOURCES, names, strict=True)]
    inputs = replace(INPUTS, variants=tuple(sources))
    budget = Budget(name="p", scope="class", subject=subject, cost=500.0)
    rest = ceilings.unplanned((budget,), inputs, {"a/x": 1, "a/y": 1, "b/z": 1})
    assert rest[-1].cost == 500.0 - 90.0 - 40.0 - 80.0
    # The planner counts them in the same way.
    known = fleet_of(6)
    variants = [
        replace(item, service_class=f"{item.service_class} ({('prefill', 'decode')[at % 3 % 2]})")
        for at, item in enumerate(known.variants)
    ]
    classes = [
        replace(item, name=f"{item.name} ({role})")
        for item in known.service_classes
        for role in ("prefill", "decode")
    ]
    free = replace(
        known, variants=tuple(variants), service_classes=tuple(classes), groups=(), budgets=()
    )
    bounded = replace(free, budgets=(replace(budget, cost=100.0),))
    costs = [
        sum(
            made.decisions[item.name].candidate.cost
            for item in variants
            if item.service_class.startswith("Premium") and item.name in made.decisions
        )
        for made in (planning.plan(free), planning.plan(bounded))
    ]
    assert costs[0] > 100.0 >= costs[1] > 0.0
