"""Checks of the VariantAutoscalings: their CRD and their conditions."""

from __future__ import annotations

from collections.abc import AsyncIterator

from adapter.diagnostics.site import VARIANTS, Finding, Site, key_of
from adapter.kube import paths
from adapter.resources.stored_status import CONFIGURATION

_FIX = "kubectl apply -k manifests/crd"


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


async def statuses(site: Site) -> AsyncIterator[Finding]:
    """Whether every variant has a status without failed conditions."""
    items = await site.variants()
    if not items:
        yield Finding(
            "warning", "no VariantAutoscaling", "create one per Deployment, see manifests/samples"
        )
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
            yield Finding("ok", shown)
