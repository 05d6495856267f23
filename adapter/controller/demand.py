"""The rate that a variant is sized for: what it is offered now, at the gateway, and by the time that helps.

Observed rates are noisy, the more so the shorter the window. The long window's is the steadiest and counts,
unless a shorter one says that the load has changed by more than chance: then what is certain of that change
counts. So a step is followed at once, as far as it is sure, and noise is not. A trend counts ahead for as
long as a new replica needs to start, because what is decided now helps only then.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from adapter.collector.gateway import Rates
from adapter.collector.traffic import Traffic
from adapter.resources.variant import VariantSource
from analyzer import forecast

CHANCE = 2.0
"""Standard errors of a count by which a shorter window's rate may differ from the long one's by chance."""

SURPRISE = 4.0
"""Standard errors above what was sized for at which a pass is made at once."""

GROWTH_LIMIT = 2.0
"""Times the observed rate that a trend may make of it."""

SCATTER = 1.8
"""By which a measured dispersion may exceed the true one by chance, and by the level's own error."""

DISPERSION_LIMIT = 9.0
"""A step looks like dispersion at first; it must not hide itself."""

DEFAULT_STARTUP_SECONDS = 60.0
STARTUP_LIMIT_SECONDS = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RateSettings:
    """How the rate is found.

    Attributes:
        anticipate: whether a rising trend counts ahead.
        startup_seconds: that a replica needs to start, where the variant does not know; None: a minute.
        drain_seconds: in which what waits, and will wait by then, should be served once new replicas are
            there; 0: as the queueing model has it, which knows no backlog.
        headroom: share of the rate added for what it does between two decisions.

    """

    anticipate: bool = True
    startup_seconds: float | None = None
    drain_seconds: float = 60.0
    headroom: float = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """What one variant is sized for.

    Attributes:
        rate_rps: requests per second.
        notes: why that is not what its pods were offered in the short window, a clause each.

    """

    rate_rps: float
    notes: tuple[str, ...] = ()


class Forecaster:
    """Trends of all variants."""

    def __init__(self) -> None:
        self._states: dict[str, forecast.State] = {}

    def keep(self, keys: Iterable[str]) -> None:
        """Forget variants that are gone."""
        known = set(keys)
        self._states = {key: state for key, state in self._states.items() if key in known}

    def learn(self, key: str, rate_rps: float, *, at: float) -> None:
        """Take the rate since the last look; `at` in monotonic seconds."""
        before = self._states.get(key)
        if before is None or at > before.at:
            self._states[key] = forecast.update(before, rate_rps, at=at)

    def surprised(self, key: str, rate_rps: float, *, at: float, sized_rps: float) -> bool:
        """Whether the rate since the last look is above what the target was made for by more than chance."""
        state = self._states.get(key)
        if state is None or at <= state.at:
            return False
        seconds = at - state.at
        error = math.sqrt(self.dispersion(key) * max(sized_rps, 1.0 / seconds) / seconds)
        return rate_rps > sized_rps + SURPRISE * error

    def dispersion(self, key: str) -> float:
        """Variance of the counts over their mean: 1 for Poisson arrivals, more for bursty ones."""
        state = self._states.get(key)
        if state is None or state.count < 8 or state.level <= 0:
            return 1.0
        found = state.noise * state.step / state.level / SCATTER
        return min(max(found, 1.0), DISPERSION_LIMIT)

    def ahead(self, key: str, seconds: float, *, now: float) -> float | None:
        """The rate that many seconds from now; None without a trend that counts."""
        state = self._states.get(key)
        return None if state is None else forecast.ahead(state, now + seconds - state.at)


