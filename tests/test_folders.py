"""A folder of tests stands where its package does, or CONTRIBUTING.md says what it is for."""

from __future__ import annotations

import re
from pathlib import Path

from tests.conftest import FIRST

ROOT = Path(__file__).resolve().parents[1]
GENERATED = "__pycache__"


def named(text: str) -> set[str]:
    """Folders that the table of CONTRIBUTING.md has a row of."""
    return set(re.findall(r"^\| `tests/(\w+)` \|", text, re.MULTILINE))


def folders(root: Path) -> set[str]:
    """Folders below `tests`, relative to it."""
    return {
        str(path.relative_to(root / "tests"))
        for path in (root / "tests").rglob("*")
        if path.is_dir() and GENERATED not in path.parts
    }


def test_every_folder_is_that_of_a_package_or_named() -> None:
    """A new folder is not for tests of a package that is elsewhere."""
    apart = named((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    unknown = {
        folder
        for folder in folders(ROOT)
        if folder.partition("/")[0] not in apart and not (ROOT / folder).is_dir()
    }
    assert unknown == set()


def test_named_folders_are_there() -> None:
    """A folder that is gone, or that has become a package, has no row."""
    apart = named((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert apart
    assert {folder for folder in apart if not (ROOT / "tests" / folder).is_dir()} == set()
    assert {folder for folder in apart if (ROOT / folder).is_dir()} == set()


def test_modules_that_are_put_first_are_there() -> None:
    """One that is renamed keeps its place in the order."""
    assert len(set(FIRST)) == len(FIRST)
    assert [name for name in FIRST if not (ROOT / "tests" / f"{name}.py").is_file()] == []
