"""Files of vLLM, SGLang and guidellm in all their versions; a run that failed costs only its row."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from adapter import cli
from adapter.errors import InputError
from adapter.formats import benchmarks
from adapter.formats.benchmark_tools.rows import Row

LOADS = ((1, 8.05, 20.1), (8, 8.4, 20.8), (32, 9.6, 23.3))


def vllm(n: float, itl: float, ttft: float, **more: Any) -> dict[str, Any]:
    seconds = (ttft + 127 * itl) / 1000
    return {
        "completed": 100, "duration": 100 * seconds / n, "request_rate": "inf", "max_concurrency": n,
        "total_input_tokens": 51200, "total_output_tokens": 12800, "request_throughput": n / seconds,
        "mean_ttft_ms": ttft, "median_ttft_ms": ttft, "p99_ttft_ms": 2 * ttft,
        "mean_tpot_ms": itl, "median_tpot_ms": itl, "p99_tpot_ms": 1.5 * itl, **more,
    }  # fmt: skip


def old_vllm(n: float, itl: float, ttft: float) -> dict[str, Any]:
    """As vLLM 0.4 wrote it."""
    document = vllm(n, itl, ttft)
    document["request_inthroughput"] = document.pop("request_throughput")
    for name in ("request_rate", "max_concurrency"):
        del document[name]
    return document


def guidellm(n: float, itl: float, ttft: float, strategy: str = "concurrent") -> dict[str, Any]:
    seconds = (ttft + 127 * itl) / 1000
    means = {
        "requests_per_second": n / seconds, "request_concurrency": n, "request_latency": seconds,
        "prompt_token_count": 512, "output_token_count": 128, "time_to_first_token_ms": ttft,
        "inter_token_latency_ms": itl,
    }  # fmt: skip
    metrics = {
        name: {"successful": {"mean": mean, "median": mean, "percentiles": {"p99": 2 * mean}}}
        for name, mean in means.items()
    }
    return {"config": {"strategy": {"type_": strategy}}, "metrics": metrics}


def rows_of(path: Path, documents: Any) -> list[Row]:
    path.write_text(json.dumps(documents))
    return benchmarks.read(path)


def same_loads(rows: list[Row]) -> bool:
    return all(
        (row.batch, row.itl_ms, row.ttft_ms, row.input_tokens, row.output_tokens)
        == pytest.approx((*load, 512, 128), rel=1e-6)
        for row, load in zip(rows, LOADS, strict=True)
    )


def guidellm_one_header(runs: list[dict[str, Any]]) -> list[list[Any]]:
    """CSV of guidellm 0.2 and 0.3."""
    names = list(runs[0]["metrics"])
    header, lines = ["Type", "Name", "Successful Requests"], []
    for name in names:
        title = f"Successful {name.replace('_', ' ').capitalize()}"
        header += [f"{title} mean", f"{title} median", f"{title} std dev"]
        header += [f"{title} [min, 0.1, 1, 5, 10, 25, 75, 90, 95, 99, max]"]
    for run in runs:
        line = ["generative_benchmark", f"{run['config']['strategy']['type_']}@1", 100]
        for name in names:
            mean = run["metrics"][name]["successful"]["mean"]
            line += [mean, mean, 0, [0, 0, 0, 0, 0, 0, 0, 0, 0, 2 * mean, 0]]
        lines.append(line)
    return [header, *lines]


TITLES = {
    "request_latency": ("Request Latency", "Successful Sec"),
    "time_to_first_token_ms": ("Time to First Token", "Successful ms"),
    "inter_token_latency_ms": ("Inter Token Latency", "Successful ms"),
    "requests_per_second": ("Server Throughput", "Successful Requests/Sec"),
    "request_concurrency": ("Server Throughput", "Successful Concurrency"),
    "prompt_token_count": ("Token Metrics", "Successful Input Tokens"),
    "output_token_count": ("Token Metrics", "Successful Output Tokens"),
}


def guidellm_three_headers(runs: list[dict[str, Any]]) -> list[list[Any]]:
    """CSV of guidellm 0.4 and later."""
    header = [("Benchmark", "Strategy", ""), ("Request Counts", "Successful", "")]
    for title in TITLES.values():
        header += [
            (*title, statistic) for statistic in ("Mean", "Median", "Std Dev", "Percentiles")
        ]
    lines = []
    for run in runs:
        line: list[Any] = [run["config"]["strategy"]["type_"], 100]
        for name in TITLES:
            mean = run["metrics"][name]["successful"]["mean"]
            line += [mean, mean, 0, f"[0, 0, 0, 0, 0, 0, 0, 0, 0, {2 * mean}, 0]"]
        lines.append(line)
    return [[names[level] for names in header] for level in range(3)] + lines


def write_csv(path: Path, lines: list[list[Any]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return path


def test_every_tool_gives_the_same_rows(tmp_path: Path) -> None:
    """Today's vLLM and 0.4, its sweep's CSV, SGLang's lines, guidellm's JSON and both of its CSVs."""
    assert same_loads(rows_of(tmp_path / "now.json", [vllm(*load) for load in LOADS]))
    assert same_loads(rows_of(tmp_path / "old.json", [old_vllm(*load) for load in LOADS]))
    runs = [guidellm(*load) for load in LOADS]
    assert same_loads(rows_of(tmp_path / "guide.json", {"benchmarks": runs}))
    for number, lines in enumerate((guidellm_one_header(runs), guidellm_three_headers(runs))):
        rows = benchmarks.read(write_csv(tmp_path / f"guide{number}.csv", lines))
        assert same_loads(rows)
        assert rows[2].itl_p99_ms == pytest.approx(2 * 9.6)
    sweep = [["", *vllm(*LOADS[0])], *([k, *vllm(*load).values()] for k, load in enumerate(LOADS))]
    assert same_loads(benchmarks.read(write_csv(tmp_path / "summary.csv", sweep)))
    sglang = [vllm(*load, request_rate=math.inf, concurrency=1.0) for load in LOADS]
    (tmp_path / "sglang.jsonl").write_text("\n".join(json.dumps(run) for run in sglang))
    assert same_loads(benchmarks.read(tmp_path / "sglang.jsonl"))


def test_how_requests_came_is_read(tmp_path: Path) -> None:
    """Everything at once, a closed loop, and random arrivals are told apart, with their percentiles."""
    at_once, closed, arrivals, limited = rows_of(
        tmp_path / "runs.json",
        [
            vllm(8, 9.0, 30.0, max_concurrency=None),
            vllm(8, 9.0, 30.0),
            vllm(8, 9.0, 30.0, request_rate=7.5, max_concurrency=None),
            vllm(8, 9.0, 30.0, request_rate=70, max_concurrency=8),
        ],
    )
    assert [row.unlimited for row in (at_once, closed, arrivals, limited)] == [True] + [False] * 3
    assert [row.open_loop for row in (at_once, closed, arrivals, limited)] == [
        False, False, True, False,
    ]  # fmt: skip
    assert (closed.ttft_p50_ms, closed.ttft_p99_ms, closed.itl_p99_ms) == (30, 60, 13.5)
    runs = [guidellm(8, 9.0, 30.0, name) for name in ("throughput", "constant", "poisson")]
    rows = rows_of(tmp_path / "guide.json", {"benchmarks": runs})
    assert [(row.unlimited, row.open_loop) for row in rows] == [
        (True, False), (False, True), (False, True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"completed": 0}, "completed: is 0: nothing finished"),
        ({"mean_tpot_ms": math.nan}, "mean_tpot_ms: must be a number >= 0, not nan"),
        ({"mean_tpot_ms": 0}, "mean_tpot_ms: is 0: responses were not streamed"),
        ({"mean_tpot_ms": None}, "mean_tpot_ms: must be a number"),
        ({"total_output_tokens": 100}, "1 per request; ITL needs more than one"),
        ({"request_throughput": "fast"}, "request_throughput: must be a number"),
    ],
)
def test_a_broken_vllm_run_costs_its_row(
    tmp_path: Path, broken: dict[str, Any], reason: str
) -> None:
    """The row says why; the other runs of the file count."""
    rows = rows_of(tmp_path / "runs.json", [vllm(*LOADS[0]), {**vllm(*LOADS[1]), **broken}])
    assert rows[0].problem == ""
    assert reason in rows[1].problem
    assert rows[1].place.endswith("runs.json[1]")
    with pytest.raises(InputError, match=r"runs.json: .*\w"):
        rows_of(tmp_path / "runs.json", {**vllm(*LOADS[1]), **broken})


def test_what_a_sweep_writes_beside_its_runs_costs_its_row(tmp_path: Path) -> None:
    """The file of a run that failed, with its error, and that of the warm-up."""
    error = {"run_number": 0, "error_type": "CalledProcessError", "error": "exit status 1"}
    failure = {**error, "serve_overrides": {}, "bench_overrides": {"max_concurrency": 8}}
    warm_up = vllm(*LOADS[0], run_number=-1)
    rows = rows_of(
        tmp_path / "all.json", [failure, warm_up, *(vllm(*load, run_number=0) for load in LOADS)]
    )
    assert rows[0].problem == "error: the run failed: exit status 1"
    assert rows[1].problem == "run_number: is -1: a warm-up of the sweep"
    assert same_loads(rows[2:])


def test_a_run_without_ttft_teaches_itl(tmp_path: Path) -> None:
    """Where the whole latency is there the concurrency follows from it."""
    run = vllm(*LOADS[1], mean_e2el_ms=20.8 + 127 * 8.4)
    for name in ("mean_ttft_ms", "median_ttft_ms", "p99_ttft_ms"):
        del run[name]
    (row,) = rows_of(tmp_path / "run.json", run)
    assert row.batch == pytest.approx(8)
    assert math.isnan(row.ttft_ms)
    assert row.note == "no TTFT: used for ITL only"
    del run["mean_e2el_ms"]
    (row,) = rows_of(tmp_path / "run.json", run)
    assert row.batch == pytest.approx(8, rel=0.02)
    assert row.note == "no TTFT: used for ITL only; concurrency counts requests that decode"


@pytest.mark.parametrize("mean", [0.0, None])
def test_a_guidellm_run_in_which_nothing_finished_costs_its_row(
    tmp_path: Path, mean: float | None
) -> None:
    """Zeros and nulls are both read as nothing finished."""
    empty = guidellm(*LOADS[0])
    for metric in empty["metrics"].values():
        metric["successful"] = {"mean": mean}
    rows = rows_of(tmp_path / "x.json", {"benchmarks": [guidellm(*LOADS[1]), empty]})
    assert rows[0].problem == ""
    assert "nothing finished" in rows[1].problem


def test_a_guidellm_run_that_did_not_stream_costs_its_row(tmp_path: Path) -> None:
    """Without times between tokens there is nothing to learn."""
    run = guidellm(*LOADS[0])
    run["metrics"]["inter_token_latency_ms"]["successful"]["mean"] = 0
    rows = rows_of(tmp_path / "x.json", {"benchmarks": [guidellm(*LOADS[1]), run, 3]})
    assert rows[1].problem.endswith("responses were not streamed")
    assert rows[2].problem == "metrics: must be an object"


def test_shifted_cells_of_guidellms_csv_are_not_believed(tmp_path: Path) -> None:
    """Metrics without a value are left out of a line, so its cells stand under other names."""
    lines = guidellm_three_headers([guidellm(*load) for load in LOADS])
    lines[4] = [*lines[4][:6], *lines[4][10:]]
    lines[5] = [lines[5][0], 0]
    rows = benchmarks.read(write_csv(tmp_path / "g.csv", lines))
    assert [row.problem for row in rows] == [
        "",
        "its cells do not stand under their header; give guidellm's JSON instead",
        "nothing finished",
    ]


def test_a_line_that_is_cut_off_costs_its_row(tmp_path: Path) -> None:
    """A tool that died while it appended leaves half a line."""
    (tmp_path / "x.jsonl").write_text(json.dumps(vllm(*LOADS[0])) + '\n{"completed": 1')
    rows = benchmarks.read(tmp_path / "x.jsonl")
    assert rows[0].problem == ""
    assert rows[1].problem.startswith("not JSON")


def test_fit_prints_steps_and_what_it_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Step times, YAML to paste, failed and saturated runs, the capacity, what to measure next."""
    waited = vllm(64, 11.2, 5400.0)
    waited["request_throughput"] = 44.0
    runs = [*(vllm(*load) for load in LOADS), {**vllm(*LOADS[0]), "completed": 0}, waited]
    (tmp_path / "runs.json").write_text(json.dumps(runs))
    assert cli.main(["fit", str(tmp_path / "runs.json")]) == 0
    text = capsys.readouterr().out
    assert "runs.json[3]: completed: is 0: nothing finished" in text
    assert "saturated, left out:" in text
    assert "runs.json[4]: TTFT 5400 ms where" in text
    assert 'decodeParms: {alpha: "8", beta: "0.05"}' in text
    assert 'stepParms: {base: "8.05' in text
    assert "perPrefillToken" in text
    assert "best measured 44" in text
    assert "not determined: one pair of lengths (512/128)" in text
    assert "next: measure a second pair of lengths" in text
    assert cli.main(["fit", "--json", str(tmp_path / "runs.json")]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["saturated"][0]["place"].endswith("[4]")
    assert document["left_out"][0]["place"].endswith("[3]")
    assert document["steps"]["base_ms"] == pytest.approx(8.05, rel=0.01)


def test_fit_refuses_runs_that_all_waited(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names each run and why its numbers teach nothing."""
    runs = [vllm(n, 20.5, 4000.0 * n / 600, max_concurrency=None) for n in (600, 1100)]
    (tmp_path / "runs.json").write_text(json.dumps(runs))
    assert cli.main(["fit", str(tmp_path / "runs.json")]) == 1
    said = capsys.readouterr().err
    assert "0 usable rows of 2" in said
    assert "runs.json[1]: all requests were sent at once" in said
