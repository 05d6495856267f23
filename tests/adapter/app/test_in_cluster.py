"""The adapter in a cluster: a Kubernetes API in memory, real watches, real TLS, real metrics pages."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from adapter.app import in_cluster
from adapter.app.endpoints import Endpoints
from adapter.kube import informer
from adapter.resources.watches import Scope
from tests.fakes import cluster_world as worlds
from tests.fakes import kubernetes_api
from tests.fakes.cluster_world import APPS, CORE, LWS, SCALERS, SYSTEM, until
from tests.fakes.kubernetes_objects import VARIANTS

HOURLY = replace(worlds.LOOP, interval=36_000.0)


def answering(code: int | None) -> Callable[[str, str], int | None]:
    """What the API server answers every request with; None: as it should."""
    return lambda _method, _path: code


def there(front: Endpoints, key: str) -> Callable[[], bool]:
    """Whether a variant is known by now."""
    return lambda: key in front.loop.states


async def test_a_variant_gets_its_target_status_and_event(tmp_path: Path) -> None:
    """60 requests a minute take two replicas: served to the HPA, written to the status, told in an Event."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        async with world.replica("a") as (front, _):
            await until(lambda: world.desired() == 2)
            await until(world.ca_bundle)
            assert await world.metric(front) == ["2"]
            found = world.status()
            assert found["currentAlloc"]["numReplicas"] == 1
            assert found["currentAlloc"]["accelerator"] == "A100"
            assert found["observedGeneration"] == 1
            assert found["actuation"] == {"applied": True}
            assert world.condition("MetricsAvailable")[:2] == ("True", "MetricsFound")
            assert world.condition("OptimizationReady")[:2] == ("True", "OptimizationSucceeded")
            assert world.condition("TargetResolved")[:2] == ("True", "TargetFound")
            ((kind, reason, note),) = [e for e in world.events() if "2 replicas" in e[2]]
            assert (kind, reason) == ("Normal", "ScalingDecision")
            assert "A100" in note


async def test_the_status_is_written_only_on_change(tmp_path: Path) -> None:
    """Passes that decide the same write nothing; a change of what is decided writes again."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 45.0
        async with world.replica("a") as (front, _):
            await until(lambda: world.desired() == 2)
            before = len(world.api.writes("variantautoscalings"))
            decided = front.loop.states["team-a/v"].decided_at
            await until(lambda: front.loop.states["team-a/v"].decided_at > decided + 3)
            assert len(world.api.writes("variantautoscalings")) == before
            world.load["v"] = 120.0
            await until(lambda: (world.desired() or 0) >= 4)
            assert len(world.api.writes("variantautoscalings")) > before


async def test_a_target_that_grows_old_is_confirmed_for_the_followers(tmp_path: Path) -> None:
    """The time of the decision is written anew in time, though nothing else changed."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 45.0
        short = replace(worlds.LOOP, time_to_live=90.0)  # 9 s, so every 3
        async with world.replica("a", loop=short):
            await until(lambda: world.desired() == 2)
            first = world.status()["desiredOptimizedAlloc"]["lastRunTime"]
            await until(lambda: world.status()["desiredOptimizedAlloc"]["lastRunTime"] != first)


