"""What `serve` is told, and what the cluster's ConfigMap adds to it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from adapter.apiserver import delegation
from adapter.auth import local as local_auth
from adapter.collector.prometheus import PrometheusOptions
from adapter.controller.loop import ControlLoop
from adapter.controller.settings import LoopSettings
from adapter.kube import duration
from adapter.kube.leader_election import LeaseTimes
from adapter.resources import inputs
from adapter.resources.watches import Scope
from adapter.tls import listener
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


def use_config(loop: ControlLoop, options: ServeOptions, found: inputs.Contents) -> None:
    """Let the loop work as flags and ConfigMap say."""
    loop.settings = loop_settings(options, found)
    loop.collector.connect(prometheus_options(options.prometheus, found.config, os.environ))


def loop_settings(options: ServeOptions, found: inputs.Contents) -> LoopSettings:
    """Flags win over the ConfigMap; what the ConfigMap gets wrong is reported and left at default."""
    settings, config = options.loop, found.config
    interval = options.interval
    if interval is None:
        interval = _seconds(config, "GLOBAL_OPT_INTERVAL")
    to_zero = options.scale_to_zero
    if to_zero is None:
        to_zero = _flag(config, "WVA_SCALE_TO_ZERO")
    return replace(settings, interval=interval or settings.interval, scale_to_zero=to_zero)


def prometheus_options(
    flags: PrometheusFlags, config: Mapping[str, str], environment: Mapping[str, str]
) -> PrometheusOptions | None:
    """Where Prometheus is: flags win over the ConfigMap, and that over the environment; None: nowhere.

    The keys are those of the workload-variant-autoscaler, which reads some from its environment only.
    """

    def text(key: str) -> str:
        return (config.get(key) or environment.get(key) or "").strip()

    def path(given: Path | None, key: str) -> Path | None:
        return given or (Path(text(key)) if text(key) else None)

    given = "--prometheus" if flags.url is not None else "PROMETHEUS_BASE_URL"
    url = flags.url if flags.url is not None else text("PROMETHEUS_BASE_URL")
    if not url:
        return None
    if not _is_url(url):
        log.warning("must be an http:// or https:// URL; ignored", field=given, value=url)
        return None
    both = {**environment, **config}
    return PrometheusOptions(
        url=url.rstrip("/"),
        ca_file=path(flags.ca_file, "PROMETHEUS_CA_CERT_PATH"),
        certificate=path(flags.certificate, "PROMETHEUS_CLIENT_CERT_PATH"),
        key=path(flags.key, "PROMETHEUS_CLIENT_KEY_PATH"),
        server_name=flags.server_name or text("PROMETHEUS_SERVER_NAME"),
        token=text("PROMETHEUS_BEARER_TOKEN"),
        token_file=path(flags.token_file, "PROMETHEUS_TOKEN_PATH"),
        insecure=_flag(both, "PROMETHEUS_TLS_INSECURE_SKIP_VERIFY")
        if flags.insecure is None
        else flags.insecure,
        headers=flags.headers,
        timeout_seconds=flags.timeout_seconds or _seconds(both, "PROMETHEUS_TIMEOUT") or 10.0,
    )


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


def _seconds(config: Mapping[str, str], key: str) -> float | None:
    if key not in config:
        return None
    try:
        return duration.seconds(config[key])
    except ValueError as error:
        log.warning("ConfigMap: value ignored", field=f"data.{key}", error=str(error))
        return None


def _flag(config: Mapping[str, str], key: str) -> bool:
    text = config.get(key, "false").lower()
    if text not in {"true", "false"}:
        log.warning("ConfigMap: must be true or false", field=f"data.{key}", value=text)
    return text == "true"
