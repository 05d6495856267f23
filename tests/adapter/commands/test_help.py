"""Help of the commands: every flag has a text, and the default in it is the default that works."""

from __future__ import annotations

import argparse
import re
from typing import Any

import pytest

from adapter import cli
from adapter.formats import cases, fleet_parts, step_cases

MACHINE = {"kubeconfig"}
"""Defaults that depend on the machine: help names where they come from."""


def flags(name: str) -> list[argparse.Action]:
    actions = cli.command_parser(name)._actions
    return [action for action in actions if not isinstance(action, argparse._HelpAction)]


def text(action: argparse.Action) -> str:
    """Help as argparse shows it."""
    return (action.help or "") % vars(action)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_value_has_its_default_in_its_help(name: str) -> None:
    """Or says that it must be given; the default that argparse knows is the one that is shown."""
    for action in flags(name):
        shown = text(action)
        assert shown, action
        assert shown[0].isupper(), shown
        if action.nargs == 0:
            continue  # `--json` has no value
        positional = not action.option_strings
        if not positional:
            assert "Default" in shown or "Required" in shown, shown
        if action.default not in (None, [], False) and action.dest not in MACHINE:
            assert f"Default {action.default}" in shown


def states_default(shown: str, default: str) -> bool:
    """Whether help names it; that of a file may come before, and the unit of a duration after."""
    return bool(re.search(rf"Default (that of the file, else )?{re.escape(default)}s?\b", shown))


def numbers(model: Any, name: str) -> list[tuple[str, str, object]]:
    """Flag, help and the default of the field that the flag fills."""
    return [
        (action.option_strings[0], text(action), model.model_fields[action.dest].default)
        for action in flags(name)
        if action.dest in model.model_fields
    ]


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (cases.Case, "analyze"),
        (step_cases.StepCase, "analyze"),
        (fleet_parts.SettingsPart, "plan"),
    ],
)
def test_defaults_that_a_document_has_are_those_of_the_help(model: Any, name: str) -> None:
    """The flags leave them to the document's schema."""
    checked = 0
    for flag, shown, default in numbers(model, name):
        if isinstance(default, bool):
            assert states_default(shown, "on" if default else "off"), flag
        elif isinstance(default, int | float):
            assert states_default(shown, f"{default:g}"), flag
        elif isinstance(default, str):
            assert states_default(shown, default), flag
        elif default is None:
            # These two say what holds where they are not given: it depends on the profile.
            assert "Default none" in shown or flag in {"--max-queue", "--stability-margin"}, flag
        else:
            assert shown.endswith("Required"), flag
        checked += 1
    assert checked > 4


@pytest.mark.parametrize("width", ["60", "100"])
@pytest.mark.parametrize("name", cli.COMMANDS)
def test_names_are_not_broken(name: str, width: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag that a text names stands whole in one line, at any width; exit statuses are the last words."""
    monkeypatch.setenv("COLUMNS", width)
    parser = cli.command_parser(name)
    shown = parser.format_help()
    assert [line for line in shown.splitlines() if re.search(r"\w-$", line)] == []
    assert " ".join(shown.split()).endswith("2 called wrongly, 130 interrupted by Ctrl-C.")
