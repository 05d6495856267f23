"""`variant-adapter serve`: the adapter itself."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import signal
import uuid
from datetime import timedelta
from pathlib import Path

from adapter import errors, installation, logs
from adapter.apiserver import delegation
from adapter.app import serving
from adapter.app.options import ClusterIdentities, Installation, ServeOptions
from adapter.auth import local as local_auth
from adapter.clock import Clock
from adapter.collector import gateway
from adapter.commands import flags
from adapter.commands.flags import seconds
from adapter.controller.settings import LoopSettings
from adapter.kube import labels
from adapter.kube.leader_election import LeaseTimes
from adapter.resources.watches import Scope
from adapter.tls.certificate_secret import OwnCertificates
from certs.rotation import Times
from optimizer.problem import POLICIES

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def register(command: argparse.ArgumentParser) -> None:
    """Add the command and its flags."""
    defaults = LoopSettings()
    command.description = (
        "Reads variants from a cluster (or from a folder, with --variants), scrapes their"
        " endpoints, sizes them, and serves the targets over TLS. Durations are written like 15s or 1m30s."
    )
    command.add_argument(
        "--variants", type=Path, metavar="DIR", help="a folder of objects instead of a cluster"
    )
    command.add_argument("--host", default="127.0.0.1", help="address to listen on")
    command.add_argument("--port", type=port, default=6443, help="0 picks a free one")
    command.add_argument(
        "--interval", type=seconds, help="between passes (GLOBAL_OPT_INTERVAL, 60s)"
    )
    command.add_argument(
        "--time-to-live", type=seconds, default=defaults.time_to_live, help="of a target (5m)"
    )
    command.add_argument(
        "--scale-to-zero", action=argparse.BooleanOptionalAction, help="(WVA_SCALE_TO_ZERO, off)"
    )
    command.add_argument(
        "--scale-to-zero-retention",
        type=seconds,
        default=defaults.retention,
        help="that a variant must have been proven idle before it goes to zero (10m)",
    )
    command.add_argument(
        "--keep-accelerator",
        action=argparse.BooleanOptionalAction,
        help="never switch accelerators (on in a cluster, off with --variants)",
    )
    command.add_argument("--tune", action="store_true", help="let profiles follow what is observed")
    command.add_argument(
        "--state-dir", type=Path, default=state_folder(), help="local certificates"
    )
    command.add_argument("--tls-cert-file", type=Path)
    command.add_argument("--tls-private-key-file", type=Path)
    command.add_argument("--client-ca-file", type=Path)
    command.add_argument("--requestheader-client-ca-file", type=Path)
    command.add_argument(
        "--stability-margin",
        type=share,
        default=defaults.stability_margin,
        metavar="SHARE",
        help="of a replica's own speed kept free (0.1)",
    )
    command.add_argument("--metrics-host", default="127.0.0.1", help="of the metrics port")
    command.add_argument(
        "--metrics-port", type=port, help="/metrics, /variants, /readyz without TLS (none)"
    )
    who = command.add_argument_group("which cluster").add_mutually_exclusive_group()
    who.add_argument(
        "--kubeconfig",
        type=Path,
        help="of the cluster; with --variants it only says who may ask",
    )
    who.add_argument(
        "--in-cluster",
        action="store_true",
        help="the pod's own (the default; with --variants it only says who may ask)",
    )
    flags.register(command, defaults)
    _register_installation(command)
    other = command.add_argument_group("another adapter for the same API")
    other.add_argument("--delegate-to", metavar="URL", help="asked for metrics that are not ours")
    other.add_argument("--delegate-ca-file", type=Path, help="of its serving certificate")
    other.add_argument(
        "--delegate-client-cert", type=Path, help="our front-proxy certificate for it"
    )
    other.add_argument("--delegate-client-key", type=Path)
    other.add_argument(
        "--delegate-token-file", type=Path, help="instead: a service account's token"
    )
    other.add_argument("--delegate-timeout", type=seconds, default=4.0, help="(4s)")
    command.add_argument(
        "--shutdown-delay",
        type=seconds,
        default=0.0,
        help="after SIGTERM: not ready, but serving (0s)",
    )
    command.add_argument("--log-format", choices=("auto", "text", "json"), default="auto")
    command.set_defaults(run=run)


def _register_installation(command: argparse.ArgumentParser) -> None:
    cluster = command.add_argument_group("in a cluster")
    cluster.add_argument(
        "--namespaces", type=listed, default=(), metavar="A,B", help="of variants (all)"
    )
    cluster.add_argument("--selector", default="", help="labels of our VariantAutoscalings (all)")
    cluster.add_argument(
        "--config-namespace",
        default=own_namespace(),
        help="of the ConfigMaps, Lease and Secret (%(default)s)",
    )
    cluster.add_argument("--identity", default=own_identity(), help="of this replica, unique")
    cluster.add_argument("--lease-name", default="variant-adapter")
    cluster.add_argument("--lease-duration", type=seconds, default=15.0, help="(15s)")
    cluster.add_argument(
        "--actuate",
        choices=("hpa", "scale"),
        default="hpa",
        help="publish for an HPA, or patch /scale ourselves (hpa); llmd.ai/actuate says otherwise",
    )
    cluster.add_argument(
        "--limited", action="store_true", help="no more GPUs than the Nodes have free"
    )
    cluster.add_argument(
        "--saturation-policy",
        choices=POLICIES,
        default=LoopSettings().policy,
        help="who gets what is left of limited GPUs when not everyone can be served (%(default)s)",
    )
    cluster.add_argument(
        "--owner-references", action="store_true", help="variants go with their scale targets"
    )
    cluster.add_argument(
        "--gateway-metrics",
        action="append",
        default=[],
        metavar="URL",
        help="of an inference gateway's endpoint picker, or NAMESPACE=URL: counts what is offered and wakes"
        " variants at zero; may be repeated",
    )
    cluster.add_argument(
        "--certificate-secret",
        default="variant-adapter-certs",
        help="kept and rotated where no --tls-cert-file is given (%(default)s)",
    )
    cluster.add_argument(
        "--certificate-overlap", type=seconds, default=3600.0, help="of two authorities (1h)"
    )
    cluster.add_argument("--service-name", default="variant-adapter")
    cluster.add_argument("--api-service", default="v1beta1.external.metrics.k8s.io")


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT."""
    logs.configure(args.log_format)
    in_cluster = args.variants is None
    keep = in_cluster if args.keep_accelerator is None else args.keep_accelerator
    options = ServeOptions(
        variants=args.variants,
        host=args.host,
        port=args.port,
        certificates=local_auth.Files(
            state=args.state_dir,
            certificate=args.tls_cert_file,
            key=args.tls_private_key_file,
            client_ca=args.client_ca_file,
            requestheader_ca=args.requestheader_client_ca_file,
        ),
        loop=LoopSettings(
            collection=flags.collection(args),
            rates=flags.rates(args),
            limits=flags.limits(args),
            time_to_live=args.time_to_live,
            retention=args.scale_to_zero_retention,
            keep_accelerator=keep,
            tune=args.tune,
            stability_margin=args.stability_margin,
            policy=args.saturation_policy,
            routing=args.routing,
        ),
        interval=args.interval,
        scale_to_zero=args.scale_to_zero,
        prometheus=flags.prometheus(args),
        delegate=_delegate(args),
        cluster=ClusterIdentities(kubeconfig=args.kubeconfig)
        if args.in_cluster or args.kubeconfig is not None
        else None,
        installation=_installation(args) if in_cluster else None,
        metrics_host=args.metrics_host,
        metrics_port=args.metrics_port,
    )
    asyncio.run(_serve(options, args.shutdown_delay))
    return 0