def of(
    source: VariantSource,
    traffic: Traffic,
    *,
    gateway_rps: float | None,
    forecaster: Forecaster,
    settings: RateSettings,
    window_seconds: float,
    interval_seconds: float,
    now: float,
) -> Offered:
    """The rate that one variant is sized for.

    Args:
        source: the variant.
        traffic: over its windows.
        gateway_rps: its part of what came to the gateways; None where that is not known.
        forecaster: of its trend.
        settings: see there.
        window_seconds: of the short window.
        interval_seconds: until the next decision.
        now: monotonic seconds.

    """
    observed = traffic.arrival_rate_rps
    rate, notes = observed, []
    if traffic.long_rate_rps > 0:
        rate = _steady(traffic, window_seconds, forecaster.dispersion(source.key))
        if rate != observed:
            notes.append(f"{_rpm(observed)} now, {_rpm(rate)} taken: the rest may be chance")
    if gateway_rps is not None and gateway_rps > rate:
        notes.append(f"{_rpm(gateway_rps)} came to the gateway, {_rpm(rate)} to the pods")
        rate = gateway_rps
    startup = source.startup_seconds or settings.startup_seconds or DEFAULT_STARTUP_SECONDS
    seconds = min(startup, STARTUP_LIMIT_SECONDS) + interval_seconds
    if settings.anticipate:
        coming = forecaster.ahead(source.key, seconds, now=now)
        if coming is not None and coming > rate > 0:
            rate = min(coming, GROWTH_LIMIT * rate)
            notes.append(f"rising: {_rpm(rate)} expected in {seconds:.0f} s, when a replica starts")
    backlog = _backlog(traffic, seconds)
    if settings.drain_seconds > 0 and backlog > 0:
        rate = min(rate + backlog / settings.drain_seconds, (1 + GROWTH_LIMIT) * rate)
        notes.append(
            f"{backlog:.0f} will wait by then, to be served in {settings.drain_seconds:.0f} s"
        )
    rate *= 1.0 + settings.headroom
    return Offered(rate_rps=rate, notes=tuple(notes))


def _backlog(traffic: Traffic, seconds: float) -> float:
    """Requests that will wait in that many seconds, beyond the few that wait in any busy system."""
    usual = max(0.25 * traffic.running, 1.0)
    if traffic.waiting <= usual:
        return 0.0
    return max(traffic.waiting - usual + max(traffic.waiting_growth_rps, 0.0) * seconds, 0.0)


def _steady(traffic: Traffic, window_seconds: float, dispersion: float) -> float:
    """The long window's rate, moved as far as shorter ones are sure of."""

    def error(rate: float, seconds: float) -> float:
        return CHANCE * math.sqrt(dispersion * max(rate, 1.0 / seconds) / seconds)

    now = traffic.arrival_rate_rps
    # Downwards only the whole window is believed: a pause is no end.
    found = min(traffic.long_rate_rps, now + error(now, window_seconds))
    for seconds, rate in (*traffic.recent, (window_seconds, now)):
        found = max(found, rate - error(rate, seconds))
    return found


def gateway_parts(
    variants: Iterable[VariantSource],
    observed: Mapping[str, float],
    rates: Rates,
) -> dict[str, float]:
    """What came to the gateways for each variant, requests per second, by variant key.

    A gateway knows models, not variants: what it counted is parted as the pods saw it, and where they saw
    nothing equally among those that have replicas.
    """
    members: dict[tuple[str, str], list[VariantSource]] = {}
    for source in variants:
        place = rates.place(source.namespace, source.model)
        if place is not None:
            members.setdefault(place, []).append(source)
    parts: dict[str, float] = {}
    for place, sources in members.items():
        total = rates.rps[place]
        shares = {source.key: max(observed.get(source.key, 0.0), 0.0) for source in sources}
        seen = sum(shares.values())
        if seen <= 0:
            shares = {source.key: float(source.replicas > 0) for source in sources}
            seen = sum(shares.values())
        parts |= {key: total * share / seen for key, share in shares.items() if seen > 0}
    return parts


def _rpm(rate_rps: float) -> str:
    return f"{60.0 * rate_rps:.4g} req/min"
