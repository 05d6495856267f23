"""Where an arrival rate is going: Holt's linear trend, for observations that are not equally far apart.

Holt, "Forecasting seasonals and trends by exponentially weighted moving averages" (1957; reprinted in
International Journal of Forecasting 20, 2004), with the weights 1 - exp(-dt / tau) of an interval dt.
A trend counts only where it is larger than what the noise of the observations alone would show; how far ahead
it can be trusted is learned from its own past errors, which are compared with those of the level alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

from analyzer.errors import InvalidParameterError

LEVEL_SECONDS, TREND_SECONDS, NOISE_SECONDS = 60.0, 180.0, 600.0
"""Time constants: a level follows a step, and a trend a ramp, within about two of theirs."""

SIGNIFICANCE = 2.5
"""Standard errors that a trend must have."""

SHIFT = 4.0
"""Standard deviations of the noise beyond which an observation is a step: it moves the level, no trend."""

_TREND_ERROR = 0.45
"""Standard error of the trend over noise * sqrt(dt / TREND_SECONDS) / LEVEL_SECONDS, by simulation of
constant Poisson rates at dt from 5 to 30 s; a test repeats that."""


LEADS = (30.0, 60.0, 120.0, 240.0)
"""Leads in seconds over which forecasts are compared with what came; none is made beyond the longest."""

LONG_LEADS = (480.0, 960.0)
"""Longer ones, over which only changes of the level are recorded: no trend is a forecast that far ahead."""

PROOFS = 3
"""Forecasts over a lead that must have come due before it is proven."""

BETTER = 0.9
"""Mean square error of the trend's forecasts, as a share of the level's, below which a lead is proven."""

LEAST_COUNT = 4
"""Observations before a forecast is made."""

RECENT_CHANGES = 16
"""Number of changes of the level over a lead that are averaged, and how many are needed half of."""

MOST_CHANGE = 0.2
"""Largest share of the level that counts as a usual change: a step is none that comes again and again."""

SURE = 1.5
"""Multiple of what chance shows by which a mean square of changes must exceed it to be taken further ahead:
over `RECENT_CHANGES` that overlap, constant rates show as much at one look of a hundred."""

MOST_TIMES = 4.0
"""Times the lead that changes were seen over, up to which their variance is taken to grow with the lead."""

FORGOTTEN_SECONDS = 3600.0
"""Time constant with which the highest level that was seen is forgotten."""

NEW_CHANGE, NEW_SECONDS = 0.1, 600.0
"""Standard deviation of a new rate's change, as a share of its level, and the seconds for it. All clients of
a model together have 0.05 to 0.18 in public traces (ServeGen's five models), and single ones more."""

RECENT_PROOFS = 6
"""Number of forecasts over which their errors are averaged."""


@dataclass(frozen=True, slots=True)
class Due:
    """A forecast that is to be compared: when, and the rates by the trend, if it counts, and by the level."""

    at: float
    by_trend: float | None
    by_level: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lead:
    """How good forecasts over one lead were.

    Attributes:
        seconds: the lead.
        due: forecasts that have not come due, oldest first.
        count: forecasts that were compared.
        trend_error: mean square error of the trend.
        level_error: mean square error of the level alone, over the same moments.
        changes: changes of the level over the lead that were seen.
        mean: their mean, requests per second.
        square: their mean square, less what chance shows; requests per second, squared.
        level: mean level that they were seen at, requests per second.
        chance: their mean square by chance alone; requests per second, squared.

    """

    seconds: float
    due: tuple[Due, ...] = ()
    count: int = 0
    trend_error: float = 0.0
    level_error: float = 0.0
    changes: int = 0
    mean: float = 0.0
    square: float = 0.0
    level: float = 0.0
    chance: float = 0.0

    @property
    def proven(self) -> bool:
        """Whether the trend was the better forecast."""
        return self.count >= PROOFS and self.trend_error < BETTER * self.level_error


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What was learned of one rate.

    Attributes:
        level: requests per second.
        trend: requests per second, per second.
        noise: mean square of what came minus what was expected.
        step: usual seconds between observations.
        at: time of the last observation, seconds.
        count: observations so far.
        dispersion: variance of the counts over their mean; 1 for Poisson arrivals.
        last: the last two rates, the newest first.
        highest: highest level that was seen, requests per second; it is forgotten within hours.
        leads: how good its forecasts were, by lead, the shortest first.
        new: whether how the rate changes is unknown, from before the first observation as from those since.

    """

    level: float
    at: float
    trend: float = 0.0
    noise: float = 0.0
    step: float = 0.0
    count: int = 1
    dispersion: float = 1.0
    last: tuple[float, ...] = ()
    highest: float = 0.0
    leads: tuple[Lead, ...] = tuple(Lead(seconds=seconds) for seconds in (*LEADS, *LONG_LEADS))
    new: bool = False

    @property
    def proven_seconds(self) -> float:
        """Longest lead over which the trend was the better forecast; 0 without one."""
        return max((lead.seconds for lead in self.leads if lead.proven), default=0.0)


def update(before: State | None, rate: float, *, at: float, new: bool = False) -> State:
    """Learn from one observation.

    Args:
        before: None for the first one.
        rate: requests per second since the last observation.
        at: its time in seconds; must be later than the last one's.
        new: whether how the rate changed before the first observation is unknown.

    Raises:
        InvalidParameterError: the rate is negative or no number, or the time does not go on.

    """
    if not (math.isfinite(rate) and rate >= 0):
        raise InvalidParameterError("rate", f"must be a number >= 0, not {rate}")
    if before is None:
        return State(level=rate, at=at, last=(rate,), new=new)
    step = at - before.at
    if not step > 0:
        raise InvalidParameterError("at", f"must be later than {before.at}, not {at}")
    if before.count == 1:
        # One error says nothing of a trend yet.
        error = rate - before.level
        level = before.level + _weight(step, LEVEL_SECONDS) * error
        last = (rate, before.level)
        return replace(
            before, level=level, at=at, noise=error * error, step=step, count=2, last=last
        )
    expected = before.level + before.trend * step
    error = rate - expected
    gain = _weight(step, LEVEL_SECONDS)
    # No less than that of Poisson arrivals: where there is none, everything would be a step.
    usual = math.sqrt(max(before.noise, before.level / step))
    bent = min(max(error, -SHIFT * usual), SHIFT * usual)
    # Rates on the two sides of a step say nothing of the dispersion when they are compared.
    stepped = bent != error
    # Early on the mean of all errors so far: the first one is not worth more than the others.
    noise_gain = max(_weight(step, NOISE_SECONDS), 1.0 / before.count)
    after = State(
        level=max(expected + gain * bent + (error - bent), 0.0),
        trend=before.trend + _weight(step, TREND_SECONDS) * gain * bent / step,
        noise=before.noise + noise_gain * (bent * bent - before.noise),
        step=before.step + 0.2 * (step - before.step),
        at=at,
        count=before.count + 1,
        dispersion=before.dispersion if stepped else _dispersion(before, rate, step, noise_gain),
        last=(rate,) if stepped else (rate, before.last[0]),
        new=before.new and not _changes_known(before),
    )
    return replace(
        after,
        highest=_highest(before.highest, after),
        leads=tuple(_compared(lead, after, rate) for lead in before.leads),
    )


def usual_change(state: State, seconds: float, *, chance: float = 0.0) -> float:
    """Standard deviation of the rate's change over a lead, beyond what chance shows; requests per second.

    A rate that only rises, or only falls, does not vary in that: its trend says where it goes. Where it has
    fallen below the level that the changes were seen at, they are taken to have shrunk with it. `chance` is
    the mean square that chance shows at the present level beside that of the arrivals.
    """
    known = [lead for lead in _known(state) if lead.seconds <= LEADS[-1]]
    if not known:
        return 0.0
    lead = min(known, key=lambda item: abs(item.seconds - seconds))
    return math.sqrt(_variance(lead, state.level, chance))


def room(state: State, seconds: float, *, errors: float, chance: float = 0.0) -> float:
    """What the rate may rise by within a lead, by what it did before; requests per second.

    Within the longest of `LEADS` that is the usual change. Of what it changes by further, until the end of a
    longer lead, as many standard deviations count as `errors` says: the demand of the lead time of an
    inventory, at the quantile of the newsvendor (Arrow, Harris and Marschak, "Optimal Inventory Policy",
    Econometrica 19, 1951), which is the share of the time for which the replicas should suffice.

    Until changes over so long a lead were seen, their variance is taken to grow with it, as that of a random
    walk does, where it is more than chance for certain. Once they were, a rate that keeps coming back to its
    level has no further changes. Nor is there room for what was never seen: with the usual change it reaches
    the highest level that was, which is near when the load is low, and here already at a peak.

    None of that is known of a new rate. Until changes over the longest of `LEADS` were seen, it is taken to
    change as the traffic of others does (`NEW_CHANGE`), to levels of which none was seen yet either.

    Args:
        state: What was learned of the rate.
        seconds: The lead.
        errors: Standard deviations of the further change.
        chance: As for `usual_change`.

    """
    usual = usual_change(state, seconds, chance=chance)
    if seconds <= LEADS[-1]:
        return usual
    wide = math.hypot(usual, errors * math.sqrt(_further(state, seconds, chance)))
    seen = min(wide, usual + max(state.highest - state.level, 0.0))
    return max(seen, errors * _assumed(state, seconds))


def _assumed(state: State, seconds: float) -> float:
    """Standard deviation of what a new rate changes by within a lead, beyond the longest of `LEADS`."""
    if not state.new or _changes_known(state):
        return 0.0
    beyond = min(seconds, MOST_TIMES * LEADS[-1]) - LEADS[-1]
    return NEW_CHANGE * state.level * math.sqrt(beyond / NEW_SECONDS)


def _further(state: State, seconds: float, chance: float) -> float:
    """Variance of the changes over a lead, beyond that over the longest of `LEADS`; for certain."""
    seen = [
        (lead.seconds, _variance(lead, state.level, chance, sure=SURE)) for lead in _known(state)
    ]
    if not seen:
        return 0.0
    longest, variance = seen[-1]
    if longest <= LEADS[-1]:
        beyond = min(seconds, MOST_TIMES * longest) - LEADS[-1]
        return variance * max(beyond, 0.0) / longest
    pairs = list(pairwise(item for item in seen if item[0] >= LEADS[-1]))
    if not pairs:
        return 0.0
    first, second = next((pair for pair in pairs if pair[1][0] >= seconds), pairs[-1])
    slope = (second[1] - first[1]) / (second[0] - first[0])
    return max(first[1] + slope * (seconds - first[0]) - pairs[0][0][1], 0.0)


def _known(state: State) -> list[Lead]:
    """Leads over which enough changes were seen, the shortest first."""
    return [lead for lead in state.leads if lead.changes >= RECENT_CHANGES // 2]


def _changes_known(state: State) -> bool:
    """Whether enough changes over the longest of `LEADS` were seen."""
    return any(lead.seconds >= LEADS[-1] for lead in _known(state))


def _variance(lead: Lead, level: float, chance: float, *, sure: float = 0.0) -> float:
    """Variance of the changes over a lead beyond chance, at the present level.

    `sure` is the share of what chance shows that is not attributed to changes either.
    """
    shrunk = min(level / lead.level, 1.0) if lead.level > 0 else 1.0
    if shrunk <= 0:
        return 0.0
    # What chance shows is a variance of counts, which grows with the level.
    by_chance = chance / shrunk
    seen = lead.square - lead.mean * lead.mean - by_chance
    return shrunk * shrunk * max(seen - sure * (lead.chance + by_chance), 0.0)


def ahead(state: State, seconds: float) -> float | None:
    """The rate `seconds` after the last observation, never negative; None without a trend that counts."""
    if state.count < LEAST_COUNT:
        return None
    scale = math.sqrt(state.step / TREND_SECONDS) / LEVEL_SECONDS
    error = _TREND_ERROR * math.sqrt(state.noise) * scale
    if abs(state.trend) <= SIGNIFICANCE * error:
        return None
    return max(state.level + state.trend * seconds, 0.0)


def _compared(lead: Lead, state: State, rate: float) -> Lead:
    """The lead after one more rate: what is due is compared with it, and a new forecast is made."""
    for item in lead.due:
        if item.at > state.at:
            break
        gain = max(1.0 / (lead.changes + 1), 1.0 / RECENT_CHANGES)
        lead = replace(lead, due=lead.due[1:])
        seen = state.level - item.by_level
        if abs(seen) <= _most_change(lead.seconds) * item.by_level:
            chance = state.dispersion * item.by_level / LEVEL_SECONDS
            lead = replace(
                lead,
                changes=lead.changes + 1,
                mean=lead.mean + gain * (seen - lead.mean),
                square=lead.square + gain * (seen * seen - chance - lead.square),
                chance=lead.chance + gain * (chance - lead.chance),
                level=lead.level + gain * (item.by_level - lead.level),
            )
        if item.by_trend is None:
            continue
        gain = max(1.0 / (lead.count + 1), 1.0 / RECENT_PROOFS)
        lead = replace(
            lead,
            count=lead.count + 1,
            trend_error=lead.trend_error + gain * ((rate - item.by_trend) ** 2 - lead.trend_error),
            level_error=lead.level_error + gain * ((rate - item.by_level) ** 2 - lead.level_error),
        )
    at = state.at + lead.seconds
    # A few at a time: forecasts of one moment err in the same way.
    if lead.due and at - lead.due[-1].at < lead.seconds / 4.0:
        return lead
    if state.count < LEAST_COUNT:
        return lead
    by_trend = ahead(state, lead.seconds) if lead.seconds <= LEADS[-1] else None
    return replace(lead, due=(*lead.due, Due(at, by_trend, state.level)))


def _highest(before: float, state: State) -> float:
    """Highest level so far, which fades into the present one; those of the first rates do not count."""
    if state.count <= 2 * LEAST_COUNT:
        return state.level
    fading = math.exp(-state.step / FORGOTTEN_SECONDS)
    return max(state.level, state.level + fading * (before - state.level))


def _most_change(seconds: float) -> float:
    """Largest share of the level that counts as a usual change over a lead: that of a random walk grows."""
    return MOST_CHANGE * math.sqrt(max(seconds / LEADS[-1], 1.0))


def _dispersion(before: State, rate: float, step: float, gain: float) -> float:
    """Variance of the counts over their mean, by second differences: neither a level nor a trend adds to it.

    For independent rates x of equal steps, (x0 - 2 x1 + x2)^2 / 6 is their variance on average. What one
    observation adds is bounded.
    """
    if len(before.last) < 2:
        return before.dispersion
    newer, older = before.last
    mean = (rate + newer + older) / 3.0
    if mean <= 0:
        return before.dispersion
    seen = (rate - 2.0 * newer + older) ** 2 / 6.0 * step / mean
    seen = min(seen, SHIFT * SHIFT * before.dispersion)
    return before.dispersion + gain * (seen - before.dispersion)


def _weight(step: float, tau: float) -> float:
    return -math.expm1(-step / tau)
