"""Step times fitted to measured servers: what they predict of rows that the fit has not seen."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from analyzer.fitting import benchmark_rows, step_fit
from analyzer.fitting.benchmark_rows import BenchmarkRows

ROOT = Path(__file__).parents[3]
DATA = ROOT / "tests" / "data" / "replica"


def load_bench(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "bench" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


replica_fit = load_bench("replica_fit")
replica_floor = load_bench("replica_floor")


@pytest.fixture(scope="module")
def groups() -> dict[str, BenchmarkRows]:
    return dict(replica_fit.groups(DATA / "measured.csv"))


QWEN = "vllm 0.12.0 Qwen/Qwen3-32B h100_sxm - 2"


@pytest.mark.parametrize("split", ["even", "odd"])
@pytest.mark.parametrize(
    "name",
    [
        QWEN,
        "vllm 0.12.0 Qwen/Qwen3-32B h100_sxm - 4",
        "vllm - meta-llama/Llama-3.1-70B h100_sxm fp8 2",
        "sglang 0.5.1.post1 Qwen/Qwen3-32B h100_sxm - 2",
        "sglang 0.5.9 deepseek-ai/DeepSeek-R1 h200_sxm fp8 8",
        "vllm 0.15.1 moonshotai/Kimi-K2.5 b200_sxm int4 8",
        "vllm 0.15.1 openai/gpt-oss-120b b200_sxm fp4 1",
    ],
)
def test_the_other_half_of_the_rows_is_predicted(
    groups: dict[str, BenchmarkRows], name: str, split: str
) -> None:
    """ITL within 5 % (8 % for mixtures of experts) and TTFT of unsaturated rows within 20 %."""
    outcome = replica_fit.outcome(name, groups[name], split)
    assert outcome.verdict == "ok"
    assert outcome.itl <= outcome.goal
    assert outcome.ttft <= 0.2


def test_saturated_rows_tell_the_size_of_the_kv_cache(groups: dict[str, BenchmarkRows]) -> None:
    """Qwen3-32B on two H100 holds about 302,000 tokens; rows that wait for them are marked."""
    rows = groups[QWEN]
    fit = step_fit.fit_steps(rows)
    marked = {row.row for row in fit.saturated}
    assert {int(row) for row in (rows.ttft_ms > 4000).nonzero()[0]} == marked
    assert fit.bounds.kv_tokens == pytest.approx(302_000, rel=0.05)


def test_prefill_shows_in_itl_as_it_does_in_ttft(groups: dict[str, BenchmarkRows]) -> None:
    """Llama 70B: the time of a prompt token in others' ITL, 0.069 ms, is that of its own TTFT."""
    fit = step_fit.fit_steps(groups["vllm - meta-llama/Llama-3.1-70B h100_sxm fp8 2"])
    assert fit.step_times.per_prefill_token_ms == pytest.approx(0.069, rel=0.1)


def test_groups_are_judged_with_their_reasons(tmp_path: Path) -> None:
    """Few rows, and rows of equal load that differ, are named instead of counted as misses."""
    header = [*replica_fit.GROUP, "input_tokens", "output_tokens", "concurrency"]
    lines = [[*header, "ttft_ms", "itl_ms"]]
    lines += [["vllm", "1", "few", "gpu", "", "1", 512, 128, n, 50 + n, 10 + n / 8] for n in (1, 2)]
    for n in (1, 2, 4, 8, 16, 32):
        for slow in (1.0, 1.5):
            itl = slow * (10 + n / 8)
            lines.append(["vllm", "1", "two", "gpu", "", "1", 512, 128, n, 50 + n, itl])
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    text, reached = replica_fit.report(path)
    assert reached
    assert "too few: 1 usable rows of 1" in text
    assert "contradictory: ITL floor 33.3%" in text
    assert "By the floor 0 are reachable, of which 0 are reached and 0 miss by a limit" in text


