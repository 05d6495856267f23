"""ServeGen's clients: files of the shape of the published ones, and what is drawn from them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from emulator import servegen, trace_files
from emulator.replay import scenario
from emulator.trace_selection import Selection
from emulator.traces import TraceError

WINDOWS = "0,0.5,1.1,Gamma,1.0,2.0\n600,0,0,,0,0\n1200,1.0,2.0,Weibull,0.7,1.0\n"
LENGTHS = {
    "0": {"input_tokens": "{100: 0.5, 300: 0.5}", "output_tokens": "{10: 1.0}"},
    "600": {},
    "1200": {"input_tokens": "{7: 1}", "output_tokens": "{20: 0.25, 40: 0.75}"},
}
EMPTY = {"input_tokens": "{}", "output_tokens": "{}"}


def client(
    folder: Path, number: int, windows: str = WINDOWS, lengths: object | None = LENGTHS
) -> Path:
    """The files of a client, without a dataset where there are no lengths."""
    folder.mkdir(exist_ok=True)
    if lengths is not None:
        (folder / f"chunk-{number}-dataset.json").write_text(json.dumps(lengths, indent=2))
    path = folder / f"chunk-{number}-trace.csv"
    path.write_text(windows)
    return path


def day(rates: dict[int, float], shape: float = 1.0) -> str:
    """Windows of ten minutes for a day, with these requests per second by their start."""
    rows = (
        f"{start},{rates[start]!r},1.1,Gamma,{shape},2.0" if start in rates else f"{start},0,0,,0,0"
        for start in range(0, 86400, 600)
    )
    return "\n".join(rows) + "\n"


def test_a_client(tmp_path: Path) -> None:
    """Each window has its rate and its lengths; a window without requests is silent."""
    trace = trace_files.read(client(tmp_path / "m", 3))
    first = trace.arrival_seconds < 600
    assert (int(first.sum()), len(trace), trace.duration_seconds) == (300, 900, 1800)
    assert (trace.arrival_seconds[~first] >= 1200).all()
    assert set(trace.input_tokens[first].tolist()) == {100, 300}
    assert trace.input_tokens[first].mean() == pytest.approx(200, abs=20)
    assert set(trace.input_tokens[~first].tolist()) == {7}
    assert trace.output_tokens[~first].mean() == pytest.approx(35, abs=2)
    # A client's shape is that of its gaps: those of a cycle differ as much as the distribution says.
    gaps = np.diff(trace.arrival_seconds[~first])
    assert gaps.std() / gaps.mean() == pytest.approx(1.46, abs=0.25)


def test_a_rate_is_a_whole_number_of_requests(tmp_path: Path) -> None:
    """0.105 a second are 63 in ten minutes, though 600 times its binary fraction is more."""
    trace = trace_files.read(client(tmp_path / "m", 0, "0,0.105,0.9,Gamma,1.2,8\n600,0,0,,0,0\n"))
    assert 600 * 0.105 > 63 - 1e-9
    assert len(trace) == 63


def test_clients_of_a_folder_are_merged(tmp_path: Path) -> None:
    """All clients together, in order of time; the same files give the same trace, and clients differ."""
    folder = tmp_path / "deepseek-r1"
    alone = trace_files.read(client(folder, 0))
    client(folder, 10)
    merged, again = trace_files.read(folder), trace_files.read(folder)
    assert len(merged) == 2 * len(alone)
    assert merged.arrival_seconds.tolist() == again.arrival_seconds.tolist()
    assert len(set(merged.arrival_seconds.tolist())) > len(alone) + 100


def test_clients_do_not_send_at_once(tmp_path: Path) -> None:
    """Windows begin for all clients at the same second, and their requests do not."""
    folder = tmp_path / "m"
    for number in range(40):
        client(folder, number, "0,0.005,1,Gamma,1,1\n600,0.005,1,Gamma,1,1\n")
    arrivals = trace_files.read(folder).arrival_seconds
    assert len(arrivals) == 40 * 6
    counts, _ = np.histogram(arrivals, bins=20, range=(0, 1200))
    assert counts.max() < 30


def test_reasoning_counts_as_answer(tmp_path: Path) -> None:
    """Datasets with a ratio of reasoning, whose keys are fractions, and empty times between."""
    lengths = {
        "0": {**EMPTY, "reason_ratio": "{}"},
        "21600": {
            "input_tokens": "{45: 0.009666283084004603, 46: 0.0, 1000: 1e-05}",
            "output_tokens": "{800: 0.5, 1200: 0.5}",
            "reason_ratio": "{0.0: 0.0, 0.001996007984031936: 0.5, 1.0: 0.5}",
        },
    }
    # Requests before the first distributions have the first ones.
    windows = day({0: 0.1, 21600: 0.2})
    trace = trace_files.read(client(tmp_path / "m", 0, windows, lengths))
    assert len(trace) == 180
    assert set(trace.output_tokens.tolist()) == {800, 1200}
    assert set(trace.input_tokens.tolist()) <= {45, 1000}


def test_prompts_have_all_attachments(tmp_path: Path) -> None:
    """Text, and the tokens of each image, audio and video."""
    lengths = {
        "0": {
            "text_tokens": "{100: 1.0}",
            "image_tokens": "{1000: 1.0}",
            "audio_tokens": "{0: 1.0}",
            "video_tokens": "{50000: 1.0}",
            "image_count": "{0: 0.25, 1: 0.5, 3: 0.25}",
            "audio_count": "{0: 1.0}",
            "video_count": "{0: 1.0}",
            "output_tokens": "{19: 1.0}",
        }
    }
    trace = trace_files.read(client(tmp_path / "m", 0, day({0: 1.0}), lengths))
    values, counts = np.unique(trace.input_tokens, return_counts=True)
    assert values.tolist() == [100, 1100, 3100]
    assert counts / 600 == pytest.approx([0.25, 0.5, 0.25], abs=0.06)
    del lengths["0"]["image_tokens"]
    with pytest.raises(
        TraceError, match=r"dataset.json: 0.image_tokens: is empty, though requests"
    ):
        trace_files.read(client(tmp_path / "m", 0, day({0: 1.0}), lengths))


def test_clients_without_a_dataset_are_named(tmp_path: Path) -> None:
    """They are left out of a folder with their share, the largest first; the only one is an error."""
    folder = tmp_path / "m"
    for number in range(8):
        rates = {0: 0.1 * (1 + number)}
        client(folder, number, day(rates), LENGTHS if number == 7 else None)
    client(folder, 8, day({}), None)
    trace = trace_files.read(folder)
    assert len(trace) == 480
    assert len(trace.left_out) == 6
    assert trace.left_out[0].endswith(
        "chunk-6-dataset.json: no such file; its client has 19.44% of the requests"
    )
    assert trace.left_out[-1] == f"{folder}: 2 more clients without a dataset, 8.33%"
    (folder / "chunk-7-dataset.json").unlink()
    with pytest.raises(
        TraceError, match=r"chunk-7-dataset.json: no such file, as for every client"
    ):
        trace_files.read(folder)
    with pytest.raises(TraceError, match=r"chunk-3-dataset.json: cannot be read"):
        trace_files.read(folder / "chunk-3-trace.csv")


def test_a_part_is_drawn_as_in_the_whole(tmp_path: Path) -> None:
    """The requests of a time are the same whichever part is read, and only that part is drawn."""
    folder = tmp_path / "m"
    # The second client has requests at other times only, and a dataset that is never looked at.
    client(folder, 0, day(dict.fromkeys(range(3600, 14400, 600), 0.5)))
    client(folder, 1, day({14400: 1.0}), {"0": {"input_tokens": "{x}", "output_tokens": "{1: 1}"}})
    part = trace_files.read(folder, selection=Selection(start=1000, end=3000))
    assert part.duration_seconds == 2000
    assert part.arrival_seconds[0] < 20
    client(folder, 1, day({}))
    whole = trace_files.read(folder)
    assert whole.arrival_seconds[0] < 20
    inside = (whole.arrival_seconds >= 1000) & (whole.arrival_seconds < 3000)
    assert part.arrival_seconds == pytest.approx(whole.arrival_seconds[inside] - 1000)
    assert len(part) == pytest.approx(1000, abs=60)


def test_the_scale_leaves_requests_out_while_drawing(tmp_path: Path) -> None:
    """A model of a thousand requests a second is read at a share of them, which is too many as a whole."""
    folder = tmp_path / "m-mid"
    path = client(folder, 0, day(dict.fromkeys(range(0, 86400, 600), 1000.0)))
    with pytest.raises(
        TraceError, match=r"m-mid: 86,400,000 requests, more than 20,000,000; choose"
    ):
        trace_files.read(folder)
    trace = trace_files.read(path, selection=Selection(scale=0.01, start=0, end=1200))
    assert len(trace) == pytest.approx(12_000, rel=0.05)
    assert trace.duration_seconds == 1200
    loaded = scenario.load(path, selection=Selection(scale=0.01, start=0, end=1200))
    assert loaded.arrival_seconds.tolist() == trace.arrival_seconds.tolist()
    few = trace_files.read(client(folder, 1), selection=Selection(scale=3.0))
    assert len(few) == 2700


@pytest.mark.parametrize(
    ("windows", "lengths", "said"),
    [
        ("0,0.5,1,Pareto,1,2\n", LENGTHS, "chunk-0-trace.csv:1: pattern: must be Gamma or Weibull"),
        ("0,0.5,1\n", LENGTHS, "chunk-0-trace.csv:1: must be start, rate, cv, pattern, shape and scale"),
        ("600,0,0,,0,0\n0,0,0,,0,0\n", LENGTHS, "chunk-0-trace.csv:2: start: must ascend"),
        ("0,-1,1,Gamma,1,2\n", LENGTHS, "chunk-0-trace.csv:1: start and rate: must be >= 0"),
        ("", LENGTHS, "chunk-0-trace.csv: is empty"),
        (WINDOWS, {"0": {}}, "chunk-0-dataset.json: has no input_tokens"),
        (WINDOWS, {"0": EMPTY}, "chunk-0-dataset.json: has no input_tokens"),
        (WINDOWS, [1], "chunk-0-dataset.json: must be a JSON object"),
        (WINDOWS, {"soon": LENGTHS["0"]}, "'soon': must be a number of seconds"),
        (WINDOWS, {"0": {"input_tokens": "{1: 0}", "output_tokens": "{1: 1}"}}, "must have probabilities"),
        (WINDOWS, {"0": {"input_tokens": "{1: nan}", "output_tokens": "{1: 1}"}}, "must have probab"),
        (WINDOWS, {"0": {"input_tokens": "{1.5: 1}", "output_tokens": "{1: 1}"}}, "must be whole"),
        (WINDOWS, {"0": {"input_tokens": "{1: 1, 2}", "output_tokens": "{1: 1}"}}, "tokens: must be {n"),
        ("0,0,0,,0,0\n", LENGTHS, "no request in it: all rates are 0"),
    ],
)  # fmt: skip
def test_wrong_clients_are_named(tmp_path: Path, windows: str, lengths: object, said: str) -> None:
    """File, line, and what it must be."""
    with pytest.raises(TraceError, match=said):
        servegen.read(client(tmp_path / "m", 0, windows, lengths))


def test_a_time_without_requests_is_an_error(tmp_path: Path) -> None:
    """With what the trace has."""
    path = client(tmp_path / "m", 0)
    with pytest.raises(
        TraceError, match="has no request from 700 s to 800 s; it has 900 in 1800 s"
    ):
        trace_files.read(path, selection=Selection(start=700, end=800))
