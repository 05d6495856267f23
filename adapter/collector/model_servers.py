"""Model servers by the names of their metrics: vLLM of both architectures, and SGLang.

A quantity has had several names; the first one that a server has counts, because some versions show
both. The same table reads the text of a pod and writes the PromQL, so that both sources see the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

SumCount = tuple[float, float]
"""Sum and count of a histogram or summary."""

LARGEST = 1e15
"""Largest plausible value; beyond it a number is no measurement."""


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
        started_at: When the process started, Unix seconds; None where it is not reported.

    """

    finished: float
    running: float
    waiting: float
    prompt_tokens: SumCount
    generation_tokens: SumCount
    ttft: SumCount
    itl: SumCount
    kv_cache: float | None = None
    started_at: float | None = None

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

    """

    name: str
    names: tuple[tuple[str, ...], ...]
    fold: str = "sum"


def _histogram(name: str, *bases: str) -> tuple[Quantity, Quantity]:
    return (
        Quantity(f"{name}_sum", tuple((f"{base}_sum",) for base in bases)),
        Quantity(f"{name}_count", tuple((f"{base}_count",) for base in bases)),
    )


_FINISHED = (
    ("vllm:request_success_total",),
    ("sglang:num_requests_total",),
    ("sglang:e2e_request_latency_seconds_count",),
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
    Quantity("waiting", (("vllm:num_requests_waiting",), ("sglang:num_queue_reqs",))),
    # SGLang counts tokens when a request finishes, all together: per finished request they are the mean.
    Quantity("prompt_tokens_sum", (*_PROMPT[0].names, ("sglang:prompt_tokens_total",))),
    Quantity("prompt_tokens_count", (*_PROMPT[1].names, *_FINISHED[1:])),
    Quantity("generation_tokens_sum", (*_GENERATION[0].names, ("sglang:generation_tokens_total",))),
    Quantity("generation_tokens_count", (*_GENERATION[1].names, *_FINISHED[1:])),
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

RANKED = frozenset({"sglang:num_running_reqs", "sglang:num_queue_reqs"})
"""Series that every rank of one data-parallel replica may show: of those with one `dp_rank` the largest
counts. Those with a `priority` are parts of the one without."""

STARTED = "process_start_time_seconds"
STOCKS = ("running", "waiting")
"""Quantities that every model server reports."""

PREFIXES = ("vllm:", "sglang:")
LARGEST_OF = frozenset(
    name
    for quantity in QUANTITIES
    if quantity.fold == "max"
    for names in quantity.names
    for name in names
)
"""Series whose largest value in a pod counts."""

SERIES = frozenset(name for quantity in QUANTITIES for names in quantity.names for name in names)
"""Names of all series that are read."""


class ImplausibleError(ValueError):
    """A number that cannot be a measurement."""


def pod_metrics(totals: Mapping[str, float], *, started_at: float | None = None) -> PodMetrics:
    """Metrics of one pod, from its quantities.

    Args:
        totals: Values by the names of `QUANTITIES`; a counter that is still zero may be missing.
        started_at: When the process started, Unix seconds.

    Raises:
        ImplausibleError: A stock is missing, or a value is no measurement.

    """
    for name in STOCKS:
        if name not in totals:
            raise ImplausibleError(f"the number of {name} requests is missing")
    for name, value in totals.items():
        if not (math.isfinite(value) and 0 <= value <= LARGEST):
            raise ImplausibleError(f"{name} is {value:g}")

    def pair(name: str) -> SumCount:
        return totals.get(f"{name}_sum", 0.0), totals.get(f"{name}_count", 0.0)

    kv_cache = totals.get("kv_cache")
    return PodMetrics(
        finished=totals.get("finished", 0.0),
        running=totals["running"],
        waiting=totals["waiting"],
        prompt_tokens=pair("prompt_tokens"),
        generation_tokens=pair("generation_tokens"),
        ttft=pair("ttft"),
        itl=pair("itl"),
        kv_cache=None if kv_cache is None else min(kv_cache, 1.0),
        started_at=started_at,
    )


Labels = Mapping[str, str]


def values(samples: Iterable[tuple[str, Labels, float]]) -> dict[str, list[float]]:
    """Values of the engines of one pod by series, from its samples."""
    series: dict[str, list[float]] = {}
    ranks: dict[tuple[str, str], float] = {}
    for name, labels, value in samples:
        if name not in RANKED:
            series.setdefault(name, []).append(value)
        elif not labels.get("priority"):
            rank = (name, labels.get("dp_rank", ""))
            ranks[rank] = max(ranks.get(rank, value), value)
    for (name, _), value in ranks.items():
        series.setdefault(name, []).append(value)
    return series


def quantities(series: Mapping[str, list[float]]) -> Iterator[tuple[str, float]]:
    """Quantities of one pod from its series, whose values are those of its engines."""
    for quantity in QUANTITIES:
        for names in quantity.names:
            if all(name in series for name in names):
                engines = [value for name in names for value in series[name]]
                total = max(engines) if quantity.fold == "max" else math.fsum(engines)
                yield quantity.name, total
                break
