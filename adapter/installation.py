"""Names of the adapter's objects in a cluster, as the manifests have them."""

from __future__ import annotations

from dataclasses import dataclass

SYSTEM = "variant-adapter-system"
"""Namespace of the adapter in the manifests."""

METRICS = "external.metrics.k8s.io"
"""API group that the adapter serves."""

API_SERVICE = f"v1beta1.{METRICS}"
"""APIService that makes kube-apiserver proxy the group to the adapter."""

COSTS = "accelerator-unit-costs"
CLASSES = "service-classes-config"
NEEDED_CONFIG_MAPS = (COSTS, CLASSES)
"""ConfigMaps that planning requires, each itself or its defaults."""

DEFAULTS_SUFFIX = "-defaults"
"""End of the name of a ConfigMap of defaults, after that of the one that people edit."""

DEFAULT_CONFIG_MAPS = tuple(f"{name}{DEFAULTS_SUFFIX}" for name in NEEDED_CONFIG_MAPS)
"""ConfigMaps with the defaults that an installation brings."""

CONFIG_SUFFIX = "variantautoscaling-config"
"""End of the name of the ConfigMap with settings."""

WVA_SATURATION = "wva-saturation-scaling-config"
WVA_QUEUEING = "wva-queueing-model-config"
WVA_TO_ZERO = "wva-model-scale-to-zero-config"
WVA_CONFIG_MAPS = (WVA_SATURATION, WVA_QUEUEING, WVA_TO_ZERO)
"""ConfigMaps of the workload-variant-autoscaler of 2026."""

READ_CONFIG_MAPS = (*NEEDED_CONFIG_MAPS, *DEFAULT_CONFIG_MAPS, *WVA_CONFIG_MAPS)
"""ConfigMaps that are read by their name."""

MANAGED_TARGETS = "variant-adapter-managed-targets"
"""ConfigMap with the targets of managed HPAs, which have no `.status`."""


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
