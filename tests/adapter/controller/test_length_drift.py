"""A profile outside the lengths that it was measured at: condition, explanation and log say so."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog
import yaml
from aiohttp import web

from adapter.controller import status
from adapter.diagnostics import explain, explain_text
from emulator.demo import scenario
from tests.adapter.controller.test_loop import Endpoint, harness


def measured_at(objects: Path, *, input_tokens: int, output_tokens: int) -> None:
    """Write the lengths of the measurement into the demo's profile; the endpoints show 178 tokens out."""
    path = objects / "variant.yaml"
    document = yaml.safe_load(path.read_text())
    (profile,) = document["spec"]["modelProfile"]["accelerators"]
    profile |= {"atInputTokens": input_tokens, "atTokens": output_tokens}
    path.write_text(yaml.safe_dump(document))


@pytest.mark.parametrize(("output_tokens", "left"), [(150, False), (1000, True)])
async def test_lengths_that_were_left_are_said(
    objects: Path, output_tokens: int, *, left: bool
) -> None:
    """Within a factor of one and a half nothing is said; beyond it all places name both lengths."""
    scenario.write_deployment(objects, [], 1)
    measured_at(objects, input_tokens=1, output_tokens=output_tokens)
    with structlog.testing.capture_logs() as logs:
        async with harness(objects, pod := Endpoint()) as controller:
            await controller.cycles(pod, seconds=120, rpm=30)
            state, now = controller.state, controller.clock.time()
    assert state.desired
    said = f"measured at 1/{output_tokens} tokens"
    (ready,) = [
        item
        for item in status.of_state(state, {}, now=now)["conditions"]
        if item["type"] == "OptimizationReady"
    ]
    assert (said in ready["message"]) is left
    document = explain.of_state(state, now=now)
    assert any(said in note for note in document["notes"]) is left
    assert f"decode and prefill times {said}" in "\n".join(explain_text.lines(document))
    warned = [entry for entry in logs if entry["event"].startswith("profile used outside")]
    assert len(warned) == int(left)


async def test_a_profile_without_lengths_is_shown_so(objects: Path) -> None:
    """Nothing can be converted and nothing compared: the explanation says what is missing."""
    async with harness(objects, pod := Endpoint()) as controller:
        await controller.cycles(pod, seconds=60, rpm=30)
        text = "\n".join(
            explain_text.lines(explain.of_state(controller.state, now=controller.clock.time()))
        )
    assert "without the lengths that they hold for" in text


class Longer(Endpoint):
    """An endpoint whose answers can become longer; requests finished before keep their length."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.until, self.counted = 178.0, 0.0, 0.0

    async def page(self, request: web.Request) -> web.Response:
        self.counted += self.tokens * (self.finished - self.until)
        self.until = self.finished
        text = (await super().page(request)).text or ""
        total = f'{{model_name="{scenario.MODEL}"}} {178 * self.finished}'
        return web.Response(text=text.replace(total, total.rpartition(" ")[0] + f" {self.counted}"))


async def test_lengths_that_moved_since_the_first_use_are_said(objects: Path) -> None:
    """A profile without lengths is compared with what it was first used at: condition, notes and log."""
    with structlog.testing.capture_logs() as logs:
        async with harness(objects, pod := Longer()) as controller:
            await controller.cycles(pod, seconds=120, rpm=30)
            assert not [
                note for note in controller.state.notes if "does not say its lengths" in note
            ]
            pod.tokens = 600.0
            await controller.cycles(pod, seconds=240, rpm=30)
            state, now = controller.state, controller.clock.time()
    (note,) = [note for note in state.notes if "does not say its lengths" in note]
    assert "first used at 0/178 tokens, traffic has 0/600" in note
    written = status.of_state(state, {}, now=now)
    (ready,) = [item for item in written["conditions"] if item["type"] == "OptimizationReady"]
    assert note in ready["message"]
    assert len([entry for entry in logs if "outside its first lengths" in entry["event"]]) == 1
