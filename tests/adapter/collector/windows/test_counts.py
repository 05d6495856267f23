"""Requests whose clients went away, and counts that run ahead, told apart by their tokens."""

from __future__ import annotations

from collections.abc import Mapping
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


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("share", [1.0, 0.8])
@pytest.mark.parametrize("ahead", [1.25, 1.5])
def test_requests_that_ended_count_no_further_than_all_other_counts(
    ahead: float, share: float, *, timed: bool
) -> None:
    """One that runs ahead alone is wrong, where all have lengths or always the same share has."""
    rates = {"finished": ahead, "generation_tokens": 1.0}
    assert rate_by_counts(rates, share=share, timed=timed) == pytest.approx(0.5, rel=0.15)


@pytest.mark.parametrize("timed", [True, False])
def test_lengths_that_fall_behind_lower_no_rate(*, timed: bool) -> None:
    """First tokens or prompts know of the others."""
    rates = {"finished": 1.0, "generation_tokens": 0.5}
    assert rate_by_counts(rates, share=1.0, timed=timed) == pytest.approx(0.5)


@pytest.mark.parametrize("at_once", [False, True])
def test_lengths_that_are_counted_with_a_request_are_no_second_count_of_it(
    *, at_once: bool
) -> None:
    """Both run ahead, or catch up at once; tokens are generated, and prompts prefilled, as usual."""
    window = TrafficWindow(window_seconds=60)
    for second in range(0, 181, 10):
        ended = 0.5 * second
        more = 20.0 * (second > 150) if at_once else 0.5 * max(second - 120, 0)
        one = replace(
            page(ended + more, running=2),
            ttft=(0.2 * ended, ended),
            itl=(0.02 * 99 * ended, 99 * ended),
            generated=100 * ended,
            cached_tokens=(0.0, 10 * ended),
        )
        window.add("a", one, now=second)
    traffic = window.traffic(now=180)
    assert traffic is not None
    assert traffic.arrival_rate_rps == pytest.approx(0.5, rel=0.08)


def test_requests_that_are_given_up_in_the_queue_are_arrivals() -> None:
    """A server that counts them as ended, with lengths, has no tokens of theirs."""
    window = TrafficWindow(window_seconds=60)
    for second in range(0, 181, 10):
        served = 0.5 * second
        one = replace(
            page(served, running=2, waiting=9),
            finished=2 * served,
            generation_tokens=(100 * served, 2 * served),
            prompt_tokens=(20 * served, 2 * served),
            generated=100 * served,
            cached_tokens=(0.0, 10 * served),
        )
        window.add("a", one, now=second)
    traffic = window.traffic(now=180)
    assert traffic is not None
    assert traffic.arrival_rate_rps == pytest.approx(1.0)


def rate_by_counts(rates: Mapping[str, float], *, share: float, timed: bool) -> float:
    """The rate that is seen of one request in two seconds, of which a share has lengths.

    Args:
        rates: What two counts are multiplied by from the second minute on.
        share: requests with lengths to those that end, until then.
        timed: whether there are times to first token.

    """
    window = TrafficWindow(window_seconds=60)
    for second in range(0, 181, 10):
        one = page(0.5 * second, running=2)
        before, since = 0.5 * min(second, 120), 0.5 * max(second - 120, 0)
        ended, lengths = (
            before + since * rates[name] for name in ("finished", "generation_tokens")
        )
        first = one.ttft if timed else (0.0, 0.0)
        one = replace(
            one, finished=ended, ttft=first, prompt_tokens=(50 * one.finished, one.finished)
        )
        one = replace(one, generation_tokens=(100 * share * lengths, share * lengths))
        window.add("a", one, now=second)
    traffic = window.traffic(now=180)
    assert traffic is not None
    return traffic.arrival_rate_rps


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
