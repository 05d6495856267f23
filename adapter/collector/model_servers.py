"""Model servers by the names of their metrics: vLLM of both architectures, and SGLang.

A quantity has had several names; the first one that a server has counts, because some versions show
both. The same table reads the text of a pod and writes the PromQL, so that both sources see the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from adapter.collector.servers import lora
from adapter.collector.servers import totals as checked
from adapter.collector.servers.histogram import Histogram
from adapter.collector.servers.ranks import SGLANG_QUEUES, Rank
from adapter.collector.servers.totals import Moments

SumCount = tuple[float, float]
"""Sum and count of a histogram or summary."""

MOST_SHARE = 1.1
"""Largest share of a KV cache that may be rounding; more is another unit, and says nothing."""

IDLE_SECONDS = 40.0
"""SGLang sets its gauges every 40 steps, and every 30 s while it is idle: until then they are of the last
steps, with requests in service that have ended."""

_DIGITS = 15
"""Most digits of a plausible number of tokens or blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodMetrics:
    """Metrics of one pod, summed over its engines. Counters grow until a restart.

    Attributes:
        finished: Requests that finished. vLLM does not count those whose clients went away.
        running: Requests in service, those in prefill included.
        waiting: Requests in the queue.
        prompt_tokens: Sum and count of input tokens of finished requests.
        generation_tokens: Sum and count of output tokens of finished requests.
        ttft: Sum (seconds) and count of times to first token.
        itl: Sum (seconds) and count of inter-token latencies.
        kv_cache: Share of the KV cache in use, of the fullest engine; None where it is not reported.
        input_moments: Moments of the input tokens of finished requests; None without a histogram.
        output_moments: Moments of their output tokens; None without a histogram.
        cached_tokens: Prompt tokens that the prefix cache served, and prompt tokens in all; both 0 where
            they are not reported.
        generated: Tokens generated, first ones included; None where it is not reported, or tokens have a gap
            each in `itl`. With speculative decoding a gap is of a step, which gives several tokens.
        preemptions: Requests that were preempted because the KV cache was full; None where it is not
            reported.
        kv_tokens: Tokens that the KV caches of the pod's engines hold; None where it is not reported.
        rejected: Requests that admission limits turned away; None where they are not reported.
        started_at: When the process started, Unix seconds; None where it is not reported.
        ttft_buckets: Histogram of times to first token; None without one, and from Prometheus.
        itl_buckets: Histogram of inter-token latencies; likewise.
        ranks: Its engines where it has several and shows each.
        idle_seconds: Seconds for which gauges may be those of requests that ended, while it is idle.
        adapters_waiting: LoRA adapters whose requests wait while others have all slots.

    """

    finished: float
    running: float
    waiting: float
    prompt_tokens: SumCount
    generation_tokens: SumCount
    ttft: SumCount
    itl: SumCount
    kv_cache: float | None = None
    input_moments: Moments | None = None
    output_moments: Moments | None = None
    cached_tokens: SumCount = (0.0, 0.0)
    generated: float | None = None
    preemptions: float | None = None
    kv_tokens: float | None = None
    rejected: float | None = None
    started_at: float | None = None
    ttft_buckets: Histogram | None = None
    itl_buckets: Histogram | None = None
    tpot_buckets: Histogram | None = None
    ranks: tuple[Rank, ...] = field(default=(), compare=False)
    idle_seconds: float = 0.0
    adapters_waiting: float = 0.0

    @property
    def stock(self) -> float:
        """Requests in service and in the queue."""
        return self.running + self.waiting


@dataclass(frozen=True, slots=True)
class Quantity:
    """One number of a pod.

    Attributes:
        name: Name of the quantity.
        names: Names of its series, the newest first; several in one entry are added up.
        fold: How values of a pod's engines are combined: `sum` or `max`.
        optional: Series of an entry that count where they are shown, and need not be.

    """

    name: str
    names: tuple[tuple[str, ...], ...]
    fold: str = "sum"
    optional: frozenset[str] = frozenset()


