"""HorizontalPodAutoscalers: bounds, the metrics of the adapter that they read, and changes they ignore."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from adapter.kube import labels, quantity
from adapter.kube.informer import MOST_NAME
from adapter.kube.scale import Reference
from adapter.store import OWN_METRICS

KEDA_METRIC = "variant-adapter-desired-replicas"
"""Metric of the external scaler for KEDA."""

_OF_KEDA = re.compile(rf"s\d+-({KEDA_METRIC}|metric-api-(?:served|desired)Replicas)")
"""Names in KEDA's HPAs of the metrics of its triggers `external` and `metrics-api` on the adapter."""

_OF_PROMETHEUS = re.compile(r"s\d+-prometheus(?:-.*)?|composite-metric")
"""Names in KEDA's HPAs of the metrics of its triggers `prometheus`, whose queries an HPA lacks, and of what
a formula (`scalingModifiers`) makes of all triggers, which it has instead of theirs."""

NO_SELECTOR = (
    "its selector is none that Kubernetes accepts: values of labels have letters, digits, '-', '_' and '.',"
    " and no '/', which names of models may have"
)

MOST_METRICS, MOST_READINGS = 64, 8
"""Most metrics and, of the adapter's, most readings of an HPA that are read; an API server bounds neither."""

MOST_POLICIES = 64
"""Most policies of one direction that are read."""

MOST_NAMED = 5
"""Most HPAs of one scale target that a message names."""

DEFAULT_TOLERANCE = 0.1
"""Relative change up to which kube-controller-manager ignores a metric."""


