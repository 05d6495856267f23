"""How unevenly requests fill the batch and the KV cache, by the moments of their lengths.

Requests in service are a random sum. Of the tokens that they hold, in requests of mean size,

    variance / mean         = E[h**2] / E[h]**2
    third moment / variance = E[h**3] / (E[h**2] E[h])

with h the prompt and what is generated so far (long answers run more often),
and two requests that arrive together run beside each other for E[min(X, Y)] / E[X] of the time, which for
log-normal answers is 2 normal(-spread / sqrt(2)); three do for about its power log(3) / log(2), exact for
exponential and for equal ones.

Units: tokens, requests.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from analyzer.engine.nodes import below
from analyzer.replicas import BoolArray, FloatArray

LARGEST = 1e9
"""Largest step time (ms) and length (tokens); what is beyond is a mistake and leaves the range of floats."""

BLOCK_TOKENS = 16
_THREE = float(np.log(3.0) / np.log(2.0))
_MOST_LARGE = 2.0
"""No request fills the KV cache, which cuts the third moment of log-normal lengths; times the second."""

_LONG_ANSWERS = 5.0
"""Exponent of 1 + cv**2 in it, 6 without that cut."""

FULLER = 0.5
"""CALIBRATED: standard deviations by which the KV cache must be the smaller bound for preemption; on
saturated replicas whose cache holds 0.6 to 1.4 times max_num_seqs."""

CLUMPED = 0.8
"""CALIBRATED: the chain of `occupancy.py` counts in units of a few requests, and who finds the last one taken
may find room in it: so many of those wait, and as much longer. From 0.7 where prompts are much shorter than
answers to 0.95; fewer and longer waits stand for their tail, which is longer than an exponential one."""

VISITS = 0.5
"""CALIBRATED: part of the wait before the first token that each preemption takes."""

UNEVEN = 0.7
"""CALIBRATED: power of E[w^2] / (2 E[w]^2) that waits for the KV cache are multiplied by; 1 of one server."""

LASTING = 60.0
"""CALIBRATED: requests in a KV cache of which half of the preemptions come while one wait lasts."""

KV_TAIL_HEADROOM = 0.04
"""Kept free besides of percentiles where the KV cache binds."""

TAIL_REQUESTS = 40.0
"""Requests in a KV cache from which on all of that is; it varies between runs as numbers in it do."""

_NEVER = 1e-6
_DENSITY = float((2.0 * np.pi) ** -0.5)


class Moments(NamedTuple):
    """Moments of lengths, each of shape (M,).

    Attributes:
        held: prompt tokens that a request holds, cached ones included.
        input_tokens: those of them that are computed.
        input_cv: their coefficient of variation.
        cube_held: third moment of `held`.
        output_tokens: tokens of the answer.
        output_cv: their coefficient of variation.
        context: tokens that a running request holds on average.

    """

    held: FloatArray
    input_tokens: FloatArray
    input_cv: FloatArray
    cube_held: FloatArray
    output_tokens: FloatArray
    output_cv: FloatArray
    context: FloatArray


class Crowding(NamedTuple):
    """What bounds the batch, each of shape (M,); numbers of requests where that is max_num_seqs.

    Attributes:
        crowds: whether the KV cache bounds it.
        room: requests that run together while none waits.
        crowding: variance over mean of what they fill it with.
        large: third moment over variance of that.
        own_square: variance of what the next one needs.
        long_prompts: covariance of a prompt with the arrivals that it delays, times their mean number.
        alike: share of the time that two run beside each other which arrived together.
        alike_three: the same of three.
        uneven: what waits for the KV cache are multiplied by.
        context_variance: variance of the tokens that a running request holds.

    """

    crowds: BoolArray
    room: FloatArray
    crowding: FloatArray
    large: FloatArray
    own_square: FloatArray
    long_prompts: FloatArray
    alike: FloatArray
    alike_three: FloatArray
    uneven: FloatArray
    context_variance: FloatArray


def crowding(lengths: Moments, kv_tokens: FloatArray, max_num_seqs: FloatArray) -> Crowding:
    """By lengths, a KV cache of so many tokens, and the most requests that run."""
    held, output, context = lengths.held, lengths.output_tokens, lengths.context
    more = 1.0 + lengths.output_cv**2
    spread = lengths.input_tokens * lengths.input_cv
    prompts = held * held + spread * spread
    age, age_square = output * more / 2.0, output**2 * more**3 / 3.0
    square = prompts + 2.0 * held * age + age_square
    peaks = np.maximum(square / context**2, 1.0)
    cube = lengths.cube_held + 3.0 * (prompts * age + held * age_square)
    cube = cube + output**3 * more**_LONG_ANSWERS / 4.0
    work = held * output + output**2 * more / 2.0
    works = prompts * output**2 * more + held * output**3 * more**3 + output**4 * more**6 / 4.0
    # The next one fits in beside those; a half makes whole numbers of what is even.
    block = BLOCK_TOKENS / 2.0
    room = np.clip((kv_tokens - held - block) / (context + block) + 0.5, 1.0, LARGEST)
    # Which of the two bounds is met first by numbers that vary.
    crowds = room - 2.0 * np.sqrt(peaks * room) < max_num_seqs - 2.0 * np.sqrt(max_num_seqs)
    alike = 2.0 * below(-np.sqrt(np.log(more) / 2.0))
    large = np.clip(cube / (square * context), peaks, _MOST_LARGE * peaks)
    long = 2.0 * lengths.input_cv**2 * lengths.input_tokens / context
    return Crowding(
        crowds=crowds,
        room=np.where(crowds, room, max_num_seqs),
        crowding=np.where(crowds, peaks, 1.0),
        large=np.where(crowds, large, 1.0),
        own_square=np.where(crowds, (spread / context) ** 2, 0.0),
        long_prompts=np.where(crowds, long, 0.0),
        alike=alike,
        alike_three=alike**_THREE,
        # By w, tokens times steps, as of one server: waits that long requests cause end with the first
        # short one.
        uneven=(works / (2.0 * work * work)) ** UNEVEN,
        context_variance=np.maximum(square - context**2, 0.0),
    )


def fuller(
    kv_batch: FloatArray, max_num_seqs: FloatArray, context: FloatArray, variance: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Share of the time in which a full batch is one of the KV cache, and its mean size; each of shape (M,).

    As many requests as fill the cache are normal about `kv_batch` (renewal theory: of variance over mean that
    of what one holds over the square of its mean); the smaller of that and max_num_seqs run. For preemption
    half a standard deviation is taken off, since numbers fall short of a limit that they are bound by.
    """
    mean = np.minimum(kv_batch, LARGEST)
    spread = np.sqrt(mean * np.maximum(variance, 1e-6 * context * context)) / context
    score = (max_num_seqs - mean) / spread
    full = np.maximum(below(score - FULLER) - _NEVER, 0.0)
    most = max_num_seqs - (max_num_seqs - mean) * below(score)
    most = most - spread * _DENSITY * np.exp(-0.5 * score * score)
    return full, np.maximum(np.minimum(most, np.minimum(mean, max_num_seqs)), 1.0)


