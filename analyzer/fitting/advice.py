"""What benchmark rows do not determine, what to measure next, and what capacity a fit implies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from analyzer.fitting.benchmark_rows import BenchmarkRows, disagreement, rows_of
from analyzer.fitting.forms import NAMES
from analyzer.fitting.lines import Fit
from analyzer.fitting.step_fit import LEAST_BASE, StepFit
from analyzer.replicas import BoolArray, FloatArray

_UNSURE = 0.5
_DISAGREES = 0.05
_UNUSABLE = 0.3
"""Mean relative error of ITL over the fitted rows from which on nothing may be sized by the fit. The largest
of 102 groups of rows measured on GPUs is 0.19; with their ITLs exchanged among the rows most are beyond."""
_FEW_OUTLIERS = 8
"""One row in so many may be a mistake, which is named by itself."""
_BETTER = {
    "base_ms": "measure at concurrency 1 and 2",
    "per_request_ms": "measure short prompts and long outputs, such as 128/1024, up to the batch limit",
    "per_prefill_token_ms": "measure long prompts and short outputs, such as 4096/64",
    "per_context_token_ms": "measure long contexts, such as 8192/1024, at several concurrencies",
    "per_prompt_ms": "measure very short prompts beside long ones, such as 32/128 and 4096/128",
    "per_sqrt_request_ms": "measure more concurrencies, such as 1, 2, 4, 8, 16, 32, 64 and 128",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """Sentences about one fit.

    Attributes:
        undetermined: what the rows do not determine.
        measure_next: runs that would determine it, without repetition.

    """

    undetermined: tuple[str, ...]
    measure_next: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImpliedCapacity:
    """The most that one pair of lengths reaches.

    Attributes:
        input_tokens: mean per request.
        output_tokens: mean per request.
        requests: requests in service: as many as the engine holds, or the most that was measured.
        implied_rps: requests per second that the fit gives with so many in service; NaN without TTFT
            where one token ends a request.
        measured_rps: best measured throughput of the rows; NaN where none has one.

    """

    input_tokens: float
    output_tokens: float
    requests: float
    implied_rps: float
    measured_rps: float


def advise(rows: BenchmarkRows, fit: StepFit) -> Advice:
    """Assess a fit by the rows that it was made from."""
    pairs = list(dict.fromkeys([*_undetermined(rows, fit), *_unsure(fit)]))
    return Advice(
        undetermined=tuple(problem for problem, _ in pairs),
        measure_next=tuple(dict.fromkeys(fix for _, fix in pairs if fix)),
    )


def unusable(steps: StepFit | None, lines: Fit | None) -> str:
    """Reason why a fit must not become a profile; empty where it may. Step times count before lines."""
    by_lines = lines.decode.median_error if lines is not None else 0.0
    error = steps.error if steps is not None else by_lines
    if error <= _UNUSABLE:
        return ""
    return (
        f"the fitted ITL is off by {error:.0%} from the rows themselves: they are not of one server whose ITL"
        " grows with the batch; check columns and units, and fit one server and setting at a time"
    )


def capacities(
    rows: BenchmarkRows, fit: StepFit, measured_rps: FloatArray
) -> list[ImpliedCapacity]:
    """What the fit implies for each pair of lengths; `measured_rps`, shape (M,), is NaN where unknown."""
    measured = np.where(np.isnan(measured_rps), rows.throughput_rps, measured_rps)
    left_out = {row.row for row in fit.saturated}
    implied = []
    for members in lengths(rows):
        indices = np.flatnonzero(members)
        prompt = float(rows.input_tokens[indices].mean())
        output = float(rows.output_tokens[indices].mean())
        served = [n for n in indices if n not in left_out]
        most = float(rows.concurrency[served or indices].max())
        if fit.bounds.max_requests is not None or fit.bounds.kv_tokens is not None:
            context = np.array([prompt + output / 2.0])
            most = float(fit.bounds.running(np.array([np.inf]), context)[0])
        load = rows_of(
            concurrency=[most], input_tokens=prompt, output_tokens=output, itl_ms=np.nan,
            open_loop=bool(rows.open_loop[indices].all()),
        )  # fmt: skip
        ttft = float(np.nan_to_num(fit.ttft_ms(load))[0])
        request_ms = ttft + (output - 1.0) * float(fit.itl_ms(load)[0])
        known = measured[indices][~np.isnan(measured[indices])]
        implied.append(
            ImpliedCapacity(
                input_tokens=prompt,
                output_tokens=output,
                requests=most,
                implied_rps=1000.0 * most / request_ms if request_ms > 0 else np.nan,
                measured_rps=float(known.max()) if known.size else np.nan,
            )
        )
    return implied


def lengths(rows: BenchmarkRows) -> list[BoolArray]:
    """Members of each pair of lengths, shapes (M,); lengths up to 5 % apart are one pair."""
    pending = np.ones(rows.size, dtype=np.bool_)
    pairs = []
    while pending.any():
        first = int(np.argmax(pending))
        near = pending & (
            np.abs(rows.input_tokens - rows.input_tokens[first])
            <= 0.05 * np.maximum(rows.input_tokens[first], 1.0)
        )
        near &= np.abs(rows.output_tokens - rows.output_tokens[first]) <= (
            0.05 * rows.output_tokens[first]
        )
        pairs.append(near)
        pending &= ~near
    return pairs


def _undetermined(rows: BenchmarkRows, fit: StepFit) -> Iterator[tuple[str, str]]:
    left_out = {row.row for row in fit.saturated}
    used = rows.part(np.array([row not in left_out for row in range(rows.size)]))
    yield from _inseparable(used, fit)
    if not used.open_loop.any():
        problem = (
            "closed loops of fixed lengths move in lock-step: prompts come in bursts, and TTFT shows those"
            " rather than what independent arrivals wait"
        )
        yield (
            problem,
            "measure one run with random arrivals (a request rate) at 70 % of the capacity",
        )
    if not fit.bounds.certain:
        problem = (
            "saturated rows have one pair of lengths: they show about"
            f" {fit.bounds.kv_tokens:,.0f} tokens of KV cache, or a limit of the batch"
        )
        fix = "read the engine's KV cache size and max_num_seqs, or saturate it with other lengths"
        yield problem, fix
    apart = disagreement(rows.part(_trusted(rows, fit)))
    if apart > _DISAGREES:
        problem = f"rows of equal load differ: whatever the parameters, {apart:.0%} of error remain"
        fix = "fit one setting at a time (speculative decoding, parallelism, version)"
        yield problem, fix


def _trusted(rows: BenchmarkRows, fit: StepFit) -> BoolArray:
    """Rows that are neither saturated nor among few outliers, shape (M,); many are a kind of their own."""
    trusted = np.ones(rows.size, dtype=np.bool_)
    trusted[[row.row for row in fit.saturated]] = False
    if len(fit.outliers) <= int(trusted.sum()) // _FEW_OUTLIERS:
        trusted[list(fit.outliers)] = False
    return trusted


def _inseparable(used: BenchmarkRows, fit: StepFit) -> Iterator[tuple[str, str]]:
    prefill = "per_prefill_token_ms" in fit.undetermined
    context = "per_context_token_ms" in fit.undetermined
    if len(lengths(used)) == 1 and (prefill or context):
        prompt, output = float(used.input_tokens.mean()), float(used.output_tokens.mean())
        problem = (
            f"one pair of lengths ({prompt:.0f}/{output:.0f}): only the growth of ITL with the batch is"
            " known, not which part of it is per request, prefill of others and context"
        )
        fix = (
            "measure a second pair of lengths with another ratio, such as"
            f" {4 * prompt:.0f}/{output:.0f} or {prompt:.0f}/{4 * output:.0f}, at the same concurrencies"
        )
        yield problem, fix
    elif prefill:
        problem = (
            "input/output is the same in all rows: prefill and per_request_ms are not separable"
        )
        yield problem, "measure lengths with another input/output ratio"
    elif context:
        problem = "per_context_token_ms cannot be separated from the other terms"
        yield problem, _BETTER["per_context_token_ms"]
    if "per_request_ms" in fit.undetermined and not prefill:
        problem = "one concurrency: base_ms and per_request_ms are not separable"
        yield problem, "measure at two or more concurrencies, such as 1, 4, 16 and 64"


def _unsure(fit: StepFit) -> Iterator[tuple[str, str]]:
    if fit.step_times.base_ms <= LEAST_BASE * 1.01 * fit.least_itl_ms:
        yield "base_ms is at its bound: all of ITL grows with the batch", _BETTER["base_ms"]
    if fit.step_times.per_request_ms == 0.0 and "per_request_ms" not in fit.undetermined:
        problem = "per_request_ms is at its bound 0: what requests add counts as prefill or context"
        yield problem, _BETTER["per_request_ms"]
    for name in NAMES:
        value, error = getattr(fit.step_times, name), fit.errors[name]
        if name not in fit.undetermined and value > 0 and error > _UNSURE * value:
            yield f"{name} is uncertain by {error / value:.0%}", _BETTER[name]
