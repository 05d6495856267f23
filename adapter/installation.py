"""Names of our objects in a cluster."""

from __future__ import annotations

from dataclasses import dataclass

SYSTEM = "variant-adapter-system"
"""Namespace of the manifests."""

METRICS = "external.metrics.k8s.io"

API_SERVICE = f"v1beta1.{METRICS}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Where the installation is, by the names of its manifests."""

    namespace: str = SYSTEM
    service: str = "variant-adapter"
    account: str = "variant-adapter"
    secret: str = "variant-adapter-certs"
    lease: str = "variant-adapter"
