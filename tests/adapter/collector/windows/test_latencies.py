"""Measured percentiles and attainment: from buckets on pages to the window of a variant."""

from __future__ import annotations

import asyncio
import re
from array import array
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter.collector import exposition
from adapter.collector.model_servers import PodMetrics
from adapter.collector.servers import buckets
from adapter.collector.servers.histogram import Histogram, merged
from adapter.collector.traffic import Traffic, TrafficWindow
from adapter.collector.windows.latencies import Distribution
from adapter.diagnostics import latencies
from adapter.planning import fleet
from emulator.engine import EngineProfile
from emulator.vllm import ProfileBackend
from tests.fakes import virtual_time

PAGES = Path(__file__).parents[3] / "data/metrics"
RECORDED = [
    path.name
    for path in sorted(PAGES.glob("*.prom"))
    if path.name.startswith(("vllm", "sglang")) and "seconds_bucket{" in path.read_text()
]
NO_TRAFFIC = Traffic(
    arrival_rate_rps=0.0,
    input_tokens=None,
    output_tokens=None,
    ttft_ms=None,
    itl_ms=None,
    idle=True,
)
VLLM, MODEL = "vllm-0.33-v1.prom", "Qwen/Qwen3-8B"

counts = st.lists(st.integers(0, 1000), min_size=4, max_size=4)
bounds = st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=3, unique=True).map(
    lambda limits: tuple(sorted(limits))
)
histograms = st.builds(lambda b, c: Histogram(b, array("d", c)), bounds, counts)


def page_of(name: str, change: tuple[str, str] = ("", "")) -> PodMetrics:
    """A recorded page, with one pattern of it replaced."""
    text = (PAGES / name).read_text()
    served_model = re.search(r'model_name="([^"]+)"', text)
    model = served_model[1] if served_model else MODEL
    return exposition.parse(re.sub(*change, text) if change[0] else text, model, "http://pod")


def window_of(*pages: PodMetrics) -> Traffic:
    """Traffic of one pod that showed these pages 15 s apart."""
    window = TrafficWindow(window_seconds=60)
    for number, page in enumerate(pages):
        window.add("a", page, now=15.0 * number)
    traffic = window.traffic(now=15.0 * (len(pages) - 1))
    assert traffic is not None
    return traffic


@pytest.mark.parametrize("name", RECORDED)
def test_buckets_of_recorded_pages_agree_with_their_counts(name: str) -> None:
    """A histogram has as many observations as its page counts, and a mean within its buckets."""
    page = page_of(name)
    for histogram, (seconds, count) in (
        (page.ttft_buckets, page.ttft),
        (page.itl_buckets, page.itl),
    ):
        if count == 0:
            continue
        assert histogram is not None
        assert histogram.count == count
        edges = (0.0, *histogram.bounds, float("inf"))
        least = sum(n * edges[place] for place, n in enumerate(histogram.counts)) / count
        most = sum(n * edges[place + 1] for place, n in enumerate(histogram.counts) if n) / count
        assert least <= seconds / count <= most


@pytest.mark.parametrize(
    "change",
    [
        pytest.param((r'(_seconds_bucket\{.*)le="', r'\1lf="'), id="no-label"),
        pytest.param((r'(_seconds_bucket\{.*le=)"0.1"', r'\1"x"'), id="no-bound"),
        pytest.param((r"(_seconds_bucket\{.*\}) \S+", r"\1 NaN"), id="nan"),
        pytest.param((r"(_seconds_bucket\{.*\}) \S+", r"\1 -1"), id="negative"),
        pytest.param((r"(_seconds_bucket\{.*\}) \S+", r"\1 1e300"), id="too-many"),
        pytest.param((r'(_seconds_bucket\{.*le="0.1".*\}) \S+', r"\1 1e9"), id="falling"),
        pytest.param((r"vllm:\w+_seconds_bucket\{.*\n", ""), id="absent"),
    ],
)
def test_bad_buckets_cost_percentiles_alone(change: tuple[str, str]) -> None:
    """Whatever is wrong with the buckets of a page, its load is read as before."""
    good, bad = page_of(VLLM), page_of(VLLM, change)
    assert good.ttft_buckets is not None
    assert bad == replace(good, ttft_buckets=None, itl_buckets=None, tpot_buckets=None)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param((r"(_seconds_bucket\{.*\}) (\S+)", r"\1 \2 1700000000000"), id="timestamps"),
        pytest.param((r"(_seconds_bucket)\{(.*)\} ", r'\1{role="x\\n",\2,} '), id="escapes"),
        pytest.param((r'(_seconds_bucket)\{(.*),(le="[^"]*")', r"\1{\3,\2"), id="bound-first"),
        pytest.param((r"(_seconds_bucket\{.*\}) (\d+)\.0", r"\1 \g<2>e+00"), id="exponents"),
        pytest.param((r"vllm:", "kserve_vllm_"), id="renamed"),
    ],
)
def test_every_form_of_a_line_is_read(change: tuple[str, str]) -> None:
    """Timestamps, escapes, another order of labels and another spelling make no difference."""
    good, other = page_of(VLLM), page_of(VLLM, change)
    assert (other.ttft_buckets, other.itl_buckets) == (good.ttft_buckets, good.itl_buckets)


