"""Authorization: whether a user may do something, by local rules or by SubjectAccessReview."""

from __future__ import annotations

import asyncio
import functools
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from adapter.auth.allowance import Allowance, Allowances
from adapter.auth.cache import Cache
from adapter.auth.users import ANONYMOUS, AUTHENTICATED, ReviewError, User

ANONYMOUS_BURST, ANONYMOUS_PER_SECOND = 20, 5.0
"""Reviews for anonymous requests: at once, and each second after that."""

ANONYMOUS_CACHED = 256
"""Decisions about anonymous requests that are cached at most."""

DENIED_BURST, DENIED_PER_SECOND = 100, 5.0
"""Reviews that end in a refusal, or are about a path that is no resource, for each user or namespace of
service accounts: at once, and each second after that. A cluster lets everybody get all paths below `/apis`,
of which clients that mean well need DOCUMENTS, which do not count.
"""

WIDE_AFTER = 8
"""Namespaces that a user was allowed in, after which one review for all namespaces comes first."""

WIDE_USERS = 256
"""Users whose namespaces are remembered at most; the one that was used longest ago goes first."""

ALWAYS_ALLOWED = frozenset({"/healthz", "/livez", "/readyz"})

_API = "/apis/external.metrics.k8s.io"
DOCUMENTS = frozenset(
    {"/", "/apis", _API, f"{_API}/v1beta1", "/version", "/metrics", "/variants"}
    | {"/openapi/v2", "/openapi/v3", f"/openapi/v3{_API}/v1beta1"}
)
"""Paths that are no resources and are served. They are few for each user, and so are their reviews: hundreds
of pods of a namespace may read them at once, as clients do that begin with discovery.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """The action of a request; `resource` is empty for paths that are not resources.

    Attributes:
        namespace: Namespace; empty at the cluster scope.
        requirements: Terms of the label selector, as (key, operator, values) in SubjectAccessReview's
            operators.

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
        """The action as part of a SubjectAccessReview's spec."""
        if not self.resource:
            return {"nonResourceAttributes": {"path": self.path, "verb": self.verb}}
        attributes: dict[str, Any] = {
            "verb": self.verb,
            "group": self.group,
            "version": self.version,
            "resource": self.resource,
        }
        for key in ("namespace", "subresource", "name"):
            if getattr(self, key):
                attributes[key] = getattr(self, key)
        if self.requirements:
            attributes["labelSelector"] = {
                "requirements": [
                    {
                        "key": key,
                        "operator": operator,
                        **({"values": list(values)} if values else {}),
                    }
                    for key, operator, values in self.requirements
                ]
            }
        return {"resourceAttributes": attributes}


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessDecision:
    """Whether an action is allowed, and the reason where one is given."""

    allowed: bool
    reason: str = ""


class Authorizer(Protocol):
    """Authorizes requests."""

    async def decide(self, user: User, attributes: Attributes) -> AccessDecision:
        """Decide whether a user may do something.

        Raises:
            ReviewError: the review failed.

        """


_ALLOWED = AccessDecision(allowed=True)
_TOO_MANY = AccessDecision(
    allowed=False, reason="too many anonymous requests; not reviewed, try again in a second"
)
_TOO_MANY_DENIED = AccessDecision(
    allowed=False,
    reason="too many requests that were refused, or to ever other paths; not reviewed, try again in a second",
)


def _always(user: User, attributes: Attributes) -> bool:
    """Whether no review is needed: for the exact health paths, and for `system:masters`."""
    if not attributes.resource and attributes.path in ALWAYS_ALLOWED:
        return True
    return "system:masters" in user.groups


@functools.lru_cache(maxsize=256)
def _in_all_namespaces(attributes: Attributes) -> Attributes:
    return replace(attributes, namespace="", path="")


