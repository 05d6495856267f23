"""Offered load from scrapes: saturation, restarts, replicas that come and go."""

from __future__ import annotations

import pytest

from adapter import scraping
from adapter.engines import Page
from adapter.traffic import TrafficWindow


def page(finished: float, *, running: float = 0, waiting: float = 0) -> Page:
    """A page of requests with 10 input and 100 output tokens."""
    return Page(
        finished=finished,
        running=running,
        waiting=waiting,
        prompt_tokens=(10 * finished, finished),
        generation_tokens=(100 * finished, finished),
        ttft=(0.2 * finished, finished),
        itl=(0.02 * 99 * finished, 99 * finished),
    )


def test_saturated_server_shows_what_is_offered() -> None:
    """120 req/min into a server that finishes 60 are seen as 120: the queue's growth counts."""
    window = TrafficWindow(window_seconds=60)
    for second in range(0, 121, 5):
        window.add("a", page(second * 1.0, running=4, waiting=second * 1.0), now=second)
    traffic = window.traffic(now=120)
    assert traffic is not None
    assert traffic.arrival_rate_rps * 60 == pytest.approx(120, rel=1e-9)
    assert (traffic.input_tokens, traffic.output_tokens) == (10, 100)
    assert traffic.ttft_ms == pytest.approx(200)
    assert traffic.itl_ms == pytest.approx(20)


def test_a_restart_is_no_negative_rate() -> None:
    """After a counter reset what the counter shows since then is counted."""
    window = TrafficWindow(window_seconds=60)
    for second, finished in ((0, 1000), (10, 1010), (20, 5), (30, 15)):
        window.add("a", page(finished), now=second)
    traffic = window.traffic(now=30)
    assert traffic is not None
    assert traffic.arrival_rate_rps == pytest.approx(25 / 30)
    assert traffic.output_tokens == pytest.approx(100)


def test_a_replica_that_left_keeps_what_it_counted() -> None:
    """Arrivals that a removed endpoint counted within the window stay in the rate."""
    window = TrafficWindow(window_seconds=60)
    for second in range(0, 31, 10):
        window.add("a", page(second), now=second)
        window.add("b", page(second), now=second)
    window.keep(("a",))
    traffic = window.traffic(now=30)
    assert traffic is not None
    assert traffic.arrival_rate_rps == pytest.approx(2.0)


def test_no_second_scrape_is_not_zero() -> None:
    """One scrape says nothing about rates: no traffic is reported, rather than none measured."""
    window = TrafficWindow(window_seconds=60)
    window.add("a", page(7), now=0)
    assert window.traffic(now=1) is None


def test_idle_needs_an_empty_server() -> None:
    """A long request that neither arrived nor ended in the window keeps the variant from idle."""
    window = TrafficWindow(window_seconds=10)
    for second in (0, 5, 10):
        window.add("a", page(3, running=1), now=second)
    busy = window.traffic(now=10)
    assert busy is not None
    assert not busy.idle
    for second in (15, 20, 25):
        window.add("a", page(4), now=second)
    idle = window.traffic(now=30)
    assert idle is not None
    assert idle.idle
    assert idle.arrival_rate_rps == 0
    assert idle.output_tokens == 100


def test_stale_endpoints_are_listed() -> None:
    """An endpoint without a recent scrape is stale, one never scraped too."""
    window = TrafficWindow(window_seconds=60)
    window.add("a", page(1), now=0)
    window.add("b", page(1), now=50)
    assert window.stale(("a", "b", "c"), now=60, after_seconds=30) == ["a", "c"]


GOOD = """# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{model_name="m",engine="0"} 2.0
vllm:num_requests_waiting{model_name="m",engine="0"} 1.0
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("<html><body>hello</body></html>", "not Prometheus text", id="html"),
        pytest.param("vllm:x{", "not Prometheus text", id="cut-off"),
        pytest.param("# nothing\n", "no vllm: or sglang: metrics", id="empty"),
        pytest.param("up 1\n", "no vllm: or sglang: metrics", id="another-program"),
        pytest.param(GOOD.replace("2.0", "NaN"), "running is nan", id="nan"),
        pytest.param(GOOD.replace('"m"', '"other"'), "serves model other, not 'm'", id="model"),
    ],
)
def test_an_unusable_page_is_explained(text: str, said: str) -> None:
    """Each unusable page is refused with the endpoint and what is wrong."""
    with pytest.raises(scraping.ScrapeError, match="http://x") as caught:
        scraping.parse(text, "m", "http://x")
    assert said in str(caught.value)


def test_a_good_page_is_read() -> None:
    """Gauges are read even before the first request finished."""
    found = scraping.parse(GOOD, "m", "http://x")
    assert (found.running, found.waiting, found.finished) == (2.0, 1.0, 0.0)
