"""`record`: the trace has the requests of the past, survives interruption, and is read by `replay`."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from adapter import cli
from emulator import trace_files
from tests.fakes.prometheus_history import HistoryServer, PodPast, poisson

T = 1_760_000_400
MINUTES = 300
"""More than two chunks of steps."""


def shown(at: float) -> str:
    """RFC 3339."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"


def fleet() -> list[PodPast]:
    """A pod that is always there, one that restarts, and one that comes later."""
    begin, end = T - 1800, T + MINUTES * 60 + 1800
    later = T + 100 * 60 + 7
    return [
        PodPast("a", begin, end, arrivals=poisson(0.2, begin, end, seed=1), seed=1),
        PodPast(
            "b", begin, end, arrivals=poisson(0.1, begin, end, seed=2), seed=2,
            restarts=(T + 50 * 60 + 5,),
        ),
        PodPast("c", later, end, arrivals=poisson(0.3, later, end, seed=3), seed=3),
    ]  # fmt: skip


def arguments(url: str, output: Path, *more: str) -> list[str]:
    """A command line."""
    return [
        "record", "--prometheus", url, "--model", "m", "--from", shown(T),
        "--to", shown(T + MINUTES * 60), "--output", str(output), *more,
    ]  # fmt: skip


def per_minute(path: Path) -> Counter[int]:
    """Requests of a trace by minute since T."""
    with path.open(newline="") as file:
        times = [
            datetime.fromisoformat(row["TIMESTAMP"]).replace(tzinfo=UTC).timestamp()
            for row in csv.DictReader(file)
        ]
    return Counter(int((time - T) // 60) for time in times)


def test_each_step_has_the_requests_that_arrived_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The trace that `replay` reads has as many requests, step by step, and their tokens."""
    pods, output = fleet(), tmp_path / "trace.csv"
    server = HistoryServer(pods)
    with server.running() as url:
        assert cli.main(arguments(url, output)) == 0
    minutes = per_minute(output)
    restarted = (T + 50 * 60, T + 51 * 60)
    for minute in range(MINUTES):
        start = T + 60 * minute
        if start != restarted[0]:
            expected = sum(pod.arrived(start, start + 60) for pod in pods)
            assert minutes[minute] == expected, minute
    trace = trace_files.read(output)
    assert len(trace) == minutes.total()
    assert trace.skipped == 0
    # The pods' lengths are uniform from 1 to 449 and to 89.
    assert trace.input_tokens.mean() == pytest.approx(225, rel=0.03)
    assert trace.output_tokens.mean() == pytest.approx(45, rel=0.03)
    assert len(server.requests) == 5 * 3
    text = capsys.readouterr().out
    assert f"{output}: {len(trace)} requests of up to 3 pods" in text
    assert "Drawn with the seed: arrival times within a step" in text
    assert "Gap" not in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trace.csv"]


def test_equal_seeds_write_equal_traces(tmp_path: Path) -> None:
    """Byte for byte; another seed draws other times, and as many requests per step."""
    with HistoryServer(fleet()).running() as url:
        for name, seed in (("one", "7"), ("same", "7"), ("other", "8")):
            assert cli.main(arguments(url, tmp_path / name, "--seed", seed)) == 0
    one, same, other = ((tmp_path / name).read_bytes() for name in ("one", "same", "other"))
    assert one == same != other
    assert per_minute(tmp_path / "one") == per_minute(tmp_path / "other")


def test_an_interrupted_recording_goes_on(tmp_path: Path) -> None:
    """After Ctrl-C in the second chunk the same command reads only the rest, and the trace is the same."""
    server, output = HistoryServer(fleet()), tmp_path / "trace.csv"
    asked, release = threading.Event(), threading.Event()

    def hold(number: int) -> None:
        if number == 6:
            asked.set()
            release.wait()

    with server.running() as url:
        assert cli.main(arguments(url, tmp_path / "whole.csv")) == 0
        server.requests.clear()
        server.before = hold
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "adapter", *arguments(url, output)],
            stderr=subprocess.PIPE, text=True, env=os.environ,
        )  # fmt: skip
        try:
            assert asked.wait(300)
            process.send_signal(signal.SIGINT)
            _, problems = process.communicate(timeout=300)
        finally:
            release.set()
            process.kill()
        assert process.returncode == 130
        assert "interrupted; 120 of 300 steps are recorded: rerun the command to resume" in problems
        assert not output.exists()
        # What a crash left beyond the noted progress is not read twice.
        with (tmp_path / "trace.csv.partial").open("a") as file:
            file.write("2025-10-09 11:0")
        server.requests.clear()
        server.before = lambda _: None
        assert cli.main(arguments(url, output)) == 0
    assert len(server.requests) == 5 * 2
    assert output.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trace.csv", "whole.csv"]


def test_a_prometheus_that_fails_leaves_a_recording_to_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error says how far it is; other flags than those it was begun with are refused by name."""
    server, output = HistoryServer(fleet()), tmp_path / "trace.csv"
    server.before = lambda number: 422 if number == 6 else None
    with server.running() as url:
        assert cli.main(arguments(url, output)) == 1
        assert (
            "120 of 300 steps are recorded: rerun the command to resume" in capsys.readouterr().err
        )
        assert cli.main(arguments(url, output, "--seed", "5")) == 1
        assert "was begun with --seed 0, not 5" in capsys.readouterr().err
        assert cli.main(arguments(url, output)) == 0
        assert "resumed after 120 of 300 steps" in capsys.readouterr().err
        assert cli.main(arguments(url, output)) == 1
        assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "{}", '{"version": 1, "bytes": 99999, "progress": {}}'])
