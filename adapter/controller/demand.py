"""The arrival rate that a variant is sized for: observed at its pods, counted at a gateway, and expected.

Observed rates are noisy, the more so the shorter the window. The long window's rate is the steadiest and is
used, unless a shorter window shows a statistically significant change: the significant part of a change
applies immediately, noise is smoothed. A rising trend is extrapolated over the time that a new replica needs
to start, because what is decided now takes effect only then.

Requests at an inference gateway are attributed to the variants of their model, and wake one at zero replicas.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from adapter.collector import gateway
from adapter.collector.gateway import GatewayWindow, Rates
from adapter.collector.promql import GatewayCount
from adapter.collector.traffic import Traffic
from adapter.resources.inputs import Inputs
from adapter.resources.variant import VariantSource
from adapter.settings.control import DEFAULT_STARTUP_SECONDS, Sizing
from analyzer import forecast

NOISE_ERRORS = 2.0
"""Standard errors of a count within which a short window's rate counts as noise around the long window's."""

EARLY_CYCLE_ERRORS = 4.0
"""Standard errors above the rate of the last decision beyond which a reconcile cycle starts at once."""

GROWTH_LIMIT = 2.0
"""Upper bound of the expected rate, as a multiple of the observed rate."""

DISPERSION_BIAS = 1.8
"""Factor by which a measured dispersion may exceed the true one by chance and by the level's own error."""

DISPERSION_LIMIT = 9.0
"""Upper bound of the dispersion: a step looks like dispersion at first, and must not hide itself."""

DISPERSION_COUNT = 8
"""Observations before a dispersion is estimated."""

STARTUP_LIMIT_SECONDS = 900.0


_DECLARED = Sizing()
"""The declared defaults."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateSettings:
    """How the arrival rate for sizing is derived. Defaults are those of the declared settings.

    Attributes:
        anticipate: Whether a rising trend is extrapolated over a replica's start-up time.
        startup_seconds: Start-up time of a replica in seconds, for variants without one of their own;
            None means 60.
        drain_seconds: Seconds within which new replicas should serve the backlog that exists when they start.
            0 leaves the backlog to the queueing model, which knows none.
        headroom: Share of the rate added for its changes between two reconcile cycles.

    """

    anticipate: bool = _DECLARED.anticipate
    startup_seconds: float | None = _DECLARED.startup_time
    drain_seconds: float = _DECLARED.drain_time
    headroom: float = _DECLARED.headroom


@dataclass(frozen=True, slots=True, kw_only=True)
class SizingRate:
    """The arrival rate that one variant is sized for.

    Attributes:
        rate_rps: Requests per second.
        notes: Reasons why it differs from the rate that its pods show in the short window, a clause each.

    """

    rate_rps: float
    notes: tuple[str, ...] = ()


# The trend of one variant's arrival rate; None before its first observation.


def record(trend: forecast.State | None, rate_rps: float, *, at: float) -> forecast.State:
    """The trend with one more rate; one that is no newer (`at`, monotonic seconds) is ignored."""
    if trend is not None and at <= trend.at:
        return trend
    return forecast.update(trend, rate_rps, at=at)


def exceeds_forecast(
    trend: forecast.State | None, rate_rps: float, *, at: float, sized_rps: float
) -> bool:
    """Whether the rate since the last scrape cycle is significantly above the one that was sized for."""
    if trend is None or at <= trend.at:
        return False
    seconds = at - trend.at
    error = math.sqrt(dispersion(trend) * max(sized_rps, 1.0 / seconds) / seconds)
    return rate_rps > sized_rps + EARLY_CYCLE_ERRORS * error


def dispersion(trend: forecast.State | None) -> float:
    """Variance of the counts over their mean: 1 for Poisson arrivals, more for bursty ones."""
    if trend is None or trend.count < DISPERSION_COUNT or trend.level <= 0:
        return 1.0
    measured = trend.noise * trend.step / trend.level / DISPERSION_BIAS
    return min(max(measured, 1.0), DISPERSION_LIMIT)


def expected(trend: forecast.State | None, seconds: float, *, now: float) -> float | None:
    """The rate in that many seconds, requests per second; None without a significant trend."""
    return None if trend is None else forecast.ahead(trend, now + seconds - trend.at)


def sizing_rate(
    source: VariantSource,
    traffic: Traffic,
    *,
    gateway_rps: float | None,
    trend: forecast.State | None,
    settings: RateSettings,
    window_seconds: float,
    interval_seconds: float,
    now: float,
) -> SizingRate:
    """The rate that one variant is sized for.

    Args:
        source: The variant.
        traffic: Its traffic over both windows.
        gateway_rps: Its part of the requests at the gateways, per second; None where that is not known.
        trend: Trend of its arrival rate.
        settings: How the rate is derived.
        window_seconds: Length of the short window.
        interval_seconds: Time until the next reconcile cycle.
        now: Monotonic seconds.

    """
    observed = traffic.arrival_rate_rps
    rate, notes = observed, []
    if traffic.long_rate_rps > 0:
        rate = _smoothed(traffic, window_seconds, dispersion(trend))
        if rate != observed:
            notes.append(f"{_rpm(observed)} observed, {_rpm(rate)} used: the rest may be noise")
    if gateway_rps is not None and gateway_rps > rate:
        notes.append(f"{_rpm(gateway_rps)} arrived at the gateway, {_rpm(rate)} at the pods")
        rate = gateway_rps
    startup = source.startup_seconds or settings.startup_seconds or DEFAULT_STARTUP_SECONDS
    seconds = min(startup, STARTUP_LIMIT_SECONDS) + interval_seconds
    if settings.anticipate:
        coming = expected(trend, seconds, now=now)
        if coming is not None and coming > rate > 0:
            rate = min(coming, GROWTH_LIMIT * rate)
            notes.append(f"rising: {_rpm(rate)} expected in {seconds:.0f} s, when a replica starts")
    backlog = _backlog(traffic, seconds)
    if settings.drain_seconds > 0 and backlog > 0:
        rate = min(rate + backlog / settings.drain_seconds, (1 + GROWTH_LIMIT) * rate)
        notes.append(
            f"backlog: {backlog:.0f} requests expected by then, to be served within"
            f" {settings.drain_seconds:.0f} s"
        )
    rate *= 1.0 + settings.headroom
    return SizingRate(rate_rps=rate, notes=tuple(notes))


def _backlog(traffic: Traffic, seconds: float) -> float:
    """Requests that will wait in that many seconds, beyond the few that wait in any busy system."""
    usual = max(0.25 * traffic.running, 1.0)
    if traffic.waiting <= usual:
        return 0.0
    return max(traffic.waiting - usual + max(traffic.waiting_growth_rps, 0.0) * seconds, 0.0)


def _smoothed(traffic: Traffic, window_seconds: float, dispersion: float) -> float:
    """The long window's rate, moved by the significant part of what shorter windows show."""

    def error(rate: float, seconds: float) -> float:
        return NOISE_ERRORS * math.sqrt(dispersion * max(rate, 1.0 / seconds) / seconds)

    short = traffic.arrival_rate_rps
    # Only the whole short window lowers the rate: a pause of some seconds is no end.
    rate = min(traffic.long_rate_rps, short + error(short, window_seconds))
    for seconds, recent in (*traffic.recent, (window_seconds, short)):
        rate = max(rate, recent - error(recent, seconds))
    return rate