async def test_one_decides_and_all_serve(tmp_path: Path) -> None:
    """Only the holder of the lease writes; the other serves what the status holds, and shows no variants."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        async with world.replica("a") as (a, _), world.replica("b") as (b, _):
            await until(lambda: world.desired() == 2)
            await until(lambda: b.loop.states["team-a/v"].desired == 2)
            await until(world.ca_bundle)
            assert await world.metric(a) == await world.metric(b) == ["2"]
            assert (a.loop.leading, b.loop.leading) == (True, False)
            writers = {who for who, _, _ in world.api.writes("variantautoscalings")}
            assert writers == {"a"}
            async with aiohttp.ClientSession() as session:
                pages = []
                for front in (a, b):
                    async with session.get(f"{front.metrics_url}/metrics") as response:
                        pages.append(await response.text())
            wanted = "inferno_desired_replicas{"
            assert wanted in pages[0]
            assert wanted not in pages[1]
            assert "variant_adapter_leading 1.0" in pages[0]
            assert "variant_adapter_leading 0.0" in pages[1]


async def test_a_leader_that_ends_is_followed_at_once(tmp_path: Path) -> None:
    """The lease is given back at the end: the other leads before it would have run out, and decides."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        async with contextlib.AsyncExitStack() as first, contextlib.AsyncExitStack() as second:
            await first.enter_async_context(world.replica("a"))
            await until(lambda: world.desired() == 2)
            b, _ = await second.enter_async_context(world.replica("b"))
            began = asyncio.get_running_loop().time()
            await first.aclose()
            await until(lambda: b.loop.leading)
            assert asyncio.get_running_loop().time() - began < worlds.LEASE.duration
            world.load["v"] = 120.0
            await until(lambda: (world.desired() or 0) >= 4)


async def test_a_leader_that_is_cut_off_stops_before_another_leads(tmp_path: Path) -> None:
    """Without the API server the leader stops deciding; its last targets are served on by both."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        async with world.replica("a") as (a, way), world.replica("b") as (b, _):
            await until(lambda: world.desired() == 2)
            await until(world.ca_bundle)
            both = []

            async def watch() -> None:
                while True:
                    both.append(a.loop.leading and b.loop.leading)
                    await asyncio.sleep(0.005)

            watching = asyncio.create_task(watch())
            way.isolate()
            await until(lambda: b.loop.leading)
            watching.cancel()
            assert not any(both)
            assert a.loop.states["team-a/v"].desired == 2
            assert await world.metric(b) == ["2"]
            way.cut = False
            await until(lambda: not a.loop.leading and b.loop.leading)
            world.load["v"] = 120.0
            await until(lambda: (a.loop.states["team-a/v"].desired or 0) >= 4, seconds=40)


async def test_what_a_cluster_does_to_watches(tmp_path: Path) -> None:
    """Ended watches, compacted history, throttling and an outage lose nothing, and targets stay served."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 45.0
        async with world.replica("a", loop=HOURLY, interval=HOURLY.interval) as (front, way):
            await until(lambda: front.loop.states.get("team-a/v"))
            # A variant that appears while the watches are broken is found once they work again.
            for number, fault in enumerate((None, 429, 503)):
                if fault is not None:
                    way.answer = answering(fault)
                way.end_watches()
                await asyncio.sleep(0.2)
                name = f"more-{number}"
                world.api.put(APPS, "deployments", worlds.workload(name, 1))
                world.api.put(VARIANTS, "variantautoscalings", worlds.variant(name))
                world.api.compact()
                await asyncio.sleep(0.5)
                if fault is not None:
                    assert f"team-a/{name}" not in front.loop.states
                    assert "team-a/v" in front.loop.states
                way.answer = answering(None)
                await until(there(front, f"team-a/{name}"), seconds=40)
            world.api.remove(VARIANTS, "variantautoscalings", "team-a", "more-0")
            await until(lambda: "team-a/more-0" not in front.loop.states)
            assert world.api.bookmarks > 0


