"""The candidates of a fleet: for every variant and accelerator, what it takes to meet the targets.

All pairs are sized in one call as arrays. A pair that cannot be sized is refused with its reason and
never stops the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from adapter.planning import fleet as fleets
from analyzer import capacity, defaults, pooling, queueing
from analyzer.latency import LatencyParameters
from analyzer.replicas import PARAMETERS, problems
from analyzer.step_times import StepTimes
from optimizer import problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """Candidates of one variant, and why other accelerators give none.

    Attributes:
        candidates: one per usable accelerator, in the order of the profiles.
        refusals: reasons why accelerators, or the variant, give no candidate.

    """

    candidates: list[problem.Candidate] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    variant: fleets.Variant
    profile: fleets.Profile
    accelerator: fleets.Accelerator
    targets: fleets.Targets
    max_batch: int

    @property
    def parameters(self) -> tuple[float, ...]:
        """In the order of the analyzer's PARAMETERS."""
        return _parameters(self.variant, self.profile, self.max_batch)


def _parameters(
    variant: fleets.Variant, profile: fleets.Profile, max_batch: int
) -> tuple[float, ...]:
    latency = profile.latency
    assert isinstance(latency, LatencyParameters)  # noqa: S101 - step times are refused before
    return (
        latency.alpha_ms,
        latency.beta_ms,
        latency.gamma_ms,
        latency.delta_ms,
        variant.load.input_tokens,
        _output_tokens(variant),
        max_batch,
        queueing.MAX_QUEUE_TO_BATCH * max_batch,
    )


def _output_tokens(variant: fleets.Variant) -> float:
    """At least the one that a request is answered with."""
    return max(variant.load.output_tokens, 1.0)


def choices(fleet: fleets.Fleet) -> dict[str, Choices]:
    """Candidates and refusals by variant name."""
    found: dict[str, Choices] = {}
    pairs: list[_Pair] = []
    accelerators = {accelerator.name: accelerator for accelerator in fleet.accelerators}
    classes = {service_class.name: service_class for service_class in fleet.service_classes}
    for variant in fleet.variants:
        found[variant.name] = Choices()
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
        for profile in profiles:
            accelerator = accelerators.get(profile.accelerator)
            if accelerator is None:
                refusals.append(f"{profile.accelerator}: unknown accelerator, it has no unit cost")
                continue
            if isinstance(profile.latency, StepTimes):
                refusals.append(f"{profile.accelerator}: step times are not planned with yet")
                continue
            pairs.append(
                _Pair(
                    variant=variant,
                    profile=profile,
                    accelerator=accelerator,
                    targets=targets,
                    max_batch=variant.max_batch
                    or capacity.scaled_max_batch(
                        profile.max_batch, profile.at_tokens, _output_tokens(variant)
                    ),
                )
            )
    _size(pairs, found, fleet.settings.stability_margin)
    return found


def _size(pairs: list[_Pair], found: dict[str, Choices], margin: float) -> None:
    if not pairs:
        return
    table = np.array([pair.parameters for pair in pairs], dtype=np.float64)
    columns = {name: table[:, place] for place, name in enumerate(PARAMETERS)}
    bad = problems(columns)
    good = np.array([row for row in range(len(pairs)) if row not in bad], dtype=np.intp)
    outcomes: dict[int, problem.Candidate | str] = {
        row: f"{error.parameter}: {error.problem}" for row, error in bad.items()
    }
    if good.size:
        replicas = queueing.Replicas(**{name: column[good] for name, column in columns.items()})
        outcomes.update(
            zip(good.tolist(), _sized([pairs[row] for row in good], replicas, margin), strict=True)
        )
    for row, pair in enumerate(pairs):
        outcome = outcomes[row]
        choice = found[pair.variant.name]
        if isinstance(outcome, str):
            choice.refusals.append(f"{pair.profile.accelerator}: {outcome}")
        elif outcome.replicas or all(other.replicas for other in choice.candidates):
            choice.candidates.append(outcome)  # nothing on one accelerator is nothing on any


