"""How Prometheus is reached, from settings; without the control loop, so that `doctor` starts quickly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapter.settings.control import Prometheus

if TYPE_CHECKING:
    from adapter.collector.prometheus import PrometheusOptions


def prometheus_options(settings: Prometheus) -> PrometheusOptions | None:
    """How to reach Prometheus; None without a URL."""
    # The client is loaded only where a Prometheus is used.
    from adapter.collector.prometheus import PrometheusOptions  # noqa: PLC0415

    if not settings.prometheus:
        return None
    return PrometheusOptions(
        url=settings.prometheus.rstrip("/"),
        ca_file=settings.prometheus_ca_file,
        certificate=settings.prometheus_client_cert,
        key=settings.prometheus_client_key,
        server_name=settings.prometheus_server_name,
        token=settings.prometheus_token,
        token_file=settings.prometheus_token_file,
        insecure=settings.prometheus_insecure,
        headers=settings.prometheus_header,
        timeout_seconds=settings.prometheus_timeout,
    )
