"""ConfigMaps of the workload-variant-autoscaler of 2026: SLO targets by model, and scale to zero by model.

Entries name a model by `model_id` and, where they have one, `namespace`; the entry `default` holds for all
other models. Of `wva-saturation-scaling-config` the entry's `scaleToZero` is read; its thresholds are those
of another rule, for which the saturation rule stands in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from adapter.errors import field_problem
from adapter.installation import WVA_QUEUEING as QUEUEING
from adapter.installation import WVA_SATURATION as SATURATION
from adapter.installation import WVA_TO_ZERO as TO_ZERO
from adapter.kube import duration
from adapter.planning import fleet
from adapter.resources import schemas
from adapter.resources.configuration.last_good import HELD, GoodEntry
from adapter.resources.texts.documents import (
    DocumentError,
    composed,
    field_path,
    lines_of,
    parse_yaml,
)
from adapter.resources.texts.known import Known
from adapter.settings.yaml_nodes import repeated_keys

LOWEST_PRIORITY = 100
"""Priority of models without a service class."""

NO_CLASS = "(none)"
"""Name of the class without targets: KV cache and queue bound its variants, and latencies do not."""

DEFAULTS = frozenset({"default", "__defaults__"})
"""Keys of the entry for all other models, of 2026 and before."""


class _Entry(BaseModel):
    """An entry; other keys are those of rules that the adapter does not have."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True, defer_build=True)

    model: str = Field(validation_alias=AliasChoices("model_id", "modelID"), default="")
    namespace: str = ""


class _Targets(_Entry):
    ttft_ms: schemas.NonNegative = Field(alias="targetTTFT", default=0.0)
    itl_ms: schemas.NonNegative = Field(alias="targetITL", default=0.0)


class _ToZero(_Entry):
    enabled: bool | None = Field(
        validation_alias=AliasChoices("enable_scale_to_zero", "enableScaleToZero"), default=None
    )
    retention_seconds: float | None = Field(
        validation_alias=AliasChoices("retention_period", "retentionPeriod"), default=None
    )

    @field_validator("retention_seconds", mode="before")
    @classmethod
    def _duration(cls, value: Any) -> float | None:
        return None if value is None else duration.seconds(str(value))


_INNER = {"enabled": "enable_scale_to_zero", "retentionPeriod": "retention_period"}
"""Keys of `scaleToZero`, with those that mean the same in the other ConfigMap."""


class _Saturation(_ToZero):
    to_zero: dict[str, Any] | None = Field(alias="scaleToZero", default=None)

    @model_validator(mode="before")
    @classmethod
    def _lift(cls, data: Any) -> Any:
        """The keys of `scaleToZero` as those of the other ConfigMap."""
        inner = data.get("scaleToZero") if isinstance(data, dict) else None
        if not isinstance(inner, dict):
            return data
        return {**data, **{_INNER[key]: inner[key] for key in _INNER.keys() & inner.keys()}}


_KINDS: Mapping[str, type[_Entry]] = {
    SATURATION: _Saturation,
    QUEUEING: _Targets,
    TO_ZERO: _ToZero,
}

_EntryKind = TypeVar("_EntryKind", bound=_Entry)


_KNOWN: Mapping[str, tuple[str, ...]] = {
    SATURATION: ("scaleToZero",),
    QUEUEING: ("targetTTFT", "targetITL"),
    TO_ZERO: ("enable_scale_to_zero", "retention_period"),
}
"""Keys that are read beside those of the model."""

_OLDER = frozenset({"modelID", "enableScaleToZero", "retentionPeriod"})
"""Keys of 2025 that are read too."""

_UNUSED: Mapping[str, Mapping[str, str]] = {
    SATURATION: dict.fromkeys(
        (
            "analyzers",
            "analyzerName",
            "limiters",
            "enableLimiter",
            "enableRescale",
            "priority",
            "kvCacheThreshold",
            "queueLengthThreshold",
            "kvSpareTrigger",
            "queueSpareTrigger",
            "scaleUpThreshold",
            "scaleDownBoundary",
        ),
        "of the other autoscaler's rules; KV cache and queue are judged by the adapter's own",
    ),
    QUEUEING: {
        "sloMultiplier": "targets are not made of it: name targetTTFT and targetITL",
        "tuningEnabled": "tuning is set by --tune or the annotation llmd.ai/tune",
    },
}
"""Keys that stand in published ConfigMaps and do nothing here, with what is there instead."""


class _Entries:
    """Entries of one ConfigMap by what they are about: there may be thousands, and as many variants."""

    def __init__(self) -> None:
        self._about: dict[tuple[str, str], dict[str, _Entry]] = {}
        self._defaults: dict[str, _Entry] = {}

    def put(self, key: str, entry: _Entry) -> None:
        """Take an entry by its key."""
        if key in DEFAULTS:
            self._defaults[key] = entry
        else:
            self.like(entry)[key] = entry

    def like(self, entry: _Entry) -> dict[str, _Entry]:
        """Entries about the same model and namespace, but the default."""
        return self._about.setdefault((entry.model, entry.namespace), {})

    def concerning(self, namespace: str, model: str) -> Iterator[tuple[str, _Entry]]:
        """Entries about a model of a namespace, with their keys."""
        for name in {"", namespace}:
            yield from self._about.get((model, name), {}).items()
        yield from self._defaults.items()


