"""Steady state of engines at a rate: their batch, and the prompts that queue for the token budget.

Of every millisecond the share r = rate * prefill * in goes to prompts (work conservation), so a step that
decodes n requests takes D(n) / (1 - r) on average, D(n) = base + slope n.

Prompts are a gated queue: a step computes what arrived during the one before, S' = D + b(arrivals in S), so
the cumulants of S follow from each other (b1, b2, b3: moments of the time b that a prompt adds):

    k1 = D / (1 - r);   k2 = rate b2 k1 / (1 - r**2);   k3 = (rate b3 k1 + 3 r rate b2 k2) / (1 - r**3)

A prompt meets a step in proportion to its length, waits for the rest of it, and is computed in the next one
with all that arrived meanwhile. Prompts that exceed the room of a step, B - n tokens, take steps of their
own: b = prefill L + D / (B - n) (L - phase)+. Those behind them then end later, not together; where none do,
mean and variance are those of Pollaczek and Khinchine.

What arrived meanwhile is computed in the first steps of the request's decoding: a delay cycle (Conway,
Maxwell and Miller, Theory of Scheduling, 8-4). With m decode steps a request holds its slot for

    T(n) = own prompt + (m (base + slope n) + prefill excess) / (1 - r)

of which slope makes a processor-sharing queue: the numbers in service are negative binomial, of variance over
mean 1 / (1 - x), x = rate m slope / (1 - r). On the clock of decoding, which stands while prompts are
computed, arrivals come in clusters C: the customers of a busy period. With y = r / (1 - r),

    E[C (C - 1)] / E[C] = 2 y + y**2 (1 + cv_in**2)

and so on for three; the share that runs beside each other (`crowding.py`) adds to the variance of the
numbers. The KV cache is filled by requests of different sizes, and a long prompt among them delays more
arrivals. A negative binomial distribution in units of several requests, beside a fixed number, has all three
moments; the chain of `occupancy.py` ends it at the last slot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from analyzer.engine.columns import Engines
from analyzer.engine.nodes import below
from analyzer.engine.occupancy import FULL, occupancy
from analyzer.replicas import BoolArray, FloatArray

PHASE = 0.4
"""CALIBRATED: share of an empty step beyond which a prompt costs steps of its own; a half by its mean, less
for the steps that it shares."""

JOINED = 0.5
"""CALIBRATED: of prompts that arrive behind one, the fewer end with it the more steps it takes."""

LEAST_LEFT = 0.05
"""Least share of a request's time that others count as leaving to it; at less nothing is held."""

