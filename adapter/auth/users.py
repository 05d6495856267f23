"""Users as the API server knows them, and what goes wrong in telling who one is."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

AUTHENTICATED, UNAUTHENTICATED = "system:authenticated", "system:unauthenticated"


class UnauthenticatedError(Exception):
    """Credentials were shown, and they are not good."""


class ReviewError(Exception):
    """Whether someone may do something could not be found out; that is never a yes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Who asks."""

    name: str
    groups: tuple[str, ...]
    uid: str = ""
    extra: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def key(self) -> Hashable:
        """The same for the same user."""
        return self.name, self.uid, self.groups, tuple(sorted(self.extra.items()))


ANONYMOUS = User(name="system:anonymous", groups=(UNAUTHENTICATED,))
