"""Inter-token latency of requests: their means over the decode steps of an answer, by its length.

A request's mean over its m = out - 1 decode steps, m log-normal in five Gauss-Hermite nodes, beside shares of
short answers where they are known (`nodes.py`). What prompts add is the length of a delay cycle over
m, of variance D rate prefill**2 E[in**2] / (m (1 - r)**3) and more at high loads; answers during which no
prompt arrives have none of it, and no step is longer than a full one.
What other requests add follows their number and contexts, of which an answer sees the mean over its own time.
Who arrives meanwhile adds both, its prompt and then its part of the steps that are left (`_both_variance`).
Replicas that share their arrivals have less (`_shared`). Sums are gamma distributed, log-normal where they
vary more, and bent where numbers reach the last slot or prompts find none. Preempted requests stall besides.
Numbers marked CALIBRATED were set by `bench/replica_tails.py`, on replicas that it draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from analyzer.engine.columns import Engines
from analyzer.engine.first_token import places_ms, waited_variance
from analyzer.engine.nodes import (
    NODE_WEIGHTS,
    SHORT_DECODES,
    NodeTimes,
    at_a_limit,
    at_nodes,
    gamma_beyond,
    largest,
    mixed,
    sum_beyond,
    weighted,
)
from analyzer.engine.state import State
from analyzer.replicas import FloatArray

CLUSTERS = 2.4
"""CALIBRATED: prompts come in clusters, at high loads and where they take many steps; what that adds to their
variance."""

STALL = 0.65
"""CALIBRATED: room of a request that is free again, on average, when a preempted one goes on. From one
completion to the next the others generate an answer, so that a prompt is left of what each gives back."""

IMBALANCE = 1.0
"""Variance of the numbers of requests at replicas that share their arrivals, about their mean: a half for two
(a walk whose steps away are a third of those back), less than this for many."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenTimes:
    """Mean ITL of requests by the length of their answers.

    Attributes:
        step_ms: shape (M,), mean step that computes no prompt.
        wide_ms: shape (M,), what other requests add to it.
        stalls: shape (M,), share of requests that are preempted.
        nodes: long answers of five lengths.
        long: shape (M,), share of those.
        short: shape (K, M), shares of short answers, where they are known.
        short_nodes: answers of those lengths.

    """

    step_ms: FloatArray
    wide_ms: FloatArray
    stalls: FloatArray
    nodes: NodeTimes
    long: FloatArray
    short: FloatArray
    short_nodes: NodeTimes | None

    @classmethod
    def of(cls, engines: Engines, state: State) -> TokenTimes:
        """By mean and variance of what prompts, other requests and preemption add."""
        noise = _Noise.of(engines, state)
        return cls(
            step_ms=noise.added.decode_ms,
            wide_ms=noise.wide_ms,
            stalls=_stalls(engines, state),
            nodes=at_nodes(noise.node, engines.decode_nodes),
            long=engines.long,
            short=engines.short,
            short_nodes=at_nodes(noise.node, SHORT_DECODES) if len(engines.short) else None,
        )

    @property
    def most_ms(self) -> FloatArray:
        """What practically none exceeds, shape (M,)."""
        most = np.asarray(0.0)
        for nodes in (self.nodes, self.short_nodes):
            if nodes is not None:
                stall = 30.0 * self.stalls * largest(lambda node: node.stall_ms, nodes)
                wide = 8.0 * largest(lambda node: node.slow_ms, nodes)
                most = np.maximum(most, wide + largest(lambda node: node.room_ms, nodes) + stall)
        return np.asarray(self.step_ms + most)

    def exceeds(self, target_ms: FloatArray) -> FloatArray:
        """Share of requests beyond the target, shape (M,)."""
        spare_ms, wide = target_ms - self.step_ms, self.wide_ms
        reach = np.cbrt(np.maximum(spare_ms + wide, 1e-9) / wide)
        preempted = np.any(self.stalls)

        def share(node: NodeTimes) -> FloatArray:
            plain = gamma_beyond(reach, node.slow_ms / wide)
            used = np.clip((spare_ms + node.start_ms) / node.room_ms, 1e-12, 1.0 - 1e-12)
            late = node.quiet * plain + (1.0 - node.quiet) * sum_beyond(
                used / (1.0 - used) / node.odds, node.cv
            )
            if preempted:
                beyond = np.maximum(spare_ms - node.added_ms, 0.0)
                late += self.stalls * np.exp(-beyond / node.stall_ms) * (1.0 - late)
            return late

        late = weighted(share, NODE_WEIGHTS, self.nodes)
        if self.short_nodes is None:
            return late
        return self.long * late + mixed(share, self.short, self.short_nodes)


