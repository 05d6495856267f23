"""Engines of one data-parallel server, which shows all of them on one page: whether one of them hangs.

The numbers of the server go on while one of its engines stands still, so each engine is compared by itself.
vLLM labels the series of each by `engine`, SGLang by `dp_rank`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
_TOKENS = frozenset({"vllm:generation_tokens_total", "vllm:inter_token_latency_seconds_count"})
"""Counters of which one moves while an engine generates; without them a long request looks like none."""

NUMBERS = frozenset({RUNNING, WAITING, *_TOKENS, "vllm:prompt_tokens_total"})
"""Series that Prometheus is queried for by engine, beside the share of the KV cache: any work moves one."""

ENGINE = "engine"
"""Label of an engine."""

_RANK = "dp_rank"
"""The same of SGLang: several processes of a rank may show its gauges; those with `priority` are parts."""
_THROUGHPUT = "sglang:gen_throughput"
"""Gauge of SGLang that is another number every time while a rank generates; its counters have no rank."""
SGLANG_QUEUES = (
    "sglang:num_prefill_bootstrap_queue_reqs",
    "sglang:num_prefill_prealloc_queue_reqs",
    "sglang:num_decode_prealloc_queue_reqs",
    "sglang:num_decode_transfer_queue_reqs",
    "sglang:num_grammar_queue_reqs",
)
"""Queues of SGLang beside the one that every page has: of servers that only prefill (older versions have the
first by its second name) or only decode, and of requests whose grammar is not compiled yet. A request is in
one of them at a time."""
_QUEUES = frozenset({"sglang:num_queue_reqs", *SGLANG_QUEUES})

HUNG = (
    "engine {name} of this server stands still with {number:.0f} requests in service: it does not answer, or"
    " keeps requests whose clients went away; restart the pod"
)

Sample = tuple[str, Mapping[str, str], float]
"""Name, labels and value."""


class Rank(NamedTuple):
    """One engine of several on a page.

    Attributes:
        name: its label.
        running: requests in service.
        waiting: requests in its queue.
        numbers: all that is read of it.

    """

    name: str
    running: float
    waiting: float
    numbers: tuple[float, ...]


def of_samples(samples: Collection[Sample]) -> tuple[Rank, ...]:
    """Engines of a page that has several, and counts the tokens of each; none otherwise."""
    if len({labels.get(_RANK, "") for _, labels, _ in samples} - {""}) > 1:
        return _of_sglang(samples)
    if len({labels.get(ENGINE, "") for _, labels, _ in samples} - {""}) < 2:
        return ()
    by_name: dict[str, dict[str, float]] = {}
    for name, labels, value in samples:
        own = by_name.setdefault(labels.get(ENGINE, ""), {})
        own[name] = own.get(name, 0.0) + value
    by_name.pop("", None)
    return tuple(
        Rank(name, own.get(RUNNING, 0.0), own.get(WAITING, 0.0), tuple(own.values()))
        for name, own in by_name.items()
        if own.keys() & _TOKENS
    )


def _of_sglang(samples: Iterable[Sample]) -> tuple[Rank, ...]:
    """Ranks of a page of SGLang."""
    by_name: dict[str, dict[str, float]] = {}
    for name, labels, value in samples:
        rank = labels.get(_RANK, "")
        # A rate that is no number is none of two pages that can be compared.
        known = rank and not labels.get("priority") and not math.isnan(value)
        if known and name.startswith("sglang:"):
            own = by_name.setdefault(rank, {})
            own[name] = max(own.get(name, value), value)
    return tuple(
        Rank(
            rank,
            own.get("sglang:num_running_reqs", 0.0),
            sum(value for name, value in own.items() if name in _QUEUES),
            tuple(own.values()),
        )
        for rank, own in by_name.items()
        if _THROUGHPUT in own
    )


@dataclass(slots=True)
class Standing:
    """How long engines of an address have stood still with requests in service: pages, and since when."""

    _still: dict[str, tuple[int, float]] = field(default_factory=dict)

    def hung(
        self,
        before: Iterable[Rank],
        after: Iterable[Rank],
        *,
        now: float,
        last: float,
        pages: int,
        seconds: float,
    ) -> list[Rank]:
        """Engines that hang: with work, and without movement over that many pages and seconds.

        Args:
            before: engines of the page before.
            after: engines of this page.
            now: monotonic seconds of this page.
            last: monotonic seconds of the page before.
            pages: pages without movement.
            seconds: time without movement.

        """
        known = {rank.name: rank for rank in before}
        hung = []
        still = {}  # of the engines of this page alone: a page may show others each time
        for rank in after:
            if known.get(rank.name) != rank or rank.running + rank.waiting <= 0:
                continue
            count, since = self._still.get(rank.name, (0, last))
            still[rank.name] = (count + 1, since)
            if count + 1 >= pages and now - since >= seconds:
                hung.append(rank)
        self._still = still
        return hung
