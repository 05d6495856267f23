"""Step times come back from benchmark rows; saturated rows are found; what rows cannot tell is said."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from analyzer import errors
from analyzer.fitting import advice as step_advice
from analyzer.fitting import benchmark_rows, saturation, step_fit
from analyzer.fitting.benchmark_rows import BenchmarkRows

BASE, REQUEST, PREFILL, CONTEXT = 12.0, 0.11, 0.09, 2e-5
GRID = [
    (prompt, output, n)
    for prompt, output in ((1024, 128), (1024, 1024), (4096, 512))
    for n in (4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
]


def rows(
    *,
    grid: list[tuple[int, int, float]] = GRID,
    kv_tokens: float = np.inf,
    max_requests: float = np.inf,
    bend: float = 0.0,
    per_prompt: float = 0.0,
    prefill: float = PREFILL,
    per_context: float = CONTEXT,
    noise: float = 0.0,
    seed: int = 0,
    open_loop: bool = False,
) -> BenchmarkRows:
    """Closed loops of an engine with these step times; what finds no place waits before its prompt."""
    rng = np.random.default_rng(seed)
    prompt, output, n = (np.array(column, dtype=np.float64) for column in zip(*grid, strict=True))
    context = prompt + output / 2
    inside = np.minimum(n, np.minimum(max_requests, kv_tokens / context))
    others = inside if open_loop else inside - 1
    itl = (
        BASE
        + REQUEST * inside
        + per_context * inside * context
        + prefill * others * prompt / output
    )
    itl += bend * np.sqrt(inside) + per_prompt * others / output
    itl *= np.exp(rng.normal(0, noise, n.size))
    ttft = (20 + itl + prefill * prompt + 0.001 * prompt * inside) * np.exp(
        rng.normal(0, noise, n.size)
    )
    # Little's law for those in service gives the wait of those who are not.
    ttft += (n - inside) / inside * (ttft + (output - 1) * itl)
    return benchmark_rows.rows_of(
        concurrency=n, input_tokens=prompt, output_tokens=output, itl_ms=itl, ttft_ms=ttft,
        open_loop=open_loop,
    )  # fmt: skip


def values(fit: step_fit.StepFit) -> list[float]:
    times = fit.step_times
    return [
        times.base_ms,
        times.per_request_ms,
        times.per_prefill_token_ms,
        times.per_context_token_ms,
        times.per_sqrt_request_ms,
    ]


@pytest.mark.parametrize("open_loop", [False, True])
def test_exact_rows_give_the_exact_step_times(*, open_loop: bool) -> None:
    """Closed loops and random arrivals both give back the four coefficients, and no bend."""
    fit = step_fit.fit_steps(rows(open_loop=open_loop))
    assert values(fit) == pytest.approx([BASE, REQUEST, PREFILL, CONTEXT, 0.0], rel=1e-6)
    assert (fit.saturated, fit.waited, fit.outliers, fit.undetermined) == ((), (), (), ())
    assert fit.bounds == step_fit.Bounds()


def test_the_fit_predicts_rows_that_it_has_not_seen() -> None:
    """ITL and TTFT of other loads and lengths follow from rows with 2 % noise."""
    other = rows(grid=[(2048, 256, 24.0), (512, 512, 48.0), (8192, 1024, 12.0)])
    fit = step_fit.fit_steps(rows(noise=0.02))
    assert fit.itl_ms(other) == pytest.approx(other.itl_ms, rel=0.05)
    assert fit.ttft_ms(other) == pytest.approx(other.ttft_ms, rel=0.15)


def test_standard_errors_are_honest() -> None:
    """Over many samples the truth is off by about as much as the standard errors say."""
    truth = np.array([BASE, REQUEST, PREFILL, CONTEXT])
    scores = []
    for seed in range(60):
        fit = step_fit.fit_steps(rows(noise=0.03, seed=seed))
        if fit.undetermined or fit.step_times.per_sqrt_request_ms > 0:
            continue
        names = ("base_ms", "per_request_ms", "per_prefill_token_ms", "per_context_token_ms")
        spread = np.array([fit.errors[name] for name in names])
        inside = spread > 0
        scores.extend(((np.array(values(fit)[:4]) - truth)[inside] / spread[inside]).tolist())
    assert len(scores) > 100
    assert 0.7 < np.std(scores) < 1.6


def test_one_wrong_row_does_not_bend_the_fit() -> None:
    """A row whose ITL is twice too high is named as an outlier and leaves the others' line alone."""
    data = rows(noise=0.005)
    data.itl_ms[7] *= 2
    fit = step_fit.fit_steps(data)
    assert fit.outliers == (7,)
    clean = rows()
    others = np.arange(clean.size) != 7
    assert fit.itl_ms(clean)[others] == pytest.approx(clean.itl_ms[others], rel=0.03)


