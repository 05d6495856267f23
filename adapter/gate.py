"""Who may enter, in a cluster: its authorities, tokens and access reviews, kept up to date."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from adapter import cluster, errors, identity, listener, pki

log = structlog.get_logger()

START_SECONDS = 30.0
"""How long the front-proxy configuration may take to be readable before the start is given up."""

_RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """All that decides who is let in."""

    certificates: listener.Certificates
    authenticator: identity.Authenticator
    policy: identity.Policy


@contextlib.asynccontextmanager
async def of_cluster(
    *,
    kubeconfig: Path | None,
    certificate: Path,
    key: Path,
    start_seconds: float = START_SECONDS,
) -> AsyncIterator[Gate]:
    """The gate of a cluster; follows its front-proxy ConfigMap until the context ends.

    Raises:
        StartupError: the cluster cannot be reached or does not let us read its configuration, or a
            certificate is unusable.

    """
    async with cluster.connected(kubeconfig) as found:
        config, version = await _first(found, start_seconds)
        authenticator = identity.Authenticator(config, review_token=found.review_token)
        certificates = listener.Certificates(certificate, key, pki.authorities(config))

        def use(changed: identity.IdentityConfig) -> None:
            try:
                certificates.trust(pki.authorities(changed))
                authenticator.use(changed)
            except (errors.StartupError, ValueError) as error:
                log.warning("client authorities not loaded; the last stay", error=str(error))
            else:
                log.info("front-proxy configuration loaded again")

        follower = asyncio.create_task(
            found.follow_config(version, use), name="follow front-proxy configuration"
        )
        try:
            yield Gate(
                certificates=certificates,
                authenticator=authenticator,
                policy=identity.ClusterPolicy(found.review_access),
            )
        finally:
            follower.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await follower


async def _first(found: cluster.Cluster, seconds: float) -> tuple[identity.IdentityConfig, str]:
    """The configuration, asked for again while the cluster does not answer."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        try:
            return await found.identity_config()
        except identity.ReviewError as error:
            if asyncio.get_running_loop().time() >= deadline:
                raise errors.StartupError(
                    f"{error}; it takes RoleBinding kube-system/extension-apiserver-authentication-reader"
                ) from error
            log.warning("front-proxy configuration not readable yet", error=str(error))
        await asyncio.sleep(_RETRY_SECONDS)
