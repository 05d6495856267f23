"""Pools, pickers and PodMonitors of one tenant: they get no token, and take nothing from other tenants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from structlog.testing import capture_logs
from yarl import URL

from adapter.collector import gateway
from adapter.collector.pickers import pages
from adapter.collector.promql import GatewayCount
from adapter.collector.transport.access import Access
from adapter.kube import labels
from adapter.resources import pods
from adapter.resources.serving import monitors, pools
from tests.fakes import cluster_world as worlds
from tests.fakes.cluster_world import CORE, World, until
from tests.security.test_addresses import SECRET, serving

POOLS = "/apis/inference.networking.k8s.io/v1"


def picked(world: World, url: str, namespace: str = "team-a") -> None:
    """A pool of the variant's pods whose picker is a server of the tenant's choice."""
    meta = {"namespace": namespace}
    spec = {"selector": {"matchLabels": {"app": "v"}}, "endpointPickerRef": {"name": "epp"}}
    world.api.put(POOLS, "inferencepools", {"metadata": {"name": "p", **meta}, "spec": spec})
    service = {"metadata": {"name": "epp", **meta}, "spec": {"selector": {"app": "epp"}}}
    world.api.put(CORE, "services", service)
    world.api.put(CORE, "pods", pod("epp-0", namespace, port=str(URL(url).port), app="epp"))


def pod(
    name: str, namespace: str, *, app: str, port: str = "", address: str = "127.0.0.1"
) -> dict[str, Any]:
    """A pod that is ready."""
    notes = {"prometheus.io/port": port} if port else {}
    return {
        "metadata": {
            "name": name, "namespace": namespace, "labels": {"app": app}, "annotations": notes,
        },
        "spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"podIP": address, "conditions": [{"type": "Ready", "status": "True"}]},
    }  # fmt: skip


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("namespaces", "sent"), [((), ""), (("team-b",), ""), (("team-a",), f"Bearer {SECRET}")]
)
async def test_a_tenants_picker_gets_no_token(
    tmp_path: Path, namespaces: tuple[str, ...], sent: str
) -> None:
    """The token of gateways goes to what a pool names only in namespaces that the operator lists."""
    token = tmp_path / "token"
    token.write_text(SECRET)
    got: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        got.append(request.headers.get("Authorization", ""))
        return web.Response(status=401)

    async with serving(handle) as (url, _), worlds.running(tmp_path) as world:
        picked(world, url)
        async with world.replica(
            "a",
            gateway_access=Access(token_file=token, token_over_http=True),
            gateway_token_namespaces=frozenset(namespaces),
        ):
            await until(lambda: got)
    assert set(got) == {sent}


def test_the_error_of_a_picker_without_token_names_the_flag() -> None:
    """The operator learns why there is none, and how to change that."""
    by = Access(token_file=Path("token"), token_over_http=True, trusted=False)
    assert by.headers("https://10.0.0.1/metrics") == {}
    assert "--gateways-token-namespaces" in by.withheld("https://10.0.0.1/metrics")


def test_one_namespace_with_many_pickers_leaves_those_of_others() -> None:
    """However many pods stand behind one tenant's Service, another tenant's picker is scraped."""
    many = [pods.trimmed(pod(f"e{n}", "a", app="epp", address=f"10.0.{n // 256}.{n % 256}"))
            for n in range(2 * pools.MOST_PICKERS)]  # fmt: skip
    one = pods.trimmed(pod("e", "z", app="epp", address="10.9.0.1"))
    pool = pools.Pool(labels.parse("app=v"), "epp")
    both = [pools.Picked(name, pool, labels.parse("app=epp")) for name in ("a", "z")]
    endpoints = pools.endpoints(
        both, pods.ByLabel([*many, one]), {"a": [{"app": "v"}], "z": [{"app": "v"}]}
    )
    assert ("z", "http://10.9.0.1:9090/metrics") in endpoints
    assert len(endpoints) == pools.MOST_PICKERS


def test_one_namespace_with_many_pools_leaves_those_of_others() -> None:
    """A bounded number of Services is read, one after the other: of each namespace some."""
    rows = [("a", f"p{number}") for number in range(2 * pools.MOST_POOLS)]
    chosen = pools.fair([*rows, ("z", "p")], pools.MOST_POOLS)
    assert ("z", "p") in chosen
    assert len(chosen) == pools.MOST_POOLS


@pytest.mark.parametrize(
    "among", [{"any": True}, {"matchNames": ["victim"]}, {"matchNames": ["tenant", "victim"]}]
)
def test_a_podmonitor_leaves_the_pods_of_other_namespaces(among: dict[str, Any]) -> None:
    """A tenant's PodMonitor that selects all pods changes nothing of those of another tenant."""
    document = {
        "metadata": {"namespace": "tenant", "name": "aaa"},
        "spec": {
            "selector": {"matchLabels": {"app": "llm"}},
            "namespaceSelector": among,
            "podMetricsEndpoints": [{"port": "http", "path": "/nothing"}],
        },
    }
    monitor = monitors.trimmed(document)["monitor"]
    victim = pods.trimmed(pod("v", "victim", app="llm"))
    (scraped,) = monitors.applied([victim], [monitor], trusted="system")
    assert scraped["urls"] == ("http://127.0.0.1:8080/metrics",)


