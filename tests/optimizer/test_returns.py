"""Falls and returns of load: what counts as one, and how long replicas are kept for the next."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest

from optimizer.returns import (
    MOST_WINDOWS,
    REMEMBERED_SECONDS,
    Hold,
    Returns,
    hold_seconds,
    holds,
    seen,
)

WINDOW, STEP = 100.0, 10.0


def after(phases: Iterable[tuple[float, int]]) -> tuple[Returns, float]:
    """What is known after phases of so many seconds, each of so many replicas of one request a second."""
    returns, now = Returns(), 0.0
    for seconds, needed in phases:
        end = now + seconds
        while now < end:
            returns = seen(returns, needed, needed, queued=False, now=now, window=WINDOW)
            now += STEP
    return returns, now


def hold(*phases: tuple[float, int]) -> float:
    returns, now = after(phases)
    return hold_seconds(returns, now=now, window=WINDOW)


def test_without_a_return_the_window_counts() -> None:
    """Neither constant load, nor a rise, nor a fall says that load comes back."""
    assert hold((500.0, 5)) == WINDOW
    assert hold((200.0, 5), (300.0, 9)) == WINDOW
    assert hold((200.0, 9), (300.0, 5)) == WINDOW


def test_load_that_came_back_is_waited_for_longer_than_it_was_away() -> None:
    """The next time may be longer: of 200 s at a price of 1260 s, 411 s cost least.

    A return costs 100 s of 9 replicas for the 5 that are kept, and 6 times that for what is late: 50 s an
    hour, at 1.29 times the mean rate. The derivative of h + 200 (1 + ln(h / 200) + 1260 / h) is 0 at 411 s.
    """
    assert hold((200.0, 9), (200.0, 4), (100.0, 9)) == pytest.approx(411.0, abs=1.0)


@pytest.mark.parametrize(("seconds", "mean"), [(200, 7.0), (400, 5.5)])
def test_the_hold_is_the_cheapest_of_all(seconds: int, mean: float) -> None:
    """By a sum over what may happen: it comes back as before, later than ever, or never."""
    returns, now = after(((200.0, 9), (float(seconds), 4), (100.0, 9)))
    assert returns.mean_rps == pytest.approx(mean, rel=0.2)
    late = 0.5 * WINDOW / REMEMBERED_SECONDS * 9.0 / returns.mean_rps
    price = WINDOW * 9.0 / 5.0 * (1.0 + late / 0.003)
    # P(longer than t) = seconds / t: quantiles of the time away.
    later = [seconds / (1.0 - (i + 0.5) / 20000) for i in range(20000)]

    def cost(hold: float) -> float:
        beyond = sum(away if away <= hold else hold + price for away in later) / len(later)
        again = seconds if seconds <= hold else hold + price
        return again + beyond + hold

    chosen = hold_seconds(returns, now=now, window=WINDOW)
    assert cost(chosen) <= 1.001 * min(cost(other) for other in range(100, 801, 5))


def test_the_same_load_in_less_of_the_time_is_waited_for_longer() -> None:
    """More of its requests arrive while it is there, and are late where it meets too few replicas."""
    steady = hold((800.0, 9), (300.0, 4), (100.0, 9))
    seldom = hold((800.0, 4), (200.0, 9), (300.0, 4), (100.0, 9))
    assert WINDOW < steady < seldom


def test_a_time_away_that_costs_more_than_coming_back_is_not_waited_for() -> None:
    """A return costs 100 s of 9 replicas for the 5 that are kept, and 5.6 times that for what is late."""
    assert hold((200.0, 9), (700.0, 4), (100.0, 9)) == WINDOW


def test_more_replicas_for_the_queue_of_a_return_make_it_dearer() -> None:
    """20 in all, where 9 serve what arrives: 700 s of 5 cost less than another return."""
    returns, now = after(((200.0, 9), (700.0, 4), (100.0, 9)))
    returns = seen(returns, 9.0, 20, queued=True, now=now, window=WINDOW)
    assert hold_seconds(returns, now=now, window=WINDOW) == MOST_WINDOWS * WINDOW


def test_what_comes_back_often_is_waited_for_at_most_so_many_windows() -> None:
    assert hold(
        (200.0, 9), (200.0, 4), (200.0, 9), (300.0, 4), (200.0, 9), (150.0, 4), (50.0, 9)
    ) == pytest.approx(MOST_WINDOWS * WINDOW)


def test_load_that_stayed_away_is_not_waited_for() -> None:
    """Once it came back, and three times not: to wait costs more than it saves."""
    stays_away = ((200.0, 9), ((MOST_WINDOWS + 1.0) * WINDOW, 4))
    came_back = ((200.0, 9), (400.0, 4), (100.0, 9))
    assert hold(*came_back) > 500.0
    returns, now = after((*came_back, *stays_away, *stays_away, *stays_away))
    assert [item.seconds for item in returns.times] == [400.0, math.inf, math.inf, math.inf]
    assert hold_seconds(returns, now=now, window=WINDOW) == WINDOW


def test_a_replica_more_or_less_is_no_return() -> None:
    """The noise of the rate does that, and so do a tenth of many."""
    assert hold((200.0, 5), (100.0, 4), (100.0, 5)) == WINDOW
    assert hold((200.0, 20), (100.0, 17), (100.0, 20)) == WINDOW


def test_one_cycle_alone_is_no_level() -> None:
    """What a single look shows may be chance."""
    assert hold((200.0, 4), (STEP, 9), (100.0, 4), (100.0, 9)) == WINDOW


def test_times_within_the_window_say_nothing() -> None:
    """It covers them, whatever they are."""
    assert hold((200.0, 9), (50.0, 4), (100.0, 9), (50.0, 4), (100.0, 9)) == WINDOW


def test_a_short_burst_that_only_left_a_queue_is_load_too() -> None:
    """What arrives counts, not what works off its queue."""
    returns, now = Returns(), 0.0
    for seconds, rate, replicas, queued in (
        (200, 4.0, 4, False), (50, 9.0, 20, True), (50, 4.0, 12, True), (150, 4.0, 4, False),
        (50, 9.0, 20, True), (50, 4.0, 12, True),
    ):  # fmt: skip
        for _ in range(0, seconds, 10):
            returns = seen(
                returns, rate, replicas, queued=queued, lasting=round(rate), now=now, window=WINDOW
            )
            now += STEP
    assert returns.kept == pytest.approx(5.0)
    assert hold_seconds(returns, now=now, window=WINDOW) > 250.0


def test_returns_are_forgotten() -> None:
    returns, now = after(((200.0, 9), (200.0, 4), (100.0, 9)))
    assert hold_seconds(returns, now=now + REMEMBERED_SECONDS, window=WINDOW) == WINDOW


def test_a_window_that_is_switched_off_stays_off() -> None:
    returns, now = after(((200.0, 9), (200.0, 4), (100.0, 9)))
    assert hold_seconds(returns, now=now, window=0.0) == 0.0


ONCE_MORE = ((100.0, 9), (300.0, 2), (50.0, 9), (300.0, 2), (50.0, 30), (100.0, 2))
"""Two bursts of 9, then one of 30."""


def test_what_one_of_several_returns_took_is_given_back_sooner() -> None:
    """9 came back whenever load did; 30 did once in 3, and do so the next time in one of 4."""
    returns, now = after(ONCE_MORE)
    usual, most = holds(returns, now=now, window=WINDOW)
    assert (usual.replicas, most.replicas) == (9, 30)
    assert usual.seconds > 2.0 * most.seconds
    assert most.seconds >= WINDOW


def test_what_every_return_took_is_held_at_least_as_long() -> None:
    """Bursts that are alike have one hold, the longest."""
    returns, now = after((*ONCE_MORE[:4], (50.0, 9), (100.0, 2)))
    assert holds(returns, now=now, window=WINDOW) == (Hold(9, MOST_WINDOWS * WINDOW),)


@pytest.mark.parametrize("window", [0.0, WINDOW])
def test_nothing_is_held_longer_where_no_load_came_back(window: float) -> None:
    returns, now = after(((200.0, 9), (300.0, 5)))
    assert holds(returns, now=now, window=window) == ()
    returns, now = after(ONCE_MORE)
    assert holds(returns, now=now, window=0.0) == ()
    assert holds(returns, now=now + REMEMBERED_SECONDS, window=WINDOW) == ()


def test_load_that_needs_all_replicas_again_is_back_below_a_peak_of_seconds() -> None:
    """Of 9 requests a second at the first peak, 6 of longer prompts take its 9 replicas: a return."""
    returns, now = after(((200.0, 9), (200.0, 4)))
    assert returns.away_at is not None
    for _ in range(2):
        now += STEP
        returns = seen(returns, 6.0, 9, queued=False, now=now, window=WINDOW)
    assert returns.away_at is None
    assert len(returns.times) == 1


def test_what_only_a_queue_needs_is_no_return() -> None:
    """Replicas that work a queue off are not those of the arrivals."""
    returns, now = after(((200.0, 9), (200.0, 4)))
    returns = seen(returns, 6.0, 9, queued=True, lasting=6, now=now + STEP, window=WINDOW)
    assert returns.away_at is not None


def test_load_that_is_back_with_all_its_replicas_is_not_away_again_at_once() -> None:
    """The window still has the higher rate from before, but nothing is given back."""
    returns, now = after(((200.0, 9), (30.0, 4)))
    for _ in range(5):
        now += STEP
        returns = seen(returns, 6.0, 9, queued=False, now=now, window=WINDOW)
        assert returns.away_at is None
    assert len(returns.times) == 1
