"""A client of the Kubernetes API: requests, lists and watches of JSON objects.

kubernetes-asyncio brings credentials and the connection pool. Its import takes a second and 38 MB, so it is
left out where a kubeconfig holds certificates, a token or a plug-in (`adapter.kube.access`).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

import aiohttp
from yarl import URL

from adapter.errors import StartupError
from adapter.kube import errors, paths
from adapter.kube.access import kubeconfig as kubeconfigs
from adapter.kube.access import proxies
from adapter.kube.bodies import documents, pages

TIMEOUT_SECONDS = 10.0
"""How long a request may take, watches excepted."""

_WATCH_SECONDS = 300
"""How long the API server keeps a watch open before it ends it."""

_MESSAGE_BYTES = 4 * 1024 * 1024
"""Bytes of one message of a WebSocket."""

_TLS_END_SECONDS = 0.1
"""Seconds in which the TLS connection of a WebSocket ends."""
_ERROR_LIMIT = 64 * 1024
"""Bytes of an error response that are read."""

_FAILURES = (OSError, TimeoutError, aiohttp.ClientError, ValueError, RecursionError)
"""No connection, no response in time, or a response that is not a JSON object."""


_BUFFER = 2**21
"""Bytes read ahead: a watch's event holds a whole object on one line, and etcd allows 1.5 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """How requests reach an API server.

    Attributes:
        session: HTTP client with the TLS settings.
        server: URL of the API server.
        authorize: adds the headers that authenticate a request.
        proxy: URL of an HTTP proxy, None: none.
        server_hostname: name that the server's certificate must have, None: the one in its URL.
        tls: settings of new TLS connections; True: those of the session.
        renew: reads credentials again; called with True when they are refused, with False when there is no
            connection, as where the server's certificate is refused.

    """

    session: aiohttp.ClientSession
    server: str
    authorize: Callable[[dict[str, str]], Awaitable[None]] = field(repr=False)
    proxy: str | None = None
    server_hostname: str | None = None
    tls: Callable[[], ssl.SSLContext | bool] = lambda: True
    renew: Callable[[bool], None] = lambda _refused: None


@contextlib.asynccontextmanager
async def connected(
    kubeconfig: Path | None, *, context: str | None = None
) -> AsyncIterator[Cluster]:
    """A client of the cluster of a kubeconfig file; with None of the cluster that this pod runs in.

    Args:
        kubeconfig: The file, or several joined as in $KUBECONFIG.
        context: Name of a context of the file. Default its current one.

    Raises:
        StartupError: the file is unusable, or this process does not run in a pod.

    """
    access = None if kubeconfig is None else kubeconfigs.read(kubeconfig, context)
    # Not before: a pipe can be read once.
    if kubeconfig is not None and access is None:
        kubeconfigs.check(kubeconfig, context)
    if access is None:
        opened = _opened(kubeconfig, context)
    else:
        path = cast("Path", kubeconfig)
        read_again = functools.partial(kubeconfigs.read, path, context)
        opened = _opened_plainly(path, kubeconfigs.Renewing(access, read_again))
    async with opened as connection:
        yield Cluster(connection)


@contextlib.asynccontextmanager
async def _opened_plainly(path: Path, renewing: kubeconfigs.Renewing) -> AsyncIterator[Connection]:
    await renewing.start(path)
    async with aiohttp.ClientSession(read_bufsize=_BUFFER) as session:
        yield Connection(
            session=session,
            server=renewing.access.server,
            authorize=renewing.authorize,
            proxy=proxies.of_environment(renewing.access.server),
            tls=lambda: renewing.access.tls,
            renew=lambda refused: renewing.renew(refused=refused),
        )


@contextlib.asynccontextmanager
async def _opened(kubeconfig: Path | None, context: str | None) -> AsyncIterator[Connection]:
    from kubernetes_asyncio import client, config  # noqa: PLC0415 - see the module

    configuration = client.Configuration()
    # See `kubeconfigs.lenient`.
    configuration.disable_strict_ssl_verification = True
    where = "this pod" if kubeconfig is None else str(kubeconfig)
    try:
        if kubeconfig is not None:
            await config.load_kube_config(
                str(kubeconfig),
                context=context or kubeconfigs.current_context(kubeconfig),
                client_configuration=configuration,
            )
        else:
            config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        # It loads the certificates.
        opened = client.ApiClient(configuration)
    except Exception as error:  # it raises whatever its parsers raise
        if kubeconfig is None and "KUBERNETES_SERVICE_HOST" not in os.environ:
            raise StartupError(
                "no cluster: this is no pod (KUBERNETES_SERVICE_HOST is not set); give --kubeconfig FILE for"
                " a cluster, or --variants DIR for a folder"
            ) from error
        raise StartupError(f"{where}: no usable access to a cluster: {error}") from error

    async with opened as api:

        async def authorize(headers: dict[str, str]) -> None:
            try:
                await api.update_params_for_auth(headers, [], ["BearerToken"])
            except Exception as error:  # as above; a token file is empty while it is replaced
                problem = f"credentials of {where} cannot be read ({type(error).__name__})"
                raise OSError(problem) from error

        rest = api.rest_client
        server = str(configuration.host)
        trust = functools.partial(kubeconfigs.configured, configuration, server)
        renewing = None if (first := trust()) is None else kubeconfigs.Renewing(first, trust)
        # Its session would send what `.netrc` has for the server instead of the token.
        async with aiohttp.ClientSession(
            connector=rest.pool_manager.connector, connector_owner=False, read_bufsize=_BUFFER
        ) as session:
            yield Connection(
                session=session,
                server=server,
                authorize=authorize,
                proxy=rest.proxy or proxies.of_environment(server),
                server_hostname=rest.server_hostname,
                tls=lambda: True if renewing is None else renewing.access.tls,
                renew=lambda refused: None if renewing is None else renewing.renew(refused=refused),
            )


class Cluster:
    """The API server of one cluster."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Sequence[tuple[str, str]] = (),
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        """Send GET, POST, PUT or PATCH for one object; give the object of the response.

        Args:
            method: HTTP method.
            path: URL path, without the query.
            body: JSON document; None: no body.
            query: parameters by name, in order.
            content_type: content type of the body; it selects the kind of patch.

        Raises:
            ApiError: the API server refused, or did not answer.

        """
        try:
            document, _ = await self._call(
                method, path, body=body, query=list(query), content_type=content_type
            )
        except _FAILURES as error:
            raise errors.no_answer(error, path=path) from error
        return document

    async def list_objects(
        self, path: str, query: Sequence[tuple[str, str]] = ()
    ) -> tuple[list[dict[str, Any]], str]:
        """List a collection; give its objects and the resource version to watch from.

        Raises:
            ApiError: the API server refused, or did not answer.

        """
        items: list[dict[str, Any]] = []
        version = ""
        async for page in self.list_pages(path, query):
            items += page.items
            version = page.version
        return items, version

    async def list_pages(
        self, path: str, query: Sequence[tuple[str, str]] = ()
    ) -> AsyncIterator[pages.Page]:
        """List a collection page by page; one of large objects has fewer of them.

        Raises:
            ApiError: the API server refused, or did not answer.

        """
        most, token = pages.FIRST, ""
        while True:
            asked = [*query, ("limit", str(most)), *([("continue", token)] if token else [])]
            try:
                document, length = await self._call(
                    "GET", path, query=asked, longest=pages.longest(most)
                )
            except pages.TooLongError:
                most = max(1, most // pages.FEWER)
                continue
            except _FAILURES as error:
                raise errors.no_answer(error, path=path) from error
            most = pages.following(most, length)
            page, token = await pages.read(document, path=path, after=token)
            # Not held while the next one is read.
            del document
            yield page
            del page
            if not token:
                return

    async def watch_objects(
        self, path: str, version: str, query: Sequence[tuple[str, str]] = ()
    ) -> AsyncIterator[dict[str, Any]]:
        """Watch a collection: events after that resource version, bookmarks included, until the watch ends.

        Raises:
            Gone: the resource version is compacted.
            ApiError: the API server refused, did not answer, or ended the watch with an error.

        """
        parameters = [
            *query,
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", version),
            ("timeoutSeconds", str(_WATCH_SECONDS)),
        ]
        try:
            response = await self._open("GET", path, query=parameters, timeout=_WATCH_SECONDS + 30)
            async with response:
                async for line in documents.lines(response.content):
                    event = documents.event(json.loads(line))
                    if event["type"] == "ERROR":
                        raise errors.of_object(event["object"], path=path)
                    yield event
        except _FAILURES as error:
            raise errors.no_answer(error, path=path) from error

    @contextlib.asynccontextmanager
    async def websocket(
        self, path: str, *, query: Sequence[tuple[str, str]], protocol: str
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """Open a WebSocket of a streaming subresource, such as `portforward`.

        Raises:
            ApiError: the API server refused, does not speak that subprotocol, or did not answer.

        """
        headers: dict[str, str] = {}
        paths.checked(path)
        connection = self._connection
        try:
            await connection.authorize(headers)
            async with connection.session.ws_connect(
                f"{connection.server}{path}",
                params=list(query),
                headers=headers,
                protocols=(protocol,),
                proxy=connection.proxy,
                ssl=connection.tls(),
                server_hostname=connection.server_hostname,
                max_msg_size=_MESSAGE_BYTES,
            ) as socket:
                if socket.protocol != protocol:
                    raise errors.Unavailable(
                        f"{path}: the API server does not speak {protocol}", path=path
                    )
                yield socket
        except aiohttp.WSServerHandshakeError as error:
            message = f"{path}: {error.status} {error.message}"
            raise errors.of_status(error.status, message, path=path) from error
        except _FAILURES as error:
            raise errors.no_answer(error, path=path) from error
        finally:
            # Its TLS connection goes back to no pool: it ends in the background, and the loop may end next.
            await asyncio.sleep(_TLS_END_SECONDS)

    async def _call(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: list[tuple[str, str]] | None = None,
        content_type: str = "application/json",
        longest: int | None = None,
    ) -> tuple[dict[str, Any], int]:
        """The object of a response, and the number of bytes that it had: at most `longest`."""
        response = await self._open(
            method,
            path,
            body=body,
            query=query,
            content_type=content_type,
            timeout=TIMEOUT_SECONDS,
        )
        async with response:
            body_read = await pages.body(response, longest)
        document = json.loads(body_read)
        if not isinstance(document, dict):
            raise ValueError("the response is not a JSON object")  # noqa: TRY004 - as any bad response
        return document, len(body_read)

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
        """Send a request; give a response of 2xx with its body unread."""
        headers = {"Accept": "application/json", "Content-Type": content_type}
        paths.checked(path)
        connection = self._connection
        await connection.authorize(headers)
        try:
            response = await connection.session.request(
                method,
                # Encoded: the path is sent as it is, nothing of it is resolved or unquoted on the way.
                URL(f"{connection.server}{path}", encoded=True),
                params=query,
                data=None if body is None else documents.encoded(body),
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=timeout),
                allow_redirects=False,
                proxy=connection.proxy,
                ssl=connection.tls(),
                server_hostname=connection.server_hostname,
            )
        except aiohttp.ClientOSError:
            # An authority may have been exchanged: whoever asks tries again.
            connection.renew(False)
            raise
        if response.status == HTTPStatus.UNAUTHORIZED:
            connection.renew(True)
        if response.status >= 300:
            async with response:
                text = errors.reported(await response.content.read(_ERROR_LIMIT))
            raise errors.of_status(
                response.status,
                f"{path}: {response.status} {text or response.reason or ''}".rstrip(),
                path=path,
                retry_after=response.headers.get("Retry-After"),
            )
        return response
