"""What benchmark rows cannot say of a step, in sentences, what to measure next, and what capacity the fit implies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from analyzer.benchmark_rows import BenchmarkRows, disagreement, rows_of
from analyzer.replicas import BoolArray
from analyzer.step_fit import NAMES, StepFit

_UNSURE = 0.5
_DISAGREES = 0.05
_BETTER = {
    "base_ms": "measure at concurrency 1 and 2",
    "per_request_ms": "measure short prompts and long outputs, such as 128/1024, at concurrencies up to the limit",
    "per_prefill_token_ms": "measure long prompts and short outputs, such as 4096/64",
    "per_context_token_ms": "measure long contexts, such as 8192/1024, at several concurrencies",
    "per_sqrt_request_ms": "measure more concurrencies, such as 1, 2, 4, 8, 16, 32, 64 and 128",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """Sentences about one fit.

    Attributes:
        undetermined: what the rows do not tell.
        measure_next: runs that would tell it; as many as there are things to tell, without repetition.

    """

    undetermined: tuple[str, ...]
    measure_next: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The most that one pair of lengths reaches.

    Attributes:
        input_tokens: mean per request.
        output_tokens: mean per request.
        requests: in service: as many as the engine holds, or the most that was measured.
        implied_rps: requests per second that the fit gives with so many in service.
        measured_rps: the best of the rows; NaN where none says.

    """

    input_tokens: float
    output_tokens: float
    requests: float
    implied_rps: float
    measured_rps: float


def advise(rows: BenchmarkRows, fit: StepFit) -> Advice:
    """Judge a fit by the rows that it was made from."""
    pairs = list(dict.fromkeys([*_undetermined(rows, fit), *_unsure(fit)]))
    return Advice(
        undetermined=tuple(said for said, _ in pairs),
        measure_next=tuple(dict.fromkeys(better for _, better in pairs if better)),
    )


def capacities(rows: BenchmarkRows, fit: StepFit, measured_rps: np.ndarray) -> list[Capacity]:
    """What the fit implies for each pair of lengths; `measured_rps`, shape (M,), NaN where it is not known."""
    measured = np.where(np.isnan(measured_rps), rows.throughput_rps, measured_rps)
    left_out = {row.row for row in fit.saturated}
    found = []
    for members in lengths(rows):
        places = np.flatnonzero(members)
        prompt = float(rows.input_tokens[places].mean())
        output = float(rows.output_tokens[places].mean())
        served = [n for n in places if n not in left_out]
        most = float(rows.concurrency[served if served else places].max())
        if fit.bounds.max_requests is not None or fit.bounds.kv_tokens is not None:
            context = np.array([prompt + output / 2.0])
            most = float(fit.bounds.running(np.array([np.inf]), context)[0])
        load = rows_of(
            concurrency=[most], input_tokens=prompt, output_tokens=output, itl_ms=np.nan,
            open_loop=bool(rows.open_loop[places].all()),
        )  # fmt: skip
        ttft = float(np.nan_to_num(fit.ttft_ms(load))[0])
        request_ms = ttft + (output - 1.0) * float(fit.itl_ms(load)[0])
        known = measured[places][~np.isnan(measured[places])]
        found.append(
            Capacity(
                input_tokens=prompt,
                output_tokens=output,
                requests=most,
                implied_rps=1000.0 * most / request_ms,
                measured_rps=float(known.max()) if known.size else np.nan,
            )
        )
    return found


def lengths(rows: BenchmarkRows) -> list[BoolArray]:
    """Members of each pair of lengths, shapes (M,); lengths up to 5 % apart are one pair."""
    left = np.ones(rows.size, dtype=np.bool_)
    found = []
    while left.any():
        first = int(np.argmax(left))
        near = left & (
            np.abs(rows.input_tokens - rows.input_tokens[first])
            <= 0.05 * np.maximum(rows.input_tokens[first], 1.0)
        )
        near &= np.abs(rows.output_tokens - rows.output_tokens[first]) <= (
            0.05 * rows.output_tokens[first]
        )
        found.append(near)
        left &= ~near
    return found


def _undetermined(rows: BenchmarkRows, fit: StepFit) -> Iterator[tuple[str, str]]:
    left_out = {row.row for row in fit.saturated}
    used = rows.part(np.array([row not in left_out for row in range(rows.size)]))
    groups = lengths(used)
    prefill, context = (NAMES.index(name) for name in ("per_prefill_token_ms", "per_context_token_ms"))
    missing = {NAMES.index(name) for name in fit.undetermined}
    if len(groups) == 1 and missing & {prefill, context}:
        prompt, output = float(used.input_tokens.mean()), float(used.output_tokens.mean())
        yield (
            f"one pair of lengths ({prompt:.0f}/{output:.0f}): only the growth of ITL with the batch is known,"
            " not which part of it is per request, prefill of others and context",
            f"measure a second pair of lengths with another ratio, such as {4 * prompt:.0f}/{output:.0f}"
            f" and {prompt:.0f}/{4 * output:.0f}, at the same concurrencies",
        )
    else:
        if prefill in missing:
            yield (
                "input/output is the same in all rows: per_prefill_token_ms and per_request_ms are not separable",
                "measure lengths with another input/output ratio",
            )
        if context in missing:
            yield (
                "per_context_token_ms cannot be told from the other terms",
                _BETTER["per_context_token_ms"],
            )
    if "per_request_ms" in fit.undetermined and np.ptp(used.concurrency) <= 0.05 * used.concurrency.max():
        yield (
            "one concurrency: base_ms and per_request_ms are not separable",
            "measure at two or more concurrencies, such as 1, 4, 16 and 64",
        )
    if not used.open_loop.any():
        yield (
            "closed loops of fixed lengths move in lock-step: prompts come in bursts, and TTFT shows those"
            " rather than what independent arrivals wait",
            "measure one run with random arrivals (a request rate) at about 70 % of the capacity below",
        )
    if not fit.bounds.certain:
        yield (
            f"saturated rows have one pair of lengths: about {fit.bounds.kv_tokens:,.0f} tokens of KV cache, or"
            " a limit of the batch",
            "read the engine's KV cache size and max_num_seqs, or saturate it with other lengths",
        )
    apart = disagreement(used)
    if apart > _DISAGREES:
        yield (
            f"rows of equal load differ: whatever the parameters, {apart:.0%} of error remain",
            "fit one setting of the server at a time (speculative decoding, parallelism, version)",
        )


def _unsure(fit: StepFit) -> Iterator[tuple[str, str]]:
    for name in NAMES:
        value, error = getattr(fit.step_times, name), fit.errors[name]
        if name not in fit.undetermined and value > 0 and error > _UNSURE * value:
            yield f"{name} is uncertain by {error / value:.0%}", _BETTER[name]