def test_a_bend_over_the_batch_is_taken_where_it_is_there() -> None:
    """Steps that grow with sqrt(n) get that term; straight ones with noise do not."""
    bent = step_fit.fit_steps(rows(bend=3.0))
    assert bent.step_times.per_sqrt_request_ms == pytest.approx(3.0, rel=1e-4)
    straight = [
        step_fit.fit_steps(rows(noise=0.02, seed=seed)).step_times.per_sqrt_request_ms
        for seed in range(20)
    ]
    assert sum(value == 0 for value in straight) >= 14


def test_the_time_of_a_prompt_is_taken_where_it_is_there() -> None:
    """What every prompt costs, whatever its length, is told from its tokens; noise seldom brings it in."""
    grid = [*GRID, *((32, 128, n) for n in (4.0, 16.0, 64.0, 128.0))]
    fit = step_fit.fit_steps(rows(grid=grid, per_prompt=20.0))
    assert fit.step_times.per_prompt_ms == pytest.approx(20.0, rel=0.3)
    assert fit.step_times.per_prefill_token_ms == pytest.approx(PREFILL, rel=0.05)
    without = [
        step_fit.fit_steps(rows(grid=grid, noise=0.02, seed=seed)).step_times.per_prompt_ms
        for seed in range(20)
    ]
    assert sum(value == 0 for value in without) >= 16


def test_a_stall_at_the_start_is_no_time_of_prompts() -> None:
    """TTFTs beyond the prompts of all requests inside are left out; ITL and the TTFT line stay."""
    data, clean = rows(), rows()
    data.ttft_ms[:2] += 6000.0
    fit = step_fit.fit_steps(data)
    assert fit.waited == (0, 1)
    assert fit.ttft_ms(clean) == pytest.approx(clean.ttft_ms, rel=0.05)
    assert values(fit)[:4] == pytest.approx([BASE, REQUEST, PREFILL, CONTEXT], rel=1e-6)


def test_rows_beyond_the_kv_cache_are_left_out_and_tell_its_size() -> None:
    """Waiting rows are found without being told, and Little's law gives back the tokens that fit."""
    fit = step_fit.fit_steps(rows(kv_tokens=150_000))
    full = {place for place, (i, o, n) in enumerate(GRID) if n * (i + o / 2) > 1.3 * 150_000}
    saturated = {row.row for row in fit.saturated}
    assert full <= saturated
    assert all(GRID[row][2] * (GRID[row][0] + GRID[row][1] / 2) > 150_000 for row in saturated)
    assert fit.bounds.kv_tokens == pytest.approx(150_000, rel=0.1)
    assert fit.bounds.certain
    assert values(fit) == pytest.approx([BASE, REQUEST, PREFILL, CONTEXT, 0.0], rel=1e-3)
    assert all("follow from the load without waiting" in row.reason for row in fit.saturated)


def test_a_bound_of_requests_is_told_from_one_of_tokens() -> None:
    """Rows of different lengths that all hold as many requests are bound by the batch."""
    grid = [(i, o, n) for i, o, n in GRID if n != 64] + [(i, o, 200.0) for i, o, _ in GRID[::6]]
    fit = step_fit.fit_steps(rows(grid=grid, max_requests=48))
    assert fit.bounds.kv_tokens is None
    assert fit.bounds.max_requests == pytest.approx(48, rel=0.1)
    assert fit.itl_ms(rows(grid=[(1024, 128, 500.0)])) == pytest.approx(
        rows(grid=[(1024, 128, 48.0)]).itl_ms, rel=0.02
    )


def test_a_known_limit_leaves_out_rows_above_it() -> None:
    """max_num_seqs is believed where it is given, TTFTs or not."""
    data = rows(max_requests=64)
    fit = step_fit.fit_steps(data, max_num_seqs=64)
    assert {row.row for row in fit.saturated} == {5, 11, 17}
    assert all("is above max_num_seqs 64" in row.reason for row in fit.saturated)


def test_a_slow_start_spoils_only_the_ttft() -> None:
    """Seconds in TTFT beside an ITL that follows the concurrency are no saturation: ITL is used."""
    data = rows()
    data.ttft_ms[[4, 5, 11]] += 9000
    fit = step_fit.fit_steps(data)
    assert set(fit.waited) == {4, 5, 11}
    assert fit.saturated == ()
    assert fit.rows == data.size


