"""What the ConfigMap and the environment add to flags."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from adapter.app.options import PrometheusFlags, ServeOptions
from adapter.collector.prometheus import PrometheusOptions
from adapter.controller.loop import ControlLoop
from adapter.controller.settings import LoopSettings
from adapter.kube import duration
from adapter.resources import inputs

log = structlog.get_logger()


def use_config(loop: ControlLoop, options: ServeOptions, found: inputs.Contents) -> None:
    """Let the loop work as flags and ConfigMap say."""
    loop.apply_settings(loop_settings(options, found))
    loop.connect_prometheus(prometheus_options(options.prometheus, found.config, os.environ))


def loop_settings(options: ServeOptions, found: inputs.Contents) -> LoopSettings:
    """Flags win over the ConfigMap; what the ConfigMap gets wrong is reported and left at default."""
    settings, config = options.loop, found.config
    interval = options.interval
    if interval is None:
        interval = _seconds(config, "GLOBAL_OPT_INTERVAL")
    to_zero = options.scale_to_zero
    if to_zero is None:
        to_zero = _flag(config, "WVA_SCALE_TO_ZERO")
    return replace(settings, interval=interval or settings.interval, scale_to_zero=to_zero)


def prometheus_options(
    flags: PrometheusFlags, config: Mapping[str, str], environment: Mapping[str, str]
) -> PrometheusOptions | None:
    """Where Prometheus is: flags win over the ConfigMap, and that over the environment; None: nowhere.

    The keys are those of the workload-variant-autoscaler, which reads some from its environment only.
    """

    def text(key: str) -> str:
        return (config.get(key) or environment.get(key) or "").strip()

    def path(given: Path | None, key: str) -> Path | None:
        return given or (Path(text(key)) if text(key) else None)

    given = "--prometheus" if flags.url is not None else "PROMETHEUS_BASE_URL"
    url = flags.url if flags.url is not None else text("PROMETHEUS_BASE_URL")
    if not url:
        return None
    if not _is_url(url):
        log.warning("must be an http:// or https:// URL; ignored", field=given, value=url)
        return None
    both = {**environment, **config}
    return PrometheusOptions(
        url=url.rstrip("/"),
        ca_file=path(flags.ca_file, "PROMETHEUS_CA_CERT_PATH"),
        certificate=path(flags.certificate, "PROMETHEUS_CLIENT_CERT_PATH"),
        key=path(flags.key, "PROMETHEUS_CLIENT_KEY_PATH"),
        server_name=flags.server_name or text("PROMETHEUS_SERVER_NAME"),
        token=text("PROMETHEUS_BEARER_TOKEN"),
        token_file=path(flags.token_file, "PROMETHEUS_TOKEN_PATH"),
        insecure=_flag(both, "PROMETHEUS_TLS_INSECURE_SKIP_VERIFY")
        if flags.insecure is None
        else flags.insecure,
        headers=flags.headers,
        timeout_seconds=flags.timeout_seconds or _seconds(both, "PROMETHEUS_TIMEOUT") or 10.0,
    )


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


def _seconds(config: Mapping[str, str], key: str) -> float | None:
    if key not in config:
        return None
    try:
        return duration.seconds(config[key])
    except ValueError as error:
        log.warning("ConfigMap: value ignored", field=f"data.{key}", error=str(error))
        return None


def _flag(config: Mapping[str, str], key: str) -> bool:
    text = config.get(key, "false").lower()
    if text not in {"true", "false"}:
        log.warning("ConfigMap: must be true or false", field=f"data.{key}", value=text)
    return text == "true"
