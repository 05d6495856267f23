"""`doctor`: what is wrong with an installation in a cluster, and how to fix it."""

from __future__ import annotations

from collections.abc import AsyncIterator

from adapter.auth.users import ReviewError
from adapter.diagnostics import aggregation, configuration, permissions, variants
from adapter.diagnostics.site import SCALERS, Check, Finding, Site, failed
from adapter.kube import advice
from adapter.kube.errors import ApiError, Unauthorized


async def _hpas(site: Site) -> AsyncIterator[Finding]:
    """Whether HPAs follow the targets of the variants, where there are HPAs or variants."""
    if await site.objects(SCALERS) or await site.variants():
        # Schemas take long to load, and are needed only where there is an object to read.
        from adapter.diagnostics import hpas  # noqa: PLC0415

        for check in (hpas.check, hpas.managed_targets):
            async for finding in check(site):
                yield finding


CHECKS: tuple[Check, ...] = (
    aggregation.version,
    aggregation.layer,
    variants.definition,
    variants.versions,
    aggregation.api_service,
    aggregation.deployment,
    aggregation.lease,
    permissions.adapter,
    permissions.hpa_controller,
    configuration.config_maps,
    variants.others,
    variants.statuses,
    _hpas,
    configuration.prometheus,
)


async def findings(site: Site) -> AsyncIterator[Finding]:
    """Run all checks, one after the other; changes nothing.

    A check that may not read what it needs is a finding, and the next one runs; where the first has no answer
    at all, or no credentials that are accepted, or the server is no Kubernetes API server, the others would
    say nothing. What several checks meet is said once.
    """
    if (other := await aggregation.other_server(site)) is not None:
        yield other
        return
    refused = set[Finding]()
    for check in CHECKS:
        try:
            async for finding in check(site):
                yield finding
        except (ApiError, ReviewError) as error:
            if check is CHECKS[0] and isinstance(error, ApiError) and not error.answered:
                yield Finding("error", f"no answer of the API server: {error}", advice.NO_ANSWER)
                return
            if (finding := failed(error)) not in refused:
                yield finding
            if isinstance(error, Unauthorized):
                return
            refused.add(finding)
