"""The command line `variant-adapter`: loads only the command that is called, prints errors as one line."""

from __future__ import annotations

import argparse
import contextlib
import errno
import gc
import importlib
import io
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from adapter import errors
from adapter.logs import printable

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""Errors of a write that is correct: the disk is full, over its quota, or broken."""

PLUGIN_GROUP = "variant_adapter.commands"
"""Entry point group of commands of other packages; each names a module and a summary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command before anything of it is loaded.

    Attributes:
        module: Dotted name of the module with `register(parser)` and `run(args)`.
        summary: One line for the list of commands.

    """

    module: str
    summary: str


_PLACES = {"compare": "comparison.compare", "top": "views.top", "ui": "views.ui"}
"""Modules of commands that have a package of their own."""

COMMANDS: Mapping[str, Command] = {
    name: Command(module=f"adapter.commands.{_PLACES.get(name, name)}", summary=summary)
    for name, summary in {
        "serve": "Run the external metrics API server and the control loop",
        "explain": "Show why a variant has the replicas that it has",
        "top": "Show the fleet as a table in the terminal",
        "ui": "Open the page of the fleet in the browser",
        "compare": "Compare the present autoscaler with this adapter's decisions",
        "doctor": "Check an installation in a cluster",
        "certs": "Show or rotate serving certificates",
        "analyze": "Compute how much load one replica can serve",
        "fit": "Estimate a performance profile from benchmark results",
        "profile": "Print the performance profile of a model on a GPU",
        "plan": "Choose accelerators and replicas for a whole fleet",
        "record": "Write the request history of a model to a trace that replay reads",
    }.items()
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status: 0 done, 1 it failed, 2 it was called wrongly, 130 Ctrl-C."""
    # We have no plug-ins of pydantic; to look for some, it reads the metadata of every installed package.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # What loads stays until the end: with Python's default thresholds a tenth of the CPU time of `doctor`
    # goes to searching it for cycles. `serve` chooses thresholds of its own once it has loaded everything.
    gc.set_threshold(100_000, 20, 50)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name or a sign that the terminal's encoding lacks is no reason to print nothing.
            stream.reconfigure(errors="backslashreplace")
    try:
        return _run(parse(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        # Also while a command's modules load, which takes seconds on a busy machine.
        return 130


def _run(args: argparse.Namespace) -> int:
    """Run a command that was called correctly; return its exit status."""
    try:
        status = int(args.run(args))
        # What is written at exit instead would end in a message of the interpreter.
        if sys.stdout is not None:
            sys.stdout.flush()
    except errors.AdapterError as error:
        message = printable(str(error), keep="\n\t")
        print(f"variant-adapter {args.command}: {message}", file=sys.stderr)  # noqa: T201 - the one place
        return error.exit_status
    except BrokenPipeError:
        # The reader of our output (head, a closed pager) is gone, so no message would be read.
        _discard_output()
        sys.stderr.close()
        return 141
    except OSError as error:
        if error.errno not in _FULL:
            raise
        _discard_output()
        message = f"variant-adapter {args.command}: output cannot be written: {error.strerror}"
        print(message, file=sys.stderr)  # noqa: T201 - the one place
        return 1
    return status


def _discard_output() -> None:
    """Let the interpreter's last write of standard output, which would fail again, go nowhere."""
    with open(os.devnull, "wb") as nowhere, contextlib.suppress(OSError, ValueError):  # noqa: PTH123
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; only the module of the command that it names is imported.

    Raises:
        SystemExit: `--help`, `--version`, or a wrong call; argparse has printed what there is to say.

    """
    # The first word that is no flag is the command: the flags before it take no values.
    name = next((word for word in argv if not word.startswith("-")), "")
    # Looking for plug-ins takes as long as everything else that a built-in command needs to start.
    commands = COMMANDS if name in COMMANDS else known_commands()
    root, parsers = _parsers(commands)
    if name and name not in commands:
        root.error(_unknown_command(name, commands))
    if name in commands:
        importlib.import_module(commands[name].module).register(parsers[name])
    args, unknown = root.parse_known_args(argv)
    if unknown:
        parser = parsers.get(name, root)
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{_hint(parser, unknown)}")
    return args


def _unknown_command(name: str, commands: Mapping[str, Command]) -> str:
    # Needed after a mistake only.
    import difflib  # noqa: PLC0415

    near = difflib.get_close_matches(name, commands, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"COMMAND must be one of {', '.join(commands)}, not {name!r}{hint}"


def _hint(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> str:
    """The flags nearest to those that are unknown."""
    # Needed after a mistake only.
    import difflib  # noqa: PLC0415

    known = [flag for action in parser._actions for flag in action.option_strings]  # noqa: SLF001 - has no reader
    near: dict[str, None] = {}
    for word in unknown:
        if word.startswith("--"):
            flag = word.partition("=")[0]
            near |= dict.fromkeys(difflib.get_close_matches(flag, known, n=2, cutoff=0.75))
    return f"; did you mean {' or '.join(near)}?" if near else ""


def command_parser(name: str) -> argparse.ArgumentParser:
    """Build the parser of one command, with all its flags.

    Raises:
        KeyError: there is no such command.

    """
    commands = known_commands()
    _, parsers = _parsers(commands)
    importlib.import_module(commands[name].module).register(parsers[name])
    return parsers[name]


def known_commands() -> Mapping[str, Command]:
    """Our commands, and those of installed packages."""
    from importlib.metadata import entry_points  # noqa: PLC0415 - see `parse`

    plugins = {point.name: Command(**point.load()) for point in entry_points(group=PLUGIN_GROUP)}
    return {**COMMANDS, **plugins}


_STATUSES = "Exit status: 0 done, 1 failed, 2 called wrongly, 130 interrupted by Ctrl-C."


class _Help(argparse.HelpFormatter):
    """Help in which names such as --tls-cert-file are never broken, so that they can be copied and found."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return _wrapped(text, width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = _wrapped(text, width - len(indent))
        return "\n".join(indent + line for line in lines)


def _wrapped(text: str, width: int) -> list[str]:
    # Needed for help only.
    import textwrap  # noqa: PLC0415

    return textwrap.wrap(
        " ".join(text.split()), width, break_on_hyphens=False, break_long_words=False
    )


class _Parser(argparse.ArgumentParser):
    """A parser whose error is one line: the usage of a command with many flags would hide it.

    A value such as -5s is a value, so that the error says what it must be, and not that there is none.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.formatter_class = _Help
        self.epilog = _STATUSES
        self._negative_number_matcher = re.compile(r"-\.?[0-9]")

    def error(self, message: str) -> NoReturn:
        """Print the message and how to get help; exit with status 2."""
        self.exit(2, f"{self.prog}: {message}\nRun `{self.prog} --help` for usage.\n")


class _Version(argparse.Action):
    """`--version`; the package metadata is read only when the flag is given."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version  # noqa: PLC0415 - see `parse`

        parser.exit(message=f"variant-adapter {version('variant-adapter')}\n")


def _parsers(
    commands: Mapping[str, Command],
) -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    root = _Parser(
        prog="variant-adapter",
        description="Sizes LLM inference variants and serves desired replicas to HorizontalPodAutoscalers.",
    )
    root.add_argument(
        "--version",
        action=_Version,
        nargs=0,
        default=argparse.SUPPRESS,
        help="Print the version and exit",
    )
    subparsers = root.add_subparsers(dest="command", metavar="COMMAND", required=True)
    parsers = {
        name: subparsers.add_parser(name, help=command.summary)
        for name, command in commands.items()
    }
    return root, parsers
