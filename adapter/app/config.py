"""Settings that may change while the adapter runs: flags over the ConfigMap over the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import structlog

from adapter.app.options import ServeOptions
from adapter.app.prometheus import prometheus_options, trusted_settings
from adapter.controller.loop import ControlLoop
from adapter.resources.inputs import Inputs
from adapter.resources.variant import VariantSource
from adapter.resources.wva import prices
from adapter.settings import keys
from adapter.settings.control import Prometheus, Reconciling
from adapter.settings.declaration import resolve
from adapter.settings.groups import by_key
from adapter.settings.keys import SettingProblem

log = structlog.get_logger()

BUDGETS = "budgets"
"""Key of the ceilings on money and GPUs."""

KEPT = "the last budgets stay in force; write budgets: [] if there are to be none"
GONE = f"the adapter's ConfigMap is gone or has no data: until there is one again, {KEPT}"


class Configuration:
    """Values in use of the settings that the ConfigMap may change.

    A value of the ConfigMap that cannot be used is ignored: the value before stays in use, at the start that
    of the environment or the default. Each such value is logged once, with the value that is used instead.
    """

    def __init__(self, options: ServeOptions, environment: Mapping[str, str]) -> None:
        self._options = options
        self._environment = environment
        self._reconciling: Reconciling | None = None
        self._prometheus: Prometheus | None = None
        self._trusted = trusted_settings(options.prometheus, environment)
        self._reported: tuple[SettingProblem, ...] = ()
        self._short_lived: tuple[float, float] | None = None
        self._budgets = _UnreadBudgets(environment)
        for variable, error in environment_problems(environment).items():
            log.warning(
                "environment variable ignored; its value cannot be used",
                variable=variable,
                error=error,
            )

    def apply(self, loop: ControlLoop, inputs: Inputs) -> None:
        """Let the loop work with these inputs, and what flags, their ConfigMap and the environment say."""
        options, last = self._options, self._reconciling
        reconciling = resolve(
            Reconciling,
            {"interval": options.interval, "scale_to_zero": options.scale_to_zero},
            config=inputs.config,
            environment=self._environment,
            previous=last,
        )
        unread = _unread_budgets(inputs)
        notes = [] if unread is None else [str(unread)]
        # A ConfigMap that was deleted says nothing; a key that was says that there are none.
        silent = unread is not None or not inputs.config
        if silent and last is not None and last.budgets not in ((), reconciling.budgets):
            reconciling = replace(reconciling, budgets=last.budgets)
            notes = [GONE if unread is None else f"{unread}; {KEPT}"]
            inputs = _warned(inputs, notes[0])
        if notes:
            inputs = replace(inputs, row_problems=(*inputs.row_problems, *notes))
        inputs = prices.with_problems(inputs, reconciling.budgets)
        self._reconciling = reconciling
        self._prometheus = resolve(
            Prometheus,
            options.prometheus,
            config=inputs.config,
            environment=self._environment,
            previous=self._prometheus,
        )
        self._report(inputs.setting_problems, self._reconciling, self._prometheus)
        self._report_short_lived(options.loop.time_to_live, self._reconciling.interval)
        loop.apply_settings(
            replace(
                options.loop,
                interval=self._reconciling.interval,
                scale_to_zero=self._reconciling.scale_to_zero,
                budgets=self._reconciling.budgets,
            )
        )
        loop.connect_prometheus(prometheus_options(self._prometheus, self._trusted))
        loop.apply_inputs(self._budgets.applied(inputs, unread, leading=loop.leading))

    def _report_short_lived(self, time_to_live: float, interval: float) -> None:
        """Log once, for each pair of values, that targets end before the next cycle can renew them."""
        pair = (time_to_live, interval)
        if time_to_live <= interval and pair != self._short_lived:
            log.warning(
                "targets end before the next reconcile cycle renews them: HPAs get no value in between and"
                " keep their replicas; raise --time-to-live above several intervals, or lower --interval",
                time_to_live_seconds=time_to_live,
                interval_seconds=interval,
            )
        self._short_lived = pair

    def _report(
        self, problems: tuple[SettingProblem, ...], *in_use: Reconciling | Prometheus
    ) -> None:
        """Log the problems that are new."""
        known = by_key()
        for problem in problems:
            if problem in self._reported:
                continue
            if problem.unused:
                log.warning("setting of another autoscaler has no effect", problem=str(problem))
                continue
            item = known.get(problem.key)
            if item is None:
                log.error("setting ignored; it is unknown", problem=str(problem))
                continue
            value = next(getattr(group, item.name) for group in in_use if hasattr(group, item.name))
            log.error(
                "setting ignored; another value is used",
                problem=str(problem),
                value=item.shown(value),
            )
        self._reported = problems


class _UnreadBudgets:
    """Upper bounds while the budgets cannot be read and this process has never read any: no target rises.

    That is so at a start: to plan without any ceiling is not what the operator wrote. The bound of a variant
    is its published target or its replicas, whichever is more, when it was seen first or when this process
    became leader; at least one replica, so that a model at zero can wake.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        problem = environment_problems(environment).get(BUDGETS)
        self._known = problem is None and bool(environment.get(BUDGETS, "").strip())
        self._most: dict[str, int] = {}

    def applied(self, inputs: Inputs, problem: SettingProblem | None, *, leading: bool) -> Inputs:
        """The inputs with these bounds, and why at each variant; as they are once budgets could be read."""
        self._known = self._known or problem is None
        if self._known or problem is None:
            return inputs
        last = self._most if leading else {}
        self._most = {item.key: last.get(item.key, _most_so_far(item)) for item in inputs.variants}
        variants = tuple(
            _bounded(item, self._most[item.key], str(problem)) for item in inputs.variants
        )
        return replace(inputs, variants=variants)


def _unread_budgets(inputs: Inputs) -> SettingProblem | None:
    """The entry with budgets that cannot be read, or whose key is misspelled where no other one has them."""
    for item in inputs.setting_problems:
        if item.key == BUDGETS or (BUDGETS not in inputs.config and keys.misspelled(item, BUDGETS)):
            return item
    return None


def _warned(inputs: Inputs, text: str) -> Inputs:
    variants = (replace(item, warnings=(*item.warnings, text)) for item in inputs.variants)
    return replace(inputs, variants=tuple(variants))


def _most_so_far(source: VariantSource) -> int:
    published = 0 if source.published is None else source.published.replicas
    return max(published, source.spec_replicas, 1)


def _bounded(source: VariantSource, most: int, problem: str) -> VariantSource:
    """The variant with no more replicas than that, whatever its own bounds are."""
    own, least = source.max_replicas, source.min_replicas
    text = (
        f"{problem}; no target rises above the replicas published or running before ({most} here)"
        " until the budgets can be read"
    )
    return replace(
        source,
        max_replicas=most if own is None else min(own, most),
        min_replicas=None if least is None else min(least, most),
        warnings=(*source.warnings, text),
    )


def environment_problems(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables whose values cannot be used, with what is accepted."""
    problems = {}
    for key, item in by_key().items():
        text = environment.get(key, "").strip()
        if not text:
            continue
        try:
            item.parse(text)
        except ValueError as error:
            problems[key] = str(error)
    return problems
