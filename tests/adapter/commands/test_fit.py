"""`variant-adapter fit` reads CSV, guidellm and vLLM results, and names what it cannot read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adapter import cli
from adapter.formats import benchmarks

LOADS = ((1, 128), (4, 256), (16, 512), (32, 1024), (64, 300))


def itl(batch: float) -> float:
    return 7.2 + 0.31 * batch


def ttft(batch: float, prompt: float) -> float:
    return 18.0 + 0.012 * prompt * batch


def csv_text() -> str:
    lines = [f"{b},{p},100,{itl(b):.6f},{ttft(b, p):.6f}" for b, p in LOADS]
    return "\n".join(["Concurrency, input tokens ,out_tokens,TPOT,TTFT-ms", *lines, ""])


def guidellm() -> dict[str, Any]:
    def run(batch: float, prompt: float) -> dict[str, Any]:
        metrics = {
            "request_concurrency": batch,
            "prompt_token_count": prompt,
            "inter_token_latency_ms": itl(batch),
            "time_to_first_token_ms": ttft(batch, prompt),
        }
        return {"metrics": {name: {"successful": {"mean": v}} for name, v in metrics.items()}}

    return {"benchmarks": [run(*load) for load in LOADS]}


def older_guidellm() -> dict[str, Any]:
    """Without a concurrency: it follows from rate and latency."""
    document = guidellm()
    for run in document["benchmarks"]:
        concurrency = run["metrics"].pop("request_concurrency")["successful"]["mean"]
        run["metrics"]["requests_per_second"] = {"successful": {"mean": concurrency / 2.5}}
        run["metrics"]["request_latency"] = {"successful": {"mean": 2.5}}
    return document


def vllm(batch: float, prompt: float) -> dict[str, Any]:
    """A run with that mean concurrency, as benchmark_serving reports it."""
    seconds = (ttft(batch, prompt) + 99 * itl(batch)) / 1000
    return {
        "completed": 200, "total_input_tokens": 200 * prompt, "total_output_tokens": 200 * 100,
        "request_throughput": batch / seconds, "mean_ttft_ms": ttft(batch, prompt),
        "mean_tpot_ms": itl(batch), "mean_itl_ms": itl(batch), "max_concurrency": None,
    }  # fmt: skip


def fitted(capsys: pytest.CaptureFixture[str], *files: Path) -> dict[str, Any]:
    assert cli.main(["fit", "--json", *map(str, files)]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_every_format_gives_the_same_parameters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """CSV with its columns in any spelling, guidellm, vLLM one object a file, and one a line."""
    (tmp_path / "runs.csv").write_text(csv_text())
    (tmp_path / "guidellm.json").write_text(json.dumps(guidellm()))
    (tmp_path / "older.json").write_text(json.dumps(older_guidellm()))
    singles = []
    for number, load in enumerate(LOADS):
        singles.append(tmp_path / f"{number}.json")
        singles[-1].write_text(json.dumps(vllm(*load)))
    (tmp_path / "appended.json").write_text("\n".join(json.dumps(vllm(*load)) for load in LOADS))
    for files in (
        [tmp_path / "runs.csv"], [tmp_path / "guidellm.json"], [tmp_path / "older.json"],
        singles, [tmp_path / "appended.json"],
    ):  # fmt: skip
        fit = fitted(capsys, *files)
        parameters = [fit[name] for name in ("alpha", "beta", "gamma", "delta")]
        assert parameters == pytest.approx([7.2, 0.31, 18.0, 0.012], rel=1e-4)
        assert fit["quality"] == "good"


def test_the_table_ends_with_a_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is printed can be put into a VariantAutoscaling; the plot is a PNG."""
    (tmp_path / "runs.csv").write_text(csv_text())
    picture = tmp_path / "fit.png"
    assert cli.main(["fit", str(tmp_path / "runs.csv"), "--plot", str(picture)]) == 0
    text = capsys.readouterr().out
    assert 'decodeParms: {alpha: "7.2", beta: "0.31"}' in text
    assert "fit quality: good" in text
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("lengths", [(",input_tokens,output_tokens", ",512,128"), ("", "")])
def test_rows_that_no_server_has_give_no_profile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lengths: tuple[str, str]
) -> None:
    """ITL that goes up and down by factors whatever the batch: no profile, and exit status 1."""
    header, each = lengths
    itl = (5, 400, 9, 250, 6, 300, 12, 500)
    lines = [f"{1 + k},{ms}{each}" for k, ms in enumerate(itl)]
    (tmp_path / "runs.csv").write_text("\n".join([f"batch,itl_ms{header}", *lines, ""]))
    assert cli.main(["fit", str(tmp_path / "runs.csv")]) == 1
    text = capsys.readouterr().out
    assert "not usable, so no profile: the fitted ITL is off by" in text
    assert "perfParms" not in text
    assert cli.main(["fit", "--json", str(tmp_path / "runs.csv")]) == 1
    assert "off by" in json.loads(capsys.readouterr().out)["unusable"]


