"""Options of `serve`, made of its parsed flags."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from datetime import timedelta

from adapter import errors
from adapter.apiserver import delegation
from adapter.app.options import ClusterIdentities, Installation, ServeOptions
from adapter.auth import local as local_auth
from adapter.collector.collector import CollectionSettings
from adapter.collector.transport.access import Access
from adapter.controller.demand import RateSettings
from adapter.controller.settings import LoopSettings
from adapter.keda.options import KedaOptions
from adapter.kube import labels
from adapter.kube.leader_election import LeaseTimes
from adapter.resources.watched.scope import Scope
from adapter.settings.control import Collecting, Prometheus, Reconciling, Sizing
from adapter.settings.declaration import declarations, resolve
from adapter.settings.serving import Cluster, Delegation, Keda, Serving
from adapter.tls.certificate_secret import OwnCertificates
from certs.rotation import Times
from optimizer.stabilization import StabilizationLimits


def options_of(args: argparse.Namespace) -> ServeOptions:
    """Options that the flags make, with defaults for those that were not given.

    Raises:
        UsageError: flags that contradict each other or cannot be used.

    """
    server = resolve(Serving, vars(args))
    in_cluster = server.variants is None
    reads_cluster = server.in_cluster or server.kubeconfig is not None
    _check_used(args, server, in_cluster=in_cluster)
    _check_pairs(args)
    return ServeOptions(
        variants=server.variants,
        host=server.host,
        port=server.port,
        certificates=local_auth.Files(
            state=server.state_dir,
            certificate=server.tls_cert_file,
            key=server.tls_private_key_file,
            client_ca=server.client_ca_file,
            requestheader_ca=server.requestheader_client_ca_file,
        ),
        loop=loop_settings(args, in_cluster=in_cluster),
        interval=args.interval,
        scale_to_zero=args.scale_to_zero,
        prometheus=_given(args, Prometheus),
        delegate=_delegate(resolve(Delegation, vars(args))),
        cluster=ClusterIdentities(kubeconfig=server.kubeconfig) if reads_cluster else None,
        installation=_installation(args, server) if in_cluster else None,
        metrics_host=server.metrics_host,
        metrics_port=server.metrics_port,
        metrics_auth=server.metrics_auth,
        keda=_keda(resolve(Keda, vars(args)), server),
    )


_CLUSTER_ONLY = (
    "discover_gateways",
    "gateway_metrics",
    "gateways_token_namespaces",
    "limited",
    *(item.name for item in declarations(Cluster)),
)
_VARIANTS_ONLY = ("client_ca_file", "requestheader_client_ca_file")
_OWN_CERTIFICATE_ONLY = ("certificate_secret", "certificate_overlap", "service_name", "api_service")
_DELEGATE_ONLY = tuple(item.name for item in declarations(Delegation) if item.name != "delegate_to")
_KEDA_ONLY = tuple(item.name for item in declarations(Keda) if item.name != "keda_port")
_PAIRS = (
    ("tls_cert_file", "tls_private_key_file"),
    ("delegate_client_cert", "delegate_client_key"),
    ("keda_tls_cert_file", "keda_tls_private_key_file"),
)


def _check_used(args: argparse.Namespace, server: Serving, *, in_cluster: bool) -> None:
    """Refuse flags that would have no effect beside the others.

    Raises:
        UsageError: names the first such flag, and what it needs.

    """
    reasons: dict[str, str] = {}
    if not in_cluster:
        reasons |= dict.fromkeys(
            _CLUSTER_ONLY, "is used where variants are read from a cluster, not with --variants"
        )
    else:
        reasons |= dict.fromkeys(_VARIANTS_ONLY, "is used with --variants only")
    if in_cluster and server.tls_cert_file is not None:
        reasons |= dict.fromkeys(
            _OWN_CERTIFICATE_ONLY,
            "is used where the adapter makes its certificate, without --tls-cert-file",
        )
    if args.delegate_to is None:
        reasons |= dict.fromkeys(_DELEGATE_ONLY, "is used with --delegate-to only")
    if args.keda_port is None:
        reasons |= dict.fromkeys(_KEDA_ONLY, "is used with --keda-port only")
    for name, reason in reasons.items():
        if getattr(args, name) not in (None, []):
            raise errors.UsageError(f"--{name.replace('_', '-')}: {reason}; leave it out")


def _check_pairs(args: argparse.Namespace) -> None:
    """Refuse a certificate without its key, and a key without its certificate.

    Raises:
        UsageError: names both flags.

    """
    for certificate, key in _PAIRS:
        if (getattr(args, certificate) is None) != (getattr(args, key) is None):
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in (certificate, key))
            raise errors.UsageError(f"{flags}: give both or neither")


def loop_settings(args: argparse.Namespace, *, in_cluster: bool) -> LoopSettings:
    """Settings of the control loop that the flags make."""
    given = vars(args)
    reconciling, collecting = resolve(Reconciling, given), resolve(Collecting, given)
    sizing = resolve(Sizing, given)
    keep = reconciling.keep_accelerator
    return LoopSettings(
        interval=reconciling.interval,
        collection=CollectionSettings(
            interval=collecting.scrape_interval,
            busy_interval=collecting.busy_scrape_interval,
            window=collecting.window,
            long_window=collecting.long_window,
            stale_after=collecting.stale_after,
            source=collecting.metrics_source,
            pods=Access(
                ca_file=collecting.pods_ca_file,
                insecure=collecting.pods_insecure,
                token_file=collecting.pods_token_file,
            ),
        ),
        rates=RateSettings(
            anticipate=sizing.anticipate,
            startup_seconds=sizing.startup_time,
            drain_seconds=sizing.drain_time,
            headroom=sizing.headroom,
        ),
        limits=StabilizationLimits(
            down_seconds=sizing.down_window, step_up=sizing.step_up, step_down=sizing.step_down
        ),
        down_startups=sizing.down_window_startups,
        time_to_live=reconciling.time_to_live,
        scale_to_zero=reconciling.scale_to_zero,
        retention=reconciling.scale_to_zero_retention,
        keep_accelerator=in_cluster if keep is None else keep,
        tune=reconciling.tune,
        stability_margin=reconciling.stability_margin,
        policy=reconciling.saturation_policy,
        slo_feedback=sizing.slo_feedback,
        routing=sizing.routing,
        model_groups=sizing.model_groups,
        interruptible_share=sizing.interruptible_share,
    )


def _installation(args: argparse.Namespace, server: Serving) -> Installation:
    cluster, collecting = resolve(Cluster, vars(args)), resolve(Collecting, vars(args))
    try:
        labels.parse(cluster.selector)
    except labels.SelectorError as error:
        raise errors.UsageError(f"--selector: {error}") from error
    certificates = None
    if server.tls_cert_file is None:
        certificates = OwnCertificates(
            namespace=cluster.config_namespace,
            secret=cluster.certificate_secret,
            service=cluster.service_name,
            api_service=cluster.api_service,
            registered=args.keda_port is None and cluster.actuate != "none",
            times=Times(overlap=timedelta(seconds=cluster.certificate_overlap)),
        )
    lease_seconds = int(cluster.lease_duration)
    return Installation(
        identity=cluster.identity,
        kubeconfig=server.kubeconfig,
        scope=Scope(
            config_namespace=cluster.config_namespace,
            namespaces=cluster.namespaces,
            selector=cluster.selector,
            limited=resolve(Reconciling, vars(args)).limited,
            actuate=cluster.actuate,
            allowed_endpoints=collecting.allowed_endpoints,
        ),
        lease_name=cluster.lease_name,
        own_thread=True,
        lease=LeaseTimes(
            duration=lease_seconds,
            deadline=lease_seconds * 2 / 3,
            retry=lease_seconds * 2 / 15,
        ),
        actuate_scale=cluster.actuate == "scale",
        owner_references=cluster.owner_references,
        gateways=collecting.gateway_metrics,
        discover_gateways=collecting.discover_gateways,
        gateway_access=Access(
            ca_file=collecting.gateways_ca_file,
            insecure=collecting.gateways_insecure,
            token_file=collecting.gateways_token_file,
            token_over_http=collecting.gateways_token_over_http,
        ),
        gateway_token_namespaces=frozenset(collecting.gateways_token_namespaces),
        certificates=certificates,
    )


def _delegate(settings: Delegation) -> delegation.DelegateOptions | None:
    if settings.delegate_to is None:
        return None
    return delegation.DelegateOptions(
        url=settings.delegate_to,
        ca_file=settings.delegate_ca_file,
        certificate=settings.delegate_client_cert,
        key=settings.delegate_client_key,
        token_file=settings.delegate_token_file,
        timeout_seconds=settings.delegate_timeout,
    )


def _keda(settings: Keda, server: Serving) -> KedaOptions | None:
    """Options of the external scaler; None without one.

    Raises:
        UsageError: a file is missing or has no effect.

    """
    if settings.keda_port is None:
        return None
    mutual = settings.keda_callers == "certificate"
    if mutual and settings.keda_client_ca_file is None:
        raise errors.UsageError(
            "--keda-client-ca-file: is needed with --keda-callers=certificate: the authorities of KEDA's"
            " client certificate; or choose --keda-callers=token"
        )
    if not mutual and settings.keda_client_ca_file is not None:
        raise errors.UsageError(
            "--keda-client-ca-file: is used with --keda-callers=certificate only; leave it out"
        )
    if (
        settings.keda_callers == "token"
        and server.variants is not None
        and server.kubeconfig is None
        and not server.in_cluster
    ):
        raise errors.UsageError(
            "--keda-callers=token: no cluster reviews tokens; give --kubeconfig or --in-cluster, or"
            " choose --keda-callers=certificate"
        )
    return KedaOptions(
        host=settings.keda_host,
        port=settings.keda_port,
        callers=settings.keda_callers,
        client_ca=settings.keda_client_ca_file,
        certificate=settings.keda_tls_cert_file,
        key=settings.keda_tls_private_key_file,
    )


def _given(args: argparse.Namespace, group: type[Prometheus]) -> Mapping[str, object]:
    """What was given of the flags of a group, by field; None for what was not."""
    return {item.name: getattr(args, item.name, None) for item in declarations(group)}
