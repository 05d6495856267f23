"""Lengths to size for: steady while requests differ by chance only, those of now once they have changed."""

from __future__ import annotations

import dataclasses

import pytest

from adapter.collector.traffic import Traffic
from adapter.collector.windows.growth import SteadyLengths
from adapter.controller.estimates import lengths


def traffic(
    *,
    output_tokens: float,
    long_output_tokens: float | None = 200.0,
    ended: float = 400.0,
    cached_tokens: float | None = None,
) -> Traffic:
    """Requests of 1,000 input tokens; the error of the mean of 400 outputs is 0.8 x 200 / 20 = 8 tokens."""
    return Traffic(
        arrival_rate_rps=ended / 60.0,
        input_tokens=1000.0,
        output_tokens=output_tokens,
        ttft_ms=100.0,
        itl_ms=10.0,
        idle=False,
        steady=None
        if long_output_tokens is None
        else SteadyLengths(input_tokens=1250.0, output_tokens=long_output_tokens, ended=ended),
        input_cv=4.0,
        output_cv=0.8,
        cached_tokens=cached_tokens,
    )


@pytest.mark.parametrize(
    ("short", "sized_for"),
    [
        pytest.param(190.0, 200.0, id="lower-by-chance"),
        pytest.param(160.0, 176.0, id="lower"),
        pytest.param(215.0, 200.0, id="higher-by-chance"),
        pytest.param(220.0, 204.0, id="perhaps-higher"),
        pytest.param(226.0, 226.0, id="higher-for-certain"),
    ],
)
def test_what_is_significant_of_a_change_counts(short: float, sized_for: float) -> None:
    """Two standard errors are noise; a rise beyond three counts in full, a fall without its noise."""
    assert lengths.smoothed(traffic(output_tokens=short)).output_tokens == pytest.approx(sized_for)


def test_few_requests_do_not_shorten_lengths() -> None:
    """Nine short answers are no change of the traffic; 3,600 are."""
    few = lengths.smoothed(traffic(output_tokens=120.0, ended=9.0))
    many = lengths.smoothed(traffic(output_tokens=120.0, ended=3600.0))
    assert few.output_tokens == 200.0
    assert many.output_tokens == pytest.approx(120.0 + 2 * 0.8 * 200.0 / 60.0)


def test_cached_tokens_stay_their_share_of_the_prompt() -> None:
    """The prompt is that of the long window, and as much of it comes from the prefix cache."""
    sized = lengths.smoothed(traffic(output_tokens=200.0, cached_tokens=400.0))
    assert (sized.input_tokens, sized.cached_tokens) == pytest.approx((750.0, 500.0))


@pytest.mark.parametrize(
    ("long", "ended"), [(None, 400.0), (200.0, 0.0)], ids=["no-long-window", "nothing-ended"]
)
def test_without_both_windows_the_observed_lengths_count(long: float | None, ended: float) -> None:
    """The last known lengths, or those of the only window, are passed on as they are."""
    seen = traffic(output_tokens=150.0, long_output_tokens=long, ended=ended)
    assert lengths.smoothed(seen) == lengths.of_traffic(seen)


@pytest.mark.parametrize(
    ("output_tokens", "note"),
    [
        pytest.param(
            150.0, ("1000/150 tokens observed, 1250/166 used: the rest may be noise",), id="other"
        ),
        pytest.param(None, (), id="nothing-ended-yet"),
    ],
)
def test_lengths_that_are_not_the_observed_ones_are_told(
    output_tokens: float | None, note: tuple[str, ...]
) -> None:
    """Who reads the decision sees both lengths."""
    seen = dataclasses.replace(traffic(output_tokens=150.0), output_tokens=output_tokens)
    assert lengths.smoothing_note(seen) == note
