"""`variant-adapter fit`: a performance profile from benchmark results."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapter.commands import flags
from adapter.errors import InputError
from adapter.logs import printable
from analyzer.errors import FitError, InvalidParameterError, SaturatedRowsError

if TYPE_CHECKING:
    from adapter.formats import benchmarks
    from analyzer.fitting import advice as step_advice
    from analyzer.fitting import benchmark_rows, step_fit
    from analyzer.fitting import lines as fitting


_MODELS = 3
"""Most models that a doubt names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Result of both fits.

    Attributes:
        rows: usable rows, to which every index below refers.
        unusable: rows with their reasons.
        lines: the lines of ITL and TTFT; None where the rows do not determine them.
        lines_problem: reason why there are no lines.
        steps: step times; None where the lengths are not known.
        steps_problem: reason why there are no step times.
        advice: advice on the step times.
        capacities: implied capacity of each pair of lengths.
        refused: reason why the fit must not become a profile; empty where it may.

    """

    rows: Sequence[benchmarks.Row]
    unusable: Sequence[benchmarks.Row]
    lines: fitting.Fit | None
    lines_problem: str
    steps: step_fit.StepFit | None
    steps_problem: str
    advice: step_advice.Advice | None
    capacities: Sequence[step_advice.ImpliedCapacity]
    refused: str


def register(command: argparse.ArgumentParser) -> None:
    """Add the command and its flags."""
    command.description = (
        "Fits the times of an engine's step (base, per request, per prefill token, per context token), and"
        " ITL = alpha + beta * batch and TTFT = gamma + delta * input_tokens * batch, to benchmark rows."
        " Saturated rows are detected, reported and left out. Files are CSV with columns batch (or"
        " concurrency; without it request_throughput or request_rate, from which it is derived), itl_ms,"
        " input_tokens, output_tokens and ttft_ms, JSON of vLLM's bench serve or its sweep's CSV, SGLang's"
        " JSON lines, guidellm's JSON, YAML or CSV, GenAI-Perf's JSON, or inference-perf's stage reports."
        " A fit whose ITL is off by more than 30 % is not printed as a profile, and the exit status is 1."
    )
    command.add_argument(
        "files",
        nargs="+",
        type=flags.input_path,
        metavar="FILE",
        help="Benchmark results, CSV, JSON or YAML; - reads standard input",
    )
    command.add_argument(
        "--max-batch",
        type=flags.count,
        metavar="N",
        help="Largest number of requests in service (vLLM's --max-num-seqs) when measured; larger rows"
        " are left out. Default none: all are used",
    )
    command.add_argument("--json", action="store_true", help="Print JSON instead of a table")
    command.add_argument(
        "--plot",
        type=flags.path,
        metavar="PNG",
        help="File to draw the rows and the fitted lines into. Default none",
    )
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Fit and print; 1 where the fit may not be used."""
    # numpy and scipy, which `--help` does not need, here and below.
    from adapter.formats import benchmarks, plots  # noqa: PLC0415

    rows = benchmarks.read_all(args.files)
    try:
        result = fit_rows(rows, args.max_batch)
    except InputError as error:
        raise InputError("\n  ".join([str(error), *_notes(rows, rows)])) from error
    if args.plot is not None:
        if result.lines is None:
            raise InputError(f"no plot: {result.lines_problem}")
        plots.write_fit(result.rows, result.lines, args.plot)
    if args.json:
        print(json.dumps(_document(result), allow_nan=False))
    else:
        for line in _table(result):
            print(printable(line))
    return 1 if result.refused else 0


def fit_rows(rows: Sequence[benchmarks.Row], max_batch: int | None) -> Result:
    """Both fits; neither uses the rows that the fit of step times finds saturated.

    Raises:
        InputError: neither fit is possible, or a number is out of its range.

    """
    import numpy as np  # noqa: PLC0415 - see `run`

    from adapter.formats.benchmark_tools import units  # noqa: PLC0415
    from analyzer.fitting import advice as step_advice  # noqa: PLC0415
    from analyzer.fitting import lines as fitting  # noqa: PLC0415

    rows = units.without_odd(rows)
    usable = [row for row in rows if not row.problem]
    # Step times need both lengths; rows that have them stand first, so an index means the same in both fits.
    usable.sort(key=_lengths_missing)
    complete = [row for row in usable if not _lengths_missing(row)]
    try:
        steps, steps_problem, table = _steps(complete, max_batch)
    except InputError as error:
        if len(complete) == len(usable):
            raise
        # The other rows may still determine alpha and beta.
        steps, steps_problem, table = None, str(error), None
    waited = {row.row for row in steps.saturated} if steps else set()
    untimed = waited | (set(steps.waited) if steps else set())
    lines, lines_problem = None, ""
    try:
        lines = fitting.fit(
            batch=[row.batch for row in usable],
            input_tokens=[row.input_tokens for row in usable],
            itl_ms=[math.nan if i in waited else row.itl_ms for i, row in enumerate(usable)],
            ttft_ms=[math.nan if i in untimed else row.ttft_ms for i, row in enumerate(usable)],
            max_batch=max_batch,
        )
    except FitError as error:
        if steps is None:
            raise InputError(str(error)) from error
        lines_problem = str(error)
    except InvalidParameterError as error:
        place = usable[error.index].place if error.index is not None else "rows"
        raise InputError(f"{place}: {error.parameter}: {error.problem}") from error
    advice, capacities = None, list[step_advice.ImpliedCapacity]()
    if steps is not None and table is not None:
        advice = step_advice.advise(table, steps)
        throughput = np.array([row.throughput_rps for row in complete])
        capacities = step_advice.capacities(table, steps, throughput)
    return Result(
        rows=usable,
        unusable=[row for row in rows if row.problem],
        lines=lines,
        lines_problem=lines_problem,
        steps=steps,
        steps_problem=steps_problem,
        advice=advice,
        capacities=capacities,
        refused=units.problem(usable) or step_advice.unusable(steps, lines),
    )


