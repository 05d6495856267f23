"""Options of `serve`, as the composition root takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from adapter.apiserver import delegation
from adapter.auth import local as local_auth
from adapter.collector.transport.access import PLAIN, Access
from adapter.controller.settings import LoopSettings
from adapter.installation import Names
from adapter.keda.options import KedaOptions
from adapter.kube.leader_election import LeaseTimes
from adapter.resources.watched.scope import Scope
from adapter.tls import connections
from adapter.tls.certificate_secret import OwnCertificates


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterIdentities:
    """A cluster that reviews tokens and access for a server of a folder.

    Attributes:
        kubeconfig: File that names the cluster; None is the cluster that this pod runs in.

    """

    kubeconfig: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """One installation in a cluster.

    Attributes:
        identity: Name of this replica in leader election, unique.
        scope: Objects that this installation owns.
        kubeconfig: File that names the cluster; None is the cluster that this pod runs in.
        lease_name: Lease of leader election.
        lease: Durations of leader election.
        actuate_scale: Whether the adapter patches scale targets itself, without an HPA.
        owner_references: Whether variants are owned by their scale targets.
        gateways: Namespace (empty for any) and metrics URL of each inference gateway's endpoint picker.
        discover_gateways: Whether endpoint pickers that InferencePools name are gateways too.
        gateway_access: Authorities and token that gateways with https are reached with.
        gateway_token_namespaces: Namespaces whose discovered endpoint pickers get the token too: those of
            tenants would keep it.
        gateway_seconds: Seconds between two scrapes of the gateways.
        wake_seconds: Seconds between two scrapes of those that may wake a variant at zero replicas.
        own_thread: Whether a thread of its own renews the Lease, so that a busy process does not lose it.
        certificates: Serving certificate kept in a Secret; None uses the files that were given.

    """

    identity: str
    scope: Scope
    lease: LeaseTimes
    kubeconfig: Path | None = None
    lease_name: str = Names().lease
    actuate_scale: bool = False
    owner_references: bool = False
    gateways: tuple[tuple[str, str], ...] = ()
    discover_gateways: bool = True
    gateway_access: Access = PLAIN
    gateway_token_namespaces: frozenset[str] = frozenset()
    gateway_seconds: float = 1.0
    wake_seconds: float = 0.15
    own_thread: bool = False
    certificates: OwnCertificates | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """Everything that `serve` runs with.

    Attributes:
        variants: Folder of objects to read; None with an installation in a cluster.
        host: Address of the API's TLS port.
        port: TLS port; 0 picks a free one.
        certificates: Certificate files.
        loop: Settings of the control loop; the ConfigMap may change some of them.
        interval: Seconds between reconcile cycles; None leaves it to `GLOBAL_OPT_INTERVAL`.
        scale_to_zero: Whether idle variants go to zero replicas; None leaves it to `WVA_SCALE_TO_ZERO`.
        prometheus: Fields of `settings.control.Prometheus` that flags gave; the others are left to
            `PROMETHEUS_*`.
        limits: Limits of connections.
        delegate: Another adapter, to which requests for its metrics are proxied; None for none.
        cluster: Cluster that reviews tokens and access; None uses the local authorities.
        installation: Installation in a cluster; None with a folder.
        metrics_host: Address of the metrics port.
        metrics_port: Port for metrics and explanations without TLS; None for none.
        metrics_auth: Readers of metrics and explanations there: callers with a bearer token that the cluster
            accepts, and peers on loopback ("cluster"); or all ("none").
        keda: External scaler for KEDA; None for none.

    """

    variants: Path | None
    host: str
    port: int
    certificates: local_auth.Files
    loop: LoopSettings
    interval: float | None = None
    scale_to_zero: bool | None = None
    prometheus: Mapping[str, object] = field(default_factory=dict)
    limits: connections.ConnectionLimits = connections.DEFAULT_LIMITS
    delegate: delegation.DelegateOptions | None = None
    cluster: ClusterIdentities | None = None
    installation: Installation | None = None
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
    metrics_auth: Literal["cluster", "none"] = "cluster"
    keda: KedaOptions | None = None
