"""The command line `variant-adapter`: finds the command, runs it, turns its errors into one line."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import version

from adapter import errors

COMMANDS = ("serve", "explain", "doctor", "certs", "demo", "analyze", "fit", "plan", "replay")


def parser() -> argparse.ArgumentParser:
    """Build the whole command line, every command's flags included."""
    root = argparse.ArgumentParser(
        prog="variant-adapter",
        description="Optimized replica targets of LLM inference variants, for native HPAs.",
    )
    root.add_argument(
        "--version", action="version", version=f"variant-adapter {version('variant-adapter')}"
    )
    subparsers = root.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        importlib.import_module(f"adapter.commands.{name}").register(subparsers)
    return root


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status: 0 done, 1 it failed, 2 it was called wrongly."""
    args = parser().parse_args(argv)
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
