"""Settings that may change while the adapter runs: flags over the ConfigMap over the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import structlog

from adapter.app.options import ServeOptions
from adapter.app.prometheus import prometheus_options
from adapter.controller.loop import ControlLoop
from adapter.resources.inputs import Inputs
from adapter.settings.control import Prometheus, Reconciling
from adapter.settings.declaration import resolve
from adapter.settings.groups import by_key

log = structlog.get_logger()


class Configuration:
    """Values in use of the settings that the ConfigMap may change.

    A value of the ConfigMap that cannot be used leaves the one before in use; `Contents.problems` says so.
    """

    def __init__(self, options: ServeOptions, environment: Mapping[str, str]) -> None:
        self._options = options
        self._environment = environment
        self._reconciling: Reconciling | None = None
        self._prometheus: Prometheus | None = None
        for variable, error in environment_problems(environment).items():
            log.warning(
                "environment variable not usable; it is ignored", variable=variable, error=error
            )

    def apply(self, loop: ControlLoop, contents: Inputs) -> None:
        """Let the loop work with what flags, the ConfigMap of these contents and the environment say."""
        options = self._options
        self._reconciling = resolve(
            Reconciling,
            {"interval": options.interval, "scale_to_zero": options.scale_to_zero},
            config=contents.config,
            environment=self._environment,
            previous=self._reconciling,
        )
        self._prometheus = resolve(
            Prometheus,
            options.prometheus,
            config=contents.config,
            environment=self._environment,
            previous=self._prometheus,
        )
        loop.apply_settings(
            replace(
                options.loop,
                interval=self._reconciling.interval,
                scale_to_zero=self._reconciling.scale_to_zero,
            )
        )
        loop.connect_prometheus(prometheus_options(self._prometheus))


def environment_problems(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables whose values cannot be used, with what is accepted."""
    problems = {}
    for key, item in by_key().items():
        text = environment.get(key, "").strip()
        if not text:
            continue
        try:
            item.parse(text)
        except ValueError as error:
            problems[key] = str(error)
    return problems