_MOMENTS = np.arange(3.0)[:, None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompts:
    """The queue of prompts while n requests decode, each of shape (M,).

    Attributes:
        decode_ms: time of a step that computes no prompt.
        room: prompt tokens that a step can compute.
        filled: share of the room that is used on average.
        phase: tokens of a prompt beyond which it costs steps of its own.
        load: share of the time that prompts and the steps of their own take.
        own_ms: mean time that a prompt's own computation takes beyond one step.
        other_ms: mean of the rest of a step, and of what other prompts add.
        other_variance: variance of that.
        sway: coefficient of variation of the steps by the numbers that decode.
        alone: share of prompts that meet no other.
        alive: share of the time in which the replica runs a step.
        backlog: prompt tokens that wait when a request has its first token.
        together: share of those that arrive behind a prompt, and have their first token with it.
        excess: how many more these are than when it has its last.

    """

    decode_ms: FloatArray
    room: FloatArray
    filled: FloatArray
    phase: FloatArray
    load: FloatArray
    own_ms: FloatArray
    other_ms: FloatArray
    other_variance: FloatArray
    sway: FloatArray
    alone: FloatArray
    alive: FloatArray
    backlog: FloatArray
    excess: FloatArray
    together: FloatArray

    @property
    def ttft_ms(self) -> FloatArray:
        """Mean time to first token of a request that finds a slot in the batch."""
        return self.decode_ms + self.own_ms + self.other_ms


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
        slot_waits: share of requests that wait for a slot in the batch.
        slot_waiting_ms: mean of their wait, over all requests.
        slot_begins_ms: time for which everybody waits who finds no slot.
        slot_rate: rate per millisecond; what they wait besides is exponential with this rate.
        load: rate over the largest rate of a full batch.
        prompts: queue of prompts.

    """

    stable: BoolArray
    rate: FloatArray
    prefill_share: FloatArray
    batch: FloatArray
    joined: FloatArray
    variance: FloatArray
    slot_waits: FloatArray
    slot_waiting_ms: FloatArray
    slot_begins_ms: FloatArray
    slot_rate: FloatArray
    load: FloatArray
    prompts: Prompts


def at_rate(engines: Engines, rate_rps: FloatArray) -> State:
    """State of M engines of one width, or of one, at rates of shape (M,), requests per second."""
    rate = rate_rps / 1000.0
    share = rate * engines.prefill_ms * engines.input_tokens
    stable = share < FULL
    free = np.where(stable, 1.0 - share, 1.0 - FULL)
    # The batch that the queue of prompts meets follows from a first guess, once: again moves it by 0.01 %.
    batch = np.minimum(rate * engines.decodes * engines.base_ms / free, engines.max_batch)
    cycle = _cycle(engines, rate, free, batch)
    chain = _running(engines, rate, free, cycle, batch)
    queue = prompts(engines, rate, free, chain["batch"], chain["variance"])
    # Nobody leaves while prompts are computed that came before; half of the time their own step follows.
    begins = 0.5 * np.maximum(queue.other_ms - 0.5 * queue.alive * queue.decode_ms, 0.0)
    return State(
        stable=stable & (chain["load"] < FULL) & (queue.load < FULL),
        rate=rate,
        prefill_share=1.0 - free,
        prompts=queue,
        slot_begins_ms=begins,
        slot_waiting_ms=chain["slot_waits"] * (begins + 1.0 / chain["slot_rate"]),
        **chain,
    )


class _Cycle(NamedTuple):
    """What the steps of a queue of prompts have in common with it, each of shape (M,); see `Prompts`.

    Attributes:
        own_ms: moments of the time that a prompt adds: this, `square`, and the third by `beyond` (`_cube`).
        below: the load, at most `FULL`.
        step: mean time of a step.
        second: variance of that.
        met: mean time of the step that a prompt meets.
        after: mean time of the prompts that arrive behind one and have their first token with it.

    """

    decode_ms: FloatArray
    room: FloatArray
    filled: FloatArray
    phase: FloatArray
    own_ms: FloatArray
    square: FloatArray
    beyond: tuple[FloatArray, ...]
    load: FloatArray
    below: FloatArray
    step: FloatArray
    second: FloatArray
    met: FloatArray
    together: FloatArray
    after: FloatArray
    excess: FloatArray


def _cycle(engines: Engines, rate: FloatArray, free: FloatArray, batch: FloatArray) -> _Cycle:
    """Steps while `batch` requests decode and the share `free` of the time is theirs."""
    room = np.maximum(engines.max_num_batched_tokens - batch, 1.0)
    decode = engines.decode_ms(batch)
    filled = np.minimum(rate * engines.input_tokens * decode / (free * room), 1.0)
    phase = PHASE * room * (1.0 - filled)
    own, square, beyond = _work(engines, decode / room, phase)
    load = rate * own
    below = np.minimum(load, FULL)
    # Cumulants of the time of a step: each computes what arrived during the one before.
    step = decode / (1.0 - below)
    second = rate * square * step / (1.0 - below * below)
    met = step + second / step
    together = 1.0 / (1.0 + JOINED * engines.square_input / (engines.input_tokens * room))
    after = 0.5 * below * (1.0 + together) * met
    return _Cycle(
        decode_ms=decode,
        room=room,
        filled=filled,
        phase=phase,
        own_ms=own,
        square=square,
        beyond=beyond,
        load=load,
        below=below,
        step=step,
        second=second,
        met=met,
        together=together,
        after=after,
        excess=rate * engines.input_tokens * np.maximum(decode + own + after - step, 0.0),
    )


def prompts(
    engines: Engines,
    rate: FloatArray,
    free: FloatArray,
    batch: FloatArray,
    variance: FloatArray,
) -> Prompts:
    """The queue of prompts while `batch` requests decode and the share `free` of the time is theirs.

    That is a mean number, which hardly moves while one prompt waits: steps, and all that takes a number of
    them, are longer where it is larger, so it has a variance.
    """
    cycle = _cycle(engines, rate, free, batch)
    decode, own, below, step = cycle.decode_ms, cycle.own_ms, cycle.below, cycle.step
    square, second, met = cycle.square, cycle.second, cycle.met
    together, after = cycle.together, cycle.after
    third = rate * _cube(engines, cycle) * step + 3.0 * below * rate * square * second
    third /= 1.0 - below * below * below
    met_square = third / step + 3.0 * second + step * step
    alive = -np.expm1(-batch)
    rest = 0.5 * (met - (1.0 - alive) * decode)
    share = (rest + after) / met
    spread = (
        share**2 * (met_square - met * met)
        + (1.0 - below * (1.0 - together)) ** 2 * met_square / 12.0
        + 0.5 * (1.0 + together) * rate * square * met
    )
    bend = 0.5 * engines.root_ms / np.sqrt(np.maximum(batch, 1.0))
    return Prompts(
        decode_ms=decode,
        room=cycle.room,
        filled=cycle.filled,
        phase=cycle.phase,
        load=cycle.load,
        own_ms=own,
        other_ms=rest + after,
        other_variance=spread,
        sway=(engines.slope_ms + bend) * np.sqrt(variance) / decode,
        alone=(1.0 - below) * np.exp(-rate * (step + decode)),
        alive=alive,
        backlog=rate * engines.input_tokens * (decode + own + after + (1.0 - together) * rest),
        together=together,
        excess=cycle.excess,
    )


def _work(
    engines: Engines, token_ms: FloatArray, phase: FloatArray
) -> tuple[FloatArray, FloatArray, tuple[FloatArray, ...]]:
    """First moments of the time that a prompt adds: prefill L + token_ms (L - phase)+, L log-normal."""
    first, spread = engines.input_tokens, engines.input_spread
    at = (np.log(first / np.maximum(phase, 1e-9)) - spread**2 / 2.0) / spread
    n0, n1, n2 = below_each(at, spread)
    less = phase * n0
    first_beyond = first * n1
    one = first_beyond - less
    less, more = phase * less, phase * first_beyond
    square_beyond = engines.square_input * n2
    two = square_beyond - 2.0 * more + less
    p, by_prompt = engines.prefill_ms, two + phase * one
    return (
        p * first + token_ms * one,
        p * p * engines.square_input + token_ms * (2.0 * p * by_prompt + token_ms * two),
        (at, token_ms, two, by_prompt, phase * (3.0 * (square_beyond - more) + less)),
    )


def _cube(engines: Engines, cycle: _Cycle) -> FloatArray:
    """Third moment of the time that a prompt adds, which the first of two cycles does without."""
    at, token_ms, two, by_prompt, lower = cycle.beyond
    three = engines.cube_input * below_thrice(at, engines.input_spread) - lower
    twice = three + cycle.phase * two
    # What lies beyond the phase, times the square of the prompt.
    p, by_square = engines.prefill_ms, twice + cycle.phase * by_prompt
    more = 3.0 * p * (p * by_square + token_ms * twice) + token_ms * token_ms * three
    return np.asarray(p * p * p * engines.cube_input + token_ms * more)


def below_each(at: FloatArray, spread: FloatArray) -> FloatArray:
    """Shares of a normal distribution below `at` and one and two times `spread` more; shape (3, M)."""
    return below(at + _MOMENTS * spread)


def below_thrice(at: FloatArray, spread: FloatArray) -> FloatArray:
    """Share of it below `at` and three times `spread` more; shape (M,)."""
    return below(at + 3.0 * spread)


class _Clusters(NamedTuple):
    """What arrives together on the clock of decoding, which stands while prompts are computed.

    Prompts bring each other along like customers of a busy period; each field is of shape (M,).

    Attributes:
        pairs: mean of C (C - 1) over that of C, C requests in a cluster.
        many: variance over mean of numbers in service.
        skew: third moment over variance of those, over that of a negative binomial distribution.

    """

    pairs: FloatArray
    many: FloatArray
    skew: FloatArray

    @classmethod
    def of(cls, engines: Engines, work: FloatArray) -> _Clusters:
        """By the work that prompts bring, in arrivals for each token."""
        once, twice = work * engines.input_tokens, work * work * engines.square_input
        pairs = 2.0 * once + twice
        threes = 3.0 * (twice + (once + twice) * pairs) + work * work * work * engines.cube_input
        some = engines.alike * pairs
        many = 1.0 + some
        third = 1.0 + 3.0 * some + engines.alike_three * threes
        return cls(pairs=pairs, many=many, skew=np.maximum(third / (many * (many + some)), 1.0))


def _held_ms(engines: Engines, free: FloatArray, cycle: _Cycle) -> tuple[FloatArray, FloatArray]:
    """Time for which a prompt holds its slot, and what those that it met add to the answer's steps."""
    steps = engines.decodes
    # No step is longer than a full one.
    common = steps * cycle.decode_ms * (1.0 / free - 1.0)
    whole = common + engines.prefill_ms * cycle.excess / free
    use = whole / (engines.prefill_ms * cycle.room * steps + 1e-9)
    more = np.maximum(whole / np.sqrt(1.0 + use * use) - common, 0.0)
    prompt = cycle.decode_ms + cycle.own_ms + 0.5 * cycle.together * cycle.below * cycle.met
    return prompt, more


def _running(
    engines: Engines, rate: FloatArray, free: FloatArray, cycle: _Cycle, least: FloatArray
) -> dict[str, FloatArray]:
    """Numbers in the batch, and the wait for a slot in it; `least` decode where steps are the shortest."""
    crowding = engines.crowding
    prompt, more = _held_ms(engines, free, cycle)
    clusters = _Clusters.of(engines, rate * engines.prefill_ms / free)
    paced = rate * engines.decodes / free
    # Who joins finds others by chance; the replica with the fewest is where the numbers hardly vary.
    own = 1.0 / engines.sharing
    alone = paced * (engines.base_ms + own * engines.slope_ms) + rate * (own * more + prompt)
    slowed, bend = paced * engines.slope_ms, paced * engines.root_ms
    # The square root is straight enough about its mean.
    unloaded = np.maximum(1.0 - slowed, LEAST_LEFT)
    middle = (bend + np.sqrt(bend * bend + 4.0 * unloaded * alone)) / (2.0 * unloaded)
    alone = alone + 0.5 * bend * middle
    slowed = slowed + 0.5 * bend / middle
    unloaded = np.maximum(1.0 - slowed, LEAST_LEFT)
    mean = alone / unloaded
    # By Little's law no fewer decode, whatever holds slots: with fewer, it would seem to keep up again.
    fewest = np.minimum(np.maximum(least, paced * engines.base_ms / unloaded), engines.max_batch)
    delayed = engines.alike * rate * engines.prefill_ms * engines.input_tokens / free
    wider = engines.alike * clusters.pairs + delayed * engines.long_prompts
    wider = 1.0 + (wider + engines.own_square * unloaded / mean) / crowding
    # Units of `large` requests beside a fixed number of them have the mean, variance and third moment.
    large = engines.large * clusters.skew
    fixed = mean * (1.0 - crowding / large)
    load = rate / engines.just_full_rate
    most = np.minimum(load, FULL)
    ends = engines.just_full_rate * (1.0 - most) * engines.clumped * engines.visits
    several = np.minimum(engines.several * (1.0 / np.maximum(most, 1e-9) - 1.0), engines.first_of)
    uneven = engines.uneven + (1.0 - engines.uneven) * several
    slope = 1.0 - (1.0 - slowed) / wider
    chain = occupancy(
        np.maximum(alone * crowding / (large * large * wider), 1e-9 * slope) - slope,
        slope,
        np.maximum((engines.room - fixed) / large, 1.0),
        load,
        (1.0 + 0.5 * (1.0 + crowding) * most / (1.0 - most)) / large,
    )
    # A slot is held while the prompt is computed, too.
    batch = np.maximum(chain.mean * large + fixed - rate * prompt, fewest)
    return {
        "batch": batch,
        "joined": np.minimum(batch + own * (1.0 - chain.waits), np.maximum(engines.room, 1.0)),
        "variance": chain.variance * large * large * clusters.many / (crowding * wider),
        "slot_waits": chain.waits * engines.clumped,
        "slot_rate": ends / uneven,
        "load": rate / engines.full_rate,
    }
