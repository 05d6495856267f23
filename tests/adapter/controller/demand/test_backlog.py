"""What a queue asks for: replicas at once, and a rate that works it off in time."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from adapter.collector.traffic import Traffic
from adapter.controller.demand.backlog import (
    Backlog,
    Queue,
    backlog_of,
    certain_growth,
    most_rps,
    queues_up,
)
from adapter.planning import plan
from optimizer.explain import Explanation
from optimizer.problem import Candidate

QUEUE = Queue(
    running=8.0,
    waiting=20.0,
    growth_rps=0.5,
    ready=1,
    ordered=1,
    start_seconds=120.0,
    loading_seconds=120.0,
)


def test_a_queue_is_worked_off_within_the_drain_time() -> None:
    """20 wait and one more every 2 s: 80 when a replica starts after 120 s, to be served in 60 s."""
    asked = backlog_of(QUEUE, drain_seconds=60.0)
    assert asked.requests == pytest.approx(80)
    assert asked.extra_rps == pytest.approx(80 / 60)


def test_growth_goes_on_for_four_times_as_long_as_it_was_seen() -> None:
    """20 that came within 15 s are not 20 in every 15 s of ten minutes: as many four times more."""
    batch = replace(QUEUE, growth_rps=20 / 15, start_seconds=600.0, loading_seconds=600.0)
    assert backlog_of(batch, drain_seconds=60.0).requests == pytest.approx(820)
    seen = replace(batch, seen_seconds=15.0)
    assert backlog_of(seen, drain_seconds=60.0).requests == pytest.approx(100)
    short = replace(seen, start_seconds=30.0)
    assert backlog_of(short, drain_seconds=60.0).requests == pytest.approx(60)


def test_all_in_flight_are_to_be_served() -> None:
    """What runs counts beside what waits."""
    assert backlog_of(QUEUE, drain_seconds=60.0).in_flight == pytest.approx(28)


def test_without_a_drain_time_the_queue_asks_for_its_places_only() -> None:
    """0 adds nothing to the rate."""
    asked = backlog_of(QUEUE, drain_seconds=0.0)
    assert asked.extra_rps == 0.0
    assert asked.in_flight == pytest.approx(28)


def test_a_queue_that_grows_while_replicas_load_asks_for_no_more() -> None:
    """A constant load: what was expected when they were ordered has come 60 s nearer."""
    loading = replace(QUEUE, waiting=50.0, ordered=3, loading_seconds=60.0)
    assert backlog_of(loading, drain_seconds=60.0).requests == pytest.approx(80)


def test_growth_within_chance_is_none() -> None:
    """4 requests a second give a queue that is 11 longer or shorter after 15 s."""
    assert certain_growth(1.0, rate_rps=4.0, seconds=15.0) == 0.0
    assert certain_growth(-3.0, rate_rps=4.0, seconds=15.0) == 0.0
    assert certain_growth(3.0, rate_rps=4.0, seconds=15.0) == pytest.approx(1.9, abs=0.05)


def test_a_few_that_wait_are_no_backlog() -> None:
    """Any busy replica has one between two steps."""
    assert backlog_of(replace(QUEUE, waiting=1.0), drain_seconds=60.0) == Backlog()
    assert backlog_of(replace(QUEUE, waiting=4.0, ready=4), drain_seconds=60.0) == Backlog()


@pytest.mark.parametrize(
    ("waiting", "known", "expected"),
    [(1.0, 0.0, False), (2.0, 0.0, True), (40.0, 36.0, False), (60.0, 36.0, True)],
)
def test_a_queue_exceeds_what_is_known_by_more_than_chance(
    waiting: float,
    known: float,
    *,
    expected: bool,
) -> None:
    """Two standard deviations of a count beyond the last one, and one request per replica."""
    assert queues_up(waiting, ready=1, known=known) is expected


def test_what_arrives_beyond_what_is_served_will_wait() -> None:
    """Before the queue itself shows it: 3 a second arrive, 2 are served, so 120 more in 120 s."""
    asked = backlog_of(replace(QUEUE, served_rps=2.0), drain_seconds=60.0, rate_rps=3.0)
    assert asked.requests == pytest.approx(20 + 120)


def test_a_queue_that_is_served_faster_than_it_grew_grows_as_seen() -> None:
    """The rate of service is an estimate: it takes nothing off what was counted."""
    asked = backlog_of(replace(QUEUE, served_rps=9.0), drain_seconds=60.0, rate_rps=3.0)
    assert asked.requests == pytest.approx(80)


@pytest.mark.parametrize(("elsewhere", "queued_at"), [(0.0, 3), (4.0, 0)])
def test_requests_at_no_pod_can_be_served_by_any(elsewhere: float, queued_at: int) -> None:
    """Only where all of them are in queues of pods do these alone serve them."""
    queue = replace(QUEUE, queued_at=3, elsewhere=elsewhere)
    assert backlog_of(queue, drain_seconds=60.0).queued_at == queued_at


ORDERED = replace(
    QUEUE, running=40.0, waiting=8.0, growth_rps=0.0, ready=4, ordered=8, served_rps=10.0,
    loading_seconds=60.0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("queue", "surge", "drained"),
    [
        pytest.param(ORDERED, False, True, id="before-others-are-ready"),
        pytest.param(replace(ORDERED, loading_seconds=114.0), False, False, id="not-before"),
        pytest.param(replace(ORDERED, ordered=4), False, False, id="nothing-is-ordered"),
        pytest.param(replace(ORDERED, ordered=6), False, True, id="half-as-many-do"),
        pytest.param(replace(ORDERED, ordered=6), True, False, id="that-may-rise-on"),
        pytest.param(replace(ORDERED, waiting=470.0), False, True, id="just-so"),
        pytest.param(replace(ORDERED, waiting=530.0, ordered=80), True, True, id="by-their-pods"),
        pytest.param(replace(ORDERED, waiting=550.0, ordered=80), True, False, id="no-faster"),
        pytest.param(replace(ORDERED, served_rps=None), False, False, id="not-known"),
        pytest.param(replace(ORDERED, late=True), False, False, id="that-do-not-come"),
        pytest.param(replace(ORDERED, ready=0, ordered=4), False, False, id="none-serves"),
    ],
)
def test_ordered_replicas_may_work_a_queue_off_before_others_could(
    queue: Queue, *, surge: bool, drained: bool
) -> None:
    """4 serve 10 a second and 11 come: 8, from 60 s on, work 68 off in 8 s; others are ready after 120 s."""
    asked = backlog_of(queue, drain_seconds=60.0, rate_rps=11.0, surge=surge)
    assert asked.requests > 0
    assert asked.drained is drained


def test_a_surge_asks_for_those_in_flight_by_then() -> None:
    """20 wait, 80 when a replica is ready, and 8 run; without a drain time only what is there counts."""
    assert backlog_of(QUEUE, drain_seconds=60.0, surge=True).in_flight == pytest.approx(88)
    assert backlog_of(QUEUE, drain_seconds=0.0, surge=True).in_flight == pytest.approx(28)


@pytest.mark.parametrize(
    ("waiting", "surge", "queued_at"),
    [
        pytest.param(3.0, True, 4, id="begins"),
        pytest.param(3.0, False, None, id="usual-of-steady-arrivals"),
        pytest.param(1.0, True, None, id="one-between-two-steps"),
    ],
)
def test_a_queue_that_begins_in_a_surge_counts(
    waiting: float, queued_at: int | None, *, surge: bool
) -> None:
    """4 replicas serve 2 a second and 8 come: 720 wait in 120 s, at all four, though as yet 3 do at some."""
    queue = replace(QUEUE, waiting=waiting, growth_rps=0.0, ready=4, ordered=4, served_rps=2.0)
    asked = backlog_of(queue, drain_seconds=60.0, rate_rps=8.0, surge=surge)
    if queued_at is None:
        assert asked == Backlog()
    else:
        assert asked.requests == pytest.approx(waiting + 720)
        assert asked.queued_at == queued_at


@pytest.mark.parametrize(
    ("most", "surge", "requests"),
    [
        pytest.param(5.0, True, 360.0, id="more-than-is-served"),
        pytest.param(9.0, True, 0.0, id="within-what-is-served"),
        pytest.param(5.0, False, 0.0, id="no-surge"),
        pytest.param(math.inf, True, 0.0, id="not-known"),
    ],
)
def test_a_surge_beyond_full_batches_will_queue(
    most: float, requests: float, *, surge: bool
) -> None:
    """8 a second come and 5 can be served: 360 wait in 120 s, though as yet none does."""
    queue = replace(QUEUE, waiting=0.0, growth_rps=0.0, ready=4, ordered=4, most_rps=most)
    asked = backlog_of(queue, drain_seconds=60.0, rate_rps=8.0, surge=surge)
    assert asked.requests == pytest.approx(requests)
    assert asked.queued_at == (4 if requests else 0)


def test_full_batches_serve_as_many_as_end_in_the_time_of_one() -> None:
    """2 replicas of 8 requests, each of 100 tokens of 20 ms: 8 a second."""
    traffic = Traffic(
        arrival_rate_rps=2.0, input_tokens=1.0, output_tokens=100.0, ttft_ms=None, itl_ms=20.0,
        idle=False,
    )  # fmt: skip
    candidate = Candidate(
        accelerator="", replicas=2, max_batch=8, cost=1.0, itl_ms=1.0, ttft_ms=1.0, max_rate_rpm=1.0
    )
    explanation = Explanation(binding="", sized="", runner_up=None, shortages=())
    decision = plan.Decision(
        candidate=candidate, value=0.0, served="full", arrival_rate_rps=1.0,
        why=plan.Why(plan.Reasons(explanation, "")),
    )  # fmt: skip
    assert most_rps(traffic, decision, 2) == pytest.approx(8.0)
    assert most_rps(traffic, None, 2) == math.inf
    assert most_rps(replace(traffic, itl_ms=None), decision, 2) == math.inf


def test_requests_that_are_expected_to_wait_are_no_backlog() -> None:
    """Long prompts: 10 wait for their first token at any moment, 16 by chance; 20 are a queue."""
    four = replace(QUEUE, ready=4, ordered=4)
    assert backlog_of(replace(four, waiting=16.0), drain_seconds=60.0).requests > 0
    expected = replace(four, expected=10.0)
    for surge in (False, True):
        usual = replace(expected, waiting=10.0)
        assert backlog_of(usual, drain_seconds=60.0, surge=surge) == Backlog()
    assert backlog_of(replace(expected, waiting=16.0), drain_seconds=60.0) == Backlog()
    assert backlog_of(replace(expected, waiting=20.0), drain_seconds=60.0).requests > 0
