"""Requests whose clients went away, and counts that run ahead, told apart by their tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adapter.collector.traffic import TrafficWindow
from tests.adapter.collector.test_traffic import page


def test_clients_that_leave_are_still_arrivals() -> None:
    """VLLM never counts them as finished: their first tokens tell of them, and the tokens that they had."""
    assert rate_with_first_tokens(tokens=40) == pytest.approx(1.0)
    assert rate_with_first_tokens(tokens=40, generated=True) == pytest.approx(1.0)


def test_first_tokens_of_nobody_are_no_arrivals() -> None:
    """A count that runs ahead, by as much as it may, has no tokens of its own."""
    assert rate_with_first_tokens(tokens=0) == pytest.approx(0.5)
    assert rate_with_first_tokens(tokens=0, ahead=12.0) == pytest.approx(0.5)
    assert rate_with_first_tokens(tokens=0, generated=True) == pytest.approx(0.5)
    # Where all tokens are not timed, or nothing ended yet, they are what is known.
    assert rate_with_first_tokens(tokens=-60) == pytest.approx(1.0)
    assert rate_with_first_tokens(tokens=0, share=0.0) == pytest.approx(1.0)


def test_first_tokens_of_nobody_are_no_arrivals_of_a_few_seconds() -> None:
    """In which fewer requests end than tell how many tokens are usual."""
    window = TrafficWindow(window_seconds=60)
    for second in range(0, 61, 10):
        one = page(0.25 * second, running=2)
        ahead = 3.0 * one.ttft[1]
        window.add("a", replace(one, ttft=(0.2 * ahead, ahead)), now=second)
    traffic = window.traffic(now=60)
    assert traffic is not None
    assert [rate for _, rate in traffic.sudden] == pytest.approx([0.25] * 2)


def rate_with_first_tokens(
    *, tokens: float, ahead: float = 1.0, share: float = 0.5, generated: bool = False
) -> float:
    """The rate that is seen where first tokens are counted of more requests than end.

    Args:
        tokens: output tokens, beside the first, of each of the others.
        ahead: first tokens a second.
        share: requests a second that end, each with 100 tokens.
        generated: whether the server counts what it generates.

    """
    window = TrafficWindow(window_seconds=60)
    for second in range(0, 61, 10):
        ended = page(share * second, running=2)
        gaps = max(ended.itl[1] + tokens * (ahead - share) * second, 0.0)
        one = replace(ended, ttft=(0.2 * second, ahead * second), itl=(0.02 * gaps, gaps))
        if generated:
            one = replace(one, generated=gaps + share * second)
        window.add("a", one, now=second)
    traffic = window.traffic(now=60)
    assert traffic is not None
    return traffic.arrival_rate_rps


def test_a_rate_is_of_the_time_in_which_pods_were_heard() -> None:
    """While none counts, the last counts would become all of an ever shorter window."""
    window = TrafficWindow(window_seconds=60)
    for second in range(0, 61, 10):
        window.add("a", page(0.5 * second + (20 if second == 60 else 0), running=2), now=second)
    window.suspend("a", forget=False)
    rates = [
        traffic.arrival_rate_rps for at in range(60, 111, 10) if (traffic := window.traffic(now=at))
    ]
    assert len(rates) == 6
    assert max(rates) < 1.2 * rates[0]
    assert window.traffic(now=125) is None


def test_what_was_counted_when_pods_were_heard_is_not_forgotten_before_its_rate() -> None:
    """A rate of then needs the counts of all of the window of then."""
    window = TrafficWindow(window_seconds=240)
    for second in range(0, 181, 30):
        window.add("a", page(2.0 * second, running=2), now=second)
    rates = [
        traffic.arrival_rate_rps
        for at in range(180, 410, 10)
        if (traffic := window.traffic(now=at))
    ]
    assert len(rates) == 23
    assert rates == pytest.approx([rates[0]] * 23)
