"""Find modules, functions, classes and packages that outgrew their limits.

Prints one line per finding; the exit status is 1 if there is one. Lines of functions and
classes are counted from `def` or `class` to the end, with docstrings and comments but without decorators:
the table of a parametrized test may be long.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

FOLDERS = ("adapter", "analyzer", "optimizer", "certs", "emulator", "bench", "scripts", "tests")

MODULE_LINES = 400
TEST_LINES = 450
FUNCTION_LINES = 60
CLASS_LINES = 220
PACKAGE_MODULES = 17
ADAPTER_PACKAGE_MODULES = 13
ADAPTER_TOP_MODULES = 10


def module_findings(shown: str, source: str) -> Iterator[str]:
    """Findings within one module; `shown` is its path from the root."""
    lines = len(source.splitlines())
    most = TEST_LINES if shown.startswith("tests/") else MODULE_LINES
    if lines > most:
        yield f"{shown}: module of {lines} lines, at most {most}"
    for node in ast.walk(ast.parse(source, shown)):
        if isinstance(node, ast.ClassDef):
            kind, most = "class", CLASS_LINES
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            kind, most = "function", FUNCTION_LINES
        else:
            continue
        size = (node.end_lineno or node.lineno) - node.lineno + 1
        if size > most:
            yield f"{shown}:{node.lineno}: {kind} {node.name} of {size} lines, at most {most}"


def folder_findings(paths: list[str]) -> Iterator[str]:
    """Packages with too many modules; `paths` are those of all modules from the root."""
    sizes = Counter(path.rpartition("/")[0] for path in paths)
    for folder, size in sorted(sizes.items()):
        if folder == "adapter":
            most = ADAPTER_TOP_MODULES
        elif folder.startswith("adapter/"):
            most = ADAPTER_PACKAGE_MODULES
        else:
            most = PACKAGE_MODULES
        if size > most:
            yield f"{folder}/: {size} modules, at most {most}"


def findings(root: Path) -> Iterator[str]:
    """All findings below a root folder."""
    paths = sorted(
        path.relative_to(root).as_posix()
        for folder in FOLDERS
        for path in (root / folder).rglob("*.py")
    )
    for path in paths:
        yield from module_findings(path, (root / path).read_text(encoding="utf-8"))
    yield from folder_findings(paths)


def main(root: Path = ROOT) -> int:
    """Check everything; return the exit status."""
    violations = list(findings(root))
    for finding in violations:
        print(finding)
    if violations:
        print(f"{len(violations)} sizes beyond their limits; split them", file=sys.stderr)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
