"""Checks of the HPAs that read the adapter's metrics: their fields, and the values that they are served."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from adapter.diagnostics import configuration
from adapter.diagnostics.aggregation import TOLERANCE_MINOR
from adapter.diagnostics.site import Finding, Site, key_of
from adapter.installation import METRICS
from adapter.kube import paths
from adapter.kube.errors import ApiError
from adapter.resources import hpa
from adapter.store import OWN_METRICS


async def check(site: Site) -> AsyncIterator[Finding]:
    """Every HPA that reads the adapter's metrics, and every variant that no HPA reads."""
    minor, settings = await site.minor(), await configuration.settings(site)
    variants = {key_of(item): item for item in await site.variants()}
    read = set()
    for scaler in map(
        hpa.parse,
        await site.objects(paths.collection("autoscaling/v2", "horizontalpodautoscalers")),
    ):
        for reading in scaler.readings:
            key = f"{scaler.namespace}/{reading.variant}"
            read.add(key)
            shown = f"HorizontalPodAutoscaler {scaler.namespace}/{scaler.name}"
            problems = of_fields(shown, scaler, reading, minor, settings)
            for finding in problems:
                yield finding
            if key in variants:
                finding = await _served(site, shown, scaler, reading)
                if finding.level != "ok" or not problems:
                    yield finding
            else:
                yield Finding(
                    "error",
                    f"{shown}: selects variant_name={reading.variant or '(nothing)'}, which does not exist"
                    f" in namespace {scaler.namespace}",
                    "set matchLabels.variant_name to the VariantAutoscaling's name",
                )
    for key, item in sorted(variants.items()):
        if key not in read and _annotations(item).get("llmd.ai/actuate") != "scale":
            yield Finding(
                "warning",
                f"VariantAutoscaling {key}: no HPA reads its target",
                "create one like manifests/samples/hpa.yaml, or set --actuate=scale",
            )


def _annotations(item: Mapping[str, Any]) -> Mapping[str, Any]:
    return (item.get("metadata") or {}).get("annotations") or {}


async def _served(site: Site, shown: str, scaler: hpa.Scaler, reading: hpa.Reading) -> Finding:
    """What an HPA gets when it reads the metric."""
    query = (("labelSelector", f"variant_name={reading.variant}"),)
    try:
        path = paths.metric(f"{METRICS}/v1beta1", scaler.namespace, reading.metric)
        document = await site.cluster.request("GET", path, query=query)
    except ApiError as error:
        return Finding("error", f"{shown}: {error}", "see the APIService, above")
    values = [str(item.get("value")) for item in document.get("items") or ()]
    if len(values) != 1:
        return Finding(
            "error",
            f"{shown}: gets {len(values)} values of {reading.metric}, needs exactly one",
            f"variant-adapter explain {scaler.namespace}/{reading.variant}",
        )
    return Finding("ok", f"{shown}: reads {reading.metric} = {values[0]}")


def of_fields(
    shown: str,
    scaler: hpa.Scaler,
    reading: hpa.Reading,
    minor: int,
    settings: Mapping[str, str],
) -> list[Finding]:
    """Fields of an HPA that change what the target means, or keep the HPA from following it.

    Args:
        shown: kind and name for messages.
        scaler: the HPA.
        reading: one of the adapter's metrics in it.
        minor: minor version of Kubernetes.
        settings: data of the adapter's ConfigMap.

    """
    findings = _of_target(shown, reading)
    tolerances = {"scaleUp": scaler.up_tolerance, "scaleDown": scaler.down_tolerance}
    loose = [name for name, tolerance in tolerances.items() if tolerance > 0]
    if loose and minor >= TOLERANCE_MINOR and scaler.maximum >= 1 / hpa.DEFAULT_TOLERANCE:
        findings.append(
            Finding(
                "warning",
                f"{shown}: ignores changes of up to 10 %, so not every step below"
                f" {scaler.maximum} replicas is followed",
                "set " + " and ".join(f"behavior.{name}.tolerance: 0" for name in loose),
            )
        )
    if settings.get("WVA_SCALE_TO_ZERO", "").lower() == "true" and scaler.minimum > 0:
        findings.append(
            Finding(
                "warning",
                f"{shown}: WVA_SCALE_TO_ZERO is on, but minReplicas is {scaler.minimum}",
                "set minReplicas: 0 (feature gate HPAScaleToZero), or annotate llmd.ai/actuate: scale",
            )
        )
    return findings


def _of_target(shown: str, reading: hpa.Reading) -> list[Finding]:
    """Whether the HPA uses the metric as a replica count."""
    if reading.target_type != "AverageValue":
        return [
            Finding(
                "error",
                f"{shown}: target.type {reading.target_type} multiplies the target by the replicas at every"
                " sync",
                'set target: {type: AverageValue, averageValue: "1"}',
            )
        ]
    if reading.metric not in OWN_METRICS or not reading.metric.endswith("desired_replicas"):
        return [
            Finding(
                "error",
                f"{shown}: {reading.metric} is not a replica count",
                "read inferno_desired_replicas",
            )
        ]
    if reading.target == 1:
        return []
    what = (
        f"averageValue {reading.target:g} divides the replicas"
        if reading.target
        else "averageValue is not a number above 0"
    )
    return [Finding("error", f"{shown}: {what}", 'set averageValue: "1"')]
