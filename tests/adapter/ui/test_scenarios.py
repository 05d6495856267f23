"""What else could be: forms with their limits, changed fleets, alternatives and curves, and their worker."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from adapter import errors
from adapter.planning import fleet
from adapter.planning import plan as planning
from adapter.planning.groups import Budget, Group
from adapter.ui import scenarios, workshop
from adapter.ui.scenarios import LastPlan, Scenario
from adapter.ui.workshop import BusyError, Workshop
from tests.fakes import fleet_states

KEY = "team-2/v0016"


@pytest.fixture(scope="module")
def known() -> fleet.Fleet:
    """A small fleet."""
    return fleet_states.fleet_of(40)


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({"load": "nan"}, "load"), ({"load": "-1"}, "load"), ({"load": "1e9"}, "load"),
        ({"load": "<b>"}, "load"), ({"ttft": "0"}, "ttft"), ({"itl": "inf"}, "itl"),
        ({"price": "401"}, "price"), ({"scope": "team-0/none"}, "scope"),
        ({"accelerator": "B200"}, "accelerator"), ({"device": "x"}, "device"),
        ({"device": "A100-80GB"}, "devices"),
        ({"device": "A100-80GB", "devices": "9" * 30}, "devices"),
        ({"device": "A100-80GB", "devices": "\u0663"}, "devices"),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_fields_are_named(form: dict[str, str], field: str, known: fleet.Fleet) -> None:
    """A form that no browser would send is refused with its field and the fix."""
    with pytest.raises(errors.InputError, match=f"^{field}: "):
        scenarios.parse(form, known)


def test_a_scenario_changes_its_scope_alone(known: fleet.Fleet) -> None:
    """Load and SLO of one variant; every other variant, and the fleet itself, stay as they are."""
    more = scenarios.parse({"scope": KEY, "load": "300", "ttft": "50"}, known)
    changed = scenarios.changed(known, more)
    for before, after in zip(known.variants, changed.variants, strict=True):
        if before.name != KEY:
            assert after == before
            continue
        assert after.load.arrival_rate_rps == 3 * before.load.arrival_rate_rps
        classes = {item.name: item for item in changed.service_classes}
        assert classes[after.service_class].targets[after.model].ttft_ms == 400.0
        assert classes[before.service_class].targets[after.model].ttft_ms == 800.0
    assert known == fleet_states.fleet_of(40)


@pytest.mark.parametrize("scope", ["all", "first"])
def test_a_group_changes_with_its_variants(known: fleet.Fleet, scope: str) -> None:
    """Its demand and class are those of the scenario, so that it is planned; nothing limits alternatives."""
    first, *_ = known.variants
    names = tuple(
        item.name
        for item in known.variants
        if (item.model, item.service_class) == (first.model, first.service_class)
    )
    group = Group(
        name="n/g",
        model=first.model,
        service_class=first.service_class,
        variants=names,
        traffic=first.load,
    )
    grouped = replace(known, groups=(group,), budgets=(Budget(name="b", cost=0.0),))
    given = {"scope": scope if scope == "all" else first.name, "load": "200"}
    changed = scenarios.changed(grouped, scenarios.parse(given, grouped))
    (after,) = changed.groups
    assert after.traffic.arrival_rate_rps == 2 * group.traffic.arrival_rate_rps
    classes = {item.name: item.service_class for item in changed.variants}
    assert {classes[name] for name in names} == {after.service_class}
    some = scenarios.of_alternatives(grouped, [])
    assert not some.groups
    assert not some.budgets


def test_prices_and_devices(known: fleet.Fleet) -> None:
    """A price of one accelerator changes costs; too few devices leave variants short."""
    dear = scenarios.changed(known, Scenario(accelerator="A100", price=4.0))
    assert [item.unit_cost for item in dear.accelerators] == [160.0, 90.0]
    plan = planning.plan(dear)
    used = [item.candidate.accelerator for item in plan.decisions.values()]
    before = [item.candidate.accelerator for item in planning.plan(known).decisions.values()]
    assert used.count("A100") < before.count("A100")
    few = scenarios.changed(known, Scenario(device="A100-80GB", devices=2))
    assert few.capacity is not None
    given = planning.plan(few).decisions.values()
    held = sum(item.candidate.replicas for item in given if item.candidate.accelerator == "A100")
    assert held <= 2


async def test_alternatives_show_what_the_answer_depends_on(known: fleet.Fleet) -> None:
    """One replica fewer misses the SLO, a fifth more load needs no fewer, and the curve rises."""
    last = LastPlan(fleet_states.plan_here)
    await last(known)
    shop = Workshop(last, planner=fleet_states.plan_here)
    assert last.plan is not None
    decisions = last.plan.decisions
    key = next(key for key, item in decisions.items() if item.candidate.replicas > 1)
    analysis = await shop.analyze(key)
    decided = decisions[key].candidate
    by_label = {item.label: item for item in analysis.outcomes}
    now = by_label["as it is"].decision
    assert now is not None
    assert now.candidate.replicas == decided.replicas
    fewer = by_label["one replica fewer"].decision
    assert fewer is not None
    assert fewer.explanation.binding == "maximum"
    assert fewer.candidate.accelerator == decided.accelerator
    more = by_label["20 % more load"].decision
    assert more is not None
    assert more.candidate.cost >= now.candidate.cost
    assert {"TTFT target 640 ms instead of 800", "ITL target 37.5 ms instead of 30"} <= {*by_label}
    latencies = [itl for _, _, itl in analysis.curve]
    assert len(latencies) == scenarios.CURVE_POINTS
    assert latencies == sorted(latencies)
    assert await shop.analyze(key) is analysis, "computed once per plan"
    with pytest.raises(errors.InputError, match="no model of this variant"):
        await shop.analyze("team-0/none")


async def test_a_member_is_planned_for_its_part_of_the_demand(known: fleet.Fleet) -> None:
    """What the answer of a group's variant depends on begins with the load that its decision was made for."""
    last = LastPlan(fleet_states.plan_here)
    await last(known)
    shop = Workshop(last, planner=fleet_states.plan_here)
    assert last.plan is not None
    group = known.groups[0]
    carried = 0.0
    for key in group.variants:
        decision = last.plan.decisions[key]
        if not decision.candidate.replicas:
            continue
        analysis = await shop.analyze(key)
        outcome = analysis.outcomes[0].decision
        assert outcome is not None
        assert analysis.group == group.name
        assert outcome.arrival_rate_rps == pytest.approx(decision.arrival_rate_rps)
        carried += outcome.arrival_rate_rps
    assert carried == pytest.approx(group.traffic.arrival_rate_rps)


