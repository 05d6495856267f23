"""Offered load from scrapes: saturation, restarts, replicas that come and go."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter.collector import exposition, model_servers
from adapter.collector.model_servers import PodMetrics
from adapter.collector.servers.totals import Moments
from adapter.collector.traffic import TrafficWindow


def page(finished: float, *, running: float = 0, waiting: float = 0) -> PodMetrics:
    """A page of requests with 10 input and 100 output tokens."""
    return PodMetrics(
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
    assert traffic.queue_growth_rps == pytest.approx(1.0)
    assert (traffic.input_tokens, traffic.output_tokens) == (10, 100)
    assert traffic.ttft_ms == pytest.approx(200)
    assert traffic.itl_ms == pytest.approx(20)


def test_lengths_of_both_windows() -> None:
    """Requests that are twice as long for the last minute: twice in the window, 4/3 times over three."""
    window = TrafficWindow(window_seconds=60, long_seconds=180)
    for second in range(0, 181, 5):
        tokens = 100.0 * (second + max(second - 120, 0))
        shown = replace(page(second * 1.0), generation_tokens=(tokens, second * 1.0))
        window.add("a", shown, now=second)
    traffic = window.traffic(now=180)
    assert traffic is not None
    assert traffic.output_tokens == 200.0
    assert traffic.steady is not None
    assert traffic.steady.output_tokens == pytest.approx(100.0 * 4 / 3)
    assert (traffic.steady.input_tokens, traffic.steady.ended) == (10.0, 60.0)


@pytest.mark.parametrize(
    ("times", "low", "high"),
    [
        pytest.param(1, 81, 99, id="no-retries"),
        pytest.param(20, 100, 120, id="twenty-retries"),
    ],
)
def test_what_admission_limits_turn_away_is_demand(times: int, low: float, high: float) -> None:
    """Of 90 req/min 40 are admitted: 90 are seen, and retries make at most three times the admitted ones."""
    window = TrafficWindow(window_seconds=60)
    for second in range(0, 121, 15):
        shown = page(second * 40 / 60, running=4)
        window.add("a", replace(shown, rejected=times * second * 50 / 60), now=second)
    traffic = window.traffic(now=120)
    assert traffic is not None
    assert low <= traffic.arrival_rate_rps * 60 <= high
    since = window.rate_since_last(at_least=30)
    assert since is not None
    assert low <= since[0] * 60 <= high


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
    window.retain(("a",))
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
vllm:generation_tokens_total{model_name="m",engine="0"} 0.0
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("<html><body>hello</body></html>", "no vllm: or sglang: metrics", id="html"),
        pytest.param(
            GOOD + 'vllm:num_requests_waiting{model_name="m',
            "line 5 is not Prometheus text",
            id="cut-off",
        ),
        pytest.param("# nothing\n", "no vllm: or sglang: metrics", id="empty"),
        pytest.param("up 1\n", "no vllm: or sglang: metrics", id="another-program"),
        pytest.param(GOOD.replace("2.0", "NaN"), "running is nan", id="nan"),
        pytest.param(GOOD.replace('"m"', '"other"'), "serves another model, not 'm'", id="model"),
    ],
)
def test_an_unusable_page_is_explained(text: str, said: str) -> None:
    """Each unusable page is refused with the endpoint and what is wrong."""
    with pytest.raises(exposition.ScrapeError, match="http://x") as caught:
        exposition.parse(text, "m", "http://x")
    assert said in str(caught.value)


def test_a_good_page_is_read() -> None:
    """Gauges are read even before the first request finished."""
    page = exposition.parse(GOOD, "m", "http://x")
    assert (page.running, page.waiting, page.finished) == (2.0, 1.0, 0.0)


def test_pages_of_different_moments_give_one_rate() -> None:
    """Two pods of 1/s each are 2/s though one was read ten seconds before the other."""
    window = TrafficWindow(window_seconds=60)
    for second in range(0, 121, 20):
        window.add("a", page(second), now=second)
        window.add("b", page(second + 10), now=second + 10)
    traffic = window.traffic(now=130)
    assert traffic is not None
    assert traffic.arrival_rate_rps == pytest.approx(2.0)
    assert traffic.sampled_at == 120


def test_an_old_page_says_nothing() -> None:
    """The same scrape seen again, or one older than the last, changes neither rate nor age."""
    window = TrafficWindow(window_seconds=60)
    for second in (0, 10, 20):
        window.add("a", page(second), now=second)
    before = window.traffic(now=20)
    window.add("a", page(20), now=20)
    window.add("a", page(5), now=5)
    assert window.traffic(now=20) == before


def test_what_was_counted_before_a_doubt_did_not_come_since_the_start() -> None:
    """A start time that moved is no proof of when the requests of a page that was not counted came."""
    window = TrafficWindow(window_seconds=60)
    window.add("a", page(100.0), now=0, started=-500.0)
    window.suspend("a", forget=True)
    window.add("a", page(130.0), now=30, started=15.0)
    window.add("a", page(140.0), now=40, started=15.0)
    traffic = window.traffic(now=40)
    assert traffic is not None
    assert traffic.arrival_rate_rps == pytest.approx(1.0)


def test_a_pod_that_started_meanwhile_counts_from_its_start() -> None:
    """Its first page is news: the load that it took over is not lost until the second one."""
    window = TrafficWindow(window_seconds=60)
    for second in range(0, 31, 10):
        window.add("a", page(second), now=second)
    window.add("a", page(35), now=40)
    fresh = replace(page(5), started_at=1.0)
    window.add("b", fresh, now=40, started=35.0)
    traffic = window.traffic(now=40)
    assert traffic is not None
    assert traffic.arrival_rate_rps == pytest.approx(40 / 40)


def test_a_pod_that_was_there_before_does_not_bring_its_past() -> None:
    """The first page of an old pod says nothing of this window."""
    window = TrafficWindow(window_seconds=60)
    for second in range(0, 31, 10):
        window.add("a", page(second), now=second)
    window.add("b", replace(page(100_000), started_at=1.0), now=30, started=-5000.0)
    traffic = window.traffic(now=30)
    assert traffic is not None
    assert traffic.arrival_rate_rps == pytest.approx(1.0)


def test_a_restart_is_seen_by_its_time() -> None:
    """A server that restarted and has counted more than before is no small growth."""
    window = TrafficWindow(window_seconds=60)
    window.add("a", replace(page(5), started_at=100.0), now=0)
    window.add("a", replace(page(7), started_at=150.0), now=10)
    traffic = window.traffic(now=10)
    assert traffic is not None
    assert traffic.arrival_rate_rps == pytest.approx(0.7)


def test_a_pod_that_was_away_counts_on() -> None:
    """Unready for a moment: what it counted meanwhile is neither lost nor taken for its whole life."""
    window = TrafficWindow(window_seconds=120)
    for second in range(0, 31, 10):
        window.add("a", page(1000 + second), now=second)
    window.retain(())
    window.retain(("a",))
    window.add("a", page(1060), now=60)
    traffic = window.traffic(now=60)
    assert traffic is not None
    assert traffic.arrival_rate_rps == pytest.approx(1.0)


def test_a_histogram_that_was_renamed_is_no_restart() -> None:
    """Only its mean begins anew; arrivals are counted on."""
    window = TrafficWindow(window_seconds=60)
    window.add("a", page(100), now=0)
    window.add("a", replace(page(110), itl=(0.2, 10.0)), now=10)
    traffic = window.traffic(now=10)
    assert traffic is not None
    assert traffic.arrival_rate_rps == pytest.approx(1.0)
    assert traffic.itl_ms == pytest.approx(20.0)


def test_how_long_idle_is_proven() -> None:
    """From the last sign of a request on; a gap with unchanged counters proves it too, a restart does not."""
    window = TrafficWindow(window_seconds=60)
    for second, finished in ((0, 1), (10, 2), (20, 2), (300, 2)):
        window.add("a", page(finished), now=second)
    quiet = window.traffic(now=310)
    assert quiet is not None
    assert (quiet.idle, quiet.idle_seconds) == (True, 290.0)
    window.add("a", page(1), now=320)
    restarted = window.traffic(now=320)
    assert restarted is not None
    assert restarted.idle_seconds == 0.0


def test_an_end_is_a_sign_of_a_request() -> None:
    """What ran at one look and had finished by the next was there in between."""
    window = TrafficWindow(window_seconds=60)
    for second, finished, running in ((0, 1, 1), (40, 2, 0), (50, 2, 0)):
        window.add("a", page(finished, running=running), now=second)
    quiet = window.traffic(now=50)
    assert quiet is not None
    assert quiet.idle_seconds == 10.0


def test_an_unknown_past_proves_nothing() -> None:
    """The first page of a pod whose start is not known is the earliest that idleness counts from."""
    window = TrafficWindow(window_seconds=60)
    for second in range(0, 101, 10):
        window.add("a", page(5), now=second)
    window.add("b", page(9), now=100)
    both = window.traffic(now=100)
    assert both is not None
    assert both.idle_seconds == 0.0


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"), st.floats(0.5, 20), st.integers(0, 50), st.integers(0, 9)
        ),
        min_size=2,
        max_size=60,
    )
)
def test_whatever_pages_come_rates_are_rates(
    steps: list[tuple[str, float, int, int]],
) -> None:
    """Never negative, never infinite, whatever order, restarts and stocks the pages have."""
    window, now = TrafficWindow(window_seconds=60, long_seconds=120), 0.0
    for endpoint, seconds, finished, waiting in steps:
        now += seconds
        window.add(endpoint, page(finished, waiting=waiting), now=now)
        traffic = window.traffic(now=now)
        if traffic is not None:
            for rate in (traffic.arrival_rate_rps, traffic.long_rate_rps):
                assert math.isfinite(rate)
                assert rate >= 0
        latest = window.rate_since_last(at_least=1.0)
        assert latest is None or (math.isfinite(latest[0]) and latest[0] >= 0)


def recorded(finished: float, **more: object) -> PodMetrics:
    """A page with moments: requests of 100 and 300 input tokens, half of each."""
    return replace(
        page(finished),
        input_moments=Moments(200 * finished, 50_000 * finished, finished),
        **more,  # type: ignore[arg-type] # fields of the page by name
    )


def test_variation_cache_hits_and_preemptions_of_the_long_window() -> None:
    """What grew counts, not the totals; the smallest pod's KV cache is the one that binds."""
    window = TrafficWindow(window_seconds=60, long_seconds=180)
    for second in range(0, 121, 10):
        for pod, tokens in (("a", 30_000.0), ("b", 20_000.0)):
            done = 1000.0 + second
            more = {"cached_tokens": (3 * done, 12 * done), "preemptions": 7 + second / 10}
            window.add(pod, recorded(done, kv_tokens=tokens, **more), now=second)
    traffic = window.traffic(now=120)
    assert traffic is not None
    assert traffic.input_cv == pytest.approx(0.5)
    assert traffic.output_cv is None
    assert traffic.short_answers == ()
    assert traffic.cached_tokens == pytest.approx(10 / 4)
    assert traffic.preemptions_rps == pytest.approx(2 * 12 / 120)
    assert traffic.kv_tokens == 20_000


