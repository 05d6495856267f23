"""Policies by name: from what a user writes to what is replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from adapter import errors
from adapter.controller.demand import RateSettings
from emulator.replay import BOUNDS, GROUP, KNOWN, OF_GROUPS, PER_VARIANT, POLICIES
from emulator.replay.adapter_policy import AdapterPolicy, settings_of
from emulator.replay.choices import settings as sweeping
from emulator.replay.cluster import ReplayCluster
from emulator.replay.policies import KvCache, Queue, ScalingPolicy
from emulator.replay.rivals import catalog
from emulator.replay.rivals.catalog import RIVALS
from emulator.replay.rivals.wva import Reference
from emulator.replay.scenario import Scenario
from emulator.traces import Trace

PERCENTILE = 0.99
"""Percentile of the latencies that the SLO targets bound under the p99 policies."""
SWEPT = ("ours", "ours-reactive")
"""Policies that a sweep of settings varies."""

_FIXED: Mapping[str, Callable[[ReplayCluster], ScalingPolicy]] = {
    "reference": Reference,
    "hpa-queue": Queue,
    "hpa-kv-cache": KvCache,
}

_KEDA = (
    "KEDA scales by what its trigger measures; name that: in-flight@THRESHOLD (running + waiting requests"
    " per pod), rps@THRESHOLD, kv@THRESHOLD or queue@THRESHOLD, and rivals for all of these"
)
"""Hint for those who ask for KEDA itself."""

Make = Callable[[ReplayCluster], ScalingPolicy]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One policy of a comparison; the same name always means the same policy.

    Attributes:
        name: Name in the results, unique.
        family: Name of the curve that it is a point of; the name itself for a single one.
        policy: Name of the policy without its settings.
        settings: Settings of the adapter that differ from their defaults, as texts.

    """

    name: str
    family: str
    policy: str
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def shown(self) -> dict[str, str | float]:
        """Settings of the policy for programs: threshold, percentile, or what is swept."""
        settings: dict[str, str | float] = {}
        if self.policy in (*SWEPT, PER_VARIANT):
            settings["percentile"] = PERCENTILE
        if self.policy == "ours-mean":
            settings["percentile"] = "mean"
        if (parsed := catalog.parse(self.policy)) is not None:
            settings["threshold"] = parsed[1]
        for name, text in self.settings.items():
            try:
                settings[name] = float(text)
            except ValueError:
                settings[name] = text
        return settings


def is_known(policy: str) -> bool:
    """Whether there is a policy, a sweep or a group of this name."""
    return (
        policy in (*POLICIES, PER_VARIANT)
        or policy in BOUNDS
        or policy == GROUP
        or catalog.is_sweep(policy)
        or catalog.parse(policy) is not None
    )


def check(policies: Sequence[str], sweeps: Sequence[sweeping.Sweep] = ()) -> None:
    """Raise UsageError for policies that do not exist, or sweeps that vary none of them."""
    unknown = sorted(name for name in set(policies) if not is_known(name))
    if unknown:
        for name in unknown:
            rival, at, number = name.partition("@")
            if at and rival in RIVALS:
                most = RIVALS[rival].most
                share = " (a share: 80 % is 0.8)" if most == catalog.MOST_SHARE else ""
                raise errors.UsageError(
                    f"--policies: {name}: the threshold ({RIVALS[rival].threshold}) must be a number from"
                    f" {catalog.LEAST_THRESHOLD:g} to {most:g}{share}, or sweep, not {number!r}"
                )
        hint = _KEDA if any("keda" in name.lower() for name in unknown) else f"there are {KNOWN}"
        raise errors.UsageError(f"--policies: no {', '.join(unknown)}; {hint}")
    if not policies:
        raise errors.UsageError(f"--policies: has no name; there are {KNOWN}")
    if sweeps and not set(policies) & set(SWEPT):
        raise errors.UsageError(
            f"--sweep: varies {' and '.join(SWEPT)}, and --policies has neither of them"
        )


def choices(
    scenario: Scenario,
    traffic: Mapping[str, Trace],
    policies: Sequence[str],
    sweeps: Sequence[sweeping.Sweep] = (),
) -> tuple[Choice, ...]:
    """Policies to replay, in the order of their names; sweeps and groups are spread out, each policy once.

    Args:
        scenario: Scenario, whose replicas the default thresholds fit.
        traffic: Trace by model.
        policies: Names as a user writes them.
        sweeps: Settings of the adapter to vary.

    """
    by_name: dict[str, Choice] = {}
    capacity: dict[str, catalog.Capacity] = {}
    for name in policies:
        for item in _spread(name, scenario):
            if catalog.is_sweep(item):
                capacity = capacity or catalog.capacity(scenario, traffic)
                rival = item.partition("@")[0]
                for point in catalog.grid(rival, capacity):
                    by_name.setdefault(_canonical(point).name, _canonical(point))
            elif item in SWEPT and sweeps:
                for choice in _settings(item, sweeps):
                    by_name.setdefault(choice.name, choice)
            else:
                by_name.setdefault(_canonical(item).name, _canonical(item))
    return tuple(by_name.values())


def _spread(name: str, scenario: Scenario) -> Iterator[str]:
    if name != GROUP:
        yield name
        return
    grouped = bool(scenario.groups)
    if grouped:
        yield PER_VARIANT
    yield from (f"{rival}@sweep" for rival in RIVALS if grouped or rival not in OF_GROUPS)


def _canonical(name: str) -> Choice:
    """One name for each rival and threshold."""
    parsed = catalog.parse(name)
    if parsed is None:
        return Choice(name=name, family=name, policy=name)
    rival, threshold = parsed
    plain = RIVALS[rival].published == threshold
    own = rival if plain else f"{rival}@{threshold:g}"
    return Choice(name=own, family=rival, policy=own)


def _settings(policy: str, sweeps: Sequence[sweeping.Sweep]) -> Iterator[Choice]:
    for values in sweeping.grid(sweeps):
        text = " ".join(f"{name}={value}" for name, value in values.items())
        plain = policy == "ours" and values == {"percentile": f"{PERCENTILE:g}"}
        yield Choice(
            name=policy if plain else f"{policy} {text}",
            family=policy,
            policy=policy,
            settings=values,
        )


def maker(scenario: Scenario, choice: Choice) -> Make:
    """Constructor of a policy that needs nothing but the scenario."""
    parsed = catalog.parse(choice.policy)
    if parsed is not None:
        rival, threshold = parsed
        make = RIVALS[rival].make
        return lambda cluster: make(cluster, threshold)
    if choice.policy in _FIXED:
        return _FIXED[choice.policy]
    settings, percentile = sweeping.applied(settings_of(scenario), scenario, choice.settings)
    percentile = PERCENTILE if percentile is None else percentile
    title = f"adapter, p{100 * percentile:g}"
    if choice.policy == "ours-reactive":
        settings = replace(settings, rates=_reactive(settings.rates))
        title = f"adapter, p{100 * percentile:g}, reactive"
    if choice.policy == PER_VARIANT:
        settings = replace(settings, model_groups=False)
        title = f"adapter, p{100 * percentile:g}, each variant alone"
    if choice.policy == "ours-mean":
        percentile, title = 0.0, "adapter, means"
    others = [f"{name} {text}" for name, text in choice.settings.items() if name != "percentile"]
    return lambda cluster: AdapterPolicy(
        cluster,
        name=choice.name,
        title=", ".join([title, *others]),
        settings=settings,
        percentile=percentile or None,
    )


def _reactive(rates: RateSettings) -> RateSettings:
    return replace(rates, anticipate=False)
