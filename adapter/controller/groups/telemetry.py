"""Groups and ceilings at the adapter's own `/metrics`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from adapter.controller.groups.state import GroupState
from adapter.controller.state import VariantState
from adapter.planning.groups import Ceiling


class GroupCollector(Collector):
    """Gauges of all groups, of the ceilings, and of what these cut."""

    def __init__(
        self,
        groups: Callable[[], Mapping[str, GroupState]],
        states: Callable[[], Mapping[str, VariantState]],
        ceilings: Callable[[], Iterable[Ceiling]],
    ) -> None:
        """Make a collector; each is read at every scrape.

        Args:
            groups: groups by name.
            states: variants by key.
            ceilings: ceilings of budgets and what the last plan takes of them.

        """
        self._groups = groups
        self._states = states
        self._ceilings = ceilings

    def collect(self) -> Iterable[Metric]:
        """Gauges of groups, of shares and of ceilings."""
        yield from self._of_groups()
        share = GaugeMetricFamily(
            "variant_adapter_group_share_ratio",
            "Part of the group's demand that the variant carries as planned, from 0 to 1.",
            labels=["namespace", "variant_name", "group"],
        )
        cut = GaugeMetricFamily(
            "variant_adapter_budget_cut",
            "1 for each ceiling that keeps the variant from the replicas that it needs.",
            labels=["namespace", "variant_name", "ceiling"],
        )
        for state in self._states().values():
            decision, variant = state.decision, [state.source.namespace, state.source.name]
            if decision is None:
                continue
            if decision.group and decision.share is not None:
                share.add_metric([*variant, decision.group], decision.share)
            for ceiling in decision.cut_by:
                cut.add_metric([*variant, ceiling.name], 1.0)
        used = GaugeMetricFamily(
            "variant_adapter_budget_used",
            "What the last plan takes of a ceiling: cents per hour, or devices.",
            labels=["ceiling", "unit"],
        )
        limit = GaugeMetricFamily(
            "variant_adapter_budget_limit",
            "Ceiling of a budget: cents per hour, or devices.",
            labels=["ceiling", "unit"],
        )
        for item in self._ceilings():
            used.add_metric([item.name, item.unit], item.used)
            limit.add_metric([item.name, item.unit], item.limit)
        yield from (share, cut, used, limit)

    def _of_groups(self) -> Iterable[Metric]:
        def gauge(name: str, text: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"variant_adapter_group_{name}", text, labels=["group"])

        demand = gauge(
            "demand_per_minute", "Demand that the group is sized for, requests per minute."
        )
        capacity = gauge(
            "capacity_per_minute",
            "Requests per minute that the planned replicas of the group carry within the SLO targets.",
        )
        cost = gauge(
            "cost_cents_per_hour", "Cost of the planned replicas of the group in cents per hour."
        )
        feedback = gauge(
            "slo_feedback_factor",
            "Factor on the demand of the group that its misses of SLO targets beyond the planned ones ask"
            " for; 1 for none.",
        )
        for name, state in self._groups().items():
            feedback.add_metric([name], state.feedback)
            demand.add_metric([name], state.demand_rpm)
            if state.decision is not None:
                capacity.add_metric([name], state.decision.capacity_rpm)
                cost.add_metric([name], state.decision.cost)
        return demand, capacity, cost, feedback
