"""Groups without foresight: the cheapest mix for the rate of the last minute, by the engines' own parameters.

What a timetable saves has two parts. One is foresight: it starts replicas before they are needed, and gives
up those that will not be. No loop has that. The other is what a loop loses by itself: estimates of rates,
lengths and replicas, and caution that does not fit the traffic. The policies here stand between the two. They
know the requests of the last 60 s as they came, the mean lengths of the whole trace and the engines'
parameters. Replicas take their time to start, and those of one variant go once what replaces them has had
that time. The factor on the rate, the time for which it is held, and whether one variant serves alone are
chosen afterwards, by the replay that costs least: none of them can be known before.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from emulator.replay.cluster import ReplayCluster
from emulator.replay.groups.mixes import Mixes
from emulator.replay.policies import ScalingPolicy, Timer
from emulator.replay.results import FloatArray, PolicyResult
from emulator.replay.running import Run, run
from emulator.traces import Trace

INTERVAL_SECONDS = 5.0
PAST_SECONDS = 60.0
"""Time over which requests are counted."""

HOLDS_SECONDS = (60.0, 300.0)
"""Times for which the highest rate is held."""

LEAST_FACTOR, LARGEST_FACTOR = 0.8, 3.0
"""Range of the factor on the rate."""

STEPS = 4
"""Replays of the search over the factor: it ends within 9 % of the least."""


class Reactive(ScalingPolicy):
    """One of them, see the module's docstring."""

    name, title = "without-foresight", "without foresight"

    def __init__(
        self,
        cluster: ReplayCluster,
        *,
        mixes: Mixes,
        arrivals: FloatArray,
        factor: float,
        hold: float,
        alone: str | None,
    ) -> None:
        """Create the policy.

        Args:
            cluster: The cluster.
            mixes: Replicas of least cost for a rate.
            arrivals: Times at which requests come, seconds, ascending.
            factor: Factor on the rate.
            hold: Seconds for which the highest rate is held.
            alone: The one variant that serves while it has nodes; None for the cheapest mix.

        """
        super().__init__(cluster)
        self._mixes, self._arrivals = mixes, arrivals
        self._factor, self._hold, self._alone = factor, hold, alone
        self._rates: deque[tuple[float, float]] = deque()
        self._wants: deque[tuple[float, dict[str, int]]] = deque()
        members = mixes.members.values()
        self._overlap = max(item.startup_time.p95 for item in members) + INTERVAL_SECONDS

    def timers(self) -> Sequence[Timer]:
        return [Timer(INTERVAL_SECONDS, INTERVAL_SECONDS, self._decide)]

    def _decide(self) -> None:
        now = self.cluster.now
        before = max(now - PAST_SECONDS, 0.0)
        first, end = np.searchsorted(self._arrivals, [before, now])
        self._rates.append((now, float(end - first) / (now - before)))
        while self._rates[0][0] < now - self._hold:
            self._rates.popleft()
        members = self._mixes.members
        usable = [
            name
            for name, item in members.items()
            if item.unschedulable is None or not item.unschedulable.covers(now)
        ]
        names = [self._alone] if self._alone in usable else usable
        highest = max(rate for _, rate in self._rates)
        self._wants.append((now, dict(self._mixes.mix(self._factor * highest, names))))
        while self._wants[0][0] < now - self._overlap:
            self._wants.popleft()
        for name in members:
            self.cluster.scale(name, max(want[name] for _, want in self._wants))

    def desired(self, variant: str) -> float:
        return float(self.cluster.spec_replicas[variant])


def search(given: Run, within: float, cost: Callable[[PolicyResult], float]) -> PolicyResult | None:
    """The result that costs least of those that keep enough requests; None where none does.

    Args:
        given: Scenario and traffic of one model whose variants are a group.
        within: Share of requests that must be within their targets, 0 to 1.
        cost: What counts of a result's cost.

    """
    (model,) = given.scenario.groups
    mixes = Mixes(given.scenario, model, given.traffic[model])
    best: PolicyResult | None = None
    for hold in HOLDS_SECONDS:
        for alone in (None, *mixes.members):
            low, high = LEAST_FACTOR, LARGEST_FACTOR
            for _ in range(STEPS):
                factor = math.sqrt(low * high)
                result = run(given, _maker(mixes, given.traffic[model], factor, hold, alone))
                dearer = best is not None and cost(result) >= cost(best)
                if result.within < within:
                    low = factor
                    if dearer:  # a factor that keeps enough costs even more
                        break
                else:
                    high = factor
                    best = best if dearer else result
    return best


def _maker(
    mixes: Mixes, trace: Trace, factor: float, hold: float, alone: str | None
) -> Callable[[ReplayCluster], Reactive]:
    return lambda cluster: Reactive(
        cluster,
        mixes=mixes,
        arrivals=trace.arrival_seconds,
        factor=factor,
        hold=hold,
        alone=alone,
    )
