"""First pages of servers: what they count came since their start where that is possible."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adapter.collector.model_servers import PodMetrics
from adapter.collector.traffic import TrafficWindow
from adapter.collector.windows.growth import EMPTY, Sample, growth_of


def served(ended: float, *, timed: bool, running: float = 2.0) -> PodMetrics:
    """A page after that many requests of 178 tokens, 20 ms each."""
    return replace(
        EMPTY,
        finished=ended,
        running=running,
        prompt_tokens=(100.0 * ended, ended),
        generation_tokens=(178.0 * ended, ended),
        ttft=(0.05 * ended, ended),
        itl=(0.02 * 177.0 * ended, 177.0 * ended) if timed else (0.0, 0.0),
    )


def rate(first: PodMetrics, *, started: float) -> float:
    """Requests per second of a pod with one a second, and another whose first page comes at 30 s."""
    window = TrafficWindow(window_seconds=60)
    for second in range(0, 31, 10):
        window.add("a", served(second, timed=True), now=second)
    window.add("b", first, now=30, started=started)
    traffic = window.traffic(now=30)
    assert traffic is not None
    return traffic.arrival_rate_rps


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("started", [10.0, 25.0, 30.0])
def test_a_start_of_a_moment_ago_does_not_bring_what_days_served(
    started: float, *, timed: bool
) -> None:
    """A proxy that writes the page has a start of its own, or a clock moved."""
    assert rate(served(1e5, timed=timed), started=started) == pytest.approx(1.0)


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("running", [0.0, 200.0])
def test_a_new_server_that_is_busy_at_once_counts(running: float, *, timed: bool) -> None:
    """The clock of its node may be some seconds ahead; 300 requests of 3.6 s came within 25."""
    assert rate(served(300.0, timed=timed, running=running), started=12.0) > 10.0


def test_a_restart_in_the_future_came_since_the_last_page() -> None:
    """The clock of its node is an hour ahead: what came within ten seconds did not come at once."""
    before = Sample(0.0, replace(served(100.0, timed=True), started_at=-500.0))
    after = replace(served(5.0, timed=True, running=0.0), started_at=3605.0)
    grown = growth_of("pod", before, after, 10.0, 3605.0)
    assert (grown.since, grown.at, grown.arrivals) == (0.0, 10.0, 5.0)
