"""Delegated authentication and authorization: the cluster's authorities, TokenReview and SubjectAccessReview.

Authorities and header names come from ConfigMap kube-system/extension-apiserver-authentication, which is
watched.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from adapter import errors
from adapter.auth import authentication, authorization, reviews
from adapter.auth import local as local_auth
from adapter.kube import advice, client, informer
from adapter.tls.certificates import RELOAD_SECONDS, Certificates

log = structlog.get_logger()

REMIND_SECONDS = 30.0
"""Seconds between warnings of a start that waits without a limit."""

START_SECONDS = 30.0
"""How long the start waits for the front-proxy configuration before it fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth:
    """What the API server needs to let requests in.

    Attributes:
        certificates: Serving certificate, and authorities of client certificates.
        authenticator: Identifies the user of a request.
        policy: Decides what a user may do.

    """

    certificates: Certificates
    authenticator: authentication.Authenticator
    policy: authorization.Authorizer


@contextlib.asynccontextmanager
async def delegated_auth(
    cluster: client.Cluster,
    *,
    certificate: Path,
    key: Path,
    start_seconds: float | None = START_SECONDS,
) -> AsyncIterator[Auth]:
    """Delegate to a cluster; follow its front-proxy ConfigMap until the context ends.

    Args:
        cluster: reviews tokens and access.
        certificate: serving certificate, PEM.
        key: its private key, PEM.
        start_seconds: how long to wait for the configuration; None: no limit.

    Raises:
        StartupError: the configuration cannot be read in time, or a certificate is unusable.

    """
    reviewer = reviews.Reviews(cluster)
    changed = asyncio.Event()
    config_maps = informer.Informer(
        cluster, reviews.CONFIG_PATH, query=reviews.CONFIG_QUERY, changed=changed.set
    )
    tasks = [asyncio.create_task(config_maps.run(), name="watch front-proxy configuration")]
    try:
        config = await _first(config_maps, start_seconds)
        authenticator = authentication.Authenticator(config, review_token=reviewer.review_token)
        certificates = Certificates(certificate, key, local_auth.authorities(config))

        def use(new: authentication.IdentityConfig) -> None:
            certificates.trust(local_auth.authorities(new))
            authenticator.use(new)

        changed.clear()
        tasks.append(
            asyncio.create_task(
                _follow(config_maps, changed, use), name="apply front-proxy configuration"
            )
        )
        yield Auth(
            certificates=certificates,
            authenticator=authenticator,
            policy=authorization.ClusterPolicy(reviewer.review_access),
        )
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _first(
    config_maps: informer.Informer, seconds: float | None
) -> authentication.IdentityConfig:
    """Wait for the configuration."""
    while not config_maps.synced.is_set():
        try:
            async with asyncio.timeout(REMIND_SECONDS if seconds is None else seconds):
                await config_maps.synced.wait()
        except TimeoutError as error:
            problem = config_maps.problem or "the API server does not answer"
            fix = advice.FRONT_PROXY_READER
            if seconds is not None:
                raise errors.StartupError(f"{problem}; {fix}") from error
            log.warning(
                "front-proxy configuration not readable; not serving until it is",
                error=problem,
                fix=fix,
            )
    return _config(config_maps)


async def _follow(
    config_maps: informer.Informer,
    changed: asyncio.Event,
    use: Callable[[authentication.IdentityConfig], None],
) -> None:
    """Apply every change until cancelled; one that is not applied is retried."""
    problem = ""
    while True:
        await changed.wait()
        changed.clear()
        try:
            use(_config(config_maps))
        except (errors.StartupError, ValueError) as error:
            if str(error) != problem:
                log.warning(
                    "front-proxy configuration unusable; keeping the last", error=str(error)
                )
            problem = str(error)
            # Files of the serving certificate that are being replaced pass by themselves.
            await asyncio.sleep(RELOAD_SECONDS)
            changed.set()
        else:
            problem = ""
            log.info("front-proxy configuration reloaded")


def _config(config_maps: informer.Informer) -> authentication.IdentityConfig:
    item = config_maps.objects.get((reviews.CONFIG_NAMESPACE, reviews.CONFIG_NAME))
    if item is None:
        raise errors.StartupError(
            f"ConfigMap {reviews.CONFIG_NAMESPACE}/{reviews.CONFIG_NAME}: is missing"
        )
    return reviews.parse_config(item.get("data") or {})
