"""Fields of an HPA that change what a target means, or keep it from being followed."""

from __future__ import annotations

from collections.abc import Mapping

from adapter.diagnostics.aggregation import TOLERANCE_MINOR, ZERO_MINOR
from adapter.diagnostics.site import Finding
from adapter.resources import hpa
from adapter.store import OWN_METRICS

_LONGEST_WAIT_SECONDS = 30
"""Stabilization window of a rise up to which it does no harm: two rounds of the HPA controller."""

_LONGEST_STEP_SECONDS = 60
"""Seconds for each replica that an HPA adds, up to which that is no slower than they start."""


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
    if scaler.others and reading == scaler.readings[0]:
        findings.append(
            Finding(
                "warning",
                f"{shown}: also reads {', '.join(scaler.others)}, and follows the largest of all: replicas"
                " may stay above the target",
                "remove the other metrics, unless they are to be a floor",
            )
        )
    findings += of_behavior(shown, scaler, minor)
    if settings.get("WVA_SCALE_TO_ZERO", "").lower() == "true" and scaler.minimum > 0:
        findings.append(
            Finding(
                "warning",
                f"{shown}: WVA_SCALE_TO_ZERO is on, but minReplicas is {scaler.minimum}",
                "set minReplicas: 0"
                + ("" if minor >= ZERO_MINOR else " (feature gate HPAScaleToZero)")
                + ", or annotate llmd.ai/actuate: scale",
            )
        )
    return findings


def of_behavior(shown: str, scaler: hpa.Scaler, minor: int) -> list[Finding]:
    """Rules of `behavior` that keep an HPA from following its metric; of one that KEDA made too.

    Args:
        shown: kind and name for messages.
        scaler: the HPA.
        minor: minor version of Kubernetes.

    """
    findings: list[Finding] = []
    tolerances = {"scaleUp": scaler.up_tolerance, "scaleDown": scaler.down_tolerance}
    # A step of one replica is ignored from 1 / tolerance replicas on.
    loose = {name: part for name, part in tolerances.items() if scaler.maximum * part >= 1}
    if loose and minor >= TOLERANCE_MINOR:
        findings.append(
            Finding(
                "warning",
                f"{shown}: ignores changes of up to {100 * max(loose.values()):.3g} %, so not every"
                f" step below {scaler.maximum} replicas is followed",
                "set " + " and ".join(f"behavior.{name}.tolerance: 0" for name in loose),
            )
        )
    findings += _slow_rise(shown, scaler)
    disabled = {"scaleUp": scaler.up_disabled, "scaleDown": scaler.down_disabled}
    findings += [
        Finding(
            "warning",
            f"{shown}: behavior.{name}.selectPolicy is Disabled, so it never follows the target there",
            f"set behavior.{name}.selectPolicy: Max",
        )
        for name, off in disabled.items()
        if off
    ]
    return findings


def _slow_rise(shown: str, scaler: hpa.Scaler) -> list[Finding]:
    """What keeps an HPA from following a rise of the target soon, while requests wait."""
    findings = []
    if scaler.up_seconds > _LONGEST_WAIT_SECONDS:
        findings.append(
            Finding(
                "warning",
                f"{shown}: behavior.scaleUp.stabilizationWindowSeconds is {scaler.up_seconds}, so it follows"
                " a rise of the target only after that",
                "set behavior.scaleUp.stabilizationWindowSeconds: 0; the adapter has proved the rise",
            )
        )
    policy = scaler.slowed(1, max(scaler.maximum, 1))
    if policy is not None and policy.seconds > _LONGEST_STEP_SECONDS * policy.most(1):
        findings.append(
            Finding(
                "warning",
                f"{shown}: behavior.scaleUp.policies let it add {policy.most(1)} in {policy.seconds} s,"
                " slower than replicas start",
                "raise behavior.scaleUp.policies, as manifests/samples/hpa.yaml does",
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
