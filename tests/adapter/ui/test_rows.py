"""The fleet as rows: states by urgency, groups, totals, orders and filters."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from adapter.controller.state import VariantState
from adapter.diagnostics import explain
from adapter.planning import plan as planning
from adapter.resources.inputs import InvalidVariant
from adapter.ui import groups, rows
from adapter.ui.pages import fleet as fleet_page
from adapter.ui.rows import Row
from tests.fakes import fleet_states

COUNT = 60


@pytest.fixture(scope="module")
def states() -> dict[str, VariantState]:
    """States of a small fleet."""
    known = fleet_states.fleet_of(COUNT)
    return fleet_states.states_of(known, planning.plan(known), now=time.time())


def row_of(state: VariantState) -> Row:
    return rows.of_document(explain.of_state(state, now=state.decided_at))


@pytest.mark.parametrize(
    ("number", "expected"),
    [(7, "short"), (11, "held"), (13, "stale"), (17, "drifting"), (34, "slow"), (1, "ok")],
)
def test_states_say_what_is_wrong(
    states: dict[str, VariantState], number: int, expected: str
) -> None:
    """Each kind of trouble has its state, and the reason is in the row."""
    key = f"team-{number % 7}/v{number:04}"
    row = row_of(states[key])
    assert row.state == expected
    assert row.key == key
    if expected == "held":
        assert "no fresh metrics" in row.why


def test_starting_replicas_are_those_asked_for_that_are_not_ready(
    states: dict[str, VariantState],
) -> None:
    """Of five that the target's spec asks for, two serve: three start."""
    state = states["team-1/v0001"]
    source = replace(state.source, spec_replicas=5, replicas=4, endpoints=("http://a", "http://b"))
    row = row_of(replace(state, source=source, desired=5))
    assert (row.ready, row.starting, row.desired) == (2, 3, 5)
    assert row.state == "scaling"


def test_a_follower_knows_targets_only(states: dict[str, VariantState]) -> None:
    """Without an observation nothing counts as stale, and no cost or load is invented."""
    state = states["team-1/v0001"]
    row = row_of(VariantState(source=state.source, desired=state.source.replicas))
    assert row.state == "ok"
    assert (row.offered, row.cost, row.ttft, row.ttft_predicted) == (None, None, None, None)


def test_the_saturation_rule_predicts_nothing(states: dict[str, VariantState]) -> None:
    """Its decisions repeat what was measured, which is shown as no prediction."""
    state = states["team-1/v0001"]
    assert state.decision is not None
    explanation = replace(state.decision.explanation, binding="saturation")
    why = planning.Why(planning.Reasons(explanation, state.decision.reason))
    row = row_of(replace(state, decision=replace(state.decision, why=why)))
    assert row.ttft_predicted is None
    assert row.itl_predicted is None


def test_a_refusal_comes_first() -> None:
    """A VariantAutoscaling that is not used has a row with its problem."""
    refusal = InvalidVariant(namespace="n", name="v", reason="TargetNotFound", message="no target")
    row = rows.of_document(explain.of_refusal(refusal))
    assert (row.state, row.why, row.urgency) == ("invalid", "no target", 0)


def test_groups_are_those_of_the_control_loop(states: dict[str, VariantState]) -> None:
    """By attention: a group by its worst variant, once, with its demand; variants without one stand alone."""
    order = rows.ordered(map(row_of, states.values()), "attention")
    bundles = groups.grouped(order, order)
    assert [row for group in bundles for row in group.rows] == order
    worst = [row.urgency for group in bundles if group.shared is None for row in group.rows]
    assert worst == sorted(worst)
    headed = [group for group in bundles if group.shared is not None]
    formed = {state.group.name: state.group for state in states.values() if state.group is not None}
    assert {group.shared.name for group in headed if group.shared} == formed.keys() != set()
    assert len(headed) == len(formed)
    for group in headed:
        assert group.shared is not None
        state = formed[group.shared.name]
        assert state.decision is not None
        urgencies = [row.urgency for row in group.rows]
        assert urgencies == sorted(urgencies)
        assert {row.key for row in group.rows} == set(state.members)
        assert {row.key: row.share for row in group.rows} == pytest.approx(
            dict(state.decision.shares), abs=1e-3
        )
        assert group.shared.demand == pytest.approx(state.demand_rpm)
        assert group.shared.capacity == pytest.approx(state.decision.capacity_rpm, abs=1e-2)
        assert group.total.desired == sum(row.desired or 0 for row in group.rows)
        assert group.shared.spot_limit == 0.4
        on_spot = [row.share for row in group.rows if row.interruptible]
        assert group.spot == pytest.approx(sum(share or 0 for share in on_spot))