def _installation(args: argparse.Namespace) -> Installation:
    duration_seconds = max(int(args.lease_duration), 3)
    for url in args.gateway_metrics:
        gateway.parsed(url)
    try:
        labels.parse(args.selector)
    except labels.SelectorError as error:
        raise errors.UsageError(f"--selector: {error}") from error
    certificates = None
    if args.tls_cert_file is None:
        overlap = timedelta(seconds=args.certificate_overlap)
        certificates = OwnCertificates(
            namespace=args.config_namespace,
            secret=args.certificate_secret,
            service=args.service_name,
            api_service=args.api_service,
            times=Times(overlap=overlap),
        )
    return Installation(
        identity=args.identity,
        kubeconfig=args.kubeconfig,
        scope=Scope(
            config_namespace=args.config_namespace,
            namespaces=args.namespaces,
            selector=args.selector,
            limited=args.limited,
        ),
        lease_name=args.lease_name,
        lease=LeaseTimes(
            duration=duration_seconds,
            deadline=duration_seconds * 2 / 3,
            retry=duration_seconds * 2 / 15,
        ),
        actuate_scale=args.actuate == "scale",
        owner_references=args.owner_references,
        gateways=tuple(args.gateway_metrics),
        certificates=certificates,
    )


def _delegate(args: argparse.Namespace) -> delegation.DelegateOptions | None:
    if args.delegate_to is None:
        return None
    return delegation.DelegateOptions(
        url=args.delegate_to,
        ca_file=args.delegate_ca_file,
        certificate=args.delegate_client_cert,
        key=args.delegate_client_key,
        token_file=args.delegate_token_file,
        timeout_seconds=args.delegate_timeout,
    )


async def _serve(options: ServeOptions, delay: float) -> None:
    stop, started = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    async def serve() -> None:
        async with serving.serving(options, clock=Clock()) as front:
            started.set()
            await stop.wait()
            # Not ready first, so that nobody new is sent here, then the end; until then all is answered.
            front.begin_shutdown()
            await asyncio.sleep(delay)

    served = asyncio.create_task(serve(), name="serve")
    stopped = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait({served, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if not started.is_set() and not served.done():
        # It may wait for a cluster for ever.
        served.cancel()
    stopped.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await served


def listed(text: str) -> tuple[str, ...]:
    """Names separated by commas, for argparse."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def own_namespace() -> str:
    """The namespace that this pod runs in; where this is no pod, that of the manifests."""
    if found := os.environ.get("POD_NAMESPACE"):
        return found
    try:
        return NAMESPACE_FILE.read_text(encoding="ascii").strip() or installation.SYSTEM
    except (OSError, UnicodeDecodeError):
        return installation.SYSTEM


def own_identity() -> str:
    """The pod's name with something that no other process has."""
    return f"{os.environ.get('POD_NAME') or platform.node()}_{uuid.uuid4().hex[:8]}"


def port(text: str) -> int:
    """A TCP port for argparse."""
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"must be 0..65535, not {text!r}")
    return int(text)


def share(text: str) -> float:
    """A number from 0 to less than 1 for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be a number >= 0 and < 1, not {text!r}")
    return value


def state_folder() -> Path:
    """Where certificates of the local authority are kept between runs."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "variant-adapter"
