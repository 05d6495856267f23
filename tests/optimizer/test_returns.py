"""Falls and returns of load: what counts as one, and how long replicas are kept for the next."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import pytest

from optimizer.returns import (
    MOST_WINDOWS,
    REMEMBERED_SECONDS,
    Away,
    Returns,
    hold_seconds,
    returning,
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


def test_load_that_came_back_is_waited_for_as_long_as_it_was_away() -> None:
    """And a quarter longer."""
    assert hold((200.0, 9), (200.0, 4), (100.0, 9)) == pytest.approx(250.0)


def test_a_time_away_that_costs_more_than_coming_back_is_not_waited_for() -> None:
    """A return costs 100 s of 9 replicas for the 5 that are kept, and 5.6 times that for what is late."""
    assert hold((200.0, 9), (700.0, 4), (100.0, 9)) == WINDOW


def test_more_replicas_for_the_queue_of_a_return_make_it_dearer() -> None:
    """20 in all, where 9 serve what arrives: 700 s of 5 cost less than another return."""
    returns, now = after(((200.0, 9), (700.0, 4), (100.0, 9)))
    returns = seen(returns, 9.0, 20, queued=True, now=now, window=WINDOW)
    assert hold_seconds(returns, now=now, window=WINDOW) == MOST_WINDOWS * WINDOW


def test_the_longest_time_away_that_pays_is_waited_for() -> None:
    """Where all replicas are kept, a return costs no more than they do in 1,026 s."""
    assert hold((200.0, 9), (400.0, 0), (200.0, 9), (600.0, 0), (200.0, 9)) == pytest.approx(750.0)


def test_load_that_came_back_after_unlike_times_is_waited_for_as_long_as_any() -> None:
    """Three returns within half an hour: the next one may take longer than each of them."""
    assert hold(
        (200.0, 9), (200.0, 4), (200.0, 9), (300.0, 4), (200.0, 9), (150.0, 4), (50.0, 9)
    ) == pytest.approx(MOST_WINDOWS * WINDOW)


def test_one_dear_return_is_enough_to_wait_beyond_the_time_it_took() -> None:
    """9 replicas and 11 for the queue of the return, for 5 that are kept."""
    returns, now = after(((200.0, 9), (200.0, 4), (100.0, 9)))
    returns = seen(returns, 9.0, 20, queued=True, now=now, window=WINDOW)
    assert hold_seconds(returns, now=now, window=WINDOW) == pytest.approx(MOST_WINDOWS * WINDOW)


def test_each_time_that_load_stays_away_shortens_the_wait() -> None:
    """To the quarter beyond the time that the one return took."""
    returns, now = after(((200.0, 9), (200.0, 4), (100.0, 9)))
    returns = seen(returns, 9.0, 20, queued=True, now=now, window=WINDOW)
    waits = []
    for _ in range(3):
        waits.append(hold_seconds(returns, now=now, window=WINDOW))
        stayed = Away(now, math.inf)
        returns = replace(returns, times=(*returns.times, stayed))
    assert waits[0] == MOST_WINDOWS * WINDOW > waits[1] > waits[2] == pytest.approx(250.0)


def test_load_that_stayed_away_is_not_waited_for() -> None:
    """Once it came back, and once not: to wait costs more than it saves."""
    stays_away = ((200.0, 9), ((MOST_WINDOWS + 1.0) * WINDOW, 4))
    came_back = ((200.0, 9), (400.0, 4), (100.0, 9))
    assert hold(*came_back) == pytest.approx(500.0)
    returns, now = after((*came_back, *stays_away))
    assert [item.seconds for item in returns.times] == [400.0, math.inf]
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
            returns = seen(returns, rate, replicas, queued=queued, now=now, window=WINDOW)
            now += STEP
    assert hold_seconds(returns, now=now, window=WINDOW) == MOST_WINDOWS * WINDOW


def test_as_many_replicas_return_as_were_needed_before_the_fall() -> None:
    """More are needed now: these have not come back yet."""
    returns, now = after(((200.0, 9), (200.0, 4), (100.0, 9), (100.0, 20)))
    assert returning(returns, now=now) == 9
    assert returning(returns, now=now + REMEMBERED_SECONDS) == 0
    assert returning(after(((200.0, 9), (200.0, 4)))[0], now=400.0) == 0


def test_of_a_queue_that_hid_the_need_what_the_arrivals_took_returns() -> None:
    returns, now = Returns(), 0.0
    for rate, queued in ((9.0, True), (4.0, False), (9.0, True)):
        for _ in range(20):
            returns = seen(
                returns, rate, 20 if queued else 4, queued=queued, now=now, window=WINDOW, lasting=9
            )
            now += STEP
    assert returning(returns, now=now) == 9


def test_returns_are_forgotten() -> None:
    returns, now = after(((200.0, 9), (200.0, 4), (100.0, 9)))
    assert hold_seconds(returns, now=now + REMEMBERED_SECONDS, window=WINDOW) == WINDOW


def test_a_window_that_is_switched_off_stays_off() -> None:
    returns, now = after(((200.0, 9), (200.0, 4), (100.0, 9)))
    assert hold_seconds(returns, now=now, window=0.0) == 0.0
