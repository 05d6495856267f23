"""What `explain` says of metrics that are counted only in part."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapter.diagnostics import explain, explain_text
from adapter.resources import folder
from emulator.demo import scenario
from tests.adapter.controller.test_loop import Endpoint, harness


@pytest.mark.parametrize("replicas", [1, 2])
async def test_a_load_that_is_a_part_is_told(objects: Path, replicas: int) -> None:
    """The target looks like any other, and the condition alone would say why it never falls."""
    async with harness(objects, pod := Endpoint()) as running:
        await running.cycles(pod, seconds=60, rpm=30)
        scenario.write_deployment(objects, [running.url], replicas)
        running.loop.apply_inputs(folder.read(objects))
        await running.cycles(pod, seconds=60, rpm=30)
        document = explain.of_state(running.state, now=running.clock.time())
    assert document["metrics"] == "MetricsFound"
    said = "\n".join(explain_text.lines(document))
    assert ("1 addresses for 2 replicas" in said) is (replicas == 2)
