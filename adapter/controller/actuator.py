"""Scaling without an HPA: patches the scale subresource, and wakes variants that an HPA leaves at zero.

A VariantAutoscaling alone is no permission to scale what it names: its creator may have no rights on that. A
scale target is patched only where it carries the consent itself, or its namespace does.

A patch is fenced twice: by the resource version of the target, and by the number of transitions of the
Lease, with which the name of its field manager ends. The admission policy of the overlay `actuate` compares
that with the Lease, so that a patch of a former leader is refused whenever it arrives.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import structlog

from adapter.controller.live.turns import PATIENCE_SECONDS, in_turn
from adapter.controller.state import VariantState
from adapter.kube import advice
from adapter.kube.errors import ApiError, Conflict, Forbidden, NotFound
from adapter.kube.scale import Scales
from adapter.resources.annotations import ACTUATE, ALLOW_SCALE
from adapter.resources.variant import VariantSource
from adapter.store import DESIRED
from adapter.tasks import while_time

log = structlog.get_logger()

_ATTEMPTS = 2
"""Attempts of one patch, of which the second follows a change of the target meanwhile."""

MANAGER_PREFIX = "variant-adapter-"
"""Start of the field manager of patches, before the number of transitions of the Lease."""

CONCURRENCY = 8
"""Scale targets that are read or patched at the same time."""

_OVERLAY = "kubectl apply -k manifests/overlays/actuate"


@dataclass(frozen=True, slots=True)
class Unapplied:
    """Why a scale target was not patched.

    Attributes:
        reason: Reason of the condition TargetResolved.
        message: What is missing, and what to do.
        refused: Whether the API server refused a request of the adapter, rather than one of its owners.

    """

    reason: Literal["ScaleNotAllowed", "ScaleFailed"]
    message: str
    refused: bool = False

    def __str__(self) -> str:
        """The message."""
        return self.message


@dataclass(frozen=True, slots=True)
class Consent:
    """What a scale target and its namespace say about patches, as it was read.

    Attributes:
        version: Resource version of the target, for which the patch is.
        given: Whether one of the two allows it; None where only the target was read, and does not.

    """

    version: str
    given: bool | None


class Actuator:
    """Sets the replicas of scale targets where no HPA does."""

    def __init__(
        self,
        scales: Scales,
        *,
        default: bool,
        leads: Callable[[], bool],
        transitions: Callable[[], int],
    ) -> None:
        """Make an actuator.

        Args:
            scales: scale subresources of the cluster.
            default: whether to patch for variants without the annotation llmd.ai/actuate.
            leads: whether this replica leads; others never patch.
            transitions: transitions of the Lease that this replica holds.

        """
        self._scales, self._default = scales, default
        self._leads = leads
        self._transitions = transitions
        self._logged: dict[str, Unapplied] = {}
        self._turns, self._asked = 0, dict[str, int]()

    def keep(self, keys: Collection[str]) -> None:
        """Forget all variants but these: the others are gone."""
        self._logged = {key: why for key, why in self._logged.items() if key in keys}
        self._asked = {key: turn for key, turn in self._asked.items() if key in keys}

    async def consents(
        self, states: Mapping[str, VariantState], waking: frozenset[str]
    ) -> dict[str, Consent]:
        """Read ahead of `act` which of these targets may be patched; what cannot be read is left out.

        Arguments as of `act`, which reads again where a target has changed meanwhile.
        """
        read: dict[str, Consent] = {}

        async def one(key: str, _: int) -> None:
            source = states[key].source
            try:
                workload = await self._scales.workload(source.namespace, source.reference)
            except ApiError:
                return  # `act` meets it again, and tells
            # Namespaces may be read with the overlay only: not before a patch is due.
            read[key] = Consent(workload.version, allows(workload.annotations) or None)

        await self._for_each_due(states, waking, one)
        return read

    async def act(
        self,
        states: Mapping[str, VariantState],
        waking: frozenset[str],
        consents: Mapping[str, Consent] | None = None,
    ) -> dict[str, Unapplied]:
        """Patch the scale targets that differ; give what kept others from it, by variant key.

        Args:
            states: variants after a reconcile cycle.
            waking: keys of variants at zero that have waiting requests.
            consents: what was read ahead, by variant key; the others are read now.

        """
        unapplied: dict[str, Unapplied] = {}

        async def one(key: str, replicas: int) -> None:
            state = states[key]
            if not self._leads():
                return
            self._turns += 1
            self._asked[key] = self._turns
            if (problem := _scaled_by_another(state.source, replicas)) is None:
                problem = await self._patch(state.source, replicas, (consents or {}).get(key))
            if problem is None:
                log.info(
                    "scale target patched",
                    variant=key,
                    target=str(state.source.reference),
                    replicas=replicas,
                    before=state.source.spec_replicas,
                )
                return
            unapplied[key] = problem
            if self._logged.get(key) != problem:
                log.warning(
                    "scale target not patched; retrying at the next reconcile cycle",
                    variant=key,
                    error=problem.message,
                )

        left = await self._for_each_due(states, waking, one)
        unapplied |= {key: self._logged[key] for key in left & self._logged.keys()}
        others = {key: why for key, why in self._logged.items() if key not in states}
        self._logged = others | unapplied
        return unapplied

    async def _for_each_due(
        self,
        states: Mapping[str, VariantState],
        waking: frozenset[str],
        do: Callable[[str, int], Awaitable[None]],
    ) -> set[str]:
        """Do it with the replicas of each variant that needs a patch, of each namespace in turn.

        One that the API server is slow for delays no other, nor do thousands of one namespace.

        Returns:
            Keys for which the time did not suffice: they come first in the next cycle.

        """
        due = {
            key: replicas
            for key, state in states.items()
            if (replicas := self._replicas(state, wake=key in waking)) is not None
        }
        self._asked = {
            key: turn for key, turn in self._asked.items() if key in due or key not in states
        }
        longest_ago = sorted(due, key=lambda key: self._asked.get(key, 0))

        async def one(key: str) -> None:
            await do(key, due[key])

        order = in_turn(longest_ago)
        return await while_time(order, one, at_once=CONCURRENCY, seconds=PATIENCE_SECONDS)

    async def _patch(
        self, source: VariantSource, replicas: int, consent: Consent | None
    ) -> Unapplied | None:
        """Patch one target that allows it; None where that was done."""
        namespace, reference = source.namespace, source.reference
        try:
            for attempt in range(1, _ATTEMPTS + 1):
                if consent is None:
                    consent = await self._consent(source)
                given = consent.given
                if given is None:
                    given = await self._namespace_allows(source)
                if not given:
                    return _not_allowed(source, replicas, refused=self._refused(source))
                if not self._leads():
                    return Unapplied("ScaleFailed", "the lease was lost before the patch")
                try:
                    # The version is that of the consent: a target that was replaced meanwhile has none.
                    await self._scales.write(
                        namespace,
                        reference,
                        replicas,
                        version=consent.version,
                        manager=f"{MANAGER_PREFIX}{self._transitions()}",
                    )
                except Conflict:
                    if attempt == _ATTEMPTS:
                        raise
                    consent = None
                else:
                    return None
        except ApiError as error:
            what = f"{replicas} replicas desired, but /scale of {reference} was not patched"
            why = advice.explained(error)
            if isinstance(error, Forbidden):
                # An API server that has just started refuses what its RBAC rules allow.
                why = f"{error}; grant it: {_OVERLAY}" if self._refused(source) else str(error)
            refused = isinstance(error, Forbidden)
            return Unapplied("ScaleFailed", f"{what}: {why}", refused=refused)
        return None

    async def _consent(self, source: VariantSource) -> Consent:
        """Read whether a target may be patched, and its version.

        Raises:
            ApiError: the API server refused, or did not answer.

        """
        workload = await self._scales.workload(source.namespace, source.reference)
        given = allows(workload.annotations) or await self._namespace_allows(source)
        return Consent(workload.version, given)

    async def _namespace_allows(self, source: VariantSource) -> bool:
        """Read whether the namespace of a target consents.

        Raises:
            Forbidden: the API server refused to show it, for the first time.
            ApiError: it did not answer.

        """
        try:
            return allows(await self._scales.namespace_annotations(source.namespace))
        except NotFound:
            return False  # the message names both places
        except Forbidden:
            # An API server that has just started refuses what its RBAC rules allow: consent is unknown.
            if not self._refused(source):
                raise
            return False

    def _refused(self, source: VariantSource) -> bool:
        """Whether the API server refused a request for this target in the cycle before, too."""
        before = self._logged.get(source.key)
        return before is not None and before.refused

    def _replicas(self, state: VariantState, *, wake: bool) -> int | None:
        """Replicas to set; None where nothing has to be patched."""
        source = state.source
        if (
            source.advisory
            or state.desired is None
            or state.problem
            or state.desired == source.spec_replicas
        ):
            return None
        patches = self._default if source.actuate is None else source.actuate == "scale"
        if source.spec_replicas == 0:
            # A target at zero stays there until requests arrive, as with an HPA. KEDA wakes its own.
            by_keda = source.scaler is not None and source.scaler.by_keda
            return max(state.desired, 1) if wake and (patches or not by_keda) else None
        return state.desired if patches else None


def allows(annotations: Mapping[str, object]) -> bool:
    """Whether annotations of a scale target or of a namespace consent to patches of `/scale`."""
    return annotations.get(ALLOW_SCALE) == "true"


def _scaled_by_another(source: VariantSource, replicas: int) -> Unapplied | None:
    """Why a target that an HPA scales by other metrics is not patched: both would set replicas in turn."""
    scaler = source.scaler
    if scaler is None or scaler.served or source.spec_replicas == 0:
        return None
    if scaler.up_disabled and scaler.down_disabled:
        return None  # it is paused and changes nothing
    return Unapplied(
        "ScaleNotAllowed",
        f"{replicas} replicas desired, but {scaler} scales {source.reference} by other metrics; delete it,"
        f" let it read {DESIRED}, or annotate {ACTUATE}: hpa",
    )


def _not_allowed(source: VariantSource, replicas: int, *, refused: bool) -> Unapplied:
    return Unapplied(
        "ScaleNotAllowed",
        f"{replicas} replicas desired, but neither {source.reference} nor namespace {source.namespace} allows"
        f" this adapter to patch /scale; who may change one of them sets its annotation {ALLOW_SCALE} to"
        f' "true", and an administrator grants the right: {_OVERLAY}',
        refused=refused,
    )
