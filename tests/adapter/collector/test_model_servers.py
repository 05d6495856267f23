"""Pages of real servers' formats, as each version writes them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families

from adapter.collector import exposition, model_servers
from adapter.collector.servers import lines
from adapter.collector.servers import moments as histograms

PAGES = Path(__file__).parents[2] / "data" / "metrics"
EXPECTED: dict[str, Any] = json.loads((PAGES / "expected.json").read_text())


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_every_version_says_the_same_quantities(name: str) -> None:
    """VLLM's two architectures and SGLang, several engines in a pod included."""
    wanted = EXPECTED[name]
    page = exposition.parse((PAGES / name).read_text(), wanted["model"], "http://x")
    assert page.finished == wanted["finished"]
    assert page.running == wanted["running"]
    assert page.waiting == wanted["waiting"]
    assert page.prompt_tokens == pytest.approx(tuple(wanted["prompt_tokens"]))
    assert page.generation_tokens == pytest.approx(tuple(wanted["generation_tokens"]))
    assert page.ttft == pytest.approx(tuple(wanted["ttft"]))
    assert page.itl == pytest.approx(tuple(wanted["itl"]))
    assert page.kv_cache == pytest.approx(wanted["kv_cache_usage"])
    assert page.cached_tokens == tuple(wanted["cached_tokens"])
    assert page.generated == wanted["generated"]
    assert page.preemptions == wanted["preemptions"]
    assert page.kv_tokens == wanted["kv_tokens"]
    assert page.rejected == wanted["rejected"]
    assert page.adapters_waiting == wanted["adapters_waiting"]
    assert page.started_at == wanted["started_at"]
    # Means that buckets give are near the exact ones, or buckets and sums are of different things.
    for moments, exact in (
        (page.input_moments, page.prompt_tokens),
        (page.output_moments, page.generation_tokens),
    ):
        if moments is not None:
            assert moments.count == exact[1]
            assert moments.total == pytest.approx(exact[0], rel=0.1)


VLLM_BOUNDS = tuple(step * 10**power for power in range(5) for step in (1, 2, 5))


def variation(lengths: NDArray[np.float64]) -> float:
    """What the buckets of a server that served these lengths say of their variation."""
    buckets = [
        (model_servers.INPUT_BUCKETS[0], {"le": str(bound)}, float((lengths <= bound).sum()))
        for bound in (*VLLM_BOUNDS, math.inf)
    ]
    moments = histograms.moments(buckets, model_servers.INPUT_BUCKETS)
    assert moments is not None
    return math.sqrt(max(moments.squares * moments.count / moments.total**2 - 1.0, 0.0))


@pytest.mark.parametrize("mean", [130, 512, 2048])
@pytest.mark.parametrize("cv", [0.3, 0.5, 1.0, 1.5])
def test_buckets_say_how_lengths_vary(mean: float, cv: float) -> None:
    """The variation of lognormal lengths is known within 15 %, though buckets grow twofold and more."""
    sigma = math.sqrt(math.log1p(cv * cv))
    rng = np.random.default_rng(1)
    lengths = rng.lognormal(math.log(mean) - sigma * sigma / 2, sigma, 20_000)
    assert variation(lengths) == pytest.approx(lengths.std() / lengths.mean(), rel=0.15)


@pytest.mark.parametrize("length", [1.0, 7.0, 130.0, 2048.0])
def test_equal_lengths_do_not_vary(length: float) -> None:
    """The width of a bucket is no variation."""
    assert variation(np.full(50, length)) == 0


@pytest.mark.parametrize("wrong", [math.nan, -1.0, math.inf])
def test_a_bucket_that_is_no_number_gives_no_moments(wrong: float) -> None:
    """The rest of the page counts all the same: lengths have a default."""
    name = model_servers.OUTPUT_BUCKETS[0]
    buckets = [(name, {"le": "10"}, wrong), (name, {"le": "+Inf"}, 5.0)]
    assert histograms.moments(buckets, model_servers.OUTPUT_BUCKETS) is None
    assert histograms.moments(buckets, model_servers.INPUT_BUCKETS) is None


def test_two_names_of_one_quantity_count_once() -> None:
    """A version that shows the old and the new name of a histogram is not read twice."""
    text = (PAGES / "vllm-0.11-v1.prom").read_text()
    assert "vllm:time_per_output_token_seconds_count" in text
    assert "vllm:inter_token_latency_seconds_count" in text
    page = exposition.parse(text, EXPECTED["vllm-0.11-v1.prom"]["model"], "http://x")
    assert page.itl[1] == EXPECTED["vllm-0.11-v1.prom"]["itl"][1]


RANKS = """sglang:gen_throughput{model_name="m"} 10
sglang:num_running_reqs{model_name="m",dp_rank="0",tp_rank="0"} 3
sglang:num_running_reqs{model_name="m",dp_rank="0",tp_rank="1"} 3
sglang:num_running_reqs{model_name="m",dp_rank="1",tp_rank="0"} 2
sglang:num_queue_reqs{model_name="m",dp_rank="0",priority=""} 5
sglang:num_queue_reqs{model_name="m",dp_rank="0",priority="1"} 4
sglang:num_queue_reqs{model_name="m",dp_rank="0",priority="2"} 1
"""


def test_ranks_and_priorities_do_not_double() -> None:
    """Tensor-parallel ranks show one engine's requests, priorities are parts of the total."""
    page = exposition.parse(RANKS, "m", "http://x")
    assert (page.running, page.waiting) == (5.0, 5.0)


SWAPPED = """vllm:request_success_total{model_name="m"} 3
vllm:num_requests_running{model_name="m"} 3
vllm:num_requests_swapped{model_name="m"} 2
vllm:num_requests_waiting{model_name="m"} 1
"""


def test_what_was_swapped_out_is_in_service() -> None:
    """Requests that the first architecture swapped out have begun and not ended."""
    assert exposition.parse(SWAPPED, "m", "http://x").running == 5.0


NAMES = st.sampled_from(sorted(model_servers.SERIES))
LABELS = st.dictionaries(
    st.sampled_from(["model_name", "engine", "dp_rank"]),
    st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=8),
    max_size=3,
)
VALUES = st.one_of(
    st.floats(allow_nan=False).map(repr), st.sampled_from(["NaN", "+Inf", "-Inf", "1e+06", "3"])
)


@st.composite
def written_lines(draw: st.DrawFn) -> str:
    """One line as the exposition format has it, escapes and a time now and then included."""
    labels = ",".join(
        name + '="' + text.replace("\\", r"\\").replace('"', r"\"") + '"'
        for name, text in draw(LABELS).items()
    )
    braces = f"{{{labels}}}" if labels or draw(st.booleans()) else ""
    value = draw(VALUES).replace("inf", "+Inf").replace("-+Inf", "-Inf")
    time = draw(st.sampled_from(["", "", "", " 1700000000000"]))
    return f"{draw(NAMES)}{braces} {value}{time}"


@given(st.lists(written_lines(), max_size=6))
def test_the_pattern_and_the_library_read_the_same(text: list[str]) -> None:
    """Whatever a line looks like: our reading and the library's give the same samples."""
    wanted = [
        (sample.name, sample.labels, float(sample.value))
        for family in text_string_to_metric_families("".join(f"{line}\n" for line in text))
        for sample in family.samples
    ]
    samples = [(name, dict(labels), value) for name, labels, value in map(lines.sample, text)]
    assert repr(sorted(samples, key=repr)) == repr(sorted(wanted, key=repr))
