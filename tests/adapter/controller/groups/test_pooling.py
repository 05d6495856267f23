"""The demand of a group: every request once, at pods and gateways, with the lengths of the mixture."""

from __future__ import annotations

from array import array
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from adapter.collector.gateway import Demand, Rates
from adapter.collector.servers.histogram import Histogram
from adapter.collector.traffic import Traffic
from adapter.collector.windows.latencies import Distribution
from adapter.controller.groups.pooling import at_gateway, pooled, spread
from adapter.resources.model_groups.forming import ModelGroup
from adapter.resources.variant import VariantSource
from tests.adapter.resources.model_groups.test_forming import source


def traffic(rate_rps: float, **more: Any) -> Traffic:
    given = {
        "input_tokens": 100.0, "output_tokens": 50.0, "ttft_ms": 20.0, "itl_ms": 10.0, "idle": False, **more
    }  # fmt: skip
    return Traffic(arrival_rate_rps=rate_rps, **given)


def test_rates_add_up_and_lengths_are_means_over_requests() -> None:
    """Three quarters of the requests have 100 tokens, one quarter 500."""
    both = pooled(
        [
            traffic(
                3.0,
                waiting=2.0,
                queued_at=2,
                waiting_elsewhere=0.5,
                recent=((15.0, 4.0),),
                kv_cache=0.3,
            ),
            traffic(1.0, input_tokens=500.0, waiting=1.0, queued_at=1, kv_cache=0.9),
        ]
    )
    assert both is not None
    assert both.arrival_rate_rps == 4.0
    assert both.input_tokens == 200.0
    assert both.waiting == 3.0
    assert both.queued_at == 3
    assert both.waiting_elsewhere == 0.5
    assert both.kv_cache == 0.9
    # The second has no window of 15 s: the rate that it has counts.
    assert both.recent == ((15.0, 5.0),)
    assert not both.idle
    assert pooled([]) is None


def test_variation_is_that_of_the_mixture() -> None:
    """As of samples of both together, which vary more than each alone."""
    random = np.random.default_rng(3)
    short, long = random.gamma(4.0, 25.0, 30_000), random.gamma(2.0, 400.0, 10_000)
    both = pooled(
        [
            traffic(3.0, input_tokens=short.mean(), input_cv=short.std() / short.mean()),
            traffic(1.0, input_tokens=long.mean(), input_cv=long.std() / long.mean()),
        ]
    )
    every = np.concatenate([short, long])
    assert both is not None
    assert both.input_cv == pytest.approx(every.std() / every.mean(), rel=1e-6)


def group(*sources: VariantSource) -> tuple[ModelGroup, dict[str, VariantSource]]:
    keys = tuple(item.key for item in sources if item.service_class == "c")
    name, namespace = "a/m@c", sources[0].namespace
    members = ModelGroup(name=name, namespace=namespace, model="m", service_class="c", members=keys)
    return members, {item.key: item for item in sources}


@pytest.mark.parametrize("place", ["a", ""])
def test_a_gateway_counts_once(place: str) -> None:
    """However many variants there are, and though none of them has a replica that could show a part."""
    made, sources = group(source("a/x"), source("a/y"), source("a/z"))
    at = at_gateway(
        made,
        sources,
        rates=Rates(rps={(place, "m"): 8.0}),
        parts={},
        waiting={(place, "m"): Demand(waiting=5, arrived=1)},
    )
    assert (at.rate_rps, at.waiting, at.arrived) == (8.0, 5.0, True)


def test_a_model_of_two_groups_is_divided() -> None:
    """By what their pods are offered: the gateway does not know classes."""
    made, sources = group(source("a/x"), source("a/y"), source("a/o", service_class="d"))
    at = at_gateway(
        made,
        sources,
        rates=Rates(rps={("a", "m"): 8.0}),
        parts={"a/x": 1.0, "a/y": 1.0, "a/o": 6.0},
        waiting={("a", "m"): Demand(waiting=4)},
    )
    assert (at.rate_rps, at.waiting) == (2.0, 1.0)


def test_namespaces_add_up() -> None:
    """A group over two namespaces has what both of their gateways count, and not what a third does."""
    made, sources = group(source("a/x"), source("b/x"))
    rates = Rates(rps={("a", "m"): 8.0, ("b", "m"): 2.0, ("c", "m"): 1.0})
    assert at_gateway(made, sources, rates=rates, parts={}, waiting={}).rate_rps == 10.0
    assert at_gateway(made, sources, rates=Rates(), parts={}, waiting={}).rate_rps is None


def test_the_observed_spread_is_stated() -> None:
    """Even within the noise of the counts, uneven beyond it, unknown with one variant."""
    even = spread({"x": traffic(4.0), "y": traffic(2.1)}, {"x": 2, "y": 1}, window_seconds=60)
    assert even.routing == "even"
    assert even.per_pod_rpm == pytest.approx({"x": 120.0, "y": 126.0})
    uneven = spread({"x": traffic(4.0), "y": traffic(6.0)}, {"x": 2, "y": 1}, window_seconds=60)
    assert uneven.routing == "uneven"
    assert not spread({"x": traffic(4.0)}, {"x": 2, "y": 0}, window_seconds=60).routing


def test_latencies_of_all_pods_count_together() -> None:
    """Misses of targets are counted over all variants, where each has its buckets or none."""
    parts = [
        Distribution(counted=10.0, histogram=Histogram((0.1,), array("d", (8.0, 2.0)))),
        Distribution(counted=5.0, histogram=Histogram((0.1,), array("d", (1.0, 4.0)))),
        Distribution(counted=3.0),
    ]
    pooled_traffic = pooled(replace(traffic(1.0), ttft=item) for item in parts)
    assert pooled_traffic is not None
    assert pooled_traffic.ttft.counted == 18.0
    assert pooled_traffic.ttft.certainly_beyond(100.0) == 6.0


def test_shares_of_short_answers_are_those_of_the_mixture() -> None:
    """By the rates of those that know theirs; unknown where none does."""
    known = traffic(3.0, short_answers=(0.0, 0.1, 0.2, 0.3))
    other = traffic(1.0, short_answers=(0.04, 0.1, 0.4, 0.7))
    both = pooled([known, other, traffic(8.0)])
    assert both is not None
    assert both.short_answers == pytest.approx((0.01, 0.1, 0.25, 0.4))
    none = pooled([traffic(1.0), traffic(2.0)])
    assert none is not None
    assert none.short_answers == ()
