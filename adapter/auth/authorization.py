"""Whether a user may do something: local rules, or SubjectAccessReview."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from adapter.auth.cache import Cache
from adapter.auth.users import AUTHENTICATED, User

ALWAYS_ALLOWED = frozenset({"/healthz", "/livez", "/readyz"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """What is asked for; `resource` is empty for paths that are no resource.

    Attributes:
        namespace: empty at the cluster's scope.
        requirements: of the label selector, as (key, operator, values) in SubjectAccessReview's words.

    """

    verb: str
    path: str
    group: str = ""
    version: str = ""
    namespace: str = ""
    resource: str = ""
    subresource: str = ""
    name: str = ""
    requirements: tuple[tuple[str, str, tuple[str, ...]], ...] = ()

    def review(self) -> dict[str, Any]:
        """The part of a SubjectAccessReview's spec that says what is asked for."""
        if not self.resource:
            return {"nonResourceAttributes": {"path": self.path, "verb": self.verb}}
        found: dict[str, Any] = {
            "verb": self.verb,
            "group": self.group,
            "version": self.version,
            "resource": self.resource,
        }
        for key in ("namespace", "subresource", "name"):
            if getattr(self, key):
                found[key] = getattr(self, key)
        if self.requirements:
            found["labelSelector"] = {
                "requirements": [
                    {
                        "key": key,
                        "operator": operator,
                        **({"values": list(values)} if values else {}),
                    }
                    for key, operator, values in self.requirements
                ]
            }
        return {"resourceAttributes": found}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Whether that is allowed, and why not if that is known."""

    allowed: bool
    reason: str = ""


class Policy(Protocol):
    """Says whether a user may do something."""

    async def decide(self, user: User, attributes: Attributes) -> Decision:
        """Whether that is allowed.

        Raises:
            ReviewError: that could not be found out.

        """


_ALLOWED = Decision(allowed=True)


def _always(user: User, attributes: Attributes) -> bool:
    """What needs no review: the exact health paths, and the cluster's masters."""
    if not attributes.resource and attributes.path in ALWAYS_ALLOWED:
        return True
    return "system:masters" in user.groups


class LocalPolicy:
    """Standalone: who has a certificate of the local authority may read everything."""

    async def decide(self, user: User, attributes: Attributes) -> Decision:
        """Reading is for the authenticated, the exact health paths are for all."""
        if _always(user, attributes):
            return _ALLOWED
        reads = attributes.verb in {"get", "list", "watch"}
        return Decision(allowed=AUTHENTICATED in user.groups and reads)


AccessReviewer = Callable[[User, Attributes], Awaitable[Decision]]


class ClusterPolicy:
    """In a cluster: SubjectAccessReview decides, and is believed for a short time."""

    def __init__(
        self,
        review: AccessReviewer,
        *,
        clock: Callable[[], float] = lambda: asyncio.get_running_loop().time(),
    ) -> None:
        self._review = review
        self._decisions: Cache[Decision] = Cache(clock=clock)

    async def decide(self, user: User, attributes: Attributes) -> Decision:
        """The cluster's verdict."""
        if _always(user, attributes):
            return _ALLOWED
        key = (user.key, attributes)
        return await self._decisions.get(key, lambda: self._review(user, attributes))
