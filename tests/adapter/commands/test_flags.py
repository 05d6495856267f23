"""Flags that say where load comes from, and where Prometheus is by flags, ConfigMap and environment."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from adapter import cli
from adapter.app.config import prometheus_options
from adapter.app.options import PrometheusFlags
from adapter.collector.collector import CollectionSettings
from adapter.collector.prometheus import PrometheusOptions
from adapter.commands import flags as load_flags
from adapter.controller.demand import RateSettings
from adapter.controller.settings import LoopSettings
from optimizer.stabilization import Limits


def parsed(*flags: str) -> argparse.Namespace:
    return cli.parse(["serve", *flags])


def refused(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """What the command line says of bad flags."""
    with pytest.raises(SystemExit) as caught:
        parsed(*flags)
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_without_flags_all_is_as_by_default() -> None:
    """The loop's own settings are what no flag changes, and Prometheus is left to the ConfigMap."""
    args, defaults = parsed(), LoopSettings()
    assert load_flags.collection(args) == defaults.collection
    assert load_flags.rates(args) == defaults.rates
    assert load_flags.limits(args) == defaults.limits
    assert load_flags.prometheus(args) == PrometheusFlags()


def test_where_load_comes_from() -> None:
    """Each flag has its field; durations are written in words."""
    args = parsed(
        "--metrics-source=prometheus", "--scrape-interval=10s", "--window=30", "--long-window=5m",
        "--stale-after=1m30s",
    )  # fmt: skip
    assert load_flags.collection(args) == CollectionSettings(
        interval=10.0, window=30.0, long_window=300.0, stale_after=90.0, source="prometheus"
    )


def test_what_variants_are_sized_for() -> None:
    """Each flag has its field."""
    args = parsed(
        "--no-anticipate", "--startup-time=3m", "--down-window=5m", "--step-up=4", "--step-down=1"
    )
    assert load_flags.rates(args) == RateSettings(anticipate=False, startup_seconds=180.0)
    assert load_flags.limits(args) == Limits(down_seconds=300.0, step_up=4, step_down=1)
    assert load_flags.rates(parsed("--anticipate")).anticipate


def test_windows_that_are_off() -> None:
    """Off is 0."""
    args = parsed("--long-window", "off", "--down-window", "off")
    assert load_flags.collection(args).long_window == 0.0
    assert load_flags.limits(args).down_seconds == 0.0


def test_where_prometheus_is() -> None:
    """Each flag has its field; headers add up."""
    args = parsed(
        "--prometheus=https://p:9090/x", "--prometheus-ca-file=/ca", "--prometheus-client-cert=/c",
        "--prometheus-client-key=/k", "--prometheus-server-name=name", "--prometheus-token-file=/t",
        "--prometheus-insecure", "--prometheus-header=X-Scope-OrgID: a|b",
        "--prometheus-header", "X-Other:  spaced ", "--prometheus-timeout=2s",
    )  # fmt: skip
    assert load_flags.prometheus(args) == PrometheusFlags(
        url="https://p:9090/x",
        ca_file=Path("/ca"),
        certificate=Path("/c"),
        key=Path("/k"),
        server_name="name",
        token_file=Path("/t"),
        insecure=True,
        headers=(("X-Scope-OrgID", "a|b"), ("X-Other", "spaced")),
        timeout_seconds=2.0,
    )
    assert load_flags.prometheus(parsed("--no-prometheus-insecure")).insecure is False


def test_headers_of_one_command_line_are_not_those_of_the_next() -> None:
    """Their list is not shared."""
    flag = "--prometheus-header=A: b"
    for _ in range(2):
        assert load_flags.prometheus(parsed(flag)).headers == (("A", "b"),)
    assert load_flags.prometheus(parsed()).headers == ()