async def test_a_change_of_a_spec_or_a_configmap_is_taken_up_at_once(tmp_path: Path) -> None:
    """With passes an hour apart, a tighter SLO and then a new bound change the target in a moment."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 30.0
        async with world.replica("a", loop=HOURLY, interval=HOURLY.interval):
            await until(lambda: world.desired() == 1)
            classes = next(c for c in worlds.manifests() if "classes" in c["metadata"]["name"])
            premium = classes["data"]["premium"]
            classes["data"]["premium"] = premium.replace("slo-tpot: 24", "slo-tpot: 21.5")
            world.api.put(CORE, "configmaps", classes)
            await until(lambda: (world.desired() or 0) > 1)
            changed = world.variant()
            changed["metadata"]["annotations"] = {"llmd.ai/min-replicas": "7"}
            world.api.put(VARIANTS, "variantautoscalings", changed)
            await until(lambda: world.desired() == 7)


async def test_refusals_stand_in_conditions_and_events(tmp_path: Path) -> None:
    """A bad variant is left out with the field and the fix, others go on, and a fix is enough."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        async with world.replica("a") as (front, _):
            world.deploy("bad", 1, modelID="nobody/lists-it")
            await until(lambda: world.condition("OptimizationReady", "bad")[0])
            status, reason, message = world.condition("OptimizationReady", "bad")
            assert (status, reason) == ("False", "InvalidConfiguration")
            assert message.startswith("spec.modelID: service class 'Premium' lists no SLO")
            assert "Add it to ConfigMap service-classes-config" in message
            assert world.condition("MetricsAvailable", "bad")[0] == "Unknown"
            await until(lambda: ("Warning", reason, message) in world.events())
            await until(lambda: world.desired() == 2)
            fixed = world.variant("bad")
            fixed["spec"]["modelID"] = worlds.MODEL
            world.api.put(VARIANTS, "variantautoscalings", fixed)
            await until(lambda: world.desired("bad") == 1)
            assert world.condition("OptimizationReady", "bad")[0] == "True"
            assert world.status("bad")["observedGeneration"] == 2
            assert front.loop.refused == ()


async def test_two_variants_that_claim_one_target(tmp_path: Path) -> None:
    """The older one has it; the younger is told whose it is, and gets it when the older goes."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        async with world.replica("a"):
            await until(lambda: world.desired() == 2)
            second = worlds.variant("w", scaleTargetRef={"kind": "Deployment", "name": "v"})
            second["metadata"]["creationTimestamp"] = "2099-01-01T00:00:00Z"
            world.api.put(VARIANTS, "variantautoscalings", second)
            await until(lambda: world.condition("TargetResolved", "w")[0])
            status, reason, message = world.condition("TargetResolved", "w")
            assert (status, reason) == ("False", "TargetConflict")
            assert "Deployment v is scaled by VariantAutoscaling v" in message
            assert world.condition("TargetResolved")[0] == "True"
            assert world.desired("w") is None
            world.api.remove(VARIANTS, "variantautoscalings", "team-a", "v")
            await until(lambda: world.desired("w") == 2)


async def test_a_missing_target_and_a_missing_permission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are conditions with the fix, not an end: what is granted or made later is used."""
    monkeypatch.setattr(informer, "LONGEST_BACKOFF", 1.0)
    monkeypatch.setattr(in_cluster, "SYNC_SECONDS", 1.0)
    rules = kubernetes_api.manifest_rules()
    role = next(r for r in rules if r["kind"] == "ClusterRole")
    deployments = next(rule for rule in role["rules"] if rule["resources"] == ["deployments"])
    deployments["verbs"] = []
    async with worlds.running(tmp_path, rules=rules) as world:
        world.load["v"] = 60.0
        async with world.replica("a"):
            await until(lambda: world.condition("TargetResolved")[0], seconds=60)
            status, reason, message = world.condition("TargetResolved")
            assert (status, reason) == ("False", "TargetNotFound")
            assert "deployments is forbidden" in message
            deployments["verbs"] = ["get", "list", "watch"]
            await until(lambda: world.desired() == 2, seconds=60)
            world.api.put(VARIANTS, "variantautoscalings", worlds.variant("lost"))
            await until(lambda: world.condition("TargetResolved", "lost")[1] == "TargetNotFound")
            assert "there is none" in world.condition("TargetResolved", "lost")[2]
            world.api.put(APPS, "deployments", worlds.workload("lost", 1))
            await until(lambda: world.desired("lost") == 1)


