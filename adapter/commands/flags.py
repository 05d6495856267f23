"""Flags of `serve` that say how load is collected and what of it variants are sized for."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from adapter.app.options import PrometheusFlags
from adapter.collector.collector import CollectionSettings
from adapter.controller.demand import RateSettings
from adapter.controller.settings import LoopSettings
from adapter.kube import duration
from adapter.planning.fleet import ROUTINGS
from adapter.resources.variant import SOURCES
from optimizer.stabilization import Limits

_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e\xa0-\xff]*)")


def register(command: argparse.ArgumentParser, defaults: LoopSettings) -> None:
    """Add the flags."""
    _register_collection(command, defaults.collection)
    register_prometheus(command)
    group = command.add_argument_group("what load variants are sized for")
    group.add_argument(
        "--anticipate",
        action=argparse.BooleanOptionalAction,
        default=defaults.rates.anticipate,
        help="follow a rising trend ahead by the time that a replica needs to start (on)",
    )
    group.add_argument(
        "--startup-time",
        type=seconds,
        help="of a replica, where it cannot be seen from its pods (1m); llmd.ai/startup-time says otherwise",
    )
    group.add_argument(
        "--drain-time",
        type=seconds_or_off,
        default=defaults.rates.drain_seconds,
        help="in which what waits should be served once new replicas are there, or off (1m)",
    )
    group.add_argument(
        "--headroom",
        type=percent,
        default=defaults.rates.headroom,
        metavar="SHARE",
        help="of the rate, added for what it does between two passes (3%%)",
    )
    group.add_argument(
        "--down-window",
        type=seconds_or_off,
        default=defaults.limits.down_seconds,
        help="that fewer replicas must have been enough before they go, or off (90s)",
    )
    group.add_argument(
        "--routing",
        choices=ROUTINGS,
        default=defaults.routing,
        help="how requests find their replica: as a Service does, or by a gateway that knows the replicas'"
        " load, with which fewer are enough (%(default)s); llmd.ai/routing says otherwise",
    )
    group.add_argument("--step-up", type=step, help="replicas more at a time (any number)")
    group.add_argument("--step-down", type=step, help="replicas fewer at a time (any number)")


def _register_collection(command: argparse.ArgumentParser, defaults: CollectionSettings) -> None:
    group = command.add_argument_group("where load comes from")
    group.add_argument(
        "--metrics-source",
        choices=SOURCES,
        default=defaults.source,
        help="the serving pods, Prometheus, or the pods and Prometheus where they do not answer"
        " (%(default)s); llmd.ai/metrics-source says otherwise",
    )
    group.add_argument("--scrape-interval", type=seconds, default=defaults.interval, help="(15s)")
    group.add_argument("--window", type=seconds, default=defaults.window, help="of the rates (1m)")
    group.add_argument(
        "--long-window",
        type=seconds_or_off,
        default=defaults.long_window,
        help="of the steadier rate, which counts unless load rises by more than chance, or off (3m)",
    )
    group.add_argument(
        "--stale-after",
        type=seconds,
        default=defaults.stale_after,
        help="age at which metrics no longer count (2.5 scrape intervals)",
    )


def register_prometheus(command: argparse.ArgumentParser) -> None:
    """Add the flags that say where Prometheus is and how it is reached."""
    group = command.add_argument_group("Prometheus, Thanos or Mimir")
    group.add_argument("--prometheus", metavar="URL", help="(PROMETHEUS_BASE_URL)")
    group.add_argument("--prometheus-ca-file", type=Path, help="(PROMETHEUS_CA_CERT_PATH)")
    group.add_argument("--prometheus-client-cert", type=Path, help="(PROMETHEUS_CLIENT_CERT_PATH)")
    group.add_argument("--prometheus-client-key", type=Path, help="(PROMETHEUS_CLIENT_KEY_PATH)")
    group.add_argument("--prometheus-server-name", default="", help="(PROMETHEUS_SERVER_NAME)")
    group.add_argument(
        "--prometheus-token-file",
        type=Path,
        help="read before each query (PROMETHEUS_TOKEN_PATH); the token itself: PROMETHEUS_BEARER_TOKEN",
    )
    group.add_argument(
        "--prometheus-insecure",
        action=argparse.BooleanOptionalAction,
        help="do not check its certificate (PROMETHEUS_TLS_INSECURE_SKIP_VERIFY)",
    )
    group.add_argument(
        "--prometheus-header",
        type=header,
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="such as the tenant's X-Scope-OrgID; may be repeated",
    )
    group.add_argument("--prometheus-timeout", type=seconds, help="(PROMETHEUS_TIMEOUT, 10s)")


def collection(args: argparse.Namespace) -> CollectionSettings:
    """How to collect."""
    return CollectionSettings(
        interval=args.scrape_interval,
        window=args.window,
        long_window=args.long_window,
        stale_after=args.stale_after,
        source=args.metrics_source,
    )


def rates(args: argparse.Namespace) -> RateSettings:
    """What of the load variants are sized for."""
    return RateSettings(
        anticipate=args.anticipate,
        startup_seconds=args.startup_time,
        drain_seconds=args.drain_time,
        headroom=args.headroom,
    )


def limits(args: argparse.Namespace) -> Limits:
    """How targets may change."""
    return Limits(down_seconds=args.down_window, step_up=args.step_up, step_down=args.step_down)


def prometheus(args: argparse.Namespace) -> PrometheusFlags:
    """What was said of Prometheus."""
    return PrometheusFlags(
        url=args.prometheus,
        ca_file=args.prometheus_ca_file,
        certificate=args.prometheus_client_cert,
        key=args.prometheus_client_key,
        server_name=args.prometheus_server_name,
        token_file=args.prometheus_token_file,
        insecure=args.prometheus_insecure,
        headers=tuple(args.prometheus_header),
        timeout_seconds=args.prometheus_timeout,
    )


def seconds(text: str) -> float:
    """`duration.seconds` for argparse."""
    try:
        return duration.seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def seconds_or_off(text: str) -> float:
    """The same; 0 for off."""
    return 0.0 if text == "off" else seconds(text)


def percent(text: str) -> float:
    """A share such as 5% or 0.05 for argparse."""
    try:
        value = float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 10:
        raise argparse.ArgumentTypeError(f"must be a share such as 5% or 0.05, not {text!r}")
    return value


def step(text: str) -> int:
    """A number of replicas for argparse."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"must be a whole number >= 1, not {text!r}")
    return int(text)


def header(text: str) -> tuple[str, str]:
    """Name and value of an HTTP header for argparse."""
    found = _HEADER.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"must be 'NAME: VALUE', not {text!r}")
    return found[1], found[2].strip()
