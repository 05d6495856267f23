"""`variant-adapter serve`: the external metrics API server and the control loop."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from datetime import timedelta

from adapter import errors, logs
from adapter.apiserver import delegation
from adapter.app import serving
from adapter.app.options import ClusterIdentities, Installation, ServeOptions
from adapter.auth import local as local_auth
from adapter.clock import Clock
from adapter.collector.collector import CollectionSettings
from adapter.commands import flags
from adapter.controller.demand import RateSettings
from adapter.controller.settings import LoopSettings
from adapter.kube import labels
from adapter.kube.leader_election import LeaseTimes
from adapter.resources.watches import Scope
from adapter.settings.control import Collecting, Prometheus, Reconciling, Sizing
from adapter.settings.declaration import resolve
from adapter.settings.groups import GROUPS
from adapter.settings.serving import Cluster, Delegation, Serving
from adapter.tls.certificate_secret import OwnCertificates
from certs.rotation import Times
from optimizer.stabilization import StabilizationLimits


def register(command: argparse.ArgumentParser) -> None:
    """Add the command and its flags."""
    command.description = (
        "Reads variants from a cluster (or from a folder, with --variants), scrapes their model servers,"
        " decides how many replicas each needs, and serves that as an external metric over TLS. Durations are"
        " written like 15s or 1m30s. All settings with their ConfigMap keys: docs/configuration.md."
    )
    flags.add(command, *GROUPS)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT."""
    options = options_of(args)
    server = resolve(Serving, vars(args))
    logs.configure(server.log_format)
    asyncio.run(_serve(options, server.shutdown_delay))
    return 0


def options_of(args: argparse.Namespace) -> ServeOptions:
    """Options that the flags make, with defaults for those that were not given.

    Raises:
        UsageError: flags that contradict each other or cannot be used.

    """
    server = resolve(Serving, vars(args))
    in_cluster = server.variants is None
    reads_cluster = server.in_cluster or server.kubeconfig is not None
    if args.gateway_metrics and not in_cluster:
        raise errors.UsageError(
            "--gateway-metrics: gateways are read in a cluster only, not with --variants"
        )
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
        prometheus=flags.given(args, Prometheus),
        delegate=_delegate(resolve(Delegation, vars(args))),
        cluster=ClusterIdentities(kubeconfig=server.kubeconfig) if reads_cluster else None,
        installation=_installation(args, server) if in_cluster else None,
        metrics_host=server.metrics_host,
        metrics_port=server.metrics_port,
    )


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
            window=collecting.window,
            long_window=collecting.long_window,
            stale_after=collecting.stale_after,
            source=collecting.metrics_source,
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
        time_to_live=reconciling.time_to_live,
        scale_to_zero=reconciling.scale_to_zero,
        retention=reconciling.scale_to_zero_retention,
        keep_accelerator=in_cluster if keep is None else keep,
        tune=reconciling.tune,
        stability_margin=reconciling.stability_margin,
        policy=reconciling.saturation_policy,
        routing=sizing.routing,
    )


def _installation(args: argparse.Namespace, server: Serving) -> Installation:
    cluster = resolve(Cluster, vars(args))
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
        ),
        lease_name=cluster.lease_name,
        lease=LeaseTimes(
            duration=lease_seconds,
            deadline=lease_seconds * 2 / 3,
            retry=lease_seconds * 2 / 15,
        ),
        actuate_scale=cluster.actuate == "scale",
        owner_references=cluster.owner_references,
        gateways=resolve(Collecting, vars(args)).gateway_metrics,
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


async def _serve(options: ServeOptions, delay: float) -> None:
    stop, started = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    async def serve() -> None:
        async with serving.serving(options, clock=Clock()) as front:
            started.set()
            await stop.wait()
            # Not ready first, so that no new client is sent here; until the end all requests are served.
            front.begin_shutdown()
            await asyncio.sleep(delay)

    served = asyncio.create_task(serve(), name="serve")
    stopped = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait({served, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if not started.is_set() and not served.done():
        # A start may wait for the cluster without end.
        served.cancel()
    stopped.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await served