def _histogram(name: str, *bases: str) -> tuple[Quantity, Quantity]:
    return (
        Quantity(f"{name}_sum", tuple((f"{base}_sum",) for base in bases)),
        Quantity(f"{name}_count", tuple((f"{base}_count",) for base in bases)),
    )


_SGLANG_FINISHED = (("sglang:num_requests_total",), ("sglang:e2e_request_latency_seconds_count",))
_FINISHED = (
    ("vllm:request_success_total",),
    # Relabelling or a client of its own may drop the counter; each of these has one sample a request.
    ("vllm:e2e_request_latency_seconds_count",),
    ("vllm:request_generation_tokens_count",),
    *_SGLANG_FINISHED,
)
_PROMPT = _histogram("prompt_tokens", "vllm:request_prompt_tokens")
_GENERATION = _histogram("generation_tokens", "vllm:request_generation_tokens")

QUANTITIES = (
    Quantity("finished", _FINISHED),
    # What was swapped out had begun: it is in service, and not in one of the other two.
    Quantity(
        "running",
        (
            ("vllm:num_requests_running", "vllm:num_requests_swapped"),
            ("vllm:num_requests_running",),
            ("sglang:num_running_reqs",),
        ),
    ),
    Quantity(
        "waiting",
        (
            ("vllm:num_requests_waiting",),
            ("vllm:num_requests_waiting_by_reason",),
            ("sglang:num_queue_reqs", *SGLANG_QUEUES),
        ),
        optional=frozenset(SGLANG_QUEUES),
    ),
    # SGLang counts tokens when a request finishes, all together, and its latency: a count of its own.
    Quantity("prompt_tokens_sum", (*_PROMPT[0].names, ("sglang:prompt_tokens_total",))),
    Quantity("prompt_tokens_count", (*_PROMPT[1].names, *_SGLANG_FINISHED[::-1])),
    Quantity("generation_tokens_sum", (*_GENERATION[0].names, ("sglang:generation_tokens_total",))),
    Quantity("generation_tokens_count", (*_GENERATION[1].names, *_SGLANG_FINISHED[::-1])),
    *_histogram("ttft", "vllm:time_to_first_token_seconds", "sglang:time_to_first_token_seconds"),
    *_histogram(
        "itl",
        "vllm:inter_token_latency_seconds",
        "vllm:time_per_output_token_seconds",
        "sglang:inter_token_latency_seconds",
        "sglang:time_per_output_token_seconds",
    ),
    Quantity(
        "kv_cache",
        (("vllm:kv_cache_usage_perc",), ("vllm:gpu_cache_usage_perc",), ("sglang:token_usage",)),
        fold="max",
    ),
)

CACHE_CONFIG = "vllm:cache_config_info"
"""Size of the KV cache of one engine, in labels. It has no label `model_name`."""
CACHE_CONFIG_LABELS = ("engine", "num_gpu_blocks", "block_size", "kv_cache_size_tokens")
INFOS = frozenset({CACHE_CONFIG, lora.SERIES})
"""Series whose labels are what they say; they have no label `model_name`."""

ENGINE_QUANTITIES = (
    Quantity("generated", (("vllm:generation_tokens_total",),)),
    # A step that verifies a draft gives its accepted tokens and one more.
    Quantity(
        "verified",
        (
            (
                "vllm:spec_decode_num_drafts_total",
                "vllm:spec_decode_num_accepted_tokens_total",
            ),
        ),
    ),
    Quantity("preemptions", (("vllm:num_preemptions_total",), ("sglang:num_retractions_sum",))),
    Quantity("kv_tokens", ((CACHE_CONFIG,), ("sglang:max_total_num_tokens",))),
    # Only an engine has it, which SGLang's router is not.
    Quantity("throughput", (("sglang:gen_throughput",),), fold="max"),
    Quantity("rejected", (("vllm:admission_rejections_total",),)),
    Quantity("adapters_waiting", ((lora.SERIES,),)),
)
"""Numbers of engines that sizing uses where there are some."""

