"""One page of an endpoint picker, or of another gateway: requests by model, and the load of its pools."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from adapter.collector import exposition
from adapter.collector.pickers import loads, marks
from adapter.collector.pickers.loads import PoolLoad
from adapter.collector.promql import (
    DISPATCHED,
    GATEWAY_OUTCOMES,
    GATEWAY_QUEUES,
    GATEWAY_REQUESTS,
    gateway_model,
)
from adapter.collector.servers import spelling

_Sample = tuple[str, Mapping[str, str], float]
"""Name, labels and value."""

NO_GATEWAY = (
    "no metrics of an endpoint picker, a Dynamo frontend, Envoy AI Gateway or agentgateway in it; is the port"
    " right?"
)

LLM_GATEWAY_REQUESTS = (
    "gen_ai_server_request_duration_seconds_count",
    "agentgateway_gen_ai_server_request_duration_count",
)
"""Requests that ended at Envoy AI Gateway and at agentgateway, by the model. Neither shows a queue.
Prometheus is not queried for them: pickers behind such a gateway count the same requests."""

_RESPONSE, _REQUEST = "gen_ai_response_model", "gen_ai_request_model"
_UNKNOWN = "unknown"
"""What these two labels are where there was no answer to read it from."""


class _Names:
    """Names that are read, with any prefix that a relabelling puts before them."""

    def __contains__(self, name: object) -> bool:
        short = isinstance(name, str) and len(name) <= spelling.LONGEST_NAME
        return short and _plain(str(name)) in _PLAIN_NAMES


_PLAIN_NAMES = frozenset(
    {
        *GATEWAY_QUEUES,
        *GATEWAY_REQUESTS,
        *LLM_GATEWAY_REQUESTS,
        *GATEWAY_OUTCOMES,
        *loads.REQUESTS,
        *loads.TOKENS,
        *loads.SATURATIONS,
    }
)
_NAMES = _Names()


@lru_cache(maxsize=8192)
def _plain(name: str) -> str:
    """A name without prefix."""
    if name in _PLAIN_NAMES:
        return name
    return next((plain for plain in _PLAIN_NAMES if name.endswith(f"_{plain}")), "")


MODELS = 64
"""Models of one page that are kept whatever they are; of more only those that variants have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What variants have: a page that shows more takes no more memory and time for that.

    Attributes:
        models: Their models.
        pods: Namespaces and names of their pods.

    """

    models: Container[str]
    pods: Container[loads.Pod]


class PickerMetrics:
    """What one page shows: requests queued, forwarded and turned away, by model and without one."""

    def __init__(
        self, samples: list[_Sample], *, of_gateway: bool, names_servers: bool = False
    ) -> None:
        """Make it.

        Args:
            samples: Its series that are read.
            of_gateway: Whether it has any series of a gateway, be it one that is not read.
            names_servers: Whether earlier pages had the label of the model that answered.

        """
        self._samples = samples
        self.of_gateway = of_gateway
        self.names_servers = names_servers or _names_servers(samples)
        queue = _by_newest_name(samples, GATEWAY_QUEUES)
        self.queue = {model: value for model, value in queue.items() if loads.plausible(value)}
        self.rejected = _by_newest_name(samples, GATEWAY_OUTCOMES)
        failed = _unanswered(samples) if self.names_servers else []
        apart = {id(sample) for sample in failed}
        served = [sample for sample in samples if id(sample) not in apart]
        self.requests = _by_newest_name(served, (*GATEWAY_REQUESTS, *LLM_GATEWAY_REQUESTS))
        if failed and not (self.rejected or _by_newest_name(samples, GATEWAY_REQUESTS)):
            self.rejected = _by_newest_name(failed, LLM_GATEWAY_REQUESTS)
        self.unnamed: float | None = None
        for name in GATEWAY_OUTCOMES:
            values = [
                value
                for shown, labels, value in samples
                if shown == name and not _model(labels) and math.isfinite(value)
            ]
            if values:
                self.unnamed = math.fsum(values)
                break

    def only(self, known: Known) -> PickerMetrics:
        """The page without what no variant has, where it shows many models."""
        if len({_model(labels) for _, labels, _ in self._samples}) <= MODELS:
            return self
        kept = [
            sample
            for sample in self._samples
            if not (model := _model(sample[1])) or model in known.models
        ]
        return PickerMetrics(kept, of_gateway=self.of_gateway, names_servers=self.names_servers)

    def load(self, namespace: str, known: Known | None = None) -> PoolLoad:
        """What it shows of the pool and its pods (those that are known); the models are those of the page."""
        models = self.queue.keys() | self.requests.keys() | self.rejected.keys()
        pools: dict[tuple[str, str], set[str]] = {(namespace, ""): set(models)}
        for name, labels, _ in self._samples:
            pool, model = labels.get("inference_pool"), _model(labels)
            if name in GATEWAY_QUEUES and pool and model:
                pools.setdefault((namespace, pool), set()).add(model)
        return loads.of_samples(
            *(self._newest(names) for names in (loads.REQUESTS, loads.TOKENS, loads.SATURATIONS)),
            namespace=namespace,
            pools=pools,
            pods=None if known is None else known.pods,
        )

    def _newest(self, names: Sequence[str]) -> list[_Sample]:
        """The samples of the newest of these names that the page has."""
        shown = {name for name, _, _ in self._samples}
        newest = next((name for name in names if name in shown), None)
        return [sample for sample in self._samples if sample[0] == newest]


def read(text: str, url: str, *, names_servers: bool = False) -> PickerMetrics:
    """What a page of metrics text shows; `names_servers` as in `PickerMetrics`.

    Raises:
        ScrapeError: it is no metrics text.

    """
    named = [
        (_plain(name), labels, value) for name, labels, value in exposition.read(text, _NAMES, url)
    ]
    known = bool(named) or marks.GATEWAY.search(text) is not None
    return PickerMetrics(
        [sample for sample in named if sample[1].get("outcome") != DISPATCHED],
        of_gateway=known,
        names_servers=names_servers,
    )


def _by_newest_name(samples: list[_Sample], names: Sequence[str]) -> dict[str, float]:
    """Values by model, of the newest name that there is."""
    return next((values for name in names if (values := _by_model(samples, name))), {})


def _by_model(samples: list[_Sample], name: str) -> dict[str, float]:
    values: dict[str, float] = {}
    for shown, labels, value in samples:
        # Older versions have queues without a model.
        if shown == name and (model := _model(labels)) and math.isfinite(value):
            values[model] = values.get(model, 0.0) + value
    return values


def _names_servers(samples: Iterable[_Sample]) -> bool:
    """Whether any series has the label of the model that answered, be it "unknown"."""
    return any(
        name in LLM_GATEWAY_REQUESTS and not gateway_model(labels) and labels.get(_RESPONSE)
        for name, labels, _ in samples
    )


def _unanswered(samples: Iterable[_Sample]) -> list[_Sample]:
    """Requests that are counted by the model that the client named alone, since no server answered.

    They came, but for a model of a stranger's choice: they count as what was turned away, so that no number
    of them asks for more than a few times what is served. A gateway that never names the model that answered
    says nothing of the kind.
    """
    return [
        sample
        for sample in samples
        if sample[0] in LLM_GATEWAY_REQUESTS
        and not gateway_model(sample[1])
        and sample[1].get(_RESPONSE, "") in {"", _UNKNOWN}
    ]


def _model(labels: Mapping[str, str]) -> str:
    """The model that serves a request; a server answers with the name that its own metrics have."""
    named = (labels.get(name, "") for name in (_RESPONSE, _REQUEST))
    return gateway_model(labels) or next((name for name in named if name not in {"", _UNKNOWN}), "")
