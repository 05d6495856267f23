"""Checks of the path from kube-apiserver to the adapter: version, aggregation, APIService, trust, leader."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from adapter.auth import reviews
from adapter.diagnostics.site import Finding, Site
from adapter.installation import API_SERVICE
from adapter.kube import paths
from adapter.kube.errors import ApiError, NotFound
from adapter.kube.lease import LEASES

OLDEST_MINOR = 32
"""Minor version of Kubernetes that the adapter needs."""

TOLERANCE_MINOR = 35
"""Minor version of Kubernetes since which HPAs have `behavior.*.tolerance` by default; feature gate
HPAConfigurableTolerance is alpha and off in 1.33 and 1.34.
"""

ZERO_MINOR = 37
"""Minor version of Kubernetes since which feature gate HPAScaleToZero is on by default."""

_REGISTER = "kubectl apply -f manifests/base/apiservice.yaml"

LEASE_LATE_SECONDS = 60.0
"""Age of a renewal after which there is no leader, with room for clocks that differ."""


async def other_server(site: Site) -> Finding | None:
    """Why the server that answers is no Kubernetes API server; None where it is one, or is not known."""
    try:
        document = await site.version()
    except NotFound:
        said = "it has no /version"
    except ApiError:
        return None
    else:
        if str(document.get("major") or "1") == "1":
            return None
        said = f"its version is {document.get('gitVersion') or document['major']}"
    return Finding(
        "error",
        f"the server that the kubeconfig names is no Kubernetes API server: {said}",
        "name the cluster's kubeconfig with --kubeconfig and --context; `serve` on one machine has no cluster"
        " to check: ask it with explain --url and its --metrics-port",
    )


async def version(site: Site) -> AsyncIterator[Finding]:
    """Version of Kubernetes."""
    document = await site.version()
    minor = await site.minor()
    shown = f"Kubernetes {document.get('gitVersion') or f'1.{minor}'}"
    if minor < OLDEST_MINOR:
        yield Finding("error", f"{shown} is too old", f"use 1.{OLDEST_MINOR} or newer")
    elif minor < TOLERANCE_MINOR:
        yield Finding(
            "warning",
            f"{shown}: HPAs ignore changes of up to 10 %, without feature gate HPAConfigurableTolerance",
            f"use 1.{TOLERANCE_MINOR} or newer, where it is on, or turn it on (1.33 and 1.34), for"
            " behavior.*.tolerance; or use --actuate=scale",
        )
    else:
        yield Finding("ok", shown)


async def layer(site: Site) -> AsyncIterator[Finding]:
    """Whether kube-apiserver has a front-proxy certificate for aggregated APIs."""
    where = f"{reviews.CONFIG_NAMESPACE}/{reviews.CONFIG_NAME}"
    config = await site.find(reviews.CONFIG_ITEM) or {}
    if (config.get("data") or {}).get("requestheader-client-ca-file"):
        yield Finding("ok", "aggregation layer is on")
    else:
        yield Finding(
            "error",
            f"aggregation layer is off: ConfigMap {where} has no requestheader-client-ca-file",
            "start kube-apiserver with --requestheader-client-ca-file and --proxy-client-cert-file",
        )


async def api_service(site: Site) -> AsyncIterator[Finding]:
    """Whether the APIService points to this adapter, is available, and trusts its serving certificate."""
    names = site.names
    item = await site.find(paths.item("apiregistration.k8s.io/v1", "apiservices", API_SERVICE))
    service = ((item or {}).get("spec") or {}).get("service") or {}
    owner = f"{service.get('namespace')}/{service.get('name')}"
    ours = owner == f"{names.namespace}/{names.service}"
    if not ours and (why := await _needs_none(site)):
        yield Finding("ok", f"APIService {API_SERVICE} is not needed: {why}")
        return
    if item is None:
        # Not the whole base: it would make an advisory installation an active one.
        yield Finding("error", f"no APIService {API_SERVICE}", _REGISTER)
        return
    if not ours and service.get("name") == names.service:
        yield Finding(
            "error",
            f"APIService {API_SERVICE} belongs to the adapter of namespace {service.get('namespace')}",
            f"--config-namespace {service.get('namespace')} checks that one; a cluster has one external"
            " metrics API",
        )
        return
    if not ours:
        yield Finding(
            "error",
            f"APIService {API_SERVICE} belongs to Service {owner}",
            "a cluster has one: with KEDA, kubectl apply -k manifests/overlays/keda (docs/keda.md); else"
            f" {_REGISTER} points it to this adapter, and serve"
            f" --delegate-to https://{service.get('name')}.{service.get('namespace')}.svc proxies the metrics"
            " of the other adapter",
        )
        return
    condition: Mapping[str, Any] = next(
        (
            candidate
            for candidate in (item.get("status") or {}).get("conditions") or ()
            if candidate.get("type") == "Available"
        ),
        {},
    )
    if condition.get("status") == "True":
        yield Finding("ok", f"APIService {API_SERVICE} is available")
    else:
        why = condition.get("message") or "its condition Available is not set"
        yield Finding(
            "error",
            f"APIService {API_SERVICE} is not available: {why}",
            f"kubectl -n {names.namespace} get pods,endpointslices; read the log of {names.service}",
        )
    async for finding in _trust(site, item):
        yield finding


async def _needs_none(site: Site) -> str:
    """Why this installation serves no external metrics API; empty where it does."""
    if await site.flag("--keda-port") is not None:
        return "KEDA reads the targets (--keda-port)"
    if await site.flag("--actuate") == "none":
        return "targets are advice (--actuate=none)"
    return ""


async def _trust(site: Site, item: Mapping[str, Any]) -> AsyncIterator[Finding]:
    names = site.names
    if (item.get("spec") or {}).get("insecureSkipTLSVerify"):
        yield Finding(
            "warning",
            f"APIService {API_SERVICE} accepts any serving certificate",
            "remove spec.insecureSkipTLSVerify; the adapter writes caBundle",
        )
    if (
        await site.find(paths.item("v1", "secrets", names.secret, namespace=names.namespace))
        is None
    ):
        yield Finding("ok", "serving certificate is given by files: no certificate Secret")
        return
    # Certificates take long to load, and are read only where there is a Secret of them.
    from adapter.tls.certificate_secret import SecretStore, bundle_of  # noqa: PLC0415

    store = SecretStore(site.cluster, namespace=names.namespace, name=names.secret)
    state, _ = await store.read()
    if state is not None and state.signing.cert_pem.strip() in bundle_of(item):
        yield Finding("ok", "caBundle trusts the serving certificate")
    else:
        yield Finding(
            "error",
            f"caBundle of {API_SERVICE} does not trust the serving certificate",
            "the leader updates it within half a minute; if it does not, read its log",
        )


async def lease(site: Site) -> AsyncIterator[Finding]:
    """Whether a replica leads."""
    names = site.names
    path = paths.item(LEASES, "leases", names.lease, namespace=names.namespace)
    item = await site.find(path)
    if item is None:
        yield Finding(
            "error",
            f"no Lease {names.namespace}/{names.lease}: the adapter has never started",
            f"kubectl -n {names.namespace} get pods,events; apply again what it was installed with",
        )
        return
    spec = item.get("spec") or {}
    holder, age = spec.get("holderIdentity"), site.seconds_since(spec.get("renewTime"))
    if holder and age is not None and age <= LEASE_LATE_SECONDS:
        yield Finding("ok", f"{holder} leads")
    else:
        renewed = "has no renewTime" if age is None else f"was renewed {age:.0f} s ago"
        yield Finding(
            "error",
            f"no leader: Lease {names.namespace}/{names.lease} {renewed}",
            f"kubectl -n {names.namespace} get pods; read the log of {names.service}",
        )


async def deployment(site: Site) -> AsyncIterator[Finding]:
    """Whether the adapter's Deployment, where there is one, has pods that are ready."""
    item = await site.deployment()
    spec, status = item.get("spec") or {}, item.get("status") or {}
    asked, ready = spec.get("replicas", 1), status.get("readyReplicas") or 0
    names = site.names
    shown = f"Deployment {names.namespace}/{names.service}"
    if asked == 0:
        yield Finding(
            "error",
            f"{shown} has 0 replicas: nothing is decided or served",
            f"kubectl -n {names.namespace} scale deployment {names.service} --replicas=2",
        )
    elif status and ready < asked:
        yield Finding(
            "warning" if ready else "error",
            f"{shown}: {ready} of {asked} pods are ready",
            f"kubectl -n {names.namespace} get pods,events; read the log of {names.service}",
        )