CACHED_OF_PROMPTS = (
    ("vllm:prompt_tokens_cached_total", "vllm:prompt_tokens_total"),
    ("vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total"),
    # In blocks, both: only their quotient is used.
    ("vllm:gpu_prefix_cache_hits_total", "vllm:gpu_prefix_cache_queries_total"),
    ("sglang:cached_tokens_total", "sglang:prompt_tokens_total"),
)
"""Prompt tokens that the prefix cache served, with the prompt tokens that they are part of; newest first."""

INPUT_BUCKETS = ("vllm:request_prompt_tokens_bucket", "sglang:prompt_tokens_histogram_bucket")
OUTPUT_BUCKETS = (
    "vllm:request_generation_tokens_bucket",
    "sglang:generation_tokens_histogram_bucket",
)
BUCKETS = frozenset({*INPUT_BUCKETS, *OUTPUT_BUCKETS})
"""Buckets that are read from pods, and from Prometheus once in several minutes: some 40 series per pod."""

TTFT_BUCKETS = (
    "vllm:time_to_first_token_seconds_bucket",
    "sglang:time_to_first_token_seconds_bucket",
)
ITL_BUCKETS = (
    "vllm:inter_token_latency_seconds_bucket",
    "vllm:time_per_output_token_seconds_bucket",
    "sglang:inter_token_latency_seconds_bucket",
    "sglang:time_per_output_token_seconds_bucket",
)
TPOT_BUCKETS = ("vllm:request_time_per_output_token_seconds_bucket",)  # whole requests, pods alone
LATENCY_BUCKETS = frozenset({*TTFT_BUCKETS, *ITL_BUCKETS})
"""Buckets of latencies, for attainment and no load; Prometheus is queried for them once a minute."""

RANKED = frozenset(
    {
        "sglang:num_running_reqs",
        "sglang:num_queue_reqs",
        *SGLANG_QUEUES,
        "sglang:max_total_num_tokens",
        "sglang:gen_throughput",
    }
)
"""Series that every rank of one data-parallel replica may show: of those with one `dp_rank` the largest
counts. Those with a `priority` are parts of the one without."""

STARTED = "process_start_time_seconds"
STOCKS = checked.STOCKS

STOCK_SERIES = frozenset(
    name
    for quantity in QUANTITIES
    if quantity.name in STOCKS
    for names in quantity.names
    for name in names
)
"""Series of the requests that run and wait."""

PREFIXES = ("vllm:", "sglang:")
LARGEST_OF = frozenset(
    name
    for quantity in QUANTITIES
    if quantity.fold == "max"
    for names in quantity.names
    for name in names
)
"""Series whose largest value in a pod counts."""

SERIES = frozenset(
    {
        *(
            name
            for quantity in (*QUANTITIES, *ENGINE_QUANTITIES)
            for names in quantity.names
            for name in names
        ),
        *(name for pair in CACHED_OF_PROMPTS for name in pair),
    }
    - INFOS
)
"""Names of all series that are read by their values."""


