"""Objects that are read beside the watches, a Service or a `/scale`: an odd one takes nothing from others."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from adapter.resources.wva import managed
from tests.fakes import cluster_world as worlds
from tests.fakes.cluster_world import APPS, CORE, SCALERS, World, until
from tests.fakes.kubernetes_objects import VARIANTS
from tests.security.test_addresses import serving
from tests.security.test_pickers import POOLS, picked


async def others_are_decided(world: World) -> None:
    """A variant that comes after the odd object gets its target."""
    world.load |= {"v": 60.0, "w": 60.0}
    async with world.replica("a") as (endpoints, _):
        await until(lambda: world.desired() == 2)
        world.deploy("w", 1)
        await until(lambda: world.desired("w") == 2)
        assert endpoints.loop.problem is None


@pytest.mark.virtual_time
@pytest.mark.parametrize("selector", [["app"], "app"])
async def test_an_odd_service_of_a_picker_is_left_out(tmp_path: Path, selector: Any) -> None:
    """The Service that a tenant's pool names: with an odd one no picker of anybody was read."""

    async def handle(_: web.Request) -> web.Response:
        return web.Response(text="")

    async with serving(handle) as (url, requested), worlds.running(tmp_path) as world:
        picked(world, url)
        meta = {"name": "odd", "namespace": "team-b"}
        spec = {"selector": {"matchLabels": {"app": "x"}}, "endpointPickerRef": {"name": "odd"}}
        world.api.put(POOLS, "inferencepools", {"metadata": meta, "spec": spec})
        world.api.put(CORE, "services", {"metadata": meta, "spec": {"selector": selector}})
        await others_are_decided(world)
        assert requested


@pytest.mark.virtual_time
async def test_an_odd_managed_hpa_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody foresaw in an HPA that stands for a variant."""
    real = managed.variant_of

    def variant_of(item: Any) -> Any:
        if item["metadata"]["name"] == "odd":
            raise ZeroDivisionError
        return real(item)

    monkeypatch.setattr(managed, "variant_of", variant_of)
    async with worlds.running(tmp_path) as world:
        world.api.put(SCALERS, "horizontalpodautoscalers", worlds.scaler("odd"))
        await others_are_decided(world)


def has_condition(world: World, name: str) -> bool:
    """Whether something is said of a variant's metrics."""
    return bool(world.condition("MetricsAvailable", name)[2])


TERMS = {f"k{number}": "x" for number in range(65)}


@pytest.mark.virtual_time
async def test_a_selector_with_too_many_terms_is_named(tmp_path: Path) -> None:
    """It said that there were no endpoints, or that the selector was none."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        for kind, plural in (("Deployment", "deployments"), ("StatefulSet", "statefulsets")):
            name = kind.lower()
            item = worlds.workload(name, 1, kind)
            item["spec"]["selector"]["matchLabels"] |= TERMS
            world.api.put(APPS, plural, item)
            reference = {"apiVersion": "apps/v1", "kind": kind, "name": name}
            variant = worlds.variant(name, scaleTargetRef=reference)
            world.api.put(VARIANTS, "variantautoscalings", variant)
        async with world.replica("a"):
            await until(lambda: world.desired() == 2)
            for name in ("deployment", "statefulset"):
                await until(functools.partial(has_condition, world, name))
                message = world.condition("MetricsAvailable", name)[2]
                assert "selector" in message
                assert "has 66 terms, and at most 64 are compared" in message
