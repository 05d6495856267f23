"""Tuned profiles: learned once a window, used when enough was learned, off where the variant says so."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from adapter import cli
from adapter.collector.traffic import Traffic
from adapter.controller import telemetry, tuning
from adapter.controller.estimates import stored
from adapter.controller.tuning import TuningSettings
from adapter.planning import fleet
from adapter.resources import folder, variant
from adapter.resources.annotations import TUNE
from analyzer import queueing
from analyzer.latency import LatencyParameters
from emulator.demo import scenario

TRUE = queueing.Replica(
    alpha_ms=10, beta_ms=0.5, gamma_ms=20, delta_ms=0.02,
    input_tokens=300, output_tokens=40, max_batch=16, max_queue=160,
)  # fmt: skip
WRONG = fleet.Profile(
    accelerator="A100",
    max_batch=16,
    latency=LatencyParameters(alpha_ms=15, beta_ms=0.25, gamma_ms=10, delta_ms=0.03),
)
SOURCE = variant.VariantSource(
    namespace="ns",
    name="v",
    model="m",
    service_class="Premium",
    profiles=(WRONG, dataclasses.replace(WRONG, accelerator="H100")),
    targets=fleet.Targets(itl_ms=24),
    accelerator="A100",
    endpoints=("http://127.0.0.1:1", "http://127.0.0.1:2"),
    replicas=2,
)


def traffic(rate_rps: float) -> Traffic:
    """What two replicas that are TRUE show together."""
    steady = queueing.analyze(TRUE, rate_rps / 2)
    return Traffic(
        arrival_rate_rps=rate_rps, input_tokens=300, output_tokens=40,
        ttft_ms=steady.ttft_ms, itl_ms=steady.itl_ms, idle=False,
    )  # fmt: skip


def tuned(source: variant.VariantSource, *, enabled: bool, windows: int = 30) -> tuning.Tuned:
    """Tuners after that many windows of changing load, each observed three times."""
    settings = TuningSettings(enabled=enabled, window_seconds=60)
    tuners: tuning.Tuned = {}
    rng = np.random.default_rng(4)
    for window in range(windows):
        load = traffic(rng.uniform(2, 24))
        for second in (0, 20, 40):  # cycles within a window observe the same requests again
            now = 60.0 * window + second
            tuners = tuning.observe(tuners, source, load, settings=settings, now=now)
    return tuners


def test_a_wrong_profile_is_corrected() -> None:
    """The current accelerator's parameters approach the truth; other profiles stay as written."""
    tuners = tuned(SOURCE, enabled=True)
    first, second = tuning.profiles(tuners, SOURCE)
    assert isinstance(first.latency, LatencyParameters)
    assert first.latency.alpha_ms == pytest.approx(10, rel=0.1)
    assert first.latency.gamma_ms == pytest.approx(20, rel=0.2)
    assert second == SOURCE.profiles[1]
    assert tuners["A100"].tuner.accepted <= 30


@pytest.mark.parametrize(
    ("setting", "annotation", "expected"), [(True, False, False), (False, True, True)]
)
def test_the_annotation_overrides_the_setting(
    *, setting: bool, annotation: bool, expected: bool
) -> None:
    """llmd.ai/tune counts more than the setting, in both directions."""
    source = dataclasses.replace(SOURCE, tune=annotation)
    tuners = tuned(source, enabled=setting)
    assert (tuning.profiles(tuners, source) != source.profiles) is expected


def test_a_rewritten_profile_starts_over() -> None:
    """The tuner of a profile is dropped when the profile is rewritten or its variant is no longer tuned."""
    settings = TuningSettings(enabled=True, window_seconds=60)
    tuners = tuned(SOURCE, enabled=True)
    assert tuning.retain(tuners, SOURCE, settings) == tuners
    off = dataclasses.replace(SOURCE, tune=False)
    assert tuning.retain(tuners, off, settings) == {}
    rewritten = dataclasses.replace(
        SOURCE,
        profiles=(
            dataclasses.replace(WRONG, latency=LatencyParameters(alpha_ms=11, beta_ms=0.25)),
        ),
    )
    assert tuning.retain(tuners, rewritten, settings) == {}
    assert tuning.profiles({}, rewritten) == rewritten.profiles


def test_a_restart_goes_on_from_what_was_stored() -> None:
    """Corrections of a profile without lengths outlive the leader, unless profile or annotation changed."""
    settings = TuningSettings(enabled=True, window_seconds=60)
    before = tuned(SOURCE, enabled=True)
    written = stored.text(SOURCE.model, tuning.to_store(before), "")
    source = dataclasses.replace(SOURCE, stored=written)
    again = tuning.restored({}, source, settings)
    latency = [tuning.profiles(some, source)[0].latency for some in (before, again)]
    assert all(isinstance(one, LatencyParameters) for one in latency)
    assert dataclasses.astuple(latency[1]) == pytest.approx(
        dataclasses.astuple(latency[0]), rel=1e-3
    )
    rewritten = dataclasses.replace(WRONG, latency=LatencyParameters(alpha_ms=14, beta_ms=0.25))
    other = dataclasses.replace(source, profiles=(rewritten,))
    assert tuning.restored({}, other, settings) == {}
    assert tuning.restored({}, dataclasses.replace(source, tune=False), settings) == {}


def test_the_confidence_is_exported() -> None:
    """/metrics tells the estimates and how sure they are."""
    registry = CollectorRegistry()
    states = {("ns/v", name): item.tuner for name, item in tuned(SOURCE, enabled=True).items()}
    registry.register(telemetry.VariantCollector(dict, lambda: states))
    page = generate_latest(registry).decode()
    labels = 'namespace="ns",variant_name="v"'
    (confidence,) = re.findall(r"tuner_confidence\{[^}]*" + labels + r"\} (\S+)", page)
    assert 0.5 < float(confidence) < 1
    assert 'parameter="alpha"' in page


def test_the_annotation_is_read(objects: Path) -> None:
    """True and false are taken, anything else is refused by the annotation's name."""
    scenario.write_deployment(objects, ["http://127.0.0.1:1"], 1)
    path = objects / "deployment.yaml"
    deployment = yaml.safe_load(path.read_text())
    for text, tune in (("true", True), ("False", False)):
        deployment["metadata"]["annotations"][TUNE] = text
        path.write_text(yaml.safe_dump(deployment))
        (source,) = folder.read(objects).variants
        assert source.tune is tune
    deployment["metadata"]["annotations"][TUNE] = "maybe"
    path.write_text(yaml.safe_dump(deployment))
    contents = folder.read(objects)
    assert contents.variants == ()
    said = 'llmd.ai/tune] of Deployment vllme-deployment: must be "true" or "false", not \'maybe\''
    assert said in contents.problems[0]


def test_serve_knows_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    """--tune is a flag of serve."""
    with pytest.raises(SystemExit):
        cli.main(["serve", "--help"])
    assert "--tune" in capsys.readouterr().out
