"""How Prometheus is reached, from settings; without the control loop, so that `doctor` starts quickly.

Credentials go only where the operator sends them: to the host that flags or the environment name, over https.
The URL may come from a ConfigMap, whose editors must not get the adapter's token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from adapter import errors
from adapter.settings.control import Prometheus
from adapter.settings.declaration import declarations, resolve

if TYPE_CHECKING:
    from adapter.collector.prometheus import PrometheusOptions

_SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key"})
_OPEN_HEADERS = frozenset(
    {"x-scope-orgid", "thanos-tenant", "x-prometheus-tenant", "user-agent", "accept"}
)
"""Headers that go to every host. Any other may hold a key: gateways have names of their own for these."""


def trusted_settings(flags: Mapping[str, object], environment: Mapping[str, str]) -> Prometheus:
    """What flags and the environment say alone, without a ConfigMap."""
    return resolve(Prometheus, flags, environment=environment)


def command_options(
    flags: Mapping[str, object], environment: Mapping[str, str]
) -> PrometheusOptions | None:
    """How a command that runs once reaches Prometheus, by its flags and the environment; None without a URL.

    Raises:
        UsageError: an environment variable that would be used has a value that cannot be used.

    """
    wrong = []
    for item in declarations(Prometheus):
        text = environment.get(item.key, "").strip() if item.key else ""
        if not text or flags.get(item.name) not in (None, []):
            continue
        try:
            item.parse(text)
        except ValueError as error:
            wrong.append(f"environment variable {item.key}: {error}")
    if wrong:
        raise errors.UsageError("; ".join(wrong))
    return prometheus_options(trusted_settings(flags, environment))


def prometheus_options(
    settings: Prometheus, trusted: Prometheus | None = None
) -> PrometheusOptions | None:
    """How to reach Prometheus; None without a URL.

    Args:
        settings: Values in use.
        trusted: What flags and the environment say alone; None: all values are theirs.

    """
    # The client is loaded only where a Prometheus is used.
    from adapter.collector.prometheus import PrometheusOptions  # noqa: PLC0415

    if not settings.prometheus:
        return None
    trusted = trusted or settings
    withheld = _withheld(settings, trusted)
    # What the operator sends to a host of their own without TLS is a key only where its name says so.
    own = _origin(settings.prometheus) == _origin(trusted.prometheus)
    plain = own and urlsplit(settings.prometheus).scheme == "http"
    secrets = tuple(
        header
        for header in settings.prometheus_header
        if (name := header[0].lower()) in _SECRET_HEADERS or not (plain or name in _OPEN_HEADERS)
    )
    if not (settings.prometheus_token or settings.prometheus_token_file or secrets):
        withheld = ""
    return PrometheusOptions(
        url=settings.prometheus.rstrip("/"),
        ca_file=settings.prometheus_ca_file,
        certificate=settings.prometheus_client_cert,
        key=settings.prometheus_client_key,
        server_name=settings.prometheus_server_name,
        token="" if withheld else settings.prometheus_token,
        token_file=None if withheld else settings.prometheus_token_file,
        insecure=settings.prometheus_insecure,
        headers=tuple(
            header for header in settings.prometheus_header if not withheld or header not in secrets
        ),
        timeout_seconds=settings.prometheus_timeout,
        withheld=withheld,
    )


def _withheld(settings: Prometheus, trusted: Prometheus) -> str:
    """Why credentials are not sent; empty where they are."""
    url = urlsplit(settings.prometheus)
    if url.scheme != "https":
        return "the token is withheld, because the URL is not https://"
    if _origin(settings.prometheus) != _origin(trusted.prometheus):
        return (
            "the token is withheld, because only the ConfigMap names this host: set --prometheus or the"
            " environment variable PROMETHEUS_BASE_URL to its URL"
        )
    if settings.prometheus_server_name not in {"", trusted.prometheus_server_name}:
        return (
            "the token is withheld, because only the ConfigMap says which name the certificate has: set"
            " --prometheus-server-name or the environment variable PROMETHEUS_SERVER_NAME"
        )
    if settings.prometheus_insecure and not trusted.prometheus_insecure:
        return (
            "the token is withheld, because only the ConfigMap says that the certificate is not verified: set"
            " --prometheus-insecure or the environment variable PROMETHEUS_TLS_INSECURE_SKIP_VERIFY"
        )
    if settings.prometheus_ca_file not in {None, trusted.prometheus_ca_file}:
        return (
            "the token is withheld, because only the ConfigMap says which authority signs the certificate:"
            " set --prometheus-ca-file or the environment variable PROMETHEUS_CA_CERT_PATH"
        )
    return ""


def _origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or 443
