"""Dispersion of arrivals at the scale of the windows that are tested for a rise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from numpy.typing import NDArray

from adapter.collector.traffic import TrafficWindow
from adapter.collector.windows.growth import EMPTY
from adapter.controller import demand
from adapter.controller.demand import trend

LOOK, SECONDS, RPS = 5.0, 600.0, 4.0


def poisson(seed: int, rps: float = RPS, seconds: float = SECONDS) -> NDArray[np.float64]:
    """Times of arrivals, sorted."""
    rng = np.random.default_rng(seed)
    return np.sort(rng.uniform(0.0, seconds, size=rng.poisson(rps * seconds)))


def gathered(times: NDArray[np.float64], every: float = 3.0) -> NDArray[np.float64]:
    """The same with time stamps that are rounded down."""
    return np.floor(times / every) * every


def looks(times: NDArray[np.float64]) -> Iterator[TrafficWindow]:
    """A window after each look at two pods, one a little later, that have served one arrival in turn."""
    window = TrafficWindow(window_seconds=60.0, long_seconds=300.0)
    for at in np.arange(0.5, SECONDS, LOOK).tolist():
        for pod, late in enumerate((0.0, 0.3)):
            served = float(np.searchsorted(times[pod::2], at + late, side="right"))
            page = replace(EMPTY, finished=served, ttft=(served, served))
            window.add(f"pod-{pod}", page, now=at + late)
        yield window


def window_of(times: NDArray[np.float64], *, number: int = int(SECONDS / LOOK)) -> TrafficWindow:
    """The window after that many looks."""
    return next(islice(looks(times), number - 1, None))


def test_poisson_arrivals_have_a_dispersion_of_one() -> None:
    """On average; the outliers that count less make it somewhat smaller. Chance seldom shows far more."""
    seen = np.array([window_of(poisson(seed)).dispersion(LOOK) or 0.0 for seed in range(40)])
    assert 0.7 < float(np.mean(seen)) < 1.1
    assert float(np.mean(seen > trend.SHORT_DISPERSION_BIAS)) <= 0.1


@pytest.mark.parametrize("seed", range(4))
def test_arrivals_gathered_every_three_seconds_are_irregular_within_five(seed: int) -> None:
    """One or two batches of 12 fall into 5 s; into 15 s always five."""
    window = window_of(gathered(poisson(seed)))
    five, fifteen = window.dispersion(LOOK), window.dispersion(15.0)
    assert five is not None
    assert fifteen is not None
    assert five > 1.8
    assert fifteen < 1.7


@pytest.mark.parametrize("seed", range(4))
def test_a_rise_is_no_dispersion(seed: int) -> None:
    """Nor does one of a minute ago hide the next: five times as many from 540 s on."""
    more = 540.0 + poisson(seed + 100, rps=4.0 * RPS, seconds=60.0)
    times = np.sort(np.concatenate((poisson(seed), more)))
    seen = window_of(times).dispersion(LOOK)
    assert seen is not None
    assert seen < 1.7


def test_too_few_looks_show_none() -> None:
    """Nor does a time without arrivals."""
    assert window_of(poisson(1), number=8).dispersion(LOOK) is None
    assert window_of(np.array([1.0, 2.0])).dispersion(LOOK) is None


def test_gathered_arrivals_seldom_look_like_a_rise() -> None:
    """At a constant rate, in windows of 5 and 10 s; counted as Poisson arrivals they do far more often."""
    alone, measured = 0, 0
    for seed in range(12):
        for window in islice(looks(gathered(poisson(seed, rps=8.0), 4.0)), 40, None):
            windows = tuple(window.rates_of((1 / 12, 1 / 6)))
            alone += demand.rises_suddenly(windows, 8.0, lambda _: None, 1.0)
            measured += demand.rises_suddenly(windows, 8.0, window.dispersion, 1.0)
    assert alone >= 10
    assert measured <= 0.2 * alone
