"""ConfigMaps fail static: a row that breaks or disappears stays in force as it last was good."""

from __future__ import annotations

from typing import Any

import pytest

from adapter import errors
from adapter.installation import CLASSES, COSTS, WVA_QUEUEING
from adapter.planning import fleet
from adapter.resources import schemas
from adapter.resources.config_maps import ConfigMaps
from adapter.resources.configuration import profiles, rows
from adapter.resources.configuration.last_good import HELD, NOTHING, LastGood
from adapter.resources.wva.config import WvaConfig

PREMIUM = """\
name: Premium
priority: 1
data:
  - model: m
    slo-tpot: 24
    slo-ttft: 500
  - model: n
    slo-tpot: 80
"""
CLASS = "data.premium"


def read(last: LastGood = NOTHING, **rows: str | None) -> tuple[ConfigMaps, list[str]]:
    """ConfigMaps with one class and one cost, of which rows are changed; None leaves one out."""
    problems: list[str] = []
    settings = ConfigMaps(problems, last)
    texts = {"A100": '{"device": "NVIDIA-A100", "cost": "40.00"}', "premium": PREMIUM, **rows}
    for name, keys in (
        (COSTS, ["A100", "H100"]),
        (CLASSES, ["premium", "other"]),
    ):
        data = {key: texts[key] for key in keys if texts.get(key) is not None}
        if data:
            settings.read(f"ConfigMap s/{name}", {"metadata": {"name": name}, "data": data})
        else:
            settings.missing(f"ConfigMap s/{name}", name)
    return settings, problems


def spec(model: str = "m", named: str = "") -> schemas.VariantAutoscalingSpec:
    return schemas.VariantAutoscalingSpec.model_validate(
        {"modelID": model, "sloClassRef": {"name": named}}
    )


def joined(settings: ConfigMaps, *models: str) -> LastGood:
    """What the next reading falls back to, with variants of these models on A100."""
    for model in models:
        settings.class_of(spec(model, "premium"))
    settings.prices(["A100"])
    return settings.last_good


def good() -> LastGood:
    return joined(read()[0], "m", "n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PREMIUM.replace("slo-tpot: 24", "slo-tpot: fast"), "line 5: data[0].slo-tpot: must be"),
        (PREMIUM.replace("slo-tpot: 24", "slo-tpot: -1"), "line 5: data[0].slo-tpot: must be"),
        (PREMIUM.replace("slo-tpot: 24", "slo_tpot: 24"), "line 5: data[0].slo_tpot: is not known"),
        (PREMIUM.replace("model: m", "modle: m"), "line 4: data[0].model: is missing"),
        (PREMIUM.replace("slo-ttft: 500", "slo-itl: 30"), "line 6: data[0].slo-itl: means the same"),
        (PREMIUM.replace("model: n", "model: m"), "line 7: data[1].model: is listed twice"),
        (PREMIUM.replace("    slo-tpot: 24\n    slo-ttft: 500\n", ""), "line 4: data[0]: has no target"),
        (PREMIUM.replace("slo-tpot: 24", "slo-tpot: 0").replace("500", "0"), "has no target"),
        (PREMIUM.replace("slo-ttft: 500", "slo-tpot: 5"), "line 6: slo-tpot: is given twice"),
        (PREMIUM.replace("priority: 1", "priority: 0"), "line 2: priority: must be"),
        (PREMIUM.replace("priority: 1", "prio: 1"), "line 2: prio: is not known; known are name"),
        (PREMIUM.partition("data:")[0], "line 1: data: is missing"),
        (PREMIUM.partition("data:")[0] + "data: []", "line 3: data: has none; give one or more"),
        (PREMIUM + "  -: [", "not valid YAML: "),
    ],
)  # fmt: skip
def test_a_broken_class_stays_in_force(text: str, said: str) -> None:
    """Whatever breaks it: its place is named, and the targets are those of before, for the others too."""
    settings, problems = read(good(), premium=text)
    (problem,) = problems
    assert problem.startswith(f"ConfigMap s/service-classes-config: {CLASS}: ")
    assert said in problem
    assert HELD in problem
    service_class, notes = settings.class_of(spec(named="Premium"))
    assert service_class.targets["m"] == fleet.Targets(itl_ms=24, ttft_ms=500)
    assert notes == (problem,)
    assert settings.class_of(spec("n", "premium"))[0].targets["n"] == fleet.Targets(itl_ms=80)
    assert {item.name: item.priority for item in settings.service_classes} == {"Premium": 1}
    again, _ = read(joined(settings, "m", "n"), premium=text)
    assert again.class_of(spec())[0].targets["m"].itl_ms == 24
    repaired, problems = read(again.last_good, premium=PREMIUM.replace("24", "30"))
    assert (problems, repaired.class_of(spec())[1]) == ([], ())
    assert repaired.class_of(spec())[0].targets["m"].itl_ms == 30


