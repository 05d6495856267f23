"""Cases for the analyzer as JSON objects: one line in, one line out, many of them in one call.

A case names one replica, by alpha, beta, gamma and delta or by the step times of its engine (`step_cases`),
and an arrival rate (analysis), or targets (sizing), or both (replicas for that rate). What is wrong with a
case is its answer; the other cases are not touched.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adapter.errors import did_you_mean, field_problem
from adapter.formats import files, step_cases
from adapter.formats.step_cases import InvalidCase, StabilityMargin, StepCase
from adapter.planning.fleet import LARGEST_RATE_RPM
from adapter.settings.percentiles import Percentile
from analyzer import capacity, defaults, queueing
from analyzer.errors import InvalidParameterError
from analyzer.replicas import MAX_BATCH_LIMIT, PARAMETERS, checked

Answer = dict[str, Any]

_NAMES = {
    "alpha_ms": "alpha",
    "beta_ms": "beta",
    "gamma_ms": "gamma",
    "delta_ms": "delta",
    "arrival_rate_rps": "rate_rps",
    "ttft_ms": "target_ttft_ms",
    "itl_ms": "target_itl_ms",
    "tps": "target_tps",
    **step_cases.NAMES,
}
"""Name of each parameter in the analyzer, and its name in a case."""


class Case(BaseModel):
    """One case; times in ms, rates in requests per second.

    Attributes:
        id: identifier, repeated in the answer.
        max_queue: largest number of waiting requests; None is 10 times the max batch.
        at_tokens: output tokens at which max_batch was measured; the max batch is scaled by it.
        percentile: percentile of the latencies that the targets bound, such as 95; None bounds means.
        stability_margin: share of the replica's throughput kept free.

    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    id: Any = None
    alpha: float
    beta: float
    gamma: float = 0.0
    delta: float = 0.0
    max_batch: float
    max_queue: float | None = None
    input_tokens: float = 0.0
    output_tokens: float
    at_tokens: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    rate_rps: float | None = None
    target_ttft_ms: float | None = None
    target_itl_ms: float | None = None
    target_tps: float | None = None
    percentile: Percentile | None = None
    stability_margin: StabilityMargin = defaults.STABILITY_MARGIN
    min_replicas: int = Field(default=0, ge=0, le=2**31 - 1)

    @property
    def sizes(self) -> bool:
        """Whether there is a target to size for."""
        return not (
            self.target_ttft_ms is None and self.target_itl_ms is None and self.target_tps is None
        )

    @property
    def batch(self) -> float:
        """The max batch at this output length."""
        fits = math.isfinite(self.max_batch) and math.isfinite(self.at_tokens)
        if self.at_tokens > 0 and self.output_tokens >= 1 and fits:
            return capacity.scaled_max_batch(
                int(self.max_batch), self.at_tokens, self.output_tokens
            )
        return self.max_batch

    @property
    def parameters(self) -> tuple[float, ...]:
        """In the order of the analyzer's PARAMETERS."""
        batch = self.batch
        queue = queueing.MAX_QUEUE_TO_BATCH * batch if self.max_queue is None else self.max_queue
        return (
            self.alpha,
            self.beta,
            self.gamma,
            self.delta,
            self.input_tokens,
            self.output_tokens,
            batch,
            queue,
        )


_AnyCase = TypeVar("_AnyCase", Case, StepCase)


def answer_lines(lines: Sequence[str]) -> list[str]:
    """One JSON object for each line, in their order.

    Args:
        lines: Texts, decoded with the error handler surrogateescape: such a line is answered with its error.

    """
    answers: list[Answer | None] = [None] * len(lines)
    cases: list[tuple[int, Case | StepCase]] = []
    for index, line in enumerate(lines):
        parsed = _parsed(line)
        if isinstance(parsed, (Case, StepCase)):
            cases.append((index, parsed))
        else:
            answers[index] = parsed
    for (index, case), given in zip(cases, answer([case for _, case in cases]), strict=True):
        answers[index] = {"id": case.id, **given} if "id" in case.model_fields_set else given
    return [json.dumps(item, allow_nan=False) for item in answers]


def answer(cases: Sequence[Case | StepCase]) -> list[Answer]:
    """Analyze or size every case; the answer of a case that is wrong is its `error`."""
    answers: list[Answer] = [{} for _ in cases]
    for sizing in (False, True):
        linear = [
            (row, c) for row, c in enumerate(cases) if isinstance(c, Case) and c.sizes is sizing
        ]
        steps = [
            (row, c) for row, c in enumerate(cases) if isinstance(c, StepCase) and c.sizes is sizing
        ]
        outcomes = [
            *_isolated([case for _, case in linear], _sized if sizing else _analyzed),
            *_isolated(
                [case for _, case in steps], step_cases.sized if sizing else step_cases.analyzed
            ),
        ]
        for row, item in zip([row for row, _ in (*linear, *steps)], outcomes, strict=True):
            answers[row] = item
    return answers