def _lengths_missing(row: benchmarks.Row) -> bool:
    return math.isnan(row.input_tokens) or math.isnan(row.output_tokens)


def _steps(
    rows: Sequence[benchmarks.Row], max_batch: int | None
) -> tuple[step_fit.StepFit | None, str, benchmark_rows.BenchmarkRows | None]:
    from analyzer.fitting import benchmark_rows, step_fit  # noqa: PLC0415 - see `run`

    if not rows:
        return None, "input_tokens or output_tokens is missing in all rows", None
    try:
        table = benchmark_rows.rows_of(
            concurrency=[row.batch for row in rows],
            input_tokens=[row.input_tokens for row in rows],
            output_tokens=[row.output_tokens for row in rows],
            itl_ms=[row.itl_ms for row in rows],
            ttft_ms=[row.ttft_ms for row in rows],
            open_loop=[row.open_loop for row in rows],
            unlimited=[row.unlimited for row in rows],
        )
        return step_fit.fit_steps(table, max_num_seqs=max_batch), "", table
    except SaturatedRowsError as error:
        reasons = "".join(f"\n  {rows[row].place}: {reason}" for row, reason in error.rows)
        raise InputError(f"{error}:{reasons}") from error
    except FitError as error:
        raise InputError(str(error)) from error
    except InvalidParameterError as error:
        place = rows[error.index].place if error.index is not None else "rows"
        name = "batch" if error.parameter == "concurrency" else error.parameter
        raise InputError(f"{place}: {name}: {error.problem}") from error


def _document(result: Result) -> dict[str, Any]:
    lines, steps = result.lines, result.steps
    prefill = lines.prefill if lines else None
    return {
        "alpha": lines.decode.base if lines else None,
        "beta": lines.decode.slope if lines else None,
        "gamma": prefill.base if prefill else None,
        "delta": prefill.slope if prefill else None,
        "quality": lines.quality if lines else None,
        "unusable": result.refused,
        "decode": dataclasses.asdict(lines.decode) if lines else None,
        "prefill": dataclasses.asdict(prefill) if prefill else None,
        "steps": {
            **dataclasses.asdict(steps.step_times),
            "errors": steps.errors,
            "mean_error": steps.error,
            "rows": steps.rows,
            "max_requests": steps.bounds.max_requests,
            "kv_tokens": steps.bounds.kv_tokens,
        }
        if steps
        else None,
        "saturated": [
            {"place": result.rows[row.row].place, "running": row.running, "reason": row.reason}
            for row in (steps.saturated if steps else ())
        ],
        "left_out": [{"place": row.place, "reason": row.problem} for row in result.unusable],
        "doubts": list(_doubts(result.rows)),
        "notes": [{"place": row.place, "note": row.note} for row in result.rows if row.note],
        "undetermined": list(result.advice.undetermined) if result.advice else [],
        "measure_next": list(result.advice.measure_next) if result.advice else [],
        "capacities": [
            {
                name: None if math.isnan(value) else value
                for name, value in dataclasses.asdict(capacity).items()
            }
            for capacity in result.capacities
        ],
    }


def _doubts(rows: Sequence[benchmarks.Row]) -> Iterator[str]:
    """What says that rows are of several models."""
    models = sorted({row.model for row in rows if row.model and not row.problem})
    if len(models) > 1:
        named = ", ".join(models[:_MODELS]) + (", …" if len(models) > _MODELS else "")
        yield f"rows are of {len(models)} models ({named}); a profile is of one: fit them apart"


def _notes(unusable: Sequence[benchmarks.Row], rows: Sequence[benchmarks.Row]) -> Iterator[str]:
    """Reasons why rows are left out, or a part of them, each once."""
    from adapter.formats import benchmarks  # noqa: PLC0415 - see `run`

    for line in benchmarks.alike((row.place, row.problem) for row in unusable):
        yield f"left out: {line}"
    for line in benchmarks.alike((row.place, "" if row.problem else row.note) for row in rows):
        yield f"note: {line}"


