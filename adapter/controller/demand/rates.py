"""The arrival rate that a variant is sized for: observed at its pods, counted at a gateway, and expected.

Observed rates are noisy, the more so the shorter the window. The long window's rate is the steadiest and is
used, unless a shorter window shows a statistically significant change: the significant part of a change
applies immediately, noise is smoothed. A rising trend is extrapolated over the time that a new replica needs
to start, because what is decided now takes effect only then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from statistics import NormalDist

from adapter.collector.traffic import Traffic
from adapter.controller.demand import backlog as backlogs
from adapter.controller.demand.backlog import Queue
from adapter.controller.demand.trend import bounded, dispersion, expected, rising
from adapter.controller.demand.work import Work
from adapter.resources.variant import VariantSource
from adapter.settings.control import DEFAULT_STARTUP_SECONDS, Sizing
from analyzer import forecast

NOISE_ERRORS = 2.0
"""Standard errors of a count within which a short window's rate counts as noise around the long window's."""

SURGE_FACTOR = 4 / 3
"""Certain rate over the long window's from which a rise is a surge, whose queue goes on to grow until more
replicas are ready. Chance shows less, and so do the first minutes, when both windows are the same."""

CERTAIN_ERRORS = 3.0
"""Standard errors of a count beyond which a short window's rate is a rise, which counts at full size."""

SUDDEN_EVIDENCE = 8.0
"""Log-likelihood ratio from which a rise over a few seconds is certain: by chance in fewer than one of a
thousand looks."""

TOLD_SHARE = 0.01
"""Share of the observed rate up to which the difference to the used one is not told."""

GROWTH_LIMIT = 2.0
"""Upper bound of the expected rate, as a multiple of the observed rate."""

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
        in_flight: Requests that must be in service at once; 0 where none waits, or what is ordered suffices.
        backlog_rps: Part of the rate that works off the queue.
        queued_at: Ready replicas in whose queues all requests wait; 0 where any replica can serve some.
        surge: Whether the statistically significant rate exceeds the long window's by more than a third.
        drained: Whether the replicas that are ordered work the queue off before others could be ready.
        rising: True while the rate rises by more than chance: no time to have fewer replicas.
        notes: Reasons why it differs from the rate that its pods show in the short window, a clause each.

    """

    rate_rps: float
    in_flight: float = 0.0
    backlog_rps: float = 0.0
    queued_at: int = 0
    surge: bool = False
    drained: bool = False
    rising: bool = False
    notes: tuple[str, ...] = ()


def sizing_rate(
    source: VariantSource,
    traffic: Traffic,
    *,
    gateway_rps: float | None,
    trend: forecast.State | None,
    work: Work | None = None,
    settings: RateSettings,
    window_seconds: float,
    interval_seconds: float,
    now: float,
    queue: Queue | None = None,
) -> SizingRate:
    """The rate that one variant is sized for.

    Args:
        source: The variant.
        traffic: Its traffic over both windows.
        gateway_rps: Its part of the requests at the gateways, per second; None where that is not known.
        trend: Trend of its arrival rate.
        work: Its work: rate times size; None while sizes are not known.
        settings: How the rate is derived.
        window_seconds: Length of the short window.
        interval_seconds: Time until the next reconcile cycle.
        now: Monotonic seconds.
        queue: Its queue; None leaves it to the queueing model.

    """
    observed = traffic.arrival_rate_rps
    rate, notes = observed, []
    if traffic.long_rate_rps > 0:
        residence = _residence_seconds(traffic, source.targets.itl_ms)
        rate = _smoothed(traffic, window_seconds, dispersion(trend), residence)
        if abs(rate - observed) > TOLD_SHARE * observed:
            notes.append(f"{_rpm(observed)} observed, {_rpm(rate)} used: the rest may be noise")
    certain = rate
    if gateway_rps is not None and gateway_rps > rate:
        notes.append(f"{_rpm(gateway_rps)} arrived at the gateway, {_rpm(rate)} at the pods")
        rate = gateway_rps
    startup = source.startup_seconds or settings.startup_seconds or DEFAULT_STARTUP_SECONDS
    seconds = min(startup, STARTUP_LIMIT_SECONDS) + interval_seconds
    arrives = rate
    coming = expected(trend, seconds, now=now) if settings.anticipate else None
    if coming is not None and coming > rate > 0:
        rate = min(coming, GROWTH_LIMIT * rate)
        notes.append(f"rising: {_rpm(rate)} expected in {seconds:.0f} s, when a replica starts")
    learned = _Load(trend, work, source.targets.percentile)
    spare, clauses = _spare(learned, settings, rate, seconds, rise=rate - arrives)
    rate += spare
    waits, clause = _backlog(queue, settings, rate, surge=_surges(traffic, certain))
    return SizingRate(
        rate_rps=rate + waits.extra_rps,
        in_flight=waits.in_flight,
        backlog_rps=waits.extra_rps,
        queued_at=waits.queued_at,
        surge=waits.surge,
        drained=waits.drained,
        rising=settings.anticipate and rising(trend),
        notes=(*notes, *clauses, *clause),
    )


def _surges(traffic: Traffic, rate_rps: float) -> bool:
    """Whether the statistically significant rate exceeds the long window's by `SURGE_FACTOR`."""
    return 0 < SURGE_FACTOR * traffic.long_rate_rps < rate_rps


