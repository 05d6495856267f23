"""Steady state of engines at a rate: their batch, and the prompts that queue for the token budget.

Of every millisecond the share r = rate * prefill * in goes to prompts (work conservation), so a step that
decodes n requests takes D(n) / (1 - r) on average, D(n) = base + slope n. Prompts are a queue of their own:
its server computes B - n tokens in D + prefill (B - n) ms, that is s = prefill + D / (B - n) ms a token,
and by Pollaczek and Khinchine a prompt waits

    W = rate s**2 E[in**2] / (2 (1 - rate s in)).

Steps are not fluid: a prompt ends with its step, E[ceil(x)] = 1 / (1 - exp(-1 / x)) steps after it began (x
the mean number of steps that the tokens before it and its own fill, taken as exponential), and begins after
the rest of the step that it meets. What arrived meanwhile is computed in the first steps of its decoding: a
delay cycle (Conway, Maxwell and Miller, Theory of Scheduling, 8-4), of mean (m D + prefill backlog) / (1 -
r).

The batch is the chain of `chain.py` with T(n) = m base + prefill backlog + (m slope + prefill in) n; it is
linear in n for given lengths, and its coefficients are computed from them (m = out - 1 decode steps).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from analyzer.engine.columns import Engines
from analyzer.replicas import BoolArray, FloatArray

FULL = 0.9995
"""Largest load that counts as stable."""

_ITERATIONS = 3
_RESCALED = 32
"""States after which weights are scaled to a sum of 1: products of more could leave the range of floats."""

_SMALLEST = 1e-280
"""Keeps weights normal floats, with which processors are fast."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompts:
    """The queue of prompts while n requests decode, each of shape (M,)."""

    decode_ms: FloatArray
    token_ms: FloatArray
    load: FloatArray
    room: FloatArray
    filled: FloatArray
    waiting_ms: FloatArray
    rest_ms: FloatArray
    own_ms: FloatArray
    backlog: FloatArray

    @property
    def ttft_ms(self) -> FloatArray:
        """Mean time to first token of a request that finds a place in the batch."""
        return self.waiting_ms + self.rest_ms + self.own_ms


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class State:
    """Steady state at a rate, each of shape (M,); numbers are meaningless where it is not stable.

    Attributes:
        stable: whether the replica keeps up.
        rate: requests per millisecond.
        prefill_share: share of the time that goes to prefill.
        batch: mean number of requests that run.
        joined: mean number that a new request runs with, itself included.
        variance: variance of the number of running requests.
        place_waits: share of requests that wait for a place in the batch.
        place_waiting_ms: mean of their wait, over all requests.
        place_rate: rate per millisecond; the wait for a place is exponential with this rate.
        load: rate over the largest rate of a full batch.
        prompts: queue of prompts.

    """

    stable: BoolArray
    rate: FloatArray
    prefill_share: FloatArray
    batch: FloatArray
    joined: FloatArray
    variance: FloatArray
    place_waits: FloatArray
    place_waiting_ms: FloatArray
    place_rate: FloatArray
    load: FloatArray
    prompts: Prompts


def at_rate(engines: Engines, rate_rps: FloatArray) -> State:
    """State of M engines of one width at rates of shape (M,), requests per second."""
    rate = rate_rps / 1000.0
    share = rate * engines.prefill_ms * engines.input_tokens
    stable = share < FULL
    free = np.where(stable, 1.0 - share, 1.0 - FULL)
    batch = rate * engines.decodes * engines.base_ms / free
    delay = np.zeros_like(rate)
    for _ in range(_ITERATIONS):
        queue = prompts(engines, rate, free, np.minimum(batch, engines.max_batch))
        full_step = engines.prefill_ms * queue.room
        delay = np.minimum(engines.prefill_ms * queue.backlog, full_step * engines.decodes)
        left = free - rate * engines.decodes * engines.slope_ms
        base = queue.decode_ms - engines.slope_ms * np.minimum(batch, engines.max_batch)
        batch = np.where(
            left > 0.0,
            rate * (engines.decodes * base + delay) / np.maximum(left, 1e-12),
            engines.max_batch,
        )
        # No step is longer than a full one.
        longest = rate * engines.decodes * (queue.decode_ms + full_step)
        batch = np.minimum(np.minimum(batch, longest), engines.max_batch)
    chain = _chain(engines, rate, delay)
    queue = prompts(engines, rate, free, chain["batch"])
    return State(
        stable=stable & (chain["load"] < FULL) & (queue.load < FULL),
        rate=rate,
        prefill_share=1.0 - free,
        prompts=queue,
        **chain,
    )


