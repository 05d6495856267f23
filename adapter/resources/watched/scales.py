"""`/scale` of the scale targets that are not watched, read one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from adapter import logs
from adapter.kube.errors import ApiError, NotFound, Unavailable
from adapter.kube.scale import Reference, Scale, Scales, Unresolved
from adapter.resources.serving import groups
from adapter.resources.serving.pools import fair
from adapter.tasks import while_time

log = logs.LazyLogger()

SCALE_SECONDS = 5.0
"""Seconds after which a `/scale` is read again."""

FIRST_SECONDS = 10.0
"""Seconds for which the first reading of all is waited for: nothing is decided before."""

READ_SECONDS = 2.0
"""Seconds for which a later reading is waited for. The objects of all wait as long: a slow API server, or
thousands of targets of one namespace, must not keep them from being used."""

CONCURRENCY = 8
"""Scale subresources that are read at the same time."""

Target = tuple[str, Reference]
"""Namespace and scale target."""


class ReadScales:
    """What was read last of each target that variants name, and is no Deployment."""

    def __init__(self, scales: Scales, *, changed: Callable[[], None]) -> None:
        """`changed`: called where a target was not read for want of time, so that the rest follows soon."""
        self._scales, self._changed = scales, changed
        self._read: dict[Target, Scale | Unresolved] = {}
        self._at: dict[Target, float] = {}

    @property
    def read(self) -> dict[Target, Scale | Unresolved]:
        """What there is of them; one that is not in it was not read yet."""
        return dict(self._read)

    async def refresh(self, wanted: Collection[Target]) -> bool:
        """Read those that are new, or were read long ago, of each namespace in turn; whether one changed."""
        now, before = asyncio.get_running_loop().time, self._read
        self._read = {target: scale for target, scale in before.items() if target in wanted}
        self._at = {target: at for target, at in self._at.items() if target in wanted}
        due = [
            target
            for target in wanted
            if now() - self._at.get(target, -SCALE_SECONDS) >= SCALE_SECONDS
        ]
        due.sort(key=lambda target: (self._at.get(target, 0.0), str(target)))

        async def one(target: Target) -> None:
            self._read[target] = await self._read_one(target, before.get(target))
            self._at[target] = now()

        seconds = READ_SECONDS if before else FIRST_SECONDS
        left = await while_time(fair(due, len(due)), one, at_once=CONCURRENCY, seconds=seconds)
        if not left <= self._read.keys():
            self._changed()
        return before != self._read

    async def _read_one(
        self, target: Target, before: Scale | Unresolved | None
    ) -> Scale | Unresolved:
        namespace, reference = target
        try:
            return await self._scales.read(namespace, reference)
        except ApiError as error:
            # A cluster that does not answer says nothing about the scale; a refusal does.
            if isinstance(error, Unavailable) and isinstance(before, Scale):
                return before
            if reference.kind == groups.ROLE_SET:
                error = NotFound(groups.NO_SCALE, path=error.path, code=404)
            return Unresolved(str(error))
        except Exception as error:
            # Whatever one object makes of us is the problem of the variants that name it.
            log.exception("/scale cannot be read", namespace=namespace, target=str(reference))
            return Unresolved(f"its /scale cannot be read ({type(error).__name__})")
