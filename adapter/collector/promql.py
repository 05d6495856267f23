"""PromQL that reads the whole fleet at once, and the pods and models in its results.

One selector has all series that are read, grouped by name, namespace, pod, scraped address, job and model, so
one query has every quantity of every pod: the numbers of a pod are then of one scrape, whereas separate
queries can see two, and the number of queries does not grow with the fleet. The time of the scrape is
queried too, because an instant query returns only when it was evaluated. Names become quantities by the same
table that reads a pod's text.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass, field

from adapter.collector import model_servers
from adapter.collector.instant_vector import Sample
from adapter.collector.model_servers import PodMetrics
from adapter.collector.pickers import loads
from adapter.collector.servers import engines, lora, ranks, spelling
from adapter.collector.servers import moments as histograms
from adapter.collector.servers.histogram import Histogram
from adapter.collector.servers.totals import ImplausibleError, Moments

TARGET = "namespace, pod, instance, job"
BY = f"{TARGET}, model_name"
_QUANTITY = "quantity"
_SAMPLED, _STARTED = "sampled_at", "started_at"
_TIMED = {
    "vllm": ("vllm:num_requests_running", "vllm:request_success_total"),
    "sglang": ("sglang:num_running_reqs",),
}
"""Series whose time of scrape is that of their server: a data-parallel one has counters before gauges."""

_STYLES_LIMIT = 16

STYLES = frozenset(model_servers.PREFIXES)
"""Spellings that are queried from the beginning."""

GATEWAY_BY = "namespace, model_name, target_model_name, model"
GATEWAY_QUEUES = (
    "llm_d_epp_flow_control_queue_size",
    "llm_d_router_epp_flow_control_queue_size",
    "inference_extension_flow_control_queue_size",
    "dynamo_frontend_queued_requests",
)
GATEWAY_REQUESTS = (
    "llm_d_epp_request_total",
    "llm_d_router_epp_request_total",
    "inference_objective_request_total",
    "inference_model_request_total",
    "dynamo_frontend_requests_total",
)
"""Newer names first: some versions show two of them, with the same numbers. A request is counted when it
is forwarded; until then it is in the queue. A Dynamo frontend counts it when it ends."""
GATEWAY_OUTCOMES = (
    "llm_d_epp_flow_control_requests_total",
    "llm_d_router_epp_flow_control_requests_total",
    "inference_extension_flow_control_requests_total",
    "llm_d_epp_flow_control_request_queue_duration_seconds_count",
    "llm_d_router_epp_flow_control_request_queue_duration_seconds_count",
    "inference_extension_flow_control_request_queue_duration_seconds_count",
)
"""Requests that flow control was done with, by outcome; all but those with `DISPATCHED` were turned away. The
newer ones have those that never entered the queue too, and some versions of them no model."""
DISPATCHED = "Dispatched"

_POOL_MODELS, _SATURATION = "pool models", "saturation"
_IN_FLIGHT, _IN_FLIGHT_TOKENS = "in flight", "tokens in flight"
_OF_POOLS = frozenset({_POOL_MODELS, _SATURATION, _IN_FLIGHT, _IN_FLIGHT_TOKENS})


Pod = tuple[str, str, str, str, str]
"""Namespace, pod, scraped address, job and model of a pod's series."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """One pod's series in Prometheus.

    Attributes:
        namespace: Label of its series; empty without one, likewise `pod` and `instance`.
        sampled_at: Time of the scrape, Unix seconds by the clock of Prometheus.
        evaluated_at: Time of the query's evaluation by the same clock.
        page: Metrics; None where they are not plausible, or not queried.
        problem: Why there are none.
        input_moments: Moments of the input lengths; None where they were not queried.
        output_moments: The same of the output lengths.
        ttft: Growth of the histogram of times to first token; None where it was not queried.
        itl: The same of inter-token latencies.

    """

    namespace: str
    pod: str
    instance: str
    model: str
    sampled_at: float
    evaluated_at: float
    page: PodMetrics | None = None
    problem: str = ""
    input_moments: Moments | None = None
    output_moments: Moments | None = None
    ttft: Histogram | None = None
    itl: Histogram | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayCount:
    """Counters of one model at the inference gateways of one namespace.

    Without a model they are of all models there together, and only `rejected` is used.
    """

    namespace: str
    model: str
    requests: float = 0.0
    waiting: float = 0.0
    rejected: float = 0.0


def _labelled(expression: str, quantity: str) -> str:
    return f'label_replace({expression}, "{_QUANTITY}", "{quantity}", "", "")'


def fleet(styles: Collection[str] = STYLES) -> str:
    """Query for all series of every pod, with the times of its scrape and of its process's start.

    Series are selected in all spellings, times only in these: `timestamp` takes one name at a time, since it
    drops the name, and one target with two spellings would fail the query for all.

    Buckets of histograms are left out: they would be three times as many series as all others together.
    """
    largest = model_servers.RANKED | model_servers.LARGEST_OF
    # A server with one engine has no more series for the label; of several one may hang.
    each = frozenset({*ranks.NUMBERS})
    engine = f"sum by (__name__, {BY}, {ranks.ENGINE}) ({spelling.selector(each)})"
    sums = f"sum by (__name__, {BY}) ({spelling.selector(model_servers.SERIES - largest - each)})"
    tops = (
        f"max by (__name__, {BY}, {ranks.ENGINE}, dp_rank, priority) ({spelling.selector(largest)})"
    )
    timed = [
        spelling.restyled(name, style)
        for style in sorted(styles)
        for name in _TIMED.get(spelling.kind_of(style), ())
    ]
    timed += sorted({*(e.timed for e in engines.ENGINES), *filter(engines.timed, styles)})
    servers = f"max by ({BY}) ({spelling.selector([name for names in _TIMED.values() for name in names])})"
    sampled = " or ".join(f"min by ({BY}) (timestamp({name}))" for name in timed)
    # A process has no model: it is taken from the server that the same target is.
    started = (
        f"(0 * {servers}) + on ({TARGET}) group_left ()"
        f" max by ({TARGET}) ({spelling.selector((model_servers.STARTED,))})"
    )
    # Of no model either; their labels are what they say.
    sizes = ", ".join(model_servers.CACHE_CONFIG_LABELS)
    cache = f"max by ({TARGET}, {sizes}) ({spelling.selector((model_servers.CACHE_CONFIG,))})"
    newest = f"topk by ({TARGET}) (1, {spelling.selector((lora.SERIES,))})"
    adapters = f"max by ({TARGET}, {', '.join(lora.LABELS)}) ({newest})"
    others = f"sum by (__name__, {BY}, {', '.join(engines.LABELS)}) ({engines.selector()})"
    # `or` compares without names: the label keeps the parts from hiding each other. The largest part comes
    # last, since each `or` looks through all that is before it.
    return " or ".join(
        (
            _labelled(sampled, _SAMPLED),
            _labelled(started, _STARTED),
            _labelled(cache, model_servers.CACHE_CONFIG),
            _labelled(adapters, lora.SERIES),
            _labelled(tops, "largest"),
            _labelled(others, "other"),
            _labelled(engine, "engine"),
            sums,
        )
    )


def styles(samples: Iterable[Sample]) -> frozenset[str]:
    """Spellings in the result of `fleet()`, the first ones where there are many.

    Of servers beside vLLM and SGLang it is the name of the series whose times are those of their pages.
    """
    names = {sample.labels.get("__name__", "") for sample in samples}
    styles_seen = {form.style for name in names if (form := spelling.spelled(name)) and form.style}
    styles_seen |= {name for name in names if engines.timed(name)}
    return frozenset(sorted(styles_seen, key=lambda style: (len(style), style))[:_STYLES_LIMIT])


def lengths(seconds: float, styles: Collection[str] = STYLES) -> str:
    """Query for the growth of the histograms of lengths over the last seconds, of every pod.

    It has some 40 series per pod, three times what `fleet()` has, so it is for once in several minutes.
    """
    return growth(model_servers.BUCKETS, seconds, styles)


def growth(names: Collection[str], seconds: float, styles: Collection[str]) -> str:
    """Query for the growth of buckets over the last seconds, of every pod, in these spellings."""
    span = f"[{max(round(seconds), 1)}s]"
    return " or ".join(
        _labelled(f"sum by ({BY}, le) (increase({spelling.restyled(name, style)}{span}))", name)
        for style in sorted(styles)
        for name in sorted(names)
        if (kind := spelling.kind_of(style)) and name.startswith(kind)
    )


def lengths_of_pods(samples: Iterable[Sample]) -> list[Sampled]:
    """Pods in the result of `lengths()`, with the moments of their lengths."""
    return [
        Sampled(
            namespace=key[0],
            pod=key[1],
            instance=key[2],
            model=key[4],
            sampled_at=0.0,
            evaluated_at=0.0,
            input_moments=histograms.moments(buckets, model_servers.INPUT_BUCKETS),
            output_moments=histograms.moments(buckets, model_servers.OUTPUT_BUCKETS),
        )
        for key, buckets in by_pod(samples).items()
    ]


def by_pod(samples: Iterable[Sample]) -> dict[Pod, list[tuple[str, Mapping[str, str], float]]]:
    """Name, labels and value of the samples in the result of `growth()`, by pod."""
    pods: dict[Pod, list[tuple[str, Mapping[str, str], float]]] = {}
    for sample in samples:
        name = sample.labels.get(_QUANTITY, "")
        pods.setdefault(_key(sample.labels), []).append((name, sample.labels, sample.value))
    return pods


def gateways() -> str:
    """Query for requests and queue of every model at the inference gateways."""
    requests, queues, rejected = (
        " or ".join(
            f'sum by ({GATEWAY_BY}) ({{__name__=~"([a-zA-Z0-9_:]*_)?{name}"{which}}})'
            for name in names
        )
        for names, which in (
            (GATEWAY_REQUESTS, ""),
            (GATEWAY_QUEUES, ""),
            (GATEWAY_OUTCOMES, f', outcome!="{DISPATCHED}"'),
        )
    )
    endpoint = "namespace, exported_namespace, endpoint_name, producer_name"
    parts = {
        "requests": requests,
        "waiting": queues,
        "rejected": rejected,
        _POOL_MODELS: _any_of(GATEWAY_QUEUES, f"inference_pool, {GATEWAY_BY}", "count"),
        _IN_FLIGHT: _any_of(loads.REQUESTS, endpoint, "sum"),
        _IN_FLIGHT_TOKENS: _any_of(loads.TOKENS, endpoint, "sum"),
        _SATURATION: _any_of(loads.SATURATIONS, "namespace, inference_pool, stage", "max"),
    }
    return " or ".join(_labelled(text, quantity) for quantity, text in parts.items())


def _any_of(names: Iterable[str], by: str, fold: str) -> str:
    """Query for the newest of these names that a picker has, under any prefix."""
    return " or ".join(
        f'{fold} by ({by}) ({{__name__=~"([a-zA-Z0-9_:]*_)?{name}"}})' for name in names
    )


@dataclass(slots=True)
class _Pod:
    evaluated_at: float
    samples: list[tuple[str, Mapping[str, str], float]] = field(default_factory=list)
    sampled_at: float = math.nan
    started_at: float = math.nan


def pods(samples: Iterable[Sample]) -> list[Sampled]:
    """Pods in the result of `fleet()`; one without a time of its scrape is left out."""
    by_key: dict[Pod, _Pod] = {}
    infos: dict[Pod, list[tuple[str, Mapping[str, str], float]]] = {}
    for sample in samples:
        labels = sample.labels
        key = _key(labels)
        quantity = labels.get(_QUANTITY, "")
        if quantity in model_servers.INFOS:
            infos.setdefault(key, []).append((quantity, labels, sample.value))
            continue
        pod = by_key.get(key)
        if pod is None:
            pod = by_key[key] = _Pod(sample.evaluated_at)
        if quantity == _SAMPLED:
            pod.sampled_at = sample.value
        elif quantity == _STARTED:
            pod.started_at = sample.value
        else:
            pod.samples.append((labels.get("__name__", ""), labels, sample.value))
    for key, pod in by_key.items():
        pod.samples.extend(infos.get((*key[:4], ""), ()))
    # Engines behind a front such as Dynamo's name their model, and the front's series have none.
    named = {key[:4] for key in by_key if key[4]}
    by_key = {
        key: pod
        for key, pod in by_key.items()
        if key[4] or key[:4] not in named or not all(engines.reads(s[0]) for s in pod.samples)
    }
    known = ((key, pod) for key, pod in by_key.items() if math.isfinite(pod.sampled_at))
    return [_sampled(key, pod) for key, pod in known if not engines.foreign(pod.samples)]


def _key(labels: Mapping[str, str]) -> Pod:
    # A pod that two jobs scrape has two entries: neither may count for two.
    return (
        labels.get("namespace", ""),
        labels.get("pod", ""),
        labels.get("instance", ""),
        labels.get("job", ""),
        labels.get("model_name", ""),
    )


def _sampled(key: Pod, pod: _Pod) -> Sampled:
    namespace, name, instance, _, model = key
    page, problem = None, ""
    read_as = [
        (form.style, form.name, labels, value)
        for written, labels, value in pod.samples
        if (form := spelling.spelled(written)) is not None
    ]
    style = spelling.style_of((name, style) for style, name, _, _ in read_as)
    series = [
        (name, labels, value)
        for own, name, labels, value in read_as
        if own == style or name in model_servers.INFOS
    ]
    if not series and (shown := engines.of(pod.samples)):
        problem, series = engines.refusal(shown[0]), engines.translated(*shown)
    try:
        page = model_servers.pod_metrics(
            dict(model_servers.quantities(model_servers.values(series))),
            started_at=pod.started_at,
            ranks=ranks.of_samples(series),
        )
    except ImplausibleError as error:
        problem = problem or str(error)
    return Sampled(
        namespace=namespace,
        pod=name,
        instance=instance,
        model=model,
        sampled_at=pod.sampled_at,
        evaluated_at=pod.evaluated_at,
        page=page,
        problem=problem,
    )


def models(samples: Iterable[Sample]) -> list[GatewayCount]:
    """Models in the result of `gateways()`."""
    by_key: dict[tuple[str, str], dict[str, float]] = {}
    for sample in samples:
        key = (sample.labels.get("namespace", ""), gateway_model(sample.labels))
        name = sample.labels.get(_QUANTITY, "")
        # Older versions have queues without a model, newer ones outcomes.
        if name in _OF_POOLS or (not key[1] and name != "rejected"):
            continue
        counts = by_key.setdefault(key, {})
        counts[name] = counts.get(name, 0.0) + sample.value
    return [
        GatewayCount(
            namespace=namespace,
            model=model,
            requests=counts.get("requests", 0.0),
            waiting=counts.get("waiting", 0.0),
            rejected=counts.get("rejected", 0.0),
        )
        for (namespace, model), counts in by_key.items()
        if all(map(math.isfinite, counts.values())) and loads.plausible(counts.get("waiting", 0.0))
    ]


def pool_load(
    samples: Iterable[Sample], models: Container[str], pods: Container[loads.Pod] | None
) -> loads.PoolLoad:
    """What the result of `gateways()` shows of some models' pools, and of some pods (None: all)."""
    by_quantity: dict[str, list[loads.Sample]] = {}
    pools: dict[tuple[str, str], set[str]] = {}
    for sample in samples:
        quantity, labels = sample.labels.get(_QUANTITY, ""), sample.labels
        by_quantity.setdefault(quantity, []).append((quantity, labels, sample.value))
        if model := gateway_model(labels):
            known, space = {model} if model in models else set(), labels.get("namespace", "")
            pools.setdefault((space, ""), set()).update(known)
            if quantity == _POOL_MODELS and labels.get("inference_pool"):
                pools.setdefault((space, labels["inference_pool"]), set()).update(known)
    of = [by_quantity.get(name, ()) for name in (_IN_FLIGHT, _IN_FLIGHT_TOKENS, _SATURATION)]
    return loads.of_samples(*of, namespace="", pools=pools, pods=pods)


def gateway_model(labels: Mapping[str, str]) -> str:
    """The model that serves the request: the requested name may be an alias of another."""
    names = (labels.get(key) for key in ("target_model_name", "model_name", "model"))
    return next(filter(None, names), "")
