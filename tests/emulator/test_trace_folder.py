"""Folders of traces, and ServeGen's clients in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapter import cli
from emulator import servegen, trace_files, trace_folder
from emulator.traces import TraceError

REPLAYS = Path(__file__).parents[2] / "manifests/samples/replay"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
WINDOWS = "0,0.5,1.1,Gamma,1.0,2.0\n600,0,0,,0,0\n1200,1.0,2.0,Weibull,0.7,1.0\n"
LENGTHS = {
    "0": {"input_tokens": "{100: 0.5, 300: 0.5}", "output_tokens": "{10: 1.0}"},
    "600": {},
    "1200": {"input_tokens": "{7: 1}", "output_tokens": "{20: 0.25, 40: 0.75}"},
}


def client(folder: Path, number: int, windows: str = WINDOWS, lengths: object = LENGTHS) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"chunk-{number}-dataset.json").write_text(json.dumps(lengths))
    path = folder / f"chunk-{number}-trace.csv"
    path.write_text(windows)
    return path


def test_a_client_of_servegen(tmp_path: Path) -> None:
    """Each window has its rate and its lengths; a window without requests is silent."""
    trace = trace_files.read(client(tmp_path / "m", 3))
    first = trace.arrival_seconds < 600
    assert (int(first.sum()), len(trace)) == (300, 900)
    assert trace.arrival_seconds[first][-1] - trace.arrival_seconds[0] <= 600
    assert ((trace.arrival_seconds < 600) | (trace.arrival_seconds >= 1190)).all()
    assert set(trace.input_tokens[first].tolist()) == {100, 300}
    assert trace.input_tokens[first].mean() == pytest.approx(200, abs=20)
    assert set(trace.input_tokens[~first].tolist()) == {7}
    assert trace.output_tokens[~first].mean() == pytest.approx(35, abs=2)


def test_clients_of_a_folder_are_merged(tmp_path: Path) -> None:
    """All clients together, in order of time; the same files give the same trace, and clients differ."""
    folder = tmp_path / "deepseek-r1"
    alone = trace_files.read(client(folder, 0))
    client(folder, 10)
    merged, again = trace_files.read(folder), trace_files.read(folder)
    assert len(merged) == 2 * len(alone)
    assert merged.arrival_seconds.tolist() == again.arrival_seconds.tolist()
    assert len(set(merged.arrival_seconds.tolist())) > len(alone) + 100


@pytest.mark.parametrize(
    ("windows", "lengths", "said"),
    [
        ("0,0.5,1,Pareto,1,2\n", LENGTHS, "chunk-0-trace.csv:1: pattern: must be Gamma or Weibull"),
        ("0,0.5,1\n", LENGTHS, "chunk-0-trace.csv:1: must be start, rate, cv, pattern, shape and scale"),
        ("600,0,0,,0,0\n0,0,0,,0,0\n", LENGTHS, "chunk-0-trace.csv:2: start: must ascend"),
        ("0,-1,1,Gamma,1,2\n", LENGTHS, "chunk-0-trace.csv:1: start and rate: must be >= 0"),
        ("", LENGTHS, "chunk-0-trace.csv: is empty"),
        (WINDOWS, {"0": {}}, "chunk-0-dataset.json: has no input_tokens and output_tokens"),
        (WINDOWS, [1], "chunk-0-dataset.json: must be a JSON object"),
        (WINDOWS, {"0": {"input_tokens": "{1: 0}", "output_tokens": "{1: 1}"}}, "must have probabilities"),
        ("0,0,0,,0,0\n", LENGTHS, "no request in it: all rates are 0"),
    ],
)  # fmt: skip
def test_wrong_clients_are_named(tmp_path: Path, windows: str, lengths: object, said: str) -> None:
    """File, line, and what it must be."""
    with pytest.raises(TraceError, match=said):
        servegen.read(client(tmp_path / "m", 0, windows, lengths))


def test_names_in_the_folder(tmp_path: Path) -> None:
    """With or without its suffix, or as a folder of clients; a path that exists wins."""
    azure = tmp_path / "azure_conv.csv"
    azure.write_text(AZURE)
    (tmp_path / "trace.jsonl.gz").write_bytes(b"")
    (tmp_path / "README.md").write_text("")
    client(tmp_path / "m-large", 0)
    assert sorted(trace_folder.entries(tmp_path)) == ["azure_conv", "m-large", "trace"]
    assert trace_folder.find(Path("azure_conv"), tmp_path) == azure
    assert trace_folder.find(Path("azure_conv.csv"), tmp_path) == azure
    assert trace_folder.find(Path("m-large"), tmp_path) == tmp_path / "m-large"
    assert trace_folder.find(azure, tmp_path) == azure
    with pytest.raises(TraceError, match=r"no such trace.* which has azure_conv, m-large, trace"):
        trace_folder.find(Path("burstgpt"), tmp_path)
    with pytest.raises(
        TraceError, match=r"no such file; .* --traces DIR, or VARIANT_ADAPTER_TRACES"
    ):
        trace_folder.find(Path("burstgpt"), None)


def test_the_folder_is_given_or_in_the_environment(tmp_path: Path) -> None:
    """The flag wins over the variable; a folder that is not there is named with what named it."""
    environment = {trace_folder.VARIABLE: str(tmp_path)}
    assert trace_folder.folder_of(None, environment) == tmp_path
    assert trace_folder.folder_of(None, {}) is None
    for given, variables, said in (
        (tmp_path / "no", environment, "--traces .*no: is no folder"),
        (None, {trace_folder.VARIABLE: "nowhere"}, "VARIANT_ADAPTER_TRACES nowhere: is no folder"),
    ):
        with pytest.raises(TraceError, match=said):
            trace_folder.folder_of(given, variables)


def test_replay_takes_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """--trace NAME is looked up in --traces, else in the folder of the environment."""
    rows = "".join(f"2023-11-16 18:{m:02}:{s:02},374,44\n" for m in range(5) for s in (0, 20, 40))
    (tmp_path / "calm.csv").write_text(AZURE + rows)
    command = [
        "replay",
        "--scenario",
        str(REPLAYS / "scenario.yaml"),
        "--policies",
        "queue@2",
        "--json",
    ]
    assert cli.main([*command, "--traces", str(tmp_path), "--trace", "calm", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["requests"] == 15
    monkeypatch.setenv(trace_folder.VARIABLE, str(tmp_path))
    assert cli.main([*command, "--trace", "storm", "--quiet"]) != 0
    assert "storm: no such trace, neither here nor in" in capsys.readouterr().err
