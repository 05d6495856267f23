"""Pods whose pages cannot be: their load is unknown, and the condition says why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import aiohttp
import pytest

from adapter.collector import exposition, observation
from adapter.collector.collector import CollectionSettings, Collector
from adapter.collector.observation import Observation
from adapter.collector.windows import restarts
from adapter.collector.windows.paired import PairedWindow
from adapter.planning import fleet
from adapter.resources.variant import VariantSource
from tests.fakes.virtual_time import ManualClock

Page = Callable[[int], str]
"""A pod's page by the number of the scrape."""

INTERVAL = 15.0


def served(done: float, *, running: float = 0, waiting: float = 0, extra: str = "") -> str:
    """A vLLM page after that many requests of 100 input and 178 output tokens."""
    label = '{engine="0",model_name="m"}'
    numbers = {
        "num_requests_running": running,
        "num_requests_waiting": waiting,
        "request_success_total": done,
        "request_prompt_tokens_sum": done * 100,
        "request_prompt_tokens_count": done,
        "request_generation_tokens_sum": done * 178,
        "request_generation_tokens_count": done,
        "time_to_first_token_seconds_sum": done * 0.05,
        "time_to_first_token_seconds_count": done,
        "inter_token_latency_seconds_sum": done * 177 * 0.0214,
        "inter_token_latency_seconds_count": done * 177,
    }
    return extra + "".join(f"vllm:{name}{label} {value}\n" for name, value in numbers.items())


async def observed(
    number: int,
    *,
    replicas: int | None = None,
    restarts: Mapping[str, float] = MappingProxyType({}),
    pods: Mapping[str, str] = MappingProxyType({}),
    **pages: Page,
) -> list[Observation]:
    """What is known of a variant with these pods after each of so many scrape cycles; `pods`: addresses."""
    observations = []
    endpoints = tuple(pods.values()) or tuple(pages)
    source = VariantSource(
        namespace="n", name="v", model="m", service_class="c", profiles=(), accelerator="",
        targets=fleet.Targets(), endpoints=endpoints, replicas=replicas or len(endpoints),
        restarts=restarts, pods=tuple(pods),
    )  # fmt: skip
    clock, settings = ManualClock(0.0), CollectionSettings(interval=INTERVAL, source="direct")
    async with aiohttp.ClientSession() as session:
        collector = Collector(session=session, clock=clock, settings=settings)
        collector.use([source])
        for at in range(number):
            clock.at += INTERVAL
            for name, text in pages.items():
                page = exposition.parse(text(at), "m", name)
                collector.add(source.key, name, page, now=clock.at, source="direct")
            observations.append(collector.observe(source))
        collector.close()
    return observations


async def test_a_balanced_address_never_gives_a_rate_of_another_process() -> None:
    """Two pods of 10 req/min each behind one URL: never is more seen than they serve, and it is said why."""

    def page(at: int) -> str:
        base, start = ((50000.0, -900), (48000.0, -800))[at % 2]
        return served(base + at * 2.5, extra=f"process_start_time_seconds {start}\n")

    observations = await observed(12, replicas=2, a=page)
    rates = [
        60 * item.traffic.arrival_rate_rps for item in observations if item.traffic is not None
    ]
    assert max(rates, default=0.0) <= 20.0
    assert all("name one URL per replica" in item.problem for item in observations[1:])
    assert not any(item.complete for item in observations)
    assert observations[-1].metrics == "MetricsStale"


async def test_fewer_addresses_than_replicas_are_a_part() -> None:
    """One address of two replicas: its load is a lower bound, and the condition's text says so."""
    observation = (await observed(4, replicas=2, a=lambda at: served(100 + at * 2.5)))[-1]
    assert (observation.problem, observation.complete) == ("", False)
    assert "1 addresses for 2 replicas" in observation.note


async def test_pods_that_share_an_address_are_a_part() -> None:
    """Two pods of one node's network, of which one has the port: what comes to the other is not seen."""

    def page(at: int) -> str:
        return served(100 + at * 2.5)

    assert (await observed(4, pods={"p": "a", "q": "b"}, a=page, b=page))[-1].complete
    observation = (await observed(4, pods={"p": "a", "q": "a"}, a=page))[-1]
    assert (observation.problem, observation.complete) == ("", False)
    assert "1 addresses for 2 replicas" in observation.note


async def test_a_hung_engine_is_no_backlog() -> None:
    """One of two pods stands still with 68 requests: it is named, and counted neither as idle nor waiting."""
    observations = await observed(
        10,
        a=lambda _: served(5000, running=8, waiting=60),
        b=lambda at: served(1000 + at * 5, running=1),
    )
    last = observations[-1]
    assert last.heard
    assert "stand still with 68 requests" in observations[2].problem
    assert last.traffic is not None
    assert (last.traffic.waiting, last.traffic.running) == (0.0, 1.0)
    assert 60 * last.traffic.arrival_rate_rps == pytest.approx(20, rel=0.05)


@pytest.mark.parametrize(("until", "rate"), [(0, 20), (6, 40)], ids=["never served", "served"])
async def test_a_pod_that_hangs_on_is_taken_to_get_as_much_as_the_others(
    until: int, rate: float
) -> None:
    """After the long window: its gauges are no backlog, it is named, and its share is not taken for zero.

    One whose numbers have never moved has no share: clients that went away left its gauges.
    """
    observations = await observed(
        26,
        a=lambda at: served(5000 + min(at, until) * 5, running=8, waiting=60),
        b=lambda at: served(1000 + at * 5, running=1),
    )
    last = observations[-1]
    assert not observations[8].complete
    assert (last.problem, last.complete) == ("", True)
    assert "stand still with 68 requests" in last.note
    assert last.traffic is not None
    assert 60 * last.traffic.arrival_rate_rps == pytest.approx(rate, rel=0.05)
    assert last.traffic.waiting == 0.0


