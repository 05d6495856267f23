"""Checks of RBAC: what the adapter's ServiceAccount and the HPA controller may do."""

from __future__ import annotations

from collections.abc import AsyncIterator

from adapter.auth import reviews
from adapter.auth.authorization import Attributes
from adapter.auth.users import AUTHENTICATED, User
from adapter.diagnostics.site import Finding, Site, in_order
from adapter.installation import API_SERVICE, MANAGED_TARGETS, METRICS, Names

HPA_CONTROLLER = "system:serviceaccount:kube-system:horizontal-pod-autoscaler"
_FIX = "kubectl apply -f manifests/base/rbac.yaml"


async def adapter(site: Site) -> AsyncIterator[Finding]:
    """Whether the adapter's ServiceAccount has all permissions of `needed`."""
    names = site.names
    account = f"system:serviceaccount:{names.namespace}:{names.account}"
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{names.namespace}", AUTHENTICATED)
    user = User(name=account, groups=groups)
    reviewer = reviews.Reviews(site.cluster)
    missing = []
    asked = needed(names)
    decisions = await in_order(reviewer.review_access(user, attributes) for attributes in asked)
    for attributes, decision in zip(asked, decisions, strict=True):
        if not decision.allowed:
            where = f" in {attributes.namespace}" if attributes.namespace else ""
            subresource = f"/{attributes.subresource}" if attributes.subresource else ""
            missing.append(f"{attributes.verb} {attributes.resource}{subresource}{where}")
    if missing:
        yield Finding(
            "error",
            f"ServiceAccount {names.namespace}/{names.account} may not: {', '.join(missing)}",
            _FIX,
        )
    else:
        yield Finding("ok", f"ServiceAccount {names.namespace}/{names.account} has its permissions")


async def hpa_controller(site: Site) -> AsyncIterator[Finding]:
    """Whether the HPA controller may read the adapter's metrics."""
    controller = User(name=HPA_CONTROLLER, groups=(AUTHENTICATED,))
    metric = Attributes(
        verb="list",
        path="",
        group=METRICS,
        version="v1beta1",
        namespace="default",
        resource="inferno_desired_replicas",
    )
    decision = await reviews.Reviews(site.cluster).review_access(controller, metric)
    if not decision.allowed:
        yield Finding("error", "the HPA controller may not read external metrics", _FIX)


def needed(names: Names) -> list[Attributes]:
    """Permissions that the adapter's ServiceAccount needs."""

    def rule(verbs: str, group: str, resource: str, *where: str) -> list[Attributes]:
        """`where`: namespace and name, as far as they matter; `resource` may have a subresource."""
        namespace, name = (*where, "", "")[:2]
        plural, _, subresource = resource.partition("/")
        return [
            Attributes(
                verb=verb,
                path="",
                group=group,
                namespace=namespace,
                resource=plural,
                subresource=subresource,
                name=name,
            )
            for verb in verbs.split()
        ]

    space = names.namespace
    return [
        *rule("list watch", "llmd.ai", "variantautoscalings"),
        *rule("patch", "llmd.ai", "variantautoscalings/status"),
        *rule("list watch", "apps", "deployments"),
        *rule("list watch", "autoscaling", "horizontalpodautoscalers"),
        *rule("list watch", "", "pods"),
        *rule("list watch", "inference.networking.k8s.io", "inferencepools"),
        *rule("get list watch", "", "services"),
        *rule("list watch", "monitoring.coreos.com", "podmonitors"),
        *rule("list watch", "monitoring.coreos.com", "servicemonitors"),
        *rule("create", "events.k8s.io", "events"),
        *rule("create", "authentication.k8s.io", "tokenreviews"),
        *rule("create", "authorization.k8s.io", "subjectaccessreviews"),
        *rule("get patch", "apiregistration.k8s.io", "apiservices", "", API_SERVICE),
        *rule("list watch", "", "configmaps", space),
        *rule("patch", "", "configmaps", space, MANAGED_TARGETS),
        *rule("create", "coordination.k8s.io", "leases", space),
        *rule("get update", "coordination.k8s.io", "leases", space, names.lease),
        *rule("create", "", "secrets", space),
        *rule("get update", "", "secrets", space, names.secret),
        *rule("list watch", "", "configmaps", reviews.CONFIG_NAMESPACE, reviews.CONFIG_NAME),
    ]
