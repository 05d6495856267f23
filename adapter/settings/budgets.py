"""Ceilings on money and GPUs, as the ConfigMap's key `budgets` has them: a YAML list.

An entry is a ceiling of one scope, or one of the workload-variant-autoscaler's `limiters`: `type: quota` with
`quotas` by accelerator, and `namespaceQuotas` by namespace, of which `default` stands for all others. -1 is
unlimited, 0 denies everything.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from adapter.kube.paths import shortened
from adapter.planning.groups import EVERY, UNLIMITED, Budget, BudgetScope
from adapter.settings.kinds import Kind
from adapter.settings.yaml_nodes import check_merges, read_plainly, repeated_keys

_SCOPES: Mapping[str, BudgetScope] = {
    "cluster": "installation",
    "installation": "installation",
    "namespace": "namespace",
    "class": "class",
}
_FIELDS = frozenset(
    {
        "name",
        "type",
        "scope",
        "namespace",
        "class",
        "cost",
        "gpus",
        "quotas",
        "namespaceQuotas",
        "exclude",
    }
)

_EVERY = "default"
"""How people write `EVERY`."""

_MOST_TEXT, _MOST_BRACKETS, _MOST_LEVELS = 16384, 400, 64
_MOST, _MOST_SAID = 1e9, 200


def budgets(text: str) -> tuple[Budget, ...]:
    """Read the ceilings.

    Raises:
        ValueError: what is wrong, with the number of the entry and its field.

    """
    document = _document(text)
    if isinstance(document, dict) and document.keys() <= {"limiters"}:
        document = document.get("limiters")
    if document is None:
        return ()
    if not isinstance(document, list):
        raise ValueError(f"must be a YAML list of budgets, not {shortened(text)}")  # noqa: TRY004 - input
    return entries(document)


def entries(document: Sequence[Any]) -> tuple[Budget, ...]:
    """Read the ceilings of a list that is parsed already.

    Raises:
        ValueError: what is wrong, with the number of the entry and its field.

    """
    budgets: dict[str, Budget] = {}
    for number, item in enumerate(document):
        try:
            for budget in _entry(item):
                _add(budgets, budget)
        except ValueError as error:
            name = item.get("name") if isinstance(item, dict) else None
            called = f" ({shortened(name)})" if isinstance(name, str) and name else ""
            raise ValueError(f"entry {number + 1}{called}: {error}") from error
    return tuple(budgets.values())


def _add(budgets: dict[str, Budget], budget: Budget) -> None:
    """Put a budget among the others; one that is there already is found at once: aliases make many."""
    if budget.name in budgets:
        name = budget.name
        raise ValueError(f"two budgets are {name!r}; join them, or give one a name of its own")
    budgets[budget.name] = budget


def _document(text: str) -> Any:
    """The YAML document, within bounds: the parser's time grows with the square of the nesting."""
    import yaml  # noqa: PLC0415 - short commands load the settings without a document

    if len(text) > _MOST_TEXT:
        raise ValueError(f"must have at most {_MOST_TEXT} characters")
    if sum(map(text.count, "[{")) > _MOST_BRACKETS:
        raise ValueError(f"must have at most {_MOST_BRACKETS} brackets")
    try:
        # Composing in C recurses without a look at the stack.
        loader = _loader()
        _check_levels(yaml.parse(text, Loader=loader))
        reader = loader(text)
        root = reader.get_single_node()
        check_merges(root, len(text))
        _check_repeated(root)
        return None if root is None else reader.construct_document(root)
    except Exception as error:
        # A tag such as !!int calls its constructor, which raises what it likes.
        what = f"must be a YAML list of budgets, not {shortened(text)}"
        raise ValueError(f"{what}: {_why(error)}") from error


@functools.cache
def _loader() -> Any:
    """The class of the loader: in C where PyYAML has it, which takes a fifth of the time."""
    import yaml  # noqa: PLC0415 - as above

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    plain = type("_Plain", (base,), {})
    read_plainly(plain)
    return plain


def _check_repeated(root: Any) -> None:
    for key, line in repeated_keys(root):
        raise ValueError(f"line {line}: {shortened(key)} is there twice; delete one of them")


def _why(error: Exception) -> str:
    """What a parser says, with the line where it has one."""
    mark = getattr(error, "problem_mark", None)
    why = str(error) if mark is None else f"line {mark.line + 1}: {getattr(error, 'problem', '')}"
    return " ".join(why.split())[:_MOST_SAID] or type(error).__name__


def _check_levels(events: Iterable[Any]) -> None:
    depth = 0
    for event in events:
        name = type(event).__name__
        depth += name.endswith(("SequenceStartEvent", "MappingStartEvent"))
        depth -= name.endswith(("SequenceEndEvent", "MappingEndEvent"))
        if depth > _MOST_LEVELS:
            raise ValueError(f"nested more than {_MOST_LEVELS} levels deep")


