"""The candidates of a fleet: for every variant and accelerator, what it takes to meet the targets.

All options of one model of a replica are sized in one call as arrays: by the step times of their engine where
the profile has them or can be converted to them, else by decode and prefill times over the batch. An option
that cannot be sized is `Unusable`, with its reason, and never stops the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from adapter.planning import fleet as fleets
from adapter.planning import linear_model, step_model
from adapter.planning.options import (
    BINDINGS,
    AcceleratorOption,
    IntArray,
    Model,
    Options,
    Requirements,
    Sized,
    SteadyState,
    Unusable,
    options_of,
    requirements,
)
from adapter.planning.queued import for_arrivals, not_drained, replicas_at_once, within_queues
from analyzer import capacity
from analyzer.errors import InvalidParameterError
from analyzer.step_times import StepTimes
from optimizer import problem

_ModelOf = Callable[
    [Options],
    tuple[Model | None, list[int], Mapping[int, InvalidParameterError]],
]

_UNBOUNDED = np.iinfo(np.int64).max
_BOUNDS = np.array([*BINDINGS, "minimum", "maximum"], dtype=object)
_MINIMUM, _MAXIMUM = len(BINDINGS), len(BINDINGS) + 1


_Outcome = problem.Candidate | Unusable


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """Candidates of one variant, and why other accelerators give none.

    Attributes:
        candidates: one per usable accelerator, in the order of the profiles; their latencies are not
            predicted yet.
        rows: row of each candidate in `Candidates.steady`.
        unusable: accelerators that give no candidate, with their reasons.

    """

    candidates: list[problem.Candidate] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    unusable: list[Unusable] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Part:
    """Sized options of one model: it knows them as 0 to M - 1, the fleet under `rows`.

    Attributes:
        needed: shape (M,), replicas that the load needs; 0 without load.
        counts: shape (M,), the same within the bounds of the variant.
        for_arrivals: shape (M,), those that the arrivals take by themselves where a queue asks for some.

    """

    model: Model
    options: Options
    rows: IntArray
    sized: Sized
    needed: IntArray
    counts: IntArray
    for_arrivals: IntArray

    def candidates(self) -> list[problem.Candidate]:
        """One candidate per option, without its reason; those of refused options mean nothing."""
        counts = self.counts.tolist()
        least = np.maximum(self.needed, self.options.of_variants(attrgetter("min_replicas")))
        bound = np.where(self.needed < least, _MINIMUM, self.sized.binding)
        bound = np.where(self.counts < least, _MAXIMUM, bound)
        kinds = [
            (
                of.unit_cost * profile.accelerator_count,
                profile.accelerator if count else "",
                variant.narrowed.get(of.device_type, of.device_type) if count else "",
                profile.accelerator_count * of.multiplicity if count else 0,
            )
            for (variant, profile, of, _, _), count in zip(self.options.each, counts, strict=True)
        ]
        prices, names, device_types, devices = zip(*kinds, strict=True)
        return problem.candidates_of(
            names,
            counts,
            self.sized.max_batch.tolist(),
            (np.array(prices) * self.counts).tolist(),
            repeat(0.0),
            repeat(0.0),
            np.where(self._reached(), self.sized.goodput_rps * 60.0, 0.0).tolist(),
            repeat(""),
            device_types,
            devices,
            _BOUNDS[bound].tolist(),
            self.for_arrivals.tolist(),
        )

    def reason(self, at: int) -> str:
        """What bounds the replicas of one option, as a clause."""
        option, needed, count = self.options[at], int(self.needed[at]), int(self.counts[at])
        unmet = self.sized.unreachable.get(at)
        if unmet is None:
            binding = BINDINGS[self.sized.binding[at]]
            reason = self.model.reason(at, binding, float(self.sized.goodput_rps[at]) * 60.0)
            if needed > 1 and option.variant.routing == "least-loaded":
                reason += self.model.reason_together(at)
        else:
            reason = f"no load; under load {unmet}"
        least = option.variant.min_replicas
        if needed < least:
            reason = f"minimum of {least} replicas"
        if count < max(needed, least):
            reason = (
                f"{max(needed, least)} replicas needed, but the maximum is"
                f" {option.variant.max_replicas}; {reason}"
            )
        return reason

    def _reached(self) -> NDArray[np.bool_]:
        reached = np.ones(len(self.options), dtype=np.bool_)
        reached[list(self.sized.unreachable)] = False
        return reached


class Candidates:
    """Candidates of every variant of a fleet.

    Attributes:
        by_variant: candidates and unusable accelerators by variant name.

    """

    def __init__(self, fleet: fleets.Fleet) -> None:
        self.by_variant: dict[str, Choices] = {
            variant.name: Choices() for variant in fleet.variants
        }
        self._options = options_of(
            fleet, {name: choice.unusable for name, choice in self.by_variant.items()}
        )
        self._parts: list[_Part] = []
        self._part_of = np.zeros(len(self._options), dtype=np.intp)
        self._place_of = np.zeros(len(self._options), dtype=np.intp)
        if not len(self._options):
            return
        self._asked: Requirements = requirements(self._options, fleet.settings)
        outcomes: list[_Outcome | None] = [None] * len(self._options)
        steps = np.array(
            [
                isinstance(profile.latency, StepTimes) or step_model.step_times(profile) is not None
                for _, profile, *_ in self._options.each
            ]
        )
        plain = np.ones(len(self._options), dtype=np.bool_)
        for model_of, rows in (
            (linear_model.model, np.flatnonzero(~steps)),
            (step_model.model, np.flatnonzero(steps)),
        ):
            if rows.size:
                self._add(rows, model_of, outcomes, plain)
        self._choose(outcomes, plain)

    def _choose(self, outcomes: Sequence[_Outcome | None], plain: NDArray[np.bool_]) -> None:
        """Hand out the outcomes; all of the options of a variant are candidates where all are `plain`."""
        starts = self._options.starts
        ends = [*starts[1:].tolist(), len(outcomes)]
        alike = np.logical_and.reduceat(plain, starts).tolist()
        for start, end, every in zip(starts.tolist(), ends, alike, strict=True):
            choice = self.by_variant[self._options[start].variant.name]
            if every and not choice.candidates:
                choice.candidates.extend(
                    item for item in outcomes[start:end] if isinstance(item, problem.Candidate)
                )
                choice.rows.extend(range(start, end))
                continue
            for row in range(start, end):
                outcome = outcomes[row]
                assert outcome is not None  # noqa: S101 - every option is of one of the models
                if isinstance(outcome, Unusable):
                    choice.unusable.append(outcome)
                # Nothing on one accelerator is nothing on any.
                elif outcome.replicas or all(other.replicas for other in choice.candidates):
                    choice.candidates.append(outcome)
                    choice.rows.append(row)

    def option(self, row: int) -> AcceleratorOption:
        """Variant and profile of one candidate."""
        return self._options[row]

    def demand(self, row: int) -> float:
        """Requests per second that one candidate is sized for; a tokens-per-second target is a floor."""
        return float(self._asked.rate_rps[row])

    def worth(self, row: int) -> float:
        """Requests per second that one replica of a candidate carries, beside those that the rate needs.

        That is its goodput, more where replicas share their queue, and less where bursts or a queue ask for
        more replicas.
        """
        part, at = self._place(row)
        rate, goodput = self.demand(row), float(part.sized.goodput_rps[at])
        if at in part.sized.unreachable or not goodput > 0:
            return 0.0
        needed = int(part.needed[at])
        alone = int(capacity.replicas_needed(np.array([rate]), np.array([goodput]))[0])
        if rate <= 0 or needed == alone:
            return goodput
        if needed > alone:
            return rate / needed
        asked = self._asked.select(np.array([row], dtype=np.intp))
        return max(part.model.together(np.array([at]), asked, np.array([needed])), rate / needed)

    def steady(
        self,
        rows: Sequence[int],
        replicas: Sequence[int],
        rates_rps: Mapping[int, float] | None = None,
    ) -> SteadyState:
        """What that many replicas (0 counts as 1) of some candidates do, each of shape (M,).

        `rates_rps` are rates of rows that do not carry all that they were sized for.
        """
        indices = np.array(rows, dtype=np.intp)
        each = np.maximum(np.array(replicas, dtype=np.int64), 1)
        steady = SteadyState(
            ttft_ms=np.zeros(indices.size),
            itl_ms=np.zeros(indices.size),
            blocking=np.zeros(indices.size),
        )
        for part in self._parts:
            at = np.searchsorted(part.rows, indices)
            here = np.flatnonzero(part.rows[np.minimum(at, part.rows.size - 1)] == indices)
            if not here.size:
                continue
            asked = self._asked.select(indices[here])
            if rates_rps:
                rates = [
                    rates_rps.get(row, rate)
                    for row, rate in zip(
                        indices[here].tolist(), asked.rate_rps.tolist(), strict=True
                    )
                ]
                asked = replace(asked, rate_rps=np.array(rates))
            some = part.model.steady(at[here], asked, each[here])
            steady.ttft_ms[here] = some.ttft_ms
            steady.itl_ms[here] = some.itl_ms
            steady.blocking[here] = some.blocking
        return steady

    def notes(self, row: int) -> tuple[str, ...]:
        """What to know about the profile of one candidate."""
        option = self._options[row]
        note = step_model.lengths_note(option.variant, option.profile)
        return (note,) if note else ()

    def reason(self, row: int) -> str:
        """What bounds the replicas of one candidate, as a clause."""
        part, at = self._place(row)
        return part.reason(at)

    def _place(self, row: int) -> tuple[_Part, int]:
        return self._parts[self._part_of[row]], int(self._place_of[row])

    def _add(
        self,
        rows: IntArray,
        model_of: _ModelOf,
        outcomes: list[_Outcome | None],
        plain: NDArray[np.bool_],
    ) -> None:
        """Size the options of one model, and put down the outcome of each of their rows.

        Those that are no candidate, or one without replicas, are not `plain`.
        """
        options = self._options.take(rows)
        model, valid, errors = model_of(options)
        for index, error in errors.items():
            outcomes[int(rows[index])] = Unusable(
                f"{error.parameter}: {error.problem}", options[index].profile.accelerator
            )
            plain[rows[index]] = False
        if model is None:
            return
        rows, options = rows[valid], options.take(np.array(valid, dtype=np.intp))
        asked = self._asked.select(rows)
        part = _part(model, options, rows, asked)
        self._part_of[rows], self._place_of[rows] = len(self._parts), np.arange(rows.size)
        self._parts.append(part)
        plain[rows] = part.counts > 0
        for row, candidate in zip(rows.tolist(), part.candidates(), strict=True):
            outcomes[row] = candidate
        for index, reason in part.sized.unreachable.items():
            if asked.rate_rps[index] > 0:
                outcomes[int(rows[index])] = Unusable(
                    reason, part.options[index].profile.accelerator
                )
                plain[rows[index]] = False


def _part(model: Model, options: Options, rows: IntArray, asked: Requirements) -> _Part:
    sized = model.size(asked)
    # Without load there is nothing to meet a target for: the minimum will do.
    needed = np.where(asked.rate_rps <= 0, 0, sized.needed)
    arriving = for_arrivals(options, asked, needed, sized.goodput_rps)
    at_once = replicas_at_once(model, options, asked, sized, needed)
    needed = within_queues(options, asked, needed, at_once)
    needed = not_drained(options, needed, arriving)
    least = options.of_variants(attrgetter("min_replicas"))
    most = options.of_variants(_most)
    counts = np.minimum(np.maximum(needed, least), most)
    return _Part(
        model=model,
        options=options,
        rows=rows,
        sized=sized,
        needed=needed,
        counts=counts,
        for_arrivals=np.minimum(arriving, counts),
    )


def _most(variant: fleets.Variant) -> int:
    return _UNBOUNDED if variant.max_replicas is None else variant.max_replicas


def cost(accelerator: fleets.Accelerator, profile: fleets.Profile, replicas: int) -> float:
    """Cents per hour of that many replicas."""
    return accelerator.unit_cost * profile.accelerator_count * replicas


def current(
    variant: fleets.Variant, accelerators: Mapping[str, fleets.Accelerator]
) -> problem.Current:
    """What the variant runs on now, with its cost."""
    now = variant.current
    price = now.cost
    if price is None:
        price, accelerator = 0.0, accelerators.get(now.accelerator)
        for profile in variant.profiles:
            if accelerator and profile.accelerator == now.accelerator:
                price = cost(accelerator, profile, now.replicas)
                break
    return problem.Current(accelerator=now.accelerator, replicas=now.replicas, cost=price)
