"""`variant-adapter serve`: the adapter itself."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adapter import app, delegation, duration, logs, pki
from adapter.clock import Clock
from adapter.loop import LoopSettings


def register(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the command and its flags."""
    defaults = LoopSettings()
    command = subparsers.add_parser(
        "serve",
        help="serve optimized targets over the external metrics API",
        description="Reads variants from a folder, scrapes their endpoints, sizes them, and serves"
        " the targets over TLS. Durations are written like 15s or 1m30s.",
    )
    command.add_argument("--variants", type=Path, required=True, metavar="DIR")
    command.add_argument("--host", default="127.0.0.1", help="address to listen on")
    command.add_argument("--port", type=port, default=6443, help="0 picks a free one")
    command.add_argument(
        "--interval", type=seconds, help="between passes (GLOBAL_OPT_INTERVAL, 60s)"
    )
    command.add_argument("--scrape-interval", type=seconds, default=defaults.scrape_interval)
    command.add_argument("--window", type=seconds, default=defaults.window, help="of the rates")
    command.add_argument(
        "--time-to-live", type=seconds, default=defaults.time_to_live, help="of a target"
    )
    command.add_argument(
        "--scale-to-zero", action=argparse.BooleanOptionalAction, help="(WVA_SCALE_TO_ZERO, off)"
    )
    command.add_argument(
        "--keep-accelerator", action="store_true", help="never switch accelerators"
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
    who = command.add_argument_group("who may ask").add_mutually_exclusive_group()
    who.add_argument(
        "--kubeconfig",
        type=Path,
        help="a cluster that reviews tokens and access, and names its front proxy",
    )
    who.add_argument("--in-cluster", action="store_true", help="the same by the pod's own cluster")
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


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT."""
    logs.configure(args.log_format)
    options = app.ServeOptions(
        variants=args.variants,
        host=args.host,
        port=args.port,
        certificates=pki.Files(
            state=args.state_dir,
            certificate=args.tls_cert_file,
            key=args.tls_private_key_file,
            client_ca=args.client_ca_file,
            requestheader_ca=args.requestheader_client_ca_file,
        ),
        loop=LoopSettings(
            scrape_interval=args.scrape_interval,
            window=args.window,
            time_to_live=args.time_to_live,
            keep_accelerator=args.keep_accelerator,
            tune=args.tune,
            stability_margin=args.stability_margin,
        ),
        interval=args.interval,
        scale_to_zero=args.scale_to_zero,
        delegate=_delegate(args),
        cluster=app.ClusterIdentities(kubeconfig=args.kubeconfig)
        if args.in_cluster or args.kubeconfig is not None
        else None,
    )
    asyncio.run(_serve(options, args.shutdown_delay))
    return 0


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


async def _serve(options: app.ServeOptions, delay: float) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with app.serving(options, clock=Clock()) as running:
        await stop.wait()
        # Not ready first, so that nobody new is sent here, then the end; until then all is answered.
        running.drain.ending = True
        await asyncio.sleep(delay)


def seconds(text: str) -> float:
    """`duration.seconds` for argparse."""
    return _checked(duration.seconds, text)


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


def _checked(convert: Callable[[str], float], text: str) -> float:
    try:
        return convert(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
