"""Targets that do not flap: up at once, down after a window, and not by more than a step at a time.

A pure fold over what was recommended before. The downward rule is that of the HorizontalPodAutoscaler
(kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale, "Stabilization window"): the highest
recommendation of the window counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from optimizer.returns import Hold

FALL_REPLICAS, FALL_SHARE = 2, 0.25
"""Replicas, and share of them, by which a recommendation is below a former one where the load has fallen far:
one replica more or less may be the noise of a rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StabilizationLimits:
    """How targets may change.

    Attributes:
        down_seconds: stabilization window for scaling down; 0 applies a lower number at once.
        holds: the same by replicas, fewest first, none of them longer; empty: `down_seconds` for all.
        brief_seconds: the same for recommendations that are brief; no longer than `down_seconds`.
        fall_seconds: the same for recommendations that the present one is far below; None: `down_seconds`.
        step_up: replicas more than before at most; None: any number. Likewise `step_down`.

    """

    down_seconds: float = 0.0
    holds: tuple[Hold, ...] = ()
    brief_seconds: float = 30.0
    fall_seconds: float | None = None
    step_up: int | None = None
    step_down: int | None = None


@dataclass(frozen=True, slots=True)
class Recommendation:
    """Replicas that were recommended at a time.

    Attributes:
        at: seconds.
        brief: True where a queue asks for them, and nothing does once it is worked off.
        lasting: those of them that the arrivals ask for by themselves, where they are brief.

    """

    at: float
    replicas: int
    brief: bool = False
    lasting: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stabilized:
    """What to publish.

    Attributes:
        reason: why that is not what is recommended; empty if it is.
        history: recommendations to pass to the next call.

    """

    replicas: int
    reason: str
    history: tuple[Recommendation, ...]


def stabilize(
    desired: int,
    *,
    before: int | None,
    history: tuple[Recommendation, ...],
    now: float,
    limits: StabilizationLimits,
    maximum: int | None = None,
    brief: bool = False,
    lasting: int = 0,
) -> Stabilized:
    """The number to publish when `desired` is recommended and `before` is published.

    Args:
        desired: Replicas that this cycle decided.
        before: None where nothing is published: then nothing holds back.
        history: recommendations returned by the previous call.
        now: seconds, not less than those of the history.
        limits: see there.
        maximum: upper bound of replicas, which the window does not exceed.
        brief: True where a queue asks for `desired`.
        lasting: of these, the replicas that the arrivals ask for by themselves, which the whole window keeps.

    """
    start = now - limits.down_seconds
    # As long as the queue is there, so are the replicas that it asked for.
    brief_start = start if brief else now - min(limits.brief_seconds, limits.down_seconds)
    recent = tuple(_left(item, brief_start) for item in history if item.at > start)
    after = (*recent, Recommendation(now, desired, brief, lasting if brief else 0))
    if before is None or desired == before:
        return Stabilized(replicas=desired, reason="", history=after)
    replicas, reason = desired, ""
    if desired < before:
        holds = [
            (replicas, end)
            for item in after
            for replicas, end in _holds(item, desired, limits, brief=brief)
            if replicas > desired and end > now
        ]
        # Never above what is published: the window holds back, it does not raise.
        highest = min(max((number for number, _ in holds), default=desired), before)
        if highest > desired:
            seconds = max(end for number, end in holds if number >= highest) - now
            replicas = highest
            reason = f"held at {highest} for {seconds:.0f} s more by the stabilization window"
        least = replicas if limits.step_down is None else max(replicas, before - limits.step_down)
        if least > replicas:
            replicas = least
            reason = f"{replicas} instead of {desired}: {limits.step_down} fewer at a time"
    elif limits.step_up is not None and desired > before + limits.step_up:
        replicas = before + limits.step_up
        reason = f"{replicas} instead of {desired}: {limits.step_up} more at a time"
    if maximum is not None and replicas > maximum:
        replicas, reason = max(maximum, desired), ""
    return Stabilized(replicas=replicas, reason=reason, history=after)


def _left(item: Recommendation, brief_start: float) -> Recommendation:
    """The recommendation, of a brief one before that time what the arrivals asked for."""
    if not item.brief or item.at > brief_start:
        return item
    return Recommendation(item.at, item.lasting)


def _holds(
    item: Recommendation, desired: int, limits: StabilizationLimits, *, brief: bool
) -> Iterator[tuple[int, float]]:
    """Replicas that a recommendation keeps when `desired` is less, and the time until which it does."""
    longest = limits.down_seconds
    if item.brief and not brief:
        # What the arrivals asked for stays when what the queue asked for has gone.
        for replicas, seconds in _by_level(item.lasting, limits):
            yield replicas, item.at + _kept(replicas, desired, limits, seconds)
        longest = min(limits.brief_seconds, longest)
    for replicas, seconds in _by_level(item.replicas, limits):
        yield replicas, item.at + _kept(replicas, desired, limits, min(seconds, longest))


def _by_level(replicas: int, limits: StabilizationLimits) -> Iterator[tuple[int, float]]:
    """Replicas of a recommendation up to each level that has a hold of its own, and that hold in seconds."""
    *lower, last = limits.holds or (Hold(replicas, limits.down_seconds),)
    for item in lower:
        if item.replicas >= replicas:
            yield replicas, item.seconds
            return
        yield item.replicas, item.seconds
    yield replicas, last.seconds


def _kept(replicas: int, desired: int, limits: StabilizationLimits, seconds: float) -> float:
    """The seconds, or those after a far fall where they are fewer."""
    far = replicas - desired >= max(FALL_REPLICAS, FALL_SHARE * replicas)
    return min(seconds, limits.fall_seconds) if far and limits.fall_seconds is not None else seconds
