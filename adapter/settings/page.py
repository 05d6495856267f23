"""The page docs/configuration.md, written from the declarations: `scripts/generate_docs.py` stores it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from adapter.settings.declaration import Declaration, declarations
from adapter.settings.groups import GROUPS, by_key
from adapter.settings.keys import IGNORED, NESTED

_INTRODUCTION = """\
<!-- Written by scripts/generate_docs.py from adapter/settings; change the declarations, not this page. -->

# Configuration

Settings of `variant-adapter serve`. A value is taken from the first of these that has it:

1. the flag;
2. the key of the ConfigMap `*-variantautoscaling-config` in the adapter's namespace (or, with `--variants`,
   in the folder); a change applies without a restart;
3. the environment variable of the same name;
4. the default.

Where a setting has an annotation, an annotation of that name on a VariantAutoscaling or its Deployment
overrides it for that variant; where both have one, that of the VariantAutoscaling counts.

Durations are written like `500ms`, `15s` or `1m30s`; a plain number is seconds. A share is written like `5%`
or `0.05`.

A flag that cannot be used ends the program with status 2. A value of the ConfigMap that cannot be used, and
an unknown key, is ignored, logged, and reported by `variant-adapter doctor`. The value that was in use before
stays in use; at the start, that of the environment variable or the default. An environment variable that
cannot be used is logged and ignored.
"""

_IGNORED_INTRODUCTION = """\
## Keys of the workload-variant-autoscaler

A ConfigMap of the workload-variant-autoscaler can be used as it is. These of its keys have no
effect here; each that is set is logged once as a warning, and `variant-adapter doctor` names it:
"""

_NESTED_NOTE = f"""\
Newer releases keep all settings in one YAML file under the key `{NESTED}`. It is not read, and reported: make
each setting a key of `data`.
"""


def text() -> str:
    """The whole page."""
    parts = [_INTRODUCTION]
    parts.extend("\n".join((f"## {group.TITLE}", "", *_table(group), "")) for group in GROUPS)
    ignored = [f"| `{key}` | {reason} |" for key, reason in IGNORED.items()]
    parts.append(
        "\n".join((_IGNORED_INTRODUCTION, "| key | instead |", "| --- | --- |", *ignored, ""))
    )
    parts.append(_NESTED_NOTE)
    used = ", ".join(f"`{key}`" for key in by_key())
    parts.append(f"Used are {used}.\n")
    return "\n".join(parts)


def _table(group: type[Any]) -> Iterator[str]:
    yield "| flag | ConfigMap key, environment variable | default | meaning |"
    yield "| --- | --- | --- | --- |"
    for item in declarations(group):
        yield f"| {_flag(item)} | {_code(item.key)} | {item.shown_default} | {_meaning(item)} |"


def _flag(item: Declaration) -> str:
    """The flag with the form of its value, as a code span."""
    if not item.flag:
        return ""
    kind = item.kind
    if kind.form == "switch":
        return f"`{item.flag}`, `--no-{item.flag.removeprefix('--')}`"
    if kind.form == "enable":
        return f"`{item.flag}`"
    value = "{" + ",".join(kind.choices) + "}" if kind.form == "choice" else kind.metavar
    return _code(f"{item.flag} {value}")


def _meaning(item: Declaration) -> str:
    parts = [item.text]
    if item.annotation:
        parts.append(f"Annotation `{item.annotation}`")
    return ". ".join(parts)


def _code(name: str) -> str:
    """A code span for a cell of a table."""
    return "`" + name.replace("|", r"\|") + "`" if name else ""
