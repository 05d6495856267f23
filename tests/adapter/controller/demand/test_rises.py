"""Rises of the rate: how soon they are certain, how far they go, and what may be chance."""

from __future__ import annotations

import math

import numpy as np
import pytest

from adapter.collector.traffic import Traffic
from adapter.controller import demand
from adapter.controller.demand import RateSettings
from adapter.controller.demand.rates import SUDDEN_EVIDENCE, evidence
from adapter.planning import fleet
from adapter.resources.variant import VariantSource

LONG_RPS, WINDOW = 4.0, 60.0


def rate_of(
    short: float,
    *,
    recent: tuple[tuple[float, float], ...] = (),
    sudden: tuple[tuple[float, float], ...] = (),
    dispersions: tuple[float | None, ...] = (),
    output_tokens: float = 1.0,
    itl_ms: float | None = None,
) -> float:
    """The rate that is sized for where 4 a second came over the long window."""
    traffic = Traffic(
        arrival_rate_rps=short, long_rate_rps=LONG_RPS, recent=recent, sudden=sudden,
        dispersions=dispersions,
        input_tokens=1.0, output_tokens=output_tokens, ttft_ms=None, itl_ms=itl_ms, idle=False,
    )  # fmt: skip
    source = VariantSource(
        namespace="n", name="v", model="m", service_class="c", profiles=(), accelerator="",
        targets=fleet.Targets(itl_ms=50.0), endpoints=(), replicas=1,
    )  # fmt: skip
    return demand.sizing_rate(
        source, traffic, gateway_rps=None, trend=None, settings=RateSettings(headroom=0.0),
        window_seconds=WINDOW, interval_seconds=30.0, now=600.0,
    ).rate_rps  # fmt: skip


LEAST_SEEN = 12.0 - SUDDEN_EVIDENCE / evidence(5.0, 12.0, LONG_RPS) * math.sqrt(12.0 / 5.0)
"""5 s of 12 a second where 4 are usual: the less of the error counts, the more evidence there is."""


def test_a_rise_of_five_seconds_counts_but_for_its_doubt() -> None:
    """12 a second where 4 came: by then a minute has 4.7, half a minute 5.3, a quarter 6.7."""
    recent = ((15.0, 20 / 3), (30.0, 16 / 3))
    assert rate_of(14 / 3, recent=recent) < 7.0
    assert rate_of(14 / 3, recent=recent, sudden=((5.0, 12.0),)) == pytest.approx(LEAST_SEEN)


@pytest.mark.parametrize("risen_rps", [8.0, 12.0, 16.0])
def test_a_sudden_rise_is_sized_for_as_it_is(risen_rps: float) -> None:
    """On average over the looks that see it, neither what just passed for certain nor a bound below it."""
    counts = np.random.default_rng(21).poisson(5.0 * risen_rps, size=2000)
    seen = [rate_of(LONG_RPS, sudden=((5.0, count / 5.0),)) for count in counts.tolist()]
    certain = [rate for rate in seen if rate > LONG_RPS]
    assert np.mean(certain) == pytest.approx(risen_rps, rel=0.05)


def test_a_shorter_window_with_less_evidence_counts_but_for_its_whole_error() -> None:
    """10 s of 9 a second tell more than their last five, which had 10: those are higher by chance."""
    rate = rate_of(4.8, sudden=((5.0, 10.0), (10.0, 9.0)))
    assert rate == pytest.approx(
        9.0 - SUDDEN_EVIDENCE / evidence(10.0, 9.0, LONG_RPS) * math.sqrt(9.0 / 10.0)
    )


@pytest.mark.parametrize(
    ("output_tokens", "itl_ms", "share"),
    [
        (2500.0, 20.0, 0.1),  # 50 s in service: a tenth of what it would be if it went on
        (250.0, 20.0, 1.0),  # they are gone within the window
        (2500.0, 500.0, 0.04),  # an overload lengthens no more than to the target: 125 s
    ],
)
def test_a_burst_counts_by_what_it_adds_to_the_requests_in_service(
    output_tokens: float, itl_ms: float, share: float
) -> None:
    """5 s of 12 a second where 4 are usual."""
    rate = rate_of(4.0, sudden=((5.0, 12.0),), output_tokens=output_tokens, itl_ms=itl_ms)
    assert rate == pytest.approx(LONG_RPS + share * (LEAST_SEEN - LONG_RPS))


def test_a_rise_that_goes_on_counts_in_full_however_long_requests_stay() -> None:
    """15 s of 8 a second: the longer windows say that it is no burst."""
    lasting = ((15.0, 8.0), (30.0, 6.0))
    assert rate_of(5.0, recent=lasting, output_tokens=2500.0, itl_ms=20.0) == pytest.approx(8.0)


def test_a_few_more_in_five_seconds_are_chance() -> None:
    """33 where 20 come: three standard errors, as one look in some hundred shows."""
    assert rate_of(4.2, sudden=((5.0, 6.6),)) == pytest.approx(LONG_RPS)


def test_chance_alone_is_no_sudden_rise() -> None:
    """Fewer than one of a thousand looks at constant Poisson arrivals, whatever their rate."""
    rng = np.random.default_rng(20)
    for rate in (0.5, 4.0, 60.0):
        counts = rng.poisson(5.0 * rate, size=20_000)
        false = sum(evidence(5.0, count / 5.0, rate) > SUDDEN_EVIDENCE for count in counts.tolist())
        assert false / counts.size < 1e-3


@pytest.mark.parametrize(("seen", "otherwise"), [(4.0, 1.0), (None, 4.0)])
def test_bursty_arrivals_need_more_evidence(seen: float | None, otherwise: float) -> None:
    """Counts that scatter four times as much tell a quarter; what short windows show counts first."""
    windows = ((5.0, 9.0),)
    assert demand.rises_suddenly(windows, LONG_RPS, lambda _: 1.0, otherwise)
    assert not demand.rises_suddenly(windows, LONG_RPS, lambda _: seen, otherwise)


def test_arrivals_that_are_bursty_in_short_windows_only_are_no_rise() -> None:
    """9 a second for 5 s: a rise of steady arrivals, chance where such windows scatter four times as much."""
    sudden = ((5.0, 9.0),)
    assert rate_of(4.2, sudden=sudden, dispersions=(None,)) > 1.5 * LONG_RPS
    assert rate_of(4.2, sudden=sudden, dispersions=(4.0,)) == pytest.approx(LONG_RPS)


def test_no_more_than_sized_for_is_no_rise() -> None:
    """Nor is less."""
    assert not demand.rises_suddenly(((5.0, 12.0), (10.0, 11.0)), 12.0, lambda _: None, 1.0)
    assert evidence(5.0, 1.0, LONG_RPS) == 0.0


def test_the_likeliest_window_says_how_far_a_rise_goes() -> None:
    """A step to 6 a minute ago: a quarter that is higher by chance adds less than its excess."""
    step = rate_of(6.0, recent=((15.0, 7.0), (30.0, 6.2)))
    assert 6.0 <= step < 6.5
    # Where the quarter is the step itself, it counts in full.
    assert rate_of(5.0, recent=((15.0, 8.0), (30.0, 6.0))) == pytest.approx(8.0)