def served_labels(*, namespace: str, name: str, model: str, accelerator: str) -> dict[str, str]:
    """Labels that a variant's series are served with, as the workload-variant-autoscaler names them."""
    return {
        "variant_name": name,
        "namespace": namespace,
        "exported_namespace": namespace,
        "accelerator_type": accelerator,
        "model_name": model,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One of our metrics in an HPA.

    Attributes:
        selector: selector of the series, as the HPA states it; an empty one selects all of the namespace.
        target_type: Value, AverageValue or Utilization.
        target: target value; None where it is missing or not a number.
        unread: why nothing is known of what the selector selects; empty where it is read.

    """

    metric: str
    selector: labels.Selector
    target_type: str
    target: float | None
    unread: str = ""

    @property
    def variant(self) -> str:
        """The only `variant_name` that it selects; empty where several are possible."""
        return self.selector.equality("variant_name") or ""

    @property
    def selector_text(self) -> str:
        """The selector as a request states it."""
        return ",".join(map(_term, self.selector.requirements))

    def why_not(self, served: Mapping[str, str]) -> str:
        """Why it does not select the series with these labels; empty where it does."""
        if self.unread:
            return self.unread
        for item in self.selector.requirements:
            if item.matches(served):
                continue
            if item.key not in served:
                return f"label {item.key} is not served; there are {', '.join(sorted(served))}"
            return f"{_term(item)} is not so: {item.key} is {served[item.key]!r}"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One of `behavior.scaleUp.policies`, or of `scaleDown`: so many pods, or percent, in a period."""

    kind: str
    value: int
    seconds: int

    def most(self, current: int) -> int:
        """Replicas by which it lets the number change within its period, as the controller rounds them."""
        return self.value if self.kind == "Pods" else math.ceil(current * self.value / 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaler:
    """One HPA.

    Attributes:
        readings: metrics of the adapter that it reads; empty if it reads others only.
        up_tolerance: relative change that it ignores when scaling up; likewise down.
        up_seconds: stabilization window for scaling up; likewise down.
        up_policies: how fast it may scale up; empty where the controller's defaults hold; likewise down.
        up_least: whether the slowest of its policies holds, not the fastest; likewise down.
        up_disabled: whether its behavior keeps it from scaling up; likewise down.
        scaled_object: name of the ScaledObject that KEDA made it for; empty where it is none of KEDA's.
        by_keda: whether KEDA asks the adapter for one of its metrics; its minimum then is at least 1, even
            where KEDA may scale to zero.
        by_prometheus: whether KEDA asks Prometheus for something, or makes one metric of several, that may be
            the adapter's.
        others: what it reads beside the adapter's metrics; it follows the largest of all.

    """

    namespace: str
    name: str
    reference: Reference
    minimum: int
    maximum: int
    readings: tuple[Reading, ...] = ()
    up_tolerance: float = DEFAULT_TOLERANCE
    down_tolerance: float = DEFAULT_TOLERANCE
    up_seconds: int = 0
    down_seconds: int = 300
    up_policies: tuple[Policy, ...] = ()
    down_policies: tuple[Policy, ...] = ()
    up_least: bool = False
    down_least: bool = False
    up_disabled: bool = False
    down_disabled: bool = False
    scaled_object: str = ""
    by_keda: bool = False
    by_prometheus: bool = False
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Kind and name, as in messages."""
        text = f"HorizontalPodAutoscaler {self.name}"
        return f"{text} (of ScaledObject {self.scaled_object})" if self.scaled_object else text

    @property
    def served(self) -> bool:
        """Whether it may follow the adapter: it reads our metrics, or KEDA asks us or Prometheus."""
        return bool(self.readings) or self.by_keda or self.by_prometheus

    def reads(self, served: Mapping[str, str]) -> bool:
        """Whether it reads our metric with these labels, or by KEDA that of the variant of its target."""
        return self.by_keda or any(not reading.why_not(served) for reading in self.readings)

    def ignores(self, current: int, desired: int) -> float | None:
        """Tolerance by which the HPA ignores this change, as its controller computes it; None otherwise."""
        if current <= 0 or desired == current:
            return None
        ratio = desired / current
        # Written as the controller has it: 1.1 - 1 would be more than 0.1.
        if not 1.0 - self.down_tolerance <= ratio <= 1.0 + self.up_tolerance:
            return None
        return self.up_tolerance if ratio > 1 else self.down_tolerance

    def slowed(self, current: int, desired: int) -> Policy | None:
        """The policy by which it does not make this change at once; None where none holds it back."""
        up = desired > current
        policies, least = (
            (self.up_policies, self.up_least) if up else (self.down_policies, self.down_least)
        )
        if current <= 0 or not policies:
            return None
        select = min if least else max
        policy = select(policies, key=lambda item: item.most(current))
        return policy if policy.most(current) < abs(desired - current) else None


def parse(item: Mapping[str, Any]) -> Scaler:
    """An `autoscaling/v2` HorizontalPodAutoscaler; the API server has validated it."""
    metadata, spec = item.get("metadata") or {}, item.get("spec") or {}
    target, behavior = spec.get("scaleTargetRef") or {}, spec.get("behavior") or {}

    def of(direction: str, name: str, default: float) -> float:
        value = (behavior.get(direction) or {}).get(name)
        return default if value is None else float(quantity.parse(str(value)))

    def selects(direction: str, policy: str) -> bool:
        return (behavior.get(direction) or {}).get("selectPolicy") == policy

    owner, metrics = scaled_object(metadata), list(spec.get("metrics") or ())[:MOST_METRICS]
    of_keda = [bool(owner and _OF_KEDA.fullmatch(name)) for name in map(_external, metrics)]
    return Scaler(
        namespace=str(metadata.get("namespace") or ""),
        name=str(metadata.get("name") or ""),
        reference=Reference(
            name=str(target.get("name") or ""),
            kind=str(target.get("kind") or ""),
            api_version=str(target.get("apiVersion") or ""),
        ).canonical,
        minimum=1 if spec.get("minReplicas") is None else int(spec["minReplicas"]),
        maximum=int(spec.get("maxReplicas") or 0),
        readings=tuple(
            _reading(metric["external"])
            for metric in [item for item in metrics if _external(item) in OWN_METRICS][
                :MOST_READINGS
            ]
        ),
        up_tolerance=of("scaleUp", "tolerance", DEFAULT_TOLERANCE),
        down_tolerance=of("scaleDown", "tolerance", DEFAULT_TOLERANCE),
        up_seconds=int(of("scaleUp", "stabilizationWindowSeconds", 0)),
        down_seconds=int(of("scaleDown", "stabilizationWindowSeconds", 300)),
        up_policies=_policies(behavior.get("scaleUp")),
        down_policies=_policies(behavior.get("scaleDown")),
        up_least=selects("scaleUp", "Min"),
        down_least=selects("scaleDown", "Min"),
        up_disabled=selects("scaleUp", "Disabled"),
        down_disabled=selects("scaleDown", "Disabled"),
        scaled_object=owner,
        by_keda=any(of_keda),
        by_prometheus=bool(owner)
        and any(_OF_PROMETHEUS.fullmatch(_external(metric)) for metric in metrics),
        others=tuple(
            _other(metric)
            for metric, own in zip(metrics, of_keda, strict=True)
            if not own and _external(metric) not in OWN_METRICS
        ),
    )


def of_target(
    scalers: Sequence[Scaler], reference: Reference, served: Mapping[str, str]
) -> tuple[Scaler | None, str]:
    """The HPA of a scale target, one that reads our metric before others, and what is wrong with several.

    kube-controller-manager stops all HPAs that share pods (condition AmbiguousSelector).
    """
    scaling = [item for item in scalers if item.reference.identity == reference.identity]
    scaling.sort(key=lambda item: (not item.reads(served), item.name))
    if len(scaling) < 2:
        return (scaling[0] if scaling else None), ""
    named = [str(item) for item in scaling[:MOST_NAMED]]
    last = named.pop() if len(scaling) <= MOST_NAMED else f"{len(scaling) - MOST_NAMED} more"
    names = f"{', '.join(named)} and {last}"
    return scaling[0], (
        f"{names} all scale {reference}, and Kubernetes follows none of them (AmbiguousSelector); keep"
        f" {scaling[0]}, whose bounds are used, and delete the other{'s' if len(scaling) > 2 else ''}"
    )


def scaled_object(metadata: Mapping[str, Any]) -> str:
    """Name of the ScaledObject that owns an HPA."""
    for owner in metadata.get("ownerReferences") or ():
        if owner.get("kind") == "ScaledObject":
            return str(owner.get("name") or "")
    return str((metadata.get("labels") or {}).get("scaledobject.keda.sh/name") or "")


def _policies(rules: Mapping[str, Any] | None) -> tuple[Policy, ...]:
    return tuple(
        Policy(
            kind=str(item.get("type"))[:MOST_NAME],
            value=int(item.get("value") or 0),
            seconds=int(item.get("periodSeconds") or 0),
        )
        for item in list((rules or {}).get("policies") or ())[:MOST_POLICIES]
    )


def _external(metric: Mapping[str, Any]) -> str:
    """Name of an external metric; empty for another one."""
    if metric.get("type") != "External":
        return ""
    return str(((metric.get("external") or {}).get("metric") or {}).get("name") or "")[:MOST_NAME]


def _other(metric: Mapping[str, Any]) -> str:
    """What a metric of an HPA is, for messages."""
    kind = str(metric.get("type") or "")[:MOST_NAME]
    source = metric.get(f"{kind[:1].lower()}{kind[1:]}") or {}
    name = str(source.get("name") or (source.get("metric") or {}).get("name") or kind)[:MOST_NAME]
    container = str(source.get("container") or "")[:MOST_NAME]
    if name in OWN_METRICS:  # The name alone would look right.
        return f"{name} (type {kind}, not External)"
    return f"{name} of container {container}" if container else name


def _term(item: labels.Requirement) -> str:
    match item.operator:
        case "exists":
            return item.key
        case "!":
            return f"!{item.key}"
        case "=" | "!=" | ">" | "<":
            return f"{item.key}{item.operator}{item.values[0]}"
        case "in" if len(item.values) == 1:
            return f"{item.key}={item.values[0]}"
        case _:
            return f"{item.key} {item.operator} ({','.join(item.values)})"


def _reading(external: Mapping[str, Any]) -> Reading:
    metric, target = external["metric"], external.get("target") or {}
    kind = str(target.get("type") or "")[:MOST_NAME]
    text = target.get("averageValue") if kind == "AverageValue" else target.get("value")
    number: Decimal | None = None
    if text is not None:
        try:
            number = Decimal(quantity.parse(str(text)))
        except ValueError:
            number = None
    stated = metric.get("selector") or {}
    selector, why = labels.explained(stated)
    return Reading(
        metric=str(metric["name"]),
        selector=selector,
        # What is only too long is followed by Kubernetes.
        unread=NO_SELECTOR if why == labels.MALFORMED else f"its selector {why}" if why else "",
        target_type=kind,
        target=None if number is None else float(number),
    )
