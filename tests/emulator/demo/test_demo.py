"""The demo as a user runs it: own processes, real sockets, the real kubectl.

Waits end with a line that the demo prints. The phases of the load last several times as long as scaling takes
on a busy machine.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from rich.console import Console

from adapter import cli
from emulator.demo import comparison, scenario
from emulator.replay.scenario import Scenario
from tests.fakes.replay import results as replay_results

BIN = Path(sys.executable).parent
METRIC = (
    f"/apis/external.metrics.k8s.io/v1beta1/namespaces/{scenario.NAMESPACE}/inferno_desired_replicas"
    f"?labelSelector=variant_name%3D{scenario.NAME}"
)
HANG_SECONDS = 300
"""Bound for what takes seconds: it turns a hang into a failure."""


@contextmanager
def started(folder: Path, *flags: str) -> Iterator[subprocess.Popen[str]]:
    """The demo without live view and final comparison, in that folder; killed if it still runs."""
    command = [str(BIN / "variant-adapter"), "demo", "--no-tui", "--no-replay", *flags]
    with (
        (folder / "stderr").open("w") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=folder
        ) as process,
    ):
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(HANG_SECONDS)


def read_until(stream: IO[str] | None, pattern: str) -> str:
    """The first group of the pattern in the first line that has it."""
    assert stream is not None
    for line in stream:
        if match := re.search(pattern, line):
            return match[1]
    raise AssertionError(f"{pattern} never came")


def get_metric(kubeconfig: str) -> list[dict[str, Any]]:
    """Items of the metric, as `kubectl get --raw` prints them."""
    done = subprocess.run(
        [BIN / "kubectl", "--kubeconfig", kubeconfig, "get", "--raw", METRIC],
        capture_output=True, text=True, timeout=HANG_SECONDS, check=True,
    )  # fmt: skip
    items: list[dict[str, Any]] = json.loads(done.stdout)["items"]
    return items


def timeline(folder: Path) -> list[dict[str, str]]:
    with (folder / "demo-out" / "timeline.csv").open() as file:
        return list(csv.DictReader(file))


def exists(process: str) -> bool:
    return Path(f"/proc/{process}").exists()


@pytest.mark.slow
def test_demo_from_one_replica_to_more_and_back(tmp_path: Path) -> None:
    """The demo scales out and back to one; Ctrl-C ends it with its timeline and no server left.

    Two replicas carry the load; a busy machine is late, and more are needed for the queue that waits by then.
    """
    with started(tmp_path, "--speed", "10", "--schedule", "[[200, 60], [400, 0]]") as demo:
        kubeconfig = read_until(demo.stdout, r"kubectl --kubeconfig (\S+) get --raw")
        children = Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split()
        assert children
        assert int(read_until(demo.stdout, r"HPA: 1 -> (\d+) replicas")) >= 2
        (item,) = get_metric(kubeconfig)
        assert int(item["value"]) >= 1
        assert item["metricLabels"]["model_name"] == "default/default"
        read_until(demo.stdout, r"HPA: (\d+ -> 1) replicas")
        read_until(demo.stdout, r"offered .* replicas (1) \(desired 1\)")
        demo.send_signal(signal.SIGINT)
        assert demo.stdout is not None
        printed = demo.stdout.read()
        assert demo.wait(HANG_SECONDS) == 0, (tmp_path / "stderr").read_text()
    assert "SLO attainment" in printed
    assert "interrupted: all servers were stopped" in printed
    rows = timeline(tmp_path)
    assert list(rows[0]) == [
        "time_s", "variant", "arrival_rate_rpm", "desired_replicas", "current_replicas",
        "ttft_ms", "itl_ms", "cost_cents",
    ]  # fmt: skip
    for column in ("desired_replicas", "current_replicas"):
        numbers = {int(row[column]) for row in rows if row[column]}
        assert min(numbers) == 1 < max(numbers)
    assert (rows[-1]["current_replicas"], rows[-1]["desired_replicas"]) == ("1", "1")
    assert (tmp_path / "demo-out" / "timeline.png").read_bytes().startswith(b"\x89PNG")
    assert not any(map(exists, children))
    assert not Path(kubeconfig).exists()


@pytest.mark.slow
def test_demo_ends_by_itself(tmp_path: Path) -> None:
    """After its duration the demo ends with status 0 and its timeline."""
    with started(tmp_path, "--speed", "10", "--duration", "10") as demo:
        assert demo.stdout is not None
        printed = demo.stdout.read()
        assert demo.wait(HANG_SECONDS) == 0, (tmp_path / "stderr").read_text()
    assert "written: demo-out/timeline.csv" in printed
    assert "interrupted" not in printed
    # A sample every two scenario seconds, also on a busy machine.
    times = [float(row["time_s"]) for row in timeline(tmp_path)]
    assert len(times) >= 2
    assert [after - before for before, after in itertools.pairwise(times)] == pytest.approx(
        [2.0] * (len(times) - 1), abs=0.002
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--schedule", "[[10]]"), "schedule[0]: must be [seconds, rate]"),
        (("--speed", "0"), "must be a number above 0"),
    ],
)
def test_bad_flags_are_named(
    flags: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A flag with a bad value ends with status 2 and says what it accepts."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["demo", *flags])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_the_final_comparison_is_of_the_demos_variant(tmp_path: Path) -> None:
    """It replays the demo's model and SLO, and writes table and page."""
    pytest.importorskip("matplotlib", reason="pictures need matplotlib, which is an extra")
    replayed = Scenario.model_validate(comparison.SCENARIO)
    assert [item.name for item in replayed.variants] == [scenario.NAME]
    assert [item.model for item in replayed.models] == [scenario.MODEL]
    slo = replayed.models[0].slo
    assert (slo.ttft, slo.itl) == (scenario.SLO_TTFT_MS, scenario.SLO_ITL_MS)
    console = Console(width=100, color_system=None)
    page = tmp_path / "replay.html"
    with console.capture() as capture:
        comparison.show(replay_results.comparison(rules=replay_results.RULES[:2]), console, page)
    assert "step-3x on emulated" in capture.get()
    assert f"written: {page}" in capture.get().replace("\n", "")
    assert page.read_text().startswith("<!DOCTYPE html>")