def _table(result: Result) -> Iterator[str]:
    yield from _notes(result.unusable, result.rows)
    for doubt in _doubts(result.rows):
        yield f"doubt: {doubt}"
    if result.steps is None:
        yield f"step times: not fitted: {result.steps_problem}"
    else:
        yield from _step_lines(result, result.steps)
    if result.lines is None:
        yield f"alpha, beta, gamma and delta: not fitted: {result.lines_problem}"
    else:
        yield from _lines(
            "ITL = alpha + beta * batch", ("alpha", "beta"), result.lines.decode, result.rows
        )
        if result.lines.prefill is None:
            yield "TTFT: no usable row; gamma and delta are not fitted"
        else:
            yield from _lines(
                "TTFT = gamma + delta * input_tokens * batch",
                ("gamma", "delta"),
                result.lines.prefill,
                result.rows,
            )
        yield f"fit quality: {result.lines.quality}"
    if result.refused:
        yield f"not usable, so no profile: {result.refused}"
    else:
        yield from _profile(result)


def _step_lines(result: Result, steps: step_fit.StepFit) -> Iterator[str]:
    from adapter.formats import benchmarks  # noqa: PLC0415 - see `run`
    from analyzer.fitting import forms  # noqa: PLC0415 - see `run`

    for saturated in steps.saturated:
        yield f"saturated, left out: {result.rows[saturated.row].place}: {saturated.reason}"
    why = "TTFT includes queueing time; only ITL is used"
    waited = ((result.rows[row].place, why) for row in steps.waited)
    yield from (f"TTFT left out: {line}" for line in benchmarks.alike(waited))
    yield "step = base + per request * n + per prefill token * prompt tokens + per context token * context"
    for name in forms.NAMES:
        value, error = getattr(steps.step_times, name), steps.errors[name]
        if name in {"per_sqrt_request_ms", "per_prompt_ms"} and value == 0.0:
            continue
        unsure = "  (not determined by these rows)" if name in steps.undetermined else ""
        if not unsure and value == 0.0:
            unsure = "  (at its bound)"
        yield f"  {name.removesuffix('_ms').replace('_', ' '):<18} {value:>12.6g} ms  +- {error:.3g}{unsure}"
    yield f"  {steps.rows} rows, mean error of ITL {steps.error:.1%}"
    for row in steps.outliers:
        yield f"  outlier: {result.rows[row].place}"
    tails = [row.itl_p99_ms / row.itl_ms for row in result.rows if row.itl_p99_ms > 0]
    if tails:
        yield f"  ITL p99/mean ratio {statistics.median(tails):.2f}, median of {len(tails)} rows"
    for capacity in result.capacities:
        measured = capacity.measured_rps
        best = "none measured" if math.isnan(measured) else f"best measured {measured:.4g}"
        yield (
            f"capacity at {capacity.input_tokens:.0f}/{capacity.output_tokens:.0f} tokens:"
            f" {capacity.implied_rps:.4g} requests/s with {capacity.requests:.4g} in service; {best}"
        )
    if result.advice is not None:
        for problem in result.advice.undetermined:
            yield f"not determined: {problem}"
        for fix in result.advice.measure_next:
            yield f"next: {fix}"


def _profile(result: Result) -> Iterator[str]:
    yield "for the VariantAutoscaling's modelProfile:"
    yield "  perfParms:"
    if result.lines is not None:
        decode, prefill = result.lines.decode, result.lines.prefill
        yield f'    decodeParms: {{alpha: "{decode.base:.6g}", beta: "{decode.slope:.6g}"}}'
        if prefill is not None:
            yield f'    prefillParms: {{gamma: "{prefill.base:.6g}", delta: "{prefill.slope:.6g}"}}'
    if result.steps is not None:
        times = result.steps.step_times
        fields = {
            "base": times.base_ms,
            "perRequest": times.per_request_ms,
            "perPrefillToken": times.per_prefill_token_ms,
            "perContextToken": times.per_context_token_ms,
        }
        if times.per_sqrt_request_ms > 0:
            fields["perSqrtRequest"] = times.per_sqrt_request_ms
        if times.per_prompt_ms > 0:
            fields["perPrompt"] = times.per_prompt_ms
        values = ", ".join(f'{name}: "{value:.6g}"' for name, value in fields.items())
        yield f"    stepParms: {{{values}}}"


def _lines(
    formula: str, names: tuple[str, str], line: fitting.Line, rows: Sequence[benchmarks.Row]
) -> Iterator[str]:
    yield formula
    values = ((line.base, line.base_error), (line.slope, line.slope_error))
    for name, (value, error) in zip(names, values, strict=True):
        yield f"  {name:<6} {value:>12.6g} ms  +- {error:.3g}"
    yield (
        f"  {line.rows} rows, median error {line.median_error:.1%}, R2 {line.r_squared:.4f}:"
        f" {line.quality}"
    )
    for outlier in line.outliers:
        yield f"  outlier: {rows[outlier].place}"
    for doubt in line.doubts:
        yield f"  doubt: {doubt}"
