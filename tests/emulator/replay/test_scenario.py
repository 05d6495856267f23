"""Scenario files: what is in them, and errors that name the field and what would be right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapter import cli
from adapter.errors import InputError
from emulator.replay import scenario
from emulator.replay.replicas.specs import LinearProfile, VllmEngine

REPLAYS = Path(__file__).parents[3] / "manifests/samples/replay"
Change = Callable[[dict[str, Any]], Any]


def written(folder: Path, change: Change = lambda _: None) -> Path:
    """The sample with something changed."""
    document = yaml.safe_load((REPLAYS / "profile.yaml").read_text())
    change(document)
    path = folder / "scenario.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def model(**fields: Any) -> Change:
    return lambda document: document["models"][0].update(fields)


def variant(**fields: Any) -> Change:
    return lambda document: document["variants"][0].update(fields)


def test_sample() -> None:
    """The sample says what it is to say, and what it leaves out is Kubernetes' and the adapter's default."""
    served = scenario.read(REPLAYS / "scenario.yaml").variants[0]
    assert isinstance(served.engine, VllmEngine)
    assert served.profile == "fit"
    sample = scenario.read(REPLAYS / "profile.yaml")
    chat = sample.variants[0]
    profile = chat.profile
    assert isinstance(profile, LinearProfile)
    assert sample.accelerators["A100"].cost == 40
    assert sample.accelerators["A100"].devices is None
    assert (sample.models[0].slo.ttft, sample.models[0].slo.itl) == (500, 24)
    numbers = (profile.alpha, profile.beta, profile.gamma, profile.delta, profile.max_batch_size)
    assert numbers == (20.58, 0.41, 5.2, 0.1, 8)
    assert (chat.startup, chat.min_replicas, chat.max_replicas) == (60, 1, 20)
    assert (sample.hpa.sync_period, sample.hpa.tolerance, sample.hpa.scale_down_stabilization) == (
        15,
        0.1,
        300,
    )
    assert (sample.loop.interval, sample.loop.scrape_interval) == (30, 15)


def test_sample_of_two_classes() -> None:
    """Two models of two classes, each with its own trace, share a limited number of GPUs."""
    sample = scenario.read(REPLAYS / "two-classes.yaml")
    assert [(item.service_class, item.priority) for item in sample.models] == [
        ("Premium", 1),
        ("Freemium", 10),
    ]
    assert sample.accelerators["A100"].devices == 12
    given = scenario.traffic(sample, None, base=REPLAYS)
    assert [item.trace.name for item in given.values()] == ["bursts", "diurnal"]
    replaced = scenario.traffic(sample, REPLAYS / "step.yaml", base=REPLAYS)
    assert [item.trace.name for item in replaced.values()] == ["step-3x", "diurnal"]


def second_model(document: dict[str, Any]) -> None:
    document["models"].append({"model": "b", "slo": {"ttft": 1, "itl": 1}})


WRONG: dict[str, tuple[Change, str]] = {
    "no-models": (lambda d: d.update(models=[]), "models: must have at least one"),
    "no-variants": (lambda d: d.update(variants=[]), "models.default/default: no variant serves it"),
    "not-served": (second_model, "models.b: no variant serves it"),
    "model-twice": (
        lambda d: d["models"].append(d["models"][0]), "models: each model can be there only once"
    ),
    "variant-twice": (lambda d: d["variants"].append(d["variants"][0]), "variants.chat.name: is there twice"),
    "unknown-model": (variant(model="x"), "variants.chat.model: 'x' is none of models: default/default"),
    "unknown-gpu": (variant(accelerator="H100"), "variants.chat.accelerator: 'H100' is none of"),
    "unknown-field": (variant(replica=3), "variants.0.replica: is not known; did you mean replicas?"),
    "no-target": (lambda d: d["models"][0].pop("slo"), "models.0.slo: is missing"),
    "target-of-0": (model(slo={"ttft": 0, "itl": 24}), "models.0.slo.ttft: must be > 0"),
    "target-with-a-unit": (
        model(slo={"ttft": "500ms", "itl": 24}), "models.0.slo.ttft: must be a number, in ms, not '500ms'"
    ),
    "target-in-seconds": (
        model(slo={"ttft": 500, "itl": "0.02s"}), "models.0.slo.itl: must be a number, in ms, not '0.02s'"
    ),
    "tolerance-in-percent": (lambda d: d.update(hpa={"tolerance": 10}), "hpa.tolerance: must be < 1, not 10"),
    "batch-of-0": (
        lambda d: d["variants"][0]["profile"].update(maxBatchSize=0),
        "variants.0.profile.maxBatchSize: must be >= 1",
    ),
    "above-the-maximum": (variant(replicas=21), "variants.chat.replicas: 21 is not within minReplicas and"),
    "below-the-minimum": (variant(minReplicas=3), "variants.chat.replicas: 2 is not within minReplicas and"),
    "minimum-above-the-maximum": (
        variant(minReplicas=5, maxReplicas=2), "variants.chat.maxReplicas: 2 is less than minReplicas, 5"
    ),
    "kind-of-engine": (
        variant(engine={"kind": "sglang", "stepMs": {"base": 20}, "maxNumSeqs": 16}),
        "variants.0.engine.kind: must be vllm, profile or module:factory, not 'sglang'",
    ),
    "field-of-another-kind": (
        variant(engine={"kind": "profile", "maxNumSeqs": 16}),
        "variants.0.engine.maxNumSeqs: is not known here, only beside another kind or other fields",
    ),
    "more-than-there-are": (
        lambda d: (d["accelerators"]["A100"].update(devices=2), d["variants"][0].update(devices=4)),
        "variants.chat.devices: 4 are more than the accelerator's 2",
    ),
    "no-duration": (variant(startup="a while"), "variants.0.startup: must be a duration such"),
    "start-of-null": (
        variant(startup=None), "variants.0.startup: must be a duration such as 60s, 1m30s or 24h, not null"
    ),
    "start-of-a-list": (
        variant(startup=["60s"]),
        "variants.0.startup: must be a duration such as 60s, 1m30s or 24h, not a list",
    ),
    "steps-in-seconds": (
        variant(engine={"kind": "vllm", "stepMs": {"base": 0.007, "perRequest": 5e-5}, "kvTokens": 432000}),
        "variants.0.engine.stepMs: a step with 16 requests takes 0.0078 ms, which no server reaches",
    ),
    "profile-in-seconds": (
        variant(profile={"alpha": 0.02058, "beta": 0.00041, "maxBatchSize": 8}),
        "variants.0.profile: a step with 16 requests takes 0.0271 ms, which no server reaches",
    ),
    "endless-start": (variant(startup=float("inf")), "variants.0.startup: must be a duration"),
    "negative-start": (variant(startup=-1), "variants.0.startup: must be a duration"),
    "pass-after-pass": (lambda d: d.update(loop={"interval": 0}), "loop.interval: must be > "),
    "endless-syncs": (lambda d: d.update(hpa={"syncPeriod": "0s"}), "hpa.syncPeriod: must be"),
    "routing": (lambda d: d.update(routing="random"), "routing: must be 'least-loaded' or"),
    "ends-before-it-begins": (
        variant(unschedulable={"from": "20m", "to": "10m"}),
        "variants.chat.unschedulable: from (1200 s) must be before to (600 s)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_errors_name_the_field(tmp_path: Path, name: str) -> None:
    """A wrong scenario is refused with its file, the field and what is wrong, without what only follows."""
    change, said = WRONG[name]
    path = written(tmp_path, change)
    with pytest.raises(InputError) as caught:
        scenario.read(path)
    assert str(caught.value).startswith(f"{path}: {said}")
    assert ";" not in str(caught.value).replace("; did you mean", "").replace(
        "; times are in ms", ""
    )


@pytest.mark.parametrize(("name", "target"), [("ttft", 0.5), ("itl", 0.04)])
def test_a_target_shorter_than_a_step_is_refused(tmp_path: Path, name: str, target: float) -> None:
    """A target in seconds, which no request would meet, is not replayed."""
    document = yaml.safe_load((REPLAYS / "vllm.yaml").read_text())
    base = document["variants"][0]["engine"]["stepMs"]["base"]
    document["models"][0]["slo"][name] = target
    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(InputError) as caught:
        scenario.read(path)
    assert f".slo.{name}: {target:g} ms are shorter than one step of an engine, {base:g} ms" in str(
        caught.value
    )
    document["models"][0]["slo"][name] = base
    path.write_text(yaml.safe_dump(document))
    scenario.read(path)


def test_every_wrong_field_is_named(tmp_path: Path) -> None:
    """Several wrong fields are told at once."""
    path = written(
        tmp_path, lambda d: (model(slo={"ttft": 0, "itl": 24})(d), variant(startup="x")(d))
    )
    with pytest.raises(InputError, match=r"models\.0\.slo\.ttft: .*; variants\.0\.startup: "):
        scenario.read(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"models: [", "not valid YAML"),
        (b"warmUp: 120s\nmodels: []\nwarmUp: 10s", "line 3: warmUp is there twice"),
        (b"\xff", "cannot be read"),
        (b"[]", "document: must be a mapping of fields"),
        (b"", "is empty; a scenario has accelerators, models and variants"),
        (b"# nothing", "is empty; a scenario has accelerators"),
        (b"{}", "has nothing, and so is no scenario; a scenario has"),
        (b"kind: step\nname: s", "has kind, name, and so is no scenario; a scenario has"),
    ],
)
def test_no_scenario(tmp_path: Path, text: bytes, said: str) -> None:
    """What is no YAML, no text or no mapping is told with its file."""
    path = tmp_path / "s.yaml"
    path.write_bytes(text)
    with pytest.raises(InputError) as caught:
        scenario.read(path)
    assert str(caught.value).startswith(f"{path}: {said}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: poisson\nrate_rpm: 60\nrate_rpm: 600", "line 3: rate_rpm is there twice"),
        ("kind: [", "not valid YAML"),
        ("", "is empty; a generator has kind, such as poisson"),
    ],
)
def test_no_generator(tmp_path: Path, text: str, said: str) -> None:
    """A generator's file that cannot be read is told with its name."""
    path = tmp_path / "t.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        scenario.load(path)
    assert str(caught.value).startswith(f"{path}: {said}")


