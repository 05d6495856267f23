"""A client of the Kubernetes API: requests, lists and watches of JSON objects.

kubernetes-asyncio is imported when a cluster is used, not before: it takes a while and memory.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from adapter import errors

if TYPE_CHECKING:
    from kubernetes_asyncio.client import ApiClient

TIMEOUT_SECONDS = 10.0

PAGE = 500
"""Objects that are listed at once."""

_WATCH_SECONDS = 300


@contextlib.asynccontextmanager
async def connected(kubeconfig: Path | None) -> AsyncIterator[Cluster]:
    """The cluster of a kubeconfig file, or with None the one that this pod runs in.

    Raises:
        StartupError: the file cannot be used, or this is no pod.

    """
    from kubernetes_asyncio import client, config  # noqa: PLC0415 - see the module

    configuration = client.Configuration()
    try:
        if kubeconfig is not None:
            await config.load_kube_config(str(kubeconfig), client_configuration=configuration)
        else:
            config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except Exception as error:  # it raises whatever its parsers raise
        where = "this pod" if kubeconfig is None else str(kubeconfig)
        raise errors.StartupError(f"{where}: no usable access to a cluster: {error}") from error
    async with client.ApiClient(configuration) as api:
        yield Cluster(api)


class ApiError(Exception):
    """The Kubernetes API did not answer, or refused; `code` is its HTTP status, 0 without one."""

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code

    @property
    def gone(self) -> bool:
        """Whether the version that was asked from is too old: list anew."""
        return self.code == 410


class _RefusedError(ValueError):
    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Cluster:
    """Reviews and objects of one cluster."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Sequence[tuple[str, str]] = (),
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        """One object's answer to GET, POST, PUT or PATCH; the content type says what kind of patch.

        Raises:
            ApiError: the cluster did not answer, or refused.

        """
        try:
            return await self._call(
                method, path, body=body, query=list(query), content_type=content_type
            )
        except (OSError, TimeoutError, aiohttp.ClientError, ValueError) as error:
            raise _api_error(path, error) from error

    async def list_objects(
        self, path: str, query: Sequence[tuple[str, str]] = ()
    ) -> tuple[list[dict[str, Any]], str]:
        """All objects of a collection, page by page, and the version to watch from.

        Raises:
            ApiError: the cluster did not answer, or refused.

        """
        found: list[dict[str, Any]] = []
        following = ""
        while True:
            page = [*query, ("limit", str(PAGE))]
            if following:
                page.append(("continue", following))
            try:
                document = await self._call("GET", path, query=page)
            except (OSError, TimeoutError, aiohttp.ClientError, ValueError) as error:
                raise _api_error(path, error) from error
            found += [item for item in document.get("items") or () if isinstance(item, dict)]
            metadata = document.get("metadata") or {}
            following = str(metadata.get("continue") or "")
            if not following:
                return found, str(metadata.get("resourceVersion") or "")

    async def watch_objects(
        self, path: str, version: str, query: Sequence[tuple[str, str]] = ()
    ) -> AsyncIterator[dict[str, Any]]:
        """Events after that version, bookmarks included, until the cluster ends the watch.

        Raises:
            ApiError: the cluster did not answer, refused, or sent an error; gone where the version is too
                old.

        """
        asked = [
            *query,
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", version),
            ("timeoutSeconds", str(_WATCH_SECONDS)),
        ]
        try:
            response = await self._open("GET", path, query=asked, timeout=_WATCH_SECONDS + 30)
            async with response:
                rest = b""
                async for piece in response.content.iter_any():
                    *lines, rest = (rest + piece).split(b"\n")
                    for line in filter(None, lines):
                        event = json.loads(line)
                        if event.get("type") == "ERROR":
                            status = event.get("object") or {}
                            message = str(status.get("message") or "the watch failed")
                            raise ApiError(f"{path}: {message}", code=status.get("code") or 0)
                        yield event
        except (OSError, TimeoutError, aiohttp.ClientError, ValueError) as error:
            raise _api_error(path, error) from error

    async def _call(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: list[tuple[str, str]] | None = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        response = await self._open(
            method,
            path,
            body=body,
            query=query,
            content_type=content_type,
            timeout=TIMEOUT_SECONDS,
        )
        async with response:
            found = await response.json(content_type=None)
        if not isinstance(found, dict):
            raise ValueError("the answer is no object")  # noqa: TRY004 - as any bad answer
        return found

    async def _open(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: list[tuple[str, str]] | None = None,
        content_type: str = "application/json",
        timeout: float,  # noqa: ASYNC109 - handed to aiohttp, which covers the body too
    ) -> aiohttp.ClientResponse:
        """A response of 2xx with its body unread, over the client's own session and credentials."""
        headers = {"Accept": "application/json", "Content-Type": content_type}
        query = list(query or [])
        await self._api.update_params_for_auth(headers, query, ["BearerToken"])
        rest = self._api.rest_client
        response = await rest.pool_manager.request(
            method,
            f"{self._api.configuration.host}{path}",
            params=query,
            data=None if body is None else json.dumps(body),
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=timeout),
            proxy=rest.proxy,
        )
        if response.status >= 300:
            async with response:
                text = (await response.text())[:500]
            with contextlib.suppress(ValueError):
                text = json.loads(text).get("message", text)
            raise _RefusedError(f"{response.status} {text}", response.status)
        found: aiohttp.ClientResponse = response
        return found


def _api_error(path: str, error: Exception) -> ApiError:
    return ApiError(f"{path}: {_why(error)}", code=getattr(error, "code", 0))


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__
