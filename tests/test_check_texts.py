"""The checker of texts of flags and fields: what it flags, and where it looks."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "check_texts.py"


@pytest.fixture(scope="module")
def checker() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("check_texts", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_texts"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "words",
    [
        "of a target (5m)",
        "that fewer replicas must have been enough",
        "Between looks at them.",
        "per request, mean",
        "whether it is on",
        "and what each request adds",
        "(0.1)",
        "To look there too",
        "\n  ",
    ],
)
def test_fragments_are_flagged(checker: ModuleType, words: str) -> None:
    """A text that continues its name, or that is missing."""
    assert checker.problem(words)


@pytest.mark.parametrize(
    "words",
    [
        "How long a published target stays valid",
        "Seconds between two scrapes",
        "Whether a rising trend is extrapolated",
        "Offset of the first byte",
        "Information for clients",
        "`POST` body",
        "95th percentile",
        "Forward requests",
    ],
)
def test_sentences_are_not(checker: ModuleType, words: str) -> None:
    """A word that only begins like a preposition is none."""
    assert not checker.problem(words)


@pytest.mark.parametrize(
    ("words", "form"),
    [
        ("folder to write. Default out", "flag"),
        ("Folder to write. Default: out", "flag"),
        ("Folder to write", "value"),
    ],
)
def test_flags_are_written_alike(checker: ModuleType, words: str, form: str) -> None:
    """A flag's text begins with a capital, and says its default or that it is required; others need not."""
    assert checker.unlike_others(words, form)
    assert not checker.unlike_others(words, "")


@pytest.mark.parametrize("words", ["Folder to write. Default out", "Folder to write. Required"])
def test_flags_as_they_should_be(checker: ModuleType, words: str) -> None:
    """Both forms of a whole text."""
    assert not checker.unlike_others(words, "value")


def test_fields_are_found(checker: ModuleType, tmp_path: Path) -> None:
    """Entries with their continuation lines, and docstrings below assignments, in classes and modules."""
    path = tmp_path / "module.py"
    path.write_text(
        '''
LIMIT = 3
"""Of something."""


class Thing:
    """A thing.

    Attributes:
        first: Name of
            the first: one.
        second, third: of both.

    More text: of no entry.
    """

    fourth: int = 1
    """For the fourth."""

    def method(self) -> None:
        """Of a method: not looked at."""
'''
    )
    texts = {text.place.rpartition(": ")[2]: text.words for text in checker.field_texts(path)}
    assert texts == {
        "LIMIT": "Of something.",
        "first": "Name of the first: one.",
        "second, third": "of both.",
        "fourth": "For the fourth.",
    }


def test_every_command_is_looked_at(checker: ModuleType) -> None:
    """Plug-ins, too."""
    places = {text.place for text in checker.flag_texts()}
    assert "variant-adapter serve --interval" in places
    assert "variant-adapter replay" in places
    assert any(place.startswith("variant-adapter demo --") for place in places)


def test_all_texts_can_be_read_alone(
    checker: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `make lint` checks."""
    assert checker.main() == 0, capsys.readouterr().out
