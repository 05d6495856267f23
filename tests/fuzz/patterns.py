"""Every regular expression of the programs, as the source has it, and texts that keep it busy."""

from __future__ import annotations

import ast
import importlib
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from adapter.kube import advice
from adapter.resources.devices import products
from adapter.resources.serving import command_lines
from adapter.settings import yaml_nodes

ROOT = Path(__file__).parents[2]
PACKAGES = ("adapter", "analyzer", "optimizer")
FUNCTIONS = frozenset(
    {"compile", "match", "search", "fullmatch", "sub", "subn", "findall", "finditer", "split"}
)

LOCAL: Mapping[tuple[str, str], Sequence[str]] = {
    ("adapter.kube.advice", "path"): [path for _, path, _ in advice._TABLE],
    ("adapter.resources.devices.products", "form"): tuple(products._INSTANCES),
    ("adapter.settings.yaml_nodes", r"f'\\A(?:{form})$'"): [
        rf"\A(?:{form})$" for form, _ in yaml_nodes._NUMBERS.values()
    ],
}
"""Patterns of calls whose argument is no constant of their module, by module and argument."""


@dataclass(frozen=True, slots=True)
class Used:
    """A regular expression, where it stands, its name where it has one, and by which functions it is used."""

    module: str
    line: int
    name: str
    pattern: re.Pattern[str]
    functions: tuple[str, ...]

    def __str__(self) -> str:
        """Module, and name or line."""
        return f"{self.module}.{self.name or self.line}"

    def run(self, text: str) -> None:
        """Use it on a text in every way in which it is used."""
        pattern: re.Pattern[Any] = self.pattern
        read = text if isinstance(pattern.pattern, str) else text.encode("latin-1", "replace")
        for function in self.functions:
            if function == "sub":
                pattern.sub(read[:0], read)
            elif function in {"findall", "finditer"}:
                pattern.findall(read)
            else:
                getattr(pattern, function)(read)


def used() -> Iterator[Used]:
    """All of them.

    Raises:
        NameError: a pattern is made of local variables and stands not in LOCAL.

    """
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            text = path.read_text()
            if "import re\n" in text:
                name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                yield from _of_module(name.removesuffix(".__init__"), text)


def _of_module(name: str, text: str) -> Iterator[Used]:
    module, tree = importlib.import_module(name), ast.parse(text)
    names = {
        id(node.value): node.targets[0].id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    for node in ast.walk(tree):
        called = node.func if isinstance(node, ast.Call) else None
        if not (
            isinstance(node, ast.Call)
            and isinstance(called, ast.Attribute)
            and isinstance(called.value, ast.Name)
            and called.value.id == "re"
            and called.attr in FUNCTIONS
        ):
            continue
        functions: tuple[str, ...] = (called.attr,)
        kept = names.get(id(node), "")
        if called.attr == "compile":
            functions = (
                tuple(sorted(set(re.findall(rf"\b{kept}\.(\w+)\(", text)) & FUNCTIONS))
                if kept
                else ()
            )
        flags = _flags(module, node, called.attr)
        for source in _sources(module, node.args[0]):
            pattern = re.compile(source, flags)
            yield Used(name, node.lineno, kept, pattern, functions or ("search", "fullmatch"))


def _sources(module: ModuleType, node: ast.expr) -> Sequence[str]:
    known = LOCAL.get((module.__name__, ast.unparse(node)))
    return [_value(module, node)] if known is None else known


def _flags(module: ModuleType, call: ast.Call, function: str) -> int:
    at = {"compile": 1, "sub": 4, "split": 3}.get(function, 2)
    given = [item.value for item in call.keywords if item.arg == "flags"]
    given += call.args[at : at + 1]
    return _value(module, given[0]) if given else 0


def _value(module: ModuleType, node: ast.expr) -> Any:
    """What an expression is in its module."""
    if isinstance(node, ast.JoinedStr) and module is command_lines:
        return _value_with(module, node, flag="port")
    return _value_with(module, node)


def _value_with(module: ModuleType, node: ast.expr, **more: Any) -> Any:
    code = compile(ast.Expression(node), module.__name__, "eval")
    return eval(code, vars(module), more)  # noqa: S307 - our own source


_POOL = "aA0 -_./:=\"'\\,;x\té$({[]})@+!\x00"


class _Sampler:
    """Makes texts that a pattern matches, and remembers which parts of them may be there many times."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self.text = ""
        self.repeated: list[tuple[int, int]] = []

    def add(self, tree: Any) -> None:
        for operator, argument in tree:
            self._one(str(operator), argument)

    def _one(self, operator: str, argument: Any) -> None:
        match operator:
            case "LITERAL":
                self.text += chr(argument)
            case "NOT_LITERAL":
                self.text += "a" if argument != ord("a") else "b"
            case "ANY":
                self.text += self._dice.choice(_POOL)
            case "IN":
                self.text += self._among(argument)
            case "BRANCH":
                self.add(self._dice.choice(argument[1]))
            case "SUBPATTERN":
                self.add(argument[-1])
            case "ATOMIC_GROUP":
                self.add(argument)
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                least, most, tree = argument
                begin = len(self.text)
                for _ in range(max(int(least), self._dice.randint(0, 2)) if int(most) else 0):
                    self.add(tree)
                if int(most) > 2 and len(self.text) > begin:
                    self.repeated.append((begin, len(self.text)))

    def _among(self, items: Any) -> str:
        text = "".join(_shown(str(operator), argument) for operator, argument in items)
        one = re.compile(f"[{text}]")
        ends = [chr(argument[0]) for operator, argument in items if str(operator) == "RANGE"]
        ends += [chr(argument) for operator, argument in items if str(operator) == "LITERAL"]
        fitting = [character for character in [*ends, *_POOL] if one.match(character)]
        return self._dice.choice(fitting) if fitting else ""


_CATEGORIES = {
    "CATEGORY_DIGIT": r"\d",
    "CATEGORY_NOT_DIGIT": r"\D",
    "CATEGORY_SPACE": r"\s",
    "CATEGORY_NOT_SPACE": r"\S",
    "CATEGORY_WORD": r"\w",
    "CATEGORY_NOT_WORD": r"\W",
}


def _shown(operator: str, argument: Any) -> str:
    match operator:
        case "NEGATE":
            return "^"
        case "RANGE":
            return f"\\U{argument[0]:08x}-\\U{argument[1]:08x}"
        case "CATEGORY":
            return _CATEGORIES[str(argument)]
    return f"\\U{argument:08x}"


def attacks(pattern: re.Pattern[str], length: int, seed: int) -> Iterator[str]:
    """Texts of about that length: what matches, with a part or its beginning many times, and an odd end."""
    form: str | bytes = pattern.pattern
    source = form if isinstance(form, str) else form.decode("latin-1")
    tree = re._parser.parse(source, pattern.flags)  # type: ignore[attr-defined] # no public one
    seen: set[tuple[str, str]] = set()
    for number in range(6):
        sampler = _Sampler(random.Random(seed + number))  # noqa: S311 - no secrets
        sampler.add(tree)
        text, spans = sampler.text, sampler.repeated
        spans = [*spans, *((0, end) for begin, end in spans if begin), (0, len(text))]
        spans += [(begin, begin + 1) for begin, end in spans if begin + 1 < end]
        for begin, end in spans:
            part = text[begin:end]
            if part and (text[:begin], part) not in seen:
                seen.add((text[:begin], part))
                many = text[:begin] + part * (length // len(part))
                yield from (
                    f"{many}{end_of}" for end_of in ("", "\x00", " ", "\n", f"{text[end:]}\n")
                )