def _sized(
    pairs: list[_Pair], replicas: queueing.Replicas, margin: float
) -> list[problem.Candidate | str]:
    wanted_of = {
        "ttft_ms": np.array([pair.targets.ttft_ms or math.nan for pair in pairs]),
        "itl_ms": np.array([pair.targets.itl_ms or math.nan for pair in pairs]),
        "percentile": np.array([pair.targets.percentile or math.nan for pair in pairs]),
        # A tokens-per-second target asks for nothing but stability, so there the margin is never given up.
        "stability_margin": np.array(
            [
                max(margin, defaults.STABILITY_MARGIN) if pair.targets.tps else margin
                for pair in pairs
            ]
        ),
    }
    sized = capacity.size_all(replicas, **wanted_of)
    rates = capacity.rate_to_serve(
        [pair.variant.load.arrival_rate_rps for pair in pairs],
        [pair.targets.tps for pair in pairs],
        replicas.output_tokens,
    )
    reached = sized.unreachable < 0
    wanted = capacity.replicas_needed(rates, np.where(reached, sized.goodput_rps, 1.0))
    shared = np.array([pair.variant.routing == "least-loaded" for pair in pairs])
    rows = np.flatnonzero(shared & reached & (wanted > 1))
    if rows.size:
        wanted[rows] = pooling.replicas_needed(
            replicas.take(rows),
            rates[rows],
            wanted[rows],
            **{name: values[rows] for name, values in wanted_of.items()},
        )
        wanted[rows] = pooling.bursty(
            wanted[rows],
            rates[rows] / replicas.max_rate_rps[rows],
            np.array([pairs[row].variant.load.dispersion for row in rows]),
        )
    least = np.array([pair.variant.min_replicas for pair in pairs], dtype=np.int64)
    unbounded = np.iinfo(np.int64).max
    most = np.array(
        [unbounded if (top := pair.variant.max_replicas) is None else top for pair in pairs],
        dtype=np.int64,
    )
    counts = np.minimum(np.maximum(wanted, least), most)
    each = np.maximum(counts, 1)
    group = np.where(shared, pooling.together(replicas, each), 1)
    steady = queueing.analyze_all(pooling.pooled(replicas, group), rates * group / each)
    outcomes: list[problem.Candidate | str] = []
    for row, pair in enumerate(pairs):
        holds = sized[row]
        if isinstance(holds, capacity.Unreachable) and rates[row] > 0:
            outcomes.append(str(holds))
        else:
            # Without load there is nothing to meet a target for: the minimum will do.
            outcomes.append(
                _candidate(pair, holds, int(wanted[row]), int(counts[row]), steady[row])
            )
    return outcomes


def _candidate(
    pair: _Pair,
    holds: capacity.Capacity | capacity.Unreachable,
    wanted: int,
    count: int,
    steady: queueing.Performance,
) -> problem.Candidate:
    variant = pair.variant
    binding: str = holds.target if isinstance(holds, capacity.Unreachable) else holds.binding
    if isinstance(holds, capacity.Unreachable):
        per_replica_rpm, reason = 0.0, f"no load; under load {holds}"
    else:
        per_replica_rpm = holds.goodput_rps * 60
        reason = f"{binding} bounds a replica to {per_replica_rpm:.2f} req/min"
        if variant.routing == "least-loaded" and wanted > 1:
            reason += " alone; together they carry more"
    asked = max(wanted, variant.min_replicas)
    if wanted < variant.min_replicas:
        reason, binding = f"minimum of {variant.min_replicas} replicas", "minimum"
    if count < asked:
        reason = f"{asked} replicas needed, but the maximum is {variant.max_replicas}; " + reason
        binding = "maximum"
    return problem.Candidate(
        accelerator=pair.profile.accelerator if count else "",
        replicas=count,
        max_batch=pair.max_batch,
        cost=cost(pair.accelerator, pair.profile, count),
        itl_ms=steady.itl_ms,
        ttft_ms=steady.ttft_ms,
        max_rate_rpm=per_replica_rpm,
        reason=reason,
        device_type=pair.accelerator.device_type if count else "",
        devices=pair.profile.accelerator_count * pair.accelerator.multiplicity if count else 0,
        binding=binding,
    )


def performance(
    variant: fleets.Variant, chosen: problem.Candidate, targets: fleets.Targets, replicas: int
) -> queueing.Performance:
    """What a chosen candidate does with fewer replicas than its load needs, or with all."""
    profile = next(p for p in variant.profiles if p.accelerator == chosen.accelerator)
    replica = queueing.Replicas(
        **dict(zip(PARAMETERS, _parameters(variant, profile, chosen.max_batch), strict=True))
    )
    rate = capacity.rate_to_serve(
        variant.load.arrival_rate_rps, targets.tps, _output_tokens(variant)
    )
    group = pooling.together(replica, replicas) if variant.routing == "least-loaded" else 1
    return queueing.analyze_all(pooling.pooled(replica, group), rate * group / replicas)[0]


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
