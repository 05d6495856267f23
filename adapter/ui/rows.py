"""The fleet as rows: made of the documents of `/variants`, sorted and filtered.

Shared by the page and by `variant-adapter top`, so both show what `/variants` says. Rates are requests per
minute, latencies milliseconds, costs cents per hour.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapter.ui.parts import Measured, Shared

STATES: Mapping[str, str] = {
    "invalid": "The VariantAutoscaling is not used",
    "short": "Devices are short: not all of the load is served",
    "held": "There is no new target; the last one is held, if there was one",
    "stale": "Metrics are missing, old or doubtful",
    "drifting": "Measured latencies have parted from the predicted ones",
    "slow": "Measured latencies are above their SLO",
    "scaling": "Replicas are not yet as many as desired",
    "advisory": "It only advises: targets are decided and not published",
    "ok": "Nothing to do",
}
"""States of a variant with their meaning, the most urgent first."""

URGENCY: Mapping[str, int] = {state: place for place, state in enumerate(STATES)}
"""Places of the states; 0 is the most urgent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One variant of the fleet.

    Attributes:
        state: Most urgent of its states.
        states: All of its states, the most urgent first.
        why: Reason, problem and obstacles in words.
        ready: Ready replicas.
        starting: Replicas that exist or were asked for and are not ready.
        desired: Published replicas, or advised ones where it only advises; None without a valid target.
        offered: Requests that arrive; None where no load is known.
        served: Requests offered less the growth of the queues.
        planned: Requests that the target was sized for; None where another replica decides.
        ttft: Measured mean time to first token.
        itl: Measured mean inter-token latency.
        ttft_predicted: Predicted time to first token of the decision.
        itl_predicted: Predicted inter-token latency of the decision.
        ttft_slo: SLO target; None without one.
        itl_slo: SLO target; None without one.
        percentile: Percentile that the SLO targets bound; None is the mean.
        ttft_measured: Measured percentiles of the time to first token.
        itl_measured: Measured percentiles of the inter-token latency.
        kv: Share of the KV cache in use, of the fullest pod.
        cost: Cost of the desired replicas; None where another replica decides.
        advisory: Whether its target is decided and not published.
        interruptible: Whether its replicas may be taken away at any time (spot).
        shared: Group whose demand it shares; None where it is alone, or another replica decides.
        share: Part of the group's demand that it carries, 0 to 1.
        cut_by: Ceilings that keep it from the replicas that it needs, in words.

    """

    namespace: str
    name: str
    model: str = ""
    service_class: str = ""
    accelerator: str = ""
    state: str = "ok"
    states: tuple[str, ...] = ("ok",)
    why: str = ""
    ready: int = 0
    starting: int = 0
    desired: int | None = None
    offered: float | None = None
    served: float | None = None
    planned: float | None = None
    running: float | None = None
    waiting: float | None = None
    ttft: float | None = None
    itl: float | None = None
    ttft_predicted: float | None = None
    itl_predicted: float | None = None
    ttft_slo: float | None = None
    itl_slo: float | None = None
    percentile: float | None = None
    ttft_measured: Measured = field(default_factory=Measured)
    itl_measured: Measured = field(default_factory=Measured)
    kv: float | None = None
    cost: float | None = None
    advisory: bool = False
    interruptible: bool = False
    shared: Shared | None = None
    share: float | None = None
    cut_by: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """`NAMESPACE/NAME`, unique in the fleet."""
        return f"{self.namespace}/{self.name}"

    @property
    def bundle(self) -> tuple[str, str]:
        """What is shown together: the group by its name, or the variant alone by its key."""
        return ("", self.key) if self.shared is None else ("group", self.shared.name)

    @property
    def ttft_p50(self) -> float | None:
        """Median time to first token."""
        return self.ttft_measured.p50

    @property
    def ttft_p95(self) -> float | None:
        """95th percentile of the time to first token."""
        return self.ttft_measured.p95

    @property
    def itl_p50(self) -> float | None:
        """Median inter-token latency."""
        return self.itl_measured.p50

    @property
    def itl_p95(self) -> float | None:
        """95th percentile of the inter-token latency."""
        return self.itl_measured.p95

    @property
    def urgency(self) -> int:
        """Place among the states; 0 is the most urgent."""
        return URGENCY[self.state]


def of_document(document: Mapping[str, Any]) -> Row:
    """Make the row of one variant's document of `/variants`; of a refusal too."""
    if "desiredReplicas" not in document:
        return Row(
            namespace=str(document["namespace"]),
            name=str(document["name"]),
            state="invalid",
            states=("invalid",),
            why=str(document.get("problem") or ""),
        )
    load: Mapping[str, Any] = document.get("load") or {}
    decision: Mapping[str, Any] = document.get("decision") or {}
    targets: Mapping[str, Any] = document["targets"]
    ready = int(document["readyReplicas"])
    asked = max(int(document["currentReplicas"]), int(document["specReplicas"]))
    offered = load.get("arrivalRatePerMinute")
    measured = (Measured.of(document, "ttft"), Measured.of(document, "itl"))
    states = tuple(_states(document, load, decision, measured, ready=ready))
    reasons = [document["problem"], document["reason"], *document["heldBackBy"]]
    return Row(
        namespace=str(document["namespace"]),
        name=str(document["name"]),
        model=str(document["model"]),
        service_class=str(document["serviceClass"]),
        accelerator=str(document["desiredAccelerator"] or document["accelerator"]),
        state=states[0],
        states=states,
        why="; ".join(filter(None, reasons)),
        ready=ready,
        starting=max(asked - ready, 0),
        desired=_desired(document),
        offered=offered,
        served=None
        if offered is None
        else max(offered - max(load.get("queueGrowthPerMinute") or 0.0, 0.0), 0.0),
        planned=decision.get("arrivalRatePerMinute"),
        running=load.get("runningRequests"),
        waiting=load.get("waitingRequests"),
        ttft=load.get("ttftMilliseconds"),
        itl=load.get("itlMilliseconds"),
        # The saturation rule predicts nothing.
        ttft_predicted=decision.get("predictedTtftMilliseconds") if _predicts(decision) else None,
        itl_predicted=decision.get("predictedItlMilliseconds") if _predicts(decision) else None,
        ttft_slo=targets["ttftMilliseconds"],
        itl_slo=targets["itlMilliseconds"],
        percentile=targets["percentile"],
        ttft_measured=measured[0],
        itl_measured=measured[1],
        kv=load.get("kvCacheUsage"),
        cost=document.get("targetCost"),
        advisory=bool(document.get("advisory")),
        interruptible=bool(document.get("interruptible")),
        shared=Shared.of(document),
        share=(document.get("group") or {}).get("share"),
        cut_by=tuple(decision.get("cutBy") or ()),
    )


