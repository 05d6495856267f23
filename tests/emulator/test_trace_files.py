"""Public trace formats are read as published, and what is wrong with a file is said with its line."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

from emulator import trace_files
from emulator.trace_selection import Selection
from emulator.traces import TraceError

SAMPLES = Path(__file__).parents[2] / "manifests" / "samples" / "traces"
AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:59.6805900,374,44
2023-11-16 18:16:00.9951690,396,109
2023-11-16 18:16:01.0000000,7,0
"""
BURSTGPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,230,1317,Conversation log
118,GPT-4,417,0,417,API log
120,GPT-4,0,0,0,API log
"""
BURSTGPT_2 = """Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
19440110.0,1722ac82,43,GPT-4,906,446,1352,Conversation log
19440161.5,,2,ChatGPT,36,29,65,API log
"""
BAILIAN = """{"chat_id": 0, "parent_chat_id": -1, "timestamp": 61.5, "input_length": 521, \
"output_length": 132, "type": "text", "turn": 1, "hash_ids": [0]}
{"chat_id": 1, "parent_chat_id": 0, "timestamp": 63.0, "input_length": 700, "output_length": 9, \
"type": "text", "turn": 2, "hash_ids": [0, 1]}
"""
MOONCAKE = """{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]}
{"timestamp": 30535, "input_length": 6472, "output_length": 26, "hash_ids": [46, 48]}
"""


def write(folder: Path, text: str, name: str = "trace") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "requests", "skipped"),
    [
        (AZURE, [(0.0, 374, 44), (1.314579, 396, 109)], 1),
        (BURSTGPT, [(0.0, 472, 18), (40.0, 1087, 230)], 2),
        (BURSTGPT_2, [(0.0, 906, 446), (51.5, 36, 29)], 0),
        (MOONCAKE, [(0.0, 6955, 52), (3.053, 6472, 26)], 0),
        (BAILIAN, [(0.0, 521, 132), (1.5, 700, 9)], 0),
    ],
    ids=["azure", "burstgpt", "burstgpt 2", "mooncake", "bailian"],
)
def test_formats_are_told_by_their_header(
    tmp_path: Path, text: str, requests: list[tuple[float, int, int]], skipped: int
) -> None:
    """Each format is recognized; times are seconds since the first request; failures are counted."""
    trace = trace_files.read(write(tmp_path, text, "some.trace"))
    arrivals, inputs, outputs = (list(column) for column in zip(*requests, strict=True))
    assert trace.arrival_seconds.tolist() == pytest.approx(arrivals, abs=2e-6)
    assert trace.input_tokens.tolist() == inputs
    assert trace.output_tokens.tolist() == outputs
    assert trace.skipped == skipped
    assert trace.duration_seconds == trace.arrival_seconds[-1]
    assert trace.name == "some.trace"


def test_times_of_azure_2024_have_a_zone(tmp_path: Path) -> None:
    """The zone counts, fractions may be missing, and midnight is nothing special."""
    times = ["12 23:59:59.500000+00:00", "13 00:00:10+00:00", "13 02:00:11+02:00"]
    rows = "".join(f"2024-05-{time},1,1\n" for time in times)
    trace = trace_files.read(write(tmp_path, AZURE.splitlines()[0] + "\n" + rows))
    assert trace.arrival_seconds.tolist() == [0.0, 10.5, 11.5]


def test_requests_know_their_lines(tmp_path: Path) -> None:
    """An error about a request names where it is in the file, though requests are put in order."""
    path = write(tmp_path, BURSTGPT.replace("45,", "2,"), "odd.csv")
    lines = trace_files.read(path).lines
    assert lines is not None
    assert [lines.where(index) for index in (0, 1)] == [f"{path}:3", f"{path}:2"]


def test_unsorted_files_are_sorted(tmp_path: Path) -> None:
    """Requests are put in order of their time, each with its own tokens; equal times keep their order."""
    header = BURSTGPT.splitlines()[0]
    rows = [f"{30 - 10 * (i % 2)},m,{i},{i + 1},{2 * i + 1},x" for i in range(100)]
    trace = trace_files.read(write(tmp_path, "\n".join([header, *rows])))
    assert trace.arrival_seconds.tolist() == [0.0] * 50 + [10.0] * 50
    assert trace.input_tokens.tolist() == [*range(1, 100, 2), *range(0, 100, 2)]
    assert trace.output_tokens.tolist() == [n + 1 for n in trace.input_tokens]


@pytest.mark.parametrize("text", [AZURE, MOONCAKE], ids=["csv", "json"])
def test_gzip_byte_order_marks_and_blank_lines_are_tolerated(tmp_path: Path, text: str) -> None:
    """Compression is seen by content, not by name; Windows' line ends and empty lines do not matter."""
    plain = trace_files.read(write(tmp_path, text))
    odd = "\ufeff\r\n" + text.replace("\n", "\r\n\r\n")
    zipped = tmp_path / "zipped"
    zipped.write_bytes(gzip.compress(odd.encode()))
    for path in (write(tmp_path, odd, "odd"), zipped):
        trace = trace_files.read(path)
        assert trace.arrival_seconds.tolist() == plain.arrival_seconds.tolist()
        assert trace.output_tokens.tolist() == plain.output_tokens.tolist()