def test_powers_of_ten_are_numbers(tmp_path: Path) -> None:
    """1e2 is a number in a file, as in JSON and in YAML 1.2."""
    path = tmp_path / "t.yaml"
    tokens = "tokens: {input: {mean: 1e2}, output: {mean: 10}}"
    path.write_text(
        f"kind: step\nname: s\nlevels: [[6e1, 1e2]]\nseed: 1\n{tokens}", encoding="utf-8"
    )
    assert scenario.load(path).duration_seconds == 60


POISSON = {"kind": "poisson", "duration_seconds": 600, "rate_rpm": 60,
           "tokens": {"input": {"mean": 128}, "output": {"mean": 178}}}  # fmt: skip


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "is missing; name a file or a generator, or give --trace"),
        ("none.yaml", f"{REPLAYS / 'none.yaml'}: no such file; for a trace by its name"),
        ("none.csv", f"{REPLAYS / 'none.csv'}: no such file; for a trace by its name"),
        ("scenario.yaml", f"{REPLAYS / 'scenario.yaml'}: kind: missing; give one of constant, poisson"),
        ({"kind": "flood"}, "kind: must be one of constant, poisson, "),
        ({**POISSON, "rate_rps": 3}, "rate_rps: unknown field; known are "),
        ({**POISSON, "duration_seconds": 100}, "has no request after the warm-up of 120 s, and lasts 100 s"),
        ({**POISSON, "rate_rpm": 0}, "has no request after the warm-up of 120 s, and lasts 600 s"),
    ],
)  # fmt: skip
def test_errors_of_traces(tmp_path: Path, given: Any, said: str) -> None:
    """A wrong trace is told with its model, its file if it has one, the field and the fix."""
    replay_scenario = scenario.read(written(tmp_path, model(trace=given)))
    with pytest.raises(InputError) as caught:
        scenario.traffic(replay_scenario, None, base=REPLAYS)
    assert str(caught.value).startswith(f"models.default/default.trace: {said}")


