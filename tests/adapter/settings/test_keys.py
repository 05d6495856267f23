"""Keys of the ConfigMap: unknown ones, bad values, and those of the workload-variant-autoscaler."""

from __future__ import annotations

import pytest

from adapter.resources import inputs
from adapter.settings import keys
from adapter.settings.groups import all_declarations


def problem(key: str, text: str = "1") -> str:
    (line,) = keys.problems({key: text})
    return str(line)


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("GLOBAL_OPT_INTERVL", "did you mean GLOBAL_OPT_INTERVAL?"),
        ("global_opt_interval", "did you mean GLOBAL_OPT_INTERVAL?"),
        ("PROMETHEUS_URL", "PROMETHEUS_BASE_URL"),
        ("interval", "did you mean GLOBAL_OPT_INTERVAL?"),
        ("prometheus", "did you mean PROMETHEUS_BASE_URL?"),
        ("--scale_to_zero", "did you mean WVA_SCALE_TO_ZERO?"),
        ("SCRAPE_INTERVAL", "--scrape-interval is a flag only: set it in the arguments"),
        ("budget", "did you mean budgets?"),
        ("BUDGETS", "did you mean budgets?"),
        ("colour", "known are GLOBAL_OPT_INTERVAL, WVA_SCALE_TO_ZERO,"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest(key: str, hint: str) -> None:
    """A typing error is not silence."""
    line = problem(key)
    assert line.startswith(f"data.{key}: unknown setting; ")
    assert hint in line


@pytest.mark.parametrize(
    ("key", "text", "accepted", "spelling"),
    [
        (
            "GLOBAL_OPT_INTERVAL",
            "soon",
            "must be a duration from 100ms to 1h, not 'soon'",
            "--interval",
        ),
        ("GLOBAL_OPT_INTERVAL", "60000", "must be a duration from 100ms to 1h", "--interval"),
        ("WVA_SCALE_TO_ZERO", "yes", "must be true or false, not 'yes'", "--scale-to-zero"),
        ("PROMETHEUS_BASE_URL", "p:9090", "must be an http:// or https:// URL", "--prometheus"),
        ("PROMETHEUS_TIMEOUT", "0", "must be a duration from 100ms to 5m", "--prometheus-timeout"),
    ],
)
def test_a_bad_value_names_what_is_accepted_and_all_spellings(
    key: str, text: str, accepted: str, spelling: str
) -> None:
    """As the flag's error does."""
    line = problem(key, text)
    assert line.startswith(f"data.{key}: {accepted}")
    assert f"{spelling} ({key})" in line


def test_keys_of_the_workload_variant_autoscaler_are_known() -> None:
    """Those without effect here are told with the reason; values that are empty count as not set."""
    told = list(keys.problems(dict.fromkeys(keys.IGNORED, "anything")))
    assert [item.key for item in told if item.unused] == list(keys.IGNORED)
    assert problem("WVA_LIMITED_MODE") == (
        "data.WVA_LIMITED_MODE: has no effect here: Set --limited instead"
    )
    assert problem("LEADER_ELECT", "true").endswith("in the arguments of the container")
    assert "not cached" in problem("EPP_METRICS_CACHE_TTL", "15s")
    assert not list(keys.problems(dict.fromkeys(keys.IGNORED, " ")))
    assert not list(keys.problems({"GLOBAL_OPT_INTERVAL": "60s", "PROMETHEUS_BASE_URL": ""}))


def test_reasons_name_flags_that_exist() -> None:
    """A key with a counterpart names its flag, as that of the token for endpoint pickers does."""
    flags = {item.flag for item in all_declarations()}
    named = {
        word for text in keys.IGNORED.values() for word in text.split() if word.startswith("--")
    }
    assert named <= flags
    reason = keys.IGNORED["EPP_METRIC_READER_BEARER_TOKEN"]
    assert reason == "Set --gateways-token-file instead"


def test_a_nested_file_is_reported() -> None:
    """Its settings would be lost in silence."""
    assert "settings in a nested file are not read" in problem("config.yaml", "A: b")


def test_problems_of_the_configmap_are_among_those_of_the_reading() -> None:
    """With the ConfigMap's name, for the log and `doctor`; the data is kept, and no object is invalid."""
    reader = inputs.Reader()
    reader.read_config_map(
        "ConfigMap ns/x",
        {
            "kind": "ConfigMap",
            "apiVersion": "v1",
            "metadata": {"name": "x-variantautoscaling-config", "namespace": "ns"},
            "data": {"GLOBAL_OPT_INTERVL": "60s", "WVA_SCALE_TO_ZERO": "true"},
        },
    )
    inputs_read = reader.inputs()
    assert not inputs_read.problems
    (unknown,) = inputs_read.setting_problems
    assert str(unknown).startswith("ConfigMap ns/x: data.GLOBAL_OPT_INTERVL: unknown setting")
    assert reader.settings.data["WVA_SCALE_TO_ZERO"] == "true"


def test_keys_that_are_another_one_with_a_typing_error() -> None:
    """Another setting's own key, or that of another autoscaler, is none."""
    meant = ("budget", "Budgets", "BUDGETS", "bugdets", "budgets-")
    for key in (*meant, "widgets", "colour", "GLOBAL_OPT_INTERVAL", "WVA_LIMITED_MODE"):
        (item,) = keys.problems({key: "x"})
        assert keys.misspelled(item, "budgets") == (key in meant)
