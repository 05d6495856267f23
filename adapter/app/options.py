"""What `serve` is told, and what the cluster's ConfigMap adds to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import structlog

from adapter.apiserver import delegation
from adapter.auth import local as local_auth
from adapter.controller.settings import LoopSettings
from adapter.kube.leader_election import LeaseTimes
from adapter.resources.watches import Scope
from adapter.tls import listener
from adapter.tls.certificate_secret import OwnCertificates

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterIdentities:
    """A cluster that reviews tokens and access; without a kubeconfig the one that this pod runs in."""

    kubeconfig: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """One installation in a cluster.

    Attributes:
        kubeconfig: None: the cluster that this pod runs in.
        identity: of this replica, unique.
        actuate_scale: whether we patch scale targets ourselves.
        gateways: metrics URLs of the inference gateway's endpoint pickers.
        gateway_seconds: between looks at them.
        certificates: None: given files are used.

    """

    identity: str
    scope: Scope
    kubeconfig: Path | None = None
    lease_name: str = "variant-adapter"
    lease: LeaseTimes = field(default_factory=LeaseTimes)
    actuate_scale: bool = False
    owner_references: bool = False
    gateways: tuple[str, ...] = ()
    gateway_seconds: float = 1.0
    certificates: OwnCertificates | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrometheusFlags:
    """What flags say of Prometheus; None and empty leave it to the ConfigMap."""

    url: str | None = None
    ca_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str = ""
    token_file: Path | None = None
    insecure: bool | None = None
    headers: tuple[tuple[str, str], ...] = ()
    timeout_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """What `serve` was told.

    Attributes:
        interval: seconds between passes; None leaves it to `GLOBAL_OPT_INTERVAL`, else 60.
        scale_to_zero: None leaves it to `WVA_SCALE_TO_ZERO`, else off.
        prometheus: what flags say of it; the rest is left to `PROMETHEUS_*`.
        certificates: certificate files; see `pki.Files`.
        limits: of connections.
        delegate: another adapter that is asked for metrics that are not ours.
        cluster: whose word counts on who may ask; None: the local authorities'.
        installation: in a cluster; then there is no folder.
        metrics_port: for metrics and explanations without TLS; None: none.

    """

    variants: Path | None
    host: str
    port: int
    certificates: local_auth.Files
    loop: LoopSettings
    interval: float | None = None
    scale_to_zero: bool | None = None
    prometheus: PrometheusFlags = field(default_factory=PrometheusFlags)
    limits: listener.Limits = listener.DEFAULT_LIMITS
    delegate: delegation.DelegateOptions | None = None
    cluster: ClusterIdentities | None = None
    installation: Installation | None = None
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