def test_an_entry_is_an_error_of_its_own() -> None:
    """The other entries of the class change as written, without a word to their variants."""
    text = PREMIUM.replace("slo-tpot: 24", "slo-tpot: fast").replace("80", "70")
    settings, _ = read(good(), premium=text)
    service_class, notes = settings.class_of(spec("n"))
    assert (service_class.targets["n"].itl_ms, notes) == (70, ())
    assert settings.class_of(spec())[1] != ()


def test_a_row_without_a_past_is_an_error_that_the_variant_is_told() -> None:
    """At the first reading a broken entry lists nothing; its variant's message has its place."""
    settings, _ = read(premium=PREMIUM.replace("slo-tpot: 24", "slo-tpot: fast"))
    with pytest.raises(errors.InputError, match=r"data\.premium: line 5: data\[0\]\.slo-tpot"):
        settings.class_of(spec(named="premium"))
    assert settings.class_of(spec("n"))[0].name == "Premium"


@pytest.mark.parametrize("named", ["", "Premium", "premium"])
@pytest.mark.parametrize(
    ("text", "said"),
    [(None, "is gone"), (PREMIUM.replace("model: m", "model: o"), "no longer lists")],
)
def test_what_is_gone_stays_in_force_for_those_who_need_it(
    named: str, text: str | None, said: str
) -> None:
    """A deleted ConfigMap, row or entry is no order to stop; unused rows are forgotten."""
    settings, _ = read(good(), premium=text)
    service_class, (note,) = settings.class_of(spec(named=named))
    assert service_class.targets["m"].itl_ms == 24
    assert f"{CLASS}: {said}" in note
    planned = {item.name: set(item.targets) for item in settings.service_classes}
    assert planned["Premium"] == {"m"} | ({"o", "n"} if text else set())
    later, _ = read(settings.last_good, premium=text)
    assert later.class_of(spec(named=named))[0].targets["m"].itl_ms == 24
    if text is None:
        with pytest.raises(errors.InputError, match="no service class lists"):
            later.class_of(spec("n"))


def test_a_row_that_takes_over_replaces_what_is_gone() -> None:
    """Another key, or another class that lists the model, holds from then on."""
    renamed, _ = read(good(), premium=None, other=PREMIUM.replace("24", "30"))
    assert renamed.class_of(spec(named="Premium"))[0].targets["m"].itl_ms == 30
    other = PREMIUM.replace("Premium", "Gold").replace("24", "50")
    moved, _ = read(good(), premium=None, other=other)
    assert moved.class_of(spec())[0].name == "Gold"
    assert moved.class_of(spec(named="Premium"))[0].name == "Premium"


def test_two_classes_of_one_name() -> None:
    """The second is an error of its row; the first stays."""
    settings, problems = read(other=PREMIUM.replace("24", "99"))
    assert problems == [
        "ConfigMap s/service-classes-config: data.other: name: class 'Premium' is already defined"
    ]
    assert settings.class_of(spec())[0].targets["m"].itl_ms == 24


@pytest.mark.parametrize("own", [PREMIUM.replace("Premium", "Gold").replace("24", "99"), "name: ["])
def test_a_class_that_takes_the_name_of_another_one_is_wrong(own: str) -> None:
    """Whatever the order of their keys; the other one stays, also where its own row is broken."""
    gold = PREMIUM.replace("Premium", "Gold").replace("24", "99")
    settings, _ = read(other=gold)
    for name in ("Premium", "Gold"):
        settings.class_of(spec(named=name))
    taking, problems = read(
        settings.last_good, premium=PREMIUM.replace("Premium", "Gold"), other=own
    )
    assert any("data.premium: name: class 'Gold' is already defined" in text for text in problems)
    assert taking.class_of(spec(named="Gold"))[0].targets["m"].itl_ms == 99
    assert taking.class_of(spec(named="Premium"))[0].targets["m"].itl_ms == 24


