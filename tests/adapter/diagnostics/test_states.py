"""The states that installations are in when people ask for help: the doctor has a sentence for each."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapter.controller.settings import LoopSettings
from adapter.diagnostics import doctor, variants
from adapter.diagnostics.site import Finding, Site
from adapter.installation import Names
from adapter.kube.client import Cluster, connected
from tests.adapter.diagnostics.broken_states import (
    HEALTHY,
    STATES,
    WARNINGS,
    Broken,
    adapter,
    api_service,
    both,
    hpa,
    removed,
    stopped,
)
from tests.fakes import cluster_world as worlds
from tests.fakes import kubernetes_api
from tests.fakes.cluster_world import API_SERVICE, API_SERVICES, SCALERS, World
from tests.fakes.healthy_cluster import healthy


class SiteOfVersion(Site):
    """An installation in a cluster of that minor version of Kubernetes."""

    def __init__(self, cluster: Cluster, minor: str) -> None:
        super().__init__(cluster, Names())
        self.shown = minor

    async def version(self) -> Mapping[str, Any]:
        return {"minor": self.shown, "gitVersion": f"v1.{self.shown}.0"}


async def problems(world: World, cluster: Cluster, minor: str = "36") -> list[Finding]:
    """All findings but those that are fine."""
    site = SiteOfVersion(cluster, minor)
    return [item async for item in doctor.findings(site) if item.level != "ok"]


async def test_each_broken_state_has_its_sentence(tmp_path: Path) -> None:
    """Thirty and more states, each by itself in a healthy installation; each with a level and a fix."""
    assert len(STATES) >= 30
    missed, levels = {}, {}
    async with worlds.running(tmp_path) as world:
        await healthy(world, 3)
        admin = await world.site.entrance("admin", user="")
        broken = Broken(world)
        async with connected(admin.kubeconfig) as cluster:
            assert await problems(world, cluster) == []
            for change in HEALTHY:
                broken.become(change)
                assert await problems(world, cluster) == []
            for name, (change, sentence) in STATES.items():
                broken.become(change)
                items = await problems(world, cluster)
                assert all(item.fix for item in items)
                # The base is active: applied over an advisory installation it would scale its targets.
                assert not any("-k manifests/base" in item.fix for item in items)
                levels[name] = {item.level for item in items if sentence in item.what}
                if not levels[name]:
                    missed[name] = [item.what for item in items]
    assert missed == {}
    warnings = {name for name, kinds in levels.items() if "error" not in kinds}
    assert warnings == WARNINGS


def read_twice(world: World) -> None:
    """Let the variant's HPA read the metric under its other name too, and never scale down."""
    item = world.api.get(SCALERS, "horizontalpodautoscalers", "team-a", "v")
    other = copy.deepcopy(item["spec"]["metrics"][0])
    other["external"]["metric"]["name"] = "wva_desired_replicas"
    item["spec"]["metrics"].append(other)
    item["spec"]["behavior"] = {"scaleDown": {"selectPolicy": "Disabled"}}
    world.api.put(SCALERS, "horizontalpodautoscalers", item)


def manage(world: World) -> None:
    """Let HPA `w` stand for a variant of the same target."""
    item = world.api.get(SCALERS, "horizontalpodautoscalers", "team-a", "w")
    item["metadata"]["annotations"] = {"llm-d.ai/managed": "true", "llm-d.ai/model-id": "m"}
    world.api.put(SCALERS, "horizontalpodautoscalers", item)


async def test_what_hpas_or_metrics_have_in_common_is_said_once(tmp_path: Path) -> None:
    """Two HPAs of one target, whose conditions say so too, and two metrics of one HPA."""
    ambiguous = stopped("ScalingActive", "AmbiguousSelector", "pods by selector app=v")
    two = both(hpa(), ambiguous, hpa("w", target="v"), manage)
    async with worlds.running(tmp_path) as world:
        await healthy(world, 3)
        admin = await world.site.entrance("admin", user="")
        broken = Broken(world)
        async with connected(admin.kubeconfig) as cluster:
            for change, part in (
                (two, "AmbiguousSelector"),
                (read_twice, "selectPolicy is Disabled"),
            ):
                broken.become(change)
                items = [item.what for item in await problems(world, cluster)]
                (said,) = [what for what in items if part in what]
                assert said.startswith(("VariantAutoscalings team-a/v, team-a/w: ", "Horizontal"))


def test_a_target_is_old_by_the_time_to_live_of_the_program() -> None:
    """The doctor knows the default without the settings, which take long to load."""
    assert LoopSettings().time_to_live == variants.TIME_TO_LIVE


async def test_versions_and_rights_have_theirs(tmp_path: Path) -> None:
    """An old cluster, one without tolerances, and a role that lacks a right."""
    rules = kubernetes_api.manifest_rules()
    async with worlds.running(tmp_path, rules=rules) as world:
        role = next(r for r in rules if r["kind"] == "ClusterRole")
        role["rules"] = [rule for rule in role["rules"] if "pods" not in rule["resources"]]
        admin = await world.site.entrance("admin", user="")
        async with connected(admin.kubeconfig) as cluster:
            by_minor = {
                minor: [item.what for item in await problems(world, cluster, minor)]
                for minor in ("31", "34", "36")
            }
    assert any("v1.31.0 is too old" in item for item in by_minor["31"])
    assert any("HPAConfigurableTolerance" in item for item in by_minor["34"])
    assert any("may not: list pods, watch pods" in item for item in by_minor["36"])


async def test_an_installation_without_the_api_has_no_error_of_it(tmp_path: Path) -> None:
    """Beside KEDA, or as advice, the APIService is another's or missing: taking it would break KEDA."""
    keda = api_service(service={"namespace": "keda", "name": "keda-metrics-apiserver"})
    gone = removed(API_SERVICES, "apiservices", "", API_SERVICE)
    said: dict[tuple[str, ...], list[str]] = {}
    async with worlds.running(tmp_path) as world:
        admin = await world.site.entrance("admin", user="")
        whole = copy.deepcopy(world.api.objects)
        async with connected(admin.kubeconfig) as cluster:
            for words, change in (
                (("--keda-port=9443",), keda),
                (("--actuate", "none"), gone),
                (("--actuate=hpa",), gone),
            ):
                world.api.objects.clear()
                world.api.objects.update(copy.deepcopy(whole))
                both(change, adapter(*words))(world)
                items = await problems(world, cluster)
                said[words] = [item.what for item in items if "APIService" in item.what]
                assert any("no HPA" in item.what for item in items) is ("none" not in words)
    assert said[("--keda-port=9443",)] == said[("--actuate", "none")] == []
    assert said[("--actuate=hpa",)] == [f"no APIService {API_SERVICE}"]
