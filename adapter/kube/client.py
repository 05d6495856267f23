"""A client of the Kubernetes API: requests, lists and watches of JSON objects.

kubernetes-asyncio brings credentials and the connection pool. Its import takes a second and 38 MB, so it is
left out where a kubeconfig holds certificates, a token or a plug-in (`adapter.kube.access`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from adapter.errors import StartupError
from adapter.kube import errors, paths
from adapter.kube.access import kubeconfig as kubeconfigs

TIMEOUT_SECONDS = 10.0
"""How long a request may take, watches excepted."""

PAGE = 500
"""Objects per page of a list."""

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


_ESCAPED = re.compile("[^\\x00-\\x7e\\U00010000-\\U0010ffff]")
"""Characters that are escaped in what is sent; JSON itself escapes those below a blank."""

_BUFFER = 2**21
"""Bytes read ahead: a watch's event holds a whole object on one line, and etcd allows 1.5 MiB."""

_LINE_BYTES = 32 * 2**20
"""Most bytes of an event of a watch: an object as JSON is some times as long as in etcd."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """How requests reach an API server.

    Attributes:
        session: HTTP client with the TLS settings.
        server: URL of the API server.
        authorize: adds the headers that authenticate a request.
        proxy: URL of an HTTP proxy, None: none.
        server_hostname: name that the server's certificate must have, None: the one in its URL.

    """

    session: aiohttp.ClientSession
    server: str
    authorize: Callable[[dict[str, str]], Awaitable[None]] = field(repr=False)
    proxy: str | None = None
    server_hostname: str | None = None


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
        kubeconfigs.check(kubeconfig)
    opened = _opened(kubeconfig, context) if access is None else _opened_plainly(access)
    async with opened as connection:
        yield Cluster(connection)


@contextlib.asynccontextmanager
async def _opened_plainly(access: kubeconfigs.Access) -> AsyncIterator[Connection]:
    authorize = await access.authorizer()
    connector = aiohttp.TCPConnector(ssl=access.tls)
    async with aiohttp.ClientSession(
        connector=connector, trust_env=True, read_bufsize=_BUFFER
    ) as session:
        yield Connection(session=session, server=access.server, authorize=authorize)


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
        yield Connection(
            session=rest.pool_manager,
            server=str(configuration.host),
            authorize=authorize,
            proxy=rest.proxy,
            server_hostname=rest.server_hostname,
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
            return await self._call(
                method, path, body=body, query=list(query), content_type=content_type
            )
        except _FAILURES as error:
            raise _unavailable(path, error) from error

    async def list_objects(
        self, path: str, query: Sequence[tuple[str, str]] = ()
    ) -> tuple[list[dict[str, Any]], str]:
        """List a collection, page by page; give its objects and the resource version to watch from.

        Raises:
            ApiError: the API server refused, or did not answer.

        """
        items: list[dict[str, Any]] = []
        token = ""
        while True:
            page = [*query, ("limit", str(PAGE))]
            if token:
                page.append(("continue", token))
            document = await self.request("GET", path, query=page)
            items += [item for item in document.get("items") or () if isinstance(item, dict)]
            metadata = document.get("metadata") or {}
            token = str(metadata.get("continue") or "")
            if not token:
                return items, str(metadata.get("resourceVersion") or "")

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
                async for line in _lines(response.content):
                    event = _watch_event(json.loads(line))
                    if event["type"] == "ERROR":
                        raise errors.of_object(event["object"], path=path)
                    yield event
        except _FAILURES as error:
            raise _unavailable(path, error) from error

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
            raise _unavailable(path, error) from error
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
            document = await response.json(content_type=None)
        if not isinstance(document, dict):
            raise ValueError("the response is not a JSON object")  # noqa: TRY004 - as any bad response
        return document

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
        response = await connection.session.request(
            method,
            # Encoded: the path is sent as it is, nothing of it is resolved or unquoted on the way.
            URL(f"{connection.server}{path}", encoded=True),
            params=query,
            data=None if body is None else encoded(body),
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=timeout),
            allow_redirects=False,
            proxy=connection.proxy,
            server_hostname=connection.server_hostname,
        )
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


def encoded(document: object) -> bytes:
    """A JSON document that the API server also reads as YAML, which server-side apply is.

    YAML knows no surrogate pairs: characters beyond the BMP are sent as they are, and half a pair as U+FFFD;
    all others beyond ASCII are escaped, because YAML takes some of them for the end of a line.
    """
    return _ESCAPED.sub(_escape, json.dumps(document, ensure_ascii=False)).encode()


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\u{0xFFFD if 0xD800 <= code <= 0xDFFF else code:04x}"


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of a watch that are not empty; what follows the last end of a line is none.

    Raises:
        ValueError: a line is longer than an event may be.

    """
    begun = bytearray()
    async for piece in content.iter_any():
        *lines, rest = piece.split(b"\n")
        for line in lines:
            begun += line
            if begun:
                yield bytes(begun)
            begun.clear()
        begun += rest
        if len(begun) > _LINE_BYTES:
            raise ValueError(f"a line of the watch is longer than {_LINE_BYTES // 2**20} MiB")


def _watch_event(event: Any) -> dict[str, Any]:
    """The event of a line of a watch.

    Raises:
        ValueError: it is not an object with a type and an object.

    """
    if not (
        isinstance(event, dict)
        and isinstance(event.get("type"), str)
        and isinstance(event.get("object"), dict)
    ):
        raise ValueError("a line of the watch is not an event")  # noqa: TRY004 - as any bad line
    return event


def _unavailable(path: str, error: Exception) -> errors.Unavailable:
    return errors.Unavailable(f"{path}: {str(error) or type(error).__name__}", path=path)