class _Added(NamedTuple):
    """What prompts add to the mean ITL: a delay cycle, no step of which is longer than a full one.

    Attributes:
        decode_ms: shape (M,), a step that computes no prompt.
        room_ms: shape (M,), most that prompts add to one.
        free: shape (M,), share of the time that is not theirs.
        first_ms: shape (M,), what those that waited add in all.
        each_ms: shape (M,), what later ones add to each step.

    """

    decode_ms: FloatArray
    room_ms: FloatArray
    free: FloatArray
    first_ms: FloatArray
    each_ms: FloatArray

    @classmethod
    def of(cls, engines: Engines, state: State) -> _Added:
        free = 1.0 - state.prefill_share
        decode = engines.decode_ms(state.joined)
        return cls(
            decode_ms=decode,
            room_ms=engines.prefill_ms * state.prompts.room,
            free=free,
            first_ms=engines.prefill_ms * state.prompts.excess / free,
            each_ms=decode * (1.0 / free - 1.0),
        )

    def over(self, decodes: FloatArray, first_ms: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean over answers of that many decode steps, and by what the bound divides it; (5, M).

        Those that waited add `first_ms` to each answer.
        """
        added = first_ms / decodes + self.each_ms
        use = np.clip(added / self.room_ms, 1e-9, 50.0)
        flat = np.sqrt(1.0 + use * use)
        return use / flat * self.room_ms, flat


class _Noise(NamedTuple):
    """What makes the ITL of requests differ, each of shape (M,).

    Attributes:
        added: what prompts add.
        rate: requests per millisecond.
        own_ms: time of a prompt's own computation.
        wide_ms: what other requests add to a step.
        during: variance by prompts that arrive during the answer, times its steps.
        behind: what prompts that arrive while a request's own waits or is computed count, of one alone.
        began: variance by those that waited when it began, times their square.
        places_ms, left_ms: most that these add beyond their mean, in all and to each step, by their places.
        fades: part of a step after which other requests have changed.
        numbers: variance by the numbers of other requests, and `contexts` by what these hold.
        both: twice their covariance with `during`: the same requests make both.
        own: variance by the request's own context.
        swells: part of `during` that goes by numbers: those that arrive while prompts are computed.
        counted, queued: parts of `swells` and `began` that would be there with prompts of one length.
        bend, tilt: how the last slot bends the distribution of numbers, see `nodes.at_a_limit`.
        stall_ms: what preemption adds to an answer.

    """

    added: _Added
    rate: FloatArray
    own_ms: FloatArray
    wide_ms: FloatArray
    during: FloatArray
    behind: FloatArray
    began: FloatArray
    places_ms: FloatArray
    left_ms: FloatArray
    fades: FloatArray
    numbers: FloatArray
    contexts: FloatArray
    both: FloatArray
    own: FloatArray
    swells: FloatArray
    counted: FloatArray
    queued: FloatArray
    bend: FloatArray
    tilt: FloatArray
    stall_ms: FloatArray

    @classmethod
    def of(cls, engines: Engines, state: State) -> _Noise:
        added = _Added.of(engines, state)
        during, began, swells = _fast_variance(engines, state, added.free)
        places, left = places_ms(engines, added.decode_ms, added.each_ms)
        lengths = engines.prefill_ms * engines.input_tokens * engines.input_cv**2
        fades, numbers, contexts, own = _slow_variance(engines, state, added.free)
        held = state.batch + state.rate * (state.prompts.decode_ms + state.prompts.own_ms)
        gap = np.maximum(engines.max_num_seqs - held, 0.0)
        # A full KV cache holds now more requests, now fewer.
        full = np.where(engines.kv_binds, 0.0, state.slot_waits)
        bend, tilt = at_a_limit(full, gap, state.variance)
        return cls(
            added=added,
            rate=state.rate,
            own_ms=state.prompts.own_ms,
            wide_ms=np.maximum(added.decode_ms - engines.base_ms, 1e-3 * added.decode_ms),
            during=during,
            behind=_shared(engines, 1.0, 0.0),
            began=began,
            places_ms=places - added.first_ms,
            left_ms=left,
            fades=fades,
            numbers=numbers,
            contexts=contexts,
            both=_both_variance(engines, state, added.free),
            own=own,
            swells=swells,
            counted=swells * engines.input_tokens**2 / engines.square_input,
            queued=np.maximum(began - added.first_ms * lengths, 0.0),
            bend=bend,
            tilt=tilt,
            stall_ms=_stall_ms(engines),
        )

    def node(self, decodes: FloatArray) -> NodeTimes:
        """Answers of that many decode steps, (5, M).

        Short ones are slowed by what arrives behind their own prompt, or goes elsewhere (`_shared`).
        """
        added, decode, behind = self.added, self.added.decode_ms, self.behind
        mean_added, flat = added.over(decodes, behind * added.first_ms)
        span = np.maximum(decodes * self.fades, 1e-3)
        mixed = 2.0 * (span + np.expm1(-span)) / (span * span)
        slow = mixed * (self.numbers + self.contexts) + self.own
        quiet = np.exp(-self.rate * (decodes * decode + behind * self.own_ms))
        met = 1.0 - quiet
        mean = np.minimum(mean_added / met, 0.98 * added.room_ms)
        each = 1.0 / decodes
        both = mixed * self.both
        fast = each * (self.during + behind * self.began * each) + both
        fast = (fast / flat + mean_added**2) / met - mean * mean
        fast = np.maximum(fast, 1e-8 * mean * mean)
        total = slow + fast
        part = slow / total
        start, deviation = part * self.wide_ms, np.sqrt(slow)
        spare, mean = added.room_ms - mean, mean + start
        # Ends so far below and above the mean make a skewness of 2 deviations (1 / mean - 1 / above).
        level = mixed * self.numbers + (each * self.swells + both) / (flat * met)
        level = np.minimum(level / total, 1.0)
        less = (1.0 - level) ** 2 / spare + level * level * self.bend / mean
        less = less - 0.5 * level * np.sqrt(level * mixed / total) * self.tilt
        # So do places, of numbers of prompts: one takes in a prompt however long.
        surge = each * (self.counted + behind * self.queued * each) / (flat * met)
        surge = np.minimum(surge / total, 1.0)
        end = np.maximum(each * self.places_ms + self.left_ms, 1e-3 * decode)
        # No nearer end than an even distribution of that variance has above its mean.
        above = np.maximum(1.0 / np.maximum(less + surge * surge / end, 1e-9), 2.0 * total / mean)
        most = mean + np.minimum(above, spare + 6.0 * part * deviation)
        mean = mean / most
        variance = np.clip(total / most**2, 1e-8, 0.9 * mean * (1.0 - mean))
        # Moments of the odds of a share, by those of the share.
        square = variance / (mean * (1.0 - mean)) ** 2
        return NodeTimes(
            slow_ms=deviation + 1e-6 * decode,
            quiet=quiet,
            added_ms=mean_added,
            start_ms=start,
            room_ms=most,
            odds=mean / (1.0 - mean) * (1.0 + square) ** mean,
            cv=np.maximum(np.sqrt(square), 1e-4),
            stall_ms=self.stall_ms / decodes,
        )


def _fast_variance(
    engines: Engines, state: State, free: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Variance of the ITL by prompts that arrive during the answer, and by those that waited when it began.

    Times the answer's decode steps and their square, (M,); and the part of the former that goes by numbers.
    Who waits for a slot comes in when another leaves, during answers that find the batch full at their begin
    or end: on the clock of decoding, where prompts bring no others along, and numbers vary by what renewals
    do over one lifetime, half way from Poisson ones to cv**2. One in `max_batch` is the answer's own.
    """
    queue, rate = state.prompts, state.rate
    during = rate * engines.prefill_ms**2 * engines.square_input * queue.decode_ms / free**3
    calm, square = free * free, engines.input_cv**2
    even = (square + np.minimum(0.5 + 0.5 * engines.output_cv**2, 1.0)) / (1.0 + square)
    even = even * engines.max_batch / (engines.max_batch + 1.0)
    full = state.slot_waits * (2.0 - state.slot_waits)
    # Two of a cluster come in together where both find places. Not measured where the KV cache binds.
    pairs = np.where(engines.kv_binds, 1.0, (1.0 - full) ** 2)
    clusters = CLUSTERS * (0.25 + 1.0 - queue.together) * queue.load * pairs
    noise = full * calm * even + (1.0 - full) * _shared(engines, 1.0 + clusters, calm)
    began = waited_variance(engines, state, free)
    return noise * during, noise * began, (1.0 - full) * (1.0 - calm) * during


def _both_variance(engines: Engines, state: State, free: FloatArray) -> FloatArray:
    """Variance by requests that add a prompt p and then s to each step left, beyond those of p and s; (M,).

    2 a E[p s] E[left] / m, for a requests per step during m, less `mixed`, which is 2 E[left] / m.
    """
    slope = engines.slope_ms + engines.root_ms / (2.0 * np.sqrt(state.joined))
    both = engines.prefill_ms * (engines.input_tokens * slope + engines.long_context_ms)
    both = both * state.rate * state.prompts.decode_ms / free**3
    # The batch varies less the nearer it is to its limit: a full one admits no further request.
    rises = np.minimum(state.variance / np.maximum(state.batch, 1e-9), 1.0)
    return rises * _shared(engines, both, 0.0)


def _shared(
    engines: Engines, alone: FloatArray | float, balanced: FloatArray | float
) -> FloatArray:
    """Noise of one of the replicas that share their arrivals, by that of one alone and of one of many; (M,).

    A gateway that sends each request to the replica with the fewest makes arrivals follow departures: while a
    replica computes prompts, nobody leaves it, and those who come go to the others. So prompts come on the
    clock of its decoding, on which no prompt brings others along (`free` squared, and no clusters), but for
    those that the gateway must send to it, one of `sharing`.
    """
    own = 1.0 / engines.sharing
    return np.asarray(own * alone + (1.0 - own) * balanced)


def _slow_variance(
    engines: Engines, state: State, free: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """How fast others fade; variances by numbers, Var(n) slope**2, by contexts, E[n] Var(one), by its own."""
    slope = engines.slope_ms + engines.root_ms / (2.0 * np.sqrt(state.joined))
    own = engines.slope_square - engines.slope_ms**2
    # More requests make each last longer, so what is above the mean fades more slowly.
    fades = 1.0 - state.rate * engines.decodes * engines.slope_ms / free
    fades = np.maximum(fades, 0.05) / engines.lasting
    each = 1.0 / (free * free)
    # Together their number varies as one's divided by theirs; between them it differs by a request or so.
    saved = np.maximum(state.variance - _shared(engines, state.variance, IMBALANCE), 0.0)
    numbers = slope * slope * state.variance - saved * engines.slope_ms**2
    return fades, numbers * each, own * state.batch * each, own * each


def _stalls(engines: Engines, state: State) -> FloatArray:
    """Share of requests that are preempted, shape (M,)."""
    return np.asarray(-np.expm1(-engines.preempted) * state.slot_waits)


def _stall_ms(engines: Engines) -> FloatArray:
    """What preemption adds to the time of a preempted request's answer, shape (M,)."""
    hit = -np.expm1(-engines.preempted)
    stall = STALL * engines.regained * engines.preempted / np.maximum(hit, 1e-6) / engines.full_rate
    return np.asarray(np.maximum(stall, 1e-6))


def mean(engines: Engines, state: State) -> FloatArray:
    """Mean over requests of their mean ITL, shape (M,).

    Prompts that wait when an answer begins are computed for a while, X, of which it sees at most that of its
    own steps, and those for which there are places in the batch: with exponential tails
    E[min(X, y)] = E[X] (1 - exp(-y / h)), h = E[X**2] / (2 E[X]), for places less what lengths add to it.
    """
    added = _Added.of(engines, state)
    stalled = _stalls(engines, state) * _stall_ms(engines)
    waited = waited_variance(engines, state, added.free)
    tail = 0.5 * (added.first_ms + waited / np.maximum(added.first_ms, 1e-9)) + 1e-9
    steps = added.room_ms / tail
    places, left = places_ms(engines, added.decode_ms, added.each_ms, cached=True)
    # A place takes in a prompt however long: of a sum of prompts, each with those that come during it, the
    # part of the tail that is due to their lengths is not bounded by places.
    prompt = engines.prefill_ms * engines.input_tokens
    numbers = np.maximum(tail - 0.5 * prompt * engines.input_cv**2 / added.free, 0.5 * prompt)
    places, left = places / numbers, left / numbers

    def more(decodes: FloatArray) -> FloatArray:
        seen = added.first_ms * -np.expm1(-np.minimum(steps * decodes, places + left * decodes))
        return added.over(decodes, seen)[0] + stalled / decodes

    plain = weighted(more, NODE_WEIGHTS, engines.decode_nodes)
    if len(engines.short):
        short = mixed(np.ones_like, engines.short, SHORT_DECODES)
        with_itl = np.maximum(engines.long + short, 1e-9)
        short = mixed(more, engines.short, SHORT_DECODES)
        plain = (engines.long * plain + short) / with_itl
    return np.asarray(added.decode_ms + plain)