def test_limits_that_no_taught_row_shows_are_told_from_misses(tmp_path: Path) -> None:
    """The last row waits, as 100 of 256 requests run; the second group has the rows of the first."""
    header = [
        *replica_fit.GROUP,
        "input_tokens",
        "output_tokens",
        "concurrency",
        "ttft_ms",
        "itl_ms",
    ]
    lines: list[list[object]] = [list(header)]
    for model in ("one", "two"):
        for prompt in (512, 2048):
            for n in (1, 2, 4, 8, 16, 32):
                itl = 10 + n / 8 + 0.05 * (n - 1) * prompt / 128
                loads = [prompt, 128, n, 40 + 0.08 * prompt + itl, itl]
                lines.append(["vllm", "1", model, "gpu", "", "1", *loads])
        lines.append(["vllm", "1", model, "gpu", "", "1", 2048, 128, 256, 20_900, 101.7])
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    first, second = replica_fit.outcomes(path, "odd")
    assert first.limit_unseen
    assert first.reachable
    assert first.verdict.endswith("no taught row shows the limit that others wait for")
    assert (first.repeats, second.repeats) == ("", first.name)
    taught, _ = replica_fit.outcomes(path, "even")
    assert not taught.limit_unseen


def test_no_monotone_function_avoids_the_floor() -> None:
    """Equal loads at 10 and 15 leave half or a third; rows that grow with the load leave nothing."""
    rows = benchmark_rows.rows_of(
        concurrency=[1, 1, 8, 8], input_tokens=512, output_tokens=128, itl_ms=[10, 15, 20, 20]
    )
    taught = np.array([True, False, True, False])
    floor = replica_floor.least_errors(rows, rows.itl_ms, taught)
    assert floor == pytest.approx([0.0, 1 / 3, 0.0, 0.0], abs=1e-9)
    floor = replica_floor.least_errors(rows, rows.itl_ms, ~taught)
    assert floor == pytest.approx([0.5, 0.0, 0.0, 0.0], abs=1e-9)


def test_the_sleep_of_a_real_vllm_server_comes_back() -> None:
    """Closed loops and random arrivals: 10 ms per request, 0.5 per prompt token, 250 and overhead."""
    from adapter.formats import benchmarks  # noqa: PLC0415 - the only reader of these files

    files = sorted((DATA / "bench").glob("[co]*.json"))
    rows = [row for path in files for row in benchmarks.read(path)]
    fit = step_fit.fit_steps(
        benchmark_rows.rows_of(
            concurrency=[row.batch for row in rows],
            input_tokens=[row.input_tokens for row in rows],
            output_tokens=[row.output_tokens for row in rows],
            itl_ms=[row.itl_ms for row in rows],
            ttft_ms=[row.ttft_ms for row in rows],
            open_loop=[row.open_loop for row in rows],
        )
    )
    times, error = fit.step_times, fit.errors
    assert len(rows) == 8
    assert 250 < times.base_ms < 280
    assert abs(times.per_request_ms - 10) < 2 * error["per_request_ms"]
    assert abs(times.per_prefill_token_ms - 0.5) < 2 * error["per_prefill_token_ms"]
    assert error["per_prefill_token_ms"] < 0.2


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("vllm 0.18.0 openai/gpt-oss-120b h200_sxm fp4 1", "2"),
        ("vllm 0.19.0 moonshotai/Kimi-K2.5 b300_sxm fp4 4", "5"),
    ],
)
def test_few_rows_are_not_overfitted(
    groups: dict[str, BenchmarkRows], name: str, split: str
) -> None:
    """Five rows that leave out whole lengths or loads predict the others' ITL within the goals."""
    outcome = replica_fit.outcome(name, groups[name], split)
    assert outcome.taught <= 5
    assert outcome.itl is not None
    assert outcome.itl <= outcome.goal


@pytest.mark.parametrize("tp", ["4", "8"])
def test_no_row_of_five_is_taken_for_an_outlier_of_ttft(
    groups: dict[str, BenchmarkRows], tp: str
) -> None:
    """A line through four of the five rows that throws out the fifth is 40 % off at other loads."""
    name = f"sglang 0.5.10.post1 Qwen/Qwen3.5-397B-A17B b300_sxm bf16 {tp}"
    outcome = replica_fit.outcome(name, groups[name], "2")
    assert outcome.taught == 5
    assert outcome.ttft is not None
    assert outcome.ttft <= 0.2


def test_one_length_of_prompts_tells_little_of_longer_ones(
    groups: dict[str, BenchmarkRows],
) -> None:
    """TTFT of prompts eight times as long is not extrapolated to twice what was measured."""
    rows = groups["vllm 0.19.0 moonshotai/Kimi-K2.5 b300_sxm fp4 4"]
    short = rows.input_tokens < 2000
    fit = step_fit.fit_steps(rows.part(short))
    ratio = fit.ttft_ms(rows.part(~short)) / rows.ttft_ms[~short]
    assert ratio.min() > 0.5
    assert ratio.max() < 2.0
