"""Servers beside vLLM and SGLang: their series, as those of `model_servers` that mean the same.

Each has one small table, and a list of what it does not show. What a server does not show is not guessed: a
server without a count of its requests has no load that could be known from its page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from adapter.collector.model_servers import Labels

_RUNNING = "vllm:num_requests_running"
_WAITING = "vllm:num_requests_waiting"
_FINISHED = "vllm:request_success_total"
_REJECTED = "vllm:admission_rejections_total"
_KV_CACHE = "vllm:kv_cache_usage_perc"
_PROMPT = "vllm:request_prompt_tokens"
_GENERATION = "vllm:request_generation_tokens"
_TTFT = "vllm:time_to_first_token_seconds"
_KV_TOKENS = "sglang:max_total_num_tokens"
_ACTIVE, _BLOCKS, _BLOCK_TOKENS = "active", "blocks", "tokens per block"
"""What is not shown itself and follows from two others."""

NO_REQUESTS = "a count of requests"
"""What a server without makes its load unknown."""


@dataclass(frozen=True, slots=True)
class Series:
    """One series of a server.

    Attributes:
        means: Name in `model_servers` of the series that has the same meaning.
        label: Label that selects it; empty where all of its samples count.
        value: Value of that label.
        factor: Factor to the unit of that name.

    """

    means: str
    label: str = ""
    value: str = ""
    factor: float = 1.0

    def counts(self, labels: Labels) -> bool:
        """Whether a sample with these labels is of the series."""
        return not self.label or labels.get(self.label) == self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One kind of server.

    Attributes:
        name: Name for messages.
        series: Its series by name; of one name several, which a label distinguishes.
        lacks: What its page does not have, for messages; empty if nothing.
        timed: A gauge that every page has, whose time of scrape is that of the page.
        models_by: Series whose label `model` names the engines; those of other parts of the server, such as
            an ensemble's, count the same requests again.
        marks: Series that a page with a prefix has if it is of this server; empty where each name tells.

    """

    name: str
    series: Mapping[str, tuple[Series, ...]]
    timed: str
    lacks: tuple[str, ...] = ()
    models_by: str = ""
    marks: frozenset[str] = frozenset()


def _histogram(name: str, means: str, *, buckets: bool = False) -> dict[str, tuple[Series, ...]]:
    parts = ("sum", "count", "bucket") if buckets else ("sum", "count")
    return {f"{name}_{part}": (Series(f"{means}_{part}"),) for part in parts}


def _in_ms(name: str, means: str) -> dict[str, tuple[Series, ...]]:
    """A histogram in milliseconds as one in seconds."""
    return {
        f"{name}_sum": (Series(f"{means}_sum", factor=1e-3),),
        f"{name}_count": (Series(f"{means}_count"),),
    }


TGI = Engine(
    name="TGI",
    series={
        "tgi_request_success": (Series(_FINISHED),),
        "tgi_request_success_total": (Series(_FINISHED),),
        "tgi_request_failure": (Series(_REJECTED, "err", "overloaded"),),
        "tgi_batch_current_size": (Series(_RUNNING),),
        "tgi_queue_size": (Series(_WAITING),),
        **_histogram("tgi_request_input_length", _PROMPT, buckets=True),
        **_histogram("tgi_request_generated_tokens", _GENERATION, buckets=True),
    },
    timed="tgi_queue_size",
    lacks=(
        "time to first token",
        "inter-token latencies",
        "use and size of the KV cache",
        "model name",
    ),
)

TRITON = Engine(
    name="Triton with TensorRT-LLM",
    series={
        "nv_inference_request_success": (Series(_FINISHED),),
        # Turned away as its queue is full; other failures are no load.
        "nv_inference_request_failure": (Series(_REJECTED, "reason", "REJECTED"),),
        "nv_trt_llm_request_metrics": (
            Series(_RUNNING, "request_type", "scheduled"),
            Series(_WAITING, "request_type", "waiting"),
            Series(_ACTIVE, "request_type", "active"),
        ),
        "nv_trt_llm_kv_cache_block_metrics": (
            Series(_KV_CACHE, "kv_cache_block_type", "fraction"),
            Series(_BLOCKS, "kv_cache_block_type", "max"),
            Series(_BLOCK_TOKENS, "kv_cache_block_type", "tokens_per"),
        ),
        **_histogram("nv_llm_input_token_len", _PROMPT, buckets=True),
        **_histogram("nv_llm_output_token_len", _GENERATION, buckets=True),
        **_in_ms("nv_inference_first_response_histogram_ms", _TTFT),
    },
    timed="nv_trt_llm_request_metrics",
    lacks=("inter-token latencies", "served model name"),
    models_by="nv_trt_llm_request_metrics",
)