SERVED = "gen_ai_server_request_duration_seconds_count"
"""Requests that ended at an Envoy AI Gateway."""


def test_requests_that_nobody_answered_ask_for_little() -> None:
    """A stranger asks a shared gateway for another's model, or names of its own, and every request fails."""
    window = gateway.GatewayWindow(window_seconds=60.0)
    known = pages.Known(models={"m", "idle"}, pods=())
    for at in range(30):
        asked = ["m", "idle", *(f"made-up-{at}-{number}" for number in range(500))]
        text = f'{SERVED}{{gen_ai_request_model="m",gen_ai_response_model="m"}} {20 * at}\n'
        for model in asked:
            labels = f'gen_ai_request_model="{model}",gen_ai_response_model="unknown"'
            text += f"{SERVED}{{{labels}}} {900 * at}\n"
        page = pages.read(text, "http://g").only(known)
        counts = [
            GatewayCount(
                namespace="", model=model, requests=page.requests.get(model, 0.0),
                rejected=page.rejected.get(model, 0.0),
            )
            for model in page.requests.keys() | page.rejected.keys()
        ]  # fmt: skip
        window.add("http://g", counts, now=10.0 * at)
    rates = window.rates(now=290.0).rps
    assert rates == {("", "m"): pytest.approx(3 * 2.0), ("", "idle"): 0.0}


@pytest.mark.parametrize("answered", [30, 3000])
async def test_what_failed_before_a_gateways_first_answer_is_no_demand(answered: int) -> None:
    """With the first label of who answered, old failures are told apart: they neither came nor fell."""
    failed = f'{SERVED}{{gen_ai_request_model="m"}} 6000\n'
    pages_of_gateway = [
        *[f'{SERVED}{{gen_ai_request_model="m"}} {600 * minute}\n' for minute in range(11)],
        *[
            f'{failed}{SERVED}{{gen_ai_request_model="m",gen_ai_response_model="m"}} {count}\n'
            for count in (answered, *(answered + 60 * minute for minute in range(1, 5)))
        ],
        # It was restarted: what fails before its next answer is told apart at once.
        *[f'{SERVED}{{gen_ai_request_model="m"}} {count}\n' for count in (5, 6005)],
    ]
    shown = iter(pages_of_gateway)

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=next(shown))

    window, rates, came = gateway.GatewayWindow(window_seconds=120.0), [], []
    with capture_logs() as log:
        async with serving(page) as (url, _), aiohttp.ClientSession() as session:
            reader = gateway.Gateways(session, [("", url)])
            for minute in range(len(pages_of_gateway)):
                demand = await reader.demand(window, now=60.0 * minute)
                came.append(demand.get(("", "m"), gateway.Demand()).arrived)
                rates.append(window.rates(now=60.0 * minute).rps.get(("", "m")))
    assert came == [0.0, *[600.0] * 10, answered, *[60.0] * 4, 5.0, 6000.0]
    assert rates[10:16] == [10.0, None, 1.0, 1.0, 1.0, 1.0]
    assert rates[16] is not None
    assert rates[16] <= 3 * 1.0
    assert rates[17] is not None
    assert rates[17] <= 3 * 1.0
    assert not [entry for entry in log if "fell" in entry["event"]]
