"""Sums of what was and what would have been: over buckets, gaps, and variants that go."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adapter.controller.history import decisions, timeline
from adapter.controller.history.timeline import Moment, Timeline, Totals
from adapter.controller.state import VariantState
from adapter.resources import stored_status
from adapter.resources.stored_status import Decided
from tests.adapter.resources.test_hpa import state

NOW = 1_760_000_000.0


def moment(present: int, ours: int, *, within: bool | None = True) -> Moment:
    return Moment(
        present=present, ours=ours, present_cost=40.0 * present, our_cost=40.0 * ours,
        present_within=within, ours_within=True,
    )  # fmt: skip


def test_totals_are_means_costs_and_shares() -> None:
    """An hour with one replica too few, then one with two too many."""
    totals = Totals()
    totals.add(moment(2, 3, within=False), 3600.0)
    totals.add(moment(4, 2), 3600.0)
    document = timeline.document(totals)
    assert document["hours"] == 2.0
    assert document["present"] == {
        "meanReplicas": 3.0, "replicaHours": 6.0, "costCents": 240.0, "attainment": 0.5,
    }  # fmt: skip
    assert document["ours"] == {
        "meanReplicas": 2.5, "replicaHours": 5.0, "costCents": 200.0, "attainment": 1.0,
    }  # fmt: skip
    assert document["moreReplicas"] == {"share": 0.5, "most": 1}
    assert document["fewerReplicas"] == {"share": 0.5, "most": 2}


def test_latencies_that_are_not_known_are_not_within() -> None:
    """They count neither for nor against; without any, there is no attainment."""
    totals = Totals()
    totals.add(moment(1, 1, within=None), 60.0)
    assert timeline.document(totals)["present"]["attainment"] is None
    assert timeline.within((None, 20.0), (500.0, 24.0)) is True
    assert timeline.within((None, 25.0), (500.0, 24.0)) is False
    assert timeline.within((None, None), (500.0, 24.0)) is None
    assert timeline.within((9.0, 9.0), (0.0, 0.0)) is None


@pytest.fixture
def fixed(monkeypatch: pytest.MonkeyPatch) -> VariantState:
    """A state whose moment is one replica, and two decided."""
    monkeypatch.setattr(timeline, "moment_of", lambda _: moment(1, 2))
    return state(None, current=1, desired=2)


def test_a_day_is_kept_and_gaps_are_not_counted(fixed: VariantState) -> None:
    """Thirty seconds at a time for thirty hours; an hour in between in which another replica led."""
    history = Timeline()
    now = NOW
    for _ in range(30 * 120):
        history.record({"a/v": fixed}, now=now)
        now += 30.0
    (totals,) = history.since(now - timeline.DAY_SECONDS).values()
    assert totals.seconds == pytest.approx(86400.0, abs=2 * timeline.BUCKET_SECONDS)
    (last,) = history.since(now - 3600.0).values()
    assert last.seconds == pytest.approx(3600.0, abs=timeline.BUCKET_SECONDS)
    assert last.ours == pytest.approx(2 * last.present)
    now += 3600.0
    history.record({"a/v": fixed}, now=now)
    (after,) = history.since(now - 7200.0).values()
    assert after.seconds <= 3600.0 + timeline.BUCKET_SECONDS
    history.record({}, now=now + 30.0)
    assert history.since(0.0) == {}


def test_renewed_targets_are_no_decisions() -> None:
    """Only what changes the target is recorded, and a ring of fifty is kept."""
    now = state(None, current=1, desired=2)
    first = decisions.recorded(replace(now, desired=None), now, now=NOW)
    assert [(item.before, item.replicas) for item in first.history] == [(None, 2)]
    assert decisions.recorded(first, replace(now, reason="x"), now=NOW + 1).history == first.history
    for number in range(60):
        after = replace(now, desired=3 + number, history=())
        first = decisions.recorded(first, after, now=NOW + number)
    assert len(first.history) == decisions.MOST_DECISIONS
    gone = decisions.recorded(first, replace(now, desired=None, problem="no metrics"), now=NOW)
    assert (gone.history[-1].replicas, gone.history[-1].reason) == (None, "no metrics")
    assert len(decisions.of_status(gone.history)) == stored_status.DECISIONS
    assert "replicas" not in decisions.of_status(gone.history)[-1]


def test_what_a_status_holds_is_read_back_and_nonsense_is_not() -> None:
    """Others may write a status: each entry that cannot be read is left out, and texts are cut."""
    good = Decided(at=NOW, replicas=3, before=None, accelerator="A100", reason="ttft")
    (written,) = decisions.of_status([good])
    odd = [
        None, 3, {}, {"time": 3}, {"time": "yesterday"}, {"time": "9" * 400},
        {"time": written["time"], "replicas": -1, "reason": "r" * 9999},
    ]  # fmt: skip
    assert stored_status.history({"history": [written]}) == (good,)
    (cut,) = stored_status.history({"history": [*odd[-4:], *[None]]})
    assert (cut.replicas, len(cut.reason)) == (None, stored_status.REASON_LENGTH)
    for status in (None, {}, {"history": 3}, {"history": {"a": 1}}, {"history": odd[:5]}):
        assert stored_status.history(status) == ()