QUEUEING_ENTRY = "model_id: m\nnamespace: n\ntargetTTFT: 500\n"


def queueing(last: WvaConfig | None = None, **entries: str | None) -> tuple[WvaConfig, list[str]]:
    """The ConfigMap of 2026 with targets, after that reading; None leaves an entry out."""
    config = WvaConfig(None if last is None else last.good)
    data = {"default": "sloMultiplier: 3.0", "m": QUEUEING_ENTRY, **entries}
    given = {key: text for key, text in data.items() if text is not None}
    return config, config.read("ConfigMap s/q", WVA_QUEUEING, given)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (QUEUEING_ENTRY.replace("500", "500ms"), "data.m: line 3: targetTTFT: must be a number"),
        ("model_id: [", "data.m: not valid YAML"),
        ("", "data.m: model_id: is missing"),
        (None, "data.m: is gone"),
    ],
)
def test_targets_of_2026_stay_in_force(text: str | None, said: str) -> None:
    """A variant keeps targets whose entry is broken or gone, and is told so, until the entry is back."""
    config = queueing()[0]
    for _ in range(3):
        config, problems = queueing(config, m=text)
        given = config.class_of("n", "m", untargeted=True)
        assert given is not None
        assert given.targets["m"] == fleet.Targets(ttft_ms=500)
        (note,) = config.notes_of(given.name)
        assert note.startswith(f"ConfigMap s/q: {said}")
        assert HELD in note
        assert problems == ([] if text is None else [note])
    repaired, problems = queueing(config, m=QUEUEING_ENTRY.replace("500", "300"))
    given = repaired.class_of("n", "m", untargeted=True)
    assert given is not None
    assert (problems, repaired.notes_of(given.name)) == ([], ())
    assert given.targets["m"].ttft_ms == 300


@pytest.mark.parametrize(
    ("text", "models"), [(QUEUEING_ENTRY.replace("500", "soon"), ["m"]), ("a: [", [])]
)
def test_targets_of_2026_without_a_past_are_no_statement(text: str, models: list[str]) -> None:
    """A variant whose entry never was good gets no targets and is told why; others are not touched."""
    for model in ("m", "o"):
        problems: list[str] = []
        settings = ConfigMaps(problems)
        document = {"metadata": {"name": WVA_QUEUEING}, "data": {"m": text}}
        settings.read("ConfigMap s/q", document)
        item = schemas.VariantAutoscalingSpec.model_validate(
            {"modelID": model, "scaleTargetRef": {"kind": "Deployment", "name": "v"}}
        )
        if model in models:
            with pytest.raises(errors.InputError, match=r"ConfigMap s/q: data\.m: "):
                settings.class_of(item)
        else:
            assert settings.class_of(item)[0].targets[model] == fleet.Targets()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"device": "NVIDIA-A100", "cost": "cheap"}', "line 1: cost: must be a number"),
        ('{"device": "NVIDIA-A100",\n "price": "40"}', "line 2: price: is not known; known are device"),
        ('{"device": "NVIDIA-A100"', "not valid JSON: "),
        ('{"cost": 1, "cost": 2}', "line 1: cost: is given twice"),
        (None, "ConfigMap s/accelerator-unit-costs: is missing"),
    ],
)  # fmt: skip
def test_a_price_stays_in_force(text: str | None, said: str) -> None:
    """Broken or gone, with what is wrong told to the variants that name it, and to no other."""
    settings, problems = read(good(), A100=text)
    assert said in problems[0]
    priced, notes = settings.prices(["A100"])
    assert priced["A100"].unit_cost == 40
    assert len(notes) == 1
    assert "data.A100" in notes[0]
    assert HELD in notes[0]
    assert settings.accelerators["A100"].unit_cost == 40
    again, _ = read(settings.last_good, A100=text)
    assert again.prices(["A100"])[0]["A100"].unit_cost == 40


