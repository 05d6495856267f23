"""Explanations of groups as text for people; apart from `groups`, as `explain_text` is from `explain`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def lines(group: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and texts of the lines that explain a group to people."""
    text = [("group", f"{group['name']}, routing {group['routing']}{_spread(group)}")]
    offered = f"{group['observedArrivalRatePerMinute']:g} req/min at pods"
    if group["gatewayArrivalRatePerMinute"] is not None:
        offered += f", {group['gatewayArrivalRatePerMinute']:g} at gateways"
    sized = f"{offered}, {group['waitingRequests']:g} waiting; sized for {group['demandPerMinute']:g} req/min"
    text.append(("demand", sized))
    if "cost" in group:
        carried = (
            f"{group['capacityPerMinute']:g} req/min for {group['cost']:g} cents/h ({group['served']}),"
            f" bound by {group['binding']}"
        )
        text.append(("carried by", carried))
    text += [("", _line(key, item)) for key, item in group["members"].items()]
    text += [("note", note) for note in group["notes"]]
    text += [
        (name, str(group[field]))
        for name, field in (
            ("group reason", "reason"),
            ("next split", "runnerUp"),
            ("waking", "waking"),
            ("group problem", "problem"),
        )
        if group.get(field)
    ]
    return text + [("cut by", item) for item in group.get("cutBy") or ()]


def _spread(group: Mapping[str, Any]) -> str:
    return f", observed {group['observedSpread']} over pods" if group["observedSpread"] else ""


def _line(key: str, item: Mapping[str, Any]) -> str:
    replicas = "?" if item["replicas"] is None else item["replicas"]
    text = f"{key}: {replicas} replicas"
    if item["share"] is not None:
        text += f" carry {item['share']:.0%}"
    if item["centsPerThousandRequests"] is not None:
        text += f", the next at {item['centsPerThousandRequests']:g} cents per 1,000 requests"
    if item["observedPerPodPerMinute"] is not None:
        text += f", {item['observedPerPodPerMinute']:g} req/min per pod observed"
    for field in ("unavailable", "held"):
        if item[field]:
            text += f"; {item[field]}"
    return text
