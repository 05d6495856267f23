"""What the last window's misses of SLO targets ask of a variant's plan."""

from __future__ import annotations

from dataclasses import replace

from adapter.collector.observation import Observation
from adapter.controller.estimates import feedback
from adapter.controller.settings import LoopSettings
from adapter.controller.sizing import ordered_replicas
from adapter.controller.state import VariantState
from adapter.planning import plan
from adapter.resources.variant import VariantSource

MAXIMUM = "maximum"
"""What binds replicas that are as many as there may be."""


def with_feedback(
    state: VariantState,
    source: VariantSource,
    observation: Observation,
    *,
    settings: LoopSettings,
    now: float,
) -> VariantState:
    """The state of a variant after this cycle's observation; monotonic `now` in seconds."""
    decision, known = state.decision, observation.complete and not observation.problem
    # A group decides how much of its demand each member carries.
    if state.group is not None or decision is None or not settings.slo_feedback:
        return replace(state, feedback=feedback.Feedback())
    after = feedback.observe(
        state.feedback,
        observation.traffic if known else None,
        source.targets,
        feedback.Planned(
            ready=source.ready,
            ordered=ordered_replicas(source, state.desired),
            rate_rps=_carried_rps(decision, source),
        ),
        window=settings.collection.window,
        now=now,
    )
    return replace(state, feedback=after)


def _carried_rps(decision: plan.Decision, source: VariantSource) -> float:
    """Requests per second that one replica carries by the plan; 0 where no plan says, or it is not enough."""
    candidate = decision.candidate
    short = decision.served != "full" or candidate.binding == MAXIMUM
    if short or candidate.accelerator != source.accelerator or candidate.max_rate_rpm <= 0:
        return 0.0
    # Behind a least-loaded gateway several carry more than as many times what one does.
    together = decision.arrival_rate_rps / candidate.replicas if candidate.replicas else 0.0
    return max(candidate.max_rate_rpm / 60.0, together)
