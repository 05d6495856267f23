"""The checker of names: each kind of name that it refuses, and those that it lets stand."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "check_names.py"


@pytest.fixture(scope="module")
def checker() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("check_names", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("found = 1", "variable found"),
        ("x: int\nfound: int", "variable found"),
        ("x = [found for found in ()]", "variable found"),
        ("if (found2 := 1): pass", "variable found2"),
        ("with open('x') as found: pass", "variable found"),
        ("try: pass\nexcept OSError as found: pass", "variable found"),
        ("match x:\n    case [*found]: pass", "variable found"),
        ("match x:\n    case {**found}: pass", "variable found"),
        ("match x:\n    case found: pass", "variable found"),
        ("self._found = 1", "attribute _found"),
        ("def f(a, /, *, found=None): ...", "parameter found"),
        ("def f(*found): ...", "parameter found"),
        ("x = lambda found: 1", "parameter found"),
        ("async def found(): ...", "function found"),
        ("class C:\n    def judge(self): ...", "function judge"),
        ("class Found: ...", "class Found"),
        ("import x as found", "import found"),
        ("FOUND = 1", "variable FOUND"),
        ("class _Kept: ...", "class _Kept"),
        ("Place = tuple[str, str]", "variable Place"),
    ],
)
def test_names_for_anything_are_refused(checker: ModuleType, source: str, kind: str) -> None:
    """Wherever a name is given: file, line, kind, name, and what to do."""
    (finding,) = checker.module_findings("adapter/a.py", source)
    line = source.count("\n", 0, source.rfind(kind.partition(" ")[2])) + 1
    place, _, rest = finding.partition(": ")
    assert place == f"adapter/a.py:{line}"
    name, _, advice = rest.partition(": ")
    assert name == kind
    assert advice.startswith(("name ", "say "))


@pytest.mark.parametrize(
    "source",
    [
        "not_found = foundation = 1",
        "status = response.found",  # a name that others gave
        "f(found=1)",
        "kept, place, steady = 1, 2, 3",
        "KEPT = 50",
        "text = 'found'",
    ],
)
def test_other_names_stand(checker: ModuleType, source: str) -> None:
    """Words that only contain one, uses of foreign names, and words that are refused as types only."""
    assert not list(checker.module_findings("adapter/a.py", source))


@pytest.mark.parametrize("path", ["adapter/found.py", "adapter/found/__init__.py"])
def test_modules_have_names_too(checker: ModuleType, path: str) -> None:
    """A module by its file, a package by its folder."""
    (finding,) = checker.module_findings(path, "")
    assert finding.startswith(f"{path}:1: module found: name ")


def test_a_finding_fails(
    checker: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status and what is printed, for `make lint`."""
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "x.py").write_text("value = 1\n")
    assert checker.main(tmp_path) == 0
    (tmp_path / "bench" / "x.py").write_text("found = 1\n")
    assert checker.main(tmp_path) == 1
    printed = capsys.readouterr()
    assert printed.out.startswith("bench/x.py:1: variable found: ")
    assert printed.err.startswith("1 names that say nothing")


def test_every_folder_is_looked_at(checker: ModuleType) -> None:
    """No folder with Python files is left out, so that `make lint` sees all of them."""
    folders = {
        folder.name
        for folder in ROOT.iterdir()
        if folder.is_dir() and not folder.name.startswith(".") and any(folder.rglob("*.py"))
    }
    assert folders - {"build", "dist", "venv"} <= set(checker.FOLDERS)
