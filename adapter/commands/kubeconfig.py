"""The cluster that a person's command works on: kubectl's own choice of it, or a named kubeconfig."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from adapter import errors
from adapter.installation import SYSTEM
from adapter.kube.client import Cluster, connected
from adapter.kube.errors import ApiError

Found = TypeVar("Found")


def register(command: argparse.ArgumentParser) -> None:
    """Add the flags that say where the cluster and our installation in it are."""
    command.add_argument(
        "--kubeconfig", type=Path, default=default(), help="($KUBECONFIG, ~/.kube/config)"
    )
    command.add_argument("--config-namespace", default=SYSTEM, help="of the adapter (%(default)s)")


def default() -> Path:
    """The file that kubectl would read first."""
    named = [part for part in os.environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    return Path(named[0]) if named else Path.home() / ".kube" / "config"


def run(path: Path, work: Callable[[Cluster], Awaitable[Found]]) -> Found:
    """Do something with the cluster of a kubeconfig.

    Raises:
        AdapterError: the file is unusable, or the cluster refuses or does not answer.

    """
    if not path.exists():
        raise errors.InputError(f"{path}: no such kubeconfig; name one with --kubeconfig")

    async def connect() -> Found:
        async with connected(path) as cluster:
            return await work(cluster)

    try:
        return asyncio.run(connect())
    except ApiError as error:
        raise errors.InputError(str(error)) from error
