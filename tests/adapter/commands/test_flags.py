"""Flags of `serve`: made of the declared settings, and the options that they make."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from adapter import cli, errors
from adapter.app import flag_options
from adapter.collector.collector import CollectionSettings
from adapter.controller import sizing
from adapter.controller.demand import RateSettings
from adapter.controller.settings import LoopSettings
from adapter.kube.leader_election import LeaseTimes
from adapter.resources.inputs import Inputs
from adapter.settings.control import Prometheus
from adapter.settings.declaration import declarations, resolve
from adapter.settings.groups import GROUPS
from adapter.tls.certificate_secret import OwnCertificates
from optimizer.stabilization import StabilizationLimits


def parsed(*words: str) -> argparse.Namespace:
    return cli.parse(["serve", *words])


def loop(*words: str) -> LoopSettings:
    return flag_options.loop_settings(parsed(*words), in_cluster=False)


def prometheus(*words: str) -> Prometheus:
    return resolve(Prometheus, vars(parsed(*words)))


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The message of the command line for bad flags."""
    with pytest.raises(SystemExit) as caught:
        parsed(*words)
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_without_flags_the_loop_has_its_own_defaults() -> None:
    """The declared defaults are those of the parts, and Prometheus is left to the ConfigMap."""
    assert loop() == LoopSettings()
    assert prometheus() == Prometheus()
    assert set(flag_options.options_of(parsed()).prometheus.values()) == {None}
    installation = flag_options.options_of(parsed()).installation
    assert installation is not None
    assert installation.certificates == OwnCertificates(
        namespace=installation.scope.config_namespace
    )
    beside_keda = flag_options.options_of(
        parsed("--keda-port", "9443", "--keda-client-ca-file", "ca.crt")
    ).installation
    assert beside_keda is not None
    assert beside_keda.certificates is not None
    assert not beside_keda.certificates.registered
    assert installation.lease == LeaseTimes(duration=15, deadline=10.0, retry=2.0)


def test_a_cluster_keeps_accelerators() -> None:
    """Unless the flag says otherwise."""
    assert flag_options.loop_settings(parsed(), in_cluster=True).keep_accelerator
    args = parsed("--no-keep-accelerator")
    assert not flag_options.loop_settings(args, in_cluster=True).keep_accelerator


def test_flags_of_collection() -> None:
    """Each flag has its field; durations are written in words."""
    settings = loop(
        "--metrics-source=prometheus", "--scrape-interval=10s", "--window=30", "--long-window=5m",
        "--stale-after=1m30s",
    )  # fmt: skip
    assert settings.collection == CollectionSettings(
        interval=10.0, window=30.0, long_window=300.0, stale_after=90.0, source="prometheus"
    )


def test_flags_of_sizing() -> None:
    """Each flag has its field."""
    settings = loop(
        "--no-anticipate", "--startup-time=3m", "--down-window=5m", "--step-up=4", "--step-down=1"
    )
    assert settings.rates == RateSettings(anticipate=False, startup_seconds=180.0)
    assert settings.limits == StabilizationLimits(down_seconds=300.0, step_up=4, step_down=1)
    assert loop("--anticipate").rates.anticipate


@pytest.mark.parametrize(
    ("words", "margins"),
    [
        ((), (0.1, 0.05)),
        (("--stability-margin", "0.1"), (0.1, 0.1)),
        (("--stability-margin=20%",), (0.2, 0.2)),
        (("--stability-margin", "0"), (0.0, 0.0)),
    ],
)
def test_a_margin_holds_for_all_profiles_only_where_it_is_given(
    words: tuple[str, ...], margins: tuple[float, float]
) -> None:
    """Profiles of alpha and beta have another default than step times."""
    planned = sizing.fleet_of(Inputs(), (), capacity=None, settings=loop(*words)).settings
    assert (planned.stability_margin, planned.step_margin) == margins


def test_windows_that_are_off() -> None:
    """Off is 0."""
    settings = loop("--long-window", "off", "--down-window", "off")
    assert (settings.collection.long_window, settings.limits.down_seconds) == (0.0, 0.0)


def test_flags_of_prometheus() -> None:
    """Each flag has its field; headers add up."""
    settings = prometheus(
        "--prometheus=https://p:9090/x", "--prometheus-ca-file=/ca", "--prometheus-client-cert=/c",
        "--prometheus-client-key=/k", "--prometheus-server-name=name", "--prometheus-token-file=/t",
        "--prometheus-insecure", "--prometheus-header=X-Scope-OrgID: a|b",
        "--prometheus-header", "X-Other:  spaced ", "--prometheus-timeout=2s",
    )  # fmt: skip
    assert settings == Prometheus(
        prometheus="https://p:9090/x",
        prometheus_ca_file=Path("/ca"),
        prometheus_client_cert=Path("/c"),
        prometheus_client_key=Path("/k"),
        prometheus_server_name="name",
        prometheus_token_file=Path("/t"),
        prometheus_insecure=True,
        prometheus_header=(("X-Scope-OrgID", "a|b"), ("X-Other", "spaced")),
        prometheus_timeout=2.0,
    )
    assert prometheus("--no-prometheus-insecure").prometheus_insecure is False


