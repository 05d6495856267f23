"""TokenReview, SubjectAccessReview, and the front-proxy ConfigMap of a cluster."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from adapter import errors
from adapter.auth.authorization import AccessDecision, Attributes
from adapter.auth.users import ReviewError, User
from adapter.kube import paths
from adapter.kube.client import Cluster
from adapter.kube.errors import ApiError

if TYPE_CHECKING:
    from adapter.auth.authentication import IdentityConfig

CONFIG_NAMESPACE, CONFIG_NAME = "kube-system", "extension-apiserver-authentication"
CONFIG_PATH = paths.collection("v1", "configmaps", namespace=CONFIG_NAMESPACE)
CONFIG_ITEM = paths.item("v1", "configmaps", CONFIG_NAME, namespace=CONFIG_NAMESPACE)
CONFIG_QUERY = (("fieldSelector", f"metadata.name={CONFIG_NAME}"),)
"""The ConfigMap with the front proxy's authorities and headers, as a collection of one object to watch."""


class Reviews:
    """Token and access reviews of one cluster."""

    def __init__(self, api: Cluster) -> None:
        self._api = api

    async def review_token(self, token: str) -> User | None:
        """Review a token; give its user, or None if the token is not valid.

        Raises:
            ReviewError: the review failed.

        """
        status = await self._review(
            paths.collection("authentication.k8s.io/v1", "tokenreviews"),
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

    async def review_access(self, user: User, attributes: Attributes) -> AccessDecision:
        """Review whether a user may do something.

        Raises:
            ReviewError: the review failed.

        """
        spec: dict[str, Any] = {"user": user.name, "groups": list(user.groups)}
        if user.uid:
            spec["uid"] = user.uid
        if user.extra:
            spec["extra"] = {key: list(values) for key, values in user.extra.items()}
        spec |= attributes.review()
        status = await self._review(
            paths.collection("authorization.k8s.io/v1", "subjectaccessreviews"),
            {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SubjectAccessReview",
                "spec": spec,
            },
        )
        allowed = status.get("allowed") is True and status.get("denied") is not True
        return AccessDecision(allowed=allowed, reason=str(status.get("reason") or ""))

    async def _review(self, path: str, body: dict[str, Any]) -> Mapping[str, Any]:
        kind = path.rpartition("/")[2]
        try:
            document = await self._api.request("POST", path, body=body)
        except ApiError as error:
            raise ReviewError(str(error).removeprefix(path.removesuffix(kind))) from error
        status = document.get("status")
        if not isinstance(status, dict):
            raise ReviewError(f"{kind}: the review has no status")
        return status


def parse_config(data: Mapping[str, str]) -> IdentityConfig:
    """Parse the front-proxy ConfigMap: PEM bundles, and JSON lists as strings.

    Raises:
        StartupError: a value is not a JSON list of strings; names the key.

    """
    # It loads certificates, which commands that only review do without.
    from adapter.auth.authentication import IdentityConfig  # noqa: PLC0415

    def listed(key: str, default: tuple[str, ...]) -> tuple[str, ...]:
        text = data.get(key)
        if text is None:
            return default
        try:
            items = json.loads(text)
        except ValueError:
            items = None
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise errors.StartupError(
                f"ConfigMap {CONFIG_NAMESPACE}/{CONFIG_NAME}: {key}: must be a JSON list of strings"
            )
        return tuple(items)

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
