"""Flags of the command that choose and scale the traffic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adapter import cli
from emulator.replay import scenario

REPLAYS = Path(__file__).parents[3] / "manifests/samples/replay"
COMMAND = ["replay", "--scenario", str(REPLAYS / "scenario.yaml"), "--quiet", "--json",
           "--policies", "hpa-queue"]  # fmt: skip


def replayed(capsys: pytest.CaptureFixture[str], *flags: str) -> Any:
    assert cli.main([*COMMAND, *flags]) == 0
    return json.loads(capsys.readouterr().out)


def test_window_and_scale(capsys: pytest.CaptureFixture[str]) -> None:
    """A window lasts as long as it says and has its requests; a scale multiplies their number."""
    trace = scenario.load(REPLAYS / "step.yaml").arrival_seconds
    window = ["--from", "5m", "--to", "900"]
    part = replayed(capsys, *window)
    assert part["duration_seconds"] == 600
    assert part["requests"] == ((trace >= 300) & (trace < 900)).sum()
    double = replayed(capsys, *window, "--scale", "2")
    assert double["requests"] == 2 * part["requests"]
    assert double["outcomes"][0]["gpu_hours"] > part["outcomes"][0]["gpu_hours"]


@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [
        (["--from", "10h"], 1, "default.trace: step-3x: has no request from 36000 s to the end"),
        (["--from", "10m", "--to", "5m"], 2, "--from, --to: must begin at >= 0"),
        (["--scale", "0"], 2, "--scale: must be > 0"),
        (["--scale", "0.000001"], 1, "models.default/default.trace: "),
        (["--from", "soon"], 2, "--from: must be a duration"),
        (["--to", "100"], 1, "models.default/default.trace: has no request after the warm-up of 120 s"),
    ],
)  # fmt: skip
def test_errors(
    capsys: pytest.CaptureFixture[str], flags: list[str], status: int, said: str
) -> None:
    """A window without requests and a wrong flag are told in a sentence, and nothing is replayed."""
    try:
        code = cli.main([*COMMAND, *flags])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else -1
    printed = capsys.readouterr()
    assert (code, printed.out) == (status, "")
    assert said in printed.err
