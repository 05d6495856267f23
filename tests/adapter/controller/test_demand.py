"""The rate that variants are sized for: the steadier window, steps, gateways, trends, and what wakes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from adapter.collector.gateway import Demand, GatewayWindow, Rates
from adapter.collector.promql import GatewayCount
from adapter.collector.traffic import Traffic
from adapter.controller import demand
from adapter.controller.demand import RateSettings
from adapter.controller.demand.backlog import Queue
from adapter.planning import fleet
from adapter.resources.inputs import Inputs
from adapter.resources.variant import VariantSource
from analyzer import forecast
from analyzer.latency import LatencyParameters

PLAIN = RateSettings(headroom=0.0)


def source(name: str = "v", *, replicas: int = 1, startup: float | None = None) -> VariantSource:
    """A variant of model `m` in namespace `n`."""
    return VariantSource(
        namespace="n", name=name, model="m", service_class="c", profiles=(), accelerator="",
        targets=fleet.Targets(), endpoints=(), replicas=replicas, startup_seconds=startup,
    )  # fmt: skip


def traffic(short_rpm: float, long_rpm: float) -> Traffic:
    return Traffic(
        arrival_rate_rps=short_rpm / 60, long_rate_rps=long_rpm / 60, input_tokens=1.0,
        output_tokens=1.0, ttft_ms=None, itl_ms=None, idle=False,
    )  # fmt: skip


def sized(
    seen: Traffic,
    *,
    gateway: float | None = None,
    trend: forecast.State | None = None,
    settings: RateSettings | None = None,
    startup: float | None = None,
) -> demand.SizingRate:
    return demand.sizing_rate(
        source(startup=startup),
        seen,
        gateway_rps=None if gateway is None else gateway / 60,
        trend=trend,
        settings=settings or PLAIN,
        window_seconds=60,
        interval_seconds=60,
        now=600.0 if trend is None else trend.at,
    )


def offered_rpm(short: float, long: float, trend: forecast.State | None = None) -> float:
    return 60 * sized(traffic(short, long), trend=trend).rate_rps


def rate(
    short: float,
    long: float,
    *,
    gateway: float | None = None,
    trend: forecast.State | None = None,
    settings: RateSettings | None = None,
    startup: float | None = None,
) -> tuple[Any, str]:
    variant = sized(
        traffic(short, long),
        gateway=gateway,
        trend=trend,
        settings=settings,
        startup=startup,
    )
    return pytest.approx(variant.rate_rps * 60), "; ".join(variant.notes)


@pytest.mark.parametrize(
    ("short", "long", "low", "high"),
    [
        pytest.param(66, 60, 60, 60, id="noise-up"),
        pytest.param(50, 60, 60, 60, id="noise-down"),
        pytest.param(60, 60, 60, 60, id="equal"),
        pytest.param(81, 60, 61, 66, id="significant-part"),
        pytest.param(240, 60, 240, 240, id="step-up"),
        pytest.param(20, 60, 25, 35, id="fall"),
        pytest.param(30, 0, 30, 30, id="no-long-window-yet"),
    ],
)
def test_which_window_counts(short: float, long: float, low: float, high: float) -> None:
    """The long one, moved by what exceeds two standard errors; all of it from three on, when it is sure."""
    rpm = offered_rpm(short, long)
    assert low - 1e-6 <= rpm <= high + 1e-6


@pytest.mark.parametrize(("short", "told"), [(60.0, False), (60.3, False), (66.0, True)])
def test_a_difference_that_matters_to_no_one_is_not_told(short: float, *, told: bool) -> None:
    """A note with two numbers that are nearly the same reads as a defect."""
    assert any("noise" in note for note in sized(traffic(short, 60)).notes) is told


def test_the_last_quarter_of_a_minute_shows_a_step() -> None:
    """It applies at full size at once, not when the whole minute shows it."""
    shown = replace(traffic(105, 75), recent=((15.0, 4.0), (30.0, 2.5)))
    variant = sized(shown)
    assert variant.rate_rps == pytest.approx(4.0)
    assert "noise" in variant.notes[0]


def test_bursty_arrivals_need_a_larger_change() -> None:
    """What is significant for Poisson arrivals may be noise for more dispersed ones."""
    bursty = trend_of([2.0 * (index % 2) for index in range(60)])
    assert demand.dispersion(bursty) > 2
    assert offered_rpm(120, 60, trend=bursty) < offered_rpm(120, 60) - 5


def test_load_that_returns_after_idle_is_seen_at_its_size() -> None:
    """Its first quarter of a minute says it, however long nothing came before."""
    shown = replace(traffic(13, 4.5), recent=((15.0, 0.9), (30.0, 0.45)))
    assert sized(shown).rate_rps * 60 == pytest.approx(54)


def test_headroom_is_a_share() -> None:
    """It is added for changes of the rate between two reconcile cycles."""
    assert sized(traffic(60, 60), settings=RateSettings(headroom=0.2)).rate_rps == pytest.approx(
        1.2
    )


def test_the_usual_change_over_a_start_is_spare() -> None:
    """Where a rate goes up and down, the change over a start-up counts instead of a smaller headroom."""
    restless = trend_of([30.0 * (1.0 + 0.14 * math.sin(index / 3.2)) for index in range(300)])
    variant = sized(traffic(1800, 1800), trend=restless, startup=180.0)
    assert variant.rate_rps > 31.5
    assert "usually changes by" in "; ".join(variant.notes)
    reactive = RateSettings(anticipate=False, headroom=0.0)
    assert sized(traffic(1800, 1800), trend=restless, settings=reactive).rate_rps == 30.0


def test_a_long_start_keeps_room_for_a_rise() -> None:
    """A load that changed within minutes may change by more within a start-up of ten, and that is told."""
    restless = trend_of([30.0 * (1.0 + 0.14 * math.sin(index / 3.2)) for index in range(60)])
    short = sized(traffic(1800, 1800), trend=restless, startup=180.0)
    long = sized(traffic(1800, 1800), trend=restless, startup=600.0)
    assert 1.03 * short.rate_rps < long.rate_rps <= 60.0
    assert "room for a rise of" in "; ".join(long.notes)
    steady = trend_of([30.0] * 60)
    assert sized(traffic(1800, 1800), trend=steady, startup=600.0).rate_rps == 30.0


def test_an_expected_rise_is_part_of_the_room() -> None:
    """What a load may rise by within a start-up is not added to what its trend says of that time."""
    trend = trend_of([30.0 * (1.0 + 0.14 * math.sin(index / 12.0)) for index in range(80)])
    level = trend.level
    made = sized(traffic(60 * level, 60 * level), trend=trend, startup=600.0)
    assert [clause.partition(" ")[0] for clause in made.notes] == ["rising:", "room"]
    assert made.rate_rps == pytest.approx(level + forecast.room(trend, 660.0, errors=1.0))


def test_a_rate_exceeds_the_forecast_only_by_more_than_noise() -> None:
    """Half as much again as was sized for does not, three times as much does, an old rate never does."""
    calm = trend_of([1.0] * 20)
    assert not demand.exceeds_forecast(calm, 1.5, at=315.0, sized_rps=1.0)
    assert demand.exceeds_forecast(calm, 3.0, at=315.0, sized_rps=1.0)
    assert not demand.exceeds_forecast(calm, 3.0, at=300.0, sized_rps=1.0)


def trend_of(rates_rps: list[float]) -> forecast.State:
    """The trend of these rates, observed every 15 s."""
    trend = None
    for index, rate_rps in enumerate(rates_rps):
        trend = demand.record(trend, rate_rps, at=15.0 * (index + 1))
    assert trend is not None
    return trend


def rising() -> forecast.State:
    """12/min that became 120/min in the last nine of 15 minutes, observed every 15 s without noise."""
    return trend_of([0.2 + max(at - 360, 0) / 300 for at in range(15, 901, 15)])


def test_a_rise_is_extrapolated_over_the_start_of_a_replica() -> None:
    """120/min rising by 12 a minute: in three minutes, two for the start and one for the interval, 156."""
    rpm, note = rate(120, 120, trend=rising(), startup=120.0)
    assert rpm == pytest.approx(156, rel=0.08)
    assert "rising" in note
    assert "in 180 s" in note


def test_anticipation_can_be_switched_off() -> None:
    """Then the observed rate counts."""
    settings = RateSettings(anticipate=False, headroom=0)
    assert rate(120, 120, trend=rising(), settings=settings) == (pytest.approx(120), "")


def test_a_trend_goes_no_further_than_four_minutes() -> None:
    """However long a start takes: a line over more of them does more harm than good."""
    rpm, _ = rate(120, 120, trend=rising(), startup=880.0)
    assert rpm == pytest.approx(120 + 4 * 12, rel=0.08)


def test_an_unproven_trend_is_not_used() -> None:
    """A rate that has risen for two minutes only has shown nothing of the next ones."""
    young = trend_of([1.0] * 20 + [1.0 + 0.1 * index for index in range(8)])
    assert forecast.ahead(young, 60.0) is not None
    assert "rising" not in rate(120, 120, trend=young, startup=120.0)[1]


def test_a_rise_is_one_before_its_trend_is_proven() -> None:
    """Six minutes of a constant rate, and one in which it grows; once it stands, the rise is over."""
    constant = [3.0 + 0.1 * (index % 2) for index in range(24)]
    growing = [3.5, 4.0, 4.5, 5.0]
    assert not demand.rising(trend_of(constant))
    assert trend_of(constant + growing).proven_seconds == 0.0
    assert demand.rising(trend_of(constant + growing))
    assert not demand.rising(trend_of(constant + growing + [5.0] * 12))


def test_a_falling_trend_lowers_nothing() -> None:
    """Falling load lowers the rate once it has fallen."""
    falling = trend_of([max(4.0 - 0.09 * index, 0.1) for index in range(40)])
    assert 60 <= sized(traffic(60, 60), trend=falling).rate_rps * 60 < 75


def test_the_larger_of_gateway_and_pods_counts() -> None:
    """Requests queued at the gateway never arrive at a pod; requests that bypass it never arrive at it."""
    assert rate(60, 60, gateway=150)[0] == 150
    assert rate(60, 60, gateway=20) == (60, "")


def added(window: GatewayWindow, counts: list[GatewayCount], *, step: float = 10.0) -> float:
    at = 0.0
    for count in counts:
        window.add("url", [count], now=at)
        at += step
    return at - step


def test_a_gateway_has_a_rate_after_half_of_the_window() -> None:
    """Until then its rate is unknown, which is not zero."""
    window = GatewayWindow(window_seconds=60)
    counts = [GatewayCount(namespace="", model="m", requests=10.0 * i) for i in range(3)]
    assert window.rates(now=added(window, counts)).rps == {}
    window.add("url", [GatewayCount(namespace="", model="m", requests=30.0)], now=30.0)
    assert window.rates(now=30.0).rps == {("", "m"): pytest.approx(1.0)}


def test_requests_that_wait_at_the_gateway_have_arrived() -> None:
    """They are counted when they are forwarded; until then the growth of the queue counts them, not twice."""
    window = GatewayWindow(window_seconds=60)
    waiting = [GatewayCount(namespace="", model="m", requests=5, waiting=2.0 * i) for i in range(7)]
    at = added(window, waiting)
    assert window.rates(now=at).rps["", "m"] == pytest.approx(12 / 60)
    window.add("url", [GatewayCount(namespace="", model="m", requests=17, waiting=0)], now=at + 10)
    assert window.rates(now=at + 10).rps["", "m"] == pytest.approx(10 / 60)


def test_a_gateway_that_restarted_has_no_negative_rate() -> None:
    """Its counters restart at zero."""
    window = GatewayWindow(window_seconds=60)
    numbers = (1000.0, 1010.0, 1020.0, 3.0, 13.0)
    counts = [GatewayCount(namespace="", model="m", requests=n) for n in numbers]
    assert window.rates(now=added(window, counts)).rps["", "m"] == pytest.approx(33 / 40)


def test_a_direct_scrape_has_precedence_over_prometheus() -> None:
    """The same gateway known from both is not counted twice."""
    window = GatewayWindow(window_seconds=60)
    for index in range(7):
        for origin in ("url", ""):
            count = GatewayCount(namespace="", model="m", requests=10.0 * index)
            window.add(origin, [count], now=10.0 * index)
    assert window.rates(now=60.0).rps == {("", "m"): pytest.approx(1.0)}


def test_a_gateways_count_is_divided_in_proportion_to_the_pods_rates() -> None:
    """Over the variants of its model; equally among those with replicas where the rates are zero."""
    both = [source("a"), source("b"), source("asleep", replicas=0)]
    rates = Rates(rps={("", "m"): 4.0, ("other", "m"): 9.0})
    assert demand.gateway_parts(both, {"n/a": 3.0, "n/b": 1.0}, rates) == {
        "n/a": 3.0, "n/b": 1.0, "n/asleep": 0.0,
    }  # fmt: skip
    parts = demand.gateway_parts(both, {}, rates)
    assert (parts["n/a"], parts["n/b"], parts["n/asleep"]) == (2.0, 2.0, 0.0)


def test_a_gateway_of_a_namespace_counts_for_that_one() -> None:
    """Its number is not that of the same model elsewhere."""
    rates = Rates(rps={("n", "m"): 1.0, ("", "m"): 5.0})
    assert demand.gateway_parts([source("a")], {}, rates) == {"n/a": 1.0}


def asleep(name: str, accelerator: str, *, replicas: int = 0) -> VariantSource:
    """A variant of model `m` that may run on one accelerator."""
    profile = fleet.Profile(
        accelerator=accelerator, latency=LatencyParameters(alpha_ms=10, beta_ms=1), max_batch=4
    )
    return replace(source(name, replicas=replicas), profiles=(profile,), spec_replicas=replicas)


def test_the_cheapest_variant_of_a_model_wakes() -> None:
    """One of those at zero, and none while another runs or no request for the model waits or arrives."""
    costs = tuple(
        fleet.Accelerator(name=name, device_type=name, unit_cost=cost)
        for name, cost in (("dear", 90.0), ("cheap", 20.0))
    )
    none = Inputs(accelerators=costs, variants=(asleep("x", "dear"), asleep("y", "cheap")))
    assert demand.variants_to_wake(none, {("", "m"): Demand(waiting=1)}) == {"n/y"}
    assert demand.variants_to_wake(none, {("n", "m"): Demand(arrived=2)}) == {"n/y"}
    others = {("", "m"): Demand(), ("", "b"): Demand(waiting=1)}
    assert demand.variants_to_wake(none, others) == frozenset()
    one = Inputs(
        accelerators=costs, variants=(asleep("x", "dear", replicas=1), asleep("y", "cheap"))
    )
    assert demand.variants_to_wake(one, {("", "m"): Demand(waiting=1)}) == frozenset()


@pytest.mark.parametrize(
    ("short", "long", "surges"),
    [
        pytest.param(900, 300, True, id="certain-and-far-above"),
        pytest.param(360, 300, False, id="a-fifth-above"),
        pytest.param(300, 300, False, id="first-minutes"),
        pytest.param(10, 6, False, id="maybe-chance"),
    ],
)
def test_a_surge_is_a_certain_rise_by_a_third(short: float, long: float, *, surges: bool) -> None:
    """What may be chance, and a rise that any load may have, asks for no queue of later."""
    queue = Queue(
        running=8.0, waiting=40.0, growth_rps=1.0, ready=1, ordered=1, start_seconds=60.0,
        loading_seconds=60.0,
    )  # fmt: skip
    made = demand.sizing_rate(
        source(), traffic(short, long), gateway_rps=None, trend=None, settings=PLAIN,
        window_seconds=60, interval_seconds=60, now=600.0, queue=queue,
    )  # fmt: skip
    assert made.surge is surges
    assert (made.in_flight > 48.0) is surges