@pytest.mark.parametrize(
    ("flag", "value", "told"),
    [
        ("--prometheus-header", "X-Scope-OrgID", "must be 'NAME: VALUE', not 'X-Scope-OrgID'"),
        ("--prometheus-header", ": a", "must be 'NAME: VALUE'"),
        ("--prometheus-header", "A b: c", "must be 'NAME: VALUE'"),
        ("--prometheus-header", "A: b\nC: d", "must be 'NAME: VALUE'"),
        ("--prometheus-header", "A: b\r", "must be 'NAME: VALUE'"),
        ("--prometheus-timeout", "0", "must be longer than 0"),
        ("--prometheus-timeout", "soon", "must be a duration such as 60s"),
        ("--scrape-interval", "0s", "must be longer than 0"),
        ("--scrape-interval", "off", "must be a duration"),
        ("--window", "off", "must be a duration"),
        ("--stale-after", "-1s", "expected one argument"),
        ("--long-window", "none", "must be a duration"),
        ("--down-window", "Off", "must be a duration"),
        ("--startup-time", "", "must be a duration"),
        ("--metrics-source", "pods", "invalid choice: 'pods'"),
        ("--step-up", "0", "must be a whole number >= 1, not '0'"),
        ("--step-up", "1.5", "must be a whole number >= 1"),
        ("--step-down", "-1", "must be a whole number >= 1"),
        ("--step-down", "\N{SUPERSCRIPT TWO}", "must be a whole number >= 1"),
    ],
)
def test_bad_values(capsys: pytest.CaptureFixture[str], flag: str, value: str, told: str) -> None:
    """The error names the flag and what it wants."""
    text = refused(capsys, flag, value)
    assert f"argument {flag}: {told}" in text


@pytest.mark.parametrize("value", ["-1s", "0"])
def test_a_window_that_is_less_than_off(capsys: pytest.CaptureFixture[str], value: str) -> None:
    """Off is said in words."""
    assert "--long-window: must be" in refused(capsys, f"--long-window={value}")


def test_help_lists_the_flags(capsys: pytest.CaptureFixture[str]) -> None:
    """With what the ConfigMap calls them."""
    with pytest.raises(SystemExit) as caught:
        parsed("--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for flag in (
        "--metrics-source", "--scrape-interval", "--window", "--long-window", "--stale-after",
        "--prometheus URL", "--prometheus-ca-file", "--prometheus-client-cert",
        "--prometheus-client-key", "--prometheus-server-name", "--prometheus-token-file",
        "--prometheus-insecure", "--no-prometheus-insecure", "--prometheus-header",
        "--prometheus-timeout", "--anticipate", "--no-anticipate", "--startup-time",
        "--down-window", "--step-up", "--step-down",
    ):  # fmt: skip
        assert flag in text
    for key in KEYS:
        assert key in text


# Flags over ConfigMap over environment.

KEYS = {
    "PROMETHEUS_BASE_URL": ("url", "url", "https://{}:9090"),
    "PROMETHEUS_CA_CERT_PATH": ("ca_file", "ca_file", Path("/{}/ca")),
    "PROMETHEUS_CLIENT_CERT_PATH": ("certificate", "certificate", Path("/{}/c")),
    "PROMETHEUS_CLIENT_KEY_PATH": ("key", "key", Path("/{}/k")),
    "PROMETHEUS_SERVER_NAME": ("server_name", "server_name", "{}"),
    "PROMETHEUS_TOKEN_PATH": ("token_file", "token_file", Path("/{}/t")),
}


def from_(place: str, value: Any) -> Any:
    return type(value)(str(value).format(place))


@pytest.mark.parametrize("key", KEYS)
def test_flags_win_over_the_configmap_and_that_over_the_environment(key: str) -> None:
    """For each setting alone."""
    flag, option, value = KEYS[key]
    base = {"PROMETHEUS_BASE_URL": "https://base:9090"}
    environment = {**base, key: str(from_("environment", value))}
    config = {key: f" {from_('config', value)}\n"}
    flags = PrometheusFlags(**{flag: from_("flag", value)})
    for given, expected in (
        ((PrometheusFlags(), {}, environment), "environment"),
        ((PrometheusFlags(), config, environment), "config"),
        ((PrometheusFlags(), {key: ""}, environment), "environment"),
        ((flags, config, environment), "flag"),
    ):
        found = prometheus_options(*given)
        assert found is not None
        assert getattr(found, option) == from_(expected, value)


