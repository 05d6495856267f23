"""Files beside a tool's results: its other reports, YAML, times without a unit, what it printed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapter import cli
from adapter.errors import InputError
from adapter.formats import benchmarks
from tests.adapter.formats.test_benchmark_files import LOADS, guidellm, same_loads, vllm

SERVED = "give the file that `vllm bench serve --save-result` writes"


def refusal(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        benchmarks.read(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"avg_latency": 1.2, "latencies": [1.2], "percentiles": {"50": 1.2}}, "vLLM's bench latency"),
        ({"elapsed_time": 9.1, "num_requests": 200, "total_num_tokens": 9, "requests_per_second": 2.1},
         "vLLM's bench throughput"),
        ({"run_name": "default", "batch_size": 8, "input_len": 512, "output_len": 64, "latency": 0.9,
          "overall_throughput": 900.0}, "SGLang's bench_one_batch"),
        ({"backend": "engine", "successful_requests": 9, "total_latency": 3.0, "total_throughput": 7.0},
         "SGLang's bench_offline_throughput"),
        ({"num_concurrent_requests": 4, "results_inter_token_latency_s_mean": 0.01}, "is of LLMPerf"),
        ({"inter_token_latency_s": 0.01, "ttft_s": 0.2, "end_to_end_latency_s": 1.0}, "request of LLMPerf"),
        ({"service_kind": "openai", "experiments": []}, "give profile_export_aiperf.json"),
        ({"metadata": {}, "metrics": {"time_to_first_token": {"value": 21.0, "unit": "ms"}}},
         "is a request of AIPerf"),
        ({"hw": "h200", "conc": 4, "tput_per_gpu": 1.0, "mean_ttft": 0.2}, "summary of InferenceMAX"),
        ({"version": "0.1", "scenario": {}, "metrics": {"latency": {}}}, "report of llm-d-benchmark"),
        ({"rows": [{"concurrency": 1, "tpot_mean_ms": 9.0}]}, "or a CSV with columns batch, itl_ms,"),
    ],
)  # fmt: skip
def test_a_file_without_runs_says_what_it_is(
    tmp_path: Path, document: dict[str, Any], said: str
) -> None:
    """One sentence with what to give instead, and beside runs it costs itself only."""
    text = refusal(tmp_path / "other.json", json.dumps(document))
    assert said in text
    assert "give" in text or "measure with" in text
    assert "\n" not in text
    path = tmp_path / "both.jsonl"
    path.write_text("\n".join(json.dumps(one) for one in [vllm(*LOADS[0]), document]))
    assert [said in row.problem for row in benchmarks.read(path)] == [False, True]


def test_a_reason_that_many_rows_share_is_said_once(tmp_path: Path) -> None:
    """Hundreds of records of single requests are one line."""
    request = {"inter_token_latency_s": 0.01, "ttft_s": 0.2, "end_to_end_latency_s": 1.0}
    path = tmp_path / "individual_responses.json"
    first, second = refusal(path, json.dumps([request] * 150)).splitlines()
    assert first == "none of 150 rows is usable:"
    assert second.startswith(f"  {path}[0] and 149 more: is a request of LLMPerf")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "#Input tokens: 9\n\n====== Serving Benchmark Result ======\nMean TTFT (ms):  20.1\n",
            SERVED,
        ),
        (
            "Metric,avg,min\nInter Token Latency (ms),8.1,8.0\n",
            "is the CSV of GenAI-Perf or AIPerf",
        ),
        ("Chapter 1\nIt was bright, cold, and new.\n", "is neither JSON nor YAML nor CSV"),
    ],
)
def test_a_text_that_is_no_table_says_what_it_is(tmp_path: Path, text: str, said: str) -> None:
    """What a benchmark printed, a table of another shape, prose."""
    assert said in refusal(tmp_path / "run.log", text)


def test_reports_in_yaml(tmp_path: Path) -> None:
    """YAML of guidellm is read; a text that is none is one sentence."""
    path = tmp_path / "benchmarks.yaml"
    path.write_text(yaml.safe_dump({"benchmarks": [guidellm(*load) for load in LOADS]}))
    assert same_loads(benchmarks.read(path))
    named_otherwise = path.rename(tmp_path / "benchmarks.txt")
    assert same_loads(benchmarks.read(named_otherwise))
    said = refusal(tmp_path / "cut.yaml", "benchmarks:\n  - metrics: {a: [1\n")
    assert "not valid YAML" in said
    assert "\n" not in said


def unitless(n: float, itl: float, ttft: float, **more: Any) -> dict[str, Any]:
    """As InferenceX writes it: medians in seconds."""
    document = vllm(n, itl, ttft, **more)
    for name in ("ttft", "tpot"):
        document[f"median_{name}"] = document.pop(f"median_{name}_ms") / 1000
        document[f"p99_{name}"] = document.pop(f"p99_{name}_ms") / 1000
        del document[f"mean_{name}_ms"]
    return document


def test_times_without_a_unit_are_seconds_where_the_concurrency_shows_it(tmp_path: Path) -> None:
    """Little's law gives max_concurrency in seconds only; without one the unit is not guessed."""
    path = tmp_path / "runs.json"
    path.write_text(json.dumps([unitless(*load) for load in LOADS]))
    rows = benchmarks.read(path)
    assert same_loads(rows)
    assert rows[0].itl_p99_ms == pytest.approx(1.5 * 8.05)
    assert "median_ttft: its seconds were made ms" in rows[0].note
    for changed in ({"max_concurrency": None}, {"max_concurrency": 8000}):
        said = refusal(path, json.dumps(unitless(*LOADS[1], **changed)))
        assert "median_ttft: has no unit" in said
        assert "write median_ttft_ms in milliseconds" in said
    milliseconds = unitless(*LOADS[1])
    milliseconds |= {"median_ttft": 20.8, "median_tpot": 8.4}
    assert "has no unit" in refusal(path, json.dumps(milliseconds))


def test_columns_that_say_mean(tmp_path: Path) -> None:
    """`ttft_mean_ms` and `avg_ttft_ms` are ttft_ms; a dash is no number and no mistake."""
    path = tmp_path / "all.csv"
    path.write_text(
        "profile,ttft_mean_ms,ttft_p99_ms,avg_itl_s,concurrency_mean,prompt_tokens_mean,output_tokens_mean\n"
        "a,20.1,-,0.00805,1,512,128\nb,20.8,-,0.0084,8,512,128\nc,-,-,0.0096,32,512,128\n"
    )
    rows = benchmarks.read(path)
    assert [(row.batch, row.ttft_ms) for row in rows[:2]] == [(1, 20.1), (8, 20.8)]
    assert [row.itl_ms for row in rows] == pytest.approx([8.05, 8.4, 9.6])
    assert (rows[2].input_tokens, rows[2].output_tokens) == (512, 128)
    assert math.isnan(rows[2].ttft_ms)
    assert not any(row.problem for row in rows)


def test_a_note_that_all_rows_have_is_printed_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten files of medians gave ten equal lines before the result."""
    path = tmp_path / "runs.json"
    path.write_text(json.dumps([unitless(*load) for load in LOADS]))
    assert cli.main(["fit", str(path)]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note:")]
    assert len(notes) == 1
    assert notes[0].startswith(f"note: {path}[0] and 2 more: no mean_tpot_ms: its median is used")