def test_a_price_without_a_past_is_told_to_the_variants_that_name_it() -> None:
    """At the first reading a broken row is no price; "add it" would send people to look for another place."""
    settings, (problem,) = read(A100='{"cost": "cheap"}', H100='{"cost": 90}')
    item = schemas.VariantAutoscalingSpec.model_validate(
        {
            "modelID": "m",
            "modelProfile": {
                "accelerators": [
                    {"acc": name, "accCount": 1, "alpha": "9", "beta": "1", "maxBatchSize": 8}
                    for name in ("A100", "H100", "L4")
                ]
            },
        }
    )
    unprofiled = item.model_copy(update={"profile": None, "variant_cost": 10.0})
    with pytest.raises(errors.InputError, match=r"'A100': its row cannot be read: .*data\.A100"):
        profiles.of_spec(unprofiled, settings.prices([])[0], settings.broken_costs, ["A100"])
    given, told = profiles.of_spec(item, settings.prices([])[0], settings.broken_costs)
    assert [profile.accelerator for profile in given] == ["H100"]
    assert told[0].endswith(f"'A100' has no cost; left out. Its row cannot be read: {problem}")
    assert told[1].endswith(
        "'L4' has no cost; left out. Add it to ConfigMap accelerator-unit-costs, which has H100"
    )
    assert read(good(), A100="{")[0].broken_costs == {}


def test_a_price_that_nobody_names_goes() -> None:
    """A row is deleted for good where no variant needs it, and others are not told."""
    settings, _ = read(good(), A100=None, H100='{"cost": 90}')
    assert settings.prices(["H100"]) == ({"H100": settings.accelerators["H100"]}, ())
    assert set(settings.last_good.accelerators) == {"H100"}


@pytest.mark.parametrize(
    ("keys", "targets"),
    [
        ({"slo-itl": 24, "slo-ttw": 500}, fleet.Targets(itl_ms=24, ttft_ms=500)),
        ({"slo-itl": 24, "slo-ttft": 500}, fleet.Targets(itl_ms=24, ttft_ms=500)),
        *(
            ({"slo-tps": 100, "slo-percentile": text}, fleet.Targets(tps=100, percentile=0.95))
            for text in (95, 0.95, "p95", "95%", '"95 %"')
        ),
    ],
)
def test_spellings_of_targets(keys: dict[str, Any], targets: fleet.Targets) -> None:
    """The names of 2025 mean what they meant."""
    entry = "".join(f"    {key}: {value}\n" for key, value in keys.items())
    text = f"name: P\npriority: 1\ndata:\n  - model: m\n{entry}"
    settings, problems = read(premium=text)
    assert problems == []
    assert settings.class_of(spec())[0].targets == {"m": targets}


@pytest.mark.parametrize(("text", "missing"), [(1, 99), (0.05, 95), ("5%", 95), ("p1", 99)])
def test_a_percentile_that_most_may_miss_is_refused(text: object, missing: int) -> None:
    """Who writes 1 means all requests, or that 1 % may miss: neither is the first percentile."""
    entry = f"    slo-ttft: 500\n    slo-percentile: {text}\n"
    _, problems = read(premium=f"name: P\npriority: 1\ndata:\n  - model: m\n{entry}")
    (problem,) = problems
    assert f"lets {missing} % of the requests miss the targets" in problem
    assert "slo-percentile" in problem


def test_an_unknown_class_is_told() -> None:
    """The class that lists the model serves, and the wrong reference is named with what there is."""
    settings, _ = read()
    service_class, (note,) = settings.class_of(spec(named="gold"))
    assert service_class.name == "Premium"
    assert note.startswith(
        "spec.sloClassRef.name: no service class is called 'gold'; there are Premium"
    )


DEFAULT_CLASS = PREMIUM.replace("slo-tpot: 24", "slo-tpot: 99")


def with_defaults(
    own: dict[str, dict[str, str]], *, first: bool, last: LastGood = NOTHING
) -> tuple[ConfigMaps, list[str]]:
    """ConfigMaps of people beside the defaults of an installation, which are read first or last."""
    problems: list[str] = []
    settings = ConfigMaps(problems, last)
    shipped = {
        "accelerator-unit-costs-defaults": {
            "A100": '{"device": "NVIDIA-A100", "cost": "40.00"}',
            "G2": '{"device": "Gaudi", "cost": "23.00"}',
        },
        "service-classes-config-defaults": {"premium": DEFAULT_CLASS},
    }
    for name, data in (
        [*shipped.items(), *own.items()] if first else [*own.items(), *shipped.items()]
    ):
        settings.read(f"ConfigMap s/{name}", {"metadata": {"name": name}, "data": data})
    return settings, problems


