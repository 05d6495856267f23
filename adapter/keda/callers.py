"""Callers of the external scaler: a client certificate, which the handshake has checked, or a token.

KEDA sends no headers of its own, but the whole metadata of a trigger, with what `tokenFromEnv` names replaced
by its value. So a token is taken from there, or from the call's `authorization`. Its user needs `get` on the
VariantAutoscaling that it asks about.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from multidict import CIMultiDict, CIMultiDictProxy

from adapter.auth import authorization, users
from adapter.auth.delegated import Auth

TOKEN_KEYS = ("token", "tokenFromEnv")
"""Keys of a trigger's metadata that may hold a bearer token."""


class RefusedError(Exception):
    """A caller may not ask that.

    Attributes:
        known: Whether the caller is known.

    """

    def __init__(self, message: str, *, known: bool) -> None:
        super().__init__(message)
        self.known = known


async def check_token(
    auth: Auth,
    *,
    sent: Iterable[tuple[str, str | bytes]],
    metadata: Mapping[str, str],
    variant: tuple[str, str],
    peer: str,
) -> None:
    """Check that the bearer of a token may read a variant.

    Args:
        auth: reviews tokens and access.
        sent: metadata of the call.
        metadata: metadata of the trigger.
        variant: namespace and name of the VariantAutoscaling.
        peer: address of the caller.

    Raises:
        RefusedError: it may not.
        ReviewError: the review failed.

    """
    header = next(
        (str(value) for name, value in sent if name == "authorization" and isinstance(value, str)),
        "",
    )
    token = next((metadata[key] for key in TOKEN_KEYS if metadata.get(key)), "")
    headers = CIMultiDict({"Authorization": header or f"Bearer {token}"})
    try:
        user = await auth.authenticator.user(None, CIMultiDictProxy(headers), peer=peer)
    except users.UnauthenticatedError as error:
        raise RefusedError("the bearer token is not accepted", known=False) from error
    if user is users.ANONYMOUS:
        raise RefusedError(
            "a bearer token is needed: `tokenFromEnv` in the trigger's metadata", known=False
        )
    namespace, name = variant
    action = authorization.Attributes(
        verb="get",
        path="",
        group="llmd.ai",
        version="v1alpha1",
        namespace=namespace,
        resource="variantautoscalings",
        name=name,
    )
    decision = await auth.policy.decide(user, action)
    if not decision.allowed:
        raise RefusedError(
            f"{user.name} may not get VariantAutoscaling {namespace}/{name}; bind ClusterRole"
            " variant-adapter-keda to it",
            known=True,
        )
