"""Runs of which a part failed, was cut off or had no steady load: they bend a fit, so they are left out."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from adapter import cli
from adapter.formats import benchmarks
from adapter.formats.benchmark_tools.rows import Row
from tests.adapter.formats.test_benchmark_files import (
    LOADS,
    guidellm,
    guidellm_one_header,
    guidellm_three_headers,
    vllm,
    write_csv,
)


def counted(run: dict[str, Any], **totals: int) -> dict[str, Any]:
    """The run of guidellm with its requests by their outcome."""
    metrics = {**run["metrics"], "request_totals": totals}
    concurrency = metrics["request_concurrency"]
    inside = concurrency["successful"]["mean"]
    if "incomplete" in totals:
        metrics["request_concurrency"] = {**concurrency, "total": {"mean": 2 * inside}}
    return {**run, "metrics": metrics}


def read(path: Path, documents: Any) -> list[Row]:
    path.write_text(json.dumps(documents))
    return benchmarks.read(path)


def test_a_guidellm_run_of_which_most_failed_or_was_cut_off_is_left_out(tmp_path: Path) -> None:
    """Its latencies are those of the few that came through."""
    runs = [guidellm(*load) for load in LOADS]
    used, failed, cut = read(
        tmp_path / "guide.json",
        {
            "benchmarks": [
                counted(runs[0], successful=100, errored=20),
                counted(runs[1], successful=100, errored=300),
                counted(runs[2], successful=12, incomplete=500),
            ]
        },
    )
    assert used.problem == ""
    assert failed.problem == "request_totals.successful: only 100, 300 requests failed"
    assert "only 12, 500 requests were cut off by the end of the run" in cut.problem


def test_what_was_cut_off_was_inside_too(tmp_path: Path) -> None:
    """Requests that the end of a run cut off had their part of the server until then."""
    run = guidellm(8, 9.0, 30.0)
    whole, partly = read(
        tmp_path / "guide.json",
        {
            "benchmarks": [
                counted(run, successful=100, errored=0),
                counted(run, successful=100, incomplete=8),
            ]
        },
    )
    assert whole.batch == pytest.approx(8)
    assert partly.batch == pytest.approx(16)


def test_outcomes_of_guidellms_csvs_are_read(tmp_path: Path) -> None:
    """Columns of requests that failed and were cut off, with one header line and with three."""
    runs = [guidellm(*load) for load in LOADS]
    lines = guidellm_one_header(runs)
    lines = [
        lines[0]
        + ["Errored Requests", "Incomplete Requests", "Incomplete Request concurrency mean"],
        lines[1] + [90, 0, ""],
        lines[2] + [0, 150, ""],
        lines[3] + [0, 16, 4],
    ]
    rows = benchmarks.read(write_csv(tmp_path / "one.csv", lines))
    assert [row.problem.partition(";")[0] for row in rows] == [
        "request_totals.successful: only 100, 90 requests failed",
        "request_totals.successful: only 100, 150 requests were cut off by the end of the run",
        "",
    ]
    assert rows[2].batch == pytest.approx(LOADS[2][0] + 4)
    lines = guidellm_three_headers(runs)
    titles = [
        ("Request Counts", "Errored", ""),
        ("Request Counts", "Incomplete", ""),
        ("Server Throughput", "Incomplete Concurrency", "Mean"),
    ]
    lines = [line + [title[level] for title in titles] for level, line in enumerate(lines[:3])] + [
        lines[3] + [90, 0, ""],
        lines[4] + [0, 150, ""],
        lines[5] + [0, 16, 4],
    ]
    rows = benchmarks.read(write_csv(tmp_path / "three.csv", lines))
    assert [bool(row.problem) for row in rows] == [True, True, False]
    assert rows[2].batch == pytest.approx(LOADS[2][0] + 4)


def test_a_rate_that_rises_is_no_load(tmp_path: Path) -> None:
    """The rate is "inf" for a ramp of vLLM, though nothing was sent at once."""
    ramp = vllm(*LOADS[1], max_concurrency=None, ramp_up_strategy="linear", ramp_up_end_rps=60)
    rows = read(tmp_path / "runs.json", [vllm(*LOADS[0]), ramp])
    assert rows[0].problem == ""
    assert rows[1].problem.startswith("ramp_up_strategy: the rate rose during the run")


def test_a_trace_with_its_own_times_was_not_sent_at_once(tmp_path: Path) -> None:
    """The rate is "inf" then too; the most that were ever inside tell it."""
    at_once, timed = read(
        tmp_path / "runs.json",
        [
            vllm(*LOADS[1], max_concurrency=None, max_concurrent_requests=100),
            vllm(*LOADS[1], max_concurrency=None, max_concurrent_requests=12),
        ],
    )
    assert (at_once.unlimited, at_once.open_loop) == (True, False)
    assert (timed.unlimited, timed.open_loop) == (False, True)


def test_closed_loops_that_all_waited_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A batch of 32 with more inside: ITL stays, TTFT grows; as a profile one replica had no prefill."""

    def full(n: int) -> dict[str, Any]:
        return vllm(n, 9.6, 20.0 + 40.0 * (n - 32))

    path = tmp_path / "runs.json"
    path.write_text(json.dumps([full(48), full(64), full(128)]))
    assert cli.main(["fit", str(path)]) == 1
    text = capsys.readouterr().err
    assert "2 are saturated" in text
    assert "decodeParms" not in text
    # An overhead that all have, such as a proxy's, is no wait.
    path.write_text(json.dumps([vllm(n, itl, 900.0 + ttft) for n, itl, ttft in LOADS]))
    assert cli.main(["fit", str(path)]) == 0
    assert "saturated" not in capsys.readouterr().out


