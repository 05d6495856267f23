"""The rate that a variant is sized for: what it is offered now, at the gateway, and by the time that helps.

Observed rates are noisy. The long window's is the steadier one and counts, unless the short one says that
the load has risen by more than chance; so a step is followed at once and noise is not. A trend counts
ahead for as long as a new replica needs to start, because what is decided now helps only then.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from adapter.gateway import Rates
from adapter.traffic import Traffic
from adapter.variants import VariantSource
from analyzer import forecast

CHANCE = 2.0
"""Standard errors of a Poisson count by which the short window's rate must exceed the long one's."""

GROWTH_LIMIT = 2.0
"""Times the observed rate that a trend may make of it."""

DEFAULT_STARTUP_SECONDS = 60.0
STARTUP_LIMIT_SECONDS = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RateSettings:
    """How the rate is found.

    Attributes:
        anticipate: whether a rising trend counts ahead.
        startup_seconds: that a replica needs to start, where the variant does not know; None: a minute.

    """

    anticipate: bool = True
    startup_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """What one variant is sized for.

    Attributes:
        rate_rps: requests per second.
        observed_rps: what its pods were offered in the short window.
        notes: why the two differ, a clause each.

    """

    rate_rps: float
    observed_rps: float
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
    steady = traffic.long_rate_rps
    chance = CHANCE * math.sqrt(max(steady, 0.0) / window_seconds)
    if steady > 0 and observed <= steady + chance and observed != steady:
        rate = steady
        notes.append(f"{_rpm(observed)} now, {_rpm(steady)} over the longer window")
    if gateway_rps is not None and gateway_rps > rate:
        notes.append(f"{_rpm(gateway_rps)} came to the gateway, {_rpm(rate)} to the pods")
        rate = gateway_rps
    if settings.anticipate:
        startup = source.startup_seconds or settings.startup_seconds or DEFAULT_STARTUP_SECONDS
        seconds = min(startup, STARTUP_LIMIT_SECONDS) + interval_seconds
        coming = forecaster.ahead(source.key, seconds, now=now)
        if coming is not None and coming > rate > 0:
            rate = min(coming, GROWTH_LIMIT * rate)
            notes.append(f"rising: {_rpm(rate)} expected in {seconds:.0f} s, when a replica starts")
    return Offered(rate_rps=rate, observed_rps=observed, notes=tuple(notes))


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