def test_what_pods_do_not_report_is_unknown() -> None:
    """Old servers and Prometheus give no moments; a single finished request says nothing of a variation."""
    window = TrafficWindow(window_seconds=60)
    for second in (0, 10, 20):
        window.add("a", page(second), now=second)
        window.add("b", recorded(second / 10), now=second)
    traffic = window.traffic(now=20)
    assert traffic is not None
    assert (traffic.input_cv, traffic.cached_tokens) == (None, None)
    assert (traffic.preemptions_rps, traffic.kv_tokens) == (None, None)


def test_a_change_of_the_source_makes_no_growth_of_lengths() -> None:
    """Pages of Prometheus have no moments: the totals of the next scraped page are not what grew since."""
    window = TrafficWindow(window_seconds=60)
    window.add("a", recorded(1000), now=0)
    window.add("a", page(1005), now=10)
    window.add("a", recorded(1010), now=20)
    traffic = window.traffic(now=20)
    assert traffic is not None
    assert traffic.input_cv is None


def test_a_restart_begins_the_moments_anew() -> None:
    """After a reset all that a server shows was counted since then."""
    window = TrafficWindow(window_seconds=60)
    window.add("a", recorded(1000), now=0)
    window.add("a", recorded(12), now=10)
    traffic = window.traffic(now=10)
    assert traffic is not None
    assert traffic.input_cv == pytest.approx(0.5)