def _entry(item: Any) -> Iterator[Budget]:
    if not isinstance(item, dict):
        raise ValueError("must be a mapping such as {scope: cluster, cost: 5000}")  # noqa: TRY004 - input
    unknown = sorted(str(key) for key in item if key not in _FIELDS)
    if unknown:
        raise ValueError(f"{unknown[0]}: unknown field; known are {', '.join(sorted(_FIELDS))}")
    kind = item.get("type", "quota")
    if kind == "gpu-inventory":
        raise ValueError(
            "type: gpu-inventory is set by --limited, and by capacity in a plan file; leave this entry out"
        )
    if kind != "quota":
        raise ValueError(f"type: must be quota, not {_shown(kind)}")
    # The text of what is no text may be endless.
    given = item.get("scope", "cluster")
    scope = _SCOPES.get(given) if isinstance(given, str) else None
    if scope is None:
        raise ValueError(
            f"scope: must be cluster, namespace or class, not {_shown(item.get('scope'))}"
        )
    if "namespaceQuotas" in item:
        yield from _by_namespace(item, scope)
        return
    if item.get("exclude"):
        raise ValueError("exclude: is for namespaceQuotas with default; leave it out here")
    subject = _subject(item, scope)
    shown = f"{scope} {_said(subject)}" if subject else scope
    name = item.get("name", shown)
    if not isinstance(name, str) or not name or len(name) > 253:
        raise ValueError("name: must be a text of 1 to 253 characters")
    if not item.keys() & {"cost", "gpus", "quotas"}:
        raise ValueError("has no ceiling; give cost (cents per hour), gpus or quotas")
    yield Budget(
        name=name,
        scope=scope,
        subject=subject,
        cost=_number(item.get("cost", UNLIMITED), "cost"),
        devices=_count(item.get("gpus", UNLIMITED), "gpus"),
        devices_by_type=_quotas(item.get("quotas") or {}, "quotas"),
    )


def _by_namespace(item: Mapping[str, Any], scope: BudgetScope) -> Iterator[Budget]:
    """One budget per namespace; excluded ones have none of their own ceilings, so `default` leaves them."""
    if scope != "namespace":
        raise ValueError("namespaceQuotas: needs scope: namespace")
    for field in ("cost", "gpus", "quotas", "namespace", "name"):
        if field in item:
            raise ValueError(f"{field}: cannot stand beside namespaceQuotas; make it another entry")
    given = item["namespaceQuotas"]
    if not isinstance(given, dict) or not given:
        raise ValueError("namespaceQuotas: must map namespaces to quotas")
    excluded = item.get("exclude") or []
    if not isinstance(excluded, list) or not all(isinstance(name, str) for name in excluded):
        raise ValueError("exclude: must be a list of namespaces")
    for name in excluded:
        if name in given:
            raise ValueError(f"exclude: {name} has namespaceQuotas of its own")
        yield Budget(name=f"namespace {name}", scope="namespace", subject=name)
    for name, quotas in given.items():
        yield Budget(
            name=f"namespace {name}",
            scope="namespace",
            subject=_read(_text(name, "namespaceQuotas")),
            devices_by_type=_quotas(quotas or {}, f"namespaceQuotas.{name}"),
        )


def _subject(item: Mapping[str, Any], scope: BudgetScope) -> str:
    """The namespace or class that a budget is for."""
    for field in ("namespace", "class"):
        if field in item and field != scope:
            raise ValueError(f"{field}: needs scope: {field}")
    return "" if scope == "installation" else _read(_text(item.get(scope, _EVERY), scope))


def _read(subject: str) -> str:
    return EVERY if subject == _EVERY else subject


def _said(subject: str) -> str:
    return _EVERY if subject == EVERY else subject


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str) or not value or len(value) > 253:
        raise ValueError(f"{field}: must be a name, not {_shown(value)}")
    return value


def _quotas(value: Any, field: str) -> dict[str, int]:
    if not isinstance(value, dict):
        raise ValueError(f"{field}: must map accelerators to devices")  # noqa: TRY004 - input
    return {_text(name, field): _count(count, f"{field}.{name}") for name, count in value.items()}


def _number(value: Any, field: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if number != UNLIMITED and not 0 <= number <= _MOST:
        raise ValueError(f"{field}: must be -1 (unlimited) or from 0 to 1e9, not {_shown(value)}")
    return number


def _count(value: Any, field: str) -> int:
    number = _number(value, field)
    if number != int(number):
        raise ValueError(f"{field}: must be a whole number, not {_shown(value)}")
    return int(number)


def _shown(value: Any) -> str:
    """A scalar as it is, anything else as its kind: aliases can make a short text endless."""
    scalar = value is None or isinstance(value, (str, int, float))
    return shortened(str(value)) if scalar else f"a {type(value).__name__}"


def shown(value: tuple[Budget, ...]) -> str:
    """The ceilings as a text that can be read again."""
    return json.dumps([_written(item) for item in value]) if value else "none"


def _written(item: Budget) -> dict[str, Any]:
    text: dict[str, Any] = {
        "name": item.name,
        "scope": "cluster" if item.scope == "installation" else item.scope,
        "cost": item.cost,
        "gpus": item.devices,
        "quotas": dict(item.devices_by_type),
    }
    if item.subject:
        text[item.scope] = _said(item.subject)
    return text


BUDGETS = Kind(parse=budgets, show=shown, metavar="YAML")
"""Ceilings on money and GPUs."""
