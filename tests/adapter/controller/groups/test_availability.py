"""Replicas that do not come are not counted on, and asked for again later and later."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from adapter.controller.groups import availability
from adapter.controller.groups.availability import NO_LIMIT, Limit, observe
from adapter.controller.groups.waking import Sleeper, first
from adapter.resources.variant import VariantSource
from tests.adapter.resources.model_groups.test_forming import source


def variant(spec: int, ready: int, **more: Any) -> VariantSource:
    names = tuple(f"p{number}" for number in range(ready))
    return replace(
        source("a/x", spec_replicas=spec, existing=spec, pods_known=True, pods=names),
        **{"replicas": spec, **more},
    )


def look(before: Limit, seen: VariantSource, now: float, *, asked: int | None = None) -> Limit:
    return observe(before, seen, asked=asked, now=now)


def test_what_the_scheduler_cannot_place_is_not_counted_on() -> None:
    """At the first look, with the number that runs and the reason."""
    limit = look(NO_LIMIT, variant(3, 1, unschedulable=2), 0.0)
    assert limit.most(0.0) == 1
    assert limit.why == "2 of 3 replicas do not come: 2 unschedulable"
    assert look(NO_LIMIT, variant(3, 1), 0.0).most(0.0) is None


def test_a_limit_outlives_its_pods_and_is_tried_again() -> None:
    """The target goes down and the pods with it: the limit stays for a time, which doubles."""
    limit = look(NO_LIMIT, variant(3, 1, unschedulable=2), 0.0)
    limit = look(limit, variant(1, 1), 30.0)
    assert limit.most(299.0) == 1
    assert limit.most(300.0) is None
    again = look(limit, variant(2, 1, unschedulable=1), 310.0)
    assert again.most(310.0 + 599.0) == 1
    assert again.most(310.0 + 600.0) is None
    assert again.delay == 600.0


def test_what_comes_lifts_the_limit() -> None:
    """At once, and without a trace."""
    limit = look(NO_LIMIT, variant(3, 1, failing=2), 0.0)
    assert look(limit, variant(3, 2, failing=1), 5.0).most(5.0) == 2
    assert look(limit, variant(3, 3), 5.0) == NO_LIMIT


def test_pods_that_a_quota_refuses_do_not_exist() -> None:
    """A moment without them is nothing; a while is a refusal."""
    seen = variant(3, 1, existing=1)
    limit = look(NO_LIMIT, seen, 0.0)
    assert limit.most(0.0) is None
    limit = look(limit, seen, availability.MISSING_SECONDS)
    assert limit.most(60.0) == 1
    assert "2 not created, as by a quota" in limit.why


def test_a_target_that_nobody_follows_is_not_counted_on() -> None:
    """An HPA whose maximum is lower, or that cannot read: after a while the others take over."""
    seen = variant(1, 1)
    limit = look(NO_LIMIT, seen, 0.0, asked=3)
    assert limit.most(0.0) is None
    limit = look(limit, seen, availability.FOLLOW_SECONDS, asked=3)
    assert limit.most(availability.FOLLOW_SECONDS) == 1
    assert "2 not asked of the scale target" in limit.why


def test_without_pods_nothing_is_known() -> None:
    """A folder of objects has none: there is no limit."""
    assert look(NO_LIMIT, variant(3, 0, existing=None), 0.0) == NO_LIMIT


def test_the_cheapest_of_those_that_are_ready_soon_wakes() -> None:
    """A cheap variant that starts slowly does not; one that is as soon does; the reason names both."""
    fast = Sleeper(key="fast", startup_seconds=40.0, cost=300.0)
    slow = Sleeper(key="slow", startup_seconds=400.0, cost=10.0)
    soon = Sleeper(key="soon", startup_seconds=65.0, cost=80.0)
    assert first([slow, fast])[0] == "fast"
    key, why = first([slow, fast, soon])
    assert key == "soon"
    assert why == (
        "soon wakes first: ready in 65 s at 80 cents/h (fast 40 s at 300 cents/h;"
        " slow 400 s at 10 cents/h)"
    )


def test_a_variant_that_cannot_come_does_not_wake() -> None:
    """Unless none can."""
    broken = Sleeper(key="broken", startup_seconds=1.0, cost=1.0, able=False)
    assert first([broken, Sleeper(key="dear", startup_seconds=600.0, cost=900.0)])[0] == "dear"
    assert first([broken])[0] == "broken"
