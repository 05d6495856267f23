"""Model servers by the names of their metrics: vLLM of both architectures, and SGLang.

A quantity has had several names; the first one that a server has counts, because some versions show
both. The same table reads a page and writes the PromQL, so that both sources see the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

Pair = tuple[float, float]
"""Sum and count."""

LARGEST = 1e15
"""Of any count: beyond it a number is no measurement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What one pod reports; sums over its engines. Counters only ever grow until a restart.

    Attributes:
        finished: requests that ended. vLLM does not count those whose clients went away.
        running: requests in service, those in prefill included.
        waiting: requests in the queue.
        prompt_tokens: sum and count of input tokens of finished requests; likewise the others
            (`ttft` and `itl` sums in seconds).
        kv_cache: share of the KV cache in use, of the fullest engine; None where it is not reported.
        started_at: when the process began, Unix seconds; None where it is not reported.

    """

    finished: float
    running: float
    waiting: float
    prompt_tokens: Pair
    generation_tokens: Pair
    ttft: Pair
    itl: Pair
    kv_cache: float | None = None
    started_at: float | None = None

    @property
    def stock(self) -> float:
        """Requests that are there."""
        return self.running + self.waiting


@dataclass(frozen=True, slots=True)
class Quantity:
    """One number of a page.

    Attributes:
        names: series of one pod, the newest name first; several in one entry are added up.
        fold: how engines of one pod are joined.

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
"""A page without them is none of a model server."""

PREFIXES = ("vllm:", "sglang:")
LARGEST_OF = frozenset(
    name
    for quantity in QUANTITIES
    if quantity.fold == "max"
    for names in quantity.names
    for name in names
)
"""Series of which the largest of a pod's counts."""

SERIES = frozenset(name for quantity in QUANTITIES for names in quantity.names for name in names)
"""Every series that is read."""


class ImplausibleError(ValueError):
    """A number that cannot be a measurement."""


def page(totals: Mapping[str, float], *, started_at: float | None = None) -> Page:
    """The numbers of one pod, from its quantities.

    Args:
        totals: by the names of `QUANTITIES`; a counter that nothing has been counted on may be missing.
        started_at: Unix seconds.

    Raises:
        ImplausibleError: a stock is missing, or a number is none.

    """
    for name in STOCKS:
        if name not in totals:
            raise ImplausibleError(f"the number of {name} requests is missing")
    for name, value in totals.items():
        if not (math.isfinite(value) and 0 <= value <= LARGEST):
            raise ImplausibleError(f"{name} is {value:g}")

    def pair(name: str) -> Pair:
        return totals.get(f"{name}_sum", 0.0), totals.get(f"{name}_count", 0.0)

    kv_cache = totals.get("kv_cache")
    return Page(
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
    found: dict[str, list[float]] = {}
    ranks: dict[tuple[str, str], float] = {}
    for name, labels, value in samples:
        if name not in RANKED:
            found.setdefault(name, []).append(value)
        elif not labels.get("priority"):
            place = (name, labels.get("dp_rank", ""))
            ranks[place] = max(ranks.get(place, value), value)
    for (name, _), value in ranks.items():
        found.setdefault(name, []).append(value)
    return found


def quantities(series: Mapping[str, list[float]]) -> Iterator[tuple[str, float]]:
    """Quantities of one pod from its series, whose values are those of its engines."""
    for quantity in QUANTITIES:
        for names in quantity.names:
            if all(name in series for name in names):
                all_ = [value for name in names for value in series[name]]
                yield quantity.name, max(all_) if quantity.fold == "max" else math.fsum(all_)
                break