# Requests at the inference gateways.


class GatewayDemand:
    """Requests at all gateways: as Prometheus has them, and newer where gateways are scraped directly."""

    def __init__(self, *, window_seconds: float) -> None:
        """`window_seconds`: time over which rates are taken."""
        self._window = GatewayWindow(window_seconds=window_seconds)
        self._queued: Mapping[gateway.ModelKey, gateway.Demand] = {}
        self._scraped: Mapping[gateway.ModelKey, gateway.Demand] = {}

    @property
    def window(self) -> GatewayWindow:
        """Growth of the gateways' counters; direct scrapes add to it."""
        return self._window

    @property
    def waiting(self) -> Mapping[gateway.ModelKey, gateway.Demand]:
        """Requests that wait at a gateway or arrived since its last scrape, by model."""
        return {**self._queued, **self._scraped}

    def record_counts(self, counts: Sequence[GatewayCount], *, now: float) -> None:
        """Use what Prometheus has of the gateways, at monotonic `now`."""
        self._window.add("", counts, now=now)
        self._queued = {
            (count.namespace, count.model): gateway.Demand(waiting=count.waiting)
            for count in counts
        }

    def set_scraped(self, scraped: Mapping[gateway.ModelKey, gateway.Demand]) -> None:
        """Use what the last direct scrape showed."""
        self._scraped = scraped


def gateway_parts(
    variants: Iterable[VariantSource],
    observed: Mapping[str, float],
    rates: Rates,
) -> dict[str, float]:
    """Requests per second at the gateways for each variant, by variant key.

    A gateway knows models, not variants: its count is divided in proportion to the rates at the pods, and
    where these are zero equally among the variants with replicas.
    """
    members: dict[tuple[str, str], list[VariantSource]] = {}
    for source in variants:
        place = rates.key(source.namespace, source.model)
        if place is not None:
            members.setdefault(place, []).append(source)
    parts: dict[str, float] = {}
    for place, sources in members.items():
        shares = {source.key: max(observed.get(source.key, 0.0), 0.0) for source in sources}
        whole = sum(shares.values())
        if whole <= 0:
            shares = {source.key: float(source.replicas > 0) for source in sources}
            whole = sum(shares.values())
        total = rates.rps[place]
        parts |= {key: total * share / whole for key, share in shares.items() if whole > 0}
    return parts


def variants_to_wake(
    inputs: Inputs, waiting: Mapping[gateway.ModelKey, gateway.Demand]
) -> frozenset[str]:
    """Keys of variants at zero to start: the cheapest of each model with requests and no replica."""
    costs = {item.name: item.unit_cost for item in inputs.accelerators}

    def cost(source: VariantSource) -> tuple[float, str]:
        units = (costs.get(p.accelerator, 0.0) * p.accelerator_count for p in source.profiles)
        return min(units, default=costs.get(source.accelerator, 0.0)), source.key

    models: dict[tuple[str, str], list[VariantSource]] = {}
    for source in inputs.variants:
        models.setdefault((source.namespace, source.model), []).append(source)
    cheapest = set()
    for (namespace, model), sources in models.items():
        requests = gateway.of_model(waiting, namespace, model)
        if (
            requests is None
            or not requests.any
            or any(s.replicas or s.spec_replicas for s in sources)
        ):
            continue
        cheapest.add(min(sources, key=cost).key)
    return frozenset(cheapest)


def _rpm(rate_rps: float) -> str:
    return f"{60.0 * rate_rps:.4g} req/min"