def test_a_generator_that_is_no_text_is_named(tmp_path: Path) -> None:
    """Its error is about the file, and not about a codec."""
    file = tmp_path / "bytes.yaml"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError) as caught:
        scenario.load(file)
    assert str(caught.value) == f"{file}: cannot be read: not UTF-8"


def test_generator_in_json(tmp_path: Path) -> None:
    """A generator's description in a JSON file gives the trace of the same one in the scenario."""
    (tmp_path / "trace.json").write_text(
        '{"kind": "step", "levels": [[300, 60], [60, 90], [60, 200]], "seed": 3,'
        ' "tokens": {"input": {"mean": 128}, "output": {"mean": 178}}}'
    )
    inline = yaml.safe_load((tmp_path / "trace.json").read_text())
    offered = [
        scenario.traffic(scenario.read(written(tmp_path, model(trace=given))), None, base=tmp_path)
        for given in ("trace.json", inline)
    ]
    first, second = (item["default/default"] for item in offered)
    assert first.trace.arrival_seconds.tolist() == second.trace.arrival_seconds.tolist()
    assert first.steps == second.steps == ((300.0, 360.0), (360.0, 420.0))


def test_the_command_tells_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An error of the scenario ends the command with one line and status 1, before anything is replayed."""
    path = written(tmp_path, variant(model="x"))
    assert cli.main(["replay", "--scenario", str(path)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == (
        f"variant-adapter replay: {path}: variants.chat.model: 'x' is none of models: default/default\n"
    )
