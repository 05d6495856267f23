"""The cluster's own words on identities: TokenReview, SubjectAccessReview, and the front-proxy ConfigMap.

The only module that speaks to the Kubernetes API for the API server; kubernetes-asyncio is imported when a
cluster is used, not before: it takes a while and memory.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from adapter import errors
from adapter.auth.authentication import Attributes, IdentityConfig, ReviewError, User, Verdict

if TYPE_CHECKING:
    from kubernetes_asyncio.client import ApiClient

TIMEOUT_SECONDS = 10.0
CONFIG_NAMESPACE, CONFIG_NAME = "kube-system", "extension-apiserver-authentication"
CONFIG_PATH = f"/api/v1/namespaces/{CONFIG_NAMESPACE}/configmaps"
CONFIG_QUERY = (("fieldSelector", f"metadata.name={CONFIG_NAME}"),)
"""Where the cluster says who its front proxy is, as a collection of one: it may be listed and watched."""

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

    async def review_token(self, token: str) -> User | None:
        """Whose token that is; None if it is nobody's.

        Raises:
            ReviewError: the cluster could not be asked.

        """
        status = await self._review(
            "/apis/authentication.k8s.io/v1/tokenreviews",
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenReview",
                "spec": {"token": token},
            },
        )
        if status.get("authenticated") is not True:
            return None
        user = status.get("user") or {}
        return User(
            name=user.get("username") or "",
            groups=tuple(user.get("groups") or ()),
            uid=user.get("uid") or "",
            extra={key: tuple(values) for key, values in (user.get("extra") or {}).items()},
        )

    async def review_access(self, user: User, attributes: Attributes) -> Verdict:
        """Whether the user may do that.

        Raises:
            ReviewError: the cluster could not be asked.

        """
        spec: dict[str, Any] = {"user": user.name, "groups": list(user.groups)}
        if user.uid:
            spec["uid"] = user.uid
        if user.extra:
            spec["extra"] = {key: list(values) for key, values in user.extra.items()}
        spec |= attributes.review()
        status = await self._review(
            "/apis/authorization.k8s.io/v1/subjectaccessreviews",
            {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SubjectAccessReview",
                "spec": spec,
            },
        )
        allowed = status.get("allowed") is True and status.get("denied") is not True
        return Verdict(allowed=allowed, reason=str(status.get("reason") or ""))

    async def _review(self, path: str, body: dict[str, Any]) -> Mapping[str, Any]:
        kind = path.rpartition("/")[2]
        try:
            found = await self.request("POST", path, body=body)
        except ApiError as error:
            raise ReviewError(str(error).removeprefix(path.removesuffix(kind))) from error
        status = found.get("status")
        if not isinstance(status, dict):
            raise ReviewError(f"{kind}: the answer has no status")
        return status

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


def parse_config(data: Mapping[str, str]) -> IdentityConfig:
    """The front-proxy ConfigMap: PEM bundles, and JSON lists in strings.

    Raises:
        StartupError: a list is none; names the key.

    """

    def listed(key: str, default: tuple[str, ...]) -> tuple[str, ...]:
        text = data.get(key)
        if text is None:
            return default
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
            raise errors.StartupError(
                f"ConfigMap {CONFIG_NAMESPACE}/{CONFIG_NAME}: {key}: must be a JSON list of texts"
            )
        return tuple(found)

    def bundle(key: str) -> bytes | None:
        return data[key].encode() if data.get(key) else None

    prefixes = listed("requestheader-extra-headers-prefix", ("X-Remote-Extra-",))
    return IdentityConfig(
        client_cas=bundle("client-ca-file"),
        requestheader_cas=bundle("requestheader-client-ca-file"),
        allowed_names=listed("requestheader-allowed-names", ()),
        username_headers=listed("requestheader-username-headers", ("X-Remote-User",)),
        group_headers=listed("requestheader-group-headers", ("X-Remote-Group",)),
        uid_headers=listed("requestheader-uid-headers", ()),
        extra_prefixes=prefixes,
    )