def test_headers_of_one_command_line_are_not_those_of_the_next() -> None:
    """Their list is not shared."""
    flag = "--prometheus-header=A: b"
    for _ in range(2):
        assert prometheus(flag).prometheus_header == (("A", "b"),)
    assert prometheus().prometheus_header == ()


@pytest.mark.parametrize(
    ("flag", "value", "told"),
    [
        ("--prometheus-header", "X-Scope-OrgID", "must be 'NAME: VALUE', not 'X-Scope-OrgID'"),
        ("--prometheus-header", ": a", "must be 'NAME: VALUE'"),
        ("--prometheus-header", "A b: c", "must be 'NAME: VALUE'"),
        ("--prometheus-header", "A: b\nC: d", "must be 'NAME: VALUE'"),
        ("--prometheus-header", "A: b\r", "must be 'NAME: VALUE'"),
        ("--prometheus-timeout", "0", "must be a duration from 100ms to 5m, not '0'"),
        ("--interval", "0", "must be a duration from 100ms to 1h, not '0'"),
        ("--scrape-interval", "10ms", "must be a duration from 100ms to 10m, not '10ms'"),
        ("--scrape-interval", "off", "must be a duration"),
        ("--window", "off", "must be a duration"),
        ("--stale-after", "-1s", "must be a duration from 100ms to 1h, not '-1s'"),
        ("--long-window", "none", "must be a duration"),
        ("--down-window", "Off", "must be a duration from 1s to 24h or off, not 'Off'"),
        ("--startup-time", "", "must be a duration"),
        ("--prometheus-timeout", "1h", "must be a duration from 100ms to 5m, not '1h'"),
        (
            "--interval",
            "60000",
            "must be a duration from 100ms to 1h, not '60000' (plain numbers are",
        ),
        ("--prometheus", "p:9090", "must be an http:// or https:// URL, not 'p:9090'"),
        (
            "--metrics-source",
            "pods",
            "must be one of auto, direct, prometheus, not 'pods'; the setting is",
        ),
        ("--saturation-policy", "x", "must be one of None, PriorityExhaustive,"),
        ("--headroom", "3", "must be from 0 to 1 or 0% to 100%, not '3'"),
        ("--headroom", "101%", "must be from 0 to 1 or 0% to 100%"),
        ("--lease-duration", "1s", "must be whole seconds from 3s to 1h, not '1s'"),
        ("--lease-duration", "3.5s", "must be whole seconds from 3s to 1h, not '3.5s'"),
        ("--api-service", "", "must be a DNS name (RFC 1123"),
        ("--lease-name", "a..b", "must be a DNS name (RFC 1123"),
        ("--config-namespace", "a.b", "must be a DNS label (RFC 1123"),
        ("--namespaces", "a,B", "must be a DNS label (RFC 1123"),
        ("--identity", "", "must not be empty"),
        ("--gateway-metrics", "foo", "must be URL or NAMESPACE=URL, not 'foo'"),
        ("--gateway-metrics", "a=b=c", "must be URL or NAMESPACE=URL, not 'a=b=c'"),
        ("--gateway-metrics", "A=http://h/", "must be URL or NAMESPACE=URL"),
        ("--gateway-metrics", "http://u:pw@", "must be URL or NAMESPACE=URL, not 'http://'"),
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


def test_the_error_names_the_setting_in_all_its_spellings(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whoever gets the flag wrong learns of the ConfigMap's key, too."""
    text = refused(capsys, "--interval=soon")
    assert "argument --interval: must be a duration from 100ms to 1h, not 'soon'" in text
    assert "the setting is --interval (GLOBAL_OPT_INTERVAL)\n" in text
    text = refused(capsys, "--startup-time=x")
    assert "the setting is --startup-time / llmd.ai/startup-time\n" in text
    assert "the setting is" not in refused(capsys, "--window=x")


def test_an_error_is_one_line_and_the_way_to_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """The usage of more than fifty flags does not hide it."""
    error, way, *rest = refused(capsys, "--port=x").splitlines()
    assert error == "variant-adapter serve: argument --port: must be 0..65535, not 'x'"
    assert way == "Run `variant-adapter serve --help` for usage."
    assert not rest


def test_gateways_are_read_in_a_cluster() -> None:
    """Each with the namespace of its models, or without."""
    words = ("--gateway-metrics=http://h/metrics?a=b", "--gateway-metrics=ns=https://h")
    installation = flag_options.options_of(parsed(*words)).installation
    assert installation is not None
    assert installation.gateways == (("", "http://h/metrics?a=b"), ("ns", "https://h"))


FOLDER = ("--variants=folder",)
FILES = ("--tls-cert-file=c", "--tls-private-key-file=k")


@pytest.mark.parametrize(
    ("flag", "others", "said"),
    [
        ("--gateway-metrics=http://h", FOLDER, "not with --variants"),
        ("--limited", FOLDER, "not with --variants"),
        ("--namespaces=a", FOLDER, "not with --variants"),
        ("--actuate=hpa", FOLDER, "not with --variants"),
        ("--owner-references", FOLDER, "not with --variants"),
        ("--client-ca-file=c", (), "with --variants only"),
        ("--certificate-secret=s", FILES, "without --tls-cert-file"),
        ("--delegate-timeout=1s", (), "with --delegate-to only"),
    ],
)
def test_a_flag_without_effect_is_refused(flag: str, others: tuple[str, ...], said: str) -> None:
    """The error names the flag and what it needs; without it, the others are accepted."""
    flag_options.options_of(parsed(*others))
    with pytest.raises(errors.UsageError) as caught:
        flag_options.options_of(parsed(flag, *others))
    assert str(caught.value).startswith(f"{flag.partition('=')[0]}: ")
    assert f"{said}; leave it out" in str(caught.value)


@pytest.mark.parametrize(
    ("given", "others", "said"),
    [
        ("--tls-cert-file", FOLDER, "--tls-cert-file, --tls-private-key-file"),
        ("--tls-private-key-file", (), "--tls-cert-file, --tls-private-key-file"),
        (
            "--delegate-client-cert",
            ("--delegate-to=https://h",),
            "--delegate-client-cert, --delegate-client-key",
        ),
        (
            "--keda-tls-private-key-file",
            ("--keda-port=9443", "--keda-callers=token"),
            "--keda-tls-cert-file, --keda-tls-private-key-file",
        ),
    ],
)
def test_a_certificate_without_its_key_is_refused(
    given: str, others: tuple[str, ...], said: str
) -> None:
    """Status 2, as every flag that cannot be used."""
    with pytest.raises(errors.UsageError) as caught:
        flag_options.options_of(parsed(f"{given}=/x", *others))
    assert str(caught.value) == f"{said}: give both or neither"


@pytest.mark.parametrize(
    ("flag", "near"), [("--intervall", "--interval"), ("--prometheus-url", "--prometheus")]
)
def test_an_unknown_flag_names_the_nearest(
    flag: str, near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A typing error is found without reading the whole help."""
    text = refused(capsys, f"{flag}=30s")
    assert f"unrecognized arguments: {flag}=30s; did you mean {near}" in text


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    """Beside those that there are."""
    with pytest.raises(SystemExit):
        cli.parse(["analize"])
    text = capsys.readouterr().err
    assert "COMMAND must be one of serve, " in text
    assert "not 'analize'; did you mean analyze?" in text


def test_a_negative_duration_is_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    """The error says what it must be, and not that there is none."""
    assert "must be a duration from 100ms to 1h, not '-5s'" in refused(capsys, "--interval", "-5s")


def test_an_unknown_flag_like_no_other_is_only_named(capsys: pytest.CaptureFixture[str]) -> None:
    """No guess is better than a wild one."""
    assert "did you mean" not in refused(capsys, "--zzz")


def test_help_has_every_setting_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    """With its ConfigMap key; nothing of it differs from the declaration."""
    with pytest.raises(SystemExit) as caught:
        parsed("--help")
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("-\n", "-").split())
    for group in GROUPS:
        for item in declarations(group):
            if not item.flag:
                continue
            assert f" {item.flag}" in text
            words = " ".join(item.described().split())
            # argparse breaks lines after a dash too.
            assert words.replace("- ", "-") in text.replace("- ", "-")


@pytest.mark.parametrize(
    "words",
    [
        ["record", "--model", "m", "--output", ""],
        ["analyze", "--plot", ""],
        ["plan", "-f", ""],
        ["fit", "runs.csv", "--plot", ""],
        ["doctor", "--kubeconfig", ""],
        ["replay", "--scenario", "s.yaml", "--out", ""],
        ["demo", "--out", ""],
        ["serve", "--variants", ""],
    ],
)
def test_empty_paths_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """As an unset variable of a shell is: it would be the present folder."""
    with pytest.raises(SystemExit):
        cli.parse(words)
    assert f"argument {words[-2]}: must not be empty" in capsys.readouterr().err.replace(
        "/--file", ""
    )


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["plan", "-f", "a", "--file=b"], "-f/--file"),
        (["replay", "--scenario", "a", "--trace", "b", "--trace", "b"], "--trace"),
        (["replay", "--scenario", "a", "--scenario", "b"], "--scenario"),
    ],
)
def test_of_two_files_none_is_dropped(
    words: list[str], flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A flag that takes one file is refused when it is given twice; the last counted."""
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    assert f"argument {flag}: given twice; name one file" in capsys.readouterr().err
