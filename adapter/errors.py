"""Errors that a user can fix, as one tree.

* AdapterError
  + UsageError: wrong arguments of a command; exit status 2
  + InputError: unusable contents of a file or object; names file, object and field
  + StartupError: the server cannot start: port in use, certificate unreadable, folder missing

Each message names what is wrong and the fix. `cli.main` prints it as one line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args


class AdapterError(Exception):
    """Base of all errors that a user can fix."""

    exit_status = 1


class UsageError(AdapterError):
    """The arguments of a command are wrong."""

    exit_status = 2


class InputError(AdapterError):
    """The contents of a file or object are unusable."""


class StartupError(AdapterError):
    """The server cannot start."""


_LONGEST = 60
"""Most characters of a wrong value that a message repeats."""

_KINDS = {
    "bool": "true or false",
    "dict": "a mapping of fields",
    "float": "a number",
    "int": "a whole number",
    "list": "a list",
    "mapping": "a mapping of fields",
    "model": "a mapping of fields",
    "string": "text",
    "tuple": "a list",
}
"""What a value must be, by the first word of the schema's error type."""

_BOUNDS = {
    "greater_than": ("gt", ">"),
    "greater_than_equal": ("ge", ">="),
    "less_than": ("lt", "<"),
    "less_than_equal": ("le", "<="),
}


def field_problem(item: Mapping[str, Any], schema: Any = None) -> str:
    """What is wrong with a field, and what was given, in this program's words.

    Args:
        item: one of the errors of a pydantic ValidationError; its place is not in the answer.
        schema: the model that raised it, to name the fields that an unknown one may stand for.

    """
    kind, context = item["type"], item.get("ctx") or {}
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return f"is not known{_nearest(item['loc'], schema)}"
    if kind == "too_short":
        return "has none; give one or more"
    if kind == "value_error":
        return str(item["msg"]).removeprefix("Value error, ")
    if kind == "string_too_short":
        return "must not be empty" if context.get("min_length") == 1 else _reworded(item)
    if kind in _BOUNDS:
        name, sign = _BOUNDS[kind]
        must = f"must be {sign} {context[name]:g}"
    elif kind == "literal_error":
        must = f"must be {context['expected']}"
    elif kind == "finite_number":
        must = "must be a finite number"
    elif kind.endswith(("_type", "_parsing", "_from_float")) and kind.split("_")[0] in _KINDS:
        must = f"must be {_KINDS[kind.split('_')[0]]}"
    else:
        must = _reworded(item)
    return f"{must}, not {shown(item['input'])}"


def _nearest(location: Sequence[Any], schema: Any) -> str:
    """The fields that are named like an unknown one, else all that may stand in its place."""
    *path, field = location
    schemas = _schemas(schema)
    for part in path:
        inner = [
            each
            for one in schemas
            for name, info in one.model_fields.items()
            if part in (name, info.alias)
            for each in _schemas(info.annotation)
        ]
        # Places in a list and forms of a value are no fields.
        schemas = inner or schemas
    known = list(
        dict.fromkeys(
            info.alias or name for each in schemas for name, info in each.model_fields.items()
        )
    )
    if field in known:
        # In another form of the value, such as another kind of engine.
        return " here, only beside another kind or other fields"
    if (per_minute := f"{str(field).removesuffix('_rps')}_rpm") in known:
        return f"; give {per_minute}, in requests per minute"
    return did_you_mean(str(field), known)


def did_you_mean(name: str, known: Sequence[str], *, prefix: str = "") -> str:
    """A hint after an unknown name: those that are like it, else all that are known; empty for none.

    All are shown after the prefix, which makes no two names alike.
    """
    # Needed after a mistake only.
    import difflib  # noqa: PLC0415

    near = difflib.get_close_matches(name, known, n=2, cutoff=0.7)
    shown = [prefix + item for item in near or known]
    if near:
        return f"; did you mean {' or '.join(shown)}?"
    return f"; known are {', '.join(shown)}" if shown else ""


def _schemas(annotation: Any) -> list[Any]:
    """Models in a type such as `tuple[Model, ...] | None`."""
    if hasattr(annotation, "model_fields"):
        return [annotation]
    return [each for part in get_args(annotation) for each in _schemas(part)]


def _reworded(item: Mapping[str, Any]) -> str:
    return str(item["msg"]).replace("Input should be", "must be").replace("Input should", "must")


def shown(value: object) -> str:
    """A value of a file as messages quote it: as YAML writes it, lists and mappings by their kind."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value or value != value else repr(value)  # noqa: PLR0124 - NaN
    if isinstance(value, str | int):
        text = repr(value)
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list | tuple) else type(value).__name__
