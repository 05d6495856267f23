"""The candidates of a fleet: for every variant and accelerator, what it takes to meet the targets.

All pairs of one model of a replica are sized in one call as arrays: by the step times of their engine where
the profile has them or can be converted to them, else by decode and prefill times over the batch. A pair
that cannot be sized is refused with its reason and never stops the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from adapter.planning import fleet as fleets
from adapter.planning import linear_model, step_model
from adapter.planning.pairs import BINDINGS, Asked, IntArray, Model, Pair, Steady, asked_of, part_of
from adapter.planning.pairs import output_tokens as output_tokens_of
from analyzer import capacity
from analyzer.errors import InvalidParameterError
from optimizer import problem

_ModelOf = Callable[
    [Sequence[Pair]], tuple[Model | None, list[int], Mapping[int, InvalidParameterError]]
]

_NOTHING = ""
_UNBOUNDED = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """Candidates of one variant, and why other accelerators give none.

    Attributes:
        candidates: one per usable accelerator, in the order of the profiles; their latencies are not
            predicted yet.
        rows: row of each candidate in `Candidates.steady`.
        refusals: reasons why accelerators, or the variant, give no candidate.

    """

    candidates: list[problem.Candidate] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Part:
    """Pairs of one model: it knows them as 0 to M - 1, the fleet under `rows`."""

    model: Model
    rows: IntArray


class Candidates:
    """Candidates of every variant of a fleet.

    Attributes:
        by_variant: candidates and refusals by variant name.

    """

    def __init__(self, fleet: fleets.Fleet) -> None:
        self.by_variant: dict[str, Choices] = {
            variant.name: Choices() for variant in fleet.variants
        }
        self._pairs = _pairs(fleet, self.by_variant)
        self._parts: list[_Part] = []
        if not self._pairs:
            return
        self._asked: Asked = asked_of(self._pairs, fleet.settings.stability_margin)
        outcomes: list[problem.Candidate | str] = [_NOTHING] * len(self._pairs)
        by_steps = [step_model.step_times(pair.profile) is not None for pair in self._pairs]
        self._add(
            [row for row, steps in enumerate(by_steps) if not steps], linear_model.model, outcomes
        )
        self._add([row for row, steps in enumerate(by_steps) if steps], step_model.model, outcomes)
        for row, (pair, outcome) in enumerate(zip(self._pairs, outcomes, strict=True)):
            choice = self.by_variant[pair.variant.name]
            if isinstance(outcome, str):
                choice.refusals.append(f"{pair.profile.accelerator}: {outcome}")
            elif outcome.replicas or all(other.replicas for other in choice.candidates):
                choice.candidates.append(outcome)  # nothing on one accelerator is nothing on any
                choice.rows.append(row)

    def steady(self, rows: Sequence[int], replicas: Sequence[int]) -> Steady:
        """What that many replicas (0 counts as 1) of some candidates do, each of shape (M,)."""
        wanted = np.array(rows, dtype=np.intp)
        each = np.maximum(np.array(replicas, dtype=np.int64), 1)
        found = Steady(
            ttft_ms=np.zeros(wanted.size),
            itl_ms=np.zeros(wanted.size),
            blocking=np.zeros(wanted.size),
        )
        for part in self._parts:
            at = np.searchsorted(part.rows, wanted)
            here = np.flatnonzero(part.rows[np.minimum(at, part.rows.size - 1)] == wanted)
            if not here.size:
                continue
            asked = part_of(self._asked, wanted[here])
            some = part.model.steady(at[here], asked, each[here])
            found.ttft_ms[here] = some.ttft_ms
            found.itl_ms[here] = some.itl_ms
            found.blocking[here] = some.blocking
        return found

    def notes(self, row: int) -> tuple[str, ...]:
        """What to know about the profile of one candidate."""
        pair = self._pairs[row]
        note = step_model.lengths_note(pair.variant, pair.profile)
        return (note,) if note else ()

    def _add(
        self, rows: list[int], model_of: _ModelOf, outcomes: list[problem.Candidate | str]
    ) -> None:
        """Size the pairs of one model; `outcomes` of their rows are set."""
        if not rows:
            return
        pairs = [self._pairs[row] for row in rows]
        model, good, bad = model_of(pairs)
        for place, error in bad.items():
            outcomes[rows[place]] = f"{error.parameter}: {error.problem}"
        if model is None:
            return
        part = _Part(model=model, rows=np.array([rows[place] for place in good], dtype=np.int64))
        self._parts.append(part)
        sized = _sized(part, [pairs[place] for place in good], part_of(self._asked, part.rows))
        for row, outcome in zip(part.rows.tolist(), sized, strict=True):
            outcomes[row] = outcome


def _pairs(fleet: fleets.Fleet, found: Mapping[str, Choices]) -> list[Pair]:
    """Everything to be sized; what cannot be is refused in `found`."""
    pairs: list[Pair] = []
    accelerators = {accelerator.name: accelerator for accelerator in fleet.accelerators}
    classes = {service_class.name: service_class for service_class in fleet.service_classes}
    for variant in fleet.variants:
        refusals = found[variant.name].refusals
        service_class = classes.get(variant.service_class)
        targets = service_class.targets.get(variant.model) if service_class else None
        if targets is None:
            refusals.append(
                f"service class {variant.service_class!r} has no targets for model {variant.model!r}"
            )
            continue
        profiles = variant.profiles
        if variant.keep_accelerator and variant.current.accelerator:
            profiles = tuple(p for p in profiles if p.accelerator == variant.current.accelerator)
            if not profiles:
                refusals.append(
                    f"must keep accelerator {variant.current.accelerator!r}, which has no profile"
                )
        output_tokens = output_tokens_of(variant)
        for profile in profiles:
            accelerator = accelerators.get(profile.accelerator)
            if accelerator is None:
                refusals.append(f"{profile.accelerator}: unknown accelerator, it has no unit cost")
                continue
            max_batch = variant.max_batch or capacity.scaled_max_batch(
                profile.max_batch, profile.at_tokens, output_tokens
            )
            max_batch = min(max_batch, fleets.LARGEST_BATCH)
            pairs.append(Pair(variant, profile, accelerator, targets, max_batch))
    return pairs


def _sized(part: _Part, pairs: Sequence[Pair], asked: Asked) -> list[problem.Candidate | str]:
    sized = part.model.size(asked)
    wanted = sized.wanted
    least = np.array([pair.variant.min_replicas for pair in pairs], dtype=np.int64)
    most = np.array(
        [_UNBOUNDED if (top := pair.variant.max_replicas) is None else top for pair in pairs],
        dtype=np.int64,
    )
    # Without load there is nothing to meet a target for: the minimum will do.
    idle = asked.rate_rps <= 0
    wanted = np.where(idle, 0, wanted)
    counts = np.minimum(np.maximum(wanted, least), most)
    outcomes: list[problem.Candidate | str] = []
    columns = zip(
        pairs,
        range(len(pairs)),
        sized.binding.tolist(),
        (sized.goodput_rps * 60.0).tolist(),
        wanted.tolist(),
        counts.tolist(),
        sized.max_batch.tolist(),
        idle.tolist(),
        strict=True,
    )
    model = part.model
    for pair, row, bound, rate_rpm, need, count, max_batch, no_load in columns:
        binding = BINDINGS[bound]
        unmet = sized.unreachable.get(row)
        if unmet is None:
            reason = model.reason(row, binding, rate_rpm)
            if need > 1 and pair.variant.routing == "least-loaded":
                reason += model.reason_together()
        elif no_load:
            rate_rpm, reason = 0.0, f"no load; under load {unmet}"  # noqa: PLW2901 - no rate meets them
        else:
            outcomes.append(unmet)
            continue
        outcomes.append(_candidate(pair, (binding, reason), rate_rpm, (need, count), max_batch))
    return outcomes


def _candidate(
    pair: Pair,
    bound: tuple[str, str],
    rate_rpm: float,
    numbers: tuple[int, int],
    max_batch: int,
) -> problem.Candidate:
    """One candidate: binding with its reason, and replicas needed with those within the bounds."""
    variant, (binding, reason), (wanted, count) = pair.variant, bound, numbers
    asked = wanted
    if wanted < variant.min_replicas:
        asked = variant.min_replicas
        reason, binding = f"minimum of {variant.min_replicas} replicas", "minimum"
    if count < asked:
        reason = f"{asked} replicas needed, but the maximum is {variant.max_replicas}; " + reason
        binding = "maximum"
    return problem.Candidate(
        accelerator=pair.profile.accelerator if count else "",
        replicas=count,
        max_batch=max_batch,
        cost=cost(pair.accelerator, pair.profile, count),
        itl_ms=0.0,
        ttft_ms=0.0,
        max_rate_rpm=rate_rpm,
        reason=reason,
        device_type=pair.accelerator.device_type if count else "",
        devices=pair.profile.accelerator_count * pair.accelerator.multiplicity if count else 0,
        binding=binding,
    )


def cost(accelerator: fleets.Accelerator, profile: fleets.Profile, replicas: int) -> float:
    """Cents per hour of that many replicas."""
    return accelerator.unit_cost * profile.accelerator_count * replicas


def current(
    variant: fleets.Variant, accelerators: Mapping[str, fleets.Accelerator]
) -> problem.Current:
    """What the variant runs on now, with its cost."""
    now = variant.current
    accelerator = accelerators.get(now.accelerator)
    profile = next((p for p in variant.profiles if p.accelerator == now.accelerator), None)
    price = now.cost
    if price is None:
        price = cost(accelerator, profile, now.replicas) if accelerator and profile else 0.0
    return problem.Current(accelerator=now.accelerator, replicas=now.replicas, cost=price)
