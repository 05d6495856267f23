"""Calibration of raw estimates on measured rows, and fits of the groups that were measured themselves.

A group is a model, precision, GPU, replica size and engine. The rows do not name every setting: some groups
ran with speculative decoding, data-parallel attention or another precision than they say. A group whose ITL
is beyond all that a step of its estimate can take, either way, is left out and named.
"""

from __future__ import annotations

import csv
import dataclasses
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import catalog_models
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from adapter.profiles import names
from analyzer.errors import FitError
from analyzer.fitting import benchmark_rows, saturation, step_fit
from analyzer.fitting.benchmark_rows import BenchmarkRows

FloatArray = NDArray[np.float64]

PRECISIONS = {("vllm", "Qwen/Qwen3-32B", ""): "bf16"}
"""Precision of groups that state none; the others are left out: some are too fast for 16 bits."""
NAMES = {"zhipuai/GLM-5": "zai-org/GLM-5"}
PLAUSIBLE = (0.65, 1.7)
"""Median of measured over estimated ITL of a group that ran what its estimate is of."""
MOST_DISAGREEMENT = 0.2
"""Share by which rows at one load may differ among themselves."""
LEAST_MODELS = 2
"""Models of a kind that an engine's own factors are learned from."""
LEAST_ROWS = 10
"""Rows of a group that is fitted by itself."""
MOST_ERROR = 0.15
"""Error of such a fit on rows that it has not seen, above which the calibrated estimate is as good."""
MOST_CONTEXT = 0.3
"""Share of any row's ITL that an estimated time of the context may take."""
COLUMNS = ("base", "per_request", "per_context_token", "per_prefill_token")
SHRINK = 0.15
"""Prior standard deviation of the logarithm of a factor around 1."""


@dataclass(frozen=True)
class Group:
    """Rows that are not saturated, and the raw times of their steps by factor, shape (M, 4)."""

    key: str
    engine: str
    mixture: bool
    rows: BenchmarkRows
    design: FloatArray


@dataclass
class Calibrated:
    """What was learned.

    Attributes:
        factors: by engine and kind of model, fields of `adapter.profiles.calibration.Factors`.
        measured: step times, error and rows by `model|precision|gpu|tp|engine`.
        report: lines for the one who runs this.

    """

    factors: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    measured: dict[str, list[float]] = field(default_factory=dict)
    report: list[str] = field(default_factory=list)


def calibrate(estimates: dict[str, dict[str, Any]], path: Path) -> Calibrated:
    """Learn factors for each engine and kind of model; fit groups that have enough rows."""
    result = Calibrated()
    groups = []
    for key, engine, rows in read(path):
        if key not in estimates:
            result.report.append(f"no estimate: {key}|{engine} ({rows.size} rows)")
            continue
        group = prepare(key, engine, rows, estimates[key])
        problem = unusable(group)
        if problem:
            result.report.append(f"left out: {key}|{engine}: {problem}")
        else:
            groups.append(group)
    for engine in ("vllm", "sglang"):
        result.factors[engine] = {}
        for kind, mixture in (("dense", False), ("mixture", True)):
            of_kind = [group for group in groups if group.mixture == mixture]
            part = [group for group in of_kind if group.engine == engine]
            if len({model_of(group) for group in part}) < LEAST_MODELS:
                # One model teaches nothing of others: what all engines teach is tested on it.
                tested, part = part, of_kind
            else:
                tested = part
            result.factors[engine][kind] = learned(part, tested, f"{engine} {kind}", result.report)
    for group in groups:
        kind = result.factors[group.engine]["mixture" if group.mixture else "dense"]
        raw = estimates[group.key]["step"]["per_context_token_ms"]
        fit_group(group, raw * kind["per_context_token"], result)
    return result


def read(path: Path) -> list[tuple[str, str, BenchmarkRows]]:
    """Groups of rows by the catalog's names."""
    known = {
        names.model_key(alias)[0]: key
        for key, model in catalog_models.MODELS.items()
        for alias in (key, model.name, *model.aliases)
    }
    rows_by_group: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    systems = {system: gpu for gpu, (system, _) in names.GPUS.items()}
    with path.open() as file:
        for row in csv.DictReader(file):
            model = known.get(names.model_key(NAMES.get(row["model"], row["model"]))[0])
            precision = row["precision"] or PRECISIONS.get((row["backend"], row["model"], ""))
            if model is None or precision is None or int(row["tp"]) > max(catalog_models.TPS):
                continue
            rows_by_group[
                f"{model}|{precision}|{systems[row['gpu']]}|{row['tp']}", row["backend"]
            ].append(row)
    return [
        (key, engine, benchmark_rows.rows_of(
            concurrency=[float(row["concurrency"]) for row in rows],
            input_tokens=[float(row["input_tokens"]) for row in rows],
            output_tokens=[float(row["output_tokens"]) for row in rows],
            itl_ms=[float(row["itl_ms"] or "nan") for row in rows],
            ttft_ms=[float(row["ttft_ms"] or "nan") for row in rows],
        ))
        for (key, engine), rows in sorted(rows_by_group.items())
    ]  # fmt: skip


def prepare(key: str, engine: str, rows: BenchmarkRows, estimate: dict[str, Any]) -> Group:
    """Leave out saturated rows; compute what each part of a raw step takes at each row's load."""
    waited = saturation.find_waiting(rows, np.zeros(rows.size, dtype=np.bool_)).waited
    part = rows.part(~np.isnan(rows.itl_ms) & ~waited)
    step, n = estimate["step"], part.concurrency
    design = np.column_stack([
        np.full(part.size, step["base_ms"]),
        step["per_request_ms"] * n + step["per_sqrt_request_ms"] * np.sqrt(n),
        step["per_context_token_ms"] * n * part.context_tokens,
        step["per_prefill_token_ms"] * np.maximum(n - 1, 0) * part.input_tokens / part.output_tokens,
    ])  # fmt: skip
    mixture = catalog_models.MODELS[key.partition("|")[0]].experts
    return Group(key, engine, mixture, part, design)


