"""Sweeps over the adapter's settings, as a user writes them."""

from __future__ import annotations

import pytest

from adapter import cli, errors
from adapter.settings.control import Sizing
from emulator.replay import compare
from emulator.replay.adapter_policy import settings_of
from emulator.replay.choices import names, settings
from tests.emulator.replay.small_scenarios import generated, one_model
from tests.emulator.replay.test_command import REPLAYS


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "adapter.foo=1",
            r"no setting 'adapter.foo'; known are adapter.percentile, adapter.interval, .*",
        ),
        ("percentile=0.9", r"no setting 'percentile'; did you mean adapter.percentile\?"),
        ("adapter.percentle=0.9", r"did you mean adapter.percentile\?"),
        (
            "adapter.percentile",
            "adapter.percentile: has no values; write adapter.percentile=VALUE,VALUE",
        ),
        ("adapter.percentile=,", "has no values"),
        (
            "adapter.percentile=99",
            "must be shares from 0.5 and below 1, such as 0.95 for p95, not '99'",
        ),
        ("adapter.percentile=0.3", "must be shares from 0.5 and below 1, .*, not '0.3'"),
        ("adapter.down_window=long", "adapter.down_window: .*long"),
    ],
)
def test_wrong_sweeps_are_named(text: str, said: str) -> None:
    """One sentence with the flag, what is wrong and what there is."""
    with pytest.raises(errors.UsageError, match=f"^--sweep.*{said}"):
        settings.parse(text)


def test_several_sweeps_are_a_grid() -> None:
    """All combinations, in the order of the flags; a setting that is there twice is an error."""
    one = settings.parse("adapter.percentile=0.9,0.99")
    two = settings.parse("adapter.down-window=90s,3m")
    assert settings.grid([one, two]) == (
        {"percentile": "0.9", "down_window": "90s"}, {"percentile": "0.9", "down_window": "3m"},
        {"percentile": "0.99", "down_window": "90s"}, {"percentile": "0.99", "down_window": "3m"},
    )  # fmt: skip
    with pytest.raises(errors.UsageError, match=r"adapter.percentile: is there twice"):
        settings.grid([one, one])


def test_values_reach_the_loop() -> None:
    """Only the swept settings differ from those of the scenario."""
    scenario = one_model(loop={"interval": "20s", "scrapeInterval": "10s"})
    base = settings_of(scenario)
    changed, percentile = settings.applied(
        base, scenario, {"percentile": "0.9", "down_window": "10m", "interval": "45s"}
    )
    assert percentile == 0.9
    assert changed.limits.down_seconds == 600 != base.limits.down_seconds == Sizing().down_window
    assert (base.interval, changed.interval) == (20, 45)
    assert changed.collection == base.collection
    assert settings.applied(base, scenario, {}) == (base, None)


def test_swept_policies_are_points_of_one_curve() -> None:
    """Each value is a policy of its own with its settings; the default one keeps the plain name."""
    sweep = [settings.parse("adapter.percentile=0.5,0.99")]
    offered = generated(kind="step", levels=[[200, 60], [200, 250]])
    comparison = compare.compare(one_model(), {"m": offered}, ("ours", "queue@2"), sweeps=sweep)
    low, high, queue = comparison.results
    assert (low.policy, high.policy, queue.policy) == ("ours percentile=0.5", "ours", "queue@2")
    assert low.family == high.family == "ours"
    assert (low.settings, high.settings) == ({"percentile": 0.5}, {"percentile": 0.99})
    assert low.gpu_hours != high.gpu_hours
    with pytest.raises(errors.UsageError, match="--sweep: varies ours and ours-reactive"):
        names.check(("queue@2",), sweep)


def test_unknown_settings_end_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2 and one line, before anything is replayed."""
    scenario = str(REPLAYS / "scenario.yaml")
    assert cli.main(["replay", "--scenario", scenario, "--sweep", "adapter.size=3"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "no setting 'adapter.size'; known are adapter.percentile, " in printed.err