async def test_missing_configmaps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without costs and classes nothing can be planned; conditions and log say so, until they are there."""
    async with worlds.running(tmp_path) as world:
        for name in ("accelerator-unit-costs", "service-classes-config"):
            world.api.remove(CORE, "configmaps", SYSTEM, name)
        async with world.replica("a"):
            await until(lambda: world.condition("OptimizationReady")[0])
            assert world.condition("OptimizationReady")[:2] == ("False", "InvalidConfiguration")
            said = capsys.readouterr().out
            assert f"ConfigMap {SYSTEM}/service-classes-config: is missing" in said
            assert "kubectl apply -k manifests/base makes it" in said
            for item in worlds.manifests():
                world.api.put(CORE, "configmaps", item)
            await until(lambda: world.desired() == 1)


async def test_an_hpa_bounds_its_variant(tmp_path: Path) -> None:
    """MaxReplicas and minReplicas of the HPA on the same target bind the plan, and the reason says so."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 200.0
        world.api.put(SCALERS, "horizontalpodautoscalers", worlds.scaler("v", low=2, high=3))
        async with world.replica("a"):
            await until(lambda: world.desired() == 3)
            world.load["v"] = 0.0
            await until(lambda: world.desired() == 2)


async def test_an_hpa_that_scales_something_else(tmp_path: Path) -> None:
    """An HPA that reads the variant's metric for another target is told in the variant's condition."""
    async with worlds.running(tmp_path) as world:
        world.api.put(SCALERS, "horizontalpodautoscalers", worlds.scaler("v", target="other"))
        async with world.replica("a"):
            await until(lambda: world.condition("TargetResolved")[1] == "HPATargetMismatch")
            message = world.condition("TargetResolved")[2]
            assert "reads this variant's metric but scales Deployment other" in message


async def test_scale_targets_are_patched_where_that_is_ours(tmp_path: Path) -> None:
    """With --actuate=scale the Deployment follows; one that is annotated for an HPA is left alone."""
    async with worlds.running(tmp_path) as world:
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
    """A Deployment at zero is an order to stop, until a request waits at the gateway: one replica comes."""
    async with worlds.running(tmp_path) as world:
        world.api.put(APPS, "deployments", worlds.workload("v", 0))

        def replicas() -> int:
            found = world.api.get(APPS, "deployments", "team-a", "v")
            wanted: int = found["spec"]["replicas"]
            return wanted

        async with world.replica("a", gateways=(world.gateway,)) as (front, _):
            await until(lambda: world.desired() is not None)
            decided = front.loop.states["team-a/v"].decided_at
            await until(lambda: front.loop.states["team-a/v"].decided_at > decided + 1)
            assert replicas() == 0
            world.waiting = 3
            await until(lambda: replicas() == 1, seconds=5)


async def test_all_replicas_know_before_one_wakes(tmp_path: Path) -> None:
    """Whoever an HPA asks once a target was woken, the answer is not the zero of before."""
    async with worlds.running(tmp_path) as world:
        config = worlds.manifests()[2]
        config["data"]["WVA_SCALE_TO_ZERO"] = "true"
        world.api.put(CORE, "configmaps", config)
        world.api.put(APPS, "deployments", worlds.workload("v", 0))
        gateways = (world.gateway,)
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
    async with worlds.running(tmp_path) as world:
        config = worlds.manifests()[2]
        config["data"]["WVA_SCALE_TO_ZERO"] = "true"
        world.api.put(CORE, "configmaps", config)
        world.api.put(APPS, "deployments", worlds.workload("v", 0))

        def replicas() -> int:
            found = world.api.get(APPS, "deployments", "team-a", "v")
            wanted: int = found["spec"]["replicas"]
            return wanted

        loop = replace(worlds.LOOP, retention=60.0)
        async with world.replica("a", loop=loop, gateways=(world.gateway,), actuate_scale=True):
            await until(lambda: world.desired() == 0)
            world.waiting = 3
            await until(lambda: replicas() == 1, seconds=5)
            world.waiting = 0
            woken_at = time.monotonic()
            await until(lambda: replicas() == 0)
            assert time.monotonic() - woken_at >= loop.retention / worlds.SPEED