class WvaConfig:
    """Entries of these ConfigMaps, read so far; one that breaks stays in force as it last was good.

    Targets that are gone stay in force too, for the models of variants that have no others.

    Attributes:
        unused: Keys that are known and do nothing, one line each.
        good: What the next reading falls back to; complete once all variants were joined.
        gone: Entries that are gone but in force, one line each.

    """

    def __init__(self, last: Mapping[tuple[str, str], GoodEntry] | None = None) -> None:
        """`last`: entries in force at the reading before."""
        self.unused: list[str] = []
        self.good: dict[tuple[str, str], GoodEntry] = {}
        self.gone: dict[str, None] = {}
        self._last = last or {}
        self._held: dict[str, str] = {}
        self._broken: dict[str, list[str]] = {}
        self._last_targets: _Entries | None = None
        self._entries: dict[str, _Entries] = {}
        self._classes: dict[str, fleet.ServiceClass] = {}
        self._targets: dict[str, dict[str, fleet.Targets]] = {}

    def read(self, where: str, name_of_map: str, data: Mapping[str, str]) -> list[str]:
        """Read one of the ConfigMaps; give its entries that cannot be used, one line each."""
        problems: list[str] = []
        entries = self._entries.setdefault(name_of_map, _Entries())
        for key, text in data.items():
            place = f"{where}: data.{key}"
            parsed = _known(name_of_map, text)
            wrong, own = list(parsed.problems), (name_of_map, key)
            if parsed.entry is not None:
                wrong = _ambiguities(key, parsed.repeated, parsed.entry, entries)
            last = self._last.get(own) if wrong else None
            entry = parsed.entry if not wrong else last.entry if last else None
            if isinstance(entry, _Entry):
                entries.put(key, entry)
                self.good[own] = GoodEntry(where=place, entry=entry)
            told = [f"{place}: {why}{f'; {HELD}' if last else ''}" for why in wrong]
            problems += told
            if told and name_of_map == QUEUEING:
                self._held[f"{QUEUEING}/{key}"] = told[0]
                if last is None:
                    self._broken.setdefault(parsed.about, []).append(told[0])
            self.unused += [f"{place}: {why}" for why in parsed.unused]
        return problems

    @property
    def service_classes(self) -> tuple[fleet.ServiceClass, ...]:
        """All classes that `class_of` has given."""
        return tuple(self._classes.values())

    def exactly(self, name: str) -> fleet.ServiceClass | None:
        """One of the classes that `class_of` has given, by its name; None without one."""
        return self._classes.get(name)

    def class_of(
        self, namespace: str, model: str, *, untargeted: bool
    ) -> fleet.ServiceClass | None:
        """Class of a model that no service class lists: one of an entry's targets, or `NO_CLASS`.

        Args:
            namespace: namespace of the variant.
            model: its model.
            untargeted: whether it may go without any target; else there may be none for it.

        """
        name, targets = NO_CLASS, fleet.Targets()
        now = [
            item
            for item in self._of(QUEUEING, _Targets, namespace, model)
            if item[1].ttft_ms or item[1].itl_ms
        ]
        for key, entry in (now or self._gone_of(namespace, model))[:1]:
            name = f"{QUEUEING}/{key}"
            targets = fleet.Targets(itl_ms=entry.itl_ms, ttft_ms=entry.ttft_ms)
        if name == NO_CLASS and not untargeted:
            return None
        # One class for all its models: a copy for each would take quadratic time.
        by_model = self._targets.setdefault(name, {})
        by_model[model] = targets
        if name not in self._classes:
            self._classes[name] = fleet.ServiceClass(
                name=name, priority=LOWEST_PRIORITY, targets=by_model
            )
        return self._classes[name]

    def lost(self, before: str) -> str:
        """Why targets of the class of the last decision are gone: after a restart no more is known of it."""
        key = before.removeprefix(f"{QUEUEING}/")
        if key == before or QUEUEING in self._entries:
            return ""
        return (
            f"ConfigMap {QUEUEING}: is missing, whose data.{key} had the targets of its last decision; create"
            " it, without entries if there are to be no targets"
        )

    def broken_of(self, model: str) -> list[str]:
        """What is wrong with entries of a model's targets that have no earlier value."""
        return self._broken.get(model, [])

    def notes_of(self, class_name: str) -> tuple[str, ...]:
        """What is wrong with the entry whose targets a class of `class_of` has."""
        return tuple(filter(None, [self._held.get(class_name)]))

    def _gone_of(self, namespace: str, model: str) -> list[tuple[str, _Targets]]:
        """Targets of a model whose entry is gone, with its key; from then on they are in force."""
        if self._last_targets is None:
            self._last_targets = _Entries()
            for (name, key), item in self._last.items():
                own, at = item.entry, (name, key)
                if (
                    isinstance(own, _Targets)
                    and at not in self.good
                    and (own.ttft_ms or own.itl_ms)
                ):
                    self._last_targets.put(key, own)
        held = _sorted(self._last_targets.concerning(namespace, model), _Targets)[:1]
        for key, _ in held:
            last = self._last[QUEUEING, key]
            self.good[QUEUEING, key] = last
            text = f"{last.where}: is gone; {HELD} until there is such an entry again"
            self._held[f"{QUEUEING}/{key}"] = text
            self.gone[text] = None
        return held

    def scale_to_zero(self, namespace: str, model: str) -> tuple[bool | None, float | None]:
        """Whether a model may go to zero, and after how many idle seconds; None where no entry says so."""
        entries = [
            entry
            for name, kind in ((SATURATION, _Saturation), (TO_ZERO, _ToZero))
            for _, entry in self._of(name, kind, namespace, model)
        ]
        enabled = [entry.enabled for entry in entries if entry.enabled is not None]
        retention = [
            entry.retention_seconds for entry in entries if entry.retention_seconds is not None
        ]
        return (enabled[0] if enabled else None), (retention[0] if retention else None)

    def _of(
        self, name: str, kind: type[_EntryKind], namespace: str, model: str
    ) -> list[tuple[str, _EntryKind]]:
        """Entries about a model, with their keys: with its namespace, without one, then the default."""
        entries = self._entries.get(name)
        return [] if entries is None else _sorted(entries.concerning(namespace, model), kind)