async def test_pods_that_all_hang_prove_nothing() -> None:
    """Without another pod nothing says what comes; idle others are no proof of idleness either."""
    alone = await observed(20, a=lambda _: served(5000, running=8, waiting=60))
    assert not alone[-1].complete
    idle = await observed(
        20, a=lambda _: served(5000, running=8, waiting=60), b=lambda _: served(1000)
    )
    assert not idle[-1].complete


async def test_the_load_of_a_pod_is_not_known_from_its_first_page_after_a_doubt() -> None:
    """Two pods serve 10 req/min each; the counters of one fell: its next page says nothing of its load."""

    def page(at: int) -> str:
        return served(5000 + at * 2.5 - 1500 * (at >= 8), running=1)

    observations = await observed(16, a=page, b=lambda at: served(9000 + at * 2.5, running=1))
    whole = [item for item in observations if item.complete and item.traffic is not None]
    rates = [60 * item.traffic.arrival_rate_rps for item in whole if item.traffic is not None]
    assert rates == pytest.approx([20.0] * len(rates), rel=0.1)
    assert observations[7].complete
    assert observations[-1].complete
    said = [item.problem for item in observations if "known from the next one on" in item.problem]
    assert len(said) == 1


@pytest.mark.parametrize("left", [70.0, 300.0])
async def test_counters_that_fall_to_little_and_come_back_are_no_load(left: float) -> None:
    """Without a start time, at 10 req/min: what is left of counters, or comes back, did not come now."""

    def page(at: int) -> str:
        return served((left if 8 <= at < 12 else 5000.0) + at * 2.5, running=1)

    observations = await observed(20, a=page)
    known = [item.traffic for item in observations if item.traffic is not None]
    assert max(60 * traffic.arrival_rate_rps for traffic in known) <= 12.0
    assert observations[-1].complete


async def test_a_restart_without_a_start_time_is_known_at_once() -> None:
    """What is on its first page may all have come since the last one."""

    def page(at: int) -> str:
        return served(at * 2.5 + (5000.0 if at < 8 else -20.0), running=1)

    observations = await observed(16, a=page)
    assert all(item.complete for item in observations[1:])


async def test_a_load_that_rises_as_a_container_began_anew_is_known_at_once() -> None:
    """By its status: what came since then is more than usual, and no other process is suspected."""

    def page(at: int) -> str:
        return served(at * 2.5 + 400.0 if at < 8 else 60.0 + (at - 8) * 20.0, running=1)

    observations = await observed(16, a=page, restarts={"a": 8.2 * INTERVAL})
    assert {item.problem for item in observations[1:]} == {""}
    assert all(item.complete for item in observations[1:])
    assert observations[-1].traffic is not None
    assert 60 * observations[-1].traffic.arrival_rate_rps == pytest.approx(80, rel=0.05)


@pytest.mark.parametrize(("done", "proven"), [(60.0, True), (3000.0, False)])
def test_more_than_a_container_can_have_served_since_its_start_is_no_restart(
    *, done: float, proven: bool
) -> None:
    """A page that goes back by half just as its container began anew: half of it is not new load."""
    before, after = (
        exposition.parse(served(number, running=1), "m", "a") for number in (6000.0, done)
    )
    assert restarts.again(before, after, 102.0, since=100.0, now=115.0) is proven


def covered(replicas: int, pods: tuple[str, ...], refused: set[str]) -> observation.Coverage:
    """Of pods that hold one server each by the endpoint `e0`, `e1`, ...; those refuse connections."""
    endpoints = tuple(f"e{at}" for at in range(len(pods)))
    source = VariantSource(
        namespace="n", name="v", model="m", service_class="c", profiles=(), accelerator="",
        targets=fleet.Targets(), endpoints=endpoints, replicas=replicas, pods=pods,
        pods_known=True,
    )  # fmt: skip
    window = PairedWindow(window_seconds=60)
    for endpoint in endpoints:
        if endpoint not in refused:
            window.add(endpoint, exposition.parse(served(1), "m", endpoint), now=99.0)
    return observation.coverage(
        source,
        observation.CollectedVariant(source=source, window=window),
        now=100.0,
        stale_after=30.0,
        failing=dict.fromkeys(refused, True),
        scraped=True,
    )


def test_ranks_that_do_not_serve_are_left_out() -> None:
    """Of groups of two pods only the first has a server: nothing is missing where every replica answers."""
    pods = ("a0", "a1", "b0", "b1")
    assert covered(2, pods, {"e1", "e3"}).expected == ("e0", "e2")
    assert covered(2, pods, {"e1", "e3"}).stale == ()
    # One group's server is silent too: that is a fault.
    assert set(covered(2, pods, {"e1", "e2", "e3"}).late) == {"e1", "e2", "e3"}


def test_ports_of_a_pod_at_which_nothing_listens_are_left_out() -> None:
    """A row of ports may be of something else; a pod that does not answer at any port is silent."""
    assert covered(2, ("a", "a", "b"), {"e1"}).expected == ("e0", "e2")
    assert covered(2, ("a", "a", "b"), {"e0", "e1"}).late == ("e0", "e1")
