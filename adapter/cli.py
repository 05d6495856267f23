"""The command line `variant-adapter`: finds the command, loads it alone, turns its errors into one line."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points, version

from adapter import errors

PLUGIN_GROUP = "variant_adapter.commands"
"""Entry point group of commands that other packages bring; each names a module and a summary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command before anything of it is loaded.

    Attributes:
        module: dotted name of the module with `register(parser)` and `run(args)`.
        summary: one line for the list of commands.

    """

    module: str
    summary: str


COMMANDS: Mapping[str, Command] = {
    name: Command(module=f"adapter.commands.{name}", summary=summary)
    for name, summary in {
        "serve": "run the external metrics API server and the control loop",
        "explain": "show why a variant has the replicas it has",
        "doctor": "check an installation in a cluster",
        "certs": "check or rotate serving certificates",
        "analyze": "compute how much load one replica can serve",
        "fit": "estimate a performance profile from benchmark results",
        "profile": "print the performance profile of a model on a GPU",
        "plan": "choose accelerators and replicas for a whole fleet",
    }.items()
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status: 0 done, 1 it failed, 2 it was called wrongly."""
    args = parse(sys.argv[1:] if argv is None else argv)
    try:
        return int(args.run(args))
    except errors.AdapterError as error:
        print(f"variant-adapter {args.command}: {error}", file=sys.stderr)  # noqa: T201 - the one place
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output (head, a closed pager) is gone; nothing is left to tell it.
        sys.stderr.close()
        return 141


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; only the module of the command that it names is imported.

    Raises:
        SystemExit: `--help`, `--version`, or a wrong call; argparse has printed what there is to say.

    """
    root, parsers, commands = _parsers()
    # The first word that is no flag is the command: the flags before it take no values.
    name = next((word for word in argv if not word.startswith("-")), "")
    if name in commands:
        importlib.import_module(commands[name].module).register(parsers[name])
    return root.parse_args(argv)


def command_parser(name: str) -> argparse.ArgumentParser:
    """Build the parser of one command, with all its flags.

    Raises:
        KeyError: there is no such command.

    """
    _, parsers, commands = _parsers()
    importlib.import_module(commands[name].module).register(parsers[name])
    return parsers[name]


def known_commands() -> Mapping[str, Command]:
    """Our commands, and those that installed packages bring."""
    plugins = {point.name: Command(**point.load()) for point in entry_points(group=PLUGIN_GROUP)}
    return {**COMMANDS, **plugins}


def _parsers() -> tuple[
    argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser], Mapping[str, Command]
]:
    root = argparse.ArgumentParser(
        prog="variant-adapter",
        description="Optimized replica targets of LLM inference variants, for native HPAs.",
    )
    root.add_argument(
        "--version", action="version", version=f"variant-adapter {version('variant-adapter')}"
    )
    subparsers = root.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands = known_commands()
    parsers = {
        name: subparsers.add_parser(name, help=command.summary)
        for name, command in commands.items()
    }
    return root, parsers, commands