def aiperf(**changed: Any) -> dict[str, Any]:
    metrics = {
        "request_throughput": 7.2, "request_latency": 1100, "request_count": 100, "time_to_first_token": 30,
        "inter_token_latency": 8.4, "output_sequence_length": 128, "input_sequence_length": 512,
    }  # fmt: skip
    return {**{name: {"unit": "ms", "avg": value} for name, value in metrics.items()}, **changed}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"error_request_count": {"unit": "requests", "avg": 20}, "was_cancelled": False}, ""),
        (
            {"error_request_count": {"unit": "requests", "avg": 300}},
            "request_count: only 100, 300 requests failed",
        ),
        ({"was_cancelled": True}, "was_cancelled: the run was ended before its time"),
    ],
)
def test_outcomes_of_aiperf_are_read(tmp_path: Path, changed: dict[str, Any], reason: str) -> None:
    """Failed requests are counted apart from those that finished."""
    rows = read(tmp_path / "runs.json", [aiperf(), aiperf(**changed)])
    assert [row.problem for row in rows] == ["", reason]


def test_a_csv_says_what_failed_and_units_in_brackets(tmp_path: Path) -> None:
    """A column of failures counts beside that of finished requests; one of texts says nothing."""
    path = tmp_path / "runs.csv"
    path.write_text(
        "concurrency,ISL,OSL,TTFT [s],TPOT [ms],completed,failed\n"
        "1,512,128,0.0201,8.05,100,0\n8,512,128,0.0208,8.4,100,timeout\n32,512,128,0.5,70,100,900\n"
    )
    rows = benchmarks.read(path)
    assert [row.problem for row in rows] == ["", "", "completed: only 100, 900 requests failed"]
    assert rows[0].ttft_ms == pytest.approx(20.1)
    assert math.isnan(rows[0].throughput_rps)


def test_one_row_of_seconds_does_not_make_the_others_saturated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was the floor to which the TTFT of all others was compared."""
    lines = [f"{n},512,128,{ttft},{itl}" for n, itl, ttft in LOADS] + ["16,512,128,0.0216,0.0088"]
    path = tmp_path / "runs.csv"
    path.write_text("\n".join(["concurrency,input_tokens,output_tokens,ttft_ms,itl_ms", *lines]))
    assert cli.main(["fit", str(path)]) == 0
    text = capsys.readouterr().out
    assert f"left out: {path}:5: itl_ms: 0.0088 ms beside a median of 8.2" in text
    assert 'alpha: "8' in text
