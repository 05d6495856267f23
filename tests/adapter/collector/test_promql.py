"""What the answers of Prometheus say of pods and of gateways' models."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import pytest

from adapter.collector import model_servers, promql
from adapter.collector.instant_vector import Sample
from adapter.collector.model_servers import PodMetrics
from adapter.collector.promql import GatewayCount, Sampled
from adapter.collector.servers import moments as histograms

POD = {"namespace": "n", "pod": "p", "instance": "10.0.0.1:8000", "job": "j", "model_name": "m"}

NUMBERS = {
    "finished": 101.0,
    "running": 3.0,
    "waiting": 7.0,
    "prompt_tokens_sum": 5000.0,
    "prompt_tokens_count": 102.0,
    "generation_tokens_sum": 9000.0,
    "generation_tokens_count": 103.0,
    "ttft_sum": 11.5,
    "ttft_count": 104.0,
    "itl_sum": 99.5,
    "itl_count": 8900.0,
    "kv_cache": 0.25,
    "sampled_at": 1000.0,
    "started_at": 500.0,
}

PAGE = PodMetrics(
    finished=101.0,
    running=3.0,
    waiting=7.0,
    prompt_tokens=(5000.0, 102.0),
    generation_tokens=(9000.0, 103.0),
    ttft=(11.5, 104.0),
    itl=(99.5, 8900.0),
    kv_cache=0.25,
    started_at=500.0,
)


def answer(
    numbers: dict[str, float] = NUMBERS, *, at: float = 1005.0, **labels: str | None
) -> list[Sample]:
    """One pod's part of an answer; `labels` go over its own, None takes one away."""
    named = {key: text for key, text in {**POD, **labels}.items() if text is not None}
    return [
        Sample(labels={**named, **_told(name)}, value=value, evaluated_at=at)
        for name, value in numbers.items()
    ]


SERIES = {
    quantity.name: next(names[0] for names in quantity.names if len(names) == 1)
    for quantity in model_servers.QUANTITIES
} | {"preemptions": "vllm:num_preemptions_total"}


def _told(name: str) -> dict[str, str]:
    """By which labels the answer tells a quantity: the series' name, or what stands for it."""
    if name.endswith("_at"):
        return {"quantity": name}
    series = SERIES[name]
    top = {"quantity": "largest"} if series in model_servers.LARGEST_OF else {}
    return {"__name__": series, **top}


def without(*names: str) -> dict[str, float]:
    return {name: value for name, value in NUMBERS.items() if name not in names}


def test_every_quantity_has_its_place() -> None:
    """All that is asked for lands in the field of its name, with whose it is and both times."""
    assert promql.pods(answer()) == [
        Sampled(
            namespace="n",
            pod="p",
            instance="10.0.0.1:8000",
            model="m",
            sampled_at=1000.0,
            evaluated_at=1005.0,
            page=PAGE,
        )
    ]
    asked = {quantity.name for quantity in model_servers.QUANTITIES}
    assert asked | {"sampled_at", "started_at"} == NUMBERS.keys()


def test_the_cache_of_a_target_is_that_of_its_server() -> None:
    """Its series has labels with numbers and no model; engines add up, and it makes no pod of its own."""
    sizes = [
        Sample(
            labels={
                **{name: text for name, text in POD.items() if name != "model_name"},
                "quantity": model_servers.CACHE_CONFIG,
                "engine": engine,
                "num_gpu_blocks": "100",
                "block_size": "16",
                **more,
            },
            value=1.0,
            evaluated_at=1005.0,
        )
        for engine, more in (("0", {}), ("1", {"kv_cache_size_tokens": "1500"}))
    ]
    (pod,) = promql.pods([*sizes, *answer()])
    assert pod.page == dataclasses.replace(PAGE, kv_tokens=3100.0)
    assert promql.pods(sizes) == []
    unknown = [
        size._replace(labels={**size.labels, "num_gpu_blocks": "None"}) for size in sizes[:1]
    ]
    assert promql.pods([*answer(), *unknown])[0].page == PAGE


def test_the_order_of_an_answer_does_not_matter() -> None:
    """Prometheus promises none."""
    assert promql.pods(answer()[::-1]) == promql.pods(answer())


