"""`variant-adapter fit`: a performance profile from benchmark results."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from adapter.commands import flags
from adapter.errors import InputError
from adapter.formats import benchmarks, plots
from analyzer import fit as fitting
from analyzer.errors import FitError, InvalidParameterError


def register(command: argparse.ArgumentParser) -> None:
    """Add the command and its flags."""
    command.description = (
        "Fits ITL = alpha + beta * batch and TTFT = gamma + delta * input_tokens * batch to"
        " benchmark rows by robust regression. Files are CSV with columns batch (or concurrency), itl_ms,"
        " input_tokens and ttft_ms, or JSON of guidellm or vLLM's benchmark_serving."
    )
    command.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="Benchmark results, CSV or JSON"
    )
    command.add_argument(
        "--max-batch",
        type=flags.count,
        metavar="N",
        help="Max batch of the measured server; TTFTs of larger batches, which include waiting, are left out."
        " Default none: all are used",
    )
    command.add_argument("--json", action="store_true", help="Print JSON instead of a table")
    command.add_argument(
        "--plot",
        type=Path,
        metavar="PNG",
        help="File to draw the rows and the fitted lines into. Default none",
    )
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Fit and print; a poor fit is printed with its verdict."""
    rows = [row for path in args.files for row in benchmarks.read(path)]
    try:
        fit = fitting.fit(
            batch=[row.batch for row in rows],
            input_tokens=[row.input_tokens for row in rows],
            itl_ms=[row.itl_ms for row in rows],
            ttft_ms=[row.ttft_ms for row in rows],
            max_batch=args.max_batch,
        )
    except FitError as error:
        raise InputError(str(error)) from error
    except InvalidParameterError as error:
        place = rows[error.index].place if error.index is not None else "rows"
        raise InputError(f"{place}: {error.parameter}: {error.problem}") from error
    if args.plot is not None:
        plots.write_fit(rows, fit, args.plot)
    if args.json:
        print(json.dumps(_document(fit)))
    else:
        for line in _table(fit, rows):
            print(line)
    return 0


def _document(fit: fitting.Fit) -> dict[str, Any]:
    prefill = fit.prefill
    return {
        "alpha": fit.decode.base,
        "beta": fit.decode.slope,
        "gamma": prefill.base if prefill else None,
        "delta": prefill.slope if prefill else None,
        "verdict": fit.verdict,
        "decode": dataclasses.asdict(fit.decode),
        "prefill": dataclasses.asdict(prefill) if prefill else None,
    }


def _table(fit: fitting.Fit, rows: Sequence[benchmarks.Row]) -> Iterator[str]:
    yield from _lines("ITL = alpha + beta * batch", ("alpha", "beta"), fit.decode, rows)
    if fit.prefill is None:
        yield "TTFT: no usable row; gamma and delta stay unknown"
    else:
        yield from _lines(
            "TTFT = gamma + delta * input_tokens * batch", ("gamma", "delta"), fit.prefill, rows
        )
    yield f"verdict: {fit.verdict}"
    yield "for the VariantAutoscaling's modelProfile:"
    yield "  perfParms:"
    yield f'    decodeParms: {{alpha: "{fit.decode.base:.6g}", beta: "{fit.decode.slope:.6g}"}}'
    if fit.prefill is not None:
        yield f'    prefillParms: {{gamma: "{fit.prefill.base:.6g}", delta: "{fit.prefill.slope:.6g}"}}'


def _lines(
    formula: str, names: tuple[str, str], line: fitting.Line, rows: Sequence[benchmarks.Row]
) -> Iterator[str]:
    yield formula
    values = ((line.base, line.base_error), (line.slope, line.slope_error))
    for name, (value, error) in zip(names, values, strict=True):
        yield f"  {name:<6} {value:>12.6g} ms  +- {error:.3g}"
    yield (
        f"  {line.rows} rows, median error {line.median_error:.1%}, R2 {line.r_squared:.4f}:"
        f" {line.verdict}"
    )
    for outlier in line.outliers:
        yield f"  outlier: {rows[outlier].place}"
    for doubt in line.doubts:
        yield f"  doubt: {doubt}"
