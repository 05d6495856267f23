"""Servers of a pod of which the objects name one, and Prometheus has more: data-parallel engines."""

from __future__ import annotations

import dataclasses
import math

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from adapter.collector.attribution import Attribution
from adapter.collector.collector import CollectionSettings, Collector
from adapter.collector.model_servers import PodMetrics
from adapter.collector.prometheus import PrometheusOptions
from adapter.collector.promql import Sampled
from adapter.planning import fleet
from adapter.resources.variant import VariantSource
from analyzer.latency import LatencyParameters
from tests.fakes.prometheus_api import Server, vector
from tests.fakes.virtual_time import ManualClock

BEGAN = 500.0
PROFILE = fleet.Profile(
    accelerator="A",
    max_batch=64,
    latency=LatencyParameters(alpha_ms=10, beta_ms=1, gamma_ms=0, delta_ms=0),
)
VARIANT = VariantSource(
    namespace="n", name="v", model="m", service_class="c", profiles=(PROFILE,), accelerator="A",
    targets=fleet.Targets(), replicas=1, spec_replicas=1, pods=("p",), pods_known=True,
    endpoints=("http://10.0.0.1:8000/metrics",),
)  # fmt: skip
PAGE = PodMetrics(
    finished=1.0, running=0.0, waiting=0.0, prompt_tokens=(0.0, 0.0), generation_tokens=(0.0, 0.0),
    ttft=(0.0, 0.0), itl=(0.0, 0.0),
)  # fmt: skip


def sampled(port: int, started: float | None, *, pod: str = "p", instance: str = "") -> Sampled:
    """Series of one server."""
    return Sampled(
        namespace="n", pod=pod, instance=instance or f"10.0.0.1:{port}", model="m", sampled_at=1.0,
        evaluated_at=1.0, page=dataclasses.replace(PAGE, started_at=started),
    )  # fmt: skip


def servers(*samples: Sampled) -> list[str]:
    """Names of the servers that count for the variant."""
    return [item.endpoint for item in Attribution([VARIANT]).attribute(samples)]


OWN = VARIANT.endpoints[0]


def test_a_process_that_began_at_another_time_is_one_more_server() -> None:
    """Each port is named by its address; the one that the objects name keeps its own."""
    rows = [sampled(port, 100.0 + port) for port in (8000, 8001, 8002)]
    assert servers(*rows) == [OWN, f"{OWN} and 10.0.0.1:8001", f"{OWN} and 10.0.0.1:8002"]
    assert servers(*reversed(rows)) == servers(*rows)


@pytest.mark.parametrize(
    "second",
    [
        pytest.param(sampled(9000, 100.04), id="of-the-same-process"),
        pytest.param(sampled(9000, None), id="of-one-that-does-not-say-when-it-began"),
        pytest.param(sampled(15020, 90.0), id="merged-by-a-mesh"),
        pytest.param(sampled(8000, 90.0), id="at-the-same-address"),
        pytest.param(sampled(9000, 90.0, pod="other"), id="of-another-pod"),
    ],
)
def test_what_may_be_the_same_server_counts_once(second: Sampled) -> None:
    """As where two jobs scrape one pod, or a proxy shows the page of what is behind it."""
    assert servers(sampled(8000, 100.0), second) == [OWN]
    assert servers(sampled(8000, None), second) == [OWN]


@pytest.mark.parametrize("names", ["p:{}", "p-{}"])
def test_servers_under_other_names_are_those_that_the_objects_name(names: str) -> None:
    """As many as the pod has endpoints, by their ports if the names have them; others are further ones."""
    both = (OWN, OWN.replace("8000", "8001"))
    variant = dataclasses.replace(VARIANT, pods=("p", "p"), endpoints=both)
    rows = [sampled(0, 100.0 + at, instance=names.format(at)) for at in (8000, 8001, 8002)]
    for count in (1, 2, 3):
        attributed = Attribution([variant]).attribute(rows[:count])
        assert len({item.endpoint for item in attributed}) == count
        assert sum(item.further for item in attributed) == max(count - 2, 0)
        for item in attributed:
            if names == "p:{}" and not item.further:
                assert f"{item.sampled.instance.removeprefix('p')}/" in item.endpoint


