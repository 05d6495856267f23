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
from emulator.replay import scenario

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
