"""Replicas for requests that wait: as many as have all requests in flight in service at once.

A request that waits in the queue of a replica is served by that one. More replicas take the arrivals from it,
and nothing of its queue.
"""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter

import numpy as np

from adapter.planning.options import (
    IntArray,
    Model,
    Options,
    Requirements,
    Sized,
    output_tokens,
)
from analyzer import capacity
from analyzer.replicas import FloatArray

SURGE = 1.5
"""Replicas for the arrivals while requests wait, over those for the rate that is certain: a surge that has
filled queues rises on until more replicas are ready."""

_LEAST_RATE = 1e-12


def replicas_at_once(
    model: Model,
    options: Options,
    asked: Requirements,
    sized: Sized,
    needed: IntArray,
) -> IntArray:
    """The replicas that the rates need, or more of them where requests wait; shape (M,).

    A replica has in service what it does at its capacity, by Little's law: rate x (TTFT + tokens x ITL).

    Args:
        model: Model of the M options.
        options: The options with their loads.
        asked: Rates and targets.
        sized: What a replica carries.
        needed: Replicas that the rates need, shape (M,).

    """
    in_flight = options.of_variants(attrgetter("load.in_flight"))
    ordered = options.of_variants(attrgetter("load.ordered"))
    # In a surge, what the certain rate needs may be ordered and still be too little.
    factor = np.where(options.of_variants(attrgetter("load.surge")), SURGE, 1.0)
    rows = np.flatnonzero((in_flight > 0) & (sized.goodput_rps > 0) & (factor * needed > ordered))
    if not rows.size:
        return needed
    tokens = np.array([output_tokens(options[row].variant) for row in rows.tolist()])
    some, held = asked.select(rows), np.ones(rows.size)
    for rate, replicas, last in (
        (sized.goodput_rps[rows], np.ones(rows.size, dtype=np.int64), 1.0),
        # Those that share their queue hold more each: the rate needs all of them, and half of the last one.
        (asked.rate_rps[rows], needed[rows], 0.5),
    ):
        does = model.steady(rows, replace(some, rate_rps=rate), replicas)
        seconds = (does.ttft_ms + (tokens - 1.0) * does.itl_ms) / 1000.0
        held = np.maximum(held, rate * seconds / (replicas - 1.0 + last))
    held = np.minimum(held, np.maximum(sized.max_batch[rows], 1))
    at_once = needed.copy()
    at_once[rows] = np.maximum(
        needed[rows], np.ceil(in_flight[rows] / held * (1.0 - capacity.REPLICA_ROUNDING))
    )
    return at_once


def for_arrivals(
    options: Options, asked: Requirements, needed: IntArray, goodput_rps: FloatArray
) -> IntArray:
    """Replicas that the arrivals take by themselves, of those that the rates need; shape (M,).

    `needed` is whole, so the arrivals' share of it would be rounded up twice: it is at most what they take at
    one replica's rate, where replicas together carry at least as much as alone.

    Args:
        options: M options with their loads.
        asked: Their rates, what works off the queues included.
        needed: Replicas that the rates need, shape (M,).
        goodput_rps: What one replica carries alone, shape (M,).

    """
    share = arriving_share(options, asked)
    part = np.ceil(needed * share).astype(np.int64)
    rows = np.flatnonzero((share < 1.0) & (goodput_rps > 0))
    rates, each = asked.rate_rps[rows], goodput_rps[rows]
    alone = capacity.replicas_needed(share[rows] * rates, each)
    apart = needed[rows] <= capacity.replicas_needed(rates, each)
    part[rows] = np.where(apart, np.minimum(part[rows], alone), part[rows])
    return part


def arriving_share(options: Options, asked: Requirements) -> FloatArray:
    """Part of the rates that arrives, and does not work off a queue; shape (M,)."""
    backlog = options.of_variants(attrgetter("load.backlog_rps"))
    return np.clip(1.0 - backlog / np.maximum(asked.rate_rps, _LEAST_RATE), 0.0, 1.0)


def within_queues(
    options: Options, asked: Requirements, needed: IntArray, at_once: IntArray
) -> IntArray:
    """The replicas for rates and queues, less those that would find nothing to do; shape (M,).

    Those that are full of their own queues work these off, and others serve the arrivals, with `SURGE`: no
    more than both together. Only a load-aware gateway passes full ones by.

    Args:
        options: M options with their loads.
        asked: Their rates, what works off the queues included, and routing.
        needed: Replicas that the rates need, shape (M,).
        at_once: Those that requests in flight ask for too, shape (M,).

    """
    queued_at = options.of_variants(attrgetter("load.queued_at"))
    rows = np.flatnonzero((queued_at > 0) & (asked.rate_rps > 0) & asked.shared)
    if not rows.size:
        return at_once
    share = arriving_share(options, asked)[rows]
    most = np.ceil(SURGE * needed[rows] * share) + queued_at[rows]
    within = at_once.copy()
    within[rows] = np.minimum(at_once[rows], most)
    return within


def not_drained(options: Options, needed: IntArray, arriving: IntArray) -> IntArray:
    """The replicas, less those that would be ready when the queue that asks for them has gone; shape (M,).

    Only on the accelerator of those that are ordered: others would have to be ordered first.

    Args:
        options: M options with their loads.
        needed: Replicas that rates and queues ask for, shape (M,).
        arriving: Those that the arrivals take by themselves, shape (M,).

    """
    drained = options.of_variants(attrgetter("load.drained"))
    rows = np.array(
        [
            row
            for row in np.flatnonzero(drained).tolist()
            if options[row].profile.accelerator == options[row].variant.current.accelerator
        ],
        dtype=np.intp,
    )
    ordered = options.of_variants(attrgetter("load.ordered"))
    within = needed.copy()
    within[rows] = np.minimum(needed[rows], np.maximum(arriving[rows], ordered[rows]))
    return within