async def rate_of(
    ports: list[int], *, seconds: int = 60, gone_at: float = math.inf, warned: bool = False
) -> list[int]:
    """Rates of the variant, requests per minute, while Prometheus has a server with 30 at each port.

    `warned`: its answers say that they may be incomplete.
    """
    clock = ManualClock(1000.0)

    async def answer(request: web.Request) -> web.StreamResponse:
        form = await request.post()
        at = float(str(form.get("time", clock.at)))
        items: list[tuple[dict[str, str], str]] = []
        for port in ports if clock.at < gone_at else ports[:1]:
            done = (at - BEGAN) * 30.0 / 60.0 + port
            label = {"namespace": "n", "pod": "p", "instance": f"10.0.0.1:{port}", "job": "j"}
            label["model_name"] = "m"
            for name, value in {
                "vllm:request_success_total": done, "vllm:num_requests_running": 1.0,
                "vllm:num_requests_waiting": 0.0, "vllm:request_generation_tokens_sum": 100 * done,
                "vllm:request_generation_tokens_count": done,
            }.items():  # fmt: skip
                items.append(({**label, "__name__": name}, str(value)))
            items.append(({**label, "quantity": "sampled_at"}, str(at)))
            items.append(({**label, "quantity": "started_at"}, str(BEGAN + port)))
        of_fleet = '"started_at"' in str(form["query"])
        said = {"warnings": ["a store did not answer"]} if warned else {}
        return web.json_response({**vector(*(items if of_fleet else []), at=at), **said})

    rates: list[int] = []
    async with Server(answer).running() as url, aiohttp.ClientSession() as session:
        settings = CollectionSettings(
            interval=10.0, window=40.0, long_window=0.0, source="prometheus"
        )
        collector = Collector(session=session, clock=clock, settings=settings)
        collector.connect(PrometheusOptions(url=url))
        for _ in range(seconds // 10):
            clock.at += 10.0
            collector.use([VARIANT])  # as after each change of the objects
            await collector.collect()
            seen = collector.observe(VARIANT)
            if seen.complete and seen.traffic is not None:
                rates.append(round(60.0 * seen.traffic.arrival_rate_rps))
        collector.close()
    return rates


async def test_the_load_of_all_servers_of_a_pod_counts() -> None:
    """Four engines at four ports are four times the load of the one that the pod declares."""
    assert set(await rate_of([8000])) == {30}
    assert set(await rate_of([8000, 8001, 8002, 8003])) == {120}


async def test_a_server_that_prometheus_no_longer_has_is_forgotten() -> None:
    """Its load counts while its last numbers are in the window; the rate is never below that of the rest."""
    rates = await rate_of([8000, 8001], seconds=300, gone_at=1060.0)
    assert (rates[0], rates[-1]) == (60, 30)
    assert all(30 <= rate <= 60 for rate in rates)


async def test_a_server_that_an_incomplete_answer_lacks_is_awaited() -> None:
    """Its load is not known then, which is no lower rate; after five minutes it counts as gone."""
    assert set(await rate_of([8000, 8001], seconds=300, gone_at=1060.0, warned=True)) == {60}
    assert (await rate_of([8000, 8001], seconds=500, gone_at=1060.0, warned=True))[-1] == 30


@pytest.mark.parametrize(
    ("failing", "disconnected"),
    [
        pytest.param(3, False, id="seen-when-a-scrape-failed"),
        pytest.param(3, True, id="without-prometheus-later"),
        pytest.param(None, False, id="pods-answer-always"),
    ],
)
async def test_a_further_server_of_a_pod_that_answers(
    failing: int | None, *, disconnected: bool
) -> None:
    """Prometheus is asked for some now and then, and when a scrape fails; then it counts while pods answer.

    It goes with the Prometheus: its last numbers are no fault.
    """
    clock, works = ManualClock(1000.0), True

    def series(done: float) -> dict[str, float]:
        return {
            "vllm:request_success_total": done, "vllm:num_requests_running": 1.0,
            "vllm:num_requests_waiting": 0.0, "vllm:prompt_tokens_total": 10 * done,
            "vllm:request_prompt_tokens_sum": 10 * done, "vllm:request_prompt_tokens_count": done,
            "vllm:request_generation_tokens_sum": 100 * done,
            "vllm:request_generation_tokens_count": done,
        }  # fmt: skip

    async def page(_: web.Request) -> web.Response:
        if not works:
            return web.Response(status=503)
        lines = [f'{name}{{model_name="m"}} {value}' for name, value in series(clock.at).items()]
        return web.Response(text="\n".join(lines) + "\n")

    async def answer(request: web.Request) -> web.StreamResponse:
        form = await request.post()
        at, items = float(str(form.get("time", clock.at))), []
        for port in (own, 9):
            label = {"namespace": "n", "pod": "p", "instance": f"127.0.0.1:{port}", "job": "j"}
            label["model_name"] = "m"
            for name, value in series(at).items():
                items.append(({**label, "__name__": name}, str(value)))
            items.append(({**label, "quantity": "sampled_at"}, str(at)))
            items.append(({**label, "quantity": "started_at"}, str(BEGAN + port)))
        of_fleet = '"started_at"' in str(form["query"])
        return web.json_response(vector(*(items if of_fleet else []), at=at))

    application = web.Application()
    application.router.add_get("/metrics", page)
    async with TestServer(application) as pod, Server(answer).running() as url:
        own = pod.port or 0
        variant = dataclasses.replace(VARIANT, endpoints=(str(pod.make_url("/metrics")),))
        async with aiohttp.ClientSession() as session:
            settings = CollectionSettings(interval=10.0, window=40.0, source="auto")
            collector = Collector(session=session, clock=clock, settings=settings)
            collector.connect(PrometheusOptions(url=url))
            seen = []
            for cycle in range(12):
                clock.at += 10.0
                works = cycle != failing
                if disconnected and cycle == 7:
                    collector.connect(None)
                collector.use([variant])
                await collector.collect()
                seen.append(collector.observe(variant))
            collector.close()
    rates = [round(item.traffic.arrival_rate_rps, 1) for item in seen if item.traffic is not None]
    assert rates[-1] == (1.0 if disconnected else 2.0)
    assert [item.complete for item in seen[4:]] == [True] * 8
    assert [item.problem for item in seen[4:]] == [""] * 8
