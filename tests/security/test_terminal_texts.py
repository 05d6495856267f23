"""What tenants write into objects and pages neither steers the terminal of who reads it, nor fakes a line."""

from __future__ import annotations

import ast
import io
import json
import sys
from pathlib import Path

import pytest
import structlog

from adapter import cli, errors, logs
from adapter.commands import doctor
from adapter.commands.views import leader
from adapter.diagnostics.site import Finding
from tests.adapter.commands import test_plan_rows

EVIL = "m\x1b[2J\x9b1A\u202e\r\n  held back     nothing\x07\x7f"


def shown(text: str) -> bool:
    """Whether every character of every line can be seen."""
    return all(line.isprintable() for line in text.split("\n"))


REFUSED = {"namespace": "n", "name": "x", "outcome": "InvalidConfiguration", "problem": EVIL}


@pytest.mark.parametrize("words", [("explain", "n/x"), ("explain",), ("top",)])
def test_views_show_what_they_cannot_print(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts with escape sequences and ends of lines stay in their line, escaped."""
    whole = {"variants": [{**REFUSED, "name": EVIL}]}
    document = REFUSED if len(words) > 1 else whole
    monkeypatch.setattr(leader, "document", lambda *_: document)
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "\\x1b[2J" in said
    assert shown(said)
    assert "\n  held back     nothing" not in said


def test_the_doctor_shows_what_it_cannot_print(capsys: pytest.CaptureFixture[str]) -> None:
    """A finding is one line, and so is its fix."""
    doctor._print(Finding("error", EVIL, EVIL))
    said = capsys.readouterr().out
    assert shown(said)
    assert said.count("\n") == 2


def test_errors_of_commands_show_what_they_cannot_print(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message of an error may quote an object."""

    def fails(_: object) -> int:
        raise errors.InputError(EVIL)

    monkeypatch.setattr("adapter.commands.explain.run", fails)
    assert cli.main(["explain"]) == 1
    assert shown(capsys.readouterr().err)


def test_lines_of_a_log_show_what_they_cannot_print(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the readable form as in JSON, also in the text of an exception."""
    before = structlog.get_config()
    try:
        for style in ("text", "json"):
            written = io.StringIO()
            monkeypatch.setattr(sys, "stderr", written)
            logs.configure("text" if style == "text" else "json")
            log = structlog.get_logger()
            log.warning("not read", model=EVIL, name="x\x1b[2J", right="\u202e")
            log.error("failed", exc_info=ValueError(EVIL))
            assert shown(written.getvalue()), style
            assert "held back" in written.getvalue()
    finally:
        structlog.configure(**before)


ROOT = Path(__file__).resolve().parents[2]

ESCAPED = frozenset({"printable", "dumps", "safe_dump", "sub"})
"""Functions whose results have no characters that steer a terminal; `sub`: of what rich has drawn."""

SHOWN = frozenset({"grid", "answer", "message"})
"""Names of a table of texts, of an answer in JSON, and of what `cli.main` has escaped."""


def _is_escaped(value: ast.expr) -> bool:
    if isinstance(value, ast.Call):
        called = value.func
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        return name in ESCAPED
    if isinstance(value, ast.JoinedStr):
        # What is counted, or the name of a file that the caller gave.
        parts = [part for part in value.values if isinstance(part, ast.FormattedValue)]
        known = ("_counted(", "MARKS[", "printable(", "args.", "message")
        return all(ast.unparse(part.value).startswith(known) for part in parts)
    return isinstance(value, ast.Constant) or getattr(value, "id", "") in SHOWN


@pytest.mark.parametrize(
    "path", sorted(map(str, [*(ROOT / "adapter/commands").rglob("*.py"), ROOT / "adapter/cli.py"]))
)
def test_commands_print_nothing_that_is_not_escaped(path: str) -> None:
    """A new line of output that quotes an object goes through `printable`, or is JSON."""
    for node in ast.walk(ast.parse(Path(path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
            for value in node.args:
                assert _is_escaped(value), f"{path}:{node.lineno}: {ast.unparse(node)}"


def test_a_plan_shows_what_it_cannot_print(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names of variants that were exported from a cluster, in a plan and in what is set aside."""
    document = {
        **test_plan_rows.fleet(),
        "groups": [],
        "variants": [
            {**test_plan_rows.LOAD, "name": EVIL},
            {**test_plan_rows.LOAD, "name": f"no {EVIL}", "model": EVIL},
        ],
    }
    path = tmp_path / "fleet.json"
    path.write_text(json.dumps(document))
    assert cli.main(["plan", "-f", str(path), "--explain"]) == 0
    said = capsys.readouterr()
    assert "set aside: no m\\x1b[2J" in said.out
    assert shown(said.out + said.err)
    assert "\n  held back" not in said.out
