"""Scale targets that the adapter patches: on request, from zero, and of any kind with /scale."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes import cluster_world as worlds
from tests.fakes import kubernetes_api
from tests.fakes.cluster_world import APPS, LWS, until
from tests.fakes.kubernetes_objects import VARIANTS

pytestmark = pytest.mark.virtual_time


async def test_scale_targets_are_patched_where_that_is_ours(tmp_path: Path) -> None:
    """With --actuate=scale the Deployment follows; one that is annotated for an HPA is left alone."""
    async with worlds.running(tmp_path, actuate=True) as world:
        world.load |= {"v": 60.0, "hands-off": 60.0}
        world.deploy("hands-off", 1)
        item = world.variant("hands-off")
        item["metadata"]["annotations"] = {"llmd.ai/actuate": "hpa"}
        world.api.put(VARIANTS, "variantautoscalings", item)
        async with world.replica("a", actuate_scale=True):
            await until(lambda: world.desired("hands-off") == 2)
            await until(
                lambda: world.api.get(APPS, "deployments", "team-a", "v")["spec"]["replicas"] == 2
            )
            await until(lambda: world.status()["currentAlloc"]["numReplicas"] == 2)
            other = world.api.get(APPS, "deployments", "team-a", "hands-off")
            assert other["spec"]["replicas"] == 1


async def test_zero_is_left_only_when_somebody_asks(tmp_path: Path) -> None:
    """A Deployment at zero stays there until a request waits at the gateway: then one replica starts."""
    async with worlds.running(tmp_path, actuate=True) as world:
        world.api.put(APPS, "deployments", worlds.workload("v", 0))

        def replicas() -> int:
            deployment = world.api.get(APPS, "deployments", "team-a", "v")
            spec_replicas: int = deployment["spec"]["replicas"]
            return spec_replicas

        async with world.replica("a", gateways=(("", world.gateway),)) as (endpoints, _):
            await until(lambda: world.desired() is not None)
            cycles = endpoints.loop.cycles
            await until(lambda: endpoints.loop.cycles >= cycles + 2)
            assert replicas() == 0
            world.waiting = 3
            await until(lambda: replicas() == 1)


async def test_all_replicas_know_before_one_wakes(tmp_path: Path) -> None:
    """Whoever an HPA asks once a target was woken, the answer is not the zero of before."""
    async with worlds.running(tmp_path, actuate=True) as world:
        worlds.scale_to_zero(world)
        world.api.put(APPS, "deployments", worlds.workload("v", 0))
        gateways = (("", world.gateway),)
        async with world.replica("a", gateways=gateways) as (first, _):
            await until(lambda: world.desired() == 0)
            async with world.replica("b", gateways=gateways) as (second, _):
                while await world.metric(second) != ["0"]:  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.1)
                world.waiting = 3
                await until(
                    lambda: (
                        world.api.get(APPS, "deployments", "team-a", "v")["spec"]["replicas"] == 1
                    )
                )
                assert await world.metric(second) == ["1"]
                assert await world.metric(first) == ["1"]


async def test_a_woken_replica_is_given_time(tmp_path: Path) -> None:
    """With scale to zero, a replica that was woken stays until it was silent for the whole retention."""
    async with worlds.running(tmp_path, actuate=True) as world:
        worlds.scale_to_zero(world)
        world.api.put(APPS, "deployments", worlds.workload("v", 0))

        def replicas() -> int:
            deployment = world.api.get(APPS, "deployments", "team-a", "v")
            spec_replicas: int = deployment["spec"]["replicas"]
            return spec_replicas

        loop = replace(worlds.LOOP, retention=60.0)
        async with world.replica(
            "a", loop=loop, gateways=(("", world.gateway),), actuate_scale=True
        ):
            await until(lambda: world.desired() == 0)
            world.waiting = 3
            await until(lambda: replicas() == 1)
            world.waiting = 0
            woken_at = world.clock.monotonic()
            await until(lambda: replicas() == 0)
            assert world.clock.monotonic() - woken_at >= loop.retention


@pytest.mark.parametrize(
    ("root", "plural", "kind"),
    [(APPS, "statefulsets", "StatefulSet"), (LWS, "leaderworkersets", "LeaderWorkerSet")],
)
async def test_targets_that_are_no_deployments(
    tmp_path: Path, root: str, plural: str, kind: str
) -> None:
    """Whatever has a /scale is read and scaled through it, its pods found by the scale's selector."""
    async with worlds.running(tmp_path, actuate=True) as world:
        version = root.removeprefix("/apis/")
        world.api.put(root, plural, worlds.workload("set", 1, kind))
        reference = {"apiVersion": version, "kind": kind, "name": "set"}
        world.load["set"] = 60.0
        world.api.put(
            VARIANTS, "variantautoscalings", worlds.variant("s", scaleTargetRef=reference)
        )
        async with world.replica("a", actuate_scale=True):
            await until(lambda: world.desired("s") == 2)
            await until(
                lambda: world.api.get(root, plural, "team-a", "set")["spec"]["replicas"] == 2
            )


async def test_the_first_refusal_of_a_patch_is_no_advice(tmp_path: Path) -> None:
    """An API server that has just started refuses what is allowed; one that goes on lacks a rule."""
    rules = kubernetes_api.applied_rules(actuate=True, limited=False)
    for rule in (rule for role in rules for rule in role.get("rules") or ()):
        if any(name.endswith("/scale") for name in rule.get("resources") or ()):
            rule["verbs"] = [verb for verb in rule["verbs"] if verb != "patch"]
    async with worlds.running(tmp_path, rules=rules, actuate=True) as world:
        world.load["v"] = 60.0
        async with world.replica("a", actuate_scale=True):
            await until(lambda: "grant it" in world.condition("TargetResolved")[2])
            await until(lambda: any(reason == "ScaleFailed" for _, reason, _ in world.events()))
        (first,) = [note for _, reason, note in world.events() if reason == "ScaleFailed"]
    assert "/scale" in first
    assert "grant it" not in first


async def test_a_consent_that_cannot_be_read_once_is_unknown(tmp_path: Path) -> None:
    """One 403 on reading the namespace leaves consent unknown; a second in a row reports it as missing."""
    async with worlds.running(tmp_path, actuate=True) as world:
        world.load["v"] = 60.0
        refusals = [1]

        def patched() -> int:
            spec = world.api.get(APPS, "deployments", "team-a", "v")["spec"]
            return int(spec["replicas"])

        def answer(method: str, path: str) -> int | None:
            if method == "GET" and path.endswith("/namespaces/team-a") and refusals[0]:
                refusals[0] -= 1
                return 403
            return None

        entrance = await world.site.entrance("a")
        entrance.answer = answer
        async with world.replica("a", actuate_scale=True, entrance=entrance):
            await until(lambda: world.condition("TargetResolved")[1] == "ScaleFailed")
            await until(lambda: patched() == 2)
            reasons = {reason for _, reason, _ in world.events()}
            assert "ScaleFailed" in reasons
            assert "ScaleNotAllowed" not in reasons
            refusals[0] = 1_000
            world.load["v"] = 120.0
            await until(lambda: world.condition("TargetResolved")[1] == "ScaleNotAllowed")
            refusals[0] = 0
            await until(lambda: patched() > 2)