def prices(settings: ConfigMaps) -> dict[str, float]:
    return {name: item.unit_cost for name, item in settings.accelerators.items()}


@pytest.mark.parametrize("first", [True, False])
def test_what_people_wrote_hides_the_defaults_of_its_keys_alone(*, first: bool) -> None:
    """A price and an SLO of theirs count, whichever ConfigMap is read first; other rows are the defaults."""
    assert prices(with_defaults({}, first=first)[0]) == {"A100": 40.0, "G2": 23.0}
    own = {
        COSTS: {"A100": '{"device": "NVIDIA-A100", "cost": "7"}'},
        CLASSES: {"premium": PREMIUM},
    }
    settings, problems = with_defaults(own, first=first)
    assert problems == []
    assert prices(settings) == {"A100": 7.0, "G2": 23.0}
    service_class, _ = settings.class_of(spec("m", "premium"))
    assert service_class.targets["m"].itl_ms == 24


@pytest.mark.parametrize("first", [True, False])
def test_a_class_of_theirs_replaces_the_default_of_its_name(*, first: bool) -> None:
    """It may stand under another key: two classes of one name would be a problem of theirs."""
    settings, problems = with_defaults({CLASSES: {"gold": PREMIUM}}, first=first)
    assert problems == []
    assert list(settings.classes) == ["gold"]


@pytest.mark.parametrize("first", [True, False])
def test_a_row_of_theirs_that_is_broken_does_not_become_the_default(*, first: bool) -> None:
    """Neither at the start, where there is no price then, nor later, where the last good one stays."""
    own = {COSTS: {"A100": "seven"}}
    settings, problems = with_defaults(own, first=first)
    assert "A100" not in prices(settings)
    assert len(problems) == 1
    good_one = {COSTS: {"A100": '{"device": "NVIDIA-A100", "cost": "7"}'}}
    settings = with_defaults(good_one, first=first)[0]
    settings.prices(["A100"])
    last = settings.last_good
    for broken in (own, {}):
        settings, _ = with_defaults(broken, first=first, last=last)
        settings.prices(["A100"])
        assert prices(settings)["A100"] == 7.0


def test_a_row_that_did_not_change_is_not_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cycle reads all rows, and long YAML takes a second; a changed row counts at once."""
    long = "name: A\npriority: 1\ndata:\n" + "".join(
        f"- {{model: m{number}, slo-tpot: 24}}\n" for number in range(200)
    )
    texts = [long, "name: A\npriority: 1\ndata: [{model: m, slo-tpot: 24}]"]
    first = [rows.parse_class(text) for text in texts]
    with monkeypatch.context() as patched:
        patched.delattr(rows, "parse_yaml")
        assert [rows.parse_class(text) for text in texts] == first
    changed = rows.parse_class(long.replace("24", "25")).service_class
    assert changed is not None
    assert changed.targets["m0"].itl_ms == 25


def test_tabs_between_values_are_read_as_go_does() -> None:
    """The API server takes such a text, and so does every reader in Go."""
    settings, problems = read(premium=PREMIUM.replace("priority: 1", "priority:\t1"))
    assert problems == []
    assert [item.priority for item in settings.service_classes] == [1]


def test_a_row_with_tabs_names_its_lines_and_the_keys_that_it_has_twice() -> None:
    tabs = PREMIUM.replace("priority: 1", "priority:\t1")
    assert (
        "line 5: data[0].slo-tpot: must be"
        in (rows.parse_class(tabs.replace("slo-tpot: 24", "slo-tpot: fast")).entry_problems["m"])
    )
    assert rows.parse_class(tabs.replace("slo-ttft: 500", "slo-tpot: 5")).problems


@pytest.mark.parametrize("level", ["- ", "? ", '["]", ', "[ #]\n"])
def test_levels_of_any_kind_are_bounded_before_they_are_composed(level: str) -> None:
    """The parser in C recurses as deep as they go, and once ended the process."""
    row = rows.parse_class(level * (100_000 // len(level)))
    assert row.problems == ("nested more than 64 levels deep",)
