"""What requests that wait ask for: replicas that serve them at once, and the time to work them off.

Units: seconds, requests, requests per second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from adapter.collector.traffic import Traffic
from adapter.planning import fleet, plan
from adapter.planning.queued import SURGE

USUAL_PER_REPLICA = 1.0
"""Requests per ready replica that wait between two steps of any busy engine."""

SURGE_PER_REPLICA = 0.5
"""The same in a surge, from which on the queue counts."""

QUEUE_ERRORS = 2.0
"""Standard deviations of a queue, taken as a count, within which it is as long as before."""


GROWTH_ERRORS = 1.5
"""Standard errors up to which the growth of a queue is attributed to chance."""

GROWTH_TIMES = 4.0
"""A queue is expected to go on growing for this many times as long as its growth was seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A variant's queue and what is there or ordered to serve it.

    Attributes:
        running: Requests in service.
        waiting: Requests in the pods' queues.
        served_rps: Requests per second that are served; None where that is not known.
        most_rps: Requests per second that the ready replicas serve at most; infinite where that is not known.
        queued_at: Pods whose queues hold more than the usual.
        elsewhere: Requests of `waiting` that no pod has yet, so that any replica can serve them.
        expected: Requests that were expected to wait for their first token at this load.
        growth_rps: Growth of the queues that is not chance, 0 or more.
        ready: Replicas that serve.
        ordered: Replicas that are published or asked for, those that serve included.
        start_seconds: Seconds until a replica that is created now is ready.
        loading_seconds: Time until the replicas that were asked for last are ready.
        late: Whether these are late by an interval or more, so that it is not known when they will be ready.
        seen_seconds: Time over which its growth was seen; infinite where it is known to go on.

    """

    running: float
    waiting: float
    growth_rps: float
    ready: int
    ordered: int
    start_seconds: float
    loading_seconds: float
    late: bool = False
    served_rps: float | None = None
    most_rps: float = math.inf
    queued_at: int = 0
    elsewhere: float = 0.0
    expected: float = 0.0
    seen_seconds: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What the queue asks for.

    Attributes:
        requests: Requests that wait when the next replicas are ready.
        extra_rps: Rate that serves them within the drain time beside the arrivals.
        in_flight: Requests that the target should hold in service; in a surge those expected by then.
        queued_at: Ready replicas in whose queues all of these requests wait; 0 where any replica can serve
            some of them.
        surge: Whether the arrivals have risen far.
        drained: Whether the replicas that are ordered work these requests off before others could be ready.

    """

    requests: float = 0.0
    extra_rps: float = 0.0
    in_flight: float = 0.0
    queued_at: int = 0
    surge: bool = False
    drained: bool = False


def queues_up(waiting: float, *, ready: int, known: float = 0.0, expected: float = 0.0) -> bool:
    """Whether more requests wait in the queues of `ready` replicas than usual, by more than chance.

    Args:
        waiting: Requests that wait.
        ready: Replicas that serve.
        known: Requests of a queue that was acted on, beside the usual.
        expected: Requests that were expected to wait at this load: those are usual too.

    """
    usual = max(USUAL_PER_REPLICA * max(ready, 1), expected + QUEUE_ERRORS * math.sqrt(expected))
    return waiting > known + usual + QUEUE_ERRORS * math.sqrt(known)


def expected_waiting(
    traffic: Traffic, decision: plan.Decision | None, targets: fleet.Targets
) -> float:
    """Requests between arrival and first token, by Little's law at the TTFT that was predicted.

    A TTFT beyond its target is no steady load, but a queue that is there to be worked off: 0 then, and
    without a target or a decision.
    """
    ttft = math.inf if decision is None else decision.candidate.ttft_ms
    if not ttft <= targets.ttft_ms:
        return 0.0
    # In a rise the queue that was expected is that of the rate before.
    rate = min(traffic.long_rate_rps or math.inf, traffic.arrival_rate_rps)
    return max(rate * ttft / 1000.0, 0.0)