def test_a_warm_up_does_not_hide_that_others_are_saturated() -> None:
    """One request that waited for seconds tells nothing of the limit that the rows beyond it are held by."""
    grid = [*GRID, (512, 128, 1.0)]
    data = rows(grid=grid, kv_tokens=150_000)
    expected = {row.row for row in step_fit.fit_steps(rows(kv_tokens=150_000)).saturated}
    wait_ms = 9000.0
    # By Little's law the wait counts as requests inside, as it is read from a tool's throughput.
    data.concurrency[-1] += wait_ms / data.request_ms[-1]
    data.ttft_ms[-1] += wait_ms
    fit = step_fit.fit_steps(data)
    assert expected <= {row.row for row in fit.saturated}
    assert fit.bounds.kv_tokens == pytest.approx(150_000, rel=0.1)
    assert values(fit) == pytest.approx([BASE, REQUEST, PREFILL, CONTEXT, 0.0], rel=1e-3)


def at_once(concurrency: list[float]) -> BenchmarkRows:
    n = np.array(concurrency)
    inside = np.minimum(n, 256)
    itl = 8 + 0.05 * inside
    ttft = 20 + 0.1 * inside
    ttft += (n - inside) / inside * (ttft + 127 * itl)
    return benchmark_rows.rows_of(
        concurrency=n, input_tokens=512, output_tokens=128, itl_ms=itl, ttft_ms=ttft, unlimited=True
    )


def test_runs_that_sent_everything_at_once_are_doubted() -> None:
    """Small ones teach; those that waited are left out; where all waited, all are named."""
    fit = step_fit.fit_steps(at_once([32, 128, 512, 1000]))
    assert [row.row for row in fit.saturated] == [2, 3]
    assert all(row.reason.startswith("all requests were sent at once") for row in fit.saturated)
    assert fit.itl_ms(at_once([64])) == pytest.approx([11.2])
    with pytest.raises(errors.SaturatedRowsError, match="0 usable rows of 2") as caught:
        step_fit.fit_steps(at_once([600, 1000]))
    assert [row for row, _ in caught.value.rows] == [0, 1]
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own error
    assert (str(again), again.rows) == (str(caught.value), caught.value.rows)


def test_one_pair_of_lengths_gives_the_sum_and_says_so() -> None:
    """ITL at those lengths is right; prefill, request and context are marked as not told apart."""
    grid = [(512, 128, n) for n in (1.0, 4.0, 16.0, 64.0)]
    data = rows(grid=grid)
    fit = step_fit.fit_steps(data)
    assert fit.itl_ms(data) == pytest.approx(data.itl_ms)
    assert set(fit.undetermined) == {
        "per_request_ms", "per_prefill_token_ms", "per_context_token_ms",
    }  # fmt: skip
    advice = step_advice.advise(data, fit)
    assert "one pair of lengths (512/128)" in advice.undetermined[0]
    assert "such as 2048/128 or 512/512" in advice.measure_next[0]
    assert any("move in lock-step" in said for said in advice.undetermined)


def test_the_capacity_stands_beside_the_best_measured() -> None:
    """Saturated rows measure the throughput that the fit implies for the batch that they held."""
    data = rows(kv_tokens=150_000)
    fit = step_fit.fit_steps(data)
    capacities = step_advice.capacities(data, fit, data.throughput_rps)
    assert [(c.input_tokens, c.output_tokens) for c in capacities] == [
        (1024, 128), (1024, 1024), (4096, 512),
    ]  # fmt: skip
    assert capacities[2].implied_rps == pytest.approx(capacities[2].measured_rps, rel=0.1)
    assert capacities[2].requests == pytest.approx(150_000 / 4352, rel=0.1)


def test_prefill_costs_others_no_more_than_a_prompt_waits_for_it() -> None:
    """One long prompt at a low load does not show context as prefill, which other loads would multiply."""
    grid = [(1024, 1024, n) for n in (4.0, 8.0, 16.0, 32.0, 64.0)]
    grid += [(1024, 8192, n) for n in (4.0, 16.0, 64.0)] + [(8192, 1024, 4.0)]
    data = rows(grid=grid, prefill=0.015, per_context=8e-5, noise=0.02, seed=5)
    fit = step_fit.fit_steps(data)
    assert fit.step_times.per_prefill_token_ms <= data.ttft_ms[-1] / 8192
    others = rows(
        grid=[(8192, 1024, n) for n in (16.0, 32.0, 64.0)], prefill=0.015, per_context=8e-5
    )
    assert fit.itl_ms(others) == pytest.approx(others.itl_ms, rel=0.05)


