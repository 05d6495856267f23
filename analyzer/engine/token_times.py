"""Inter-token latency of requests: their means over the decode steps of an answer, by its length.

A request's mean over its m = out - 1 decode steps, m log-normal in five Gauss-Hermite nodes, beside shares of
short answers where they are known (`nodes.py`). What prompts add is the length of a delay cycle over
m, of variance D rate prefill**2 E[in**2] / (m (1 - r)**3) and more at high loads; answers during which no
prompt arrives have none of it, and no step is longer than a full one.
What other requests add follows their number and contexts, of which an answer sees the mean over its own time.
Who arrives meanwhile adds both, its prompt and then its part of the steps that are left (`_both_variance`).
Replicas that share their arrivals have less of both (`_shared`). Sums are gamma distributed, log-normal where
they vary more. Preempted requests stall besides.
Numbers marked CALIBRATED were set by `bench/replica_tails.py`, on replicas that it draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from analyzer.engine.columns import Engines
from analyzer.engine.nodes import (
    NODE_WEIGHTS,
    SHORT_DECODES,
    at_nodes,
    largest,
    mixed,
    normal,
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

QUIET = 0.8
"""CALIBRATED: share of the noise that vanishes where everybody waits for a slot in the batch."""

IMBALANCE = 1.0
"""Variance of the numbers of requests at replicas that share their arrivals, about their mean: a half for two
(a walk whose steps away are a third of those back), less than this for many."""

SKEW = 1.0
"""CALIBRATED: coefficient of variation at which a sum is between gamma and log-normal."""


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
            plain = _gamma(reach, node.slow_ms / wide)
            used = np.clip((spare_ms + node.start_ms) / node.room_ms, 1e-12, 1.0 - 1e-12)
            late = node.quiet * plain + (1.0 - node.quiet) * _beyond(
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


class NodeTimes(NamedTuple):
    """Mean ITL of requests with answers of one length each: of shape (5, M).

    Attributes:
        slow_ms: standard deviation over requests of what other requests add.
        quiet: share of answers during which no prompt is computed.
        added_ms: mean of what prompts add.
        start_ms: part that lies below the sum that is distributed, of the other answers.
        room_ms: most of that sum.
        odds: mean of the odds of its share of that.
        cv: coefficient of variation of the odds.
        stall_ms: mean of what preemption adds.

    """

    slow_ms: FloatArray
    quiet: FloatArray
    added_ms: FloatArray
    start_ms: FloatArray
    room_ms: FloatArray
    odds: FloatArray
    cv: FloatArray
    stall_ms: FloatArray


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
        behind: what prompts that arrive while a request's own waits or is computed count, of one replica
            alone.
        began: variance by those that waited when it began, times their square.
        fades: part of a step after which other requests have changed.
        others: variance by the numbers of other requests.
        both: twice their covariance with `during`: the same requests make both.
        own: variance by the request's own context.
        stall_ms: what preemption adds to an answer.

    """

    added: _Added
    rate: FloatArray
    own_ms: FloatArray
    wide_ms: FloatArray
    during: FloatArray
    behind: FloatArray
    began: FloatArray
    fades: FloatArray
    others: FloatArray
    both: FloatArray
    own: FloatArray
    stall_ms: FloatArray

    @classmethod
    def of(cls, engines: Engines, state: State) -> _Noise:
        added = _Added.of(engines, state)
        during, began = _fast_variance(engines, state, added.free)
        fades, others, own = _slow_variance(engines, state, added.free)
        return cls(
            added=added,
            rate=state.rate,
            own_ms=state.prompts.own_ms,
            wide_ms=np.maximum(added.decode_ms - engines.base_ms, 1e-3 * added.decode_ms),
            during=during,
            behind=_shared(engines, 1.0, 0.0),
            began=began,
            fades=fades,
            others=others,
            both=_both_variance(engines, state, added.free),
            own=own,
            stall_ms=_stall_ms(engines),
        )

    def node(self, decodes: FloatArray) -> NodeTimes:
        """Answers of that many decode steps, (5, M).

        Short ones are slowed by what arrives behind their own prompt. A gateway that sends each request to
        the replica with the fewest sends that elsewhere (`_shared`).
        """
        added, decode, behind = self.added, self.added.decode_ms, self.behind
        mean_added, flat = added.over(decodes, behind * added.first_ms)
        span = np.maximum(decodes * self.fades, 1e-3)
        mixed = 2.0 * (span + np.expm1(-span)) / (span * span)
        slow = mixed * self.others + self.own
        quiet = np.exp(-self.rate * (decodes * decode + behind * self.own_ms))
        met = 1.0 - quiet
        mean = np.minimum(mean_added / met, 0.98 * added.room_ms)
        each = 1.0 / decodes
        fast = each * (self.during + behind * self.began * each) + mixed * self.both
        fast = (fast / flat + mean_added**2) / met - mean * mean
        fast = np.maximum(fast, 1e-8 * mean * mean)
        part = slow / (slow + fast)
        start, deviation = part * self.wide_ms, np.sqrt(slow)
        most = added.room_ms + start + 6.0 * part * deviation
        mean = (mean + start) / most
        variance = np.clip((fast + slow) / most**2, 1e-8, 0.9 * mean * (1.0 - mean))
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
) -> tuple[FloatArray, FloatArray]:
    """Variance of the ITL by prompts that arrive during the answer, and by those that waited when it began.

    Each of shape (M,), times the answer's decode steps and their square.
    """
    queue, rate = state.prompts, state.rate
    during = rate * engines.prefill_ms**2 * engines.square_input * queue.decode_ms / free**3
    began = _waited_variance(engines, state, free)
    # Who waits for a slot comes in when another leaves, not in clusters.
    clusters = CLUSTERS * (0.25 + 1.0 - queue.together) * queue.load
    noise = (1.0 - QUIET * state.slot_waits) * _shared(engines, 1.0 + clusters, free * free)
    return noise * during, noise * began


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