def _isolated(
    cases: Sequence[_AnyCase], work: Callable[[Sequence[_AnyCase]], list[Answer]]
) -> list[Answer]:
    """`work` on all cases at once, without those that it refuses."""
    answers: list[Answer] = [{} for _ in cases]
    pending = list(range(len(cases)))
    while pending:
        try:
            outcomes = work([cases[row] for row in pending])
        except InvalidParameterError as error:
            answers[pending.pop(error.index or 0)] = {
                "error": f"{named(error.parameter)}: {error.problem}"
            }
            continue
        for row, item in zip(pending, outcomes, strict=True):
            answers[row] = item
        break
    return answers


def named(parameter: str) -> str:
    """The analyzer's name of a parameter, or of several, as a case has it."""
    return ", ".join(_NAMES.get(name, name) for name in parameter.split(","))


def _parsed(line: str) -> Case | StepCase | Answer:
    # Bytes that are not UTF-8 stand in the line as surrogates.
    undecoded = next((place for place, c in enumerate(line, 1) if "\ud800" <= c <= "\udfff"), None)
    if undecoded is not None:
        return {"error": f"not UTF-8: character {undecoded} of the line"}
    twice: list[str] = []
    try:
        document = json.loads(line, object_pairs_hook=lambda pairs: _object(pairs, twice))
    except (ValueError, RecursionError) as error:
        return {"error": files.not_json(error)}
    if not isinstance(document, dict):
        return {"error": "must be a JSON object"}
    try:
        json.dumps(document.get("id"), allow_nan=False)
    except ValueError:
        return {"error": "id: must not hold NaN or Infinity"}
    if "id" in twice:
        del document["id"]
    said = "is more than once in the object of this line"
    case = InvalidCase(twice[0], said) if twice else parse(document)
    if not isinstance(case, InvalidCase):
        return case
    return {**({"id": document["id"]} if "id" in document else {}), "error": str(case)}


def _object(pairs: list[tuple[str, Any]], twice: list[str]) -> dict[str, Any]:
    """The object of these pairs; keys that are there more than once are put into `twice`."""
    document = dict(pairs)
    if len(document) < len(pairs):
        keys = [key for key, _ in pairs]
        twice += [key for key in document if keys.count(key) > 1]
    return document


def parse(document: dict[str, Any]) -> Case | StepCase | InvalidCase:
    """The case of a document, or what is wrong with it."""
    if invalid := step_cases.mixed_forms(document):
        return invalid
    by_steps = any(document.get(name) is not None for name in step_cases.STEP_FIELDS)
    try:
        case = (StepCase if by_steps else Case).model_validate(document)
    except ValidationError as error:
        return _first(error)
    invalid = _out_of_range(case)
    if isinstance(case, StepCase):
        invalid = invalid or step_cases.invalid_lengths(case)
    elif case.max_batch <= MAX_BATCH_LIMIT < case.batch:
        invalid = InvalidCase(
            "at_tokens",
            f"must not scale max_batch to more than {MAX_BATCH_LIMIT}, not {case.at_tokens:g}: at"
            f" {case.output_tokens:g} output tokens the max batch would be {case.batch:g}",
        )
    if invalid:
        return invalid
    if case.rate_rps is not None or case.sizes:
        return case
    return InvalidCase(
        "rate_rps, target_ttft_ms, target_itl_ms, target_tps", "one of them must be given"
    )