def test_an_exact_histogram() -> None:
    """Ten values of at most 1 s, ten of 1 to 3 s: quantiles and shares are linear within a bucket."""
    histogram = buckets.histogram(["1", "3", "+Inf"], [10, 20, 20])
    assert histogram is not None
    assert [histogram.quantile(q) for q in (0.25, 0.5, 0.75, 0.95)] == pytest.approx(
        [0.5, 1, 2, 2.8]
    )
    assert [histogram.within(s) for s in (0.5, 1, 2, 9)] == pytest.approx([0.25, 0.5, 0.75, 1])
    beyond = buckets.histogram(["1", "+Inf"], [1, 2])
    assert beyond is not None
    assert (beyond.quantile(0.95), beyond.within(100)) == (1, 0.5)


@given(histograms, st.floats(0, 2e3), st.floats(0, 2e3))
def test_percentiles_and_attainment_are_ordered(
    histogram: Histogram, one: float, other: float
) -> None:
    """The p50 is no more than the p95; attainment is from 0 to 1, and no less for a looser target."""
    p50, p95 = histogram.quantile(0.5), histogram.quantile(0.95)
    if histogram.count == 0:
        assert (p50, p95, histogram.within(one)) == (None, None, None)
        return
    assert p50 is not None
    assert p95 is not None
    assert 0 <= p50 <= p95 <= histogram.bounds[-1]
    tight, loose = histogram.within(min(one, other)), histogram.within(max(one, other))
    assert tight is not None
    assert loose is not None
    assert 0 <= tight <= loose + 1e-12 <= 1 + 2e-12


@given(histograms, histograms)
def test_pods_with_other_bounds_are_merged_without_loss(one: Histogram, other: Histogram) -> None:
    """Below every bound the merged histogram has what the two have."""
    both = merged([one, other])
    assert both is not None
    assert both.count == pytest.approx(one.count + other.count)
    for bound in both.bounds:
        assert both.below(bound) == pytest.approx(one.below(bound) + other.below(bound), abs=1e-6)


@given(bounds, counts, counts)
def test_growth_is_never_negative(
    edges: tuple[float, ...], before: list[int], after: list[int]
) -> None:
    """Between any two pages no bucket grows by less than zero, whether a counter was reset or not."""
    grown = Histogram(edges, array("d", after)).grown_from(Histogram(edges, array("d", before)))
    assert grown is None or min(grown.counts) >= 0


def test_a_window_has_what_came_within_it() -> None:
    """Growth counts, a restart begins anew, and what is older than the window leaves it."""
    idle = replace(page_of(VLLM), finished=0, ttft=(0, 0), itl=(0, 0))
    edges = (0.1, 1.0)

    def page(fast: float, slow: float) -> PodMetrics:
        histogram = Histogram(edges, array("d", [fast, slow, 0]))
        number = fast + slow
        return replace(idle, finished=number, ttft=(number / 9, number), ttft_buckets=histogram)

    assert window_of(page(50, 50), page(50, 51), page(53, 51)).ttft.histogram == Histogram(
        edges, array("d", [3, 1, 0])
    )
    # After a restart, 2 and 1 requests.
    assert window_of(page(50, 50), page(2, 1)).ttft.histogram == Histogram(
        edges, array("d", [2, 1, 0])
    )
    assert window_of(*[page(9 + n, 5) for n in range(7)]).ttft.histogram == Histogram(
        edges, array("d", [4, 0, 0])
    )
    # A page of Prometheus in between has counters alone.
    without = replace(page(60, 50), ttft_buckets=None)
    part = window_of(page(50, 50), without, page(70, 50), page(80, 50)).ttft
    assert part.counted == 30
    assert part.covered == pytest.approx(1 / 3)
    assert window_of(page(50, 50), without).ttft.quantile_ms(0.5) is None


