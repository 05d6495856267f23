"""The cluster that a person's command works on: the one that kubectl uses, or that of a named kubeconfig."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from adapter import errors
from adapter.commands import flags
from adapter.installation import SYSTEM
from adapter.settings import machine

if TYPE_CHECKING:
    from adapter.kube.client import Cluster
    from adapter.kube.errors import ApiError

Result = TypeVar("Result")


def add_flags(command: argparse.ArgumentParser) -> None:
    """Add the flags that name the cluster and the installation in it."""
    command.add_argument(
        "--kubeconfig",
        type=flags.path,
        default=machine.kubeconfig(),
        metavar="FILE",
        help="Kubeconfig of the cluster. Default $KUBECONFIG, else ~/.kube/config",
    )
    command.add_argument(
        "--context",
        metavar="NAME",
        help="Context of the kubeconfig to use. Default its current context",
    )
    command.add_argument(
        "--config-namespace",
        type=flags.dns_label,
        default=SYSTEM,
        metavar="NAME",
        help="Namespace that the adapter is installed in. Default %(default)s",
    )


def call(args: argparse.Namespace, work: Callable[[Cluster], Awaitable[Result]]) -> Result:
    """Run a coroutine function with a client of the cluster that the flags name; return its result.

    Raises:
        AdapterError: the file cannot be used, or the cluster refuses or does not answer.

    """
    # The client loads HTTP, which `--help` does not need.
    import asyncio  # noqa: PLC0415

    from adapter.kube.access.kubeconfig import NoKubeconfigError  # noqa: PLC0415
    from adapter.kube.client import connected  # noqa: PLC0415
    from adapter.kube.errors import ApiError  # noqa: PLC0415

    async def connect() -> Result:
        async with connected(args.kubeconfig, context=args.context) as cluster:
            return await work(cluster)

    try:
        return asyncio.run(connect())
    except ApiError as error:
        raise errors.InputError(explained(error)) from error
    except NoKubeconfigError as error:
        if "url" not in args:
            raise
        text = f"{error}, or an adapter that you can reach with --url"
        raise errors.StartupError(text) from error


def explained(error: ApiError) -> str:
    """The error of a request, followed by what a person at a command line can do about it."""
    from adapter.kube import advice  # noqa: PLC0415 - see `call`
    from adapter.kube.errors import Forbidden  # noqa: PLC0415

    if isinstance(error, Forbidden) and not error.path.endswith("/portforward"):
        return f"{error}; {advice.NO_RIGHT}"
    return advice.explained(error) if error.answered else f"{error}; {advice.NO_ANSWER}"