@pytest.mark.parametrize(("tokens_per_step", "itl_ms"), [(1, 20.0), (3, 20.0 / 3)])
def test_latency_is_per_token_where_steps_give_several(tokens_per_step: int, itl_ms: float) -> None:
    """With speculative decoding a gap is of a step; the latency is that of its tokens."""
    window = TrafficWindow(window_seconds=60)
    for second in (0, 10, 20):
        done = 100.0 + second
        # A first token, then 99 steps.
        generated = done * (1 + 99 * tokens_per_step)
        window.add("a", replace(page(done), generated=generated), now=second)
    traffic = window.traffic(now=20)
    assert traffic is not None
    assert traffic.itl_ms == pytest.approx(itl_ms)


def test_drafts_say_the_tokens_where_nothing_else_does() -> None:
    """Three tokens a step by the counters of drafts and accepted tokens: ITL is a third of the gap."""
    window = TrafficWindow(window_seconds=60)
    for second in (0, 10, 20):
        done = 10.0 * second
        steps = 59.0 * done
        totals = {
            "running": 1.0,
            "waiting": 0.0,
            "finished": done,
            "ttft_count": done,
            "itl_sum": 0.024 * steps,
            "itl_count": steps,
            "verified": steps + 2.0 * steps,
        }
        window.add("a", model_servers.pod_metrics(totals), now=second)
    traffic = window.traffic(now=20)
    assert traffic is not None
    assert traffic.itl_ms == pytest.approx(8.0)