def test_tokens_of_speculative_steps_share_their_gap() -> None:
    """With two tokens per step of 40 ms a token takes 20 ms, as in the mean."""
    start = replace(page_of(VLLM), itl=(0.0, 0.0), ttft=(0.0, 0.0), generated=0.0, finished=0.0)
    edges = (0.04, 1.0)
    before = replace(start, itl_buckets=Histogram(edges, array("d", [0, 0, 0])))
    after = replace(
        start,
        itl=(4.0, 100.0),
        generated=200.0,
        itl_buckets=Histogram(edges, array("d", [50, 50, 0])),
    )
    traffic = window_of(before, after)
    assert traffic.itl_ms == pytest.approx(20)
    assert traffic.itl.quantile_ms(0.5) == pytest.approx(20)
    assert traffic.itl.within(20) == pytest.approx(0.5)


def test_emulated_latencies_are_in_their_buckets() -> None:
    """A server whose first tokens take 26 ms and later ones 21 ms shows so, in vLLM's buckets."""
    profile = EngineProfile(alpha_ms=20.0, beta_ms=1.0, gamma_ms=16.0, delta_ms=0.1, max_batch=4)
    pages: list[str] = []

    async def main() -> None:
        backend = ProfileBackend(model=MODEL, profile=profile, speed=1.0)
        task = asyncio.create_task(backend.run())
        pages.append(backend.page().decode())
        for _ in range(20):
            backend.submit(input_tokens=100, output_tokens=10)
            await asyncio.sleep(1)
        pages.append(backend.page().decode())
        task.cancel()

    virtual_time.run(main())
    traffic = window_of(*(exposition.parse(text, MODEL, "http://pod") for text in pages))
    assert traffic.ttft_ms == pytest.approx(26)
    assert traffic.itl_ms == pytest.approx(21)
    assert (traffic.ttft.counted, traffic.itl.counted) == (20, 180)
    assert (traffic.ttft.covered, traffic.itl.covered) == (1, 1)
    for latency, low, high in ((traffic.ttft, 20, 40), (traffic.itl, 10, 25)):
        p50, p95 = latency.quantile_ms(0.5), latency.quantile_ms(0.95)
        assert p50 is not None
        assert p95 is not None
        assert low < p50 < p95 <= high
        assert (latency.within(low), latency.within(high)) == (0, 1)


@pytest.mark.parametrize("name", ["time_to_first_token_seconds", "inter_token_latency_seconds"])
def test_an_emulated_server_has_the_bounds_of_vllm(name: str) -> None:
    """The profile's engine shows the buckets that a recorded page of vLLM 0.33 has."""

    def bounds_of(text: str) -> set[float]:
        return {float(le) for le in re.findall(rf'vllm:{name}_bucket\{{.*le="([^"]+)"', text)}

    profile = EngineProfile(alpha_ms=20.0, beta_ms=1.0, gamma_ms=16.0, delta_ms=0.1, max_batch=4)
    backend = ProfileBackend(model=MODEL, profile=profile, speed=1.0)
    assert bounds_of(backend.page().decode()) == bounds_of((PAGES / VLLM).read_text())


@pytest.mark.parametrize(
    ("measured", "origin", "expected"),
    [
        (Distribution(), "direct", "nothing was measured"),
        (Distribution(9), "direct", "the pods show no buckets"),
        (Distribution(9), "prometheus", "Prometheus, which gave no buckets of them"),
        (Distribution(9, Histogram((1.0,), array("d", [3, 0]))), "direct", "of 33% of them"),
    ],
)
def test_why_there_are_no_percentiles_is_said(
    measured: Distribution, origin: str, expected: str
) -> None:
    """What is missing has its reason, and numbers that are of a part say of which."""
    traffic = replace(NO_TRAFFIC, ttft=measured)
    ttft = latencies.document(traffic, fleet.Targets(ttft_ms=500.0), origin)["ttft"]
    assert expected in ttft["problem"]
    known = measured.histogram is not None
    assert (ttft["p50Milliseconds"] is not None, ttft["withinTarget"] is not None) == (
        known,
        known,
    )
