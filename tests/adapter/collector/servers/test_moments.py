"""Shares of short requests, from the buckets of histograms of lengths."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter.collector.servers import moments as histograms
from adapter.collector.servers.moments import moments, moments_growth, short_shares, variation
from adapter.collector.servers.totals import LENGTH_BOUNDS, Moments
from adapter.collector.traffic import TrafficWindow
from adapter.collector.windows.growth import EMPTY
from analyzer.step_times import SHORT_BOUNDS

NAME = "vllm:request_generation_tokens_bucket"


def of_buckets(below: Mapping[str, float]) -> Moments:
    """Moments of one histogram by counts up to bounds."""
    known = moments([(NAME, {"le": bound}, count) for bound, count in below.items()], (NAME,))
    assert known is not None
    return known


FINE = {"1": 2, "2": 3, "5": 12, "10": 20, "20": 30, "50": 50, "100": 90, "+Inf": 200}


def test_shares_are_those_at_the_bounds() -> None:
    """Of vLLM's buckets, which have all the bounds."""
    assert short_shares([of_buckets(FINE)]) == pytest.approx((0.01, 0.06, 0.15, 0.25))


def test_what_grew_counts() -> None:
    """Of two windows together, after what was there before, and anew after a restart."""
    before = of_buckets({"1": 1, "5": 2, "20": 5, "50": 10, "+Inf": 50})
    after = of_buckets(FINE)
    grown = moments_growth(before, after)
    assert short_shares([grown]) == pytest.approx((1 / 150, 10 / 150, 25 / 150, 40 / 150))
    assert moments_growth(after, before) == before
    assert short_shares([grown, before]) == short_shares([after])


@pytest.mark.parametrize(
    "below",
    [
        {"100": 150, "300": 180, "+Inf": 200},
        {bound: count / 10 for bound, count in FINE.items()},
        {"1": 0, "5": 0, "20": 0, "50": 0, "100": 90, "+Inf": 200},
    ],
    ids=["coarse buckets", "few requests", "no short ones"],
)
def test_nothing_is_told(below: Mapping[str, float]) -> None:
    """Then answers are taken as log-normal."""
    assert short_shares([of_buckets(below)]) == ()


def test_between_bounds_lengths_are_uniform_by_their_logarithm() -> None:
    """Of powers of two: 20 and 50 tokens lie within buckets."""
    shares = short_shares([of_buckets({"8": 40, "16": 80, "32": 120, "64": 160, "+Inf": 200})])
    assert shares[0] == pytest.approx(0.05)
    assert shares[2] == pytest.approx((80 + 40 * 0.3219) / 200, rel=1e-3)
    assert list(shares) == sorted(shares)


def test_estimates_that_fall_are_lifted() -> None:
    """Prometheus extrapolates each bucket by itself."""
    assert short_shares([Moments(1e4, 1e6, 200.0, (4.0, 3.9, 20.0, 210.0))]) == pytest.approx(
        (0.02, 0.02, 0.1, 1.0)
    )


def test_shares_of_the_long_window() -> None:
    """By what the histograms grew, not by their totals."""
    window = TrafficWindow(window_seconds=60, long_seconds=180)
    for second in range(0, 121, 10):
        new = 2.0 * second
        short = (0.0, 500 + new / 10, 500 + new / 5, 500 + new / 4)
        answers = Moments(200 * (1000 + new), 50_000 * (1000 + new), 1000 + new, short)
        page = replace(EMPTY, finished=1000 + new, output_moments=answers)
        window.add("a", page, now=second)
    traffic = window.traffic(now=120)
    assert traffic is not None
    assert traffic.short_answers == pytest.approx((0.0, 0.1, 0.2, 0.25))


@given(
    inside=st.dictionaries(st.floats(0.5, 1e6), st.floats(0.0, 1e6), min_size=1, max_size=30),
    beyond=st.booleans(),
)
def test_short_requests_are_as_interpolated(inside: Mapping[float, float], *, beyond: bool) -> None:
    """The layout of the bounds gives what an interpolation of the counts over their logarithms gives."""
    bounds = sorted(inside)
    counts = np.cumsum([inside[bound] for bound in bounds])
    below = {repr(bound): float(count) for bound, count in zip(bounds, counts, strict=True)}
    if beyond:
        below["+Inf"] = float(counts[-1]) + 1.0
    told = bounds[0] <= 10.0 and any(below.values())
    expected = np.interp(
        np.log(SHORT_BOUNDS), [np.log(0.5), *np.log(bounds)], [0.0, *counts.tolist()]
    )
    short = of_buckets(below).short
    assert short == pytest.approx(expected if told else np.zeros(len(SHORT_BOUNDS)), rel=1e-9)


