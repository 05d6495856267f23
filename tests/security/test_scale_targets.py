"""A tenant may create VariantAutoscalings in one namespace, and must not scale anything else with them.

The adapter runs with the rights of the manifests; objects that the CRD refuses today are stored all the same,
as those of an older CRD would be.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adapter.kube import errors, paths
from adapter.kube.scale import Reference
from tests.fakes import cluster_world as worlds
from tests.fakes.cluster_world import APPS, CORE, SCALERS, World, until
from tests.fakes.kubernetes_objects import VARIANTS, Object, StatusError

CONSENT = {"llmd.ai/allow-scale": "true"}

ESCAPES = (
    "../../kube-system/deployments/coredns",
    "..",
    ".",
    "",
    "/",
    "coredns/../../../kube-system/deployments/coredns",
    "%2e%2e",
    "v%2fscale",
    "v?force=true",
    "v#",
    "v\n",
    "V",
    "-v",
    "a." * 130,
)


def tenants_variant(name: str, *, notes: dict[str, str] | None = None, **spec: Any) -> Object:
    """A VariantAutoscaling with the annotations of somebody who wants to scale to zero."""
    item = worlds.variant(name, **spec)
    item["metadata"]["annotations"] = {
        "llmd.ai/actuate": "scale",
        "llmd.ai/max-replicas": "0",
        **(notes or {}),
    }
    return item


def coredns(world: World) -> Object:
    """Another namespace's Deployment, which would even consent."""
    item = worlds.workload("coredns", 2)
    item["metadata"] = {"name": "coredns", "namespace": "kube-system", "annotations": CONSENT}
    return world.api.put(APPS, "deployments", item)


def patches(world: World) -> list[str]:
    """Paths of all writes but those to what is the adapter's own to write."""
    own = ("/variantautoscalings/", "/leases", "/events", "/secrets", "/apiservices/", "reviews")
    return [
        path
        for _, method, path in world.api.requests
        if method != "GET" and not any(part in path for part in own)
    ]


async def reported(world: World, kind: str, name: str) -> tuple[str, str, str]:
    """A condition of a variant, once it has one."""
    await until(lambda: world.condition(kind, name)[0])
    return world.condition(kind, name)


@pytest.mark.virtual_time
@pytest.mark.parametrize("field", ["name", "apiVersion", "kind"])
async def test_no_segment_leaves_its_place(tmp_path: Path, field: str) -> None:
    """The CRD refuses the reference; one that is stored already is refused with its field."""
    good = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "v"}
    escapes = [
        text for text in ESCAPES if (field, text) not in {("kind", "V"), ("apiVersion", "V")}
    ]
    if field == "apiVersion":
        escapes += ["apps/v1/namespaces/kube-system", "apps//v1", "../api/v1"]
    async with worlds.running(tmp_path, actuate=True) as world:
        coredns(world)
        for number, text in enumerate(escapes):
            world.api.admits = True
            item = tenants_variant(f"t{number}", scaleTargetRef={**good, field: text})
            if text and not text.endswith("\n"):  # Python's `$`, not RE2's, ends before a line feed
                with pytest.raises(StatusError):
                    world.api.put(VARIANTS, "variantautoscalings", item)
            world.api.admits = False
            world.api.put(VARIANTS, "variantautoscalings", item)
        async with world.replica("a", actuate_scale=True):
            await until(lambda: world.desired() is not None)
            for number in range(len(escapes)):
                name = f"t{number}"
                status, reason, message = await reported(world, "OptimizationReady", name)
                assert (status, reason) == ("False", "InvalidConfiguration")
                assert f"spec.scaleTargetRef.{field}: " in message
        assert world.api.get(APPS, "deployments", "kube-system", "coredns")["spec"]["replicas"] == 2
        assert not [path for _, _, path in world.api.requests if "coredns" in path or ".." in path]
        assert patches(world) == []


@pytest.mark.parametrize("text", ESCAPES)
def test_paths_are_built_of_names_only(text: str) -> None:
    """Whatever is asked for, no path has a segment that the API server would resolve or unquote."""
    with pytest.raises(errors.InvalidPath):
        paths.item("apps/v1", "deployments", text, namespace="team-a", subresource="scale")
    with pytest.raises(errors.InvalidPath):
        paths.item("apps/v1", text or "..", "v", namespace="team-a")
    if text:
        with pytest.raises(errors.InvalidPath):
            paths.collection("apps/v1", "deployments", namespace=text)
        with pytest.raises(errors.InvalidPath):
            paths.checked(f"/apis/apps/v1/{text}/")
    assert paths.item("apps/v1", "deployments", "v.1", namespace="a", subresource="scale") == (
        "/apis/apps/v1/namespaces/a/deployments/v.1/scale"
    )