def _desired(document: Mapping[str, Any]) -> int | None:
    """Published replicas, or those that it advises."""
    name = "advisedReplicas" if document.get("advisory") else "desiredReplicas"
    replicas: int | None = document.get(name)
    return replicas


def _predicts(decision: Mapping[str, Any]) -> bool:
    return bool(decision) and decision["binding"] != "saturation" and decision["replicas"] > 0


def _states(
    document: Mapping[str, Any],
    load: Mapping[str, Any],
    decision: Mapping[str, Any],
    measured: Iterable[Measured],
    *,
    ready: int,
) -> Iterable[str]:
    """States of one variant, the most urgent first; `ok` where it has no other."""
    states = []
    if document["outcome"] == "CapacityShort" or decision.get("served", "full") != "full":
        states.append("short")
    if document["problem"]:
        states.append("held")
    # Without an observation another replica collects, and whether metrics are there is not known here.
    if "complete" in document and document["metrics"] != "MetricsFound":
        states.append("stale")
    if document["drift"]:
        states.append("drifting")
    targets = document["targets"]
    pairs = (
        (load.get("ttftMilliseconds"), targets["ttftMilliseconds"]),
        (load.get("itlMilliseconds"), targets["itlMilliseconds"]),
    )
    misses = (item.misses(targets["percentile"]) for item in measured)
    above = (mean and target and mean > target for mean, target in pairs)
    if any(above) or any(misses):
        states.append("slow")
    desired = document["desiredReplicas"]
    # Nobody follows advice.
    if document.get("advisory"):
        states.append("advisory")
    elif desired is not None and desired != ready:
        states.append("scaling")
    return states or ["ok"]


SORTS: Mapping[str, str] = {
    "attention": "What needs attention first, groups together",
    "name": "Namespace and name",
    "offered": "Offered load, highest first",
    "ttft": "TTFT over its SLO, highest first",
    "itl": "ITL over its SLO, highest first",
    "kv": "KV cache use, highest first",
    "replicas": "Desired replicas, most first",
    "cost": "Cost per hour, highest first",
}
"""Orders of rows with their meaning."""


def ordered(rows: Iterable[Row], sort: str) -> list[Row]:
    """Sort rows; an order that does not exist is `attention`. Unknown numbers come last."""
    by_name = sorted(rows, key=lambda row: (row.namespace, row.name))
    if sort == "name":
        return by_name
    if sort in SORTS and sort != "attention":
        return sorted(by_name, key=lambda row: -_measure(row, sort))
    worst: dict[tuple[str, str], int] = {}
    placed = [(row.bundle, row.urgency, row) for row in by_name]
    for bundle, urgency, _ in placed:
        worst[bundle] = min(worst.get(bundle, urgency), urgency)
    placed.sort(key=lambda item: (worst[item[0]], item[0][1], item[0][0], item[1]))
    return [row for _, _, row in placed]


def _measure(row: Row, sort: str) -> float:
    """Number that an order goes by; below all others where it is not known."""
    unknown = -1.0
    if sort == "ttft":
        return row.ttft / row.ttft_slo if row.ttft is not None and row.ttft_slo else unknown
    if sort == "itl":
        return row.itl / row.itl_slo if row.itl is not None and row.itl_slo else unknown
    numbers = {"offered": row.offered, "kv": row.kv, "replicas": row.desired, "cost": row.cost}
    number = numbers[sort]
    return unknown if number is None else float(number)


def selected(
    rows: Iterable[Row], *, words: str = "", state: str = "", service_class: str = ""
) -> list[Row]:
    """Rows that have every word in their names, that state, and that class; empty asks for nothing."""
    searched = words.casefold().split()
    return [
        row
        for row in rows
        if (not state or state in row.states)
        and (not service_class or row.service_class == service_class)
        and _has(row, searched)
    ]


def _has(row: Row, words: Sequence[str]) -> bool:
    if not words:
        return True
    names = (row.key, row.model, row.service_class, row.accelerator, row.bundle[1])
    text = " ".join(names).casefold()
    return all(word in text for word in words)
