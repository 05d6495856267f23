"""What one leader learned is in `.status` for the next; drift is an Event, once per episode."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapter.app.endpoints import Endpoints
from adapter.controller.estimates import stored
from adapter.controller.tuning import TunedProfile
from analyzer.engine import learning
from tests.fakes import cluster_world as worlds
from tests.fakes import kubernetes_writes
from tests.fakes.cluster_world import MODEL, World, until
from tests.fakes.kubernetes_objects import VARIANTS

pytestmark = pytest.mark.virtual_time

LOOP = replace(worlds.LOOP, collection=replace(worlds.LOOP.collection, window=10.0))
"""A short window, which is one observation."""


def unprofiled(world: World) -> None:
    """Variant `v` without a profile, under load, with latencies."""
    item = worlds.variant("v")
    item["spec"] = {name: value for name, value in item["spec"].items() if name != "modelProfile"}
    world.api.put(VARIANTS, "variantautoscalings", item)
    world.load["v"] = 120.0
    world.pages.itl_ms = 15.0


def tuned(endpoints: Endpoints) -> TunedProfile | None:
    """The tuner of variant `v`."""
    state = endpoints.loop.states.get("team-a/v")
    return None if state is None else next(iter(state.tuned.values()), None)


def accepted(endpoints: Endpoints) -> int:
    item = tuned(endpoints)
    return 0 if item is None else item.tuner.accepted


def written(world: World) -> dict[str, stored.Stored]:
    return stored.parse(world.status().get("learnedStepTimes", ""), MODEL)


async def test_a_new_leader_goes_on_with_what_was_learned(tmp_path: Path) -> None:
    """The second leader starts from the first one's step times, not from the prior."""
    async with worlds.running(tmp_path) as world:
        unprofiled(world)
        async with world.replica("a", loop=LOOP) as (a, _):
            await until(lambda: accepted(a) >= 8)
            await until(lambda: any(item.state.accepted >= 4 for item in written(world).values()))
            first = tuned(a)
        assert first is not None
        ((name, kept),) = written(world).items()
        async with world.replica("b", loop=LOOP) as (b, _):
            await until(lambda: b.loop.leading and accepted(b) > 0)
            second = tuned(b)
            assert second is not None
            assert second.profile.accelerator == name
            assert second.tuner.accepted >= kept.state.accepted
            assert second.tuner.parameters == pytest.approx(first.tuner.parameters, rel=0.3)
            # Windows of a steady load write when their number has doubled, and once more when they suffice.
            count, written_texts = accepted(b), set()
            for more in range(1, 13):
                await until(lambda more=more: accepted(b) >= count + more)  # type: ignore[misc]
                written_texts.add(world.status()["learnedStepTimes"])
            assert len(written_texts) <= 5


@pytest.mark.parametrize("text", ["{", json.dumps({"v": 1, "model": MODEL, "by": {"A100": {}}})])
async def test_what_somebody_else_wrote_there_is_not_used(tmp_path: Path, text: str) -> None:
    """An invalid text is ignored, and replaced once something was learned."""
    async with worlds.running(tmp_path) as world:
        unprofiled(world)
        world.api.set_status(VARIANTS, "variantautoscalings", "team-a", "v", learnedStepTimes=text)
        async with world.replica("a", loop=LOOP) as (a, _):
            await until(lambda: accepted(a) >= 1)
            await until(lambda: bool(written(world)))


async def test_a_crd_without_the_field_gets_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workload-variant-autoscaler's CRD lacks it: targets are written, what was learned is not."""
    monkeypatch.setitem(kubernetes_writes.UNDECLARED_STATUS, "v", frozenset({"learnedStepTimes"}))
    async with worlds.running(tmp_path) as world:
        unprofiled(world)
        async with world.replica("a", loop=LOOP) as (a, _):
            await until(lambda: accepted(a) >= 4)
            await until(lambda: world.desired() is not None)
            world.load["v"] = 0.0
            await until(lambda: world.desired() == 1)
        assert "learnedStepTimes" not in world.status()


def drift_events(world: World) -> list[tuple[str, str, str]]:
    return [item for item in world.events() if item[1].startswith("Prediction")]


async def test_drift_is_one_event_and_its_end_another(tmp_path: Path) -> None:
    """Latencies twice those of the profile: a Warning with both numbers, once; right again: a Normal one."""
    async with worlds.running(tmp_path) as world:
        item: Any = worlds.variant("v")
        item["metadata"].setdefault("annotations", {})["llmd.ai/tune"] = "false"
        profile = item["spec"]["modelProfile"]["accelerators"][0]
        profile |= {"maxBatchSize": 64, "atInputTokens": 100, "atTokens": 178}
        world.api.put(VARIANTS, "variantautoscalings", item)
        world.load["v"] = 60.0
        world.pages.itl_ms = 50.0
        async with world.replica("a", loop=LOOP) as (a, _):
            await until(lambda: bool(drift_events(world)))
            count = accepted(a)
            await until(lambda: accepted(a) >= count + 5)
            ((kind, reason, note),) = drift_events(world)
            assert (kind, reason) == ("Warning", "PredictionDrift")
            assert "ITL observed 50.0 ms, predicted" in note
            assert world.condition("ProfileAccurate")[:2] == ("False", "PredictionDrift")
            assert world.condition("OptimizationReady")[0] == "True"
            item = tuned(a)
            assert item is not None
            assert isinstance(item.tuner, learning.State)
            predicted = 50.0 / (1.0 + item.tuner.itl_error)
        # A new leader that has not seen enough says nothing new, and keeps what was said.
        async with world.replica("b", loop=LOOP) as (b, _):
            await until(lambda: b.loop.leading and accepted(b) >= 1)
            assert len(drift_events(world)) == 1
            world.pages.itl_ms = predicted
            await until(lambda: len(drift_events(world)) == 2)
            kind, reason, note = drift_events(world)[-1]
            assert (kind, reason) == ("Normal", "PredictionsRight")
            assert world.condition("ProfileAccurate")[0] == "True"
