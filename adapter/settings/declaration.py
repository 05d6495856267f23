"""Declared settings: dataclass fields that know their flag, key, default and text, and how they are resolved.

    drain_time: float = setting(60.0, kinds.bounded_seconds(1.0, 3600.0), "Time in which ...")

A value is taken from the flag, then the ConfigMap, then the environment, then the default.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from adapter.settings.kinds import Kind

Value = TypeVar("Value")
Group = TypeVar("Group")

_KEY = "declaration"


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """One setting in all its spellings.

    Attributes:
        name: Field of the group, and of the parsed arguments.
        flag: Spelling on the command line; empty for what must not be seen there.
        key: Spelling in the ConfigMap and the environment; empty for flags only.
        kind: How values are read and written.
        text: What the setting means: a sentence that can be read alone, without its last dot.
        default: Value without any of them.
        default_text: The default as people read it, where it depends on the machine or stands for "none".
        annotation: Annotation of a variant or its HPA that overrides the setting; empty for none.
        exclusive: Name of the set of flags of which only one may be given; empty for none.

    """

    name: str
    flag: str
    key: str
    kind: Kind[Any]
    text: str
    default: Callable[[], Any]
    default_text: str
    annotation: str = ""
    exclusive: str = ""

    @property
    def spellings(self) -> str:
        """All names of the setting, for messages: `--interval (GLOBAL_OPT_INTERVAL)`, `--x / llmd.ai/x`."""
        name = f"{self.flag} ({self.key})" if self.flag and self.key else self.flag or self.key
        return f"{name} / {self.annotation}" if self.annotation else name

    @property
    def shown_default(self) -> str:
        """The default as people read it: `30s`, `off`, `no limit`."""
        return self.default_text or self.kind.show(self.default())

    def shown(self, value: Any) -> str:
        """A value as people read it; the text of the default for the default."""
        return self.shown_default if value == self.default() else self.kind.show(value)

    def described(self, *, default: str = "", config_map: bool = True) -> str:
        """The text with its default, the other spellings and the annotation.

        Args:
            default: Default as people read it; empty for the declared one.
            config_map: Whether the ConfigMap is read.

        """
        parts = [self.text, f"Default {default or self.shown_default}"]
        if self.key and self.flag:
            where = (
                "ConfigMap key and environment variable" if config_map else "Environment variable"
            )
            parts.append(f"{where} {self.key}")
        if self.annotation and config_map:
            parts.append(f"Annotation of a variant {self.annotation}")
        return ". ".join(parts)

    def parse(self, text: str) -> Any:
        """Read a value.

        Raises:
            ValueError: what is accepted, and the setting's other spellings.

        """
        try:
            return self.kind.parse(text)
        except ValueError as error:
            others = self.key or self.annotation
            known = f"; the setting is {self.spellings}" if others else ""
            raise ValueError(f"{error}{known}") from error


def setting(
    default: Value,
    kind: Kind[Any],
    text: str,
    *,
    flag: str | None = None,
    key: str = "",
    shown: str = "",
    factory: Callable[[], Value] | None = None,
    annotation: str = "",
    exclusive: str = "",
) -> Value:
    """Declare a field of a group of settings.

    Args:
        default: Value that nothing else says; with a `factory` only its type counts.
        kind: How values are read and written.
        text: What the setting means, without the last dot, its default and its spellings.
        flag: Spelling on the command line; None makes it of the field's name.
        key: Spelling in the ConfigMap and the environment.
        shown: Default as people read it, where the value does not say it.
        factory: Makes a default that depends on the machine.
        annotation: Annotation of a variant that overrides the setting.
        exclusive: Name of the set of flags of which only one may be given.

    """
    declared = {
        "flag": flag,
        "key": key,
        "kind": kind,
        "text": text,
        "default_text": shown,
        "annotation": annotation,
        "exclusive": exclusive,
    }
    metadata = {_KEY: declared}
    made: Any = (
        field(default=default, metadata=metadata)
        if factory is None
        else field(default_factory=factory, metadata=metadata)
    )
    value: Value = made
    return value


def declarations(group: type[Any]) -> tuple[Declaration, ...]:
    """All settings of a group, in the order of its fields."""
    known = _DECLARATIONS.get(group)
    if known is None:
        known = tuple(_declaration(item) for item in dataclasses.fields(group))
        _DECLARATIONS[group] = known
    return known


_DECLARATIONS: dict[type[Any], tuple[Declaration, ...]] = {}
"""Those of each group, made once: every cycle looks through them."""


def resolve(
    group: type[Group],
    flags: Mapping[str, object],
    *,
    config: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    previous: Group | None = None,
) -> Group:
    """Values of a group: flags win over the ConfigMap, and that over the environment.

    A ConfigMap's value that cannot be read leaves the previous one in use, or without one what the
    environment or the default says; `keys.problems` reports it.

    Args:
        group: Class of the group.
        flags: Values of flags by field; None and empty lists were not given.
        config: Data of the ConfigMap.
        environment: Environment variables.
        previous: Values that were in use before the ConfigMap changed.

    """
    values = {}
    for item in declarations(group):
        given = flags.get(item.name)
        if given is not None and given != []:
            values[item.name] = tuple(given) if isinstance(given, list) else given
            continue
        if not item.key:
            continue
        for source in (config or {}, environment or {}):
            text = source.get(item.key, "").strip()
            if not text:
                continue
            try:
                values[item.name] = item.parse(text)
                break
            except ValueError:
                if source is config and previous is not None:
                    values[item.name] = getattr(previous, item.name)
                    break
    return group(**values)


def _declaration(item: dataclasses.Field[Any]) -> Declaration:
    declared = item.metadata[_KEY]
    default = item.default
    if item.default_factory is not dataclasses.MISSING:
        make = item.default_factory
    else:

        def make() -> object:
            return default

    flag = declared["flag"]
    return Declaration(
        name=item.name,
        default=make,
        **(declared | {"flag": f"--{item.name.replace('_', '-')}" if flag is None else flag}),
    )