def test_rows_without_ttft_fit_the_decode_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Empty cells are left out; an outlier is named by its line."""
    lines = [f"{batch},{itl(batch)}," for batch in range(1, 20)]
    lines[7] = "8,95,"
    (tmp_path / "runs.csv").write_text("\n".join(["batch,itl_ms,ttft_ms,input_tokens", *lines]))
    assert cli.main(["fit", str(tmp_path / "runs.csv")]) == 0
    text = capsys.readouterr().out
    assert "gamma and delta are not fitted" in text
    assert "outlier: " + str(tmp_path / "runs.csv:9") in text


def test_seconds_called_milliseconds_make_no_profile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reason names the column to use; with it there is a profile."""
    runs = tmp_path / "runs.csv"
    for column, refused in (("itl_ms", True), ("itl_s", False)):
        runs.write_text(f"batch,{column}\n1,0.010\n4,0.012\n16,0.018\n")
        assert cli.main(["fit", str(runs)]) == int(refused)
        text = capsys.readouterr().out
        assert ("no profile: itl_ms: median ITL of 0.012 ms" in text) is refused
        assert ("name it itl_s" in text) is refused
        assert ("perfParms" in text) is not refused
        assert cli.main(["fit", "--json", str(runs)]) == int(refused)
        assert bool(json.loads(capsys.readouterr().out)["unusable"]) is refused


@pytest.mark.parametrize("models", [("a", "a", "a"), ("a", "b", "a")])
def test_rows_of_several_models_are_doubted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], models: tuple[str, ...]
) -> None:
    """A line through the steps of two models is a profile of none."""
    runs = tmp_path / "runs.jsonl"
    rows = [
        {
            "model_id": model, "max_concurrency": batch, "request_rate": "inf", "completed": 100,
            "total_input_tokens": 51200, "total_output_tokens": 12800, "mean_ttft_ms": 20.0 + 0.1 * batch,
            "mean_tpot_ms": 8.0 + 0.05 * batch,
            "request_throughput": 1000 * batch / (20.0 + 0.1 * batch + 127 * (8.0 + 0.05 * batch)),
        }
        for model, batch in zip(models, (1, 8, 64), strict=True)
    ]  # fmt: skip
    runs.write_text("\n".join(map(json.dumps, rows)))
    assert cli.main(["fit", str(runs)]) == 0
    doubted = "doubt: rows are of 2 models (a, b)" in capsys.readouterr().out
    assert doubted is (len(set(models)) > 1)


