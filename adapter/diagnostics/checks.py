"""Single checks of `doctor`: permissions, the fields of an HPA, Prometheus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import aiohttp

from adapter.auth import reviews
from adapter.auth.authorization import Attributes
from adapter.collector import promql
from adapter.collector.prometheus import PrometheusClient, PrometheusError, PrometheusOptions
from adapter.installation import API_SERVICE, Names
from adapter.resources import hpa
from adapter.store import OWN_METRICS

OLDEST_MINOR, TOLERANCE_MINOR = 32, 33


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `fix` says what to do about it."""

    level: Literal["ok", "warning", "error"]
    what: str
    fix: str = ""


def of_scaler(
    shown: str,
    scaler: hpa.Scaler,
    reading: hpa.Reading,
    minor: int,
    config: Mapping[str, str],
) -> list[Finding]:
    """What an HPA's own fields do to our metric; `minor` of Kubernetes, `config` of our ConfigMap."""
    found = []
    if reading.target_type != "AverageValue":
        found.append(
            Finding(
                "error",
                f"{shown}: target.type {reading.target_type} multiplies the target by the replicas at every"
                " sync",
                'set target: {type: AverageValue, averageValue: "1"}',
            )
        )
    elif reading.metric in OWN_METRICS and reading.metric.endswith("desired_replicas"):
        if reading.target != 1:
            found.append(
                Finding(
                    "error",
                    f"{shown}: averageValue {reading.target:g} divides the replicas"
                    if reading.target
                    else f"{shown}: averageValue is no number above 0",
                    'set averageValue: "1"',
                )
            )
    else:
        found.append(
            Finding(
                "error",
                f"{shown}: {reading.metric} is no number of replicas",
                "read inferno_desired_replicas",
            )
        )
    loose = [
        name
        for name, tolerance in (
            ("scaleUp", scaler.up_tolerance),
            ("scaleDown", scaler.down_tolerance),
        )
        if tolerance > 0
    ]
    if loose and minor >= TOLERANCE_MINOR and scaler.maximum >= 1 / hpa.DEFAULT_TOLERANCE:
        found.append(
            Finding(
                "warning",
                f"{shown}: ignores changes of up to 10 %, so not every step below"
                f" {scaler.maximum} replicas is followed",
                "set " + " and ".join(f"behavior.{name}.tolerance: 0" for name in loose),
            )
        )
    if config.get("WVA_SCALE_TO_ZERO", "").lower() == "true" and scaler.minimum > 0:
        fix = "set minReplicas: 0 (feature gate HPAScaleToZero), or annotate llmd.ai/actuate: scale"
        found.append(
            Finding(
                "warning",
                f"{shown}: WVA_SCALE_TO_ZERO is on, but minReplicas is {scaler.minimum}",
                fix,
            )
        )
    return found


def needed(names: Names) -> list[Attributes]:
    """What the adapter's service account has to be allowed."""

    def ask(verbs: str, group: str, resource: str, *where: str) -> list[Attributes]:
        """`where`: namespace and name, as far as they matter; the resource may have a subresource."""
        namespace, name = (*where, "", "")[:2]
        plural, _, sub = resource.partition("/")
        return [
            Attributes(
                verb=verb,
                path="",
                group=group,
                namespace=namespace,
                resource=plural,
                subresource=sub,
                name=name,
            )
            for verb in verbs.split()
        ]

    space = names.namespace
    return [
        *ask("list watch", "llmd.ai", "variantautoscalings"),
        *ask("patch", "llmd.ai", "variantautoscalings/status"),
        *ask("list watch", "apps", "deployments"),
        *ask("patch", "apps", "deployments/scale"),
        *ask("list watch", "autoscaling", "horizontalpodautoscalers"),
        *ask("list watch", "", "pods"),
        *ask("create", "events.k8s.io", "events"),
        *ask("create", "authentication.k8s.io", "tokenreviews"),
        *ask("create", "authorization.k8s.io", "subjectaccessreviews"),
        *ask("get patch", "apiregistration.k8s.io", "apiservices", "", API_SERVICE),
        *ask("list watch", "", "configmaps", space),
        *ask("create", "coordination.k8s.io", "leases", space),
        *ask("get update", "coordination.k8s.io", "leases", space, names.lease),
        *ask("create", "", "secrets", space),
        *ask("get update", "", "secrets", space, names.secret),
        *ask("list watch", "", "configmaps", reviews.CONFIG_NAMESPACE, reviews.CONFIG_NAME),
    ]


async def of_prometheus(options: PrometheusOptions, models: set[str]) -> list[Finding]:
    """Whether a Prometheus answers and has the metrics of these models, with the labels that tell pods."""
    try:
        # As the control loop does it, so that what it runs into is found here.
        async with aiohttp.ClientSession() as session:
            answer = await PrometheusClient(session, options).query(promql.fleet())
    except PrometheusError as error:
        return [Finding("error", str(error), "check --prometheus and what goes with it")]
    found = promql.pods(answer.samples)
    where = f"Prometheus {options.shown_url}"
    findings = [
        Finding("warning", f"{where} warns: {text}", "its answers may be parts")
        for text in answer.warnings
    ]
    served = {item.model for item in found}
    missing = sorted(models - served)
    if missing:
        findings.append(
            Finding(
                "error",
                f"{where} has no vLLM or SGLang metrics of {', '.join(missing)}; it has"
                f" {', '.join(sorted(served)) or 'none'}",
                "a PodMonitor for the servers, and modelID as vLLM's --served-model-name says it",
            )
        )
    bare = sorted({item.model for item in found if not (item.namespace and item.pod)} & models)
    if bare:
        findings.append(
            Finding(
                "warning",
                f"{where}: series of {', '.join(bare)} have no namespace or pod label",
                "scrape them by a PodMonitor: without these labels variants of one model look alike",
            )
        )
    if not findings:
        findings.append(Finding("ok", f"{where} has the metrics of all models"))
    return findings