def served_rps(traffic: Traffic) -> float | None:
    """Requests per second that are served, by Little's law of those in service; None while none is known."""
    if not traffic.itl_ms or not traffic.output_tokens or traffic.running <= 0:
        return None
    return traffic.running / (traffic.output_tokens * traffic.itl_ms / 1000.0)


def most_rps(traffic: Traffic, decision: plan.Decision | None, ready: int) -> float:
    """Requests per second that `ready` replicas serve with full batches, by Little's law.

    Full batches take longer steps than those that were observed, so it is rather less. Infinite where the
    batch or what a request takes is not known.
    """
    batch = 0 if decision is None else decision.candidate.max_batch
    if not (batch and traffic.itl_ms and traffic.output_tokens):
        return math.inf
    return ready * batch / (traffic.output_tokens * traffic.itl_ms / 1000.0)


def certain_growth(growth_rps: float, *, rate_rps: float, seconds: float) -> float:
    """The part of a growth over some seconds that is not chance, where so many arrive and are begun."""
    error = math.sqrt(2.0 * max(rate_rps, 1.0 / seconds) / seconds)
    return max(growth_rps - GROWTH_ERRORS * error, 0.0)


def backlog_of(
    queue: Queue, *, drain_seconds: float, rate_rps: float = 0.0, surge: bool = False
) -> Backlog:
    """What the queue asks for beside the arrivals.

    While ordered replicas load, requests go on to wait; what counts is the queue at the moment at which these
    are ready. So a constant load keeps a constant target.

    Args:
        queue: The queue.
        drain_seconds: Time in which ready replicas should work off the queue; 0: only what waits now counts.
        rate_rps: Requests per second that arrive.
        surge: Whether the arrivals have risen far: replicas are then to hold the queue that they will meet.

    """
    queued = queues_up(queue.waiting, ready=queue.ready, expected=queue.expected)
    # In a surge the queue has just begun: what is usual of steady arrivals says nothing of it.
    usual = max(SURGE_PER_REPLICA * max(queue.ready, 1), queue.expected)
    overload = rate_rps - queue.most_rps if surge else 0.0
    begins = surge and (queue.waiting > usual or overload > 0)
    if not (queued or begins):
        return Backlog()
    loading = queue.ordered > queue.ready
    seconds = queue.loading_seconds if loading else queue.start_seconds
    growth = max(queue.growth_rps, overload)
    if queue.served_rps is not None and (queued or queue.waiting > usual):
        # Sooner than the queue shows it: what arrives beyond what those that are full serve will wait.
        growth = max(growth, rate_rps - queue.served_rps)
    # A batch of requests at once looks like growth: it is not taken to go on for a start-up of minutes.
    requests = queue.waiting + growth * min(seconds, GROWTH_TIMES * queue.seen_seconds)
    extra = requests / drain_seconds if drain_seconds > 0 else 0.0
    return Backlog(
        requests=requests,
        extra_rps=extra,
        in_flight=queue.running + (requests if surge and drain_seconds > 0 else queue.waiting),
        # The first to wait in a surge are at some pods, and by the time that others are ready at all of them.
        queued_at=0 if queue.elsewhere > 0 else (queue.queued_at if queued else queue.ready),
        surge=surge,
        drained=loading and _drains(queue, requests, rate_rps * (SURGE if surge else 1.0)),
    )


def _drains(queue: Queue, requests: float, rate_rps: float) -> bool:
    """Whether ordered replicas, once ready, work that many requests off before others could be ready.

    They are taken to serve as much each as those do that serve now, which may not be full yet. Requests that
    wait at pods are served by these alone, so the queue shrinks by what these serve at most.
    """
    if queue.served_rps is None or queue.ready < 1 or queue.late:
        return False
    spare = queue.served_rps * queue.ordered / queue.ready - rate_rps
    return min(spare, queue.served_rps) * (queue.start_seconds - queue.loading_seconds) >= requests
