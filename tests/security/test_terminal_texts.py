"""What tenants write into objects and pages neither steers the terminal of who reads it, nor fakes a line."""

from __future__ import annotations

import io
import sys

import pytest
import structlog

from adapter import cli, errors, logs
from adapter.commands import doctor
from adapter.commands.views import leader
from adapter.diagnostics.site import Finding

EVIL = "m\x1b[2J\x9b1A\u202e\r\n  held back     nothing\x07"


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
