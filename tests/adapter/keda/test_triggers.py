"""The triggers in manifests/samples/keda, used as KEDA uses them."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import yaml

from adapter.resources import hpa
from tests.fakes import cluster_world as worlds
from tests.fakes import kubernetes_api
from tests.fakes.cluster_world import APPS, SCALERS, until
from tests.fakes.keda_operator import SERVER, Certificates, Operator, ScaledObject
from tests.fakes.kubernetes_objects import ROOT

pytestmark = pytest.mark.virtual_time

SAMPLES = ROOT / "manifests" / "samples" / "keda"
READER = "system:serviceaccount:keda:variant-adapter-reader"
TLS_PARAMETERS = {"caCert", "tlsClientCert", "tlsClientKey"}
"""What KEDA's external scaler takes from an authentication."""


def sample(name: str) -> dict[str, dict[str, Any]]:
    """Documents of a sample by kind."""
    documents = yaml.safe_load_all((SAMPLES / name).read_text())
    return {item["kind"]: item for item in documents}


def trigger(objects: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The only trigger, whose authentication is that of the sample."""
    (item,) = objects["ScaledObject"]["spec"]["triggers"]
    authentication = objects["ClusterTriggerAuthentication"]
    assert item["authenticationRef"] == {
        "name": authentication["metadata"]["name"],
        "kind": authentication["kind"],
    }
    assert all(isinstance(value, str) for value in item["metadata"].values())
    made: dict[str, Any] = item
    return made


def parameters(objects: dict[str, dict[str, Any]]) -> set[str]:
    return {
        item["parameter"]
        for item in objects["ClusterTriggerAuthentication"]["spec"]["secretTargetRef"]
    }


async def test_external_push(tmp_path: Path) -> None:
    """Its metadata, sent whole as KEDA sends it, reaches the variant that it names; the HPA of it bounds."""
    objects = sample("external-push.yaml")
    made = trigger(objects)
    assert made["type"] == "external-push"
    assert parameters(objects) == TLS_PARAMETERS
    assert made["metadata"]["scalerAddress"] == f"{SERVER}:9443"
    certificates = Certificates(tmp_path / "keda")
    async with worlds.running(tmp_path) as world:
        world.deploy("vllme-deployment", 1)
        world.load["vllme-deployment"] = 120.0
        item = of_keda("vllme-deployment", "s0-variant-adapter-desired-replicas", high=3)
        world.api.put(SCALERS, "horizontalpodautoscalers", item)
        async with (
            world.replica("a", keda=certificates.options()) as (endpoints, _),
            certificates.channel(endpoints.keda_address) as stub,
        ):
            seen: list[int] = []
            scaled = ScaledObject(replicas=lambda: 1, scale=seen.append)
            keda = Operator(stub, scaled, made["metadata"])
            await keda.reconcile()
            await until(lambda: world.desired("vllme-deployment") == 3)
            assert world.condition("TargetResolved", "vllme-deployment")[0] == "True"
            assert await keda.poll() == ""
            assert seen == [3]


async def test_metrics_api(tmp_path: Path) -> None:
    """Its URL gives the number with the token of its ServiceAccount, and null once nothing is valid."""
    objects = sample("metrics-api.yaml")
    made = trigger(objects)
    assert (made["type"], parameters(objects)) == ("metrics-api", {"token"})
    url = urlsplit(made["metadata"]["url"])
    assert (url.scheme, url.hostname, url.port) == ("http", SERVER, 8080)
    assert made["metadata"]["targetValue"] == "1"
    path = url.path.replace("llm-d-sim/vllme-deployment", "team-a/v")
    assert path == "/variants/team-a/v"
    rules = [*kubernetes_api.manifest_rules(), objects["ClusterRoleBinding"]]
    async with worlds.running(tmp_path, rules=rules) as world:
        world.api.identities.tokens["reader"] = {"username": READER}
        world.load["v"] = 60.0
        async with world.replica("a") as (endpoints, _):
            await until(lambda: world.desired() == 2)
            connector = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))  # no loopback peer
            async with aiohttp.ClientSession(connector=connector) as session:

                async def value(token: str) -> tuple[int, object]:
                    headers = {"Authorization": f"Bearer {token}"}
                    async with session.get(
                        endpoints.metrics_url + path, headers=headers
                    ) as response:
                        document = await response.json()
                        return response.status, document.get(made["metadata"]["valueLocation"])

                assert await value("reader") == (200, 2)
                assert await value("unknown") == (401, None)
                world.api.remove(APPS, "deployments", "team-a", "v")
                await until(lambda: endpoints.loop.live.served("team-a/v") is None)
                assert (await value("reader"))[1] is None


async def test_keda_wakes_its_own(tmp_path: Path) -> None:
    """A request is told to KEDA, which may be paused: the target is not patched, nor is that a problem."""
    async with worlds.running(tmp_path, actuate=True) as world:
        worlds.scale_to_zero(world)
        world.api.put(APPS, "deployments", worlds.workload("v", 0))
        item = of_keda("v", "s0-variant-adapter-desired-replicas")
        world.api.put(SCALERS, "horizontalpodautoscalers", item)
        async with world.replica("a", gateways=(("", world.gateway),)) as (endpoints, _):
            await until(lambda: world.desired() == 0)
            world.waiting = 1
            await until(lambda: world.desired() == 1)
            assert endpoints.loop.live.served("team-a/v") == 1
            cycles = endpoints.loop.cycles
            await until(lambda: endpoints.loop.cycles >= cycles + 2)
            assert world.api.get(APPS, "deployments", "team-a", "v")["spec"]["replicas"] == 0
            assert world.condition("TargetResolved")[0] == "True"


def of_keda(name: str, metric: str, *, low: int = 1, high: int = 10) -> dict[str, Any]:
    """The HPA that KEDA makes of a ScaledObject."""
    item = worlds.scaler(name, low=low, high=high)
    owner = {"kind": "ScaledObject", "name": "so", "apiVersion": "keda.sh/v1alpha1", "uid": "1"}
    item["metadata"] |= {"name": "keda-hpa-so", "ownerReferences": [owner]}
    selector = {"matchLabels": {"scaledobject.keda.sh/name": "so"}}
    item["spec"]["metrics"][0]["external"]["metric"] = {"name": metric, "selector": selector}
    return item


@pytest.mark.parametrize(
    ("metric", "ours"),
    [
        ("s0-variant-adapter-desired-replicas", True),
        ("s11-metric-api-servedReplicas", True),
        ("s0-prometheus", False),
        ("variant-adapter-desired-replicas", False),
    ],
)
def test_hpas_of_keda_are_known(metric: str, *, ours: bool) -> None:
    """By the names that KEDA makes of its triggers' metrics, in HPAs of a ScaledObject only."""
    item = of_keda("v", metric)
    assert hpa.parse(item).by_keda is ours
    del item["metadata"]["ownerReferences"]
    assert not hpa.parse(item).by_keda
