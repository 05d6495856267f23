"""Label selectors: the whole grammar of `labelSelector`, with the error messages of kube-apiserver.

https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Operator = Literal["=", "!=", "in", "notin", "exists", "!", ">", "<"]

LENGTH = 64 * 1024
"""Most characters of a selector."""

MOST_TERMS = 64
"""Most terms of the selector of an object: each is compared with every pod of its namespace."""

MOST_VALUES = 512
"""Most terms and values together, as commas between them tell."""

MALFORMED = "is no label selector"
"""Clause about a selector that Kubernetes accepts nowhere."""

# Blanks between tokens are skipped by the search itself, one by one.
_TOKEN = re.compile(r"==|!=|[=!,()<>]|[^\s=!,()<>]+")
_NAME = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?")
_PREFIX = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
_INTEGER = re.compile(r"[+-]?[0-9]{1,63}")
_INT64 = range(-(2**63), 2**63)
_SYMBOLS = {"=", "==", "!=", "!", ",", "(", ")", "<", ">"}


class SelectorError(ValueError):
    """The text is not a label selector."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One term of a selector.

    Attributes:
        key: Label key.
        operator: How the label's value is compared; `exists` and `!` take no values.
        values: Values to compare with.

    """

    key: str
    operator: Operator
    values: tuple[str, ...] = ()
    _among: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Index the values: there may be thousands, to be compared with thousands of objects."""
        object.__setattr__(self, "_among", frozenset(self.values))

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether labels satisfy this term."""
        value = labels.get(self.key)
        match self.operator:
            case "=" | "in":
                return value is not None and value in self._among
            case "!=" | "notin":
                return value is None or value not in self._among
            case "exists":
                return value is not None
            case "!":
                return value is None
            case ">" | "<":
                number, bound = int64(value or ""), int64(self.values[0])
                if number is None or bound is None:
                    return False
                return number > bound if self.operator == ">" else number < bound


@dataclass(frozen=True, slots=True)
class Selector:
    """Terms that all have to be satisfied; an empty selector matches everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether labels satisfy every term."""
        return all(requirement.matches(labels) for requirement in self.requirements)

    def equality(self, key: str) -> str | None:
        """The only value that `key` may have; None where several are possible."""
        return self.equalities().get(key)

    def equalities(self) -> dict[str, str]:
        """The only value of each label that may have but one."""
        return {
            item.key: item.values[0]
            for item in reversed(self.requirements)
            if item.operator in {"=", "in"} and len(item.values) == 1
        }


def parse(text: str) -> Selector:
    """Parse a selector.

    Raises:
        SelectorError: the text is malformed; the message is kube-apiserver's.

    """
    if len(text) > LENGTH:
        raise SelectorError(
            f"the selector has {len(text)} characters, at most {LENGTH} are accepted"
        )
    return Selector(tuple(_Parser(_TOKEN.findall(text)).requirements()))


def selector_of(spec: Mapping[str, Any]) -> Selector:
    """A LabelSelector object as a selector; one that cannot be read selects nothing."""
    return explained(spec)[0]


def explained(spec: Mapping[str, Any]) -> tuple[Selector, str]:
    """A LabelSelector object as a selector, and why it selects nothing, as `explained_text`."""
    parts = [f"{key}={value}" for key, value in (spec.get("matchLabels") or {}).items()]
    for item in spec.get("matchExpressions") or ():
        key, operator = item.get("key"), item.get("operator")
        values = ",".join(item.get("values") or ())
        forms = {
            "In": f"{key} in ({values})",
            "NotIn": f"{key} notin ({values})",
            "Exists": f"{key}",
            "DoesNotExist": f"!{key}",
        }
        if operator not in forms:
            return Selector(), MALFORMED
        parts.append(forms[operator])
    return explained_text(",".join(parts))


def parse_lenient(text: str) -> Selector:
    """A selector from text; one that cannot be read, or with too many terms, selects nothing."""
    return explained_text(text)[0]


def explained_text(text: str) -> tuple[Selector, str]:
    """A selector from text, and why it selects nothing, as a clause about it; empty where it is used."""
    nothing = Selector()
    if len(text) > LENGTH:
        return nothing, f"has {len(text)} characters, and at most {LENGTH} are read"
    count = text.count(",") + 1
    if count > MOST_VALUES:
        return nothing, f"has {count} terms and values, and at most {MOST_VALUES} are compared"
    try:
        selector = parse(text)
    except SelectorError:
        return nothing, MALFORMED
    count = len(selector.requirements)
    if count > MOST_TERMS:
        return nothing, f"has {count} terms, and at most {MOST_TERMS} are compared"
    return selector, ""


def int64(text: str) -> int | None:
    """A number as Go's `strconv.ParseInt` reads it; None for a text that is none, or beyond 64 bits."""
    if not _INTEGER.fullmatch(text):
        return None
    number = int(text)
    return number if number in _INT64 else None


