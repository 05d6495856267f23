"""Requests that prefill pods and decode pods of one scale target both count."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adapter.collector.model_servers import PodMetrics
from adapter.collector.traffic import Traffic
from adapter.collector.windows.paired import PairedWindow
from tests.adapter.collector.test_traffic import page


def prefilled(finished: float, *, waiting: float = 0) -> PodMetrics:
    """A page of a prefill pod: each request ends with its first token."""
    shown = page(finished, waiting=waiting)
    return replace(
        shown, generation_tokens=(finished, finished), ttft=(0.5 * finished, finished), itl=(0, 0)
    )


def seen(per_second: float, taken: float, *, decoding: float = 0.0) -> Traffic:
    """Traffic of two minutes in which prefill takes up so many of those that come, per second.

    `decoding`: seconds for which a decode pod has a request.
    """
    window = PairedWindow(window_seconds=60, long_seconds=120)
    window.pair({"p"})
    for now in range(0, 121, 5):
        left = (per_second - taken) * now
        window.add("p", prefilled(taken * now, waiting=left), now=now)
        ended = max(taken * (now - decoding), 0.0)
        window.add("d", page(ended, running=taken * now - ended), now=now)
    traffic = window.traffic(now=120)
    assert traffic is not None
    assert window.stale(("p", "d", "x"), now=120, after_seconds=5) == ["x"]
    rates = [rate for _, rate in traffic.recent]
    assert rates == pytest.approx([traffic.arrival_rate_rps] * len(rates))
    return traffic


def test_a_request_at_both_counts_once() -> None:
    """One a second is one a second, as long as what decode pods generate."""
    traffic = seen(1.0, 1.0, decoding=10.0)
    assert traffic.arrival_rate_rps == pytest.approx(1.0)
    assert traffic.long_rate_rps == pytest.approx(1.0)
    assert (traffic.input_tokens, traffic.output_tokens) == pytest.approx((10.0, 100.0))
    assert traffic.ttft_ms == pytest.approx(500.0)
    assert traffic.itl_ms == pytest.approx(20.0)
    assert traffic.running == pytest.approx(10.0)


def test_what_prefill_holds_back_counts() -> None:
    """Two a second of which prefill takes up one are two, and their queue is one queue."""
    traffic = seen(2.0, 1.0)
    assert traffic.arrival_rate_rps == pytest.approx(2.0)
    assert traffic.waiting == pytest.approx(120.0)
    assert traffic.queue_growth_rps == pytest.approx(1.0)


def test_a_queue_that_both_show_is_one() -> None:
    """Routers that send a request to both at once leave it in the queues of both."""
    window = PairedWindow(window_seconds=60)
    window.pair({"p"})
    for now in range(0, 121, 5):
        window.add("p", prefilled(1.0 * now, waiting=1.0 * now), now=now)
        window.add("d", page(1.0 * now, waiting=1.0 * now), now=now)
    traffic = window.traffic(now=120)
    assert traffic is not None
    assert traffic.arrival_rate_rps == pytest.approx(2.0)
    assert (traffic.waiting, window.waiting) == (120.0, 120.0)
    since = window.rate_since_last(at_least=5.0)
    assert since is not None
    assert since[0] == pytest.approx(2.0)


def test_pods_of_no_pair_are_all_counted() -> None:
    """Without prefill pods the requests of all add up; one that leaves is forgotten in either window."""
    window = PairedWindow(window_seconds=60)
    for now in range(0, 61, 5):
        for pod in "ab":
            window.add(pod, page(1.0 * now), now=now)
    traffic = window.traffic(now=60)
    assert traffic is not None
    assert traffic.arrival_rate_rps == pytest.approx(2.0)
    window.pair({"a"})
    window.retain(("b",))
    assert window.sampled_at("a") is None
    assert window.sampled_at("b") == 60.0


def test_what_changes_over_and_back_counts_once() -> None:
    """While its last decode pod is replaced, a replica has no pair; what came meanwhile has one window."""
    window = PairedWindow(window_seconds=60, long_seconds=600)
    rates, long_rates, reported, answers = [], [], [], []
    for now in range(0, 901, 5):
        decode = f"d{now // 300}"
        alone = now >= 300 and now % 300 < 20
        window.pair(frozenset() if alone else {"p"})
        window.retain(("p",) if alone else ("p", decode))
        window.add("p", prefilled(1.0 * now), now=now)
        if not alone:
            born = now - now % 300
            window.add(decode, page(1.0 * (now - born)), now=now, started=born)
        traffic, since = window.traffic(now=now), window.rate_since_last(at_least=5.0)
        if now > 60 and traffic is not None and since is not None:
            rates.append(traffic.arrival_rate_rps)
            long_rates.append(traffic.long_rate_rps)
            reported.append(since[0])
            answers.append(traffic.output_tokens or 0.0)
    assert max(rates) < 1.5
    assert max(long_rates) < 1.1
    assert max(reported) < 6.0
    assert min(answers) > 50.0


def test_what_the_cache_serves_is_of_the_prompts_that_prefill_had() -> None:
    """Of five requests four are short and go to the decode pods alone: their prompts are computed there."""
    window = PairedWindow(window_seconds=60, long_seconds=120)
    window.pair({"p"})
    for now in range(0, 121, 5):
        cached = replace(
            prefilled(0.2 * now), prompt_tokens=(420.0 * now, 0.2 * now),
            cached_tokens=(378.0 * now, 420.0 * now),
        )  # fmt: skip
        window.add("p", cached, now=now)
        window.add("d", replace(page(1.0 * now), prompt_tokens=(500.0 * now, now)), now=now)
    traffic = window.traffic(now=120)
    assert traffic is not None
    assert traffic.arrival_rate_rps == pytest.approx(1.0)
    assert (traffic.input_tokens, traffic.cached_tokens) == pytest.approx((500.0, 378.0))
