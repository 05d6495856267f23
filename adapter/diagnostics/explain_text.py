"""Explanations as text for people.

Apart from `explain`, so that the command loads neither controller nor collector.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def lines(explanation: Mapping[str, Any]) -> list[str]:
    """Lines of text for one variant's explanation, as `/variants/NAMESPACE/NAME` gives it."""
    text = [f"{explanation['namespace']}/{explanation['name']}"]

    def add(name: str, value: object) -> None:
        if value not in (None, "", []):
            text.append(f"  {name:<14}{value}")

    add("model", explanation.get("model"))
    add("class", explanation.get("serviceClass"))
    add("scales", explanation.get("scaleTarget"))
    if "currentReplicas" in explanation:
        add("current", f"{explanation['currentReplicas']} x {explanation['accelerator'] or '?'}")
        advised = explanation.get("advisedReplicas")
        desired = explanation["desiredReplicas"] if advised is None else advised
        age = explanation.get("decidedSecondsAgo")
        add(
            "target" if advised is None else "advises",
            "none"
            if desired is None
            else f"{desired} x {explanation['desiredAccelerator'] or '?'}"
            + (f", decided {age:.0f} s ago" if age is not None else ""),
        )
    add("profile", _profile(explanation))
    add("reason", explanation.get("reason"))
    add("problem", explanation.get("problem"))
    for problem in explanation.get("configuration") or ():
        add("configured", problem)
    load = explanation.get("load")
    if load is not None:
        add("load", _load(load))
        add("metrics", _source(explanation, load))
        add("not counted", explanation.get("metricsNote"))
        add("observed", _latencies(load))
        for name, item in (explanation.get("latencies") or {}).items():
            add("measured", _measured(name.upper(), item))
    decision = explanation.get("decision")
    if decision is not None:
        add("bound by", decision["binding"])
        add(
            "predicted",
            f"TTFT {decision['predictedTtftMilliseconds']:.0f} ms,"
            f" ITL {decision['predictedItlMilliseconds']:.1f} ms, {decision['cost']:g} cents/h",
        )
        add("next best", decision["runnerUp"])
        for shortage in decision["shortages"]:
            add("short", shortage)
        for ceiling in decision.get("cutBy") or ():
            add("cut by", ceiling)
    group = explanation.get("group")
    if group is not None:
        for name, line in _group_lines(group):
            add(name, line)
    for reason in explanation.get("heldBackBy") or ():
        add("held back", reason)
    for item in (explanation.get("history") or ())[-3:]:
        add("history", _decided(item))
    return text


def _decided(item: Mapping[str, Any]) -> str:
    replicas = "none" if item["replicas"] is None else item["replicas"]
    before = "none" if item["before"] is None else item["before"]
    return f"{item['time']}: {before} -> {replicas} x {item['accelerator']}: {item['reason']}"


def _profile(explanation: Mapping[str, Any]) -> str:
    """Where the profile comes from, and what it was measured at."""
    source, profile = explanation.get("profileSource") or "", explanation.get("profile")
    if not source or profile is None:
        return source
    text = f"{source}, {profile['form']}"
    if profile.get("estimate"):
        text += f" ({profile['estimate']})"
    if "windows" in profile:
        text += f", {profile['windows']} windows observed"
    if "atInputTokens" not in profile:
        return text
    measured_in, measured_out = profile["atInputTokens"], profile["atOutputTokens"]
    if measured_in and measured_out:
        return f"{text} measured at {measured_in:g}/{measured_out:g} tokens"
    return f"{text} without the lengths that they hold for (atInputTokens, atTokens)"


def _load(load: Mapping[str, Any]) -> str:
    text = f"{load['arrivalRatePerMinute']:g} req/min"
    if load["outputTokens"]:
        text += f", {load['inputTokens'] or 0:.0f} tokens in"
        if load.get("cachedInputTokens"):
            text += f" ({load['cachedInputTokens']:.0f} from the prefix cache)"
        text += f", {load['outputTokens']:.0f} out"
        if load.get("usedVariation"):
            varies_in, varies_out = load["usedVariation"]
            text += f", varying by {varies_in:.2f}/{varies_out:.2f} ({load['variationSource']})"
    if load["observedSecondsAgo"] is not None:
        text += f", observed {load['observedSecondsAgo']:.0f} s ago"
    return text


def _source(explanation: Mapping[str, Any], load: Mapping[str, Any]) -> str:
    """Where the metrics come from, and the requests and KV cache now."""
    text = f"{explanation['metrics']} by {explanation.get('metricsSource') or 'no source'}"
    how = explanation.get("metricsAttributedBy")
    if how and how != "pod":
        text += f" (attributed by {how})"
    text += f"; {load['runningRequests']:g} running, {load['waitingRequests']:g} waiting"
    if explanation.get("atGateway"):
        text += f"; at the gateway: {explanation['atGateway']}"
    cache, tokens = load["kvCacheUsage"], load.get("kvCacheTokens")
    if cache is not None:
        text += f", KV cache {cache:.0%}"
        if tokens:
            text += f" of {tokens:,.0f} tokens"
    preemptions = load.get("preemptionsPerMinute")
    return f"{text}, {preemptions:g} preemptions/min" if preemptions else text


def _measured(name: str, item: Mapping[str, Any]) -> str:
    """Percentiles and attainment by histograms, or why there are none."""
    if item["p50Milliseconds"] is None:
        return f"{name} percentiles not known: {item['problem']}" if item["count"] else ""
    text = f"{name} p50 {item['p50Milliseconds']:.1f} ms, p95 {item['p95Milliseconds']:.1f} ms"
    if item["withinTarget"] is not None:
        text += f", {item['withinTarget']:.1%} within the SLO target"
    return f"{text} ({item['problem']})" if item["problem"] else text


def _latencies(load: Mapping[str, Any]) -> str:
    shown = (("TTFT", load["ttftMilliseconds"]), ("ITL", load["itlMilliseconds"]))
    return ", ".join(f"{name} {value:.1f} ms" for name, value in shown if value is not None)


def _group_lines(group: Mapping[str, Any]) -> list[tuple[str, str]]:
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
