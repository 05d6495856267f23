"""A VariantAutoscaling without a profile: the saturation rule decides, and everything says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest

from adapter.controller import status, telemetry
from adapter.diagnostics import explain
from adapter.resources import folder
from emulator.demo import scenario
from tests.adapter.controller.test_loop import Endpoint, Harness, harness


@pytest.fixture
def unprofiled(objects: Path) -> Path:
    """The demo's objects without the profile."""
    scenario.write_deployment(objects, [], 1)
    path = objects / "variant.yaml"
    document = yaml.safe_load(path.read_text())
    del document["spec"]["modelProfile"]
    path.write_text(yaml.safe_dump(document))
    return objects


class Busy(Endpoint):
    """A server without finished requests whose KV cache and queue are given."""

    def __init__(self, *, kv_usage: float, waiting: int = 0, running: int = 30) -> None:
        super().__init__()
        self.kv_usage, self.waiting, self.running = kv_usage, waiting, running

    async def page(self, _: web.Request) -> web.Response:
        label = f'{{model_name="{scenario.MODEL}"}}'
        return web.Response(
            text=f"vllm:num_requests_running{label} {self.running}\n"
            f"vllm:num_requests_waiting{label} {self.waiting}\n"
            f"vllm:kv_cache_usage_perc{label} {self.kv_usage}\n"
            f"vllm:request_success_total{label} {self.finished}\n"
        )


def labels(controller: Harness) -> str:
    """The adapter's own metrics page."""
    registry = CollectorRegistry()
    registry.register(telemetry.VariantCollector(lambda: controller.loop.states))
    return generate_latest(registry).decode()


async def test_it_scales_from_the_first_requests(unprofiled: Path) -> None:
    """Full caches raise the target before any request has finished; the reason is in all places."""
    async with harness(unprofiled, Busy(kv_usage=0.96), Busy(kv_usage=0.9)) as controller:
        controller.clock.at += 10
        await controller.loop.scrape()
        await controller.cycles(seconds=10, rpm=0)
        state = controller.state
        assert state.desired == 3
        assert (state.outcome, state.metrics) == ("SaturationRule", "MetricsFound")
        assert controller.served()
        written = status.of_state(state, {}, now=controller.clock.time())
        (ready,) = [item for item in written["conditions"] if item["type"] == "OptimizationReady"]
        assert (ready["status"], ready["reason"]) == ("True", "SaturationRule")
        assert "saturation rule (no profile): KV cache 96% full" in ready["message"]
        assert explain.of_state(state, now=controller.clock.time())["profileSource"] == "saturation"
        assert "variant_adapter_profile_source{" in labels(controller)
        assert 'source="saturation"' in labels(controller)


async def test_short_requests_between_two_pages_are_requests(unprofiled: Path) -> None:
    """Nothing runs or waits on any page: the counters say that requests come, and so does the reason."""
    short = Busy(kv_usage=0.0, running=0)
    async with harness(unprofiled, short) as controller:
        await controller.cycles(short, seconds=40, rpm=60)
        assert controller.state.outcome == "SaturationRule"
        decision = controller.state.decision
        assert decision is not None
        assert decision.arrival_rate_rps > 0
        assert decision.reason == "saturation rule (no profile): KV cache 0% full, target 80%"


async def test_a_given_profile_is_named_so(objects: Path) -> None:
    """Where there is a profile nothing changes but that telemetry says so."""
    async with harness(objects, Endpoint()) as controller:
        await controller.cycles(*(), seconds=20, rpm=0)
        assert controller.state.outcome == "OptimizationSucceeded"
        assert 'source="given"' in labels(controller)


async def test_it_goes_down_slowly_and_to_its_bounds(unprofiled: Path) -> None:
    """Half-empty caches take away one replica at a time, within the variant's minimum."""
    path = unprofiled / "variant.yaml"
    document = yaml.safe_load(path.read_text())
    document["metadata"].setdefault("annotations", {})["llmd.ai/min-replicas"] = "2"
    path.write_text(yaml.safe_dump(document))
    pods = [Busy(kv_usage=0.1) for _ in range(3)]
    async with harness(unprofiled, *pods) as controller:
        controller.clock.at += 10
        await controller.loop.scrape()
        await controller.cycles(seconds=10, rpm=0)
        assert controller.state.desired == 2
        for pod in pods:
            pod.kv_usage = 0.01
        await controller.cycles(seconds=120, rpm=0)
        assert controller.state.desired == 2


async def test_missing_metrics_hold_its_target(unprofiled: Path) -> None:
    """Without metrics of a pod the rule decides nothing new, as everywhere."""
    pods = [Busy(kv_usage=0.9), Busy(kv_usage=0.9)]
    async with harness(unprofiled, *pods) as controller:
        await controller.cycles(seconds=20, rpm=0)
        assert controller.state.desired == 3
        controller.clock.at += 100
        await controller.loop.reconcile()
        assert (controller.state.desired, controller.state.outcome) == (3, "MetricsUnavailable")


def test_the_accelerator_must_be_known(unprofiled: Path) -> None:
    """The label says it, or there is only one; else the refusal names the label and what there is."""
    assert folder.read(unprofiled).variants[0].profiles == ()
    assert folder.read(unprofiled).variants[0].accelerator == "A100"
    path = unprofiled / "variant.yaml"
    document = yaml.safe_load(path.read_text())
    document["metadata"]["labels"] = {"inference.optimization/acceleratorName": "H100"}
    path.write_text(yaml.safe_dump(document))
    contents = folder.read(unprofiled)
    (refused,) = contents.refused
    assert refused.reason == "InvalidConfiguration"
    assert "inference.optimization/acceleratorName" in refused.message
    assert "A100" in refused.message
