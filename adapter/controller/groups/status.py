"""What `.status` of a variant says of its group and of the ceilings that cut it."""

from __future__ import annotations

from typing import Any

from adapter.controller.state import VariantState

WITHIN_BUDGET = "WithinBudget"
"""Type of the condition that no ceiling cuts a variant; absent until one did."""


def of_state(state: VariantState) -> dict[str, Any] | None:
    """Group, share of its demand in whole percent, and how requests are routed; None without a group."""
    group = state.group
    if group is None:
        return None
    status: dict[str, Any] = {"name": group.name, "routing": group.routing}
    share = None if state.decision is None else state.decision.share
    if share is not None:
        status["share"] = f"{share:.0%}"
    return status


def budget_condition(state: VariantState, *, cut_before: bool) -> tuple[str, bool, str, str] | None:
    """Type, status, reason and message of the condition; None where no ceiling ever cut the variant."""
    decision = state.decision
    if decision is None or not decision.cut_by:
        if not cut_before or decision is None:
            return None
        return WITHIN_BUDGET, True, "BudgetSuffices", "no ceiling keeps it from what it needs"
    ceilings = "; ".join(str(item) for item in decision.cut_by)
    message = f"cut by {ceilings}. Predicted with what is left: {_predicted(state)}"
    return WITHIN_BUDGET, False, "BudgetExhausted", message


def _predicted(state: VariantState) -> str:
    decision = state.decision
    if decision is None or not decision.candidate.replicas:
        return "nothing is served by this variant"
    chosen, targets = decision.candidate, state.source.targets
    return (
        f"TTFT {chosen.ttft_ms:.0f} ms{_target(targets.ttft_ms)},"
        f" ITL {chosen.itl_ms:.1f} ms{_target(targets.itl_ms)}, {decision.reason}"
    )


def _target(milliseconds: float) -> str:
    return f" (target {milliseconds:g} ms)" if milliseconds else ""