@pytest.mark.parametrize(
    ("root", "plural", "kind"),
    [(APPS, "statefulsets", "StatefulSet"), (LWS, "leaderworkersets", "LeaderWorkerSet")],
)
async def test_targets_that_are_no_deployments(
    tmp_path: Path, root: str, plural: str, kind: str
) -> None:
    """Whatever has a /scale is read and scaled through it, its pods found by the scale's selector."""
    async with worlds.running(tmp_path) as world:
        version = root.removeprefix("/apis/")
        world.api.put(root, plural, worlds.workload("set", 1, kind))
        reference = {"apiVersion": version, "kind": kind, "name": "set"}
        world.load["set"] = 60.0
        world.api.put(
            VARIANTS, "variantautoscalings", worlds.variant("s", scaleTargetRef=reference)
        )
        async with world.replica("a", actuate_scale=True):
            await until(lambda: world.desired("s") == 2, seconds=30)
            await until(
                lambda: world.api.get(root, plural, "team-a", "set")["spec"]["replicas"] == 2
            )


async def test_installations_share_a_cluster(tmp_path: Path) -> None:
    """Namespaces and a label selector say whose a variant is; the others are not touched."""
    async with worlds.running(tmp_path) as world:
        mine = worlds.variant("mine")
        mine["metadata"]["labels"]["installation"] = "one"
        world.api.put(APPS, "deployments", worlds.workload("mine", 1))
        world.api.put(VARIANTS, "variantautoscalings", mine)
        scope = Scope(config_namespace=SYSTEM, namespaces=("team-a",), selector="installation=one")
        async with world.replica("a", scope=scope) as (front, _):
            await until(lambda: world.desired("mine") == 1)
            assert list(front.loop.states) == ["team-a/mine"]
            assert world.status() == {}


