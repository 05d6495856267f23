"""What can go wrong outside of HTTP, as one tree.

* AdapterError
  + UsageError: the command was called wrongly; exit status 2
  + InputError: a file or object holds something unusable; names file, object and field
  + StartupError: the server cannot start: port in use, certificate unreadable, folder missing

Each message names the thing and the fix. `cli.main` prints it as one line.
"""

from __future__ import annotations


class AdapterError(Exception):
    """Base of all errors that a user can mend."""

    exit_status = 1


class UsageError(AdapterError):
    """The command was called wrongly."""

    exit_status = 2


class InputError(AdapterError):
    """A file or object holds something unusable."""


class StartupError(AdapterError):
    """The server cannot start."""