def test_what_was_never_counted_is_zero_and_what_is_not_reported_none() -> None:
    """A server that has just begun has no counters of requests yet; its cache and start may never be told."""
    fresh = {"running": 0.0, "waiting": 1.0, "preemptions": 0.0, "sampled_at": 1.0}
    (pod,) = promql.pods(answer(fresh))
    nothing = (0.0, 0.0)
    assert pod.page == PodMetrics(
        finished=0.0, running=0.0, waiting=1.0, prompt_tokens=nothing,
        generation_tokens=nothing, ttft=nothing, itl=nothing, kv_cache=None, started_at=None,
        preemptions=0.0,
    )  # fmt: skip


def test_a_pod_without_the_time_of_its_scrape_is_left_out() -> None:
    """Its age is not known; the others stay."""
    pods = promql.pods([*answer(without("sampled_at")), *answer(pod="q")])
    assert [item.pod for item in pods] == ["q"]
    assert promql.pods([]) == []


@pytest.mark.parametrize("name", [name for name in NUMBERS if not name.endswith("_at")])
@pytest.mark.parametrize(
    ("value", "fault"),
    [(math.nan, "nan"), (math.inf, "inf"), (-1.0, "negative"), (1e16, "too large")],
)
def test_what_is_no_measurement_is_a_problem(name: str, value: float, fault: str) -> None:
    """It names the quantity and the fault, not the number; there is no page, but there is the pod."""
    (pod,) = promql.pods(answer({**NUMBERS, name: value}))
    assert pod.page is None
    assert pod.problem == f"{name} is {fault}"
    assert (pod.pod, pod.sampled_at) == ("p", 1000.0)


@pytest.mark.parametrize("name", ["running", "waiting"])
def test_a_stock_that_is_missing_is_a_problem(name: str) -> None:
    """A server always has them."""
    (pod,) = promql.pods(answer(without(name)))
    assert pod.page is None
    assert pod.problem == f"the number of {name} requests is missing"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_scrape_at_no_time_leaves_the_pod_out(value: float) -> None:
    """Such a time gives no age."""
    assert promql.pods(answer({**NUMBERS, "sampled_at": value})) == []


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_start_at_no_time_is_not_known(value: float) -> None:
    """The rest counts."""
    (pod,) = promql.pods(answer({**NUMBERS, "started_at": value}))
    assert pod.page is not None
    assert pod.page.started_at is None


def test_a_pod_that_two_jobs_scrape_is_there_twice() -> None:
    """Neither is added to the other."""
    both = [*answer(), *answer({**NUMBERS, "running": 4.0}, job="k", at=1006.0)]
    first, second = promql.pods(both)
    assert (first.pod, second.pod) == ("p", "p")
    assert first.page == PAGE
    assert second.page is not None
    assert (second.page.running, second.evaluated_at) == (4.0, 1006.0)


@pytest.mark.parametrize("label", ["namespace", "pod", "instance", "model_name"])
def test_pods_are_told_apart_by_each_label(label: str) -> None:
    """Two that differ in one of them are two; one that lacks it has none."""
    changed: dict[str, Any] = {label: "other"}
    lacking: dict[str, Any] = {label: None}
    pods = promql.pods([*answer(), *answer(**changed), *answer(**lacking)])
    field = label.removesuffix("_name")
    assert [getattr(item, field) for item in pods] == [POD[label], "other", ""]
    assert [item.page for item in pods] == [PAGE] * 3


def test_one_query_for_the_whole_fleet() -> None:
    """It takes nothing from variants, fits into what servers accept, and asks for each series once."""
    text = promql.fleet()
    assert text == promql.fleet()
    assert len(text) < 6000
    assert len(promql.gateways()) < 6000
    assert not re.search(r'(?:namespace|pod|model_name|instance|job)\s*(?:=|!=|=~|!~)\s*"', text)
    text = text.replace("__?", "_")  # of both: an escaped name has two
    for name in model_servers.SERIES | {model_servers.STARTED}:
        _, _, rest = name.rpartition(":")
        assert re.search(rf"(?<![\w:]){re.escape(rest)}(?![\w:])", text), name
    assert not re.search(r"_bucket(?![\w:])", text)
    assert "vllm(?::|_|_3a_)(cache_config_info)" in text
    for quantity in ("largest", "sampled_at", "started_at", *model_servers.INFOS):
        assert text.count(f'"{quantity}"') == 1
    for name in (*promql.GATEWAY_QUEUES, *promql.GATEWAY_REQUESTS):
        assert name in promql.gateways()


