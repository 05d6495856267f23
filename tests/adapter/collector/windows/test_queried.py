"""Percentiles through Prometheus: one query for the growth of buckets, once a window, up to 1,000 pods."""

from __future__ import annotations

from array import array
from dataclasses import replace

import pytest

from adapter.collector import model_servers, promql
from adapter.collector.instant_vector import Sample
from adapter.collector.servers.histogram import Histogram
from adapter.collector.traffic import TrafficWindow
from adapter.collector.windows import queried
from adapter.collector.windows.growth import EMPTY
from adapter.collector.windows.latencies import Distribution

TTFT = "vllm:time_to_first_token_seconds_bucket"
OLD_ITL = "vllm:time_per_output_token_seconds_bucket"


def sample(quantity: str, le: str, value: float, *, pod: str = "p") -> Sample:
    labels = {
        "quantity": quantity, "le": le, "namespace": "n", "pod": pod, "instance": "10.0.0.1:8000",
        "job": "pods", "model_name": "m",
    }  # fmt: skip
    return Sample(labels, value, 1.0)


def test_the_query_names_every_histogram() -> None:
    """Both model servers' histograms of both latencies, under all their names, over the span."""
    query = queried.query(60.0, promql.STYLES)
    for name in model_servers.LATENCY_BUCKETS:
        assert f"increase({name}[60s])" in query


def test_buckets_become_histograms_of_pods() -> None:
    """In any order; extrapolated growth that falls between buckets is none; a pod without any is left out."""
    pods = queried.of_pods(
        [
            sample(TTFT, "+Inf", 10.0), sample(TTFT, "0.1", 4.0), sample(TTFT, "0.5", 9.9999),
            sample(TTFT, "1.0", 9.9998), sample(OLD_ITL, "0.02", 5.0), sample(OLD_ITL, "+Inf", 5.0),
            sample(TTFT, "0.1", 0.0, pod="idle"), sample(TTFT, "+Inf", 0.0, pod="idle"),
            sample(TTFT, "x", 1.0, pod="odd"), sample(TTFT, "+Inf", float("nan"), pod="odd"),
        ]
    )  # fmt: skip
    assert [pod.pod for pod in pods] == ["p"]
    ttft, itl = pods[0].ttft, pods[0].itl
    assert ttft is not None
    assert itl is not None
    assert ttft.bounds == (0.1, 0.5, 1.0)
    assert list(ttft.counts) == pytest.approx([4.0, 5.9999, 0.0, 0.0001])
    assert itl == Histogram((0.02,), array("d", [5.0, 0.0]))


def window_with(*, own: bool, put_at: float, now: float) -> Distribution:
    """TTFT of a pod that counted 10 first tokens by `now`, of which Prometheus has 9.5."""
    window = TrafficWindow(window_seconds=60.0)
    before = replace(EMPTY, finished=0.0, ttft=(0.0, 0.0))
    after = replace(before, finished=10.0, ttft=(2.0, 10.0))
    if own:
        edges = (0.1, 0.5)
        before = replace(before, ttft_buckets=Histogram(edges, array("d", [0, 0, 0])))
        after = replace(after, ttft_buckets=Histogram(edges, array("d", [10, 0, 0])))
    window.add("p", before, now=now - 30)
    window.add("p", after, now=now - 1)
    window.latencies.put("p", Histogram((0.1, 0.5), array("d", [0.0, 9.5, 0.0])), None, at=put_at)
    traffic = window.traffic(now=now)
    assert traffic is not None
    return traffic.ttft


def test_what_prometheus_says_counts_for_pods_without_their_own() -> None:
    """It is all of what was counted, though extrapolated; a pod's own buckets win, and old answers end."""
    ttft = window_with(own=False, put_at=990.0, now=1000.0)
    assert ttft.quantile_ms(0.5) == pytest.approx(300.0)
    assert ttft.covered == 1.0
    assert ttft.within(100.0) == 0.0
    own = window_with(own=True, put_at=990.0, now=1000.0)
    assert own.within(100.0) == 1.0
    assert own.counted == 10
    assert window_with(own=False, put_at=1000.0 - 119.0, now=1000.0).histogram is not None
    assert window_with(own=False, put_at=1000.0 - 121.0, now=1000.0).histogram is None
