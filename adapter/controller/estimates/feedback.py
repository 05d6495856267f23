"""SLO feedback: a factor on the load of a variant whose requests miss a target more often than was planned.

The plan lets a share of the requests miss (1 - percentile). Once per window the misses that the engines'
histograms show are compared with that share. Where there are significantly more in several consecutive
windows, though the replicas that the plan asked for were there and the load was no larger than planned, the
plan is wrong, by its profile or by something that no profile has. The factor then rises by a step, never
above `LARGEST`, and falls slowly in windows without excess, the slower the less load tests the plan.

Misses that more replicas would not have mended, or that come already, are none of the plan's: windows count
only when all planned replicas have been ready since a window before, in which they work off their queues.
A start-up, replicas at their maximum, and a rise of the rate are thus not taken for an error of the plan.

Pure functions: state in, state out. Times are monotonic seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from adapter.collector.traffic import Traffic
from adapter.planning.fleet import Targets

LARGEST = 1.5
"""Largest factor on the load."""

WINDOWS = 3
"""Consecutive windows with too many misses before the factor rises."""

STEP = 0.05
"""Rise of the factor per doubling of the misses over what was planned, at most `LARGEST_STEP` at a time."""

LARGEST_STEP = 0.2

RELEASE = 0.02
"""Share of the factor's excess that a window without too many misses takes away under full load."""

ERRORS = 4.0
"""Standard errors of a count beyond which misses are too many; requests miss together, so one has to be
surer than of independent ones."""

NOISE_ERRORS = 3.0
"""Standard errors up to which a count is no more than was planned for; 12 a minute may be tested."""

_TIMES_THERE, _MORE_THERE = 4.0, 8.0
"""Requests at once that latencies may imply: so many times those in service and queues, and as many more."""

SETTLED_WINDOWS = 2.0
"""Windows for which the plan's replicas must have been there: in the first one they serve what had queued."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Misses:
    """Requests of consecutive windows that missed a target.

    Attributes:
        windows: Windows with a larger share of misses than planned, up to the last one.
        requests: Requests of these windows.
        missed: Those that missed the target.

    """

    windows: int = 0
    requests: float = 0.0
    missed: float = 0.0

    def after(self, requests: float, missed: float, *, planned: float) -> Misses:
        """With one more window; `planned` is the share of misses that the plan lets be."""
        if missed <= planned * requests:
            return Misses()
        return Misses(
            windows=self.windows + 1,
            requests=self.requests + requests,
            missed=self.missed + missed,
        )

    def too_many(self, planned: float) -> bool:
        """Whether they are more than chance explains."""
        expected = planned * self.requests
        return (
            self.windows >= WINDOWS
            and self.missed > expected + ERRORS * math.sqrt(expected) + 1.0
            and self.share > planned
        )

    @property
    def share(self) -> float:
        """Share of the requests that missed."""
        return self.missed / self.requests if self.requests > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """What the misses of one variant ask of its plan.

    Attributes:
        factor: Factor on its load, from 1 to `LARGEST`.
        ttft: Recent windows with too many misses of the TTFT target.
        itl: The same of the ITL target.
        cause: Misses that raised the factor last, as a clause; empty where none did.
        observed_at: End of the last window.
        unsettled_at: Last time when the plan's replicas were not all there, or had more load than planned.

    """

    factor: float = 1.0
    ttft: Misses = Misses()
    itl: Misses = Misses()
    cause: str = ""
    observed_at: float = -math.inf
    unsettled_at: float = -math.inf

    @property
    def note(self) -> str:
        """Clause that says what is sized for and why; empty where the load is sized for as it is."""
        if self.factor <= 1.0:
            return ""
        return f"SLO feedback: sized for {self.factor:.2f} times the load, because {self.cause}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What the last plan expected of the present replicas.

    Attributes:
        ready: Replicas that serve.
        ordered: Replicas that serve or come.
        rate_rps: Requests per second that one of them carries within the targets; 0 where no plan says.

    """

    ready: int
    ordered: int
    rate_rps: float

    def load(self, traffic: Traffic, factor: float) -> float:
        """Rate of the window over what the ready replicas carry, with the factor on it."""
        most = self.ready * self.rate_rps
        return factor * traffic.arrival_rate_rps / most if most > 0 else math.inf

    def exceeded(self, traffic: Traffic, factor: float, *, window: float) -> bool:
        """Whether more came in the window, or a part of it, than the replicas carry, by more than chance."""
        most = self.ready * self.rate_rps / factor
        parts = ((window, traffic.arrival_rate_rps), *traffic.recent)
        return most <= 0 or any(
            (rate - most) * seconds > NOISE_ERRORS * math.sqrt(most * seconds)
            for seconds, rate in parts
        )