# Gateways.


def counted(quantity: str, value: float, **labels: str) -> Sample:
    return Sample(labels={**labels, "quantity": quantity}, value=value, evaluated_at=1.0)


def test_models_of_gateways() -> None:
    """Requests and queue of each namespace's model."""
    counts = promql.models(
        [
            counted("requests", 10.0, namespace="n", model_name="m"),
            counted("waiting", 2.0, namespace="n", model_name="m"),
            counted("requests", 7.0, namespace="other", model_name="m"),
            counted("waiting", 1.0, model_name="m"),
        ]
    )
    assert counts == [
        GatewayCount(namespace="n", model="m", requests=10.0, waiting=2.0),
        GatewayCount(namespace="other", model="m", requests=7.0),
        GatewayCount(namespace="", model="m", waiting=1.0),
    ]


def test_the_model_that_is_served_counts() -> None:
    """A name that was asked for may stand for another; what stands for one model adds up."""
    (count,) = promql.models(
        [
            counted("requests", 10.0, namespace="n", model_name="alias", target_model_name="m"),
            counted("requests", 5.0, namespace="n", model_name="m", target_model_name="m"),
            counted("requests", 1.0, namespace="n", model_name="m", target_model_name=""),
            counted("waiting", 3.0, namespace="n", model_name="alias", target_model_name="m"),
        ]
    )
    assert count == GatewayCount(namespace="n", model="m", requests=16.0, waiting=3.0)


def test_a_queue_of_no_model_is_nobodys() -> None:
    """Older gateways do not say whose it is."""
    assert promql.models([counted("waiting", 3.0, namespace="n"), counted("waiting", 1.0)]) == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_count_that_is_no_number_says_nothing(value: float) -> None:
    """A part of its model's counts would look like a restart; other models count on."""
    counts = promql.models(
        [
            counted("requests", 10.0, namespace="n", model_name="m"),
            counted("requests", value, namespace="n", model_name="x", target_model_name="m"),
            counted("requests", 1.0, namespace="n", model_name="other"),
        ]
    )
    assert counts == [GatewayCount(namespace="n", model="other", requests=1.0)]


def buckets(name: str, counts: dict[str, float], **labels: str) -> list[Sample]:
    """Growth of one histogram of a pod, as the query for lengths gives it."""
    return [
        Sample(
            labels={**POD, **labels, "quantity": name, "le": bound}, value=value, evaluated_at=1.0
        )
        for bound, value in counts.items()
    ]


def test_lengths_are_the_moments_of_each_pods_histograms() -> None:
    """Two pods: one has both histograms, the other only that of the output."""
    prompts = {"50.0": 0.0, "100.0": 10.0, "500.0": 10.0, "1000.0": 30.0, "+Inf": 30.0}
    answers = {"10.0": 30.0, "+Inf": 30.0}
    lengths = promql.lengths_of_pods(
        [
            *buckets("vllm:request_prompt_tokens_bucket", prompts),
            *buckets("vllm:request_generation_tokens_bucket", answers),
            *buckets("sglang:generation_tokens_histogram_bucket", answers, pod="q"),
        ]
    )
    one, other = sorted(lengths, key=lambda item: item.pod)
    assert (one.namespace, one.pod, one.model) == ("n", "p", "m")
    assert one.input_moments is not None
    assert one.input_moments.count == 30
    varies = histograms.variation([one.input_moments])
    assert varies is not None
    assert 0.4 < varies < 1.2
    assert one.output_moments is not None
    assert histograms.variation([one.output_moments]) == pytest.approx(0.0, abs=0.01)
    assert (other.input_moments, other.output_moments) == (None, one.output_moments)


def test_the_query_for_lengths_names_every_histogram() -> None:
    """Both model servers' histograms of input and output, over the span."""
    query = promql.lengths(600.0)
    for name in model_servers.BUCKETS:
        assert f"increase({name}[600s])" in query
