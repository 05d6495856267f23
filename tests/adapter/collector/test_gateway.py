"""What waits at the gateway, by model, over several endpoint pickers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from adapter.collector.gateway import Demand, Gateways, GatewayWindow
from adapter.collector.pickers import pages
from adapter.collector.promql import GatewayCount

PAGE = """# TYPE inference_extension_flow_control_queue_size gauge
inference_extension_flow_control_queue_size{{model_name="a",target_model_name="a",priority="0"}} {waiting}
inference_extension_flow_control_queue_size{{model_name="a",target_model_name="a",priority="1"}} 2
# TYPE {counter} counter
{counter}_total{{model_name="a"}} {count}
{counter}_total{{model_name="b"}} 7
# TYPE process_cpu_seconds gauge
process_cpu_seconds 1
"""


class Picker:
    """A metrics page that changes."""

    def __init__(self, counter: str = "inference_objective_request") -> None:
        self.counter, self.waiting, self.count, self.broken = counter, 0, 0, False

    async def page(self, _: web.Request) -> web.Response:
        if self.broken:
            raise web.HTTPServiceUnavailable
        return web.Response(
            text=PAGE.format(counter=self.counter, waiting=self.waiting, count=self.count)
        )


@contextlib.asynccontextmanager
async def looking(*pickers: Picker) -> AsyncIterator[Gateways]:
    async with contextlib.AsyncExitStack() as stack:
        urls = []
        for picker in pickers:
            app = web.Application()
            app.router.add_get("/metrics", picker.page)
            server = await stack.enter_async_context(TestServer(app))
            urls.append(("", str(server.make_url("/metrics"))))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield Gateways(session, urls)


async def test_queues_add_up_and_counters_are_compared() -> None:
    """Over priorities and pickers; the first look knows no arrivals, and a restart counts from zero."""
    one, two = Picker(), Picker("inference_model_request")
    async with looking(one, two) as gateways:
        one.waiting, one.count = 3, 10
        first = await gateways.demand()
        assert first["", "a"] == Demand(waiting=7.0)
        assert not first.get(("", "b"), Demand()).any
        one.count, two.count = 14, 5
        assert (await gateways.demand())["", "a"] == Demand(waiting=7.0, arrived=9.0)
        one.count = 2
        assert (await gateways.demand())["", "a"].arrived == 2.0


async def test_a_picker_that_does_not_answer_says_nothing() -> None:
    """The others count on, and nobody is woken or put to sleep by it."""
    one, two = Picker(), Picker()
    async with looking(one, two) as gateways:
        one.broken = True
        assert (await gateways.demand())["", "a"].waiting == 2.0
        two.broken = True
        assert await gateways.demand() == {}


LEFT = "kserve_llm_d_epp_flow_control_request_queue_duration_seconds_count"
REJECTING = """kserve_llm_d_epp_request_total{{model_name="a"}} {forwarded}
kserve_llm_d_epp_flow_control_queue_size{{model_name="a"}} 5
{left}{{model_name="a",outcome="Dispatched"}} {forwarded}
{left}{{model_name="a",outcome="RejectedCapacity"}} {rejected}
{left}{{model_name="a",outcome="EvictedTTL"}} {evicted}
"""


class Rejecting(Picker):
    """A picker, relabelled as KServe does, whose queue is full: of 90 req/min 40 pass."""

    async def page(self, _: web.Request) -> web.Response:
        minutes = self.count
        return web.Response(
            text=REJECTING.format(
                left=LEFT, forwarded=40 * minutes, rejected=30 * minutes, evicted=20 * minutes
            )
        )


async def test_what_the_gateway_turns_away_is_demand() -> None:
    """Rejected and evicted requests count beside the forwarded ones, under any prefix of the names."""
    window = GatewayWindow(window_seconds=120)
    async with looking(picker := Rejecting()) as gateways:
        for picker.count in range(4):
            demand = await gateways.demand(window, now=60.0 * picker.count)
    assert demand["", "a"] == Demand(waiting=5.0, arrived=90.0)
    rates = window.rates(now=180.0)
    assert 60 * rates.rps["", "a"] == pytest.approx(90)


@pytest.mark.parametrize("origin", ["http://picker", ""])
def test_an_address_of_two_pickers_gives_no_rate(origin: str) -> None:
    """Their counters go back and forth: what is between them did not come; alone one counts again."""
    window = GatewayWindow(window_seconds=120)

    def at(minute: int, forwarded: float) -> float | None:
        count = GatewayCount(namespace="n", model="a", requests=forwarded)
        window.add(origin, [count], now=60.0 * minute)
        rate = window.rates(now=60.0 * minute).rps.get(("n", "a"))
        return None if rate is None else 60 * rate

    rates = [at(minute, (50000, 48000)[minute % 2] + 10.0 * minute) for minute in range(20)]
    assert [rate for rate in rates[1:] if rate is not None and rate > 20] == []
    rates = [at(minute, 50000 + 10.0 * minute) for minute in range(20, 60)]
    assert rates[-1] == pytest.approx(10)


def test_a_picker_that_began_anew_counts_on() -> None:
    """A fall to near zero is a restart, and what it has since then came."""
    window = GatewayWindow(window_seconds=120)
    for minute, forwarded in enumerate((1000, 1010, 1020, 6, 16)):
        count = GatewayCount(namespace="n", model="a", requests=forwarded)
        window.add("u", [count], now=60.0 * minute)
    assert 60 * window.rates(now=240.0).rps["n", "a"] == pytest.approx(8)


def rates_of(forwarded: list[float]) -> list[float | None]:
    """Rate after each scrape, ten seconds apart."""
    window, rates = GatewayWindow(window_seconds=60.0), []
    for number, value in enumerate(forwarded):
        window.add("u", [GatewayCount(namespace="n", model="m", requests=value)], now=10.0 * number)
        rates.append(window.rates(now=10.0 * number).rps.get(("n", "m")))
    return rates


def test_a_counter_that_jumps_once_is_another_pickers() -> None:
    """Half a million requests within ten seconds do not come and stop; a rise that goes on counts in full."""
    jump = rates_of([20.0 * at + (500_000.0 if at >= 8 else 0.0) for at in range(20)])
    assert max(filter(None, jump)) == pytest.approx(2.0)
    rise = rates_of([20.0 * at + 5_000.0 * max(at - 7, 0) for at in range(20)])
    assert rise[9] == pytest.approx(2.0 + 10_000.0 / 60.0)
    assert rise[-1] == pytest.approx(502.0)


def test_requests_that_are_sent_together_count() -> None:
    """A gateway is scraped several times a second while a model sleeps; between two of them a batch comes."""
    window = GatewayWindow(window_seconds=60.0)
    for number in range(401):
        count = GatewayCount(namespace="n", model="m", requests=60.0 if number >= 300 else 0.0)
        window.add("u", [count], now=0.15 * number)
    assert window.rates(now=60.0).rps["n", "m"] == pytest.approx(1.0)


@pytest.mark.parametrize("rps", [60.0, 200.0])
@pytest.mark.parametrize("interval", [15.0, 30.0, 60.0])
def test_samples_of_prometheus_that_stay_until_the_next_one_are_no_jumps(
    interval: float, rps: float
) -> None:
    """Prometheus may scrape a gateway less often than the adapter queries Prometheus."""
    window, rates = GatewayWindow(window_seconds=120.0), []
    for number in range(60):
        now = 15.0 * number
        count = GatewayCount(namespace="n", model="m", requests=rps * (now // interval) * interval)
        window.add("", [count], now=now)
        rates.append(window.rates(now=now).rps.get(("n", "m"), 0.0))
    assert rates[-30:] == pytest.approx([rps] * 30)


def test_a_jump_in_prometheus_is_another_pickers_too() -> None:
    """Also where it scrapes seldom."""
    window, rates = GatewayWindow(window_seconds=120.0), []
    for number in range(60):
        now = 15.0 * number
        jump = 500_000.0 if number >= 30 else 0.0
        count = GatewayCount(namespace="n", model="m", requests=2.0 * (now // 30) * 30 + jump)
        window.add("", [count], now=now)
        rates.append(window.rates(now=now).rps.get(("n", "m"), 0.0))
    assert max(rates) <= 2.5
    assert rates[-1] == pytest.approx(2.0)


def test_a_queue_that_cannot_be_one_is_not_known() -> None:
    """Each request in it has a connection."""
    name = "inference_extension_flow_control_queue_size"
    read = pages.read(
        f'{name}{{model="m"}} 2e6\n{name}{{model="o"}} -1\n{name}{{model="p"}} 3\n', "u"
    )
    assert read.queue == {"p": 3.0}


async def test_a_page_of_something_else_is_a_problem_after_some_scrapes() -> None:
    """A restart is none; a picker before its first request shows other series of a picker."""
    picker = Picker()
    async with looking(picker) as gateways:
        picker.broken = True
        for _ in range(2):
            await gateways.demand()
        picker.broken = False
        await gateways.demand()
        picker.broken = True
        for _ in range(2):
            await gateways.demand()
        assert gateways.problem == ""
        await gateways.demand()
        assert "HTTP status 503" in gateways.problem


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ('inference_extension_info{commit="x"} 1\n', True),
        ('kserve_llm_d_epp_ready_endpoints{name="p"} 2\n', True),
        ("controller_runtime_active_workers 1\n", True),
        ("vllm:num_requests_running 1\n", False),
        ("# HELP inference_model_request_total x\n", False),
        ("", False),
    ],
)
def test_a_gateway_is_known_by_any_of_its_series(text: str, *, known: bool) -> None:
    """Counters by model appear with the first request."""
    assert pages.read(text, "u").of_gateway == known


def test_what_was_counted_last_is_a_part_of_the_rate() -> None:
    """30 in the last of six intervals of ten seconds, one in each of the others."""
    window = GatewayWindow(window_seconds=60.0)
    for number, value in enumerate((0, 1, 2, 3, 4, 5, 35)):
        window.add("u", [GatewayCount(namespace="n", model="m", requests=value)], now=10.0 * number)
    rates, key = window.rates(now=65.0), ("n", "m")
    assert rates.within(key, 5.0) == 0
    assert rates.within(key, 12.0) == pytest.approx(rates.within(key, 100.0) * 30 / 35, rel=0.05)
    assert rates.within(("n", "other"), 100.0) == 0
