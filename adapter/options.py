"""What `serve` is told, and what the cluster's ConfigMap adds to it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from adapter import contents, delegation, duration, listener, pki
from adapter.cluster_objects import Scope
from adapter.leadership import LeaseTimes
from adapter.loop import LoopSettings
from certs.rotation import Times

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterIdentities:
    """A cluster that reviews tokens and access; without a kubeconfig the one that this pod runs in."""

    kubeconfig: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCertificates:
    """A serving certificate that we keep in a Secret.

    Attributes:
        service: our Service; the aggregation layer asks for SERVICE.NAMESPACE.svc.
        api_service: whose caBundle we keep right.

    """

    namespace: str
    secret: str = "variant-adapter-certs"
    service: str = "variant-adapter"
    api_service: str = "v1beta1.external.metrics.k8s.io"
    times: Times = field(default_factory=Times)


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
class ServeOptions:
    """What `serve` was told.

    Attributes:
        interval: seconds between passes; None leaves it to `GLOBAL_OPT_INTERVAL`, else 60.
        scale_to_zero: None leaves it to `WVA_SCALE_TO_ZERO`, else off.
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
    certificates: pki.Files
    loop: LoopSettings
    interval: float | None = None
    scale_to_zero: bool | None = None
    limits: listener.Limits = listener.DEFAULT_LIMITS
    delegate: delegation.DelegateOptions | None = None
    cluster: ClusterIdentities | None = None
    installation: Installation | None = None
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None


def loop_settings(options: ServeOptions, found: contents.Contents) -> LoopSettings:
    """Flags win over the ConfigMap; what the ConfigMap gets wrong is reported and left at default."""
    settings, config = options.loop, found.config
    interval = options.interval
    if interval is None and "GLOBAL_OPT_INTERVAL" in config:
        try:
            interval = duration.seconds(config["GLOBAL_OPT_INTERVAL"])
        except ValueError as error:
            log.warning("ConfigMap: data.GLOBAL_OPT_INTERVAL ignored", error=str(error))
    to_zero = options.scale_to_zero
    if to_zero is None:
        text = config.get("WVA_SCALE_TO_ZERO", "false").lower()
        if text not in {"true", "false"}:
            log.warning("ConfigMap: data.WVA_SCALE_TO_ZERO must be true or false", value=text)
        to_zero = text == "true"
    return replace(settings, interval=interval or settings.interval, scale_to_zero=to_zero)