def unusable(group: Group) -> str:
    """Why a group's rows are not of what its estimate is of; empty where they are."""
    if group.rows.size < 2:
        return "fewer than 2 rows that are not saturated"
    ratio = float(np.median(group.rows.itl_ms / group.design.sum(axis=1)))
    if not PLAUSIBLE[0] <= ratio <= PLAUSIBLE[1]:
        return f"measured ITL is {ratio:.2f} of the estimate"
    apart = benchmark_rows.disagreement(group.rows)
    if apart > MOST_DISAGREEMENT:
        return f"rows at one load disagree by {apart:.0%}"
    return ""


def model_of(group: Group) -> str:
    """Its model, of any precision."""
    return group.key.partition("|")[0]


def learned(
    groups: list[Group], tested: list[Group], kind: str, report: list[str]
) -> dict[str, float]:
    """Factors of all groups; their error on groups of models that they were not learned from."""
    errors, before = [], []
    for group in tested:
        # All sizes and precisions of the model, not the one group: they resemble each other.
        others = [other for other in groups if model_of(other) != model_of(group)]
        factors = solve(others)
        errors.append(relative(group.design @ factors, group.rows.itl_ms))
        before.append(relative(group.design.sum(axis=1), group.rows.itl_ms))
    error = float(np.mean(errors))
    factors = solve(groups)
    if error > np.mean(before):
        # What these models teach does not hold for another: the estimates stay as they are.
        error, factors = float(np.mean(before)), np.ones(len(COLUMNS))
    report.append(
        f"{kind}: {len(groups)} groups, tested on {len(tested)}, mean error {np.mean(before):.1%} raw"
        f" (worst {np.max(before):.1%}), {np.mean(errors):.1%} of models left out; factors "
        + ", ".join(f"{name} {value:.3g}" for name, value in zip(COLUMNS, factors, strict=True))
    )
    values = {name: float(f"{value:.3g}") for name, value in zip(COLUMNS, factors, strict=True)}
    return {**values, "error": round(error, 3), "groups": len(groups)}


def solve(groups: list[Group]) -> FloatArray:
    """Factors with the least error of logarithms, each group weighing as much as another."""
    if not groups:
        return np.ones(len(COLUMNS))

    def residuals(logs: FloatArray) -> FloatArray:
        parts = [
            np.log(group.design @ np.exp(logs) / group.rows.itl_ms) / np.sqrt(group.rows.size)
            for group in groups
        ]
        return np.concatenate([*parts, 0.15 * logs / SHRINK])

    fit = least_squares(residuals, np.zeros(len(COLUMNS)), loss="soft_l1", f_scale=0.1)
    return np.exp(fit.x)


def relative(predicted: FloatArray, measured: FloatArray) -> float:
    """Mean relative error."""
    return float(np.abs(predicted / measured - 1).mean())


def fit_group(group: Group, context_ms: float, result: Calibrated) -> None:
    """Step times from the group's own rows, if half of them predict the other half.

    Args:
        group: with rows that are not saturated.
        context_ms: time per token of context that is estimated; taken where the rows do not determine it.
        result: gains a line of report, and the step times where they are good.

    """
    name, rows = f"{group.key}|{group.engine}", group.rows
    if rows.size < LEAST_ROWS:
        return
    try:
        whole = step_fit.fit_steps(rows)
        fixed = 0.0
        if "per_context_token_ms" in whole.undetermined:
            fixed = min(context_ms, float((MOST_CONTEXT * rows.itl_ms / inside(rows)).min()))
            whole = step_fit.fit_steps(without(rows, fixed))
        errors = []
        odd = np.arange(rows.size) % 2 == 1
        for half, left in ((odd, rows.part(~odd)), (~odd, rows.part(odd))):
            fit = step_fit.fit_steps(without(rows.part(half), fixed))
            errors.append(relative(fit.itl_ms(left) + fixed * inside(left), left.itl_ms))
    except FitError as problem:
        result.report.append(f"not fitted: {name}: {problem}")
        return
    error, times = float(np.mean(errors)), whole.step_times
    missing = [part for part in whole.undetermined if part != "per_context_token_ms"]
    if missing or times.per_prefill_token_ms <= 0 or error > MOST_ERROR:
        result.report.append(
            f"not fitted: {name}: error {error:.1%}, not determined: {', '.join(missing) or '-'}"
        )
        return
    how = ", context as estimated" if fixed else ""
    result.report.append(f"measured: {name}: {rows.size} rows, error {error:.1%}{how}")
    result.measured[name] = [
        times.base_ms, times.per_request_ms, times.per_sqrt_request_ms, times.per_prefill_token_ms,
        times.per_context_token_ms + fixed, round(error, 3), rows.size,
    ]  # fmt: skip


def inside(rows: BenchmarkRows) -> FloatArray:
    """Tokens of context of all requests in service, shape (M,)."""
    return np.asarray(rows.concurrency * rows.context_tokens)


def without(rows: BenchmarkRows, context_ms: float) -> BenchmarkRows:
    """Rows whose ITL lacks the time of the context."""
    return dataclasses.replace(rows, itl_ms=rows.itl_ms - context_ms * inside(rows))