def _backlog(
    queue: Queue | None, settings: RateSettings, rate_rps: float, *, surge: bool
) -> tuple[backlogs.Backlog, list[str]]:
    """What the queue asks for, with the clause that says so where there is one."""
    if queue is None:
        return backlogs.Backlog(), []
    waits = backlogs.backlog_of(
        queue, drain_seconds=settings.drain_seconds, rate_rps=rate_rps, surge=surge
    )
    if not waits.requests:
        return waits, []
    clause = (
        f"backlog: {waits.requests:.0f} requests expected by then, to be served within"
        f" {settings.drain_seconds:.0f} s"
    )
    return waits, [clause]


def _spare(
    load: _Load, settings: RateSettings, rate: float, seconds: float, *, rise: float
) -> tuple[float, list[str]]:
    """The rate that is kept spare: the headroom, or what the load may change by, with a clause then.

    The rise that is expected by the trend, and part of `rate`, is part of what it may rise by, too.
    """
    spare = settings.headroom * rate
    if rate <= 0 or not settings.anticipate:
        return spare, []
    usual = load.usual_change(rate, seconds)
    now = rate - rise
    room = min(load.room(now, seconds), (GROWTH_LIMIT - 1.0) * now) - rise
    if max(room, usual) <= spare:
        return spare, []
    if room > usual:
        within = f"within {seconds:.0f} s, until a replica starts"
        return room, [f"room for a rise of {_rpm(room + rise)} {within}"]
    return usual, [f"the load usually changes by {_rpm(usual)} in {seconds:.0f} s"]


@dataclass(frozen=True, slots=True)
class _Load:
    """What was learned of a variant's load, and the percentile that its targets bound; None: their means."""

    trend: forecast.State | None
    work: Work | None
    percentile: float | None

    def usual_change(self, rate: float, seconds: float) -> float:
        """Usual change of the load over so many seconds, as one of the rate, requests per second."""
        change = 0.0 if self.trend is None else forecast.usual_change(self.trend, seconds)
        return change if self.work is None else max(change, self.work.usual_change(seconds) * rate)

    def room(self, rate: float, seconds: float) -> float:
        """What the load may rise by within so many seconds, as a rise of the rate, requests per second.

        Replicas should suffice for the share of the time that the targets bound: those for a larger rise come
        a start-up later, and until then all requests are late.
        """
        errors = 1.0
        if self.percentile is not None:
            errors = max(NormalDist().inv_cdf(self.percentile), errors)
        room = 0.0 if self.trend is None else forecast.room(self.trend, seconds, errors=errors)
        if self.work is None:
            return room
        return max(room, self.work.room(seconds, errors=errors) * rate)


def _residence_seconds(traffic: Traffic, most_itl_ms: float) -> float:
    """Seconds that a request is in service, at its target (0: none) at most; 0 while that is not known."""
    return (
        min(traffic.itl_ms or 0.0, most_itl_ms or math.inf)
        * (traffic.output_tokens or 0.0)
        / 1000.0
    )


