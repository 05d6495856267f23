"""Benchmark files as they lie about: half written, of other tools, with other units and encodings."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest

from adapter import cli, errors
from adapter.formats import benchmarks
from adapter.formats.benchmark_tools.rows import Row
from tests.adapter.formats.test_benchmark_files import LOADS, guidellm, vllm

GOOD = [vllm(*load) for load in LOADS]


def read(path: Path, content: str | bytes) -> list[Row]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return benchmarks.read(path)


def last(tmp_path: Path, run: Any) -> Row:
    """The row of a run that stands behind good ones."""
    rows = read(tmp_path / "runs.jsonl", "\n".join(json.dumps(one) for one in [*GOOD, run]))
    assert [row.problem for row in rows[:3]] == [""] * 3
    assert len(rows) == 4
    return rows[3]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"completed": "many"}, "completed: must be a number"),
        ({"completed": True}, "completed: must be a number"),
        ({"completed": 3, "num_prompts": 100}, "completed: only 3, 97 requests failed"),
        ({"failed": 0.5 * GOOD[1]["completed"]}, "requests failed"),
        ({"completed": 10**400}, "completed: must be a number"),
        ({"total_input_tokens": None}, "total_input_tokens: must be a number"),
        ({"total_output_tokens": -5}, "total_output_tokens: must be a number >= 0"),
        ({"request_throughput": math.inf}, "request_throughput: must be a number >= 0, not inf"),
        ({"mean_tpot_ms": {"mean": 3}}, "mean_tpot_ms: must be a number"),
        ({"total_input_tokens": 1e250}, "is beyond all measure"),
        ({"mean_tpot_ms": 0.001, "mean_ttft_ms": 1200}, "responses were not streamed"),
        ({"mean_tpot_ms": 1.0, "mean_ttft_ms": 1500, "mean_e2el_ms": 1500}, "not streamed"),
        ({"mean_tpot_ms": 0.0084, "mean_ttft_ms": 0.02}, "are the times in seconds?"),
        ({"mean_tpot_ms": 8400, "mean_ttft_ms": 20000}, "are the times in milliseconds?"),
        (
            {"max_concurrency": -8},
            "max_concurrency: must be a number > 0, or null without a limit, not -8",
        ),
    ],
)
def test_a_number_that_is_none_costs_its_run(
    tmp_path: Path, changed: dict[str, Any], reason: str
) -> None:
    """Texts, objects, infinities, other units and failed runs: the reason, and the other runs."""
    assert reason in last(tmp_path, {**GOOD[1], **changed}).problem


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    """Nothing says which of two columns of one name holds; one that is not used may be there twice."""
    header, run = "batch,input_tokens,output_tokens,itl_ms,note,note", "1,128,178,8,a,b"
    assert len(read(tmp_path / "once.csv", f"{header}\n{run}\n")) == 1
    sweep = [[*GOOD[0], "completed"], [*GOOD[0].values(), 3]]
    twice = {
        "itl_ms": f"{header},ITL ms\n{run},800\n",
        "completed": "".join(",".join(map(str, line)) + "\n" for line in sweep),
    }
    for name, text in twice.items():
        with pytest.raises(errors.InputError, match=f"line 1 has the column {name} twice; delete"):
            read(tmp_path / "twice.csv", text)


def test_a_csv_may_be_named_yaml(tmp_path: Path) -> None:
    """What a file is follows from what it holds; a text that is neither is told to be neither."""
    text = "batch,input_tokens,output_tokens,itl_ms\n1,128,178,8\n4,128,178,9\n"
    assert [row.itl_ms for row in read(tmp_path / "runs.yaml", text)] == [8, 9]
    with pytest.raises(errors.InputError, match="is neither JSON nor YAML nor CSV; a benchmark"):
        read(tmp_path / "notes.yml", "the runs of Monday\n")


@pytest.mark.parametrize("run", [None, 3, "x", [], {}, {"a": 1}, {"benchmarks": {}}, {"runs": []}])
def test_what_is_no_run_costs_its_line(tmp_path: Path, run: Any) -> None:
    """Whatever stands in a line, the lines around it count."""
    path = tmp_path / "runs.jsonl"
    rows = read(path, "\n".join(json.dumps(one) for one in [*GOOD, run]))
    assert [row.problem for row in rows[:3]] == [""] * 3
    assert all(row.problem for row in rows[3:])


def test_texts_that_are_numbers_are_read(tmp_path: Path) -> None:
    """Spread sheets and shells quote numbers."""
    texts = {name: str(value) for name, value in GOOD[1].items()}
    assert last(tmp_path, texts).batch == pytest.approx(8)


def test_medians_stand_for_missing_means(tmp_path: Path) -> None:
    """A run with percentiles only counts, with a note; one with p99 only does not."""
    run = {name: value for name, value in GOOD[1].items() if not name.startswith("mean")}
    row = last(tmp_path, run)
    assert (row.itl_ms, row.ttft_ms) == (8.4, 20.8)
    assert "no mean_tpot_ms: its median is used" in row.note
    tail = {name: value for name, value in run.items() if not name.startswith("median")}
    assert last(tmp_path, tail).problem == "mean_itl_ms: must be a number"


def test_encodings_and_packing(tmp_path: Path) -> None:
    """Byte-order marks, UTF-16 of a shell, CRLF, gzip, and objects that follow each other."""
    text = "\r\n".join(json.dumps(run) for run in GOOD)
    pretty = "\n".join(json.dumps(run, indent=2) for run in GOOD)
    forms = [
        b"\xef\xbb\xbf" + text.encode(), text.encode("utf-16"), gzip.compress(text.encode()),
        pretty.encode(), f"INFO starting\n{text}".encode(),
    ]  # fmt: skip
    for form in forms:
        rows = read(tmp_path / "runs.json", form)
        assert [row.batch for row in rows if not row.problem] == pytest.approx([1, 8, 32])
    nested = {"results": [[GOOD[0]], {"benchmarks": [GOOD[1]]}, {"data": [GOOD[2]]}]}
    rows = read(tmp_path / "runs.json", json.dumps(nested))
    assert [row.batch for row in rows] == pytest.approx([1, 8, 32])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x1f\x8b\x08", "gzip: cut off"),
        (b"\x1f\x8b" + b"x" * 40, "cannot be read: Unknown compression method"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"", "is empty"),
    ],
)
def test_unreadable_files_are_one_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, reason: str
) -> None:
    """Exit status 1, the file and the reason; no traceback."""
    path = tmp_path / "runs.json"
    path.write_bytes(content)
    assert cli.main(["fit", str(path)]) == 1
    said = capsys.readouterr().err
    assert f"{path}: " in said
    assert reason in said


@pytest.mark.parametrize(
    "content",
    [
        "# Title\n\n{a: 1}\n" + 11 * "\nMore text.\n" + '{"kind": "List"}',
        json.dumps({"benchmarks": GOOD}, indent=2)[:-40],
    ],
    ids=["text", "cut-report"],
)
def test_a_file_of_something_else_is_one_sentence(tmp_path: Path, content: str) -> None:
    """A text in which lines begin with a brace, or a report that was cut off, is not named line by line."""
    path = tmp_path / "README.md"
    path.write_text(content)
    with pytest.raises(errors.InputError) as caught:
        benchmarks.read(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: not JSON: ")
    assert said.endswith("or a CSV with a header and a row for each run, is needed")
    assert "\n" not in said


def test_bytes_that_are_no_text_are_named_without_python_words(tmp_path: Path) -> None:
    """A picture instead of results."""
    with pytest.raises(errors.InputError) as caught:
        read(tmp_path / "plot.png", b"\x89PNG\r\n")
    assert str(caught.value) == f"{tmp_path / 'plot.png'}: no text: byte 1 is not UTF-8"


def test_a_csv_row_that_is_wrong_costs_its_row(tmp_path: Path) -> None:
    """Negative, empty, zero and spelled numbers; seconds and semicolons are read."""
    text = "concurrency;TPOT (s);ttft_s;input_tokens;output_tokens\n"
    text += "1;0.008;0.02;512;128\n-1;0.008;0.02;512;128\n;0.009;0.02;512;128\n4;0;0.02;512;128\n"
    text += "8;fast;0.02;512;128\n8;0.0084;null;512;128\n8;0.0084;0.02;512;0\n"
    rows = read(tmp_path / "runs.csv", text.replace("\n", "\r\n"))
    assert [bool(row.problem) for row in rows] == [False, True, True, True, True, False, True]
    assert (rows[0].itl_ms, rows[0].ttft_ms) == (8, 20)
    assert rows[5].itl_ms == pytest.approx(8.4)
    assert math.isnan(rows[5].ttft_ms)


def test_genai_perf(tmp_path: Path) -> None:
    """GenAI-Perf's and AIPerf's averages with their units; a run that did not stream costs its row."""

    def run(n: float, itl: float, ttft: float) -> dict[str, Any]:
        seconds = (ttft + 127 * itl) / 1000
        return {
            "request_throughput": {"unit": "requests/sec", "avg": n / seconds},
            "request_latency": {"unit": "s", "avg": seconds},
            "time_to_first_token": {"unit": "ms", "avg": ttft, "p50": ttft, "p99": 2 * ttft},
            "inter_token_latency": {"unit": "ms", "avg": itl, "p99": 1.5 * itl},
            "input_sequence_length": {"unit": "tokens", "avg": 512},
            "output_sequence_length": {"unit": "tokens", "avg": 128},
        }

    runs = [run(*load) for load in LOADS]
    blocking = {name: value for name, value in runs[0].items() if "token_" not in name}
    rows = read(tmp_path / "runs.jsonl", "\n".join(json.dumps(one) for one in [*runs, blocking]))
    assert [row.batch for row in rows[:3]] == pytest.approx([1, 8, 32])
    assert [row.itl_ms for row in rows[:3]] == [8.05, 8.4, 9.6]
    assert rows[3].problem.endswith("responses were not streamed")


def inference_perf(n: float, itl: float, ttft: float) -> dict[str, Any]:
    """A stage at a fixed concurrency; times are seconds."""
    seconds = (ttft + 127 * itl) / 1000
    means = {
        "request_latency": seconds, "time_to_first_token": ttft / 1000,
        "time_per_output_token": itl / 1000, "inter_token_latency": itl / 500,
    }  # fmt: skip
    latency = {name: {"mean": v, "median": v, "p99": 2 * v} for name, v in means.items()}
    return {
        "load_summary": {"count": 100, "requested_rate": n / seconds, "concurrency": n},
        "successes": {
            "count": 100, "latency": latency, "throughput": {"requests_per_sec": n / seconds},
            "prompt_tokens": {"total": 51200.0, "cached": 0.0, "mean": 512.0},
            "output_len": {"mean": 128.0}, "output_tokens": {"total": 12800.0, "mean": 128.0},
        },
        "failures": {"count": 0, "request_latency": None},
    }  # fmt: skip


def test_inference_perf(tmp_path: Path) -> None:
    """Stages are runs; the summary of all stages, failed and unstreamed stages cost themselves."""
    runs = [inference_perf(*load) for load in LOADS]
    rows = read(tmp_path / "stages.json", json.dumps(runs))
    assert [row.batch for row in rows] == pytest.approx([1, 8, 32])
    assert [row.itl_ms for row in rows] == pytest.approx([8.05, 8.4, 9.6])
    assert rows[0].ttft_ms == pytest.approx(20.1)
    assert rows[0].itl_p99_ms == pytest.approx(16.1)
    assert (rows[0].input_tokens, rows[0].output_tokens) == (512, 128)
    assert not any(row.open_loop or row.problem or row.note for row in rows)
    older = inference_perf(*LOADS[1])
    del older["successes"]["output_tokens"], older["load_summary"]["concurrency"]
    older["successes"]["prompt_len"] = {"mean": older["successes"].pop("prompt_tokens")["mean"]}
    (row,) = read(tmp_path / "old.json", json.dumps(older))
    assert (row.input_tokens, row.output_tokens, row.open_loop) == (512, 128, True)
    cached = inference_perf(*LOADS[1])
    cached["successes"]["prompt_tokens"]["cached"] = 25600.0
    assert "prefix cache served 50%" in last(tmp_path, cached).note
    unstreamed, failed, summary, idle = (inference_perf(*LOADS[1]) for _ in range(4))
    for name in ("time_to_first_token", "time_per_output_token", "inter_token_latency"):
        unstreamed["successes"]["latency"][name] = None
    failed["failures"]["count"] = 300
    summary["load_summary"] = {"count": 300}
    idle["successes"]["count"] = 0
    for run, reason in (
        (unstreamed, "not streamed"), (failed, "only 100, 300 requests failed"),
        (summary, "give stage_N_lifecycle_metrics.json"), (idle, "nothing finished"),
    ):  # fmt: skip
        assert reason in last(tmp_path, run).problem


def test_guidellm_with_holes(tmp_path: Path) -> None:
    """Nulls, texts and lists where statistics stand cost the run only."""
    holes: list[Any] = [None, "x", [], {"successful": None}, {"successful": {"mean": "x"}}]
    broken = []
    for hole in holes:
        run = guidellm(*LOADS[0])
        run["metrics"]["inter_token_latency_ms"] = hole
        broken.append(run)
    rows = read(tmp_path / "g.json", json.dumps({"benchmarks": [guidellm(*LOADS[1]), *broken]}))
    assert rows[0].problem == ""
    assert all("not streamed" in row.problem for row in rows[1:])


def test_rows_without_lengths_do_not_stop_the_fit_of_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Step times come from the rows that have lengths."""
    text = "batch,itl,ttft,input_tokens,output_tokens\n2,8.1,20.2,512,\n"
    text += "".join(f"{n},{itl},{ttft},512,128\n" for n, itl, ttft in LOADS)
    (tmp_path / "runs.csv").write_text(text)
    assert cli.main(["fit", str(tmp_path / "runs.csv")]) == 0
    assert "3 rows, mean error of ITL" in capsys.readouterr().out


def test_without_tpot_the_time_of_a_token_follows_from_the_whole(tmp_path: Path) -> None:
    """A speculating engine's ITL is per message of several tokens; the rest of the latency is per token."""
    run = {name: value for name, value in GOOD[1].items() if "tpot" not in name}
    row = last(tmp_path, {**run, "mean_itl_ms": 25.2, "mean_e2el_ms": 20.8 + 127 * 8.4})
    assert row.itl_ms == pytest.approx(8.4)