async def test_nodes_bound_the_plan_in_limited_mode(tmp_path: Path) -> None:
    """Three GPUs, one of them held by somebody else: the load would take more than the two that are left."""
    async with worlds.running(tmp_path) as world:
        product = "NVIDIA-A100-PCIE-80GB"
        node = {
            "metadata": {"name": "node", "labels": {"nvidia.com/gpu.product": product}},
            "status": {
                "allocatable": {"nvidia.com/gpu": "3"},
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }
        world.api.put(CORE, "nodes", node)
        container = {"name": "c", "resources": {"limits": {"nvidia.com/gpu": "1"}}}
        other = {
            "metadata": {"name": "other", "namespace": "elsewhere", "labels": {}},
            "spec": {"nodeName": "node", "containers": [container]},
            "status": {"phase": "Running"},
        }
        world.api.put(CORE, "pods", other)
        world.load["v"] = 200.0
        scope = Scope(config_namespace=SYSTEM, limited=True)
        async with world.replica("a", scope=scope):
            await until(lambda: world.desired() == 2)
            status, reason, message = world.condition("OptimizationReady")
            assert (status, reason) == ("True", "CapacityShort")
            assert "2 of 6 replicas" in message
            await until(lambda: ("Warning", reason, message) in world.events())
            world.api.remove(CORE, "pods", "elsewhere", "other")
            await until(lambda: world.desired() == 3)


async def test_variants_go_with_their_targets(tmp_path: Path) -> None:
    """With --owner-references the Deployment becomes an owner; others stay."""
    rules = kubernetes_api.manifest_rules(
        "manifests/base/rbac.yaml", "manifests/overlays/limited/owners.yaml"
    )
    async with worlds.running(tmp_path, rules=rules) as world:
        item = world.variant()
        first = {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "1"}
        item["metadata"]["ownerReferences"] = [first]
        world.api.put(VARIANTS, "variantautoscalings", item)
        async with world.replica("a", owner_references=True):
            await until(lambda: len(world.variant()["metadata"]["ownerReferences"]) == 2)
            owners = world.variant()["metadata"]["ownerReferences"]
            uid = world.api.get(APPS, "deployments", "team-a", "v")["metadata"]["uid"]
            assert owners == [
                first,
                {"apiVersion": "apps/v1", "kind": "Deployment", "name": "v", "uid": uid},
            ]
            await asyncio.sleep(2)
            assert world.api.denied == []


async def test_explanations_on_the_metrics_port(tmp_path: Path) -> None:
    """/variants says load, ages, what binds, and what holds the replicas back; refusals are in it."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        world.api.put(VARIANTS, "variantautoscalings", worlds.variant("lost"))
        world.api.put(SCALERS, "horizontalpodautoscalers", worlds.scaler("v", high=20))
        async with world.replica("a") as (front, _), aiohttp.ClientSession() as session:
            await until(lambda: world.desired() == 2)
            async with session.get(f"{front.metrics_url}/variants") as response:
                found = await response.json()
            by_name = {item["name"]: item for item in found["variants"]}
            assert found["leading"] is True
            assert by_name["lost"]["outcome"] == "TargetNotFound"
            item = by_name["v"]
            assert item["desiredReplicas"] == 2
            assert 50 < item["load"]["arrivalRatePerMinute"] < 70
            assert item["load"]["observedSecondsAgo"] < 5
            assert item["decision"]["binding"]
            async with session.get(f"{front.metrics_url}/variants/team-a/v") as response:
                assert (await response.json())["name"] == "v"
            async with session.get(f"{front.metrics_url}/variants/team-a/none") as response:
                assert response.status == 404
            for path in ("/readyz", "/healthz", "/livez"):
                async with session.get(front.metrics_url + path) as response:
                    assert response.status == 200


async def test_not_ready_before_the_variants_were_read(tmp_path: Path) -> None:
    """A replica that cannot list the variants is alive, but not ready, and says what is missing."""
    rules = kubernetes_api.manifest_rules()
    role = next(r for r in rules if r["kind"] == "ClusterRole")
    role["rules"] = [rule for rule in role["rules"] if rule["resources"] != ["variantautoscalings"]]
    async with (
        worlds.running(tmp_path, rules=rules) as world,
        world.replica("a") as (front, _),
        aiohttp.ClientSession() as session,
    ):
        await asyncio.sleep(0.5)
        async with session.get(f"{front.metrics_url}/readyz") as response:
            assert response.status == 503
            assert "manifests/base/rbac.yaml" in await response.text()
        async with session.get(f"{front.metrics_url}/healthz") as response:
            assert response.status == 200


async def test_the_program_serves_a_cluster_and_ends_well(tmp_path: Path) -> None:
    """`serve --kubeconfig` by its flags alone; SIGTERM gives the lease back and ends with 0."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0 / worlds.SPEED
        entrance = await world.site.entrance("a")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "adapter", "serve", f"--kubeconfig={entrance.kubeconfig}",
            f"--config-namespace={SYSTEM}", "--port=0", f"--state-dir={tmp_path}/state",
            "--interval=2s", "--scrape-interval=400ms", "--window=4s", "--identity=pod_1",
            stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        leases = "/apis/coordination.k8s.io/v1"
        try:
            await until(lambda: world.desired() == 2, seconds=60)
            lease = world.api.get(leases, "leases", SYSTEM, "variant-adapter")
            assert lease["spec"]["holderIdentity"] == "pod_1"
        finally:
            process.send_signal(signal.SIGTERM)
            code = await asyncio.wait_for(process.wait(), 20)
        assert code == 0
        lease = world.api.get(leases, "leases", SYSTEM, "variant-adapter")
        assert lease["spec"]["holderIdentity"] == ""


async def test_sigterm_ends_a_wait_for_the_cluster(tmp_path: Path) -> None:
    """A program that cannot reach its cluster waits, and still ends when it is told to."""
    async with worlds.running(tmp_path) as world:
        entrance = await world.site.entrance("a")
        entrance.answer = lambda _method, _path: 503
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "adapter", "serve", f"--kubeconfig={entrance.kubeconfig}",
            f"--config-namespace={SYSTEM}", "--port=0", f"--state-dir={tmp_path}/state",
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stderr is not None
        line = await asyncio.wait_for(process.stderr.readline(), 60)
        assert b"503" in line
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == 0
