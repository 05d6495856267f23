"""SLO feedback: what the misses of a variant's requests ask of its plan."""

from __future__ import annotations

from array import array
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from adapter.collector.servers.histogram import Histogram
from adapter.collector.traffic import Traffic
from adapter.collector.windows.latencies import Distribution
from adapter.controller.estimates import feedback
from adapter.controller.estimates.feedback import Feedback, Planned
from adapter.planning.fleet import Targets

WINDOW = 60.0
TARGETS = Targets(itl_ms=40.0, ttft_ms=1000.0, percentile=0.99)
ENOUGH = Planned(ready=4, ordered=4, rate_rps=3.0)
BOUNDS = (0.025, 0.05, 1.0, 2.5)


def latencies(*counts: float) -> Distribution:
    """Latencies in the buckets of `BOUNDS`, those beyond at the end."""
    return Distribution(sum(counts), Histogram(BOUNDS, array("d", counts)))


def traffic(*, ttft: float = 0.0, itl: float = 0.0, slow: float = 0.0, **fields: Any) -> Traffic:
    """A window of 600 requests: shares beyond the targets of TTFT and ITL, and of tokens on slow pods."""
    late, long = 600.0 * ttft, 600.0 * itl
    known: dict[str, Any] = {
        "arrival_rate_rps": 10.0,
        "input_tokens": 500.0,
        "output_tokens": 200.0,
        "ttft_ms": 200.0,
        "itl_ms": 30.0,
        "idle": False,
        "recent": ((15.0, 10.0), (30.0, 10.0)),
        "running": 60.0,
        "ttft": latencies(600.0 - late, 0.0, 0.0, late, 0.0),
        "tpot": latencies(600.0 - long, 0.0, long, 0.0, 0.0),
        "itl_samples": ((30.0, 1e5 * (1.0 - slow)), (41.0, 1e5 * slow)),
    }
    return Traffic(**(known | fields))


def after(
    *windows: Traffic | None,
    planned: Planned = ENOUGH,
    targets: Targets = TARGETS,
    before: Feedback | None = None,
) -> Feedback:
    """The feedback after these windows, a minute each."""
    state = Feedback() if before is None else before
    start = max(state.observed_at, 0.0)
    for number, item in enumerate(windows, start=1):
        state = feedback.observe(
            state, item, targets, planned, window=WINDOW, now=start + WINDOW * number
        )
    return state


@pytest.mark.parametrize("missed", [{"itl": 0.06}, {"slow": 0.06}, {"ttft": 0.06}])
def test_lasting_misses_raise_the_load_that_is_sized_for(missed: dict[str, float]) -> None:
    """Two windows with 6 % of misses raise nothing, a third one does, by less than a fifth, and says why."""
    assert after(*[traffic(**missed)] * 2).factor == 1.0
    state = after(*[traffic(**missed)] * 3)
    assert 1.1 < state.factor < 1.2
    name = "TTFT" if "ttft" in missed else "ITL"
    assert f"6.0% of the requests missed the {name} target where 1.0% was planned" in state.note


@pytest.mark.parametrize("name", ["ttft", "tpot"])
def test_latencies_in_milliseconds_raise_nothing(name: str) -> None:
    """By Little's law 400 or 12,000 requests would be there at once, where 60 are."""
    counts = array("d", (0.0, 600.0, 0.0, 0.0, 0.0))
    shown = Histogram((20.0, 40.0, 80.0, 160.0), counts).scaled(2.0 if name == "ttft" else 0.3)
    slow: dict[str, Any] = {name: Distribution(600.0, shown)}
    assert after(*[replace(traffic(), **slow)] * 3).factor == 1.0


def test_a_queue_that_has_drained_when_it_is_looked_at_was_there() -> None:
    """A hundred requests wait for a quarter of each minute, and none is there at its end."""
    late = latencies(0.0, 0.0, 0.0, 600.0).counted
    shown = Histogram((1.0, 10.0, 40.0), array("d", (0.0, 0.0, late, 0.0)))
    burst = replace(traffic(), running=0.0, ttft=Distribution(late, shown))
    assert after(*[burst] * 3).factor == 1.0
    assert after(*[replace(burst, most_there=100.0)] * 3).factor > 1.0


def test_the_factor_is_bounded() -> None:
    """Hours of misses of all requests raise the load by half, and no more."""
    state = after(*[traffic(itl=1.0)] * 200, planned=replace(ENOUGH, ready=9, ordered=9))
    assert state.factor == feedback.LARGEST


def test_misses_as_planned_raise_nothing() -> None:
    """A day of windows with 1 % of misses each, by chance more or less, leaves the load as it is."""
    draws = np.random.default_rng(4).binomial(600, 0.01, size=1440)
    state = Feedback()
    for missed in draws:
        state = after(traffic(itl=missed / 600.0), before=state)
        assert state.factor == 1.0


def test_it_lets_go_slowly() -> None:
    """Ten good minutes take away less than half of what was added, four hours under load all of it."""
    raised = after(*[traffic(itl=0.06)] * 3)
    good = traffic(arrival_rate_rps=10.0)
    ten = after(*[good] * 10, before=raised)
    assert 1.0 + 0.5 * (raised.factor - 1.0) < ten.factor < raised.factor
    assert after(*[good] * 240, before=raised).factor == 1.0
    quiet = traffic(arrival_rate_rps=1.0, recent=())
    assert after(*[quiet] * 10, before=raised).factor > ten.factor


@pytest.mark.parametrize(
    ("planned", "fields"),
    [
        pytest.param(replace(ENOUGH, ordered=5), {}, id="replicas-come"),
        pytest.param(replace(ENOUGH, rate_rps=2.2), {}, id="at-the-maximum"),
        pytest.param(replace(ENOUGH, rate_rps=0.0), {}, id="no-plan"),
        pytest.param(ENOUGH, {"recent": ((15.0, 16.0), (30.0, 13.0))}, id="rate-rises"),
    ],
)
def test_what_the_plan_did_not_promise_is_no_error_of_it(
    planned: Planned, fields: dict[str, Any]
) -> None:
    """Misses while replicas come or the load is above what the present ones carry raise nothing."""
    assert after(*[traffic(itl=0.5, ttft=0.5, **fields)] * 20, planned=planned).factor == 1.0


def test_a_queue_of_before_is_no_error_of_the_plan() -> None:
    """Requests that waited before replicas came miss in the windows after it; a queue that stays counts."""
    loading = after(*[traffic(ttft=0.5)] * 3, planned=replace(ENOUGH, ordered=5))
    queued = traffic(ttft=0.5, waiting=100.0)
    assert after(*[queued] * 3, *[traffic()] * 20, before=loading).factor == 1.0
    assert after(*[queued] * 5, before=loading).factor > 1.0


def test_an_unknown_window_starts_over() -> None:
    """A window of which not all pods are known, or that is stale, ends a row of windows."""
    bad = traffic(itl=0.06)
    assert after(bad, bad, None, bad, bad).factor == 1.0


def test_means_are_left_alone() -> None:
    """Targets that bound means plan no share of misses; what was added for a percentile goes with it."""
    means = replace(TARGETS, percentile=None)
    assert after(*[traffic(itl=0.5)] * 10, targets=means) == Feedback()


def test_what_a_bucket_leaves_open_is_no_miss() -> None:
    """All requests between 25 and 50 ms, the pods' tokens took 30: none missed 40 ms for certain."""
    open_bucket = traffic(tpot=latencies(0.0, 600.0, 0.0, 0.0, 0.0))
    assert after(*[open_bucket] * 10).factor == 1.0