def _waited_variance(engines: Engines, state: State, free: FloatArray) -> FloatArray:
    """Variance of what those that waited when an answer began add to it in all, shape (M,)."""
    queue = state.prompts
    tokens = queue.backlog / engines.input_tokens * engines.square_input
    tokens = tokens + (state.rate * engines.input_tokens) ** 2 * queue.other_variance
    return np.asarray((engines.prefill_ms / free) ** 2 * tokens)


def _slow_variance(
    engines: Engines, state: State, free: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """How fast the numbers of other requests fade, and variances by them and by the request's own context."""
    bend = engines.root_ms / (2.0 * np.sqrt(state.joined))
    square = engines.slope_square + bend * (2.0 * engines.slope_ms + bend)
    own = engines.slope_square - engines.slope_ms**2
    # More requests make each last longer, so what is above the mean fades more slowly.
    fades = 1.0 - state.rate * engines.decodes * engines.slope_ms / free
    fades = np.maximum(fades, 0.05) / engines.lasting
    each = 1.0 / (free * free)
    # Together their number varies as one's divided by theirs; between them it differs by a request or so.
    number = _shared(engines, state.variance, IMBALANCE)
    saved = np.maximum(state.variance - number, 0.0) * engines.slope_ms**2
    return fades, (square * state.variance - saved) * each, own * each


def _stalls(engines: Engines, state: State) -> FloatArray:
    """Share of requests that are preempted, shape (M,)."""
    return np.asarray(-np.expm1(-engines.preempted) * state.slot_waits)


def _stall_ms(engines: Engines) -> FloatArray:
    """What preemption adds to the time of a preempted request's answer, shape (M,)."""
    hit = -np.expm1(-engines.preempted)
    stall = STALL * engines.regained * engines.preempted / np.maximum(hit, 1e-6) / engines.full_rate
    return np.asarray(np.maximum(stall, 1e-6))


def _gamma(root: FloatArray, cv: FloatArray) -> FloatArray:
    """Share of a gamma distribution beyond the cube of `root` means (Wilson and Hilferty)."""
    return normal((1.0 - cv * cv / 9.0 - root) * 3.0 / cv)


def _beyond(ratio: FloatArray, cv: FloatArray) -> FloatArray:
    """Share beyond `ratio` means: gamma, log-normal where it varies more."""
    logs = np.log(ratio)
    square = cv * cv
    spread = np.log1p(square)
    plain = normal(-(logs + spread / 2.0) / np.sqrt(spread))
    square = square / (SKEW * SKEW)
    weight = 1.0 / (1.0 + square * square)
    return np.asarray(plain + weight * (_gamma(np.exp(logs / 3.0), cv) - plain))


def mean(engines: Engines, state: State) -> FloatArray:
    """Mean over requests of their mean ITL, shape (M,).

    Prompts that wait when an answer begins are computed for a while, X, of which it sees at most that of its
    own steps: with exponential tails E[min(X, y)] = E[X] (1 - exp(-y / h)), h = E[X**2] / (2 E[X]).
    """
    added = _Added.of(engines, state)
    stalled = _stalls(engines, state) * _stall_ms(engines)
    waited = _waited_variance(engines, state, added.free)
    tail = 0.5 * (added.first_ms + waited / np.maximum(added.first_ms, 1e-9)) + 1e-9
    steps = added.room_ms / tail

    def more(decodes: FloatArray) -> FloatArray:
        seen = added.first_ms * -np.expm1(-steps * decodes)
        return added.over(decodes, seen)[0] + stalled / decodes

    plain = weighted(more, NODE_WEIGHTS, engines.decode_nodes)
    if len(engines.short):
        with_itl = np.maximum(
            engines.long + mixed(np.ones_like, engines.short, SHORT_DECODES), 1e-9
        )
        short = mixed(more, engines.short, SHORT_DECODES)
        plain = (engines.long * plain + short) / with_itl
    return np.asarray(added.decode_ms + plain)