def test_latency_is_per_gap_where_a_pod_does_not_count_tokens() -> None:
    """SGLang observes each token by itself; a fleet in which some pods count tokens is not mixed up."""
    window = TrafficWindow(window_seconds=60)
    for second in (0, 10, 20):
        window.add("a", page(second), now=second)
        window.add("b", replace(page(second), generated=300.0 * second), now=second)
    traffic = window.traffic(now=20)
    assert traffic is not None
    assert traffic.itl_ms == pytest.approx(20)


def test_lengths_are_not_corrected_while_the_load_rises() -> None:
    """More run than finished in the last minute, but in three minutes many finished: their mean is known."""
    window = TrafficWindow(window_seconds=60, long_seconds=180)
    for second in range(0, 181, 15):
        shown = page(second / 2, running=10 if second < 165 else 60)
        window.add("a", replace(shown, itl=(second * 1.0, second * 90.0)), now=second)
    traffic = window.traffic(now=180)
    assert traffic is not None
    assert traffic.output_tokens == 100


def test_pods_whose_queues_are_longer_than_usual_are_counted() -> None:
    """One that waits between two steps is no queue."""
    window = TrafficWindow(window_seconds=60)
    for second in (0, 15):
        for endpoint, waiting in (("a", 0), ("b", 1), ("c", 7), ("d", 2)):
            window.add(endpoint, page(second * 1.0, running=4, waiting=waiting), now=second)
    traffic = window.traffic(now=15)
    assert traffic is not None
    assert traffic.queued_at == 2
