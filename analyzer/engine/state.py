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
Maxwell and Miller, Theory of Scheduling, 8-4). The batch is the chain of `occupancy.py` with T(n) = m base +
prefill excess + (m slope + prefill in) n, m the steps for which a request holds its slot.
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

_MOMENTS = np.arange(4.0)[:, None]


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
        slot_begins_ms: who waits for a slot does so this long,
        slot_rate: and then for an exponential time, with this rate per millisecond.
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
    chain = _running(engines, rate, free, cycle)
    queue = prompts(engines, rate, free, chain["batch"])
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
        own_ms: first three moments of the time that a prompt adds are this, `square` and `cube`.
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
    cube: FloatArray
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
    own, square, cube = _work(engines, decode / room, phase)
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
        cube=cube,
        load=load,
        below=below,
        step=step,
        second=second,
        met=met,
        together=together,
        after=after,
        excess=rate * engines.input_tokens * np.maximum(decode + own + after - step, 0.0),
    )


def prompts(engines: Engines, rate: FloatArray, free: FloatArray, batch: FloatArray) -> Prompts:
    """The queue of prompts while `batch` requests decode and the share `free` of the time is theirs."""
    cycle = _cycle(engines, rate, free, batch)
    decode, own, below, step = cycle.decode_ms, cycle.own_ms, cycle.below, cycle.step
    square, second, met = cycle.square, cycle.second, cycle.met
    together, after = cycle.together, cycle.after
    third = rate * cycle.cube * step + 3.0 * below * rate * square * second
    third /= 1.0 - below * below * below
    met_square = third / step + 3.0 * second + step * step
    alive = -np.expm1(-batch)
    rest = 0.5 * (met - (1.0 - alive) * decode)
    share = (rest + after) / met
    variance = (
        share**2 * (met_square - met * met)
        + (1.0 - below * (1.0 - together)) ** 2 * met_square / 12.0
        + 0.5 * (1.0 + together) * rate * square * met
    )
    return Prompts(
        decode_ms=decode,
        room=cycle.room,
        filled=cycle.filled,
        phase=cycle.phase,
        load=cycle.load,
        own_ms=own,
        other_ms=rest + after,
        other_variance=variance,
        alone=(1.0 - below) * np.exp(-rate * (step + decode)),
        alive=alive,
        backlog=rate * engines.input_tokens * (decode + own + after + (1.0 - together) * rest),
        together=together,
        excess=cycle.excess,
    )


def _work(
    engines: Engines, token_ms: FloatArray, phase: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """First three moments of the time that a prompt adds: prefill L + token_ms (L - phase)+, L log-normal."""
    first, square, cube = engines.input_tokens, engines.square_input, engines.cube_input
    spread = engines.input_spread
    at = (np.log(first / np.maximum(phase, 1e-9)) - spread**2 / 2.0) / spread
    n0, n1, n2, n3 = below_each(at, spread)
    less = phase * n0
    first_beyond = first * n1
    one = first_beyond - less
    less, more = phase * less, phase * first_beyond
    square_beyond = square * n2
    two = square_beyond - 2.0 * more + less
    three = cube * n3 - phase * (3.0 * (square_beyond - more) + less)
    # What lies beyond the phase, times the prompt and times its square.
    p, by_prompt = engines.prefill_ms, two + phase * one
    twice = three + phase * two
    by_square = twice + phase * by_prompt
    return (
        p * first + token_ms * one,
        p * p * square + token_ms * (2.0 * p * by_prompt + token_ms * two),
        p * p * p * cube
        + token_ms * (3.0 * p * (p * by_square + token_ms * twice) + token_ms * token_ms * three),
    )


def below_each(at: FloatArray, spread: FloatArray) -> FloatArray:
    """Shares of a normal distribution below `at` and one, two and three times `spread` more; shape (4, M)."""
    return below(at + _MOMENTS * spread)


def _running(
    engines: Engines, rate: FloatArray, free: FloatArray, cycle: _Cycle
) -> dict[str, FloatArray]:
    """Numbers in the batch, and the wait for a slot in it."""
    crowding, steps = engines.crowding, engines.decodes
    # What prompts add to an answer's steps, none of which is longer than a full one.
    common = steps * cycle.decode_ms * (1.0 / free - 1.0)
    whole = common + engines.prefill_ms * cycle.excess / free
    use = whole / (engines.prefill_ms * cycle.room * steps)
    more = np.maximum(whole / np.sqrt(1.0 + use * use) - common, 0.0)
    prompt = cycle.decode_ms + cycle.own_ms + 0.5 * cycle.together * cycle.below * cycle.met
    # While a batch decodes for a millisecond, prompts bring each other along: clusters of arrivals.
    work = rate * engines.prefill_ms / free
    once, twice = work * engines.input_tokens, work * work * engines.square_input
    pairs = 2.0 * once + twice
    threes = 3.0 * (twice + once * pairs + twice * pairs) + work**3 * engines.cube_input
    many = 1.0 + engines.alike * pairs
    skew = 1.0 + 3.0 * engines.alike * pairs + engines.alike_three * threes
    large = engines.large * np.maximum(skew / (many * (2.0 * many - 1.0)), 1.0)
    slowed = rate * steps * engines.slope_ms / free
    alone = rate * (steps * (engines.base_ms + engines.slope_ms) / free + more + prompt)
    mean = alone / np.maximum(1.0 - slowed, 0.05)
    wider = engines.alike * (pairs + once * engines.long_prompts)
    wider = 1.0 + (wider + engines.own_square * (1.0 - slowed) / mean) / crowding
    units = crowding / (large * large)
    fixed = mean * (1.0 - crowding / large)
    slots = np.maximum((engines.room - fixed) / large, 1.0)
    top = engines.full_rate
    load = rate / top
    held = np.minimum(load, FULL)
    slope = 1.0 - (1.0 - slowed) / wider
    chain = occupancy(
        units * alone / wider - slope,
        slope,
        np.sqrt(units) * rate * steps * engines.root_ms / (free * wider),
        slots,
        load,
        (1.0 + 0.5 * (1.0 + crowding) * held / (1.0 - held)) / large,
    )
    # A slot is held while the prompt is computed, too.
    batch = np.maximum(chain.mean * large + fixed - rate * prompt, 0.0)
    slot_rate = top * (1.0 - np.minimum(load, FULL)) / engines.uneven
    return {
        "batch": batch,
        "joined": np.minimum(batch + 1.0 - chain.waits, np.maximum(engines.room, 1.0)),
        "variance": chain.variance * large * large / crowding,
        "slot_waits": chain.waits,
        "slot_rate": slot_rate,
        "load": load,
    }
