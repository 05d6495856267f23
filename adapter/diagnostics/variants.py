"""Checks of the VariantAutoscalings: their CRD and their conditions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from importlib import metadata
from typing import Any

from adapter.diagnostics.site import MOST_NAMED, VARIANTS, Finding, Site, key_of
from adapter.kube import paths
from adapter.resources.stored_status import CONFIGURATION

_FIX = "kubectl apply -k manifests/crd"

_DEFINITIONS, _NAME = "apiextensions.k8s.io/v1", "variantautoscalings.llmd.ai"


async def definition(site: Site) -> AsyncIterator[Finding]:
    """Whether the CRD is installed, with its status subresource."""
    resources = await site.find(paths.root(VARIANTS)) or {}
    names = {item.get("name") for item in resources.get("resources") or ()}
    if "variantautoscalings" not in names:
        yield Finding("error", "no CRD variantautoscalings.llmd.ai", _FIX)
    elif "variantautoscalings/status" not in names:
        yield Finding("error", "CRD variantautoscalings.llmd.ai has no status subresource", _FIX)
    else:
        yield Finding("ok", "CRD variantautoscalings.llmd.ai")


async def versions(site: Site) -> AsyncIterator[Finding]:
    """Whether CRD, adapter and this program are of one version, by the labels that the manifests set."""
    definition = await site.find(paths.item(_DEFINITIONS, "customresourcedefinitions", _NAME))
    if definition is None:
        return  # a finding of its own
    deployment = await site.deployment()
    crd, own = _version(definition), metadata.version("variant-adapter")
    adapter = _version(deployment)
    if not crd:
        yield Finding(
            "warning",
            f"CRD {_NAME} has no version: it is of another project, or of an older adapter",
            _FIX,
        )
    elif adapter and crd != adapter:
        yield Finding(
            "error",
            f"CRD {_NAME} is of version {crd}, the adapter of {adapter}: fields of its status may get lost",
            f"{_FIX}, of the release {adapter}",
        )
    elif own != (adapter or crd):
        yield Finding(
            "warning",
            f"the adapter is of version {adapter or crd}, this program of {own}: its checks may not fit",
            f"run doctor of version {adapter or crd}",
        )
    else:
        yield Finding("ok", f"CRD and adapter of version {own}")


def _version(item: Mapping[str, Any]) -> str:
    labels = (item.get("metadata") or {}).get("labels") or {}
    return str(labels.get("app.kubernetes.io/version") or "")


async def statuses(site: Site) -> AsyncIterator[Finding]:
    """Whether every variant has a status without failed conditions."""
    items = await site.variants()
    if not items:
        yield Finding(
            "warning", "no VariantAutoscaling", "create one per Deployment, see manifests/samples"
        )
    fine = []
    for item in items:
        conditions = (item.get("status") or {}).get("conditions") or ()
        failed = [condition for condition in conditions if condition.get("status") == "False"]
        # A target that is served, from less than what was written, comes after one that is not.
        failed.sort(key=lambda condition: condition.get("type") == CONFIGURATION)
        shown = f"VariantAutoscaling {key_of(item)}"
        if not conditions:
            yield Finding(
                "warning", f"{shown}: has no status yet", "see the finding on the leader, above"
            )
        elif failed:
            yield Finding(
                "warning" if failed[0].get("type") == CONFIGURATION else "error",
                f"{shown}: {failed[0].get('reason')}: {failed[0].get('message')}",
                f"variant-adapter explain {key_of(item)}",
            )
        else:
            fine.append(shown)
    if len(fine) > MOST_NAMED:
        fine = [f"{len(fine)} VariantAutoscalings"]
    for shown in fine:
        yield Finding("ok", shown)
