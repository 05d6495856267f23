"""Cases of `cases` whose replica is described by the step times of its engine.

A case has either these fields or alpha, beta, gamma and delta; both ask and are answered alike. Rates and
targets beyond all measure may leave the range of floats; such latencies are answered as having no end.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from adapter.settings.percentiles import Percentile
from analyzer import capacity
from analyzer.engine import sizing
from analyzer.engine.columns import Engines
from analyzer.engine.nodes import bins_of_one, columns_of_shares
from analyzer.replicas import FloatArray, checked

NAMES = {
    "base_ms": "step_base_ms",
    "per_request_ms": "step_per_request_ms",
    "per_sqrt_request_ms": "step_per_sqrt_request_ms",
    "per_prefill_token_ms": "step_per_prefill_token_ms",
    "per_context_token_ms": "step_per_context_token_ms",
    "per_prompt_ms": "step_per_prompt_ms",
    "input_cv": "input_tokens_cv",
    "output_cv": "output_tokens_cv",
    "headroom": "stability_margin",
}
"""Name of each parameter in the analyzer, and its name in a case, where they differ."""


def _margin(value: float) -> float:
    if not 0.0 <= value < 1.0:
        raise ValueError(f"must be a number >= 0 and < 1, not {value:g}")
    return value


StabilityMargin = Annotated[float, AfterValidator(_margin)]
"""A share that is kept free; refused out of its range also where a case has no target that needs it."""


def _shares(values: object) -> object:
    """A list as a tuple: JSON has no other, and cases are strict."""
    return tuple(values) if isinstance(values, list) else values


def _rising(values: tuple[float, ...]) -> tuple[float, ...]:
    if bins_of_one(values) is None:
        raise ValueError(
            "must be four shares from 0 to 1 that do not fall: of answers of at most 1, 5, 20 and 50 tokens"
        )
    return values


ShortAnswers = Annotated[tuple[float, ...], BeforeValidator(_shares), AfterValidator(_rising)]
"""Shares of answers of at most `SHORT_BOUNDS` tokens."""

STEP_FIELDS = tuple(name for name in NAMES.values() if name.startswith("step_"))
LINEAR_FIELDS = ("alpha", "beta", "gamma", "delta")
_ENGINE_FIELDS = ("max_num_seqs", "max_num_batched_tokens", "kv_tokens", "cached_tokens",
                  "input_tokens_cv", "output_tokens_cv", "short_answers")  # fmt: skip
_BATCH_FIELDS = ("max_batch", "max_queue", "at_tokens")


@dataclasses.dataclass(frozen=True, slots=True)
class InvalidCase:
    """A case that is not answered.

    Attributes:
        field: names of the fields that are wrong or missing, separated by commas.
        problem: what is wrong with them, and the fix.

    """

    field: str
    problem: str

    def __str__(self) -> str:
        """Fields and problem."""
        return f"{self.field}: {self.problem}"


class StepCase(BaseModel):
    """One case; times in ms, rates in requests per second, lengths in tokens.

    Attributes:
        id: identifier, repeated in the answer.
        kv_tokens: tokens that the KV cache holds; None where it is not known and does not bind.
        input_tokens: mean prompt tokens, `cached_tokens` included.
        cached_tokens: mean prompt tokens that the prefix cache serves.
        short_answers: shares of answers of at most 1, 5, 20 and 50 tokens, 0 to 1; empty where not known, and
            answers are log-normal.
        percentile: percentile of the latencies that the targets bound, such as 95; None bounds means.
        stability_margin: share of the largest rate kept free.

    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    id: Any = None
    step_base_ms: float
    step_per_request_ms: float = 0.0
    step_per_sqrt_request_ms: float = 0.0
    step_per_prefill_token_ms: float
    step_per_context_token_ms: float = 0.0
    step_per_prompt_ms: float = 0.0
    max_num_seqs: float = 256
    max_num_batched_tokens: float = 2048
    kv_tokens: float | None = None
    input_tokens: float = 0.0
    output_tokens: float
    input_tokens_cv: float = 0.0
    output_tokens_cv: float = 0.0
    cached_tokens: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    short_answers: ShortAnswers = ()
    rate_rps: float | None = None
    target_ttft_ms: float | None = None
    target_itl_ms: float | None = None
    target_tps: float | None = None
    percentile: Percentile | None = None
    stability_margin: StabilityMargin = sizing.HEADROOM
    min_replicas: int = Field(default=0, ge=0, le=2**31 - 1)

    @property
    def sizes(self) -> bool:
        """Whether there is a target to size for."""
        return not (
            self.target_ttft_ms is None and self.target_itl_ms is None and self.target_tps is None
        )


