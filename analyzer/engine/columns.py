"""Replicas described by the step times of their engines, as columns of one batch; checked when made.

What follows from step times, limits and lengths alone, before any rate, is computed here once:

    context   = cached + in + out (1 + cv_out**2) / 2      of a running request (long answers run longer)
    slope     = per_request + per_context * context        that a request in the batch adds to a step
    prefill   = per_prefill_token + what the steps of a prompt read of its own context and add per request
                + per_prompt / in
    kv batch  = (kv_tokens - half of the next prompt) / (context + half a block)

Units: milliseconds, tokens, requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analyzer.engine.crowding import (
    BLOCK_TOKENS,
    CLUMPED,
    LARGEST,
    Crowding,
    Moments,
    crowding,
    fuller,
    kv_tail,
    preempted_soon,
    several_servers,
    uneven_departures,
    visits,
)
from analyzer.engine.nodes import answers, bins_of, columns_of_shares
from analyzer.errors import InvalidParameterError
from analyzer.replicas import BoolArray, FloatArray, same_length
from analyzer.step_times import EngineLimits, Lengths, StepTimes

GENERATED = 0.2
"""CALIBRATED: part of its answer that a request has generated when it is preempted; on saturated random
replicas 0.15 to 0.3, whatever the lengths and the batch."""

LONG_PROMPTS = 2.85
"""CALIBRATED: exponent of 1 + cv**2 in the third moment of a prompt: 3 for a log-normal distribution, less
where a longest prompt cuts it."""

MAX_SEQS_LIMIT = 2**16
LARGEST_CV = 100.0
SMALLEST_BASE_MS = 1e-6
SMALLEST_PREFILL_MS = 1e-9
"""Stands for 0 where steps have a base time alone: rates by the time of prompts need more than 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One replica: step times, limits and lengths together."""

    step_times: StepTimes
    limits: EngineLimits
    lengths: Lengths


COLUMNS = (
    "base_ms",
    "per_request_ms",
    "per_prefill_token_ms",
    "per_context_token_ms",
    "per_sqrt_request_ms",
    "per_prompt_ms",
    "max_num_seqs",
    "max_num_batched_tokens",
    "kv_tokens",
    "input_tokens",
    "output_tokens",
    "input_cv",
    "output_cv",
    "cached_tokens",
)

_BOUNDS = {
    "base_ms": (SMALLEST_BASE_MS, LARGEST),
    "max_num_seqs": (1.0, MAX_SEQS_LIMIT),
    "max_num_batched_tokens": (1.0, LARGEST),
    "kv_tokens": (0.0, np.inf),
    "output_tokens": (1.0, LARGEST),
    "input_cv": (0.0, LARGEST_CV),
    "output_cv": (0.0, LARGEST_CV),
}

_LEAST = np.array([_BOUNDS.get(name, (0.0, LARGEST))[0] for name in COLUMNS])[:, None]
_MOST = np.array([_BOUNDS.get(name, (0.0, LARGEST))[1] for name in COLUMNS])[:, None]
"""Columns that lie between these, as nearly all do, need no closer look at their own range."""

_RANGES = tuple((name, _BOUNDS.get(name, (0.0, LARGEST))) for name in COLUMNS)


class Engines:
    """M replicas, each parameter of shape (M,) or a number for all; see `step_times` for meanings and units.

    Attributes:
        context: shape (M,), tokens that a running request holds on average.
        slope_ms: shape (M,), time that each running request adds to a step.
        long_context_ms: shape (M,), what of a prompt's tokens times its slope its own variance makes.
        root_ms: shape (M,), time per square root of the running requests.
        prefill_ms: shape (M,), time that each prompt token adds, what its steps read included.
        kv_batch, kv_binds: shape (M,), requests that the KV cache holds (infinite: unknown); if they bind.
        max_batch: shape (M,), the smaller of max_num_seqs and kv_batch, a whole number >= 1.
        room, crowding, large, own_square, long_prompts, alike, alike_three, kv_tail, visits: each of
            shape (M,), see `crowding.py`.
        uneven: shape (M,), what waits for a slot are multiplied by near full load.
        several, first_of: shape (M,), see `crowding.several_servers`; 0 where max_num_seqs bounds the batch.
        clumped: shape (M,), share that waits of the arrivals that find the chain full.
        preempted: shape (M,), preemptions of a request where others wait.
        regained: shape (M,), completions until the room of a whole request is free.
        decode_nodes, long, short: `nodes`, `rest` and `short` of `nodes.Answers`.
        full_rate: shape (M,), requests per millisecond that a full batch finishes, recomputed ones included.
        just_full_rate: shape (M,), the same while a wait lasts; of many requests few are recomputed in it.
        sharing: shape (M,), replicas that a load-aware gateway spreads the arrivals over, 1 where none does.

    Raises:
        InvalidParameterError: names the parameter, the row, and the fix.

    """

    def __init__(
        self,
        *,
        base_ms: ArrayLike,
        per_request_ms: ArrayLike,
        per_prefill_token_ms: ArrayLike,
        per_context_token_ms: ArrayLike,
        max_num_seqs: ArrayLike,
        max_num_batched_tokens: ArrayLike,
        input_tokens: ArrayLike,
        output_tokens: ArrayLike,
        kv_tokens: ArrayLike = np.inf,
        input_cv: ArrayLike = 0.0,
        output_cv: ArrayLike = 0.0,
        cached_tokens: ArrayLike = 0.0,
        per_sqrt_request_ms: ArrayLike = 0.0,
        per_prompt_ms: ArrayLike = 0.0,
        short_answers: ArrayLike | None = None,
    ) -> None:
        given = dict(
            zip(
                COLUMNS,
                (
                    base_ms,
                    per_request_ms,
                    per_prefill_token_ms,
                    per_context_token_ms,
                    per_sqrt_request_ms,
                    per_prompt_ms,
                    max_num_seqs,
                    max_num_batched_tokens,
                    kv_tokens,
                    input_tokens,
                    output_tokens,
                    input_cv,
                    output_cv,
                    cached_tokens,
                ),
                strict=True,
            )
        )
        columns = same_length({name: _column(name, value) for name, value in given.items()})
        for error in problems(columns).values():
            raise error
        self._fill(columns, bins_of(short_answers, columns["base_ms"].size))

    @classmethod
    def of(cls, engines: Sequence[Engine]) -> Engines:
        """A batch of single ones."""
        steps = [engine.step_times for engine in engines]
        limits = [engine.limits for engine in engines]
        lengths = [engine.lengths for engine in engines]
        short = [length.short_answers for length in lengths]
        return cls(
            base_ms=[step.base_ms for step in steps],
            per_request_ms=[step.per_request_ms for step in steps],
            per_prefill_token_ms=[step.per_prefill_token_ms for step in steps],
            per_context_token_ms=[step.per_context_token_ms for step in steps],
            per_sqrt_request_ms=[step.per_sqrt_request_ms for step in steps],
            per_prompt_ms=[step.per_prompt_ms for step in steps],
            max_num_seqs=[limit.max_num_seqs for limit in limits],
            max_num_batched_tokens=[limit.max_num_batched_tokens for limit in limits],
            kv_tokens=[np.inf if limit.kv_tokens is None else limit.kv_tokens for limit in limits],
            input_tokens=[length.input_tokens for length in lengths],
            output_tokens=[length.output_tokens for length in lengths],
            input_cv=[length.input_cv for length in lengths],
            output_cv=[length.output_cv for length in lengths],
            cached_tokens=[length.cached_tokens for length in lengths],
            short_answers=columns_of_shares(short),
        )

    def _fill(self, columns: Mapping[str, FloatArray], bins: FloatArray) -> None:
        self.base_ms = columns["base_ms"]
        self.root_ms = columns["per_sqrt_request_ms"]
        self.per_prefill_token_ms = columns["per_prefill_token_ms"]
        self.max_num_seqs = columns["max_num_seqs"]
        self.max_num_batched_tokens = columns["max_num_batched_tokens"]
        self.input_tokens = prompt = np.maximum(columns["input_tokens"], 1.0)
        self.output_tokens = output = columns["output_tokens"]
        self.input_cv, self.output_cv = columns["input_cv"], columns["output_cv"]
        self.sharing = np.ones_like(prompt)
        self.kv_tokens = columns["kv_tokens"]
        per_request, per_context = columns["per_request_ms"], columns["per_context_token_ms"]
        cached = columns["cached_tokens"]
        self.context = cached + prompt + output * (1.0 + self.output_cv**2) / 2.0
        self.slope_ms = per_request + per_context * self.context
        self.square_input = prompt**2 * (1.0 + self.input_cv**2)
        self.long_context_ms = per_context * prompt**2 * self.input_cv**2
        self.cube_input = prompt**3 * (1.0 + self.input_cv**2) ** LONG_PROMPTS
        self.input_spread = np.maximum(np.sqrt(np.log1p(self.input_cv**2)), 0.01)
        self.decodes = np.maximum(output - 1.0, 1e-3)
        self.decode_nodes, self.long, self.short = answers(output, self.output_cv, bins)
        # Where others wait, what is free lies anywhere between nothing and the prompt of the next one.
        held = cached + prompt
        rest = np.minimum(held + (self.input_cv * prompt) ** 2 / held, self.kv_tokens) / 2.0
        self.kv_batch = (self.kv_tokens - rest) / (self.context + BLOCK_TOKENS / 2.0)
        self.kv_binds: BoolArray = self.kv_batch < self.max_num_seqs
        self.max_batch = np.maximum(np.floor(np.minimum(self.max_num_seqs, self.kv_batch)), 1.0)
        filled = self._crowd(cached, per_context)
        # Decode steps over which the numbers of other requests stay alike.
        self.lasting = np.maximum(output * (0.75 + 0.25 * self.output_cv**2), 1e-3)
        # A prompt of L tokens takes 1 + L / budget steps, each of which reads what it computed before.
        chunk = np.maximum(self.max_num_batched_tokens - self.max_batch / 2.0, 1.0)
        self.prefill_ms = np.maximum(
            self.per_prefill_token_ms
            + per_context * (1.0 + self.square_input / (prompt * chunk)) / 2.0
            + (per_request / 2.0 + per_context * cached) * (1.0 / prompt + 1.0 / chunk)
            + columns["per_prompt_ms"] / prompt,
            SMALLEST_PREFILL_MS,
        )
        # A slot is held for the steps of the prompt, too.
        self.slot_steps = self.decodes + 1.0 + np.maximum(prompt / chunk - 0.5, 0.0)
        binds, most = fuller(
            self.kv_batch, self.max_num_seqs, self.context, filled.context_variance
        )
        self.preempted = binds * preemptions(held / output, most / output)
        self.regained = 1.0 + output / held
        # A preemption computes the prompt again, and what was generated.
        again = 1.0 + GENERATED * output / prompt
        once, decoding = self.prefill_ms * prompt, self.slot_steps * self.decode_ms(most)
        prefill = once * (1.0 + self.preempted * again)
        self.full_rate = most / (decoding + prefill * most)
        soon = preempted_soon(self.preempted, self.room)
        self.just_full_rate = most / (decoding + once * (1.0 + soon * again) * most)
        leaving = uneven_departures(self.full_rate * prefill, self.input_cv, self.output_cv)
        self.uneven = np.where(filled.crowds, filled.uneven, leaving)
        rises, first_of = several_servers(self.room)
        self.several = np.where(filled.crowds, rises, 0.0)
        self.first_of = np.where(filled.crowds, first_of, 0.0)
        self.clumped = np.where(filled.crowds, CLUMPED, 1.0)
        self.visits = np.where(filled.crowds, visits(soon, self.output_cv), 1.0)

    def _crowd(self, cached: FloatArray, per_context: FloatArray) -> Crowding:
        """What bounds the batch, and how requests fill it."""
        prompt = self.input_tokens
        filled = crowding(
            Moments(
                held=cached + prompt,
                input_tokens=prompt,
                input_cv=self.input_cv,
                cube_held=self.cube_input
                + cached * (3.0 * self.square_input + cached * (3.0 * prompt + cached)),
                output_tokens=self.output_tokens,
                output_cv=self.output_cv,
                context=self.context,
            ),
            self.kv_tokens,
            self.max_num_seqs,
        )
        self.kv_tail = kv_tail(np.maximum(self.kv_batch, 0.0), self.max_num_seqs)
        self.crowding, self.large, self.room = filled.crowding, filled.large, filled.room
        self.own_square, self.long_prompts = filled.own_square, filled.long_prompts
        self.alike, self.alike_three = filled.alike, filled.alike_three
        self.slope_square = self.slope_ms**2 + per_context**2 * filled.context_variance
        return filled

    def __len__(self) -> int:
        """M."""
        return self.base_ms.size

    def decode_ms(self, batch: FloatArray) -> FloatArray:
        """Time of a step that decodes for that many requests and computes no prompt, shape (M,)."""
        return self.base_ms + self.slope_ms * batch + self.root_ms * np.sqrt(batch)

    def take(
        self, rows: NDArray[np.intp] | BoolArray, sharing: FloatArray | None = None
    ) -> Engines:
        """The replicas of those rows; among `sharing` each, shape (M,), where that is given."""
        part = Engines.__new__(Engines)
        places = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        for name, values in vars(self).items():
            setattr(part, name, values.take(places, axis=-1))
        part.sharing = part.sharing if sharing is None else sharing
        return part


def preemptions(prompts: FloatArray, growth: FloatArray) -> FloatArray:
    """Preemptions of a request where the KV cache is full, shape (M,).

    By its prompt over its answer, and by what one step generates over an answer, > 0. From one completion to
    the next the others generate an answer's tokens, exponential about their mean. What is free for them is
    uniform up to a prompt, and then each preemption frees a prompt and `GENERATED`:

        E[ceil((X - U)+ / h)] = E[exp(-U)] / (1 - exp(-h)),   h = prompts + GENERATED, all in answers

    Requests end with steps. A step of g answers has a completion with the chance 1 - exp(-g), so
    g / (1 - exp(-g)) of them end together, and X is a whole number of steps: its chance of exceeding x is
    exp(-x) (1 - exp(-g)) / g on average. Where several end with each step, hardly any is preempted.
    """
    steps = -np.expm1(-growth) / growth
    often = -np.expm1(-prompts) / (prompts * -np.expm1(-prompts - GENERATED))
    return np.asarray(often * steps * steps)


def _column(name: str, value: ArrayLike) -> FloatArray:
    try:
        column = np.array(value, dtype=np.float64, ndmin=1)
    except (TypeError, ValueError) as error:
        raise InvalidParameterError(name, f"must be numbers, not {value!r}") from error
    if column.ndim != 1:
        raise InvalidParameterError(name, f"has shape {column.shape}, must have one dimension")
    return column


def within_bounds(values: Sequence[float]) -> dict[str, float] | None:
    """Parameters of one engine by name, in the order of `COLUMNS`; None where `problems` may have some."""
    try:
        given = dict(zip(COLUMNS, map(float, values), strict=True))
    except (TypeError, ValueError, OverflowError):
        return None
    if not all(least <= given[name] <= most for name, (least, most) in _RANGES) or given[
        "max_num_seqs"
    ] != np.floor(given["max_num_seqs"]):
        return None
    request = given["input_tokens"] + given["cached_tokens"] + given["output_tokens"]
    good = given["max_num_batched_tokens"] > given["max_num_seqs"] and given["kv_tokens"] >= request
    return given if good else None


def problems(columns: Mapping[str, FloatArray]) -> dict[int, InvalidParameterError]:
    """First problem of each row that has one, in the order of the rows.

    Args:
        columns: arrays of one length under the names of `COLUMNS`.

    """
    problem_of: dict[int, InvalidParameterError] = {}

    def note(name: str, bad: BoolArray, problem: str) -> None:
        for row in np.flatnonzero(bad):
            text = problem.format(columns[name][row])
            problem_of.setdefault(int(row), InvalidParameterError(name, text, index=int(row)))

    table = np.array([columns[name] for name in COLUMNS])
    within = np.atleast_1d(((table >= _LEAST) & (table <= _MOST)).all(axis=1))
    for name in (one for one, good in zip(COLUMNS, within, strict=True) if not good):
        values = columns[name]
        most = LARGEST_CV if name.endswith("_cv") else LARGEST
        finite = np.isfinite(values)
        if name not in {"kv_tokens", "max_num_seqs"}:
            note(name, finite & (values > most), f"must be at most {most:g}, not {{:g}}")
        if name in {"base_ms", "max_num_seqs", "max_num_batched_tokens"}:
            note(name, ~(finite & (values > 0)), "must be a number > 0, not {:g}")
        elif name == "output_tokens":
            note(name, ~(finite & (values >= 1)), "must be a number >= 1, not {:g}")
        elif name != "kv_tokens":
            note(name, ~(finite & (values >= 0)), "must be a number >= 0, not {:g}")
    note(
        "base_ms",
        columns["base_ms"] < SMALLEST_BASE_MS,
        f"must be at least {SMALLEST_BASE_MS:g}, not {{:g}}: a step takes time",
    )
    seqs, budget = columns["max_num_seqs"], columns["max_num_batched_tokens"]
    note(
        "max_num_seqs",
        (seqs < 1) | (seqs > MAX_SEQS_LIMIT) | (seqs != np.floor(seqs)),
        f"must be a whole number from 1 to {MAX_SEQS_LIMIT}, not {{:g}}",
    )
    note(
        "max_num_batched_tokens",
        budget <= seqs,
        "must exceed max_num_seqs, not {:g}: every running request takes one token of each step",
    )
    kv_tokens = columns["kv_tokens"]
    request = columns["input_tokens"] + columns["cached_tokens"] + columns["output_tokens"]
    note("kv_tokens", ~(kv_tokens > 0), "must be a number > 0, not {:g}")
    note(
        "kv_tokens",
        kv_tokens < request,
        "{:g} tokens do not hold one request of the given lengths: give the engine's real KV cache"
        " (num_gpu_blocks * block_size), or shorter input_tokens and output_tokens",
    )
    return dict(sorted(problem_of.items()))