def pod_metrics(
    totals: Mapping[str, float],
    *,
    started_at: float | None = None,
    input_moments: Moments | None = None,
    output_moments: Moments | None = None,
    ttft_buckets: Histogram | None = None,
    itl_buckets: Histogram | None = None,
    tpot_buckets: Histogram | None = None,
    ranks: tuple[Rank, ...] = (),
) -> PodMetrics:
    """Metrics of one pod, from its quantities.

    Args:
        totals: Values by the names that `quantities` gives; a counter that is still zero may be missing.
        started_at: When the process started, Unix seconds.
        input_moments: Moments of input lengths, where there is a histogram of them.
        output_moments: Moments of output lengths, likewise.
        ttft_buckets: Histogram of times to first token, likewise.
        itl_buckets: Histogram of inter-token latencies, likewise.
        tpot_buckets: Histogram of the mean inter-token latencies of requests, likewise.
        ranks: Its engines, where it shows several.

    Raises:
        ImplausibleError: A stock is missing, or a value is no measurement.

    """
    totals = checked.completed(totals)
    kv_cache, generated = totals.get("kv_cache"), totals.get("generated")
    if generated is None and "verified" in totals:
        generated = totals["verified"] + _pair(totals, "ttft")[1]
    return PodMetrics(
        finished=totals.get("finished", 0.0),
        running=totals["running"],
        waiting=totals["waiting"],
        prompt_tokens=_pair(totals, "prompt_tokens"),
        generation_tokens=_pair(totals, "generation_tokens"),
        ttft=_pair(totals, "ttft"),
        itl=_pair(totals, "itl"),
        kv_cache=None if kv_cache is None or kv_cache > MOST_SHARE else min(kv_cache, 1.0),
        input_moments=input_moments,
        output_moments=output_moments,
        cached_tokens=_pair(totals, "cached"),
        generated=generated,
        preemptions=totals.get("preemptions"),
        kv_tokens=totals.get("kv_tokens") or None,
        rejected=totals.get("rejected"),
        started_at=checked.start(started_at),
        ttft_buckets=ttft_buckets,
        itl_buckets=itl_buckets,
        tpot_buckets=tpot_buckets,
        ranks=ranks,
        idle_seconds=IDLE_SECONDS if "throughput" in totals else 0.0,
        adapters_waiting=totals.get("adapters_waiting", 0.0),
    )


def _pair(totals: Mapping[str, float], name: str) -> SumCount:
    # One of the two alone gives a mean of zero, or none where there is one.
    known = f"{name}_sum" in totals and f"{name}_count" in totals
    return (totals[f"{name}_sum"], totals[f"{name}_count"]) if known else (0.0, 0.0)


Labels = Mapping[str, str]


def values(samples: Iterable[tuple[str, Labels, float]]) -> dict[str, list[float]]:
    """Values of the engines of one pod by series, from its samples."""
    series: dict[str, list[float]] = {}
    ranks: dict[tuple[str, str], float] = {}
    adapters: list[tuple[Labels, float]] = []
    for name, labels, value in samples:
        if name == CACHE_CONFIG:
            tokens = cache_tokens(labels)
            if tokens is not None:
                series.setdefault(name, []).append(tokens)
        elif name == lora.SERIES:
            adapters.append((labels, value))
        elif name not in RANKED:
            series.setdefault(name, []).append(value)
        elif not labels.get("priority"):
            rank = (name, labels.get("dp_rank", ""))
            ranks[rank] = max(ranks.get(rank, value), value)
    for (name, _), value in ranks.items():
        series.setdefault(name, []).append(value)
    if adapters:
        series[lora.SERIES] = [lora.waiting(adapters)]
    return series


def quantities(series: Mapping[str, list[float]]) -> Iterator[tuple[str, float]]:
    """Quantities of one pod from its series, whose values are those of its engines."""
    for quantity in (*QUANTITIES, *ENGINE_QUANTITIES):
        for names in quantity.names:
            if all(name in series or name in quantity.optional for name in names):
                engines = [value for name in names for value in series.get(name, ())]
                total = max(engines) if quantity.fold == "max" else math.fsum(engines)
                yield quantity.name, total
                break
    for cached, prompts in CACHED_OF_PROMPTS:
        if cached in series and prompts in series:
            yield "cached_sum", math.fsum(series[cached])
            yield "cached_count", math.fsum(series[prompts])
            break


def cache_tokens(labels: Labels) -> float | None:
    """Tokens that the KV cache of one engine holds, by its `cache_config_info`; None where unknown."""
    # Newer versions report it: with layers of several kinds it is not blocks times their size.
    size = labels.get("kv_cache_size_tokens", "")
    blocks, block = labels.get("num_gpu_blocks", ""), labels.get("block_size", "")
    return _tokens(size) or _tokens(blocks) * _tokens(block) or None


def _tokens(text: str) -> float:
    """A number of tokens or blocks in a label; 0 for what is none."""
    return float(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS else 0.0