def _first(error: ValidationError) -> InvalidCase:
    # An unknown field first: it is often the misspelled name of one that is missing.
    first = min(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return InvalidCase(field, f"is not known{_nearest(field)}")
    return InvalidCase(field, field_problem(first))


def _nearest(field: str) -> str:
    """A hint at the fields that are named like an unknown one."""
    if flag := _FLAGS.get(field):
        return f"; did you mean {flag}?"
    return did_you_mean(field, [*dict.fromkeys([*Case.model_fields, *StepCase.model_fields])])


_FLAGS = {
    "rate": "rate_rps (requests per second)",
    "rpm": "rate_rps (requests per second)",
    "rate_rpm": "rate_rps (requests per second)",
    "arrival_rate_rpm": "rate_rps (requests per second)",
    "ttft": "target_ttft_ms",
    "itl": "target_itl_ms",
    "tps": "target_tps",
}
"""Names of flags and of plan files that are not those of a case; of rates the unit differs too."""


def _out_of_range(case: Case | StepCase) -> InvalidCase | None:
    """What is wrong with a rate or a target: NaN, which the analyzer takes for none, or too large."""
    for field, least in (
        ("rate_rps", ">= 0"),
        ("target_ttft_ms", "> 0"),
        ("target_itl_ms", "> 0"),
        ("target_tps", "> 0"),
    ):
        value = getattr(case, field)
        if value is not None and math.isnan(value):
            return InvalidCase(field, f"must be a number {least}, not nan")
    most = LARGEST_RATE_RPM / 60.0
    largest = f"{LARGEST_RATE_RPM:g} requests per minute"
    if case.rate_rps is not None and case.rate_rps > most:
        return InvalidCase(
            "rate_rps", f"must be at most {int(most)}, which is {largest}, not {case.rate_rps:.9g}"
        )
    tokens = max(case.output_tokens, 1.0)
    if case.target_tps is not None and case.target_tps > most * tokens:
        return InvalidCase(
            "target_tps",
            f"must be at most {int(most * tokens)}, which is {largest} of {tokens:g} output tokens,"
            f" not {case.target_tps:.9g}",
        )
    return None


def _replicas(cases: Sequence[Case]) -> queueing.Replicas:
    table = np.array([case.parameters for case in cases], dtype=np.float64)
    return queueing.Replicas(**{name: table[:, index] for index, name in enumerate(PARAMETERS)})


def _analyzed(cases: Sequence[Case]) -> list[Answer]:
    replicas = _replicas(cases)
    return _performances(replicas, cases, [_number(case.rate_rps) for case in cases])


def _performances(
    replicas: queueing.Replicas, cases: Sequence[Case], rates: Sequence[float]
) -> list[Answer]:
    steady = queueing.analyze_all(replicas, rates)
    answers = [dataclasses.asdict(steady[row]) for row in range(len(cases))]
    with_percentile = [row for row, case in enumerate(cases) if case.percentile is not None]
    if with_percentile:
        shares = [_share(case) for case in cases]
        at = queueing.percentiles_all(
            replicas, rates, [0.5 if math.isnan(share) else share for share in shares]
        )
        for row in with_percentile:
            answers[row] |= {
                "waiting_percentile_ms": float(at.waiting_ms[row]),
                "ttft_percentile_ms": float(at.ttft_ms[row]),
                "itl_percentile_ms": float(at.itl_ms[row]),
            }
    return answers


def _sized(cases: Sequence[Case]) -> list[Answer]:
    replicas = _replicas(cases)
    rates = [_number(case.rate_rps) for case in cases]
    checked("arrival_rate_rps", rates, len(cases), least=0.0, optional=True)
    sized = capacity.size_all(
        replicas,
        ttft_ms=[_number(case.target_ttft_ms) for case in cases],
        itl_ms=[_number(case.target_itl_ms) for case in cases],
        tps=[_number(case.target_tps) for case in cases],
        percentile=[_share(case) for case in cases],
        stability_margin=[case.stability_margin for case in cases],
    )
    answers = []
    for row in range(len(cases)):
        holds = sized[row]
        infeasible = None
        if isinstance(holds, capacity.Unreachable):
            infeasible = {**dataclasses.asdict(holds), "reason": str(holds)}
        answers.append(
            {
                "max_rate_ttft_rps": _given(sized.ttft_rate_rps[row]),
                "max_rate_itl_rps": _given(sized.itl_rate_rps[row]),
                "max_rate_tps_rps": _given(sized.tps_rate_rps[row]),
                "max_rate_rps": _given(sized.rate_rps[row]),
                "goodput_rps": _given(sized.goodput_rps[row]),
                "max_batch": int(replicas.max_batch[row]),
                "binding": holds.binding if isinstance(holds, capacity.Capacity) else None,
                "infeasible": infeasible,
            }
        )
    loaded = [
        row
        for row, case in enumerate(cases)
        if case.rate_rps is not None and answers[row]["infeasible"] is None
    ]
    if loaded:
        _count([cases[row] for row in loaded], replicas, np.array(loaded), answers)
    return answers


def _count(
    cases: Sequence[Case], replicas: queueing.Replicas, rows: Any, answers: list[Answer]
) -> None:
    """Add the replicas that each rate needs, and what they are predicted to do."""
    some = replicas.take(rows)
    rates = capacity.rate_to_serve(
        [_number(case.rate_rps) for case in cases],
        [case.target_tps or 0.0 for case in cases],
        some.output_tokens,
    )
    counts = capacity.replicas_needed(
        rates,
        [answers[row]["goodput_rps"] for row in rows],
        [case.min_replicas for case in cases],
    )
    predicted = _performances(some, cases, list(rates / np.maximum(counts, 1)))
    for row, count, steady in zip(rows, counts, predicted, strict=True):
        answers[row] |= {"replicas": int(count), **steady}


def _share(case: Case) -> float:
    return math.nan if case.percentile is None else case.percentile / 100.0


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _given(value: np.float64) -> float | None:
    return None if math.isnan(value) else float(value)