def prompts(engines: Engines, rate: FloatArray, free: FloatArray, batch: FloatArray) -> Prompts:
    """The queue of prompts while `batch` requests decode and the share `free` of the time is theirs."""
    room = np.maximum(engines.max_num_batched_tokens - batch, 1.0)
    decode = engines.decode_ms(batch)
    token = engines.prefill_ms + decode / room
    tokens = rate * engines.input_tokens
    load = tokens * token
    filled = np.minimum(tokens * decode / (free * room), 1.0)
    waiting = rate * token * token * engines.square_input / (2.0 * (1.0 - np.minimum(load, FULL)))
    steps = np.maximum((waiting / token + engines.input_tokens) / room, 1e-3)
    partly = decode * (1.0 / -np.expm1(-1.0 / steps) - steps)
    rest = 0.5 * decode * (1.0 - filled) * -np.expm1(-batch)
    shared = tokens * engines.prefill_ms * (rest + waiting) * (1.0 - filled)
    own = engines.input_tokens * token + partly + shared
    return Prompts(
        decode_ms=decode,
        token_ms=token,
        load=load,
        room=room,
        filled=filled,
        waiting_ms=waiting,
        rest_ms=rest,
        own_ms=own,
        backlog=tokens * (own + filled * (rest + waiting)),
    )


def full_rate(engines: Engines) -> FloatArray:
    """Requests per millisecond that a full batch finishes, recomputed ones included; shape (M,)."""
    most = engines.max_batch
    decode = engines.decodes * engines.decode_ms(most)
    again = 1.0 + engines.recomputed
    return np.asarray(most / (decode + engines.prefill_ms * engines.input_tokens * most * again))


def _chain(engines: Engines, rate: FloatArray, delay: FloatArray) -> dict[str, FloatArray]:
    """Numbers in the batch: w(n) = w(n - 1) rate T(n) / n up to the max batch, geometric beyond."""
    most = engines.max_batch
    base = rate * (engines.decodes * engines.base_ms + delay)
    slope = rate * (engines.decodes * engines.slope_ms + engines.prefill_ms * engines.input_tokens)
    root = rate * engines.decodes * engines.root_ms if engines.root_ms.any() else None
    top = full_rate(engines)
    even = bool((most == most[0]).all())
    weight = np.ones_like(rate)
    full, total = np.zeros_like(rate), np.ones_like(rate)
    first, second = np.zeros_like(rate), np.zeros_like(rate)
    # State by state over all rows: faster than tables, whose smallest entries leave the normal floats.
    for n in range(1, int(most.max()) + 1):
        ratio = base / n
        ratio += slope
        if root is not None:
            ratio += root / math.sqrt(n)
        if not even or n == most[0]:
            last = most == n
            ratio = np.where(last, np.maximum(ratio, rate / top), ratio)
            if not even:
                ratio[most < n] = 0.0
        weight *= ratio
        weight += _SMALLEST
        if not even or n == most[0]:
            full = np.where(last, weight, full)
        total += weight
        part = weight * n
        first += part
        part *= n
        second += part
        if n % _RESCALED == 0:
            shrink = 1.0 / total
            weight, full, total = weight * shrink, full * shrink, total * shrink
            first, second = first * shrink, second * shrink
    load = rate / top
    below = np.minimum(load, FULL)
    tail = full * below / (1.0 - below)
    total = total + tail
    mean = (first + most * tail) / total
    square = (second + most * most * tail) / total
    waits = (full + tail) / total
    place_rate = top * (1.0 - below)
    return {
        "batch": mean,
        "joined": np.minimum(mean + 1.0 - waits, most),
        "variance": np.maximum(square - mean * mean, 0.0),
        "place_waits": waits,
        "place_waiting_ms": waits / place_rate,
        "place_rate": place_rate,
        "load": load,
    }
