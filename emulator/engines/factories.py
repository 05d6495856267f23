"""Engines by the name that a scenario gives: `module:factory` for other people's."""

from __future__ import annotations

import importlib

from emulator.engines.protocol import EngineFactory


def load_factory(name: str) -> EngineFactory:
    """The factory that `module:factory` names.

    Raises:
        ValueError: for a name of another form, a module that cannot be imported, or one without it.

    """
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise ValueError(f"engine: must be module:factory, not {name!r}")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"engine: cannot import {module_name!r}: {error}") from error
    factory: EngineFactory | None = getattr(module, attribute, None)
    if not callable(factory):
        problem = f"engine: module {module_name!r} has no function {attribute!r}"
        raise ValueError(problem)  # noqa: TRY004 - of the name, not of a type
    return factory