async def test_plans_for_people_are_limited(known: fleet.Fleet) -> None:
    """In a burst the rate is limited; of many that wait, the last are told to try again."""
    last = LastPlan(fleet_states.plan_here)
    now = [0.0]
    shop = Workshop(last, planner=fleet_states.plan_here, now=lambda: now[0])
    with pytest.raises(errors.InputError, match="no plan yet"):
        await shop.compare(Scenario())
    await last(known)
    for _ in range(int(workshop.BURST)):
        await shop.compare(Scenario(load=2.0))
    with pytest.raises(BusyError):
        await shop.compare(Scenario(load=2.0))
    now[0] = 1.0 / workshop.PER_SECOND
    await shop.compare(Scenario(load=2.0))

    released = asyncio.Event()

    async def slow(snapshot: fleet.Fleet) -> planning.Plan:
        await released.wait()
        return planning.plan(snapshot)

    waiting = Workshop(last, planner=slow)
    keys = [variant.name for variant in known.variants[: workshop.WAITING + 1]]
    jobs = [asyncio.create_task(waiting.analyze(key)) for key in keys]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    released.set()
    outcomes = await asyncio.gather(*jobs, return_exceptions=True)
    assert [isinstance(item, BusyError) for item in outcomes] == [False] * 4 + [True]


async def test_the_worker_of_the_pages_is_a_process_of_its_own(known: fleet.Fleet) -> None:
    """It starts with the first request, plans as the loop's does, and ends with the pages."""
    small = replace(known, variants=known.variants[:3])
    last = LastPlan(fleet_states.plan_here)
    await last(small)
    shop = Workshop(last)
    async with shop.running():
        assert shop._process.pid is None
        comparison = await shop.compare(Scenario(load=2.0))
        assert shop._process.pid is not None
        assert comparison.after.total_cost >= comparison.before.total_cost
    assert shop._process.pid is None
