"""Requests in flight at each pod as the endpoint pickers count them, and the saturation of their pools.

A request is in flight from when it is forwarded until its response has ended: at a pod that is what runs and
waits there, and what neither shows yet. Pickers keep series of endpoints that are gone, so only those of pods
that exist count; and a count that has leaked stands still, and does not count where pods are not at work.

A pool whose saturation is 1 or more holds requests back: what its pods serve then is a part of the demand.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace

from adapter.resources.variant import VariantSource

ModelKey = tuple[str, str]
"""Namespace (empty for any) and model."""

Pod = tuple[str, str]
"""Namespace and name of a pod."""

_PREFIXES = ("llm_d_epp", "llm_d_router_epp", "llm_d_inference_scheduler", "inference_extension")
"""Prefixes of an endpoint picker's series, the newest first."""

REQUESTS = tuple(f"{prefix}_inflight_requests" for prefix in _PREFIXES)
TOKENS = tuple(f"{prefix}_inflight_tokens" for prefix in _PREFIXES)
SATURATIONS = tuple(f"{prefix}_flow_control_pool_saturation" for prefix in _PREFIXES)

WHOLE = ("effective", "")
"""Stages of the saturation that is the whole pool's, the best first."""

_RANK = re.compile(r"-rank-\d{1,4}$")
"""End of the name of an endpoint that is one of a pod's several servers."""

_LARGEST = 1e9
"""Largest plausible number of requests, or of a thousand tokens."""

_MOST_QUEUED = 1e5
"""Largest plausible queue of a model at a gateway: each request in it has a connection."""

Sample = tuple[str, Mapping[str, str], float]
"""Name, labels and value."""


@dataclass(frozen=True, slots=True)
class InFlight:
    """Requests in flight, and their tokens where the picker counts these."""

    requests: float = 0.0
    tokens: float = 0.0

    def __add__(self, other: InFlight) -> InFlight:
        """Those at several places together."""
        return InFlight(self.requests + other.requests, self.tokens + other.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLoad:
    """What pickers show of their pools.

    Attributes:
        in_flight: Requests in flight by pod.
        saturation: Saturation by model and stage; from 1 on the pool holds requests back.
        still: Pods whose count has not changed for a while.

    """

    in_flight: Mapping[Pod, InFlight] = field(default_factory=dict)
    saturation: Mapping[ModelKey, Mapping[str, float]] = field(default_factory=dict)
    still: frozenset[Pod] = frozenset()

    def at(self, source: VariantSource, *, moving: bool = False) -> InFlight:
        """Requests in flight at the pods of a variant; `moving`: without counts that stand still."""
        names = {(source.namespace, name) for name in source.pods}
        names -= self.still if moving else frozenset()
        return sum((self.in_flight[pod] for pod in names & self.in_flight.keys()), InFlight())

    def saturation_of(self, source: VariantSource) -> float | None:
        """Saturation of a variant's part of its pool; None where it is not shown."""
        key = (source.namespace, source.model)
        by_stage = self.saturation.get(key) or self.saturation.get(("", source.model)) or {}
        for stage in (source.role, *WHOLE) if source.role else WHOLE:
            if stage in by_stage:
                return by_stage[stage]
        return max(by_stage.values(), default=None)


NO_LOAD = PoolLoad()
"""What pickers show of which nothing is known."""


def plausible(waiting: float) -> bool:
    """Whether a number of requests in a gateway's queue can be one."""
    return 0 <= waiting <= _MOST_QUEUED


def of_samples(
    requests: Iterable[Sample],
    tokens: Iterable[Sample],
    saturations: Iterable[Sample],
    *,
    namespace: str,
    pools: Mapping[tuple[str, str], Iterable[str]],
    pods: Container[Pod] | None = None,
) -> PoolLoad:
    """What the samples of pickers show.

    Args:
        requests: Series of requests in flight, of one name.
        tokens: Series of tokens in flight, of one name.
        saturations: Series of the saturation, of one name.
        namespace: Namespace of endpoints and pools that the labels do not give.
        pools: Models by namespace and name of the pool; of the name empty where it is not known.
        pods: Pods that are kept; None: all.

    """
    numbers, sizes = _by_pod(requests, namespace), _by_pod(tokens, namespace)
    saturation: dict[ModelKey, dict[str, float]] = {}
    for _, labels, value in saturations:
        if not (math.isfinite(value) and value >= 0):
            continue
        space = namespace or labels.get("namespace", "")
        named = pools.get((space, labels.get("inference_pool", "")))
        for model in pools.get((space, ""), ()) if named is None else named:
            by_stage = saturation.setdefault((space, model), {})
            stage = labels.get("stage", "")
            by_stage[stage] = max(by_stage.get(stage, 0.0), value)
    return PoolLoad(
        in_flight={
            pod: InFlight(numbers.get(pod, 0.0), sizes.get(pod, 0.0))
            for pod in numbers.keys() | sizes.keys()
            if pods is None or pod in pods
        },
        saturation=saturation,
    )


def _by_pod(samples: Iterable[Sample], namespace: str) -> dict[Pod, float]:
    """Numbers by pod: of the servers of a pod their sum, of several that count the same the largest."""
    by_counter: dict[tuple[Pod, str], float] = {}
    for _, labels, value in samples:
        name = _RANK.sub("", labels.get("endpoint_name", ""))
        if not name or not (math.isfinite(value) and 0 <= value <= 1000 * _LARGEST):
            continue
        # Prometheus renames a label that the scraped target's own takes the place of.
        space = labels.get("exported_namespace") or labels.get("namespace") or namespace
        if space != (namespace or labels.get("namespace", space)):
            continue  # a picker routes to its own namespace, and says nothing of another one's pods
        key = ((space, name), labels.get("producer_name", ""))
        by_counter[key] = by_counter.get(key, 0.0) + value
    pods: dict[Pod, float] = {}
    for (pod, _), value in by_counter.items():
        pods[pod] = max(pods.get(pod, 0.0), value)
    return pods


def merged(loads: Iterable[PoolLoad]) -> PoolLoad:
    """What several pickers show: each counts its own requests, and the fuller pool counts."""
    in_flight: dict[Pod, InFlight] = {}
    saturation: dict[ModelKey, dict[str, float]] = {}
    for load in loads:
        for pod, number in load.in_flight.items():
            in_flight[pod] = in_flight.get(pod, InFlight()) + number
        for key, by_stage in load.saturation.items():
            known = saturation.setdefault(key, {})
            for stage, value in by_stage.items():
                known[stage] = max(known.get(stage, 0.0), value)
    return PoolLoad(in_flight=in_flight, saturation=saturation)


class PoolLoads:
    """The last load of every picker, with the counts that have stood still."""

    def __init__(self, *, still_seconds: float) -> None:
        """`still_seconds`: time after which a count that does not change stands still."""
        self._still = still_seconds
        self._since: dict[Pod, tuple[InFlight, float]] = {}
        self._load = PoolLoad()
        self._at = -math.inf

    def use(self, load: PoolLoad, *, now: float) -> None:
        """Use what all pickers show together, at monotonic `now`."""
        self._since = {
            pod: before
            if (before := self._since.get(pod)) is not None and before[0] == number
            else (number, now)
            for pod, number in load.in_flight.items()
        }
        self._load, self._at = load, now

    def at(self, *, now: float) -> PoolLoad:
        """What counts at monotonic `now`; nothing where it was shown too long ago."""
        if now - self._at > self._still:
            return PoolLoad()
        still = {pod for pod, (_, since) in self._since.items() if now - since > self._still}
        return replace(self._load, still=frozenset(still))
