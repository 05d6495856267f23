"""Users as Kubernetes identifies them, and the errors of authentication and reviews."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

AUTHENTICATED, UNAUTHENTICATED = "system:authenticated", "system:unauthenticated"


class UnauthenticatedError(Exception):
    """The credentials of a request are not accepted."""


class ReviewError(Exception):
    """A token or access review failed; reviews fail closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """An authenticated user.

    Attributes:
        name: User name.
        groups: Groups, `system:authenticated` included.
        uid: Unique id; empty where there is none.
        extra: Further attributes, by lower-case key.
        key: Key for caches, a digest of all that: equal for the same user, and short whatever its groups.

    """

    name: str
    groups: tuple[str, ...]
    uid: str = ""
    extra: dict[str, tuple[str, ...]] = field(default_factory=dict)
    key: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Make the key once: every request asks for it."""
        key = (self.name, self.uid, self.groups, tuple(sorted(self.extra.items())))
        # `repr` escapes what cannot be encoded, and no two users have the same.
        object.__setattr__(self, "key", hashlib.sha256(repr(key).encode()).digest())


ANONYMOUS = User(name="system:anonymous", groups=(UNAUTHENTICATED,))