def test_one_row_in_another_unit_is_left_out_by_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Milliseconds with one row of seconds among them, and a file of microseconds."""
    runs = tmp_path / "runs.csv"
    runs.write_text("batch,itl_ms\n1,10\n4,12\n8,0.014\n16,18\n32,26\n")
    assert cli.main(["fit", str(runs)]) == 0
    text = capsys.readouterr().out
    assert f"left out: {runs}:4: itl_ms: 0.014 ms beside a median of 12 ms" in text
    runs.write_text("batch,itl_ms\n1,10000\n4,12000\n16,18000\n")
    assert cli.main(["fit", str(runs)]) == 1
    assert "if the column is in microseconds, divide it by 1000" in capsys.readouterr().out


def test_comments_and_short_names_of_lengths_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines that begin with # and the columns isl and osl."""
    runs = tmp_path / "runs.csv"
    rows = "".join(f"{n},512,128,{10 + n / 4}\n# halfway\n" for n in (1, 4, 16))
    runs.write_text(
        f"# H100, one evening; Serving Benchmark Result\nconcurrency,isl,osl,tpot\n{rows}"
    )
    assert cli.main(["fit", "--json", str(runs)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["steps"]["rows"] == 3
    assert document["left_out"] == []
    assert document["capacities"][0]["input_tokens"] == 512


RATED = """Request rate (req/s),Output throughput (tok/s),Mean ISL,ISL,OSL,TTFT (ms),TPOT (ms)
1,128,513,512,128,30.4,8.4
4,512,511,512,128,33.1,9.2
16,2048,512,512,128,46.8,13.6
24,3072,512,512,128,61.9,19.1
"""
"""As people export a sweep over request rates: no concurrency, and columns that are not needed."""


def test_concurrency_follows_from_a_request_rate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By Little's law, rate x (TTFT + (output - 1) x ITL), and the output says so of each row."""
    runs = tmp_path / "rates.csv"
    runs.write_text(RATED)
    rows = benchmarks.read(runs)
    assert [row.batch for row in rows] == pytest.approx([1.0972, 4.806, 28.38, 59.70], rel=1e-3)
    assert all(row.open_loop for row in rows)
    assert [row.throughput_rps for row in rows] == [1, 4, 16, 24]
    assert cli.main(["fit", "--json", str(runs)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["steps"]["rows"] == 4
    assert document["notes"][0] == {
        "place": f"{runs}:2",
        "note": "batch: derived by Little's law, 1 requests per second x (TTFT + (output_tokens - 1) x ITL)"
        " = 1.097; arrivals are taken not to wait for responses",
    }
    assert cli.main(["fit", str(runs)]) == 0
    assert capsys.readouterr().out.count("batch: derived by Little's law") == 4


def test_finished_requests_count_before_sent_ones_and_a_concurrency_before_both(
    tmp_path: Path,
) -> None:
    """A saturated server does not finish what is sent; a row's own concurrency needs no law."""
    runs = tmp_path / "rates.csv"
    runs.write_text(
        "rate,request_throughput,concurrency,isl,osl,ttft,tpot\n"
        "50,20,,512,101,500,10\ninf,inf,7,512,101,500,10\n2,2,,512,101,,10\n,,,512,101,500,10\n"
    )
    first, second, third, fourth = benchmarks.read(runs)
    assert first.batch == pytest.approx(20 * 1.5)
    assert (second.batch, second.note, second.open_loop) == (7, "", False)
    said = "batch: is missing and does not follow from the rate without ttft_ms, itl_ms and output_tokens"
    assert third.problem == said
    assert fourth.problem == "batch: is missing"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("x.csv", "batch,ttft\n1,2", "x.csv: no column itl_ms; may be called itl_ms, itl"),
        ("x.csv", "batch,itl,ttft\n1,2,3", "a column ttft_ms needs a column input_tokens"),
        ("x.csv", "batch,itl\n1,2\n\n3,fast", "x.csv:4: itl_ms: must be a number >= 0, not 'fast'"),
        (
            "x.csv",
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,1,2",
            "line 1 has timestamp, contexttokens, generatedtokens; a trace of requests is for replay --trace",
        ),
        ("x.csv", "page,words\n1,2", "no column batch; may be called batch, batch_size,"),
        (
            "x.csv",
            "page,words\n1,2",
            "(or a rate: request_throughput, request_rate); line 1 has page, words",
        ),
        ("x.csv", 'batch,itl\n"1,000",2', "write thousands without a comma, such as 1000"),
        ("x.csv", "PK\x03\x04", "is a ZIP archive or a spreadsheet; unpack it, or save it as CSV"),
        ("x.csv", "# mine\n\nbatch,itl\n1,fast", "x.csv:4: itl_ms: must be a number"),
        ("x.csv", "batch,itl\n1,nan", "x.csv:2: itl_ms: must be a number >= 0, not 'nan'"),
        ("x.csv", "batch;itl\n1;8,05", "not '8,05'; write decimals with a point, such as 8.05"),
        ("x.csv", "batch,itl\n,2", "x.csv:2: batch: is missing"),
        ("x.csv", "batch,itl\n0,2\n1,3", "x.csv:2: batch: must be a number > 0, not 0"),
        ("x.csv", "batch,itl\n", "x.csv: no rows"),
        ("x.csv", "", "x.csv: is empty; a benchmark tool's JSON, or a CSV with a header"),
        ("x.json", "[]", "x.json: is an empty list, so it has no rows; a benchmark tool's JSON"),
        ("x.json", "null\n", "x.json: must be a JSON object or a list of them, not null"),
        ("x.csv", "batch,itl\n8,2\n8,3", "batch: the same in all rows"),
        ("x.json", "{", "x.json: not JSON"),
        ("x.json", "[3]", "x.json: must be a JSON object"),
        ("x.json", '{"a": 1}', "x.json: neither guidellm (benchmarks) nor vLLM"),
        ("x.json", '{"benchmarks": 1}', "benchmarks: must be a list"),
        (
            "x.json",
            '{"benchmarks": [{"metrics": {}}]}',
            "benchmarks[0]: metrics.requests_per_second.successful.mean: must be a number",
        ),
        ("x.json", '{"mean_ttft_ms": 1, "completed": 0}', "completed: is 0"),
        ("x.json", '{"mean_ttft_ms": 1, "completed": -1}', "completed: must be a number >= 0"),
    ],
)
def test_bad_files_are_named_with_line_and_field(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, said: str
) -> None:
    """Exit status 1 and one line that says where and what."""
    (tmp_path / name).write_text(text)
    assert cli.main(["fit", str(tmp_path / name)]) == 1
    assert said in capsys.readouterr().err
    assert cli.main(["fit", str(tmp_path / "none.csv")]) == 1
    assert "none.csv: cannot be read: No such file" in capsys.readouterr().err


def test_a_row_without_itl_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its TTFT is used, which a note says; a row with neither latency is left out by its line."""
    path = tmp_path / "rows.csv"
    path.write_text(f"{csv_text()}8,128,100,,44.1\n8,128,100,,0\n", encoding="utf-8")
    assert cli.main(["fit", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"left out: {path}:8: itl_ms: is missing" in lines
    assert f"note: {path}:7: itl_ms: is missing; only TTFT is used" in lines


def test_a_run_of_many_files_costs_itself_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file for each run, as vLLM writes: those without results, cut off or empty are left out by name."""
    names = []
    for number, load in enumerate(LOADS):
        names.append(str(tmp_path / f"run{number}.json"))
        Path(names[-1]).write_text(json.dumps(vllm(*load)))
    bad = {
        "idle.json": (json.dumps({**vllm(4, 256), "completed": 0}), "completed: is 0"),
        "cut.json": (json.dumps(vllm(4, 256))[:-9], "not JSON"),
        "empty.json": ("", "is empty"),
    }
    for name, (text, _) in bad.items():
        (tmp_path / name).write_text(text)
    assert cli.main(["fit", *names, *(str(tmp_path / name) for name in bad)]) == 0
    text = capsys.readouterr().out
    for name, (_, said) in bad.items():
        assert f"left out: {tmp_path / name}: {said}" in text
    assert "5 rows, mean error of ITL" in text
    assert cli.main(["fit", *(str(tmp_path / name) for name in bad)]) == 1
    refused = capsys.readouterr().err
    for name, (_, said) in bad.items():
        assert f"{tmp_path / name}: {said}" in refused
    assert cli.main(["fit", *names, str(tmp_path / "none.json")]) == 1
    assert "none.json: cannot be read: No such file" in capsys.readouterr().err


def test_an_impossible_ttft_and_absurd_loads_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A TTFT in seconds is not used; a concurrency or length beyond any server's leaves its row out."""
    path = tmp_path / "rows.csv"
    path.write_text(
        f"{csv_text()}8,128,100,9.68,0.03\n1e7,128,100,10,50\n8,1e9,100,10,50\n8,9,2e8,10,50\n"
    )
    assert cli.main(["fit", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        f"left out: {path}:8: batch: must be a number <= 1e+06, not 1e+07",
        f"left out: {path}:9: input_tokens: must be a number <= 1e+08, not 1e+09",
        f"left out: {path}:10: output_tokens: must be a number <= 1e+08, not 2e+08",
    ]
    below = "ttft_ms: 0.03 is below the time of a step (itl_ms 9.68), so it is not used"
    fix = "both must be in ms, or the column of one in seconds be named ttft_s"
    assert lines[3] == f"note: {path}:7: {below}; {fix}"
    assert not any("saturated" in line for line in lines)


def test_an_empty_list_in_json_lines_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is a line without a run, as `null` is."""
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([*(json.dumps(vllm(*load)) for load in LOADS), "[]", "null"]))
    assert cli.main(["fit", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"left out: {path}[5]: must be a JSON object, not an empty list" in lines
    assert f"left out: {path}[6]: must be a JSON object" in lines
