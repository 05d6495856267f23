"""What waits at the inference gateway: the only sign of traffic while a model has no replica.

The endpoint picker reports `inference_extension_flow_control_queue_size` and counts requests per model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import aiohttp
import structlog
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from adapter import scraping
from adapter.contents import Contents
from adapter.variants import VariantSource

log = structlog.get_logger()

QUEUE = "inference_extension_flow_control_queue_size"
REQUESTS = ("inference_objective_request_total", "inference_model_request_total")
"""Newer name first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Traffic for one model at all gateways.

    Attributes:
        waiting: requests in the gateway's queue.
        arrived: requests that came since the last look.

    """

    waiting: float = 0.0
    arrived: float = 0.0

    def __str__(self) -> str:
        """As in reasons."""
        return f"{self.waiting:g} wait at the gateway, {self.arrived:g} came"

    @property
    def any(self) -> bool:
        """Whether somebody wants the model."""
        return self.waiting > 0 or self.arrived > 0


class Gateways:
    """Looks at the metrics of all endpoint pickers; one that does not answer says nothing."""

    def __init__(self, session: aiohttp.ClientSession, urls: Sequence[str]) -> None:
        self._session = session
        self._urls = tuple(urls)
        self._counts: dict[tuple[str, str], float] = {}
        self._problems: dict[str, str] = {}

    async def demand(self) -> dict[str, Demand]:
        """Demand by model name."""
        waiting: dict[str, float] = {}
        arrived: dict[str, float] = {}
        for url in self._urls:
            try:
                samples = list(_samples(await scraping.text(self._session, url)))
            except (scraping.ScrapeError, ValueError) as error:
                if self._problems.get(url) != str(error):
                    log.warning("gateway not readable", error=str(error))
                self._problems[url] = str(error)
                continue
            self._problems.pop(url, None)
            for model, value in _by_model(samples, QUEUE).items():
                waiting[model] = waiting.get(model, 0.0) + value
            for model, value in self._requests(samples).items():
                before = self._counts.get((url, model))
                self._counts[url, model] = value
                if before is not None:
                    # A counter that fell was restarted.
                    grown = value - before if value >= before else value
                    arrived[model] = arrived.get(model, 0.0) + grown
        return {
            model: Demand(waiting=waiting.get(model, 0.0), arrived=arrived.get(model, 0.0))
            for model in waiting.keys() | arrived.keys()
        }

    def _requests(self, samples: list[Sample]) -> dict[str, float]:
        for name in REQUESTS:
            found = _by_model(samples, name)
            if found:
                return found
        return {}


def waking(contents: Contents, demand: Mapping[str, Demand]) -> frozenset[str]:
    """Keys of variants at zero that somebody wants: of a model that runs nowhere the cheapest."""
    costs = {item.name: item.unit_cost for item in contents.accelerators}

    def cost(source: VariantSource) -> tuple[float, str]:
        units = (costs.get(p.accelerator, 0.0) * p.accelerator_count for p in source.profiles)
        return min(units), source.key

    models: dict[tuple[str, str], list[VariantSource]] = {}
    for source in contents.variants:
        models.setdefault((source.namespace, source.model), []).append(source)
    found = set()
    for (_, model), sources in models.items():
        wanted = demand.get(model)
        if wanted is None or not wanted.any or any(s.replicas or s.wanted for s in sources):
            continue
        found.add(min(sources, key=cost).key)
    return frozenset(found)


def _samples(text: str) -> Iterable[Sample]:
    for family in text_string_to_metric_families(text):
        if family.name.startswith("inference_"):
            yield from family.samples


def _by_model(samples: list[Sample], name: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for sample in samples:
        if sample.name == name:
            labels = sample.labels
            model = labels.get("target_model_name") or labels.get("model_name") or ""
            found[model] = found.get(model, 0.0) + sample.value
    return found
