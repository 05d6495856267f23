"""The PromQL that reads the whole fleet at once, and what its answers say of each pod.

All series that are read are one selector, grouped by name, namespace, pod, scraped address, job and model,
and so one query for every quantity of every pod: the numbers of a pod are then of one scrape, whereas
separate queries can see two, and their number does not grow with the fleet. The time of the scrape is asked
for too, because an instant query tells only when it was evaluated. Names become quantities here, by the same
table that reads a page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from adapter.collector import model_servers
from adapter.collector.instant_vector import Sample
from adapter.collector.model_servers import QUANTITIES, Page

TARGET = "namespace, pod, instance, job"
BY = f"{TARGET}, model_name"
_QUANTITY = "quantity"
_SAMPLED, _STARTED = "sampled_at", "started_at"
_EVERY_SERVER = tuple(names[-1] for names in QUANTITIES[1].names if len(names) == 1)
"""A series that each kind of server always has."""

GATEWAY_BY = "namespace, model_name, target_model_name"
GATEWAY_QUEUES = (
    "llm_d_epp_flow_control_queue_size",
    "inference_extension_flow_control_queue_size",
)
GATEWAY_REQUESTS = (
    "llm_d_epp_request_total",
    "inference_objective_request_total",
    "inference_model_request_total",
)
"""Newer names first: some versions show two of them, with the same numbers. A request is counted when it
was passed on; until then it is in the queue."""


_Key = tuple[str, str, str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """One pod as Prometheus has it.

    Attributes:
        namespace: empty where its series have no such label; likewise pod and instance.
        sampled_at: of the scrape, and `evaluated_at` of the query, in the clock of Prometheus.
        page: None where the numbers are not plausible; `problem` then says why.

    """

    namespace: str
    pod: str
    instance: str
    model: str
    sampled_at: float
    evaluated_at: float
    page: Page | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayCount:
    """One model at the inference gateways of one namespace; counters only grow."""

    namespace: str
    model: str
    requests: float = 0.0
    waiting: float = 0.0


def _selected(names: Iterable[str]) -> str:
    return f'{{__name__=~"{"|".join(sorted(names))}"}}'


def _named(expression: str, quantity: str) -> str:
    return f'label_replace({expression}, "{_QUANTITY}", "{quantity}", "", "")'


def fleet() -> str:
    """Every series of every pod that is read, with the times of its scrape and of its start."""
    largest = model_servers.RANKED | model_servers.LARGEST_OF
    sums = f"sum by (__name__, {BY}) ({_selected(model_servers.SERIES - largest)})"
    tops = f"max by (__name__, {BY}, dp_rank, priority) ({_selected(largest)})"
    servers = [f"max by ({BY}) ({name})" for name in _EVERY_SERVER]
    sampled = " or ".join(f"min by ({BY}) (timestamp({name}))" for name in _EVERY_SERVER)
    # A process has no model: it is taken from the server that the same target is.
    started = (
        f"(0 * ({' or '.join(servers)})) + on ({TARGET}) group_left ()"
        f" max by ({TARGET}) ({model_servers.STARTED})"
    )
    # `or` compares without names: the label keeps the parts from hiding each other. The largest part comes
    # last, since each `or` looks through all that is before it.
    return " or ".join(
        (_named(sampled, _SAMPLED), _named(started, _STARTED), _named(tops, "largest"), sums)
    )


def gateways() -> str:
    """Requests and queue of every model at the inference gateways."""
    requests, queues = (
        " or ".join(f"sum by ({GATEWAY_BY}) ({name})" for name in names)
        for names in (GATEWAY_REQUESTS, GATEWAY_QUEUES)
    )
    return f"{_named(requests, 'requests')} or {_named(queues, 'waiting')}"


@dataclass(slots=True)
class _Pod:
    evaluated_at: float
    samples: list[tuple[str, Mapping[str, str], float]] = field(default_factory=list)
    sampled_at: float = math.nan
    started_at: float = math.nan


def pods(items: Iterable[Sample]) -> list[Sampled]:
    """What the answer to `fleet()` says of each pod; one without a time of its scrape is left out."""
    found: dict[_Key, _Pod] = {}
    for item in items:
        labels = item.labels
        key = (
            labels.get("namespace", ""),
            labels.get("pod", ""),
            labels.get("instance", ""),
            # A pod that two jobs scrape is there twice: neither may count for two.
            labels.get("job", ""),
            labels.get("model_name", ""),
        )
        pod = found.get(key)
        if pod is None:
            pod = found[key] = _Pod(item.evaluated_at)
        what = labels.get(_QUANTITY)
        if what == _SAMPLED:
            pod.sampled_at = item.value
        elif what == _STARTED:
            pod.started_at = item.value
        else:
            pod.samples.append((labels.get("__name__", ""), labels, item.value))
    return [_sampled(key, pod) for key, pod in found.items() if math.isfinite(pod.sampled_at)]


def _sampled(key: _Key, pod: _Pod) -> Sampled:
    namespace, name, instance, _, model = key
    page, problem = None, ""
    try:
        page = model_servers.page(
            dict(model_servers.quantities(model_servers.values(pod.samples))),
            started_at=pod.started_at if math.isfinite(pod.started_at) else None,
        )
    except model_servers.ImplausibleError as error:
        problem = str(error)
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


def models(items: Iterable[Sample]) -> list[GatewayCount]:
    """What the answer to `gateways()` says of each model."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for item in items:
        key = (item.labels.get("namespace", ""), gateway_model(item.labels))
        # Older versions do not say whose queue it is.
        if not key[1]:
            continue
        counts = found.setdefault(key, {})
        name = item.labels.get(_QUANTITY, "")
        counts[name] = counts.get(name, 0.0) + item.value
    return [
        GatewayCount(
            namespace=namespace,
            model=model,
            requests=counts.get("requests", 0.0),
            waiting=counts.get("waiting", 0.0),
        )
        for (namespace, model), counts in found.items()
        if all(map(math.isfinite, counts.values()))
    ]


def gateway_model(labels: Mapping[str, str]) -> str:
    """The model that is served in the end: the asked-for name may stand for another."""
    return labels.get("target_model_name") or labels.get("model_name") or ""