def preempted_soon(preempted: FloatArray, room: FloatArray) -> FloatArray:
    """Preemptions of a request while a wait for the KV cache lasts, shape (M,).

    By those of a cache that stays full, and the requests in it. A wait ends after a few completions at loads
    that a replica holds: the time of an answer in a small cache, a small part of it in a large one.
    """
    return np.asarray(preempted * LASTING / (LASTING + room))


def visits(soon: FloatArray, output_cv: FloatArray) -> FloatArray:
    """All waits of a request for the KV cache over the one before its first token, shape (M,).

    A completion gives back a prompt and an answer, in which several short prompts begin at once. What they
    lack for their answers they wait for when they are preempted, after their first token, `soon` times each:
    less where answers differ, since who was admitted last, and would be preempted, may end before the others.
    """
    return np.asarray(1.0 + VISITS * soon / (1.0 + output_cv**2))


def uneven_departures(share: FloatArray, input_cv: FloatArray, output_cv: FloatArray) -> FloatArray:
    """What waits for a place among max_num_seqs are multiplied by, shape (M,).

    Whoever leaves a full batch does so after a while, of squared coefficient of variation 1 at first and
    output_cv**2 in the long run, and the prompt of the next then holds up the others for its `share` of the
    time: half of what arrivals and departures vary by, as in a queue of one server.
    """
    leaving = (1.0 - share) ** 2 * (1.0 + output_cv**2) / 2.0
    return np.asarray((1.0 + leaving + (share * input_cv) ** 2) / 2.0)


def several_servers(servers: FloatArray) -> tuple[FloatArray, FloatArray]:
    """How nearly exponential waits for the first of so many servers are, each of shape (M,).

    Waits that are multiplied by u near full load are so by u + (1 - u) g at the load x, with
    g = min(first (1 - x) / x, second): who finds all servers busy waits for the first of several residual
    times, whatever the services vary by (Cosmetatos, INFOR 13, 1975, for equal ones). At hardly any load that
    is the first of `servers` uniform times instead of exponential ones.
    """
    rises = (servers - 1.0) * (np.sqrt(4.0 + 5.0 * servers) - 2.0) / (16.0 * servers)
    return np.asarray(rises), np.asarray((servers - 1.0) / (servers + 1.0))


def kv_tail(kv_batch: FloatArray, max_num_seqs: FloatArray) -> FloatArray:
    """Share of a percentile's rate that is kept free for the KV cache, shape (M,); 0 where it does not bind.

    The rate at which a cache of many requests fills differs between runs: the fewer times it fills in one,
    the less do these make up for each other. A cache of few fills and empties so often that they do.
    """
    part = np.sqrt(np.minimum(kv_batch, TAIL_REQUESTS) / TAIL_REQUESTS)
    return np.where(kv_batch < max_num_seqs, KV_TAIL_HEADROOM * part, 0.0)