class _Parser:
    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.at += 1
        return token

    def requirements(self) -> list[Requirement]:
        terms: list[Requirement] = []
        if not self.tokens:
            return terms
        while True:
            try:
                terms.append(self.requirement())
            except SelectorError as error:
                raise SelectorError(f"unable to parse requirement: {error}") from None
            token = self.take()
            if not token:
                return terms
            if token != ",":
                raise SelectorError(f"found '{token}', expected: ',' or 'end of string'")
            if self.peek() == "" or (self.peek() in _SYMBOLS and self.peek() != "!"):
                raise SelectorError(f"found '{self.peek()}', expected: identifier after ','")

    def requirement(self) -> Requirement:
        absent = self.peek() == "!"
        if absent:
            self.take()
        key = self.take()
        if key == "" or key in _SYMBOLS:
            raise SelectorError(f"found '{key}', expected: identifier")
        _check_key(key)
        if absent:
            return Requirement(key, "!")
        if self.peek() in {"", ","}:
            return Requirement(key, "exists")
        operator = self.take()
        if operator in {"=", "==", "!="}:
            value = "" if self.peek() in {"", ","} else self.value()
            _check_value(key, value)
            return Requirement(key, "!=" if operator == "!=" else "=", (value,))
        if operator in {"<", ">"}:
            value = self.value()
            if int64(value) is None:
                raise SelectorError(
                    f"values[0][{key}]: Invalid value: \"{value}\": for 'Gt', 'Lt' operators, the"
                    " value must be an integer"
                )
            return Requirement(key, ">" if operator == ">" else "<", (value,))
        if operator in {"in", "notin"}:
            values = self.values()
            for value in values:
                _check_value(key, value)
            return Requirement(key, "in" if operator == "in" else "notin", values)
        raise SelectorError(f"found '{operator}', expected: in, notin, =, ==, !=, gt, lt")

    def value(self) -> str:
        token = self.take()
        if not token or token in _SYMBOLS:
            raise SelectorError(f"found '{token}', expected: identifier")
        return token

    def values(self) -> tuple[str, ...]:
        if (token := self.take()) != "(":
            raise SelectorError(f"found '{token}' expected: '('")
        first = self.peek()
        if first == ")":
            self.take()
            return ("",)
        if first != "," and (not first or first in _SYMBOLS):
            raise SelectorError(f"found '{first}', expected: ',', ')' or identifier")
        values: set[str] = set()
        while True:
            token = self.take()
            if token == ",":
                # Nothing before, between or after commas is the empty value.
                if not values or self.peek() in {",", ")"}:
                    values.add("")
                if self.peek() == ",":
                    self.take()
            elif token and token not in _SYMBOLS:
                values.add(token)
                if self.peek() not in {",", ")"}:
                    raise SelectorError(f"found '{self.peek()}', expected: ',' or ')'")
            else:
                raise SelectorError(f"found '{token}', expected: ',', or identifier")
            if self.peek() == ")":
                self.take()
                return tuple(sorted(values))


def _check_key(key: str) -> None:
    prefix, slash, name = key.rpartition("/")
    good = (
        len(name) <= 63
        and _NAME.fullmatch(name)
        and (not slash or (len(prefix) <= 253 and _PREFIX.fullmatch(prefix)))
    )
    if not good:
        raise SelectorError(
            f'key: Invalid value: "{key}": name part must consist of alphanumeric characters,'
            " '-', '_' or '.', and must start and end with an alphanumeric character"
        )


def _check_value(key: str, value: str) -> None:
    if value and not (len(value) <= 63 and _NAME.fullmatch(value)):
        raise SelectorError(
            f'values[0][{key}]: Invalid value: "{value}": a valid label must be an empty string or'
            " consist of alphanumeric characters, '-', '_' or '.', and must start and end with an"
            " alphanumeric character"
        )