def mixed_forms(document: Mapping[str, Any]) -> InvalidCase | None:
    """What is wrong with a case that mixes two forms or has none; None where it has one."""
    given = {name for name, value in document.items() if value is not None}
    steps = [name for name in STEP_FIELDS if name in given]
    linear = [name for name in LINEAR_FIELDS if name in given]
    if steps and linear:
        return InvalidCase(
            f"{linear[0]}, {steps[0]}",
            "two descriptions of one replica: give step times, or alpha, beta, gamma and delta",
        )
    if not steps and not linear:
        return InvalidCase(
            "alpha, step_base_ms",
            "is missing: give step times, or alpha, beta, gamma and delta",
        )
    foreign = [name for name in (_BATCH_FIELDS if steps else _ENGINE_FIELDS) if name in given]
    if foreign and steps:
        return InvalidCase(
            foreign[0],
            "belongs to alpha and beta; with step times give max_num_seqs and kv_tokens",
        )
    if foreign:
        return InvalidCase(
            foreign[0],
            "needs step times, instead of alpha and beta",
        )
    return None


def invalid_lengths(case: StepCase) -> InvalidCase | None:
    """What is wrong with the lengths of a case among themselves; None where nothing is."""
    if case.cached_tokens > case.input_tokens:
        return InvalidCase(
            "cached_tokens", f"must be at most input_tokens, not {case.cached_tokens:g}"
        )
    return None


@np.errstate(all="ignore")
def analyzed(cases: Sequence[StepCase]) -> list[dict[str, Any]]:
    """Performance of every case at its rate.

    Raises:
        InvalidParameterError: names the first row that is wrong.

    """
    engines = engines_of(cases)
    rates = checked(
        "arrival_rate_rps", [_number(case.rate_rps) for case in cases], len(cases), least=0.0
    )
    limits = [
        {"kv_bound_batch": _whole(held), "max_batch": int(batch)}
        for held, batch in zip(engines.kv_batch, engines.max_batch, strict=True)
    ]
    steady = _performances(engines, cases, rates)
    return [{**performance, **limit} for performance, limit in zip(steady, limits, strict=True)]


@np.errstate(all="ignore")
def sized(cases: Sequence[StepCase]) -> list[dict[str, Any]]:
    """Largest rates of every case, and the replicas that its rate needs.

    Raises:
        InvalidParameterError: names the first row that is wrong.

    """
    engines = engines_of(cases)
    # NaN stands for no rate below, so one that is given as NaN is refused here.
    rates = [0.0 if case.rate_rps is None else case.rate_rps for case in cases]
    checked("arrival_rate_rps", rates, len(cases), least=0.0)
    targets: dict[str, FloatArray] = {
        "ttft_ms": np.array([_number(case.target_ttft_ms) for case in cases]),
        "itl_ms": np.array([_number(case.target_itl_ms) for case in cases]),
        "tps": np.array([_number(case.target_tps) for case in cases]),
    }
    common: dict[str, FloatArray] = {
        "percentile": np.array([_share(case) for case in cases]),
        "headroom": np.array([case.stability_margin for case in cases]),
    }
    each = sizing.size_engines(engines, **targets, **common)
    alone = {
        name: sizing.size_engines(engines, **{name: values}, **common)
        for name, values in targets.items()
    }
    answers = []
    for row, case in enumerate(cases):
        holds = each[row]
        infeasible = _infeasible(holds, case) if math.isnan(holds.rate_rps) else None
        answers.append(
            {
                # A rate that is held within all targets is held within each: less is kept free of some.
                **{
                    f"max_rate_{name.removesuffix('_ms')}_rps": None
                    if math.isnan(targets[name][row])
                    else _given(np.fmax(capacity.rate_rps[row], holds.rate_rps))
                    for name, capacity in alone.items()
                },
                "max_rate_rps": _given(holds.rate_rps),
                "goodput_rps": _given(holds.rate_rps),
                "max_batch": holds.max_batch,
                "kv_bound_batch": _whole(each.kv_bound_batch[row]),
                "binding": holds.binding if infeasible is None else None,
                "infeasible": infeasible,
                "ttft_p95_ms": None,
                "itl_p95_ms": None,
            }
        )
    _predict(cases, engines, each.rate_rps, answers)
    return answers


