"""The adapter that leads, reached with the caller's own rights: flags, its pod, documents that it gives."""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import TYPE_CHECKING, Any

from adapter import errors
from adapter.commands import flags, kubeconfig
from adapter.installation import Names

if TYPE_CHECKING:
    from adapter.kube.client import Cluster

TIMEOUT_SECONDS = 10.0


def add_flags(command: argparse.ArgumentParser) -> None:
    """Add the flags that say which adapter of the cluster to look at."""
    command.add_argument(
        "--url",
        type=flags.url,
        metavar="URL",
        help="URL of an adapter's metrics port to query. Default none: the leader, by a port that the API"
        " server forwards; needs get and create on pods/portforward",
    )
    flags.add_name(command, "--lease-name", Names().lease, "Lease that names the leader")
    command.add_argument(
        "--metrics-port",
        type=flags.port,
        default=8080,
        metavar="PORT",
        help="Metrics port of the adapter's pods. Default %(default)s",
    )


def document(args: argparse.Namespace, path: str) -> dict[str, Any]:
    """The JSON object that the adapter of these flags gives at a path of its metrics port.

    Raises:
        InputError: There is none, or an error of the adapter.

    """
    if args.url:
        return asyncio.run(_query(args.url.rstrip("/") + path))
    return kubeconfig.call(args, lambda cluster: _query_leader(cluster, args, path))


async def leading_pod(cluster: Cluster, args: argparse.Namespace) -> str:
    """Name of the pod that holds the Lease.

    Raises:
        InputError: The Lease cannot be read, or has no holder.

    """
    from adapter.kube import paths  # noqa: PLC0415 - `--help` needs none of what answers
    from adapter.kube.errors import ApiError  # noqa: PLC0415

    namespace = args.config_namespace
    try:
        lease = await cluster.request(
            "GET",
            paths.item("coordination.k8s.io/v1", "leases", args.lease_name, namespace=namespace),
        )
    except ApiError as error:
        raise errors.InputError(kubeconfig.explained(error)) from error
    holder = str((lease.get("spec") or {}).get("holderIdentity") or "")
    pod = holder.rpartition("_")[0]
    if not pod:
        raise errors.InputError(
            f"Lease {namespace}/{args.lease_name}: there is no leader now; try again"
        )
    return pod


async def _query(url: str) -> dict[str, Any]:
    import aiohttp  # noqa: PLC0415 - see `leading_pod`

    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
            body = await response.read()
    except aiohttp.ClientConnectorError as error:
        raise errors.InputError(
            f"{url}: no connection ({error.strerror or error}); is the adapter up, and is --url its metrics"
            " port?"
        ) from error
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        raise errors.InputError(f"{url}: {reason}; is --url its metrics port?") from error
    return _document(url, response.status, body)


async def _query_leader(cluster: Cluster, args: argparse.Namespace, path: str) -> dict[str, Any]:
    from adapter.kube.errors import ApiError  # noqa: PLC0415 - see `leading_pod`
    from adapter.kube.pods import port_forward  # noqa: PLC0415

    pod = await leading_pod(cluster, args)
    try:
        response = await port_forward.get(
            cluster,
            namespace=args.config_namespace,
            pod=pod,
            port=args.metrics_port,
            path=path,
            seconds=TIMEOUT_SECONDS,
        )
    except ApiError as error:
        raise errors.InputError(kubeconfig.explained(error)) from error
    return _document(f"pod {args.config_namespace}/{pod}", response.status, response.body)


def _document(where: str, status: int, body: bytes) -> dict[str, Any]:
    """The JSON object of a response.

    Raises:
        InputError: It is none, or an error of the adapter.

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
