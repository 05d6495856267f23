"""What a gateway counts beyond a model's pods: none of it where these would have taken it up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from adapter.collector.gateway import Rates
from adapter.collector.observation import Observation
from adapter.collector.traffic import Traffic
from adapter.controller.demand import credible
from adapter.resources import folder
from adapter.resources.variant import VariantSource
from emulator.demo import scenario

COUNTED = 24.0
"""Requests per second at the gateway, where the pods show 2."""


@pytest.fixture
def source(objects: Path) -> VariantSource:
    """Four replicas, each with a batch of four."""
    scenario.write_deployment(objects, [f"http://127.0.0.1:{port}" for port in range(1, 5)], 4)
    (variant,) = folder.read(objects).variants
    return replace(variant, replicas=4, spec_replicas=4)


def observed(**more: object) -> Observation:
    traffic = Traffic(
        arrival_rate_rps=2.0, input_tokens=128.0, output_tokens=178.0, ttft_ms=50.0, itl_ms=20.0,
        idle=False, running=8.0,
    )  # fmt: skip
    return Observation(origin="direct", traffic=replace(traffic, **more))  # type: ignore[arg-type]


def believed(source: VariantSource, observation: Observation, *, queued: bool = False) -> float:
    place = (source.namespace, source.model)
    rates = Rates(rps={place: COUNTED}, queued=frozenset({place} if queued else ()))
    return credible(rates, [source], {source.key: observation}).rps[place]


def test_pods_with_room_show_all_that_comes(source: VariantSource) -> None:
    """A counter of the gateway that runs ahead of them asks for nothing."""
    assert believed(source, observed()) == 2.0


@pytest.mark.parametrize(
    "more",
    [{"waiting": 3.0}, {"running": 15.0}, {"kv_cache": 0.9}],
    ids=["queue", "batch", "cache"],
)
def test_pods_without_room_turn_requests_away(
    source: VariantSource, more: dict[str, float]
) -> None:
    """The gateway alone may know those."""
    assert believed(source, observed(**more)) == COUNTED


def test_a_gateway_that_holds_requests_knows_them(source: VariantSource) -> None:
    """They do not reach the pods."""
    assert believed(source, observed(), queued=True) == COUNTED


def test_pods_that_are_not_heard_say_nothing(source: VariantSource) -> None:
    """Nor does a variant without traffic, or another one of the model that is a part."""
    assert believed(source, replace(observed(), complete=False)) == COUNTED
    assert believed(source, replace(observed(), traffic=None)) == COUNTED
    place = (source.namespace, source.model)
    other = replace(source, name="other")
    rates = credible(Rates(rps={place: COUNTED}), [source, other], {source.key: observed()})
    assert rates.rps[place] == COUNTED


def test_what_came_since_the_pods_were_read_counts(source: VariantSource) -> None:
    """Their pages are 12 s old: a burst that began since is on the gateway's alone."""
    place = (source.namespace, source.model)
    counted = {place: [(30.0, 2.0), (10.0, 12.0), (2.0, 10.0)]}
    rates = Rates(rps={place: COUNTED}, counted=counted)
    for age, rps in (0.0, 2.0), (5.0, 12.0), (12.0, COUNTED):
        observation = replace(observed(), age_seconds=age)
        assert credible(rates, [source], {source.key: observation}).rps[place] == rps
