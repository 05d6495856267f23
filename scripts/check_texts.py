"""Find texts of flags and fields that cannot be read alone: those that begin like the rest of a sentence.

`--time-to-live: of a target (5m)` and `timeout: that an answer may take` need the name before them to be
understood. Checked are the help of every flag of every command, plug-ins included, the entries of
`Attributes:` in docstrings, and the docstrings below assignments. Prints one line per finding; the exit
status is 1 if there is one.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import itertools
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from adapter import cli

ROOT = Path(__file__).resolve().parent.parent

PACKAGES = ("adapter", "analyzer", "optimizer", "certs", "emulator")

PREPOSITIONS = frozenset({
    "about", "above", "across", "after", "against", "along", "among", "around", "as", "at",
    "before", "behind", "below", "beneath", "beside", "besides", "between", "beyond", "by",
    "despite", "down", "during", "except", "for", "from", "in", "inside", "into", "like", "near",
    "of", "off", "on", "onto", "out", "outside", "over", "past", "per", "since", "than",
    "through", "throughout", "till", "to", "toward", "towards", "under", "until", "unto", "up",
    "upon", "via", "with", "within", "without",
})  # fmt: skip
CONTINUATIONS = frozenset({"that", "which", "whose", "whom", "who", "and", "or", "but", "likewise"})
PHRASES = ("whether it ", "whether they ", "the same, ", "the same;", "same as above")

_WORD = re.compile(r"[A-Za-z]+")
_ENTRY = re.compile(r"(?P<name>[*`\w]+(?:, [*`\w]+)*): *(?P<text>.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """One text and where it stands.

    Attributes:
        place: File and line, or command and flag.
        path: File from the root.
        words: The text itself.
        form: Form of the texts of flags, which is one for all commands; empty for other texts.

    """

    place: str
    path: str
    words: str
    form: Literal["", "flag", "value"] = ""


def unlike_others(words: str, form: str) -> str:
    """Reason why the text of a flag is written unlike those of the others; empty where there is none."""
    if form and words[:1].islower():
        return "begins with a small letter"
    if form and "Default:" in words:
        return "writes 'Default:' instead of 'Default'"
    if form == "value" and not ("Default " in words or "Required" in words):
        return "has no default and is not 'Required'"
    return ""


def problem(words: str) -> str:
    """Reason why a text cannot be read alone; empty if it can."""
    words = " ".join(words.split())
    if not words:
        return "has no text"
    if words[0] in "(,;:":
        return f"begins with {words[0]!r}"
    first = _WORD.match(words)
    if first is not None and first[0].lower() in PREPOSITIONS | CONTINUATIONS:
        return f"begins with {first[0]!r}"
    for phrase in PHRASES:
        if words.lower().startswith(phrase):
            return f"begins with {phrase.strip()!r}"
    return ""


def flag_texts() -> Iterator[Text]:
    """Help of all flags and arguments, and the summaries of all commands."""
    for name, command in cli.known_commands().items():
        path = f"{command.module.replace('.', '/')}.py"
        yield Text(place=f"variant-adapter {name}", path=path, words=command.summary)
        for action in cli.command_parser(name)._actions:  # noqa: SLF001 - argparse has no reader
            if action.help is argparse.SUPPRESS:
                continue
            flag = "/".join(action.option_strings) or str(action.metavar or action.dest)
            place = f"variant-adapter {name} {flag}"
            yield Text(place=place, path=path, words=action.help or "", form=_form(action))


def _form(action: argparse.Action) -> Literal["", "flag", "value"]:
    """What the text of a flag must say: flags with a value say their default too."""
    if isinstance(action, argparse._HelpAction):  # noqa: SLF001 - argparse writes its text
        return ""
    return "value" if action.option_strings and action.nargs != 0 else "flag"


def field_texts(path: Path) -> Iterator[Text]:
    """Entries of `Attributes:`, and docstrings below assignments, of one module."""
    shown = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
    tree = ast.parse(path.read_text(encoding="utf-8"), shown)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef):
            docstring = ast.get_docstring(node, clean=False)
            if docstring is not None:
                for name, words in attributes(docstring):
                    line = getattr(node, "lineno", 1)
                    yield Text(place=f"{shown}:{line}: {name}", path=shown, words=words)
        body = getattr(node, "body", None)
        for assigned, text in itertools.pairwise(body) if isinstance(body, list) else ():
            if (
                isinstance(assigned, ast.Assign | ast.AnnAssign)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            ):
                target = (
                    assigned.targets[0] if isinstance(assigned, ast.Assign) else assigned.target
                )
                yield Text(
                    place=f"{shown}:{text.lineno}: {ast.unparse(target)}",
                    path=shown,
                    words=text.value.value,
                )


def attributes(docstring: str) -> Iterator[tuple[str, str]]:
    """Names and texts of the entries below `Attributes:`."""
    lines = iter(inspect.cleandoc(docstring).splitlines())
    for line in lines:
        if line.strip() == "Attributes:":
            break
    name, words, indent = "", [], -1
    for line in lines:
        if not line.strip():
            continue
        depth = len(line) - len(line.lstrip())
        if depth == 0:
            break
        indent = depth if indent < 0 else indent
        entry = _ENTRY.match(line.strip()) if depth == indent else None
        if entry is None:
            words.append(line.strip())
            continue
        if name:
            yield name, " ".join(words)
        name, words = entry["name"], [entry["text"]]
    if name:
        yield name, " ".join(words)


def main() -> int:
    """Check everything; return the exit status."""
    texts = list(flag_texts())
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            texts.extend(field_texts(path))
    findings = 0
    for text in texts:
        if reason := problem(text.words) or unlike_others(text.words, text.form):
            findings += 1
            print(f"{text.place}: {reason}: {' '.join(text.words.split())[:70]}")
    if findings:
        print(
            f"{findings} texts cannot be read alone; begin them with a noun or a verb",
            file=sys.stderr,
        )
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
