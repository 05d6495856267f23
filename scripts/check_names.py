"""Find names that say how a value was come by, or who looked at it, instead of what it is.

`found` and its like are names for anything: a reader needs the line above to know what they hold. Checked are
the names of variables, parameters, attributes, functions, classes, modules and import aliases of every Python
file of the repository. Prints file, line and what to do; the exit status is 1 if there is a finding.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

FOLDERS = (
    "adapter", "analyzer", "optimizer", "certs", "emulator", "bench", "manifests", "scripts", "tests",
)  # fmt: skip

WORDS = {
    "found": "name the thing itself, as solution, plan, document, response",
    "judge": "say assess or check",
    "judged": "say assessed or checked",
    "looked": "name the thing itself, as observation or variant",
    "news": "name the change or the event",
    "steadied": "say applied or stabilized",
    "steadying": "say stabilizer",
    "surprised": "say what is exceeded, as exceeds_forecast",
}
"""Refused as any name, in any case and with any underscores or digits around it; each with what to do."""

CLASSES = {
    "asked": "name what is asked for, as Requirements or Selection",
    "gate": "name the server or the condition that it stands for",
    "kept": "name what is kept, as ResultsFolder or CertificateState",
    "place": "name what is at it, as ModelKey or ProductOnNode",
    "refusal": "name what was refused, as InvalidVariant",
    "steady": "say SteadyState",
    "verdict": "say Assessment or Decision",
}
"""Refused as the name of a class or of another type, beside `WORDS`."""


def defined(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """Line, kind and name of everything that a module gives a name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield node.lineno, "class", node.name
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, "function", node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, "variable", node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, "attribute", node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, "parameter", node.arg
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            yield node.lineno, "variable", node.name
        elif isinstance(node, ast.MatchMapping) and node.rest:
            yield node.lineno, "variable", node.rest
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                if alias.asname:
                    yield node.lineno, "import", alias.asname


def advice(kind: str, name: str) -> str:
    """What to do about a name; empty where it may stand."""
    word = name.strip("_0123456789")
    # A type begins with one capital letter: a constant in capitals, as KEPT, is none.
    is_type = kind == "class" or (kind == "variable" and word[:1].isupper() and word[1:].islower())
    word = word.lower()
    return WORDS.get(word) or (CLASSES.get(word, "") if is_type else "")


def module_findings(shown: str, source: str) -> Iterator[str]:
    """Findings within one module; `shown` is its path from the root."""
    path = Path(shown)
    names = [(1, "module", path.parent.name if path.stem == "__init__" else path.stem)]
    for line, kind, name in [*names, *sorted(defined(ast.parse(source, shown)))]:
        if problem := advice(kind, name):
            yield f"{shown}:{line}: {kind} {name}: {problem}"


def findings(root: Path) -> Iterator[str]:
    """All findings below a root folder."""
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            shown = path.relative_to(root).as_posix()
            yield from module_findings(shown, path.read_text(encoding="utf-8"))


def main(root: Path = ROOT) -> int:
    """Check everything; return the exit status."""
    problems = list(findings(root))
    for problem in problems:
        print(problem)
    if problems:
        print(
            f"{len(problems)} names that say nothing; rename each to the thing that it is",
            file=sys.stderr,
        )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