def test_one_wrong_row_is_no_other_setting() -> None:
    """An outlier is named by itself; a quarter of the rows that differ are another setting."""
    data = rows(grid=[*GRID, *GRID], noise=0.002)
    data.itl_ms[3] *= 3.0
    fit = step_fit.fit_steps(data)
    assert fit.outliers == (3,)
    assert not any(
        "equal load differ" in said for said in step_advice.advise(data, fit).undetermined
    )
    data.itl_ms[18:27] *= 1.6
    said = step_advice.advise(data, step_fit.fit_steps(data)).undetermined
    assert any("equal load differ" in sentence for sentence in said)


def test_rows_of_equal_load_that_differ_are_a_limit_of_any_fit() -> None:
    """Two settings in one set leave half their distance; growth within the load's is none."""
    twice = rows(grid=[(1024, 128, 8.0), (1024, 128, 8.0), (1024, 128, 64.0)])
    assert benchmark_rows.disagreement(twice) == pytest.approx(0.0)
    twice.itl_ms[1] *= 1.44
    assert benchmark_rows.disagreement(twice) == pytest.approx(0.2 * 2 / 3)
    near = rows(grid=[(1024, 128, 8.0), (1024, 128, 9.0)])
    assert benchmark_rows.disagreement(near) == pytest.approx(0.0)
    near.itl_ms[1] = near.itl_ms[0] / 1.21
    assert benchmark_rows.disagreement(near) == pytest.approx(0.1)


def test_rows_that_tell_nothing_are_refused() -> None:
    """One load, one row, and numbers out of range: the error names what and where."""
    with pytest.raises(errors.FitError, match="the same in all usable rows"):
        step_fit.fit_steps(rows(grid=[(512, 128, 8.0)] * 3))
    with pytest.raises(errors.FitError, match="1 usable rows of 1"):
        step_fit.fit_steps(rows(grid=[(512, 128, 8.0)]))
    with pytest.raises(errors.InvalidParameterError, match=r"output_tokens\[1\]: must be a number"):
        benchmark_rows.rows_of(
            concurrency=[1, 2], input_tokens=1, output_tokens=[8, 0], itl_ms=[1, 2]
        )
    with pytest.raises(errors.InvalidParameterError, match="concurrency: has no rows"):
        benchmark_rows.rows_of(concurrency=[], input_tokens=1, output_tokens=1, itl_ms=1)


def test_little_gives_who_ran() -> None:
    """A closed loop of 100 in which 40 find a place shows 40 in service."""
    data = rows(grid=[(1024, 1024, 10.0), (1024, 1024, 40.0), (1024, 1024, 100.0)], max_requests=40)
    line = saturation.fit_ttft(data.part(np.array([True, True, False])))
    assert saturation.running(data, line) == pytest.approx([10, 40, 40], rel=0.05)


def test_any_rows_are_fitted_or_refused_in_words() -> None:
    """Odd numbers give finite step times with a base above 0, or a FitError; never a warning."""
    rng = np.random.default_rng(1)
    fitted = 0
    for _ in range(150):
        size = int(rng.integers(1, 9))
        data = benchmark_rows.rows_of(
            concurrency=rng.choice([0.5, 1, 2, 8, 64, 1e5], size),
            input_tokens=rng.choice([0, 1, 64, 5000], size),
            output_tokens=rng.choice([1, 2, 100, 5000], size),
            itl_ms=rng.choice([1e-3, 5, 50, np.nan, 1e6], size),
            ttft_ms=rng.choice([1e-3, 50, 5000, np.nan, 1e7], size),
            open_loop=rng.random(size) < 0.3,
            unlimited=rng.random(size) < 0.3,
        )
        try:
            fit = step_fit.fit_steps(data)
        except errors.FitError:
            continue
        fitted += 1
        assert fit.step_times.base_ms > 0
        assert all(np.isfinite(value) and value >= 0 for value in values(fit))
        step_advice.advise(data, fit)
        step_advice.capacities(data, fit, data.throughput_rps)
    assert fitted > 50


@pytest.mark.parametrize("factor", [0.001, 0.1, 0.2])
@pytest.mark.parametrize("row", [1, 7])
def test_one_small_itl_does_not_wreck_the_fit(row: int, factor: float) -> None:
    """An ITL in seconds, or a few times too small, is named; neither the others nor the error feel it."""
    data, clean = rows(noise=0.005), rows()
    data.itl_ms[row] *= factor
    fit = step_fit.fit_steps(data)
    assert fit.outliers == (row,)
    assert fit.error < 0.02
    others = np.arange(clean.size) != row
    assert fit.itl_ms(clean)[others] == pytest.approx(clean.itl_ms[others], rel=0.03)
