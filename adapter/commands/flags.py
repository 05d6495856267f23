"""Flags made of declared settings, and argument types for the flags of other commands."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from adapter.settings import kinds
from adapter.settings.declaration import Declaration, declarations

Value = TypeVar("Value")


def add(
    command: argparse.ArgumentParser,
    *groups: type[Any],
    config_map: bool = True,
    defaults: Mapping[str, str] | None = None,
) -> None:
    """Add the flags of groups of settings, each under the group's title.

    A flag that is not given is None (or an empty list) in the parsed arguments, so that `resolve` can tell.

    Args:
        command: Parser of the command.
        groups: Classes of the groups.
        config_map: Whether the command reads the adapter's ConfigMap, which help then names.
        defaults: Defaults that help shows instead of the declared ones, by field; for what the command does
            without a value.

    """
    for group in groups:
        section = command.add_argument_group(group.TITLE)
        exclusive: dict[str, argparse._MutuallyExclusiveGroup] = {}
        for item in declarations(group):
            if not item.flag:
                continue
            target: argparse._ActionsContainer = section
            if item.exclusive:
                if item.exclusive not in exclusive:
                    exclusive[item.exclusive] = section.add_mutually_exclusive_group()
                target = exclusive[item.exclusive]
            target.add_argument(
                item.flag,
                dest=item.name,
                help=_help(item, config_map=config_map, defaults=defaults or {}),
                **_form(item),
            )


def add_name(command: argparse.ArgumentParser, flag: str, default: str, text: str) -> None:
    """Add a flag that takes the name of a Kubernetes object; `text`: what it names, without its default."""
    command.add_argument(
        flag, type=dns_name, default=default, metavar="NAME", help=f"{text}. Default %(default)s"
    )


def argument(parse: Callable[[str], Value]) -> Callable[[str], Value]:
    """Make a parser that raises `ValueError` an argument type whose message reaches the user."""

    def typed(text: str) -> Value:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return typed


def path(text: str) -> Path:
    """A path for argparse; an empty one would be the present folder.

    Raises:
        argparse.ArgumentTypeError: it is empty, as an unset variable of a shell is.

    """
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return Path(text)


def input_path(text: str) -> Path:
    """A path of a file to read once, for argparse; `-` is standard input.

    Raises:
        argparse.ArgumentTypeError: it is empty.

    """
    return Path("/dev/stdin") if text == "-" else path(text)


class Once(argparse.Action):
    """Takes a value that may be given once only: of two files the last would count without a word."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002 - as argparse calls it
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,  # noqa: ARG002
    ) -> None:
        """Store the value; raises ArgumentError for a second one."""
        if getattr(namespace, self.dest) is not self.default:
            raise argparse.ArgumentError(self, "given twice; name one file")
        setattr(namespace, self.dest, values)


def choice(*choices: str) -> dict[str, Any]:
    """One of some texts, as argparse takes it; unlike argparse's own, its error is written as all others."""
    kind = kinds.choice(*choices)
    return {"type": argument(kind.parse), "metavar": "{" + ",".join(choices) + "}"}


seconds = argument(kinds.seconds)
count = argument(kinds.count)
share = argument(kinds.share)
port = argument(kinds.port)
url = argument(kinds.url)
dns_name = argument(kinds.name)
dns_label = argument(kinds.label)
not_empty = argument(kinds.not_empty)


def _help(item: Declaration, *, config_map: bool, defaults: Mapping[str, str]) -> str:
    """Help of a flag, as argparse takes it."""
    text = item.described(default=defaults.get(item.name, ""), config_map=config_map)
    return text.replace("%", "%%")


def _form(item: Declaration) -> dict[str, Any]:
    """How argparse takes a value of this kind."""
    kind = item.kind
    if kind.form == "switch":
        return {"action": argparse.BooleanOptionalAction, "default": None}
    if kind.form == "enable":
        return {"action": "store_const", "const": True}
    if kind.form == "choice":
        # With the item's parser: its error names the other spellings.
        return {**choice(*kind.choices), "type": argument(item.parse)}
    if kind.form == "repeated":
        return {
            "action": "extend",
            "type": argument(item.parse),
            "metavar": kind.metavar,
            "default": None,
        }
    return {"type": argument(item.parse), "metavar": kind.metavar}