TRTLLM = Engine(
    name="trtllm-serve",
    series={
        f"trtllm{separator}{name}": series
        for separator in ("_", ":")
        for name, series in {
            # Tokens are counted when a request ends, all together: per request they are the mean.
            "request_success_total": (
                Series(_FINISHED),
                Series(f"{_PROMPT}_count"),
                Series(f"{_GENERATION}_count"),
            ),
            "prompt_tokens_total": (Series(f"{_PROMPT}_sum"),),
            "generation_tokens_total": (Series(f"{_GENERATION}_sum"),),
            "num_requests_running": (Series(_RUNNING),),
            "num_requests_waiting": (Series(_WAITING),),
            "kv_cache_utilization": (Series(_KV_CACHE),),
            "kv_cache_max_blocks": (Series(_BLOCKS),),
            "kv_cache_tokens_per_block": (Series(_BLOCK_TOKENS),),
            **_histogram("time_to_first_token_seconds", _TTFT, buckets=True),
        }.items()
    },
    timed="trtllm_num_requests_running",
    lacks=(
        "inter-token latencies",
        "lengths of requests and size of the KV cache in older versions",
    ),
)

LLAMA_CPP = Engine(
    name="llama.cpp's server",
    series={
        f"llamacpp{separator}{name}": series
        for separator in (":", "_")
        for name, series in {
            "requests_processing": (Series(_RUNNING),),
            "requests_deferred": (Series(_WAITING),),
            "kv_cache_usage_ratio": (Series(_KV_CACHE),),
        }.items()
    },
    timed="llamacpp:requests_processing",
    lacks=(NO_REQUESTS, "time to first token", "inter-token latencies", "lengths of requests"),
)

NIM = Engine(
    name="NIM",
    series={
        "request_success_total": (Series(_FINISHED),),
        "num_requests_running": (Series(_RUNNING),),
        "num_requests_waiting": (Series(_WAITING),),
        "gpu_cache_usage_perc": (Series(_KV_CACHE),),
        **_histogram("request_prompt_tokens", _PROMPT, buckets=True),
        **_histogram("request_generation_tokens", _GENERATION, buckets=True),
        **_histogram("time_to_first_token_seconds", _TTFT, buckets=True),
        **_histogram(
            "time_per_output_token_seconds", "vllm:inter_token_latency_seconds", buckets=True
        ),
    },
    timed="num_requests_running",
    lacks=("size of the KV cache",),
    marks=frozenset(
        {
            "request_success_total",
            "num_requests_running",
            "num_requests_waiting",
            "time_to_first_token_seconds_count",
        }
    ),
)

DYNAMO = Engine(
    name="a Dynamo worker",
    series={
        # Counted when a request ends, which `requests_total` is not.
        "dynamo_component_request_duration_seconds_count": (
            Series(_FINISHED, "dynamo_endpoint", "generate"),
        ),
        "dynamo_component_inflight_requests": (Series(_RUNNING, "dynamo_endpoint", "generate"),),
    },
    timed="dynamo_component_inflight_requests",
    lacks=(
        "a queue of its own (its requests in flight have it)",
        "time to first token",
        "inter-token latencies",
        "lengths of requests",
    ),
)

ENGINES = (TGI, TRITON, TRTLLM, LLAMA_CPP, NIM, DYNAMO)
"""Servers beside vLLM and SGLang, in order of precedence where a page has series of several: engines behind
Dynamo show their own series beside Dynamo's, and their own count."""

_BY_NAME = {name: engine for engine in ENGINES for name in engine.series}
_TIMED = frozenset(
    name
    for engine in ENGINES
    for name in engine.series
    if name.replace(":", "_") == engine.timed.replace(":", "_")
)

LABELS = ("model", "request_type", "kv_cache_block_type", "dynamo_endpoint", "err", "reason")
"""Labels that distinguish samples of one series."""

Sample = tuple[str, Labels, float]
"""Name, labels and value."""


PREFIX = r"(?:[a-zA-Z0-9_:]*[_:])?"
"""What platforms put before all names of a server by relabelling, as a regular expression."""

_DOUBLED, _MARK = "__", "U__"
"""Underscore in names that Prometheus escaped, and the beginning of some of these."""

_WITH_COLON = ("llamacpp", "trtllm")
"""Servers in whose names a colon may follow what they begin with."""

_OTHERS = ("vllm", "sglang")
"""Servers whose names are no other server's, whatever stands before what the others have in common."""

_LONGEST_NAME = 512


class Spelled(NamedTuple):
    """A series of a server by the name that its table has for it.

    Attributes:
        name: Its name there.
        style: What all of a page's series have in common: a prefix, with a mark where names are escaped.

    """

    name: str
    style: str


def spelled(name: str) -> Spelled | None:
    """The series that a name stands for, under any prefix; None where it is none of the servers'."""
    return _spelled(name) if len(name) <= _LONGEST_NAME else None