def _smoothed(
    traffic: Traffic, window_seconds: float, dispersion: float, residence_seconds: float
) -> float:
    """The long window's rate, moved by the significant part of what shorter windows show.

    What a few seconds show beyond that rate counts by what it adds to the requests in service, which stay
    for the residence time: a burst that is over by then was never more. A rise that goes on is seen by the
    longer ones of the short windows, and one that prompts cannot keep up with by the queue.
    """

    def error(rate: float, seconds: float, spread: float = dispersion) -> float:
        return _error(rate, seconds, spread)

    short = traffic.arrival_rate_rps
    # Only the whole short window lowers the rate: a pause of some seconds is no end.
    least = short + NOISE_ERRORS * error(short, window_seconds)
    rate = rise = min(traffic.long_rate_rps, least)
    certain = []
    for seconds, recent in (*traffic.recent, (window_seconds, short)):
        if recent > rate + CERTAIN_ERRORS * error(rate, seconds):
            certain.append((evidence(seconds, recent, rate), seconds, recent))
        else:
            rise = max(rise, recent - NOISE_ERRORS * error(recent, seconds))
    sudden = []
    for (seconds, recent), seen in zip_longest(traffic.sudden, traffic.dispersions):
        spread = bounded(seen, otherwise=dispersion)
        seen_evidence = evidence(seconds, recent, rate)
        if seen_evidence > SUDDEN_EVIDENCE * spread:
            sudden.append((seen_evidence, seconds, recent, spread))
    most = max((item[0] for item in (*certain, *sudden)), default=0.0)
    for seen_evidence, seconds, recent, spread in sudden:
        # So few arrivals tell that the rate has risen, and how far the less the nearer they are to chance.
        doubt = SUDDEN_EVIDENCE * spread / seen_evidence if seen_evidence >= most else 1.0
        added = min(seconds / residence_seconds, 1.0) if residence_seconds > 0 else 1.0
        least_seen = recent - doubt * error(recent, seconds, spread)
        rise = max(rise, rate + added * (least_seen - rate))
    if not certain:
        return rise
    # The likeliest moment of the rise has the most evidence; shorter windows may be higher by chance.
    _, _, since = max(certain)
    return max(rise, since, *(recent - error(recent, seconds) for _, seconds, recent in certain))


def _error(rate_rps: float, seconds: float, dispersion: float) -> float:
    """Standard error of a rate that was counted over so many seconds."""
    return math.sqrt(dispersion * max(rate_rps, 1.0 / seconds) / seconds)


def evidence(seconds: float, recent_rps: float, rate_rps: float) -> float:
    """Log-likelihood ratio of Poisson counts at their own rate and at `rate_rps`; 0 where they are no higher.

    n arrivals where m are expected are exp(n ln(n / m) - n + m) times as likely at their own rate. That is
    the sharper test at small counts, whose errors are not normal. Counts of a dispersion d tell 1/d of it.
    """
    count, expected_count = recent_rps * seconds, max(rate_rps * seconds, 1.0)
    if count <= expected_count:
        return 0.0
    return count * math.log(count / expected_count) - count + expected_count


def rises_certainly(
    traffic_windows: Sequence[tuple[float, float]], sized_rps: float, dispersion: float
) -> bool:
    """Whether a window shows more than was sized for, by as much as makes it count at full size.

    Args:
        traffic_windows: Lengths of windows in seconds with their rates.
        sized_rps: The rate that was sized for.
        dispersion: Dispersion of the arrivals.

    """
    return any(
        recent > sized_rps + CERTAIN_ERRORS * _error(sized_rps, seconds, dispersion)
        for seconds, recent in traffic_windows
    )


def rises_suddenly(
    traffic_windows: Sequence[tuple[float, float]],
    sized_rps: float,
    dispersion_at: Callable[[float], float | None],
    otherwise: float,
) -> bool:
    """Whether windows of a few seconds show for certain more than was sized for.

    Args:
        traffic_windows: Their lengths in seconds with their rates.
        sized_rps: The rate that was sized for.
        dispersion_at: Dispersion of the arrivals in windows of so many seconds; None where not known.
        otherwise: Dispersion to use then.

    """
    for seconds, recent in traffic_windows:
        seen = evidence(seconds, recent, sized_rps)
        # Rarely is there as much, so that rarely a dispersion is to be computed.
        if seen > SUDDEN_EVIDENCE and seen > SUDDEN_EVIDENCE * bounded(
            dispersion_at(seconds), otherwise=otherwise
        ):
            return True
    return False


def _rpm(rate_rps: float) -> str:
    return f"{60.0 * rate_rps:.4g} req/min"
