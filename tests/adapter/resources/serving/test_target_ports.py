"""InferencePools whose pods have several servers, each behind a port that the pool routes to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adapter.kube import labels
from adapter.resources import pods
from adapter.resources.serving import monitors, pools, target_ports
from tests.fakes import cluster_world as worlds
from tests.fakes.cluster_world import until

POOLS = "/apis/inference.networking.k8s.io/v1"
FOUR = (8000, 8001, 8002, 8003)


def pool(*numbers: Any, **spec: Any) -> pools.Pool:
    """A pool of `inference.networking.k8s.io/v1` as it is kept."""
    selector = {"matchLabels": {"app": "llm"}}
    document = {"selector": selector, "targetPorts": [{"number": n} for n in numbers], **spec}
    item: pools.Pool = pools.trimmed({"metadata": {"namespace": "n"}, "spec": document})["pool"]
    return item


def pod(*numbers: int, name: str = "", **notes: str) -> dict[str, Any]:
    """A pod of one container that declares these ports."""
    ports = [{"containerPort": number, **({"name": name} if name else {})} for number in numbers]
    document = {
        "metadata": {
            "name": "p", "namespace": "n", "labels": {"app": "llm"},
            "annotations": {f"prometheus.io/{key}": value for key, value in notes.items()},
        },
        "spec": {"containers": [{"name": "vllm", "ports": ports}]},
        "status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
    }  # fmt: skip
    return dict(pods.trimmed(document))


def asked(item: dict[str, Any], *routed: pools.Pool, namespace: str = "n") -> list[int]:
    """Ports at which a pod is scraped with these pools."""
    (changed,) = target_ports.applied([item], [(namespace, one) for one in routed])
    assert changed["url"] == changed["urls"][0]
    return [int(url.rpartition(":")[2].partition("/")[0]) for url in changed["urls"]]


def test_ports_of_a_pool_are_those_that_it_lists() -> None:
    """In order and each once; what is no port is none, and before v1 there is one number."""
    assert pool(8000, 8001, 8000).ports == (8000, 8001)
    assert pool(0, "8000", 70000, None).ports == ()
    assert pool(targetPorts=None, targetPortNumber=8000).ports == ()


@pytest.mark.parametrize(
    ("item", "wanted"),
    [
        pytest.param(pod(8000), FOUR, id="declares-the-first"),
        pytest.param(pod(), FOUR, id="declares-none"),
        # The proxy of a decode pod listens at the pool's ports, before engines at others.
        pytest.param(pod(8200), FOUR, id="engines-behind-a-proxy"),
        pytest.param(pod(8000, port="8000"), FOUR, id="annotated-with-the-first"),
        pytest.param(pod(9400, name="metrics"), [9400], id="one-port-for-all-metrics"),
        pytest.param(pod(8000, port="9400"), [9400], id="annotated-with-another"),
        pytest.param(pod(*range(8000, 8005)), [*range(8000, 8005)], id="declares-more"),
    ],
)
def test_each_port_of_a_pool_is_a_server(item: dict[str, Any], wanted: list[int]) -> None:
    """Unless the pod has its metrics elsewhere, or as many servers by itself."""
    assert asked(item, pool(8000), pool(*FOUR)) == list(wanted)


def test_only_pods_that_a_pool_routes_to_have_its_ports() -> None:
    """A pool of another namespace, of other pods or of all changes nothing, nor does one with one port."""
    assert asked(pod(8000), pool(*FOUR), namespace="m") == [8000]
    assert asked(pod(8000), pool(*FOUR, selector={"matchLabels": {"app": "x"}})) == [8000]
    assert asked(pod(8000), pool(*FOUR, selector={})) == [8000]
    assert asked(pod(8000), pool(9000)) == [8000]


def test_a_monitor_that_names_one_of_the_ports_has_the_others_too() -> None:
    """As most have it, with one port; one with a port of its own for all metrics stays as it is."""
    selector = labels.parse("app=llm")
    for number, wanted in ((8001, list(FOUR)), (9400, [9400])):
        endpoint = monitors.Endpoint(str(number), "https", "v1/metrics")
        scraped = monitors.Monitor("n", ("n",), selector, (endpoint,))
        (item,) = monitors.applied([pod(8000)], [scraped], trusted="n")
        assert asked(dict(item), pool(*FOUR)) == wanted
    (changed,) = target_ports.applied([pod(8000, path="/m")], [("n", pool(*FOUR))])
    assert changed["urls"][3] == "http://10.0.0.1:8003/m"


@pytest.mark.virtual_time
async def test_the_load_of_all_servers_of_a_pod_counts(tmp_path: Path) -> None:
    """Two engines of one pod, of which its annotation names one: the target is of the load of both."""
    async with worlds.running(tmp_path) as world:
        second = worlds.Pages(world.clock)
        second.finished["v-0"] = 0.0
        world.load["v"] = second.load["v"] = 30.0
        async with second.served():
            numbers = ({"number": world.pages.port}, {"number": second.port})
            spec = {"selector": {"matchLabels": {"app": "v"}}, "targetPorts": list(numbers)}
            item = {"metadata": {"namespace": "team-a", "name": "p"}, "spec": spec}
            world.api.put(POOLS, "inferencepools", item)
            async with world.replica("a"):
                await until(lambda: world.desired() == 2)
