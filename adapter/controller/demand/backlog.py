"""What requests that wait ask for: replicas that serve them at once, and the time to work them off.

Units: seconds, requests, requests per second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

USUAL_PER_REPLICA = 1.0
"""Requests per ready replica that wait between two steps of any busy engine."""

QUEUE_ERRORS = 2.0
"""Standard deviations of a queue, taken as a count, within which it is as long as before."""


GROWTH_ERRORS = 1.5
"""Standard errors up to which the growth of a queue is attributed to chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A variant's queue and what is there or ordered to serve it.

    Attributes:
        running: Requests in service.
        waiting: Requests in the pods' queues.
        growth_rps: Growth of the queues that is not chance, 0 or more.
        ready: Replicas that serve.
        ordered: Replicas that are published or asked for, those that serve included.
        start_seconds: Seconds until a replica that is created now is ready.
        loading_seconds: Time until the replicas that were asked for last are ready.

    """

    running: float
    waiting: float
    growth_rps: float
    ready: int
    ordered: int
    start_seconds: float
    loading_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What the queue asks for.

    Attributes:
        requests: Requests that wait when the next replicas are ready.
        extra_rps: Rate that serves them within the drain time beside the arrivals.
        in_flight: Requests that the target should hold in service.

    """

    requests: float = 0.0
    extra_rps: float = 0.0
    in_flight: float = 0.0


def queues_up(waiting: float, *, ready: int, known: float = 0.0) -> bool:
    """Whether more requests wait in the queues of `ready` replicas than `known` ones, by more than chance."""
    usual = USUAL_PER_REPLICA * max(ready, 1)
    return waiting > known + usual + QUEUE_ERRORS * math.sqrt(known)


def certain_growth(growth_rps: float, *, rate_rps: float, seconds: float) -> float:
    """The part of a growth over some seconds that is not chance, where so many arrive and are begun."""
    error = math.sqrt(2.0 * max(rate_rps, 1.0 / seconds) / seconds)
    return max(growth_rps - GROWTH_ERRORS * error, 0.0)


def backlog_of(queue: Queue, *, drain_seconds: float) -> Backlog:
    """What the queue asks for beside the arrivals.

    While ordered replicas load, requests go on to wait; what counts is the queue at the moment at which these
    are ready. So a constant load keeps a constant target.

    Args:
        queue: The queue.
        drain_seconds: Time in which ready replicas should work off the queue; 0: only what waits now counts.

    """
    if not queues_up(queue.waiting, ready=queue.ready):
        return Backlog()
    loading = queue.ordered > queue.ready
    seconds = queue.loading_seconds if loading else queue.start_seconds
    requests = queue.waiting + queue.growth_rps * seconds
    extra = requests / drain_seconds if drain_seconds > 0 else 0.0
    return Backlog(
        requests=requests,
        extra_rps=extra,
        in_flight=queue.running + queue.waiting,
    )
