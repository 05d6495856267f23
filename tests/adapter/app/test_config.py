"""How Prometheus and the loop are configured by flags, ConfigMap and environment."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from adapter import cli
from adapter.app.config import Configuration, environment_problems
from adapter.app.options import ServeOptions
from adapter.app.prometheus import command_options, prometheus_options
from adapter.auth import local as local_auth
from adapter.collector.prometheus import PrometheusOptions
from adapter.controller.settings import LoopSettings
from adapter.settings.control import Prometheus
from tests.fakes import cluster_world as worlds
from tests.fakes.cluster_world import CORE, until


@pytest.mark.parametrize("url", ["http://p:9090", "https://p/x", "http://[::1]:1"])
def test_a_slash_at_the_end_of_a_url_is_dropped(url: str) -> None:
    """Paths are appended to it."""
    for text in (url, f"{url}/"):
        assert prometheus_options(Prometheus(prometheus=text)) == PrometheusOptions(url=url)


def test_without_a_url_there_is_no_prometheus() -> None:
    """Whatever else is set."""
    assert prometheus_options(Prometheus(prometheus_timeout=1.0)) is None


def test_every_setting_of_prometheus_is_passed_on() -> None:
    """Each has its field."""
    settings = Prometheus(
        prometheus="https://p",
        prometheus_ca_file=Path("/ca"),
        prometheus_client_cert=Path("/c"),
        prometheus_client_key=Path("/k"),
        prometheus_server_name="name",
        prometheus_token="t",
        prometheus_token_file=Path("/t"),
        prometheus_insecure=True,
        prometheus_header=(("A", "b"),),
        prometheus_timeout=2.0,
    )
    client = prometheus_options(settings)
    assert client is not None
    assert dataclasses.asdict(client) == {
        "url": "https://p",
        "ca_file": Path("/ca"),
        "certificate": Path("/c"),
        "key": Path("/k"),
        "server_name": "name",
        "token": "t",
        "token_file": Path("/t"),
        "insecure": True,
        "headers": (("A", "b"),),
        "timeout_seconds": 2.0,
        "withheld": "",
    }


def test_the_defaults_are_those_of_the_client() -> None:
    """Settings that nothing sets."""
    client = prometheus_options(Prometheus(prometheus="https://p"))
    assert client == PrometheusOptions(url="https://p")


def test_bad_environment_variables_are_named() -> None:
    """With what is accepted; the start logs each and goes on."""
    environment = {"GLOBAL_OPT_INTERVAL": "soon", "PROMETHEUS_TIMEOUT": "5s", "HOME": "?"}
    (problem,) = environment_problems(environment).values()
    assert "must be a duration from 100ms to 1h" in problem
    assert "--interval (GLOBAL_OPT_INTERVAL)" in problem
    options = ServeOptions(
        variants=None,
        host="",
        port=0,
        certificates=local_auth.Files(state=Path()),
        loop=LoopSettings(),
    )
    with capture_logs() as logs:
        Configuration(options, environment)
    assert [entry["variable"] for entry in logs] == ["GLOBAL_OPT_INTERVAL"]


@pytest.mark.parametrize(
    "command",
    [["doctor"], ["compare"], ["record", "--model", "m", "--output", "unwritten.csv"]],
    ids=lambda command: str(command[0]),
)
def test_commands_refuse_a_bad_environment_variable(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each that is bad is named with what is accepted; it does not count as not set."""
    monkeypatch.setenv("PROMETHEUS_BASE_URL", "ftp://x")
    monkeypatch.setenv("PROMETHEUS_TIMEOUT", "abc")
    assert cli.main(command) == 2
    text = " ".join(capsys.readouterr().err.split())
    assert "environment variable PROMETHEUS_BASE_URL: must be an http:// or https:// URL" in text
    assert "the setting is --prometheus (PROMETHEUS_BASE_URL)" in text
    assert "environment variable PROMETHEUS_TIMEOUT: must be a duration from 100ms to 5m" in text


def test_a_flag_makes_a_bad_environment_variable_irrelevant() -> None:
    """It would not be used; other groups' variables are no concern of these commands."""
    environment = {"PROMETHEUS_BASE_URL": "ftp://x", "GLOBAL_OPT_INTERVAL": "soon"}
    flags = {"prometheus": "https://p", "prometheus_header": []}
    assert command_options(flags, environment) == PrometheusOptions(url="https://p")


async def test_targets_that_end_before_the_next_cycle_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A time to live of 5 s beside cycles of 40 s, not of 4 s, and again of 60 s from the ConfigMap."""
    loop = dataclasses.replace(worlds.LOOP, time_to_live=5.0)
    async with (
        worlds.running(tmp_path) as world,
        world.replica("a", loop=loop, interval=None) as (endpoints, _),
    ):
        for seconds in (40.0, 4.0, 60.0):

            def in_use(expected: float = seconds) -> bool:
                return endpoints.loop.settings.interval == expected

            config = worlds.manifests()[2]
            config["data"] = {"GLOBAL_OPT_INTERVAL": f"{seconds:g}s"}
            world.api.put(CORE, "configmaps", config)
            await until(in_use)
    said = [line for line in capsys.readouterr().out.splitlines() if "targets end before" in line]
    for seconds, reports in ((40, 1), (4, 0), (60, 1)):
        assert sum(f"interval_seconds={seconds}.0" in line for line in said) == reports


async def test_the_configmap_changes_settings_of_a_running_adapter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A value that cannot be used leaves the one before in use; an unknown key is named in the log."""
    async with (
        worlds.running(tmp_path) as world,
        world.replica("a", interval=None) as (endpoints, _),
    ):
        config = worlds.manifests()[2]
        config["data"] = {"GLOBAL_OPT_INTERVAL": "7s"}
        world.api.put(CORE, "configmaps", config)
        await until(lambda: endpoints.loop.settings.interval == 7.0)
        config["data"] = {
            "GLOBAL_OPT_INTERVAL": "60000",
            "GLOBAL_OPT_INTERVL": "9s",
            "WVA_LIMITED_MODE": "true",
            "WVA_SCALE_TO_ZERO": "true",
        }
        world.api.put(CORE, "configmaps", config)
        await until(lambda: endpoints.loop.settings.scale_to_zero)
        assert endpoints.loop.settings.interval == 7.0
    text = capsys.readouterr().out
    assert "data.GLOBAL_OPT_INTERVL: unknown setting; did you mean GLOBAL_OPT_INTERVAL" in text
    assert "--interval (GLOBAL_OPT_INTERVAL)" in text
    assert "invalid object" not in text
    (unused,) = (line for line in text.splitlines() if "data.WVA_LIMITED_MODE" in line)
    assert "warning" in unused
    assert "has no effect here: Set --limited instead" in unused
    (ignored,) = (line for line in text.splitlines() if "another value is used" in line)
    assert "value=7s" in ignored
