"""Who may enter, in a cluster: its authorities, tokens and access reviews, kept up to date."""

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
from adapter.tls.certificates import Certificates

log = structlog.get_logger()

REMIND_SECONDS = 30.0
"""Between words on what a start without a limit waits for."""

START_SECONDS = 30.0
"""How long the front-proxy configuration may take to be readable before the start is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """All that decides who is let in."""

    certificates: Certificates
    authenticator: authentication.Authenticator
    policy: authorization.Policy


@contextlib.asynccontextmanager
async def of_cluster(
    *,
    kubeconfig: Path | None,
    certificate: Path,
    key: Path,
    start_seconds: float | None = START_SECONDS,
) -> AsyncIterator[Gate]:
    """The gate of a cluster; follows its front-proxy ConfigMap until the context ends.

    Args:
        kubeconfig: None: the cluster that this pod runs in.
        certificate: serving certificate, PEM.
        key: its private key, PEM.
        start_seconds: to wait for the configuration; None waits for as long as it takes.

    Raises:
        StartupError: the cluster cannot be reached or does not let us read its configuration, or a
            certificate is unusable.

    """
    async with client.connected(kubeconfig) as found:
        asked = reviews.Reviews(found)
        changed = asyncio.Event()
        watched = informer.Informer(
            found, reviews.CONFIG_PATH, query=reviews.CONFIG_QUERY, changed=changed.set
        )
        tasks = [asyncio.create_task(watched.run(), name="watch front-proxy configuration")]
        try:
            config = await _first(watched, start_seconds)
            authenticator = authentication.Authenticator(config, review_token=asked.review_token)
            certificates = Certificates(certificate, key, local_auth.authorities(config))

            def use(new: authentication.IdentityConfig) -> None:
                certificates.trust(local_auth.authorities(new))
                authenticator.use(new)

            changed.clear()
            tasks.append(asyncio.create_task(_follow(watched, changed, use), name="take it up"))
            yield Gate(
                certificates=certificates,
                authenticator=authenticator,
                policy=authorization.ClusterPolicy(asked.review_access),
            )
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _first(
    watched: informer.Informer, seconds: float | None
) -> authentication.IdentityConfig:
    """The configuration, waited for while the cluster does not answer; without a limit for None."""
    while not watched.synced.is_set():
        try:
            async with asyncio.timeout(REMIND_SECONDS if seconds is None else seconds):
                await watched.synced.wait()
        except TimeoutError as error:
            problem = watched.problem or "the cluster does not answer"
            if seconds is not None:
                raise errors.StartupError(f"{problem}; {advice.FRONT_PROXY_READER}") from error
            log.warning(
                "not serving yet: no front-proxy configuration",
                why=problem,
                fix=advice.FRONT_PROXY_READER,
            )
    return _config(watched)


async def _follow(
    watched: informer.Informer,
    changed: asyncio.Event,
    use: Callable[[authentication.IdentityConfig], None],
) -> None:
    """Take up every change, until cancelled; what is unusable is logged, and the last stays."""
    while True:
        await changed.wait()
        changed.clear()
        try:
            use(_config(watched))
        except (errors.StartupError, ValueError) as error:
            log.warning("front-proxy configuration not loaded; the last stays", error=str(error))
        else:
            log.info("front-proxy configuration loaded again")


def _config(watched: informer.Informer) -> authentication.IdentityConfig:
    found = watched.objects.get((reviews.CONFIG_NAMESPACE, reviews.CONFIG_NAME))
    if found is None:
        raise errors.StartupError(
            f"ConfigMap {reviews.CONFIG_NAMESPACE}/{reviews.CONFIG_NAME}: is missing"
        )
    return reviews.parse_config(found.get("data") or {})
