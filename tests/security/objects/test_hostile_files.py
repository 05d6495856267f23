"""Files of the offline commands that are hostile: one sentence, in bounded memory, and no traceback."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from adapter.errors import InputError
from adapter.formats import benchmarks, cases, files, fleet_file
from adapter.resources.texts import documents
from emulator import trace_files, trace_lines
from emulator.replay import scenario
from emulator.traces import TraceError

READERS = {"plan": fleet_file.read, "replay": scenario.read}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("a: 1\nb: !!int x\n", "line 2: 'x' cannot be read as int", id="int"),
        pytest.param("a: !!float x\n", "line 1: 'x' cannot be read as float", id="float"),
        pytest.param("a: !!timestamp y\n", "'y' cannot be read as timestamp", id="timestamp"),
        pytest.param(f"a: {'9' * 5000}\n", f"line 1: '{'9' * 40}' cannot be read as int", id="9"),
        pytest.param("[" * 100_000, "nested more than 64 levels deep", id="brackets"),
        pytest.param('{"a":' * 100 + "1" + "}" * 100, "nested more than 64 levels", id="json"),
    ],
)
@pytest.mark.parametrize("command", sorted(READERS))
def test_odd_values_are_named(command: str, text: str, says: str, tmp_path: Path) -> None:
    """Where they are and what to do, not what Python's parsers say of them."""
    file = tmp_path / "f.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=str(file)) as caught:
        READERS[command](file)
    assert says in str(caught.value)
    assert "sys." not in str(caught.value)


def test_a_number_without_end_is_named_by_the_readers_of_json(tmp_path: Path) -> None:
    """`fit` and `analyze --jsonl` say what to do, not which function of Python to call."""
    text = '{"alpha": ' + "9" * 5000 + "}"
    file = tmp_path / "f.json"
    file.write_text(text)
    with pytest.raises(
        InputError, match=r"f\.json: a number has more than 4,300 digits; correct it"
    ):
        list(benchmarks.read(file))
    (answer,) = cases.answer_lines([text])
    assert json.loads(answer) == {
        "error": "a number has more than 4,300 digits; correct it, or quote it as a text"
    }


def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower the bounds."""
    monkeypatch.setattr(files, "MOST_BYTES", 1 << 20)
    monkeypatch.setattr(documents, "FILE_LENGTH", 1 << 20)


@pytest.mark.parametrize(
    "read", [*READERS.values(), files.read_text], ids=["plan", "replay", "fit"]
)
def test_a_device_without_end_is_refused(
    read: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was read until no memory was left."""
    short(monkeypatch)
    with pytest.raises(InputError, match="longer than"):
        read(Path("/dev/zero"))


def test_what_unpacks_to_very_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A megabyte of gzip is a gigabyte of text."""
    short(monkeypatch)
    file = tmp_path / "f.csv.gz"
    file.write_bytes(gzip.compress(b"0" * (4 << 20)))
    with pytest.raises(InputError, match="longer than 1 MiB"):
        files.read_text(file)


TRACES = {"azure": "TIMESTAMP,ContextTokens,GeneratedTokens\n2026-01-01 00:00:00,{},5\n"}
TRACES["burstgpt"] = "Timestamp,Request tokens,Response tokens\n1,{},5\n"
TRACES["mooncake"] = '{{"timestamp": 0, "input_length": {}, "output_length": 5, "hash_ids": []}}\n'
DATASET = '{{"0": {{"input_tokens": "{{5: 1}}", "output_tokens": {}}}}}'


@pytest.mark.parametrize("form", [*TRACES, "servegen"])
@pytest.mark.parametrize("value", ["9" * 5000, "x" * 100_000], ids=["digits", "text"])
def test_odd_values_of_traces_are_named(form: str, value: str, tmp_path: Path) -> None:
    """By file and line, without Python's sentence about digits, and without thousands of characters."""
    file = tmp_path / ("chunk-0-trace.csv" if form == "servegen" else "t.csv")
    if form == "servegen":
        file.write_text("0,1,1,Gamma,1,1\n")
        (tmp_path / "chunk-0-dataset.json").write_text(DATASET.format(value))
    else:
        file.write_text(TRACES[form].format(value))
    with pytest.raises(TraceError, match=str(tmp_path)) as caught:
        trace_files.read(file)
    assert "sys." not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("packed", [False, True], ids=["device", "gzip"])
def test_a_trace_without_end_is_refused(
    *, packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first line was read until no memory was left; whole traces have no limit, their lines have."""
    file = Path("/dev/zero")
    if packed:
        file = tmp_path / "t.csv.gz"
        file.write_bytes(gzip.compress(b"0" * (4 << 20)))
    with pytest.raises(TraceError, match="1: longer than"):
        trace_files.read(file)
    monkeypatch.setattr(trace_lines, "MOST_TEXT", 1 << 20)
    (tmp_path / "chunk-0-trace.csv").symlink_to("/dev/zero")
    with pytest.raises(TraceError, match="longer than"):
        trace_files.read(tmp_path / "chunk-0-trace.csv")