def _predict(
    cases: Sequence[StepCase], engines: Engines, most: FloatArray, answers: list[dict[str, Any]]
) -> None:
    """Add the replicas that each rate needs and what they do; without a rate, the tails at the largest."""
    rows = np.flatnonzero(~np.isnan(most))
    if not rows.size:
        return
    some, chosen = engines.take(rows), [cases[row] for row in rows.tolist()]
    rates = capacity.rate_to_serve(
        [case.rate_rps or 0.0 for case in chosen],
        [case.target_tps or 0.0 for case in chosen],
        some.output_tokens,
    )
    counts = capacity.replicas_needed(rates, most[rows], [case.min_replicas for case in chosen])
    loaded = np.array([case.rate_rps is not None for case in chosen])
    each = np.where(loaded, rates / np.maximum(counts, 1), most[rows])
    for row, case, count, steady in zip(
        rows.tolist(), chosen, counts.tolist(), _performances(some, chosen, each), strict=True
    ):
        if case.rate_rps is None:
            answers[row] |= {name: steady[name] for name in ("ttft_p95_ms", "itl_p95_ms")}
        else:
            answers[row] |= {"replicas": count, **steady}


def performance_fields(
    performance: sizing.EnginePerformance, output_tokens: float
) -> dict[str, Any]:
    """Fields of an answer; a latency that grows without end is None."""
    fields: dict[str, Any] = dataclasses.asdict(performance)
    rate = fields.pop("rate_rps")
    stable = math.isfinite(performance.ttft_ms)
    throughput = rate if stable else rate / max(performance.utilization, 1.0)
    response = performance.ttft_ms + performance.itl_ms * (output_tokens - 1.0)
    return {
        "offered_rps": rate,
        "throughput_rps": throughput,
        "tokens_per_second": throughput * output_tokens,
        "stable": stable,
        **{name: _finite(value) for name, value in fields.items()},
        "response_ms": _finite(response),
    }


def _performances(
    engines: Engines, cases: Sequence[StepCase], rates: FloatArray
) -> list[dict[str, Any]]:
    steady = sizing.analyze_engines(engines, rates)
    shares = np.array([_share(case) for case in cases])
    ttft, itl = sizing.quantiles(engines, rates, np.where(np.isnan(shares), 0.5, shares))
    answers = []
    for row, case in enumerate(cases):
        answer = performance_fields(steady[row], case.output_tokens)
        if case.percentile is not None:
            answer["ttft_percentile_ms"] = _finite(ttft[row])
            answer["itl_percentile_ms"] = _finite(itl[row])
        answers.append(answer)
    return answers


def engines_of(cases: Sequence[StepCase]) -> Engines:
    """The replicas of the cases.

    Raises:
        InvalidParameterError: names the first row that is wrong.

    """
    return Engines(
        base_ms=[case.step_base_ms for case in cases],
        per_request_ms=[case.step_per_request_ms for case in cases],
        per_sqrt_request_ms=[case.step_per_sqrt_request_ms for case in cases],
        per_prefill_token_ms=[case.step_per_prefill_token_ms for case in cases],
        per_context_token_ms=[case.step_per_context_token_ms for case in cases],
        per_prompt_ms=[case.step_per_prompt_ms for case in cases],
        max_num_seqs=[case.max_num_seqs for case in cases],
        max_num_batched_tokens=[case.max_num_batched_tokens for case in cases],
        kv_tokens=[math.inf if case.kv_tokens is None else case.kv_tokens for case in cases],
        input_tokens=[case.input_tokens - case.cached_tokens for case in cases],
        output_tokens=[case.output_tokens for case in cases],
        input_cv=[case.input_tokens_cv for case in cases],
        output_cv=[case.output_tokens_cv for case in cases],
        cached_tokens=[case.cached_tokens for case in cases],
        short_answers=columns_of_shares([case.short_answers for case in cases]),
    )


def _infeasible(holds: sizing.EngineCapacity, case: StepCase) -> dict[str, Any]:
    """As `capacity.Unreachable` says it."""
    if holds.binding not in ("ttft", "itl"):
        return {"target": holds.binding, "reason": "a replica does not keep up with any load"}
    unmet = capacity.Unreachable(
        target=holds.binding,
        target_ms=_number(case.target_ttft_ms if holds.binding == "ttft" else case.target_itl_ms),
        best_ms=holds.best_ms,
        percentile=None if case.percentile is None else case.percentile / 100.0,
    )
    return {**dataclasses.asdict(unmet), "reason": str(unmet)}


def _share(case: StepCase) -> float:
    return math.nan if case.percentile is None else case.percentile / 100.0


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _given(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _whole(value: float) -> int | None:
    return int(value) if math.isfinite(value) else None