def test_a_group_on_two_pages_has_its_whole_sums_on_both(states: dict[str, VariantState]) -> None:
    """Of a group that is cut by the end of a page, sums and spot share are those of all its variants."""
    order = rows.ordered(map(row_of, states.values()), "attention")
    place = next(n for n, row in enumerate(order) if row.shared is not None)
    first, second = (
        groups.grouped(part, order) for part in (order[: place + 1], order[place + 1 :])
    )
    assert first[-1].shared == second[0].shared
    assert first[-1].total == second[0].total
    assert first[-1].spot == second[0].spot is not None
    assert (len(first[-1].rows), first[-1].total.variants) == (1, 3)


def test_advice_has_its_replicas_and_a_badge(states: dict[str, VariantState]) -> None:
    """What only advises shows the advised replicas, and is not waiting for them."""
    row = row_of(states["team-5/v0019"])
    assert (row.advisory, row.states) == (True, ("advisory",))
    state = states["team-5/v0019"]
    row = row_of(replace(state, desired=9, problem="no fresh metrics"))
    assert (row.desired, row.states) == (9, ("held", "advisory"))
    assert [row] == rows.selected([row], state="advisory")


def test_budget_cuts_are_named(states: dict[str, VariantState]) -> None:
    """The row of what a budget keeps short has the ceiling, its limit and its use."""
    assert row_of(states["team-0/v0007"]).cut_by == (
        "budget team-0: cost: 480 of 500 cents/h used",
    )


@pytest.mark.parametrize("sort", rows.SORTS)
def test_every_order_holds_every_row_once(states: dict[str, VariantState], sort: str) -> None:
    """Unknown numbers come last, and nothing is lost."""
    known = [row_of(item) for item in states.values()]
    unknown = Row(namespace="a", name="a")
    order = rows.ordered([*known, unknown], sort)
    assert {row.key for row in order} == {*states, "a/a"}
    assert len(order) == len(known) + 1
    if sort not in {"name", "attention"}:
        assert order[-1] == unknown


def test_filters_take_words_state_and_class(states: dict[str, VariantState]) -> None:
    """Every word must be in the names; states and classes must be equal."""
    known = [row_of(item) for item in states.values()]
    assert {row.key for row in rows.selected(known, words="TEAM-1 v0001")} == {"team-1/v0001"}
    assert {row.state for row in rows.selected(known, state="held")} == {"held"}
    assert {row.service_class for row in rows.selected(known, service_class="Premium")} == {
        "Premium"
    }


def test_sums_of_the_parts_are_those_of_their_rows(states: dict[str, VariantState]) -> None:
    """By class and accelerator they add up to the fleet; a variant in two states counts in both."""
    known = [row_of(item) for item in states.values()]
    parts_of = groups.Sums(known)
    assert parts_of.whole == groups.total("fleet", known)
    assert parts_of.whole.variants == COUNT
    for field, parts in (
        ("service_class", parts_of.by_class),
        ("accelerator", parts_of.by_accelerator),
    ):
        assert parts == [
            groups.total(label, [row for row in known if getattr(row, field) == label])
            for label in sorted({getattr(row, field) for row in known})
        ]
    assert any(len(row.states) > 1 for row in known)
    assert parts_of.by_state == [
        groups.total(state, some)
        for state in rows.STATES
        if (some := [row for row in known if state in row.states])
    ]


@pytest.mark.parametrize(
    "query",
    [
        {"page": "-1"}, {"page": "0"}, {"page": "9" * 40}, {"page": "\u0663"}, {"sort": "<b>"},
        {"state": "x"}, {"q": "a" * 10_000}, {"class": "\ud800"},
    ],
    ids=str,
)  # fmt: skip
def test_senseless_queries_count_as_not_asked(query: dict[str, str]) -> None:
    """Whatever a query holds, there is a page."""
    selection = fleet_page.Selection.of(query)
    assert selection.page >= 1
    assert selection.sort == "attention"
    assert len(selection.words) <= 100
    assert selection.query(page=2)
