"""The group on the page of one of its variants: who carries what share of the demand, and at what cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapter.ui.parts import Shared
from adapter.ui.rows import Row
from adapter.ui.snapshots import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Carrier:
    """One variant of a group.

    Attributes:
        replicas: Desired replicas; None where the variant is not planned.
        share: Part of the demand that it carries, 0 to 1.
        marginal: Cents per 1,000 requests of one replica more.
        per_pod: Requests per minute that one of its pods is offered.
        note: Why it does not get what was planned, or is not planned with the group.

    """

    key: str
    namespace: str
    name: str
    accelerator: str
    interruptible: bool
    replicas: int | None
    share: float | None
    marginal: float | None
    per_pod: float | None
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A group as its variants' pages show it.

    Attributes:
        carriers: Its variants, those that carry most first.
        spot: Part of the demand that interruptible variants carry; None where there are none.

    """

    shared: Shared
    carriers: tuple[Carrier, ...]
    spot: float | None


def context(snapshot: Snapshot, row: Row, document: Mapping[str, Any]) -> Group | None:
    """The group of a variant; None where it is alone."""
    if row.shared is None:
        return None
    rows = {item.key: item for item in snapshot.rows}
    members: Mapping[str, Mapping[str, Any]] = document["group"]["members"]
    carriers = [_carrier(key, item, rows.get(key)) for key, item in members.items()]
    spot = [item.share for item in carriers if item.interruptible]
    return Group(
        shared=row.shared,
        carriers=tuple(sorted(carriers, key=lambda item: (-(item.share or 0.0), item.key))),
        spot=sum(share or 0.0 for share in spot) if spot else None,
    )


def _carrier(key: str, item: Mapping[str, Any], row: Row | None) -> Carrier:
    namespace, _, name = key.partition("/")
    return Carrier(
        key=key,
        namespace=namespace,
        name=name,
        accelerator="" if row is None else row.accelerator,
        interruptible=row is not None and row.interruptible,
        replicas=item["replicas"],
        share=item["share"],
        marginal=item["centsPerThousandRequests"],
        per_pod=item["observedPerPodPerMinute"],
        note="; ".join(filter(None, (item["unavailable"], item["held"]))),
    )
