"""`record` from a real Prometheus whose past is written into its storage: no time passes."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from emulator import trace_files
from tests.fakes import prometheus_server
from tests.fakes.prometheus_history import PodPast, openmetrics, poisson

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        prometheus_server.binary() is None or shutil.which("promtool") is None,
        reason=prometheus_server.MISSING,
    ),
]

T = 1_760_004_000
"""A whole hour, 10:00 UTC."""
MINUTES = 130
"""More than one chunk of steps."""


def pods() -> list[PodPast]:
    """One that restarts, one that comes later, one that ends, and one of another model."""
    begin, end = T - 600, T + MINUTES * 60 + 600
    later, last = T + 30 * 60 + 7, T + 90 * 60 - 1
    return [
        PodPast("a", begin, end, arrivals=poisson(0.3, begin, end), restarts=(T + 605.0,)),
        PodPast("b", later, end, arrivals=poisson(0.2, later, end, seed=1), seed=1),
        PodPast("c", begin, last, arrivals=poisson(0.2, begin, last - 60, seed=2), seed=2),
        PodPast("d", begin, end, arrivals=poisson(5.0, begin, end), model="other"),
    ]


def sglang() -> str:
    """Two engines that serve a request of 100 and 50 tokens every 15 s each, for an hour; three wait."""
    target = 'model_name="s",namespace="team",pod="s",instance="s:1",job="pods"'
    series: dict[str, Callable[[int], int]] = {}
    for rank in "01":
        labels = f'{target},dp_rank="{rank}"'
        series[f"sglang:num_requests_total{{{labels}}}"] = lambda n: n
        series[f"sglang:prompt_tokens_total{{{labels}}}"] = lambda n: 100 * n
        series[f"sglang:generation_tokens_total{{{labels}}}"] = lambda n: 50 * n
        for tensor_rank in "01":
            series[f'sglang:num_running_reqs{{{labels},tp_rank="{tensor_rank}"}}'] = lambda _: 2
        series[f"sglang:num_queue_reqs{{{labels}}}"] = lambda _: 3
        series[f'sglang:num_queue_reqs{{{labels},priority="1"}}'] = lambda n: n % 3
    return (
        "".join(
            f"{name} {value(index)} {T + 15 * index}\n"
            for name, value in series.items()
            for index in range(241)
        )
        + "# EOF\n"
    )


async def recorded(folder: Path, past: str, *flags: str) -> tuple[str, Path]:
    """What the command prints, and the trace."""
    (folder / "past.txt").write_text(past)
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", "past.txt", "data"]
    await asyncio.to_thread(subprocess.run, command, cwd=folder, check=True, capture_output=True)
    options = {"storage.tsdb.path": str(folder / "data"), "storage.tsdb.retention.time": "100y"}
    async with prometheus_server.running(options=options) as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "adapter", "record", "--prometheus", server.url,
            "--output", str(folder / "trace.csv"), *flags,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode(), folder / "trace.csv"


async def test_a_real_prometheus_gives_the_requests_of_each_step(tmp_path: Path) -> None:
    """PromQL, staleness and ranges as they really are: the trace has each step's arrivals."""
    past = pods()
    output, trace = await recorded(
        tmp_path, openmetrics(past), "--model", "m", "--namespace", "team",
        "--from", "2025-10-09T10:00:00Z", "--to", "2025-10-09T12:10:00Z",
    )  # fmt: skip
    arrivals = [0] * MINUTES
    for line in trace.read_text().splitlines()[1:]:
        hour, minute = re.match(r"2025-10-09 (\d\d):(\d\d):", line).groups()  # type: ignore[union-attr] # each line has it
        arrivals[60 * (int(hour) - 10) + int(minute)] += 1
    expected = [
        sum(pod.arrived(T + 60 * minute, T + 60 * minute + 60) for pod in past[:3])
        for minute in range(MINUTES)
    ]
    # In the minute of the restart what the old process served is lost.
    arrivals[10] = expected[10]
    assert arrivals == expected
    assert "up to 3 pods" in output
    assert "Gap" not in output


async def test_sglang_is_read_by_its_own_names(tmp_path: Path) -> None:
    """Counters of two engines add up, ranks and priorities do not double, lengths are the means."""
    output, trace = await recorded(
        tmp_path, sglang(), "--model", "s",
        "--from", "2025-10-09T10:05:00Z", "--to", "2025-10-09T10:45:00Z",
    )  # fmt: skip
    rows = trace_files.read(trace)
    assert len(rows) == 40 * 8
    assert set(rows.input_tokens) == {100}
    assert set(rows.output_tokens) == {50}
    # Two run and three wait in each of two engines, at the beginning and at the end.
    assert "10 requests had not finished" in output