def test_a_quoted_header_is_one(tmp_path: Path) -> None:
    """Spreadsheets and data frames quote all of a file, or its texts."""
    header, rest = AZURE.split("\n", 1)
    quoted = ",".join(f'"{name}"' for name in header.split(","))
    trace = trace_files.read(write(tmp_path, f"{quoted}\n{rest}"))
    assert trace.output_tokens.tolist() == [44, 109]


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    """Nothing says which of two columns of one name holds."""
    text = (
        "TIMESTAMP,ContextTokens,GeneratedTokens,ContextTokens\n2023-11-16 18:15:46.68,10,20,30\n"
    )
    with pytest.raises(
        TraceError, match=r"trace:1: ContextTokens: the header has this column twice"
    ):
        trace_files.read(write(tmp_path, text))


def test_a_format_can_be_forced(tmp_path: Path) -> None:
    """A file that is not of the format that was asked for is refused, whatever it would be."""
    path = write(tmp_path, AZURE)
    assert len(trace_files.read(path, format="azure")) == 2
    with pytest.raises(
        TraceError, match=r"trace:1: Timestamp: no such column; the header has \['TIMES"
    ):
        trace_files.read(path, format="burstgpt")
    with pytest.raises(TraceError, match=r"4 of 4 lines are wrong, .*trace:1: not JSON"):
        trace_files.read(path, format="mooncake")
    with pytest.raises(
        TraceError, match="format: must be one of azure, burstgpt, mooncake, bailian, not 'csv'"
    ):
        trace_files.read(path, format="csv")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "trace: is empty; a trace has one request a line"),
        ("a,b,c\n1,2,3\n", "trace:1: header: 'a,b,c' is none of azure .* burstgpt .* mooncake"),
        (AZURE.replace("396", "-396"), "trace:3: ContextTokens: must be a whole number >= 0, not '-396'"),
        (AZURE.replace("109", "1e400"), "trace:3: GeneratedTokens: must be a whole number .* '1e400'"),
        (AZURE.replace("109", "many"), "trace:3: GeneratedTokens: .* 'many'; correct or delete the line"),
        (AZURE.replace("2023-11-16 18:16:00", "16.11."), "trace:3: TIMESTAMP: must be a time like 2023"),
        (AZURE.replace(",396,109", ""), "trace:3: GeneratedTokens: missing; complete or delete the line"),
        (BURSTGPT.replace("45,", "later,"), "trace:3: Timestamp: must be a number of seconds, not 'later'"),
        (BURSTGPT.replace("1087", "10.5"), "trace:3: Request tokens: must be a whole number"),
        (MOONCAKE.replace("30535", "null"), "trace:2: timestamp: missing"),
        (MOONCAKE.replace("30535", "true"), "trace:2: timestamp: must be a number of ms, not True"),
        (MOONCAKE.replace("6472", '"x"'), "trace:2: input_length: must be a whole number >= 0, not 'x'"),
        (MOONCAKE.replace(', "hash_ids": [46, 47]', ""), "trace:1: timestamp: its unit cannot be told: "),
        (BAILIAN.replace("63.0", '"x"'), "trace:2: timestamp: must be a number of seconds, not 'x'"),
        ("[1]\n", "trace:1: header"),
        ("{\n", "trace:1: not JSON"),
        (MOONCAKE + "[]\n", r"trace:3: must be a JSON object, not '\[\]'"),
        (MOONCAKE + "{\n", "trace:3: not JSON: .*; one object a line"),
        (MOONCAKE + '{"timestamp": ' + "[" * 3000 + "\n", "trace:3: not JSON: .*; one object a line"),
        ('{"timestamp": ' + "[" * 3000 + "\n", "trace:1: not JSON"),
        (AZURE.splitlines()[0], "trace: has a header and no request; a trace has one request a line"),
        ("\n".join(BURSTGPT.splitlines()[:1] + BURSTGPT.splitlines()[3:]), r"\(2 skipped\)"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    """Each problem has the file, the line, the field, what is there, and what to do."""
    try:
        problems = trace_files.read(write(tmp_path, text)).left_out
    except TraceError as error:
        problems = (str(error),)
    assert len(problems) == 1
    assert re.search(said, problems[0])


def test_few_wrong_lines_are_left_out(tmp_path: Path) -> None:
    """One in a hundred lines may be wrong, and are named; more are an error with the first and the count."""
    lines = [*AZURE.splitlines()[:2], *AZURE.splitlines()[1:2] * 299]
    lines[99], lines[199], lines[-1] = "2023-11-16 18:15:59,n/a,44", lines[0], lines[-1][:15]
    path = write(tmp_path, "\n".join(lines))
    trace = trace_files.read(path)
    assert len(trace) == 297
    assert trace.lines is not None
    assert [line.split(": ")[:2] for line in trace.left_out] == [
        [f"{path}:100", "ContextTokens"],
        [f"{path}:200", "GeneratedTokens"],
        [f"{path}:301", "GeneratedTokens"],
    ]
    path = write(tmp_path, "\n".join([*lines, *lines[-1:] * 4]))
    with pytest.raises(
        TraceError, match=r"trace: 7 of 304 lines are wrong, .*trace:303: .*; and 2 more$"
    ):
        trace_files.read(path)
    with pytest.raises(TraceError, match=r"^[^ ]*trace:2: ContextTokens: must be"):
        trace_files.read(write(tmp_path, "\n".join([lines[0], lines[99]])))


def test_a_wrong_line_is_named_beside_a_failed_request(tmp_path: Path) -> None:
    """Where nothing else is in the file, it may be the reason that there is no request."""
    text = AZURE.splitlines()[0] + "\n2023-11-16 18:15:46.68,374,0\nyesterday,10,20\n"
    with pytest.raises(TraceError, match=r"\(1 skipped\); left out: .*trace:3: TIMESTAMP: must be"):
        trace_files.read(write(tmp_path, text))
    with pytest.raises(TraceError, match=r"it has 1 in 0 s; left out: .*trace:3: TIMESTAMP"):
        trace_files.read(
            write(tmp_path, text.replace("374,0", "374,44")), selection=Selection(start=60.0)
        )


def test_the_unit_can_be_said(tmp_path: Path) -> None:
    """The same lines without a field that tells the unit are read as what they are said to be."""
    path = write(tmp_path, MOONCAKE.replace(', "hash_ids": [46, 47]', ""))
    assert trace_files.read(path, format="mooncake").duration_seconds == pytest.approx(3.053)
    assert trace_files.read(path, format="bailian").duration_seconds == pytest.approx(3053)


@pytest.mark.parametrize(
    ("beside", "step", "said"),
    [
        (
            '"hash_ids": [1]',
            2.0,
            "30030 a minute, if its unit is that of mooncake; is it in seconds?",
        ),
        (
            '"chat_id": 1',
            2000.0,
            "0.03003 a minute, if its unit is that of bailian; is it in milliseconds?",
        ),
    ],
)
def test_a_unit_that_makes_no_sense_is_asked_for(
    tmp_path: Path, beside: str, step: float, said: str
) -> None:
    """Files that were converted keep the fields of a format, and their times may be in another unit."""

    def lines(number: int, step: float) -> str:
        form = '{{"timestamp": {}, "input_length": 9, "output_length": 9, {}}}\n'
        return "".join(form.format(index * step, beside) for index in range(number))

    path = write(tmp_path, lines(1001, step))
    with pytest.raises(TraceError, match=re.escape(said)):
        trace_files.read(path)
    seconds = {
        trace_files.read(path, format=name).duration_seconds for name in ("mooncake", "bailian")
    }
    assert seconds == {1000.0 * step, step}
    # Few requests say nothing, and what the format says is right for the other step.
    assert len(trace_files.read(write(tmp_path, lines(20, step))).arrival_seconds) == 20
    right = trace_files.read(write(tmp_path, lines(1001, 4000.0 / step)))
    assert right.duration_seconds == pytest.approx(2000.0)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """A missing file, a folder, cut gzip and binary data give one sentence with the path."""
    cut = tmp_path / "cut.gz"
    cut.write_bytes(gzip.compress(AZURE.encode() * 100)[:60])
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00\x01")
    for path, said in (
        (tmp_path / "none", "none: cannot be read"),
        (tmp_path, "cannot be read"),
        (cut, "cut.gz: cannot be read"),
        (binary, "binary: no text: it is not UTF-8; is it a trace file"),
    ):
        with pytest.raises(TraceError, match=said):
            trace_files.read(path)


def test_a_broken_csv_names_its_line(tmp_path: Path) -> None:
    """A field without an end is an error of its line, not of the whole file."""
    long = "2023-11-16 18:15:59," + "1" * 200_000 + ",4\n"
    with pytest.raises(TraceError, match=r"trace:5: not CSV: .*; correct the line"):
        trace_files.read(write(tmp_path, AZURE + long))


@pytest.mark.parametrize(
    ("name", "skipped"), [("azure.csv", 0), ("burstgpt.csv", 9), ("mooncake.jsonl", 0)]
)
def test_the_samples_are_read(name: str, skipped: int) -> None:
    """Each sample has about two hundred requests in five minutes, and BurstGPT's some failures."""
    trace = trace_files.read(SAMPLES / name)
    assert 180 <= len(trace) <= 240
    assert 270 < trace.duration_seconds <= 300
    assert trace.skipped == skipped
    assert trace.rate_rpm(300.0)[0] == pytest.approx(40, rel=0.2)