@lru_cache(maxsize=8192)
def _spelled(name: str) -> Spelled | None:
    if any(other in name for other in _OTHERS):
        return None
    escaped = _DOUBLED in name
    plain = name
    if escaped:
        plain = name.removeprefix(_MARK).replace(_DOUBLED, "_").replace("_3a_", ":")
    ends = (at + 1 for at, character in enumerate(plain) if character in "_:")
    start = next((at for at in (0, *ends) if plain[at:] in _BY_NAME), None)
    if start is None:
        return None
    return Spelled(plain[start:], f"{_MARK if escaped else ''}{plain[:start]}")


def reads(name: str) -> bool:
    """Whether it is a series of one of the servers."""
    return spelled(name) is not None


def selector() -> str:
    """A PromQL selector of all series of the servers but buckets, under any prefix."""
    names = {name.replace(":", "_") for name in _BY_NAME if not name.endswith("_bucket")}
    # Of a histogram both at once: the query has to fit into an address.
    both = {name.removesuffix("_sum") for name in names if name.endswith("_sum")}
    parts = {f"{name}_{part}" for name in both for part in ("sum", "count")}
    text = "|".join(sorted((names - parts) | {f"{name}_(?:sum|count)" for name in both}))
    forms = text.replace("_", "_+")
    for kind in _WITH_COLON:
        forms = forms.replace(f"{kind}_+", f"{kind}(?::|_3a|_)_*")
    of_others = "|".join(_OTHERS)
    return f'{{__name__=~"{PREFIX}(?:{forms})", __name__!~".*(?:{of_others}).*"}}'


def timed(name: str) -> bool:
    """Whether every page of a server has a series of this name, whose time of scrape is that of the page."""
    series = spelled(name)
    return series is not None and series.name in _TIMED


def of(samples: Iterable[Sample]) -> tuple[Engine, list[Sample]] | None:
    """The server that shows these samples, and its own by the names of its table; None for none of them.

    A page may show them in several spellings, which must not count twice: the one with more series counts,
    of equals the shorter. Series that many kinds of servers have are one's under a prefix with all of them.
    """
    shown: dict[tuple[str, str], list[Sample]] = {}
    for written, labels, value in samples:
        series = spelled(written)
        if series is not None:
            key = (_BY_NAME[series.name].name, series.style)
            shown.setdefault(key, []).append((series.name, labels, value))
    for engine in ENGINES:
        styles = {
            style: own
            for (name, style), own in shown.items()
            if name == engine.name and (not style or engine.marks <= {item[0] for item in own})
        }
        if styles:
            best = min(styles, key=lambda style: (-len({i[0] for i in styles[style]}), len(style)))
            return engine, styles[best]
    return None


def foreign(samples: Iterable[Sample]) -> bool:
    """Whether something else has these samples, by names that many servers have: a router, or a gateway."""
    known = list(samples)
    return bool(known) and all(reads(name) for name, _, _ in known) and of(known) is None


def translated(engine: Engine, samples: Iterable[Sample]) -> list[Sample]:
    """Samples of a server, as `of` gives them, by the names that `model_servers` has for what they mean."""
    own = [sample for sample in samples if sample[0] in engine.series]
    if engine.models_by:
        models = {labels.get("model") for name, labels, _ in own if name == engine.models_by}
        own = [sample for sample in own if not models or sample[1].get("model") in models]
    renamed = [
        (series.means, labels, value * series.factor)
        for name, labels, value in own
        for series in engine.series[name]
        if series.counts(labels)
    ]
    return [sample for sample in (*renamed, *_derived(engine, renamed)) if ":" in sample[0]]


def _derived(engine: Engine, renamed: Iterable[Sample]) -> list[Sample]:
    """What follows from two series: the queue of older versions, and the size of the KV cache."""
    totals: dict[str, float] = {}
    for name, _, value in renamed:
        # Several processes of one server show one size of block each.
        same = name == _BLOCK_TOKENS
        totals[name] = max(totals.get(name, 0.0), value) if same else totals.get(name, 0.0) + value
    derived: list[Sample] = []
    if {_ACTIVE, _RUNNING} <= totals.keys() and _WAITING not in totals:
        derived.append((_WAITING, {}, max(totals[_ACTIVE] - totals[_RUNNING], 0.0)))
    if {_BLOCKS, _BLOCK_TOKENS} <= totals.keys():
        derived.append((_KV_TOKENS, {}, totals[_BLOCKS] * totals[_BLOCK_TOKENS]))
    if engine is DYNAMO and _RUNNING in totals:
        derived.append((_WAITING, {}, 0.0))
    return derived


def refusal(engine: Engine) -> str:
    """Why the load of a server cannot be known from its page; empty where it can be."""
    if NO_REQUESTS not in engine.lacks:
        return ""
    return (
        f"{engine.name} has no {NO_REQUESTS.removeprefix('a ')} on its page, so its load is not known from"
        " it: requests are counted by a gateway before it (--gateway-metrics)"
    )
