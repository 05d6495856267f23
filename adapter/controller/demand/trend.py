"""The trend of one variant's arrival rate: recorded at scrape cycles, and trusted as far as it was right."""

from __future__ import annotations

import math

from analyzer import forecast

EARLY_CYCLE_ERRORS = 4.0
"""Standard errors above the rate of the last decision beyond which a reconcile cycle starts at once."""

MOVING_ERRORS = 2.5
"""Standard errors from the level beyond which a rate is looked at more closely."""

DISPERSION_BIAS = 1.5
"""Factor by which a measured dispersion may exceed the true one by chance."""

SHORT_DISPERSION_BIAS = 1.25
"""The same of one measured in windows of a few seconds, of which there are more: a tenth of Poisson arrivals'
at most exceed it."""

DISPERSION_LIMIT = 9.0
"""Upper bound of the dispersion: a step looks like dispersion at first, and must not hide itself."""

DISPERSION_COUNT = 8
"""Observations before a dispersion is estimated."""


def record(
    trend: forecast.State | None, rate_rps: float, *, at: float, new: bool = False
) -> forecast.State:
    """The trend with one more rate; one that is no newer (`at`, monotonic seconds) is ignored.

    `new`: whether a first rate is of a load that had no target before.
    """
    if trend is not None and at <= trend.at:
        return trend
    return forecast.update(trend, rate_rps, at=at, new=new)


def exceeds_forecast(
    trend: forecast.State | None, rate_rps: float, *, at: float, sized_rps: float
) -> bool:
    """Whether the rate since the last scrape cycle is significantly above the one that was sized for."""
    if trend is None or at <= trend.at:
        return False
    seconds = at - trend.at
    error = math.sqrt(dispersion(trend) * max(sized_rps, 1.0 / seconds) / seconds)
    return rate_rps > sized_rps + EARLY_CYCLE_ERRORS * error


def moves(trend: forecast.State | None, rate_rps: float, *, at: float) -> bool:
    """Whether a new rate differs so much from the level of those before that it is worth a closer look."""
    if trend is None or at <= trend.at:
        return False
    seconds = at - trend.at
    error = math.sqrt(dispersion(trend) * max(trend.level, 1.0 / seconds) / seconds)
    return abs(rate_rps - trend.level) > MOVING_ERRORS * error


def dispersion(trend: forecast.State | None) -> float:
    """Variance of the counts over their mean: 1 for Poisson arrivals, more for bursty ones."""
    if trend is None or trend.count < DISPERSION_COUNT:
        return 1.0
    return min(max(trend.dispersion / DISPERSION_BIAS, 1.0), DISPERSION_LIMIT)


def bounded(seen: float | None, *, otherwise: float) -> float:
    """A dispersion that was measured in short windows, as one to count with; `otherwise` where it is None."""
    if seen is None:
        return otherwise
    return min(max(seen / SHORT_DISPERSION_BIAS, 1.0), DISPERSION_LIMIT)


def rising(trend: forecast.State | None) -> bool:
    """Whether the rate rises by more than chance, and its trend was not the worse forecast so far."""
    if trend is None or trend.trend <= 0:
        return False
    if trend.proven_seconds <= 0 and any(lead.count >= forecast.PROOFS for lead in trend.leads):
        return False
    # Once the last rates are no higher than the level, the rise is over, before the trend has forgotten it.
    goes_on = sum(trend.last) > len(trend.last) * trend.level
    return goes_on and forecast.ahead(trend, 0.0) is not None


def expected(trend: forecast.State | None, seconds: float, *, now: float) -> float | None:
    """The rate in that many seconds, requests per second; None without a trend that was right before.

    Where it was right over a shorter time only, it goes on for that time.
    """
    if trend is None or trend.proven_seconds <= 0:
        return None
    return forecast.ahead(trend, min(now + seconds - trend.at, trend.proven_seconds))
