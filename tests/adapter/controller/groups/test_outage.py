"""While nothing of a group serves, what goes on to arrive waits where no pod shows it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adapter.collector.traffic import Traffic
from adapter.controller.groups import availability, demanded
from adapter.controller.groups.availability import Outage
from adapter.controller.groups.demanded import NO_TRAFFIC, Sized
from adapter.controller.groups.keeper import with_rates
from adapter.controller.groups.pooling import AtGateway
from adapter.controller.groups.state import GroupRecord
from adapter.resources.model_groups import forming
from tests.adapter.controller.groups.test_returns import SOURCES, STATE, cycle

OUT = Outage(100.0, 10.0)
START = 120.0
"""Seconds that a replica takes to start; a cycle comes on top."""

PODS = tuple(f"pod-{number}" for number in range(5))

LENGTHS = replace(NO_TRAFFIC, input_tokens=512.0, output_tokens=128.0, idle=False)


def seen(now: float, *, ready: int, record: GroupRecord) -> GroupRecord:
    """The record after a look at variants of which one has so many ready replicas."""
    (group,) = forming.form(SOURCES).groups
    at = cycle(now)
    sources = {item.key: replace(item, pods_known=True) for item in SOURCES}
    sources["a/x"] = replace(sources["a/x"], pods=PODS[:ready], replicas=ready)
    return demanded.observed(record, group, {}, replace(at, sources=sources))


def need(
    record: GroupRecord,
    now: float,
    traffic: Traffic = NO_TRAFFIC,
    at: AtGateway | None = None,
    *,
    ready: int = 0,
) -> Sized:
    """What a group is sized for."""
    anchor = replace(SOURCES[0], startup_seconds=START, pods_known=True)
    sources = [replace(anchor, pods=PODS[:ready], replicas=ready)]
    return demanded.sized(
        record,
        sources,
        traffic,
        at or AtGateway(),
        ordered=max(ready, 3),
        partial=False,
        cycle=cycle(now),
    )


def test_an_outage_begins_with_the_last_replica_and_is_remembered_for_a_window() -> None:
    """600 requests a minute were offered; what comes in between, and a start without requests, is none."""
    before = GroupRecord(state=replace(STATE, observed_rpm=600.0))
    out = seen(100.0, ready=0, record=before)
    assert out.outage == OUT
    assert seen(130.0, ready=0, record=out).outage == OUT
    back = seen(230.0, ready=2, record=out)
    assert back.outage == replace(OUT, ended=230.0)
    assert seen(280.0, ready=2, record=back).outage == back.outage
    assert seen(290.0, ready=2, record=back).outage is None
    assert seen(250.0, ready=0, record=back).outage == Outage(250.0, 10.0)
    assert seen(100.0, ready=1, record=before).outage is None
    assert seen(100.0, ready=0, record=GroupRecord()).outage is None


@pytest.mark.parametrize("elapsed", [5.0, 30.0, 90.0])
def test_all_that_will_wait_is_asked_for_from_the_first_cycle_on(elapsed: float) -> None:
    """10 requests per second for 120 s and a cycle, served within a cycle: the same at every look."""
    settings = cycle(0.0).settings
    assert settings.interval < settings.rates.drain_seconds
    sized = need(GroupRecord(outage=OUT), 100.0 + elapsed)
    whole = 10.0 * (START + settings.interval) / settings.interval
    assert 0.7 * whole < sized.backlog_rps < 1.25 * whole
    assert sized.arrivals_rps >= 10.0
    assert sized.queued_at == 0


def test_what_a_gateway_holds_is_not_counted_twice() -> None:
    """The gateway reports the 300 that arrived since."""
    record, at = GroupRecord(outage=OUT), AtGateway(rate_rps=10.0, waiting=300.0)
    assert need(record, 130.0, at=at).in_flight == need(record, 130.0).in_flight == 300.0


def test_clients_give_up_at_some_time() -> None:
    """An outage that lasts asks for no more than one of a start-up, and soon only for what arrives."""
    record = GroupRecord(outage=OUT)
    start = 100.0 + START + cycle(0.0).settings.interval
    first, later, hour = (need(record, now) for now in (start, start + 300.0, 3700.0))
    assert later.in_flight == first.in_flight / 2
    assert 0.0 < later.backlog_rps <= first.backlog_rps / 2
    assert hour.in_flight < 1.0
    assert hour.backlog_rps < 0.01 * first.backlog_rps
    assert hour.arrivals_rps >= 10.0


def test_what_was_offered_before_an_outage_is_not_expected_for_ever() -> None:
    """After an hour half of it counts every hour; a gateway that counts the requests is believed instead."""
    record = GroupRecord(outage=OUT)
    hour, day = need(record, 3700.0), need(record, 100.0 + 86_400.0)
    assert need(record, 7300.0).arrivals_rps == pytest.approx(hour.arrivals_rps / 2)
    assert 0.0 < day.rate_rps < 1e-4
    known = need(record, 100.0 + 86_400.0, at=AtGateway(rate_rps=10.0))
    assert known.arrivals_rps == pytest.approx(hour.arrivals_rps)


def test_requests_that_were_kept_waiting_are_no_rise_of_the_rate() -> None:
    """2,000 reach the pods within seconds of its end; they queue there, and 10 per second go on to come."""
    released = replace(
        LENGTHS, arrival_rate_rps=35.0, long_rate_rps=15.0, recent=((15.0, 90.0),), running=400.0,
        waiting=1600.0, queued_at=5,
    )  # fmt: skip
    after = GroupRecord(outage=replace(OUT, ended=230.0))
    sized = need(after, 240.0, released, ready=5)
    assert sized.arrivals_rps == pytest.approx(10.0, rel=0.05)
    assert sized.in_flight == 2000.0
    assert need(GroupRecord(), 240.0, released, ready=5).arrivals_rps > 20.0


def test_what_an_outage_lets_through_is_no_trend() -> None:
    """Nor are the lengths of the first that finish those of all: short ones finish first."""
    before = GroupRecord(traffic=LENGTHS, rates={"a/x": (90.0, 240.0)})
    out = replace(before, outage=replace(OUT, ended=230.0))
    trend = with_rates(before, {"a/x"}, new=True)[0].trend
    assert trend is not None
    assert trend.new
    record, exceeds = with_rates(out, {"a/x"})
    assert (record.trend, dict(record.rates), exceeds) == (None, {}, False)
    first = replace(LENGTHS, output_tokens=9.0)
    assert demanded.lengths(out, first) is LENGTHS
    assert demanded.lengths(before, first) is first


def test_pods_are_seen_to_be_gone_some_seconds_later() -> None:
    """At the first look some requests wait already."""
    assert OUT.waiting(100.0, most_seconds=60.0) == 10.0 * availability.SEEN_SECONDS