def _sorted(
    entries: Iterable[tuple[str, _Entry]], kind: type[_EntryKind]
) -> list[tuple[str, _EntryKind]]:
    """Entries of that kind, with their keys: with a namespace, without one, then the default."""
    concerning = [(key, entry) for key, entry in entries if isinstance(entry, kind)]
    return sorted(
        concerning, key=lambda item: (item[0] in DEFAULTS, not item[1].namespace, item[0])
    )


@dataclass(frozen=True, slots=True)
class _Parsed:
    """An entry, or what is wrong with its text; its keys that stand there twice, or change nothing.

    Attributes:
        about: Its model, also where it cannot be used; empty where that is not known.

    """

    entry: _Entry | None = None
    problems: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    about: str = ""


def _parse(name_of_map: str, text: str) -> _Parsed:
    try:
        document = parse_yaml(text) or {}
        entry = _KINDS[name_of_map].model_validate(document)
    except DocumentError as error:
        return _Parsed(problems=(str(error),))
    except ValidationError as error:
        line, problems = lines_of(composed(text)), []
        for item in error.errors():
            at = line(item["loc"])
            place = f"{f'line {at}: ' if at else ''}{field_path(item['loc'])}"
            problems.append(f"{place}{field_problem(item)}")
        named = document if isinstance(document, dict) else {}
        about = named.get("model_id", named.get("modelID"))
        return _Parsed(problems=tuple(problems), about=about if isinstance(about, str) else "")
    repeated = (
        f"line {line}: {name}: is given twice; keep one"
        for name, line in repeated_keys(composed(text))
    )
    unused = tuple(_unused(name_of_map, document))
    return _Parsed(entry, (), tuple(repeated), unused, entry.model)


_known = Known(_parse)


def _ambiguities(key: str, repeated: tuple[str, ...], entry: _Entry, others: _Entries) -> list[str]:
    """Why an entry does not say one thing of one model; it is then left out."""
    wrong = list(repeated)
    if key in DEFAULTS:
        return wrong
    if not entry.model:
        wrong.append(
            "model_id: is missing, so the entry is of no model; the one of all is called default"
        )
    return wrong + [
        f"model_id: the model is listed twice, in data.{other} too; keep one of the two"
        for other in others.like(entry)
        if entry.model and other != key
    ]


def _unused(name_of_map: str, document: Mapping[str, Any]) -> list[str]:
    """Keys of an entry that change nothing, and why."""
    read = ("model_id", "namespace", *_KNOWN[name_of_map])
    reasons = _UNUSED.get(name_of_map, {})
    lines = [f"{name} is not used: {why}" for name, why in reasons.items() if name in document]
    inner = document.get("scaleToZero") if name_of_map == SATURATION else None
    lines += [
        f"scaleToZero.{name} is not known, and changes nothing; known are {', '.join(_INNER)}"
        for name in inner or ()
        if name not in _INNER
    ]
    known = {*read, *_OLDER, *reasons}
    return lines + [
        f"{name} is not known, and changes nothing; known are {', '.join(read)}"
        for name in document
        if name not in known
    ]
