"""The serving certificate in a Secret, shared by all replicas, and the caBundle of the APIService."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adapter import logs
from adapter.installation import API_SERVICE, Names
from adapter.kube import advice, paths
from adapter.kube.client import Cluster
from adapter.kube.errors import ApiError, Conflict, NotFound
from adapter.tls.certificates import RELOAD_SECONDS
from certs import authority, rotation
from certs.rotation import Times

log = logs.LazyLogger()

LONGEST_PERIOD_SECONDS = 30.0
"""Seconds between syncs at most."""

RETRY_SECONDS = 2.0
"""Seconds until the next attempt after a sync failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCertificates:
    """A serving certificate that the adapter issues and keeps in a Secret.

    Attributes:
        namespace: Namespace of the Secret and the Service.
        secret: Name of the Secret.
        service: Name of the adapter's Service, whose SERVICE.NAMESPACE.svc is in the certificate.
        api_service: Name of the APIService whose caBundle is updated.
        registered: Whether the adapter needs the APIService; not where KEDA asks for its targets.
        times: Lifetimes of certificates and authorities.

    """

    namespace: str
    secret: str = Names().secret
    service: str = Names().service
    api_service: str = API_SERVICE
    registered: bool = True
    times: Times = field(default_factory=Times)


class CertificateKeeper:
    """Keeps files, Secret and caBundle in sync; only the leader renews."""

    def __init__(
        self,
        cluster: Cluster,
        options: OwnCertificates,
        *,
        folder: Path,
        leads: Callable[[], bool],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = SecretStore(cluster, namespace=options.namespace, name=options.secret)
        self._cluster = cluster
        self._options = options
        self._certificate = folder / "serving.crt"
        self._key = folder / "serving.key"
        self._leads = leads
        self._now = now
        self._problem = ""
        self._owner = ""
        self._due = asyncio.Event()

    async def prepare(self) -> tuple[Path, Path]:
        """Sync until it succeeds once; give the paths of certificate and key."""
        while not await self._attempt():  # noqa: ASYNC110 - there is no event for a cluster that is back
            await asyncio.sleep(RETRY_SECONDS)
        return self._certificate, self._key

    def sync_now(self) -> None:
        """Have `run` sync at once: this replica leads now, and may renew."""
        self._due.set()

    async def run(self) -> None:
        """Sync periodically until cancelled, and at once after `sync_now`."""
        period = min(self._options.times.overlap.total_seconds() / 4, LONGEST_PERIOD_SECONDS)
        while True:
            wait = max(period, 0.5) if await self._attempt() else RETRY_SECONDS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._due.wait()
            self._due.clear()

    async def _attempt(self) -> bool:
        try:
            await self.step()
        except (ApiError, OSError, ValueError) as error:
            # A full disk or an odd Secret must not end the service: the last certificate still serves.
            if str(error) != self._problem:
                explained = advice.explained(error) if isinstance(error, ApiError) else str(error)
                log.warning("serving certificate not synced; retrying", error=explained)
            self._problem = str(error)
            return False
        self._problem = ""
        return True

    async def step(self) -> None:
        """Sync once: read the Secret, renew what is due, write the files, update the caBundle.

        Raises:
            ApiError: the API server refused, or did not answer.

        """
        state, version = await self._store.read()
        first = state is None
        if first and version:
            log.warning(
                "serving certificate in the Secret is unusable; issuing another",
                secret=self._options.secret,
            )
        service = await self._api_service()
        bundle = None if service is None else bundle_of(service)
        if state is None or self._leads():
            following = rotation.advance(
                state,
                names=names(self._options),
                now=self._now(),
                times=self._options.times,
                published=bundle,
            )
            if following is not state:
                try:
                    await self._store.write(following, version)
                except Conflict:
                    # Another replica was first; its certificate serves as well.
                    following = (await self._store.read())[0] or following
                else:
                    done = "serving certificate issued" if first else "serving certificate renewed"
                    log.info(done, secret=self._options.secret)
            state = following
        replaced = self._write_files(state)
        if service is not None and self._leads() and bundle != state.trusted:
            if replaced:
                # After a full disk the authority of the former certificate may be gone from the bundle at
                # once: until the server takes up the new one, it is needed.
                await asyncio.sleep(2 * RELOAD_SECONDS)
            await self._publish(state.trusted)

    def _write_files(self, state: rotation.CertificateState) -> bool:
        """Write what has changed; whether a former certificate was replaced."""
        pair, replaced = state.serving, self._certificate.exists()
        written = False
        self._key.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path, data in ((self._key, pair.key_pem), (self._certificate, pair.cert_pem)):
            if not path.exists() or path.read_bytes() != data:
                authority.write_private(path, data)
                written = True
        return written and replaced

    async def _api_service(self) -> dict[str, Any] | None:
        """The adapter's APIService; None where there is none, or it belongs to another Service."""
        try:
            item = await self._cluster.request("GET", self._api_service_path)
        except NotFound:
            return None
        service = (item.get("spec") or {}).get("service") or {}
        expected = (self._options.namespace, self._options.service)
        if (service.get("namespace"), service.get("name")) != expected:
            owner = f"{service.get('namespace')}/{service.get('name')}"
            if owner != self._owner:
                self._say_foreign(f"{self._options.api_service} belongs to Service {owner}")
            self._owner = owner
            return None
        self._owner = ""
        return item

    def _say_foreign(self, problem: str) -> None:
        """Log that the APIService is not ours, once for each owner."""
        event = "APIService belongs to another Service; caBundle not updated"
        if self._options.registered:
            log.warning(event, problem=problem, fix="run variant-adapter doctor")
        else:
            log.info(event, problem=problem)

    async def _publish(self, bundle: bytes) -> None:
        spec = {"caBundle": base64.b64encode(bundle).decode(), "insecureSkipTLSVerify": False}
        await self._cluster.request(
            "PATCH",
            self._api_service_path,
            body={"spec": spec},
            content_type="application/merge-patch+json",
        )
        log.info("caBundle updated", api_service=self._options.api_service)

    @property
    def _api_service_path(self) -> str:
        return paths.item("apiregistration.k8s.io/v1", "apiservices", self._options.api_service)


class SecretStore:
    """The Secret that holds authorities and serving certificate."""

    def __init__(self, cluster: Cluster, *, namespace: str, name: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._name = name
        self._collection = paths.collection("v1", "secrets", namespace=namespace)
        self._path = paths.item("v1", "secrets", name, namespace=namespace)

    async def read(self) -> tuple[rotation.CertificateState | None, str]:
        """Read its state and resource version; None for unusable contents, "" where it does not exist.

        Raises:
            ApiError: the API server refused, or did not answer.

        """
        try:
            item = await self._cluster.request("GET", self._path)
        except NotFound:
            return None, ""
        data = {}
        for name, text in (item.get("data") or {}).items():
            try:
                data[name] = base64.b64decode(text, validate=True)
            except (binascii.Error, ValueError):
                continue
        return rotation.parse(data), str((item.get("metadata") or {}).get("resourceVersion") or "")

    async def write(self, state: rotation.CertificateState, version: str) -> None:
        """Replace that resource version; "" creates the Secret.

        Raises:
            Conflict: another replica was first.
            ApiError: the API server refused, or did not answer.

        """
        metadata = {"name": self._name, "namespace": self._namespace}
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "Opaque",
            "metadata": {**metadata, "resourceVersion": version} if version else metadata,
            "data": {
                name: base64.b64encode(value).decode() for name, value in state.data().items()
            },
        }
        if version:
            await self._cluster.request("PUT", self._path, body=body)
        else:
            await self._cluster.request("POST", self._collection, body=body)


def names(options: OwnCertificates) -> list[str]:
    """DNS names of the serving certificate; the one that the aggregation layer verifies comes first."""
    base = f"{options.service}.{options.namespace}"
    return [f"{base}.svc", f"{base}.svc.cluster.local", "localhost"]


def bundle_of(service: Mapping[str, Any]) -> bytes:
    """The caBundle of an APIService, PEM; empty where it has none."""
    text = (service.get("spec") or {}).get("caBundle") or ""
    try:
        return base64.b64decode(text)
    except (binascii.Error, ValueError):
        return b""