def test_engines_add_up_whatever_order_and_spelling_their_bounds_have() -> None:
    """Of two engines one writes the bounds otherwise, from the last to the first."""
    one = [(NAME, {"le": bound}, count) for bound, count in FINE.items()]
    other = [(NAME, {"le": repr(float(bound))}, count) for bound, count in FINE.items()]
    assert moments([*one, *reversed(other)], (NAME,)) == of_buckets(
        {bound: 2 * count for bound, count in FINE.items()}
    )


@pytest.mark.parametrize(
    "values",
    [
        (2, 3, 12, 20, 30),
        (0, 0, 0, 0, 0),
        (2, 1, 12, 20, 30),
        (2, 3, 12, 20, 1e300),
        (-1, 3, 12, 20, 30),
    ],
)
def test_buckets_without_labels_say_the_same(values: tuple[float, ...]) -> None:
    """Counts up to the bounds of a page, and such as are no measurement."""
    bounds = ("1", "5", "20", "100", "+Inf")
    page = [(NAME, {"le": bound}, value) for bound, value in zip(bounds, values, strict=True)]
    assert histograms.of_buckets(bounds, values) == moments(page, (NAME,))


def test_a_bound_of_nearly_nothing_is_as_one_of_nothing() -> None:
    """The quotient of the next bound by it is no number."""
    known = of_buckets({"5e-324": 0, "20": 100, "+Inf": 100})
    assert 0.0 < known.total < 20.0 * 100


def test_requests_are_counted_by_length() -> None:
    """Up to each of `LENGTH_BOUNDS`, as their growth; coarse buckets do not tell."""
    before = of_buckets({"5": 1, "20": 2, "50": 4, "1000": 8, "+Inf": 10})
    after = of_buckets({"5": 1, "20": 4, "50": 8, "1000": 24, "+Inf": 30})
    grown = dict(zip(LENGTH_BOUNDS, moments_growth(before, after).by_length, strict=True))
    assert (grown[20], grown[50], grown[1000], grown[50000]) == (2.0, 4.0, 16.0, 16.0)
    assert grown[50] < grown[200] < grown[500] < grown[1000]
    assert moments_growth(Moments(0.0, 0.0, 0.0), after).by_length == after.by_length
    assert moments_growth(Moments(900.0, 9e4, 10.0), after).by_length == ()
    assert of_buckets({"100": 10, "1000": 20, "+Inf": 30}).by_length == ()


BOUNDS = [step * 10**power for power in range(5) for step in (1, 2, 5)]
USUAL = np.random.default_rng(3).lognormal(6.0, 0.6, 5000)


def of_lengths(*lengths: float) -> Moments:
    """Moments of requests of these lengths, by vLLM's buckets."""
    below = {str(bound): float(np.sum(np.array(lengths) <= bound)) for bound in BOUNDS}
    return of_buckets({**below, "+Inf": float(len(lengths))})


@pytest.mark.parametrize("longest", [15_000.0, 45_000.0, 90_000.0])
def test_a_few_very_long_requests_are_no_variation(longest: float) -> None:
    """Whether one of them is in the window is chance, and a percentile does not depend on it."""
    usual = variation([of_lengths(*USUAL)], but_rare=True)
    assert usual == pytest.approx(USUAL.std() / USUAL.mean(), rel=0.1)
    assert variation([of_lengths(*USUAL), of_lengths(longest)], but_rare=True) == pytest.approx(
        usual, rel=0.1
    )


def test_one_more_long_request_changes_little() -> None:
    """Where they are about as many as are rare, targets would go up and down with each of them."""
    known = [
        variation([of_lengths(*USUAL), of_lengths(*[15_000.0] * more)], but_rare=True)
        for more in range(1, 14)
    ]
    assert max(abs(np.diff(np.array(known, dtype=float)))) < 0.3


def test_long_requests_that_are_not_rare_count() -> None:
    """One in a hundred, and one of a few hundred: those are what a 99th percentile is about."""
    many = np.array([*USUAL, *[45_000.0] * 50])
    assert variation([of_lengths(*many)], but_rare=True) == pytest.approx(
        many.std() / many.mean(), rel=0.3
    )
    few = np.array([*USUAL[:300], 45_000.0])
    assert variation([of_lengths(*few)], but_rare=True) == pytest.approx(
        few.std() / few.mean(), rel=0.3
    )


def test_without_counts_by_length_all_requests_count() -> None:
    """Buckets that do not tell short requests tell no rare ones."""
    known = Moments(5000 * 400.0, 5000 * 250_000.0, 5000.0)
    assert variation([known], but_rare=True) == pytest.approx(0.75)


def test_answers_count_however_rare_they_are() -> None:
    """A long one holds its place for as long as it takes."""
    some = [of_lengths(*USUAL), of_lengths(45_000.0)]
    assert (variation(some) or 0.0) > 1.5 * (variation(some, but_rare=True) or math.inf)