@pytest.mark.virtual_time
async def test_a_target_has_one_owner_whatever_its_spelling(tmp_path: Path) -> None:
    """Old versions and other capitals name the Deployment of the older variant: they are conflicts."""
    spellings = [
        {"apiVersion": "extensions/v1beta1", "kind": "Deployment"},
        {"apiVersion": "apps/v1beta1", "kind": "Deployment"},
        {"apiVersion": "apps/v1", "kind": "deployment"},
        {"apiVersion": "apps/v1", "kind": "DEPLOYMENT"},
    ]
    async with worlds.running(tmp_path) as world:
        first = world.variant()
        first["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z"
        world.api.put(VARIANTS, "variantautoscalings", first)
        for number, reference in enumerate(spellings):
            item = worlds.variant(f"a{number}", scaleTargetRef={**reference, "name": "v"})
            world.api.put(VARIANTS, "variantautoscalings", item)
        async with world.replica("a"):
            await until(lambda: world.desired() is not None)
            for number in range(len(spellings)):
                name = f"a{number}"
                _, reason, _ = await reported(world, "TargetResolved", name)
                assert reason == "TargetConflict"


@pytest.mark.virtual_time
async def test_a_part_of_a_workload_is_no_target_of_its_own(tmp_path: Path) -> None:
    """The leaders of a LeaderWorkerSet are its second name: they are not scaled beside it."""
    async with worlds.running(tmp_path, actuate=True) as world:
        leaders = worlds.workload("l", 2, "StatefulSet")
        leaders["spec"]["selector"]["matchLabels"]["leaderworkerset.sigs.k8s.io/name"] = "l"
        world.api.put(APPS, "statefulsets", leaders)
        reference = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "l"}
        item = tenants_variant("t", scaleTargetRef=reference)
        world.api.put(VARIANTS, "variantautoscalings", item)
        async with world.replica("a", actuate_scale=True) as (endpoints, _):
            _, reason, message = await reported(world, "TargetResolved", "t")
            assert reason == "TargetNotFound"
            assert "StatefulSet l: is one of LeaderWorkerSet l, which sets its replicas" in message
            cycles = endpoints.loop.cycles
            await until(lambda: endpoints.loop.cycles >= cycles + 2)
        assert patches(world) == []


def test_spellings_of_one_workload_are_one() -> None:
    """Versions never tell workloads of a group apart, and kinds of other groups are others."""
    lws = "leaderworkerset.x-k8s.io"
    one = Reference(name="v", kind="LeaderWorkerSet", api_version=f"{lws}/v1")
    assert (
        one.identity
        == Reference(name="v", kind="leaderworkerset", api_version=f"{lws}/v1alpha1").identity
    )
    other = Reference(name="v", kind="Deployment", api_version="example.com/v1")
    assert not other.canonical.is_deployment
    assert other.identity != Reference(name="v").identity


@pytest.mark.virtual_time
async def test_a_variant_alone_scales_nothing(tmp_path: Path) -> None:
    """The target or its namespace must consent; an annotation of the variant is no consent."""
    async with worlds.running(tmp_path, actuate=True) as world:
        world.api.put(CORE, "namespaces", {"metadata": {"name": "team-a", "annotations": {}}})
        item = tenants_variant("v", notes=CONSENT)
        world.api.put(VARIANTS, "variantautoscalings", item)
        async with world.replica("a", actuate_scale=True) as (endpoints, _):
            await until(lambda: world.condition("TargetResolved")[1] == "ScaleNotAllowed")
            assert "llmd.ai/allow-scale" in world.condition("TargetResolved")[2]
            assert world.status()["actuation"] == {"applied": False}
            cycles = endpoints.loop.cycles
            await until(lambda: endpoints.loop.cycles >= cycles + 2)
            assert patches(world) == []
            deployment = world.api.get(APPS, "deployments", "team-a", "v")
            assert deployment["spec"]["replicas"] == 1
            deployment["metadata"]["annotations"] = CONSENT
            world.api.put(APPS, "deployments", deployment)
            await until(
                lambda: world.api.get(APPS, "deployments", "team-a", "v")["spec"]["replicas"] == 0
            )
            await until(lambda: world.condition("TargetResolved")[1] == "TargetFound")


@pytest.mark.virtual_time
@pytest.mark.parametrize("allowed", ["our metric", "paused"])
async def test_a_target_of_another_hpa_is_not_patched(tmp_path: Path, allowed: str) -> None:
    """An annotation would have two scale one target, but where the HPA reads our metric or is paused."""
    async with worlds.running(tmp_path, actuate=True) as world:
        world.load["v"] = 60.0
        item = worlds.variant("v")
        item["metadata"]["annotations"] = {"llmd.ai/actuate": "scale"}
        world.api.put(VARIANTS, "variantautoscalings", item)
        cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}
        other = worlds.scaler("v", metrics=[{"type": "Resource", "resource": cpu}])
        world.api.put(SCALERS, "horizontalpodautoscalers", other)
        async with world.replica("a") as (endpoints, _):
            await until(lambda: world.desired() == 2)
            await until(lambda: world.condition("TargetResolved")[1] == "ScaleNotAllowed")
            message = world.condition("TargetResolved")[2]
            assert "HorizontalPodAutoscaler v scales Deployment v by other metrics" in message
            cycles = endpoints.loop.cycles
            await until(lambda: endpoints.loop.cycles >= cycles + 2)
            assert patches(world) == []
            paused = {way: {"selectPolicy": "Disabled"} for way in ("scaleUp", "scaleDown")}
            if allowed == "paused":
                other["spec"]["behavior"] = paused
            else:
                other = worlds.scaler("v")
            world.api.put(SCALERS, "horizontalpodautoscalers", other)
            await until(
                lambda: world.api.get(APPS, "deployments", "team-a", "v")["spec"]["replicas"] == 2
            )


@pytest.mark.virtual_time
async def test_waking_says_what_it_needs(tmp_path: Path) -> None:
    """With the base's rights a target at zero stays there, and the condition names the overlay."""
    async with worlds.running(tmp_path, rules=None) as world:
        deployment = worlds.workload("v", 0)
        deployment["metadata"]["annotations"] = CONSENT
        world.api.put(APPS, "deployments", deployment)
        async with world.replica("a", gateways=(("", world.gateway),)):
            await until(lambda: world.desired() is not None)
            world.waiting = 3
            await until(lambda: world.condition("TargetResolved")[1] == "ScaleFailed")
            assert "manifests/overlays/actuate" in world.condition("TargetResolved")[2]
            assert world.api.get(APPS, "deployments", "team-a", "v")["spec"]["replicas"] == 0
        assert {item.split()[1] for item in world.api.denied} == {"apps/deployments/scale"}
        world.api.denied.clear()
