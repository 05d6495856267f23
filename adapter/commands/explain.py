"""`variant-adapter explain`: why a variant has its target, and what keeps it from it."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any

import aiohttp

from adapter import errors
from adapter.commands import kubeconfig
from adapter.diagnostics import explain_text
from adapter.kube import advice
from adapter.kube.client import Cluster
from adapter.kube.errors import ApiError

TIMEOUT_SECONDS = 10.0
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


def register(command: argparse.ArgumentParser) -> None:
    """Add the command and its flags."""
    command.description = (
        "Asks the adapter that leads for a variant's load, its decision, what binds it, what was"
        " next, and what holds the replicas back. Without a name: all variants, one line each."
    )
    command.add_argument("variant", nargs="?", type=named, metavar="NAMESPACE/NAME")
    command.add_argument("--url", help="of a metrics port, instead of asking through the cluster")
    command.add_argument("--lease-name", default="variant-adapter", help="(%(default)s)")
    command.add_argument("--metrics-port", type=int, default=8080, help="of the pods (%(default)s)")
    command.add_argument("--json", action="store_true", help="print JSON instead of text")
    kubeconfig.register(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Ask and print."""
    path = "/variants" + (f"/{args.variant}" if args.variant else "")
    if args.url is not None:
        found = asyncio.run(_direct(args.url.rstrip("/") + path))
    else:
        found = kubeconfig.run(args.kubeconfig, lambda cluster: _through(cluster, args, path))
    if args.json:
        print(json.dumps(found, indent=2))
    elif args.variant:
        for line in explain_text.lines(found):
            print(line)
    else:
        for line in overview(found):
            print(line)
    return 0


def overview(found: Mapping[str, Any]) -> list[str]:
    """One line per variant."""
    rows = [("VARIANT", "CURRENT", "TARGET", "WHY")]
    for item in found["variants"]:
        desired = item.get("desiredReplicas")
        held = item.get("heldBackBy") or []
        why = item.get("problem") or "; ".join([*filter(None, [item.get("reason")]), *held])
        rows.append(
            (
                f"{item['namespace']}/{item['name']}",
                str(item.get("currentReplicas", "-")),
                "-" if desired is None else str(desired),
                why,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]])
        for row in rows
    ]


def named(text: str) -> str:
    """NAMESPACE/NAME for argparse."""
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"must be NAMESPACE/NAME, not {text!r}")
    return text


async def _direct(url: str) -> dict[str, Any]:
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
            found = await response.json(content_type=None)
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        raise errors.InputError(f"{url}: {str(error) or type(error).__name__}") from error
    if not isinstance(found, dict):
        raise errors.InputError(f"{url}: not an adapter's metrics port")
    if response.status != 200:
        raise errors.InputError(str(found.get("message") or f"{url}: {response.status}"))
    return found


async def _through(cluster: Cluster, args: argparse.Namespace, path: str) -> dict[str, Any]:
    """Ask the pod that holds the lease, through the API server's proxy."""
    space = args.config_namespace
    try:
        lease = await cluster.request(
            "GET", f"/apis/coordination.k8s.io/v1/namespaces/{space}/leases/{args.lease_name}"
        )
    except ApiError as error:
        raise errors.InputError(advice.explained(error)) from error
    holder = str((lease.get("spec") or {}).get("holderIdentity") or "")
    pod = holder.rpartition("_")[0]
    if not pod:
        raise errors.InputError(f"Lease {space}/{args.lease_name}: nobody leads now; try again")
    where = f"/api/v1/namespaces/{space}/pods/{pod}:{args.metrics_port}/proxy{path}"
    return await cluster.request("GET", where)
