"""Users as Kubernetes identifies them, and the errors of authentication and reviews."""

from __future__ import annotations

from collections.abc import Hashable
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

    """

    name: str
    groups: tuple[str, ...]
    uid: str = ""
    extra: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def key(self) -> Hashable:
        """Key for caches: equal for the same user."""
        return self.name, self.uid, self.groups, tuple(sorted(self.extra.items()))


ANONYMOUS = User(name="system:anonymous", groups=(UNAUTHENTICATED,))
