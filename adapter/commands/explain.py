"""`variant-adapter explain`: why a variant has its target, and what keeps its replicas from it."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from adapter import errors
from adapter.commands import flags, kubeconfig
from adapter.installation import Names

if TYPE_CHECKING:
    from adapter.kube.client import Cluster

TIMEOUT_SECONDS = 10.0
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


def register(command: argparse.ArgumentParser) -> None:
    """Add the command and its flags."""
    command.description = (
        "Shows a variant's load, the decision of the last reconcile cycle, what limits a replica, the next"
        " best candidate, and what keeps the replicas from their target. Without a name: all variants, one"
        " line each. The adapter that holds the Lease answers."
    )
    command.add_argument(
        "variant",
        nargs="?",
        type=variant_name,
        metavar="NAMESPACE/NAME",
        help="Variant to explain. Default all variants",
    )
    add_leader_flags(command)
    command.add_argument("--json", action="store_true", help="Print JSON instead of text")
    kubeconfig.add_flags(command)
    command.set_defaults(run=run)


def add_leader_flags(command: argparse.ArgumentParser) -> None:
    """Add the flags that say where the adapter that leads is."""
    command.add_argument(
        "--url",
        type=flags.url,
        metavar="URL",
        help="URL of an adapter's metrics port to query. Default none: the leader, by a port that the API"
        " server forwards; needs get and create on pods/portforward",
    )
    command.add_argument(
        "--lease-name",
        type=flags.dns_name,
        default=Names().lease,
        metavar="NAME",
        help="Lease that names the leader. Default %(default)s",
    )
    command.add_argument(
        "--metrics-port",
        type=flags.port,
        default=8080,
        metavar="PORT",
        help="Metrics port of the adapter's pods. Default %(default)s",
    )


def run(args: argparse.Namespace) -> int:
    """Query and print."""
    path = "/variants" + (f"/{args.variant}" if args.variant else "")
    document = queried(args, path)
    if args.json:
        print(json.dumps(document, indent=2))
        return 0
    # `--help` needs none of what answers, here and below.
    from adapter.diagnostics import explain_text  # noqa: PLC0415

    for line in explain_text.lines(document) if args.variant else overview(document):
        print(line)
    return 0


def queried(args: argparse.Namespace, path: str) -> dict[str, Any]:
    """What the adapter that the flags name answers, by default the leader.

    Raises:
        InputError: it did not answer, or with an error.

    """
    if args.url:
        return asyncio.run(_query(args.url.rstrip("/") + path))
    return kubeconfig.call(args.kubeconfig, lambda cluster: _query_leader(cluster, args, path))


def overview(document: Mapping[str, Any]) -> list[str]:
    """One line per variant."""
    rows = [("VARIANT", "CURRENT", "TARGET", "WHY")]
    for item in document["variants"]:
        desired, advised = item.get("desiredReplicas"), item.get("advisedReplicas")
        obstacles = item.get("heldBackBy") or []
        why = item.get("problem") or "; ".join([*filter(None, [item.get("reason")]), *obstacles])
        rows.append(
            (
                f"{item['namespace']}/{item['name']}",
                str(item.get("currentReplicas", "-")),
                f"({advised})" if advised is not None else "-" if desired is None else str(desired),
                why,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]])
        for row in rows
    ]


def variant_name(text: str) -> str:
    """Read NAMESPACE/NAME, for argparse."""
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"must be NAMESPACE/NAME, not {text!r}")
    return text


async def _query(url: str) -> dict[str, Any]:
    import aiohttp  # noqa: PLC0415 - see `run`

    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
            body = await response.read()
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise errors.InputError(f"{url}: {str(error) or type(error).__name__}") from error
    return _document(url, response.status, body)


async def _query_leader(cluster: Cluster, args: argparse.Namespace, path: str) -> dict[str, Any]:
    """Query the pod that holds the Lease, through a forwarded port: the caller's own rights count."""
    from adapter.kube import advice, paths  # noqa: PLC0415 - see `run`
    from adapter.kube.errors import ApiError  # noqa: PLC0415
    from adapter.kube.pods import port_forward  # noqa: PLC0415

    namespace = args.config_namespace
    try:
        lease = await cluster.request(
            "GET",
            paths.item("coordination.k8s.io/v1", "leases", args.lease_name, namespace=namespace),
        )
    except ApiError as error:
        raise errors.InputError(advice.explained(error)) from error
    holder = str((lease.get("spec") or {}).get("holderIdentity") or "")
    pod = holder.rpartition("_")[0]
    if not pod:
        raise errors.InputError(
            f"Lease {namespace}/{args.lease_name}: there is no leader now; try again"
        )
    try:
        response = await port_forward.get(
            cluster,
            namespace=namespace,
            pod=pod,
            port=args.metrics_port,
            path=path,
            seconds=TIMEOUT_SECONDS,
        )
    except ApiError as error:
        raise errors.InputError(advice.explained(error)) from error
    return _document(f"pod {namespace}/{pod}", response.status, response.body)


def _document(where: str, status: int, body: bytes) -> dict[str, Any]:
    """The JSON object of a response.

    Raises:
        InputError: it is none, or an error of the adapter.

    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise errors.InputError(f"{where}: not an adapter's metrics port")
    if status != 200:
        raise errors.InputError(str(document.get("message") or f"{where}: {status}"))
    return document