def _party(user: User) -> str:
    """Key of the limit on refusals: the user, or a service account's namespace, which one tenant owns."""
    head, account, rest = user.name.partition("system:serviceaccount:")
    return account + rest.partition(":")[0] if account and not head else user.name


class LocalPolicy:
    """Without a cluster: every authenticated user may read everything."""

    async def decide(self, user: User, attributes: Attributes) -> AccessDecision:
        """Allow reads by authenticated users, and the exact health paths for all."""
        if _always(user, attributes):
            return _ALLOWED
        reads = attributes.verb in {"get", "list", "watch"}
        return AccessDecision(allowed=AUTHENTICATED in user.groups and reads)


AccessReviewer = Callable[[User, Attributes], Awaitable[AccessDecision]]


class ClusterPolicy:
    """In a cluster: SubjectAccessReview decides; decisions are cached for 10 s.

    A user that reads in many namespaces, as the HPA controller does, is reviewed once for all namespaces:
    one review per namespace would be dozens a second with a thousand HPAs.

    Reviews for anonymous requests are limited, 20 at once and 5 a second, because everybody can send those
    to any number of paths; beyond that they are refused without a review. So are those of a user whose
    requests are refused one after the other, or go to ever other paths: every pod has a token.
    """

    def __init__(
        self,
        review: AccessReviewer,
        *,
        clock: Callable[[], float] = lambda: asyncio.get_running_loop().time(),
    ) -> None:
        self._review = review
        self._clock = clock
        self._decisions: Cache[AccessDecision] = Cache(clock=clock)
        self._namespaces: OrderedDict[bytes, set[int]] = OrderedDict()
        # Caches apart, so that what strangers ask does not push out what the front proxy asks.
        self._anonymous: Cache[AccessDecision] = Cache(clock=clock, size=ANONYMOUS_CACHED)
        self._allowance = Allowance(burst=ANONYMOUS_BURST, per_second=ANONYMOUS_PER_SECOND)
        self._denied = Allowances(burst=DENIED_BURST, per_second=DENIED_PER_SECOND)

    async def decide(self, user: User, attributes: Attributes) -> AccessDecision:
        """The cluster's decision, from the cache or from a review."""
        if _always(user, attributes):
            return _ALLOWED
        if user is not ANONYMOUS:
            if attributes.namespace and len(self._namespaces.get(user.key, ())) >= WIDE_AFTER:
                wide = _in_all_namespaces(attributes)
                decision = await self._decision(user, wide)
                if decision.allowed:
                    return decision
            decision = await self._decision(user, attributes)
            if decision.allowed and attributes.namespace:
                self._remember(user, attributes.namespace)
            return decision
        key = (user.key, attributes)
        if not self._anonymous.knows(key) and not self._allowance.take(self._clock()):
            return _TOO_MANY
        return await self._anonymous.get(key, lambda: self._review(user, attributes))

    async def _decision(self, user: User, attributes: Attributes) -> AccessDecision:
        """The decision about a user who is known; without a review where too many were of no use."""
        key = (user.key, attributes)
        reads = attributes.verb == "get" and not attributes.resource
        if (reads and attributes.path in DOCUMENTS) or self._decisions.knows(key):
            return await self._decisions.get(key, lambda: self._review(user, attributes))
        denied = self._denied.of(_party(user))
        if not denied.take(self._clock()):
            return _TOO_MANY_DENIED
        try:
            decision = await self._decisions.get(key, lambda: self._review(user, attributes))
        except ReviewError:
            denied.give_back()
            raise
        if decision.allowed and attributes.resource:
            denied.give_back()
        return decision

    def _remember(self, user: User, namespace: str) -> None:
        namespaces = self._namespaces.setdefault(user.key, set())
        self._namespaces.move_to_end(user.key)
        if len(namespaces) < WIDE_AFTER:
            namespaces.add(hash(namespace))  # a path may have any text there
        if len(self._namespaces) > WIDE_USERS:
            self._namespaces.popitem(last=False)
