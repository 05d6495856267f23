"""Settings: how a value is resolved, and what the declarations promise."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from adapter.planning.groups import Budget
from adapter.resources import annotations as variant_annotations
from adapter.settings import page
from adapter.settings.control import Prometheus, Reconciling
from adapter.settings.declaration import Declaration, declarations, resolve
from adapter.settings.groups import GROUPS, all_declarations, by_key
from adapter.settings.kinds import share, show_seconds

DOCS = Path(__file__).parents[3] / "docs"

KEYS = {
    "GLOBAL_OPT_INTERVAL": ("--interval", "7s", 7.0),
    "WVA_SCALE_TO_ZERO": ("--scale-to-zero", "True", True),
    "budgets": ("", "[{cost: 5}]", (Budget(name="installation", cost=5.0),)),
    "PROMETHEUS_BASE_URL": ("--prometheus", "https://p:9090", "https://p:9090"),
    "PROMETHEUS_CA_CERT_PATH": ("--prometheus-ca-file", "/ca", Path("/ca")),
    "PROMETHEUS_CLIENT_CERT_PATH": ("--prometheus-client-cert", "/c", Path("/c")),
    "PROMETHEUS_CLIENT_KEY_PATH": ("--prometheus-client-key", "/k", Path("/k")),
    "PROMETHEUS_SERVER_NAME": ("--prometheus-server-name", "name", "name"),
    "PROMETHEUS_TOKEN_PATH": ("--prometheus-token-file", "/t", Path("/t")),
    "PROMETHEUS_BEARER_TOKEN": ("", "secret", "secret"),
    "PROMETHEUS_TLS_INSECURE_SKIP_VERIFY": ("--prometheus-insecure", "true", True),
    "PROMETHEUS_TIMEOUT": ("--prometheus-timeout", "3s", 3.0),
}
"""Key: flag, text, and value that the text means."""


def group_of(key: str) -> type[Any]:
    return next(g for g in GROUPS if any(item.key == key for item in declarations(g)))


def test_the_keys_are_those_of_the_workload_variant_autoscaler() -> None:
    """Whoever comes from it keeps their ConfigMap; only budgets are ours."""
    assert {key: item.flag for key, item in by_key().items()} == {
        key: flag for key, (flag, _, _) in KEYS.items()
    }


@pytest.mark.parametrize("key", KEYS)
def test_flags_win_over_the_configmap_and_that_over_the_environment(key: str) -> None:
    """For each setting alone; an empty text does not count as a value."""
    _, text, value = KEYS[key]
    group, item = group_of(key), by_key()[key]
    flag = object()

    def resolved(*, given: object = None, config: str = "", environment: str = "") -> Any:
        return getattr(
            resolve(
                group,
                {item.name: given},
                config={key: config},
                environment={key: environment},
            ),
            item.name,
        )

    assert resolved() == item.default()
    assert resolved(environment=text) == value
    assert resolved(environment="?", config=f" {text}\n") == value
    assert resolved(given=flag, config=text, environment=text) is flag


def test_a_flag_that_is_false_wins() -> None:
    """`--no-x` is a value, and so is an empty URL."""
    config = {"PROMETHEUS_TLS_INSECURE_SKIP_VERIFY": "true", "PROMETHEUS_BASE_URL": "https://p"}
    settings = resolve(Prometheus, {"prometheus_insecure": False, "prometheus": ""}, config=config)
    assert (settings.prometheus_insecure, settings.prometheus) == (False, "")


@pytest.mark.parametrize("text", ["soon", "60000", "0", "5 minutes", "10sec"])
def test_a_bad_value_leaves_the_one_before_in_use(text: str) -> None:
    """A mistake in a live ConfigMap changes nothing; at the start it leaves environment or default."""
    key = "GLOBAL_OPT_INTERVAL"
    before = resolve(Reconciling, {}, config={key: "7s"})
    assert resolve(Reconciling, {}, config={key: text}, previous=before).interval == 7.0
    assert resolve(Reconciling, {}, config={key: text}).interval == 30.0
    environment = {key: "9s"}
    assert resolve(Reconciling, {}, config={key: text}, environment=environment).interval == 9.0
    assert resolve(Reconciling, {}, config={}, previous=before).interval == 30.0


@pytest.mark.parametrize("item", all_declarations(), ids=lambda item: item.spellings)
def test_a_shown_default_is_the_default(item: Declaration) -> None:
    """What is shown reads back as the value; words stand only where there is no value to show."""
    default = item.default()
    if item.default_text:
        # Start-up time is None by default, for which the loop takes this.
        assert (
            default in {None, "", (), 0.0}
            or callable(getattr(default, "resolve", None))
            or (item.name in {"state_dir", "config_namespace", "identity"})
        )
        return
    shown = item.shown_default
    assert item.described().startswith(f"{item.text}. Default {shown}")
    if isinstance(default, bool):
        assert shown == ("on" if default else "off")
    else:
        assert item.kind.parse(shown) == default


def test_names_are_used_once() -> None:
    """All groups are parsed into one namespace."""
    names = [item.name for item in all_declarations()]
    assert len(names) == len(set(names))


def test_annotations_exist() -> None:
    """Help names only annotations that are read."""
    known = {value for value in vars(variant_annotations).values() if isinstance(value, str)}
    for item in all_declarations():
        assert not item.annotation or item.annotation in known


def test_every_field_of_a_group_is_declared() -> None:
    """None has a plain default that no flag and no page would show."""
    for group in GROUPS:
        assert len(declarations(group)) == len(dataclasses.fields(group))


def test_the_page_is_fresh() -> None:
    """Docs/configuration.md says what the declarations say; else run scripts/generate_docs.py."""
    assert (DOCS / "configuration.md").read_text(encoding="utf-8") == page.text()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0s"), (0.5, "500ms"), (1.0, "1s"), (90.0, "90s"), (300.0, "5m"), (3600.0, "1h")],
)
def test_durations_are_shown_in_their_largest_unit(value: float, text: str) -> None:
    """As people write them."""
    assert show_seconds(value) == text


@pytest.mark.parametrize(("text", "value"), [("10%", 0.1), ("0.1", 0.1), ("0%", 0.0), ("0", 0.0)])
def test_a_share_is_a_number_or_a_percentage(text: str, value: float) -> None:
    """As the page of the settings says of all shares."""
    assert share(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["100%", "1", "-1%", "10%%", "%", "nan%", "x"])
def test_a_share_is_less_than_all(text: str) -> None:
    """The message says both ways to write it, and repeats the text."""
    with pytest.raises(ValueError, match=r">= 0 and < 1, such as 10%, not "):
        share(text)
