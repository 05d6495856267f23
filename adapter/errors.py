"""Errors that a user can fix, as one tree.

* AdapterError
  + UsageError: wrong arguments of a command; exit status 2
  + InputError: unusable contents of a file or object; names file, object and field
  + StartupError: the server cannot start: port in use, certificate unreadable, folder missing

Each message names what is wrong and the fix. `cli.main` prints it as one line.
"""

from __future__ import annotations


class AdapterError(Exception):
    """Base of all errors that a user can fix."""

    exit_status = 1


class UsageError(AdapterError):
    """The arguments of a command are wrong."""

    exit_status = 2


class InputError(AdapterError):
    """The contents of a file or object are unusable."""


class StartupError(AdapterError):
    """The server cannot start."""
