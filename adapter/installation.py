"""Names of the adapter's objects in a cluster, as the manifests have them."""

from __future__ import annotations

from dataclasses import dataclass

SYSTEM = "variant-adapter-system"
"""Namespace of the adapter in the manifests."""

METRICS = "external.metrics.k8s.io"
"""API group that the adapter serves."""

API_SERVICE = f"v1beta1.{METRICS}"
"""APIService that makes kube-apiserver proxy the group to the adapter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Names of one installation.

    Attributes:
        namespace: Namespace of all that follows.
        service: Service of the API port.
        account: ServiceAccount of the pods.
        secret: Secret of the serving certificate.
        lease: Lease of the leader election.

    """

    namespace: str = SYSTEM
    service: str = "variant-adapter"
    account: str = "variant-adapter"
    secret: str = "variant-adapter-certs"
    lease: str = "variant-adapter"
