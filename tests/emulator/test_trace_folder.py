"""Folders of traces: names of files and of ServeGen's clients in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapter import cli
from emulator import trace_folder
from emulator.traces import TraceError

REPLAYS = Path(__file__).parents[2] / "manifests/samples/replay"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def test_names_in_the_folder(tmp_path: Path) -> None:
    """With or without its suffix, or as a folder of clients; a path that exists wins."""
    azure = tmp_path / "azure_conv.csv"
    azure.write_text(AZURE)
    (tmp_path / "trace.jsonl.gz").write_bytes(b"")
    (tmp_path / "README.md").write_text("")
    (tmp_path / "m-large").mkdir()
    (tmp_path / "m-large/chunk-0-trace.csv").write_text("")
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
