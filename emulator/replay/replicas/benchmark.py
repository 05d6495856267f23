"""A benchmark of an engine in virtual time, as an operator runs it: closed loops over lengths and loads."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from analyzer.errors import FitError
from analyzer.fitting.benchmark_rows import BenchmarkRows, rows_of
from analyzer.fitting.step_fit import StepFit, fit_steps
from emulator.engines.protocol import Completion, EngineFactory
from emulator.engines.runs import serve_closed_loop
from emulator.replay.replicas.specs import OtherEngine, ProfileSteps, VllmEngine

LENGTHS = ((256, 256), (1024, 128), (2048, 512), (4096, 64))
"""Mean input and output tokens of the runs: ratios and sums differ, which tells all terms apart."""
LENGTHS_CV = 0.3
"""Coefficient of variation of the lengths; equal ones would prefill in lock-step."""
CONCURRENCIES = (1, 4, 16, 32, 64, 128, 256)
LONGEST = 3
"""Longest length of a run, as a multiple of the mean."""
REQUESTS_PER_CLIENT = 4
LEAST_REQUESTS = 24
SEED = 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fitted:
    """Result of a benchmark.

    Attributes:
        fit: Step times from its unsaturated rows.
        rows: All rows.
        max_requests: Most requests that the engine has in service at once.

    """

    fit: StepFit
    rows: BenchmarkRows
    max_requests: int


@functools.lru_cache(maxsize=64)
def fitted(engine: VllmEngine | ProfileSteps | OtherEngine) -> Fitted:
    """Benchmark an engine and fit step times to its rows; one benchmark for all policies of a process.

    Raises:
        FitError: The rows do not determine step times.
        ValueError: The engine refuses a request of the benchmark.

    """
    factory = engine.factory()
    most = factory().max_requests
    measured = [
        _row(factory, inputs, outputs, concurrency, seed=SEED + number)
        for number, (inputs, outputs) in enumerate(_fitting(engine))
        for concurrency in CONCURRENCIES
        if concurrency <= most
    ]
    if not measured:
        raise FitError("benchmark of the engine: its KV cache holds no request of the benchmark")
    columns = np.array(measured).T
    rows = rows_of(
        concurrency=columns[0],
        input_tokens=columns[1],
        output_tokens=columns[2],
        itl_ms=columns[3],
        ttft_ms=columns[4],
    )
    try:
        fit = fit_steps(rows, max_num_seqs=most)
    except FitError as error:
        raise FitError(f"benchmark of the engine: {error}") from error
    return Fitted(fit=fit, rows=rows, max_requests=most)


def _fitting(engine: VllmEngine | ProfileSteps | OtherEngine) -> list[tuple[int, int]]:
    """The lengths of which the KV cache holds the longest request."""
    kv_tokens = None if isinstance(engine, ProfileSteps) else engine.kv_tokens
    return [
        lengths for lengths in LENGTHS if kv_tokens is None or LONGEST * sum(lengths) <= kv_tokens
    ]


def _row(
    factory: EngineFactory, inputs: int, outputs: int, concurrency: int, *, seed: int
) -> tuple[float, ...]:
    """Concurrency, mean tokens, mean ITL and mean TTFT of one run, without its beginning and its end."""
    rng = np.random.default_rng(seed)
    count = max(REQUESTS_PER_CLIENT * concurrency, LEAST_REQUESTS)
    completions = serve_closed_loop(
        factory(),
        concurrency=concurrency,
        input_tokens=_lengths(rng, inputs, count),
        output_tokens=_lengths(rng, outputs, count),
    )
    steady = completions[concurrency : len(completions) - concurrency] or completions
    gaps = sum(item.output_tokens - 1 for item in steady)
    return (
        concurrency,
        inputs,
        outputs,
        sum(item.last_token_ms - item.first_token_ms for item in steady) / max(gaps, 1),
        float(np.mean([_ttft_ms(item) for item in steady])),
    )


def _ttft_ms(item: Completion) -> float:
    return item.first_token_ms - item.arrival_ms


def _lengths(rng: np.random.Generator, mean: int, count: int) -> list[int]:
    variance = float(np.log1p(LENGTHS_CV**2))
    drawn = rng.lognormal(np.log(mean) - variance / 2, np.sqrt(variance), count)
    return [int(tokens) for tokens in np.clip(np.rint(drawn), 2, LONGEST * mean)]