def test_a_token_comes_from_the_configmap_or_the_environment() -> None:
    """Not from a flag, which everybody could read."""
    environment = {"PROMETHEUS_BASE_URL": "https://p", "PROMETHEUS_BEARER_TOKEN": "secret\n"}
    found = prometheus_options(PrometheusFlags(), {}, environment)
    assert found == PrometheusOptions(url="https://p", token="secret")
    found = prometheus_options(PrometheusFlags(), {"PROMETHEUS_BEARER_TOKEN": "new"}, environment)
    assert found == PrometheusOptions(url="https://p", token="new")


def test_insecure_and_the_timeout() -> None:
    """A flag wins in both directions; what is not said is checked, and waited for ten seconds."""
    config = {
        "PROMETHEUS_BASE_URL": "https://p",
        "PROMETHEUS_TLS_INSECURE_SKIP_VERIFY": "True",
        "PROMETHEUS_TIMEOUT": "3s",
    }
    found = prometheus_options(PrometheusFlags(), config, {})
    assert found is not None
    assert (found.insecure, found.timeout_seconds) == (True, 3.0)
    flags = PrometheusFlags(insecure=False, timeout_seconds=1.0)
    found = prometheus_options(flags, config, {})
    assert found is not None
    assert (found.insecure, found.timeout_seconds) == (False, 1.0)
    found = prometheus_options(PrometheusFlags(url="https://p"), {}, {})
    assert found == PrometheusOptions(url="https://p", insecure=False, timeout_seconds=10.0)


def test_values_that_cannot_be_used_are_reported_and_left_at_their_defaults() -> None:
    """The warning names the key; the rest counts."""
    config = {"PROMETHEUS_TLS_INSECURE_SKIP_VERIFY": "maybe", "PROMETHEUS_TIMEOUT": "soon"}
    with capture_logs() as logs:
        found = prometheus_options(PrometheusFlags(url="https://p"), config, {})
    assert found == PrometheusOptions(url="https://p")
    assert {entry["field"] for entry in logs} == {f"data.{key}" for key in config}


def test_headers_are_passed_on() -> None:
    """As the flags have them."""
    flags = PrometheusFlags(url="https://p", headers=(("A", "b"),))
    assert prometheus_options(flags, {}, {}) == PrometheusOptions(
        url="https://p", headers=(("A", "b"),)
    )


def test_without_a_url_there_is_none() -> None:
    """Nor with an empty flag, which wins."""
    environment = {"PROMETHEUS_BASE_URL": "https://p", "PROMETHEUS_TIMEOUT": "1s"}
    assert prometheus_options(PrometheusFlags(), {"PROMETHEUS_TIMEOUT": "1s"}, {}) is None
    assert prometheus_options(PrometheusFlags(url=""), {}, environment) is None


@pytest.mark.parametrize(
    "url", ["http://p:9090", "https://p/x", "http://10.0.0.1", "http://[::1]:1"]
)
def test_urls_that_are_good(url: str) -> None:
    """Plain HTTP is allowed; a slash at the end is not kept."""
    with capture_logs() as logs:
        for text in (url, f"{url}/"):
            found = prometheus_options(PrometheusFlags(url=text), {}, {})
            assert found == PrometheusOptions(url=url)
    assert logs == []


@pytest.mark.parametrize("url", ["p:9090", "prometheus", "ftp://p", "https://", "http:/p", "//p"])
def test_a_bad_url_is_ignored(url: str) -> None:
    """With a warning that has it."""
    with capture_logs() as logs:
        assert prometheus_options(PrometheusFlags(), {"PROMETHEUS_BASE_URL": url}, {}) is None
    (entry,) = logs
    assert entry["log_level"] == "warning"
    assert entry["value"] == url
    assert "http:// or https://" in entry["event"]