def test_a_side_file_that_is_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    """It is named, with what to delete."""
    output = tmp_path / "trace.csv"
    output.with_name("trace.csv.resume").write_text(content)
    with HistoryServer([]).running() as url:
        assert cli.main(arguments(url, output)) == 1
    assert re.search(
        r"trace\.csv\.resume: cannot be resumed from; delete it", capsys.readouterr().err
    )


def test_gaps_are_named_and_not_filled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No request is made for the time in which nothing was scraped."""
    pods = fleet()
    for pod in pods:
        pod.unscraped = (T + 130 * 60, T + 140 * 60)
    with HistoryServer(pods).running() as url:
        assert cli.main(arguments(url, tmp_path / "trace.csv")) == 0
    minutes = per_minute(tmp_path / "trace.csv")
    assert [minutes[minute] for minute in range(130, 140)] == [0] * 10
    assert minutes[129] > 0
    assert minutes[140] > 0
    gap = f"Gap, not filled: {shown(T + 130 * 60)} to {shown(T + 140 * 60)}: no pod was scraped."
    assert gap in capsys.readouterr().out


def test_nothing_found_names_the_models_that_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a wrong model or namespace: what was looked for, and what Prometheus has; no file is left."""
    others = [PodPast(f"d{n}", T, T + 900, model=f"model-{n:02}") for n in range(12)]
    with HistoryServer([*fleet(), *others]).running() as url:
        assert cli.main(arguments(url, tmp_path / "t.csv", "--namespace", "elsewhere")) == 1
        first = capsys.readouterr().err
        assert cli.main(arguments(url, tmp_path / "t.csv", "--model", "M")) == 1
    second = capsys.readouterr().err
    assert f"no series of model 'm' in namespace 'elsewhere' from {shown(T)}" in first
    assert f"no series of model 'M' from {shown(T)}" in second
    for text in (first, second):
        assert "has those of 'm' in namespace 'team', 'model-00' in namespace 'team'" in text
        assert "'model-08' in namespace 'team' and 3 more (--model takes the" in text
        assert "model-09" not in text
    assert list(tmp_path.iterdir()) == []


def test_a_prometheus_without_model_servers_is_told_which_series_are_queried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another Prometheus than that of the pods: there is no model to name."""
    with HistoryServer([]).running() as url:
        assert cli.main(arguments(url, tmp_path / "t.csv")) == 1
    text = capsys.readouterr().err
    assert "no series of model 'm' from" in text
    assert ", nor of any other model: is this the Prometheus that scrapes the pods?" in text
    assert "vllm:request_success_total" in text
    assert "sglang:num_queue_reqs" in text


def test_where_models_cannot_be_listed_nothing_is_said_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The series were queried; the list of models is refused."""
    server = HistoryServer([])
    server.before = lambda number: 422 if number > 3 * 5 else None
    with server.running() as url:
        assert cli.main(arguments(url, tmp_path / "t.csv")) == 1
    text = capsys.readouterr().err
    assert "no series of model 'm' from" in text
    assert "any other model" not in text


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (("--from", "yesterday"), "--from: must be like 2026-03-01T12:00:00Z, '6h ago' or 'now'"),
        (("--from", "1 fortnight ago"), "--from: must be like"),
        (("--to", shown(T)), "--to: must be at least a step of 60 s after --from"),
        (("--from", "2999-01-01T00:00:00Z"), "--to: must be at least a step"),
        (("--step", "1.5s"), "must be whole seconds"),
        (("--seed", "-1"), "must be a whole number >= 0"),
        (("--namespace", "A B"), "argument --namespace: must be "),
        (("--model", " "), "argument --model: must not be empty"),
    ],
)
def test_flags_that_make_no_sense(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, str], problem: str
) -> None:
    """The error names the flag and what it accepts; exit status 2."""
    command = [*arguments("http://127.0.0.1:9", tmp_path / "t.csv"), f"{flags[0]}={flags[1]}"]
    try:
        status = cli.main(command)
    except SystemExit as ended:
        status = int(str(ended.code))
    assert status == 2
    assert problem in capsys.readouterr().err


def test_without_a_prometheus(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names both ways to set one."""
    monkeypatch.delenv("PROMETHEUS_BASE_URL", raising=False)
    assert cli.main(["record", "--model", "m", "--output", str(tmp_path / "t.csv")]) == 2
    assert "--prometheus or PROMETHEUS_BASE_URL" in capsys.readouterr().err


def test_a_refused_connection_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No file, and one line that does not speak of resuming."""
    assert cli.main(arguments("http://127.0.0.1:9", tmp_path / "t.csv")) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("variant-adapter record: ")
    assert line.endswith("is the URL right? (nothing is recorded yet)")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_missing_is_named_with_the_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is queried."""
    output = tmp_path / "nowhere" / "t.csv"
    assert cli.main(arguments("http://127.0.0.1:9", output)) == 1
    text = f"--output {output}: no such directory: {output.parent}"
    assert text in capsys.readouterr().err