def observe(
    before: Feedback,
    traffic: Traffic | None,
    targets: Targets,
    planned: Planned,
    *,
    window: float,
    now: float,
) -> Feedback:
    """The feedback after a reconcile cycle.

    Args:
        before: Before it.
        traffic: Traffic of the variant over the last window; None where not all of it is known.
        targets: SLO targets; without a percentile they bound means, of which no share of requests is planned.
        planned: What the last plan expected of the present replicas.
        window: Length of a window, seconds.
        now: Monotonic seconds.

    """
    if targets.percentile is None:
        return Feedback()
    if traffic is None:
        return replace(before, unsettled_at=now, ttft=Misses(), itl=Misses())
    if planned.ready < planned.ordered or planned.exceeded(traffic, before.factor, window=window):
        before = replace(before, unsettled_at=now, ttft=Misses(), itl=Misses())
    if now - before.observed_at < window or traffic.idle:
        return before
    return _after_window(
        replace(before, observed_at=now),
        traffic,
        targets,
        share=1.0 - targets.percentile,
        load=min(planned.load(traffic, before.factor), 1.0),
        settled=now - before.unsettled_at >= SETTLED_WINDOWS * window,
    )


def _after_window(
    before: Feedback,
    traffic: Traffic,
    targets: Targets,
    *,
    share: float,
    load: float,
    settled: bool,
) -> Feedback:
    """With the misses of one window; those of an unsettled one raise nothing."""
    ttft = _ttft_misses(traffic, targets.ttft_ms)
    itl = _itl_misses(traffic, targets.itl_ms)
    if not settled:
        return before if _excess(ttft, share) or _excess(itl, share) else _released(before, load)
    after = replace(
        before,
        ttft=before.ttft.after(*ttft, planned=share),
        itl=before.itl.after(*itl, planned=share),
    )
    if after.ttft.too_many(share) or after.itl.too_many(share):
        return _raised(after, share)
    if after.ttft.windows or after.itl.windows:
        return after
    return _released(after, load)


def _excess(misses: tuple[float, float], share: float) -> bool:
    requests, missed = misses
    return missed > share * requests


def _raised(before: Feedback, share: float) -> Feedback:
    """With a larger factor; what raised it is not counted again."""
    name: Literal["ITL", "TTFT"] = "ITL"
    worst = before.itl
    if before.ttft.too_many(share) and before.ttft.share > worst.share:
        name, worst = "TTFT", before.ttft
    step = min(STEP * max(math.log2(worst.share / share), 1.0), LARGEST_STEP)
    return replace(
        before,
        factor=min(before.factor * (1.0 + step), LARGEST),
        ttft=Misses(),
        itl=Misses(),
        cause=(
            f"{worst.share:.1%} of the requests missed the {name} target where {share:.1%} was planned"
        ),
    )


def _released(before: Feedback, load: float) -> Feedback:
    factor = 1.0 + (before.factor - 1.0) * (1.0 - RELEASE * load)
    return replace(before, factor=factor if factor > 1.0 + 0.1 * STEP else 1.0)


def _ttft_misses(traffic: Traffic, target_ms: float) -> tuple[float, float]:
    """Requests with a first token in the window, and those that missed the target for certain."""
    if target_ms <= 0 or traffic.ttft.histogram is None:
        return 0.0, 0.0
    if not _possible(traffic, traffic.ttft.histogram.least_mean):
        return 0.0, 0.0
    return traffic.ttft.histogram.count, traffic.ttft.certainly_beyond(target_ms)


def _itl_misses(traffic: Traffic, target_ms: float) -> tuple[float, float]:
    """Requests that ended in the window, and about how many missed the target.

    Buckets tell those that are beyond a bound, and a target may be far below the next one. How long tokens
    took on each pod between two samples is known exactly, and what a request saw was about that: the larger
    of the two shares counts.
    """
    requests = traffic.tpot.counted
    if target_ms <= 0 or requests <= 0:
        return 0.0, 0.0
    tokens = sum(count for _, count in traffic.itl_samples)
    slow = sum(count for latency, count in traffic.itl_samples if latency > target_ms)
    shares = [slow / tokens if tokens > 0 else 0.0]
    mean = 0.0 if traffic.tpot.histogram is None else traffic.tpot.histogram.least_mean
    if traffic.tpot.histogram is not None and _possible(
        traffic, (traffic.output_tokens or 0.0) * mean
    ):
        shares.append(traffic.tpot.certainly_beyond(target_ms) / traffic.tpot.histogram.count)
    return requests, requests * max(shares)


def _possible(traffic: Traffic, seconds: float) -> bool:
    """Whether requests may take so long, by Little's law (Little 1961): as many would be there at once.

    More are of latencies in another unit, such as milliseconds, which miss every target.
    """
    # The last sample may be of after a burst whose requests waited.
    there = max(traffic.running + traffic.waiting, traffic.most_there)
    return traffic.arrival_rate_rps * seconds <= _TIMES_THERE * there + _MORE_THERE
