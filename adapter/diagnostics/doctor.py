"""What is wrong with an installation in a cluster, and what to do about it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from adapter.auth import reviews
from adapter.auth.authorization import Attributes
from adapter.auth.users import ReviewError, User
from adapter.collector.prometheus import PrometheusOptions
from adapter.diagnostics import checks
from adapter.diagnostics.checks import OLDEST_MINOR, TOLERANCE_MINOR, Finding
from adapter.installation import API_SERVICE, METRICS, Names
from adapter.kube.client import Cluster
from adapter.kube.errors import ApiError, NotFound
from adapter.resources import hpa, inputs
from adapter.resources.watches import NEEDED
from adapter.tls.certificate_secret import SecretStore, bundle_of

HPA_CONTROLLER = "system:serviceaccount:kube-system:horizontal-pod-autoscaler"
VARIANTS = "/apis/llmd.ai/v1alpha1"
LEASE_LATE_SECONDS = 60.0
"""After which a Lease is old, clocks that differ included."""


class Doctor:
    """Looks at one installation, with the rights of whoever asks; changes nothing."""

    def __init__(
        self,
        api: Cluster,
        names: Names,
        *,
        prometheus: PrometheusOptions | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`prometheus`: to look there too; None leaves it out."""
        self._prometheus_options = prometheus
        self._api = api
        self._reviews = reviews.Reviews(api)
        self._names = names
        self._now = now
        self._minor = 0
        self._config: Mapping[str, str] = {}

    async def findings(self) -> AsyncIterator[Finding]:
        """Everything, one check after the other; a check that is refused says so and the next goes on."""
        checks = (
            self._version,
            self._aggregation,
            self._definition,
            self._api_service,
            self._lease,
            self._permissions,
            self._config_maps,
            self._variants,
            self._scalers,
            self._prometheus,
        )
        for check in checks:
            try:
                async for finding in check():
                    yield finding
            except (ApiError, ReviewError) as error:
                yield Finding("error", f"could not look: {error}", "ask with more rights, or later")

    async def _get(self, path: str) -> Mapping[str, Any] | None:
        """An object; None where there is none."""
        try:
            return await self._api.request("GET", path)
        except NotFound:
            return None

    async def _version(self) -> AsyncIterator[Finding]:
        found = await self._api.request("GET", "/version")
        digits = "".join(filter(str.isdigit, str(found.get("minor") or "")))
        self._minor = int(digits or 0)
        shown = f"Kubernetes {found.get('gitVersion') or f'1.{self._minor}'}"
        if self._minor < OLDEST_MINOR:
            yield Finding("error", f"{shown} is too old", f"use 1.{OLDEST_MINOR} or newer")
        elif self._minor < TOLERANCE_MINOR:
            yield Finding(
                "warning",
                f"{shown}: HPAs ignore changes of up to 10 %",
                f"1.{TOLERANCE_MINOR} brings behavior.*.tolerance; or use --actuate=scale",
            )
        else:
            yield Finding("ok", shown)

    async def _aggregation(self) -> AsyncIterator[Finding]:
        where = f"{reviews.CONFIG_NAMESPACE}/{reviews.CONFIG_NAME}"
        found = await self._get(f"{reviews.CONFIG_PATH}/{reviews.CONFIG_NAME}") or {}
        if (found.get("data") or {}).get("requestheader-client-ca-file"):
            yield Finding("ok", "aggregation layer is on")
        else:
            yield Finding(
                "error",
                f"aggregation layer is off: ConfigMap {where} has no requestheader-client-ca-file",
                "start kube-apiserver with --requestheader-client-ca-file and --proxy-client-cert-file",
            )

    async def _definition(self) -> AsyncIterator[Finding]:
        found = await self._get(VARIANTS) or {}
        names = {item.get("name") for item in found.get("resources") or ()}
        if "variantautoscalings" not in names:
            yield Finding(
                "error", "no CRD variantautoscalings.llmd.ai", "kubectl apply -k manifests/crd"
            )
        elif "variantautoscalings/status" not in names:
            yield Finding(
                "error",
                "CRD variantautoscalings.llmd.ai has no status subresource",
                "kubectl apply -k manifests/crd",
            )
        else:
            yield Finding("ok", "CRD variantautoscalings.llmd.ai")

    async def _api_service(self) -> AsyncIterator[Finding]:
        ours = self._names
        path = f"/apis/apiregistration.k8s.io/v1/apiservices/{API_SERVICE}"
        found = await self._get(path)
        if found is None:
            yield Finding(
                "error", f"no APIService {API_SERVICE}", "kubectl apply -k manifests/base"
            )
            return
        spec = found.get("spec") or {}
        service = spec.get("service") or {}
        owner = f"{service.get('namespace')}/{service.get('name')}"
        if owner != f"{ours.namespace}/{ours.service}":
            yield Finding(
                "error",
                f"APIService {API_SERVICE} belongs to Service {owner}",
                "a cluster has one: kubectl apply -f manifests/base/apiservice.yaml makes it ours, and serve"
                f" --delegate-to https://{service.get('name')}.{service.get('namespace')}.svc passes"
                " on what is not ours",
            )
            return
        condition: Mapping[str, Any] = next(
            (
                item
                for item in (found.get("status") or {}).get("conditions") or ()
                if item.get("type") == "Available"
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
                f"kubectl -n {ours.namespace} get pods,endpointslices; logs of {ours.service}",
            )
        async for finding in self._trust(spec, found):
            yield finding

    async def _trust(
        self, spec: Mapping[str, Any], service: Mapping[str, Any]
    ) -> AsyncIterator[Finding]:
        ours = self._names
        if spec.get("insecureSkipTLSVerify"):
            yield Finding(
                "warning",
                f"APIService {API_SERVICE} trusts anyone",
                "remove spec.insecureSkipTLSVerify; the adapter fills in caBundle",
            )
        store = SecretStore(self._api, namespace=ours.namespace, name=ours.secret)
        kept, _ = await store.read()
        if kept is None:
            yield Finding("ok", "certificates come from elsewhere: no Secret of ours")
        elif kept.signing.cert_pem.strip() in bundle_of(service):
            yield Finding("ok", "caBundle trusts the serving certificate")
        else:
            yield Finding(
                "error",
                f"caBundle of {API_SERVICE} does not trust the serving certificate",
                "the leader corrects it within half a minute; if not, its log says why",
            )

    async def _lease(self) -> AsyncIterator[Finding]:
        ours = self._names
        path = f"/apis/coordination.k8s.io/v1/namespaces/{ours.namespace}/leases/{ours.lease}"
        found = await self._get(path)
        if found is None:
            yield Finding(
                "error",
                f"no Lease {ours.namespace}/{ours.lease}: no adapter has run",
                f"kubectl -n {ours.namespace} get pods; kubectl apply -k manifests/base",
            )
            return
        spec = found.get("spec") or {}
        holder = spec.get("holderIdentity")
        try:
            renewed = datetime.fromisoformat(str(spec.get("renewTime")))
            age = (self._now() - renewed).total_seconds()
        except ValueError:
            age = float("inf")
        if holder and age <= LEASE_LATE_SECONDS:
            yield Finding("ok", f"{holder} leads")
        else:
            yield Finding(
                "error",
                f"nobody leads: Lease {ours.namespace}/{ours.lease} was renewed {age:.0f} s ago",
                f"kubectl -n {ours.namespace} get pods; logs of {ours.service}",
            )

    async def _permissions(self) -> AsyncIterator[Finding]:
        ours = self._names
        account = f"system:serviceaccount:{ours.namespace}:{ours.account}"
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{ours.namespace}")
        user = User(name=account, groups=(*groups, "system:authenticated"))
        missing = []
        for wanted in checks.needed(ours):
            verdict = await self._reviews.review_access(user, wanted)
            if not verdict.allowed:
                where = f" in {wanted.namespace}" if wanted.namespace else ""
                sub = f"/{wanted.subresource}" if wanted.subresource else ""
                missing.append(f"{wanted.verb} {wanted.resource}{sub}{where}")
        if missing:
            yield Finding(
                "error",
                f"ServiceAccount {ours.namespace}/{ours.account} may not: {', '.join(missing)}",
                "kubectl apply -f manifests/base/rbac.yaml",
            )
        else:
            yield Finding("ok", "the adapter may do what it has to")
        controller = User(name=HPA_CONTROLLER, groups=("system:authenticated",))
        metric = Attributes(
            verb="list",
            path="",
            group=METRICS,
            version="v1beta1",
            namespace="default",
            resource="inferno_desired_replicas",
        )
        if not (await self._reviews.review_access(controller, metric)).allowed:
            yield Finding(
                "error",
                "the HPA controller may not read external metrics",
                "kubectl apply -f manifests/base/rbac.yaml",
            )

    async def _config_maps(self) -> AsyncIterator[Finding]:
        space = self._names.namespace
        items, _ = await self._api.list_objects(f"/api/v1/namespaces/{space}/configmaps")
        reader = inputs.Reader()
        found = set()
        for item in items:
            name = str((item.get("metadata") or {}).get("name"))
            if name in NEEDED or name.endswith(inputs.CONFIG_SUFFIX):
                reader.read_config_map(f"ConfigMap {space}/{name}", item)
                found.add(name)
        self._config = reader.config
        for name in NEEDED:
            if name not in found:
                yield Finding(
                    "error", f"no ConfigMap {space}/{name}", "kubectl apply -k manifests/base"
                )
        for problem in reader.problems:
            yield Finding("error", problem, "correct that field")
        if not reader.problems and found.issuperset(NEEDED):
            yield Finding(
                "ok",
                f"{len(reader.accelerators)} accelerators with costs,"
                f" {len(reader.classes)} service classes",
            )

    async def _variants(self) -> AsyncIterator[Finding]:
        items, _ = await self._api.list_objects(f"{VARIANTS}/variantautoscalings")
        if not items:
            yield Finding("warning", "no VariantAutoscaling", "kubectl apply one per Deployment")
        for item in items:
            bad = [
                found
                for found in (item.get("status") or {}).get("conditions") or ()
                if found.get("status") == "False"
            ]
            shown = f"VariantAutoscaling {_key(item)}"
            if not (item.get("status") or {}).get("conditions"):
                yield Finding("warning", f"{shown}: has no status yet", "see who leads, above")
            elif bad:
                yield Finding(
                    "error",
                    f"{shown}: {bad[0].get('reason')}: {bad[0].get('message')}",
                    f"variant-adapter explain {_key(item)}",
                )
            else:
                yield Finding("ok", shown)

    async def _scalers(self) -> AsyncIterator[Finding]:
        items, _ = await self._api.list_objects("/apis/autoscaling/v2/horizontalpodautoscalers")
        variants, _ = await self._api.list_objects(f"{VARIANTS}/variantautoscalings")
        known = {_key(item): item for item in variants}
        read = set()
        for scaler in map(hpa.parse, items):
            for reading in scaler.readings:
                key = f"{scaler.namespace}/{reading.variant}"
                read.add(key)
                shown = f"HorizontalPodAutoscaler {scaler.namespace}/{scaler.name}"
                async for finding in self._reading(shown, scaler, reading, known.get(key)):
                    yield finding
        for key, item in sorted(known.items()):
            notes = (item.get("metadata") or {}).get("annotations") or {}
            if key not in read and notes.get("llmd.ai/actuate") != "scale":
                yield Finding(
                    "warning",
                    f"VariantAutoscaling {key}: no HPA reads its target",
                    "make one like manifests/samples/hpa.yaml, or set --actuate=scale",
                )

    async def _prometheus(self) -> AsyncIterator[Finding]:
        if self._prometheus_options is None:
            return
        variants, _ = await self._api.list_objects(f"{VARIANTS}/variantautoscalings")
        models = {str((item.get("spec") or {}).get("modelID")) for item in variants}
        for finding in await checks.of_prometheus(self._prometheus_options, models):
            yield finding

    async def _reading(
        self,
        shown: str,
        scaler: hpa.Scaler,
        reading: hpa.Reading,
        variant: Mapping[str, Any] | None,
    ) -> AsyncIterator[Finding]:
        """One of our metrics in one HPA."""
        before = True
        for finding in checks.of_scaler(shown, scaler, reading, self._minor, self._config):
            before = False
            yield finding
        if variant is None:
            yield Finding(
                "error",
                f"{shown}: selects variant_name={reading.variant or '(nothing)'}, which is none of"
                f" namespace {scaler.namespace}",
                "set matchLabels.variant_name to the VariantAutoscaling's name",
            )
            return
        path = (
            f"/apis/{METRICS}/v1beta1/namespaces/{scaler.namespace}/{reading.metric}"
            f"?labelSelector={quote(f'variant_name={reading.variant}')}"
        )
        try:
            found = await self._api.request("GET", path)
        except ApiError as error:
            yield Finding("error", f"{shown}: {error}", "see the APIService, above")
            return
        values = [str(item.get("value")) for item in found.get("items") or ()]
        if len(values) != 1:
            yield Finding(
                "error",
                f"{shown}: gets {len(values)} values of {reading.metric}, and wants one",
                f"variant-adapter explain {scaler.namespace}/{reading.variant}",
            )
        elif before:
            yield Finding("ok", f"{shown}: reads {reading.metric} = {values[0]}")


def _key(item: Mapping[str, Any]) -> str:
    metadata = item.get("metadata") or {}
    return f"{metadata.get('namespace')}/{metadata.get('name')}"
