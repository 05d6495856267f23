"""`doctor`: what is wrong with an installation in a cluster, and how to fix it."""

from __future__ import annotations

from collections.abc import AsyncIterator

from adapter.auth.users import ReviewError
from adapter.diagnostics import aggregation, configuration, hpas, permissions, variants
from adapter.diagnostics.site import Check, Finding, Site
from adapter.kube.errors import ApiError

CHECKS: tuple[Check, ...] = (
    aggregation.version,
    aggregation.layer,
    variants.definition,
    variants.versions,
    aggregation.api_service,
    aggregation.lease,
    permissions.adapter,
    permissions.hpa_controller,
    configuration.config_maps,
    variants.statuses,
    hpas.check,
    configuration.prometheus,
)


async def findings(site: Site) -> AsyncIterator[Finding]:
    """Run all checks, one after the other; changes nothing.

    A check that may not read what it needs is a finding, and the next one runs.
    """
    for check in CHECKS:
        try:
            async for finding in check(site):
                yield finding
        except (ApiError, ReviewError) as error:
            yield Finding(
                "error", f"check failed: {error}", "run doctor with more rights, or try again later"
            )
