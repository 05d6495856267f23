"""The table of what holds names tests that exist, and every module of them."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).parent / "security"
TABLE = (FOLDER / "README.md").read_text(encoding="utf-8")
CHAOS = (FOLDER.parents[1] / "bench/resilience/chaos.py").read_text(encoding="utf-8")


def test_tests_and_faults_that_the_table_names_exist() -> None:
    """Each as a function of the module beside its name."""
    named = re.findall(r"`([\w/.]+\.py)::(\w+)`", TABLE)
    assert named
    for module, name in named:
        source = (FOLDER / module).read_text(encoding="utf-8")
        assert re.search(rf"^(async )?def {name}\(", source, re.MULTILINE), f"{module}::{name}"
    for name in re.findall(r"chaos `([\w-]+)`", TABLE):
        assert f"def {name.replace('-', '_')}(" in CHAOS, name


def test_every_module_is_in_the_table() -> None:
    """A new one has a row, or stands in one."""
    modules = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("test_*.py")}
    assert modules <= set(re.findall(r"`([\w/.]+\.py)::", TABLE))
