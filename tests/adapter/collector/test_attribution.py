"""Whose the series in Prometheus are."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter.collector.attribution import Attributed, Attribution
from adapter.collector.promql import Sampled
from adapter.planning import fleet
from adapter.resources.variant import VariantSource
from analyzer.latency import LatencyParameters

PROFILE = fleet.Profile(
    accelerator="A",
    max_batch=4,
    latency=LatencyParameters(alpha_ms=10, beta_ms=1, gamma_ms=0, delta_ms=0),
)


def url(address: str) -> str:
    return f"http://{address}/metrics"


def variant(
    name: str,
    /,
    *,
    pods: dict[str, str] | None = None,
    endpoints: tuple[str, ...] = (),
    **more: Any,
) -> VariantSource:
    """A variant of model `m`: with pods by name and address, or with endpoints only, or with neither."""
    base: dict[str, Any] = {
        "namespace": "n", "model": "m", "service_class": "c", "profiles": (PROFILE,),
        "targets": fleet.Targets(), "accelerator": "A", "replicas": 1,
    }  # fmt: skip
    if pods is not None:
        base |= {"pods": tuple(pods), "pods_known": True}
        endpoints = tuple(map(url, pods.values()))
    return VariantSource(**{**base, "name": name, "endpoints": endpoints, **more})


def sample(pod: str = "", instance: str = "", **more: Any) -> Sampled:
    """One pod's series, of model `m`."""
    base: dict[str, Any] = {
        "namespace": "n", "model": "m", "sampled_at": 100.0, "evaluated_at": 105.0,
    }  # fmt: skip
    return Sampled(**{**base, "pod": pod, "instance": instance, **more})


def told(attributed: list[Attributed]) -> list[tuple[str, str, str]]:
    return [(item.key, item.endpoint, item.how) for item in attributed]


def problems(*variants: VariantSource, samples: list[Sampled]) -> dict[str, str]:
    attribution = Attribution(variants)
    assert attribution.attribute(samples) == []
    return attribution.problems


def test_variants_of_one_model_are_told_apart_by_their_pods() -> None:
    """Also in one namespace, where the model says nothing; the address does not matter."""
    attribution = Attribution(
        [
            variant("a", pods={"a-1": "10.0.0.1:8000", "a-2": "10.0.0.2:8000"}),
            variant("b", pods={"b-1": "10.0.0.3:8000"}),
        ]
    )
    attributed = attribution.attribute(
        [
            sample("b-1", "10.0.0.3:8000"),
            sample("a-2", "somewhere:9"),
            sample("a-1"),
            sample("stranger", "10.0.0.9:8000"),
        ]
    )
    assert told(attributed) == [
        ("n/b", url("10.0.0.3:8000"), "pod"),
        ("n/a", url("10.0.0.2:8000"), "pod"),
        ("n/a", url("10.0.0.1:8000"), "pod"),
    ]
    assert attribution.problems == {}


def test_pods_of_one_name_in_two_namespaces() -> None:
    """The namespace tells them apart; without that label nothing does, unless the address."""
    variants = [
        variant("v", pods={"p-0": "10.0.0.1:8000"}),
        variant("v", pods={"p-0": "10.0.0.2:8000"}, namespace="other"),
    ]
    attributed = Attribution(variants).attribute([sample("p-0"), sample("p-0", namespace="other")])
    assert told(attributed) == [
        ("n/v", url("10.0.0.1:8000"), "pod"),
        ("other/v", url("10.0.0.2:8000"), "pod"),
    ]
    assert Attribution(variants).attribute([sample("p-0", namespace="")]) == []
    (only,) = Attribution(variants).attribute([sample("p-0", "10.0.0.2:8000", namespace="")])
    assert (only.key, only.how) == ("other/v", "address")


def test_a_pod_without_the_label_of_its_namespace() -> None:
    """Its name is enough where no other has it, and it is said that this was so."""
    attribution = Attribution([variant("a", pods={"p": "10.0.0.1:8000"})])
    attributed = attribution.attribute([sample("p", namespace="")])
    assert told(attributed) == [("n/a", url("10.0.0.1:8000"), "pod without namespace")]


@pytest.mark.parametrize(
    ("endpoint", "instance"),
    [
        ("http://10.0.0.1:8000/metrics", "10.0.0.1:8000"),
        ("http://server/metrics", "server:80"),
        ("https://server/metrics", "server:443"),
        ("https://server:8443/a/b", "server:8443"),
        ("http://[fd00::1]:8000/metrics", "[fd00::1]:8000"),
    ],
)
def test_by_address(endpoint: str, instance: str) -> None:
    """Where pods are not known, or series have no such labels."""
    attribution = Attribution([variant("a", endpoints=(endpoint,)), variant("b", model="other")])
    attributed = attribution.attribute(
        [sample("", instance, namespace=""), sample("", "10.9.9.9:8000")]
    )
    assert told(attributed) == [("n/a", endpoint, "address")]
    attributed = Attribution([variant("a", endpoints=(endpoint,))]).attribute(
        [sample("p", instance)]
    )
    assert told(attributed) == [("n/a", endpoint, "address")]


def test_an_address_of_two_variants_tells_neither() -> None:
    """Nor does it when a third has it too."""
    sources = [variant(name, endpoints=(url("10.0.0.1:8000"),)) for name in "abc"]
    for number in (2, 3):
        assert Attribution(sources[:number]).attribute([sample("", "10.0.0.1:8000")]) == []


def test_an_address_that_another_pod_had_before() -> None:
    """Series that name a pod are not of the one that has its address now, or in this cluster."""
    known = variant("a", pods={"new": "10.0.0.1:8000"})
    for other in (
        sample("old", "10.0.0.1:8000"),
        sample("old", "10.0.0.1:8000", namespace=""),
        sample("new", "10.0.0.1:8000", namespace="elsewhere"),
        sample("", "10.0.0.1:8000", namespace="elsewhere"),
    ):
        assert Attribution([known]).attribute([other]) == []
    for same in (
        sample("", "10.0.0.1:8000"),
        sample("", "10.0.0.1:8000", namespace=""),
    ):
        assert told(Attribution([known]).attribute([same])) == [
            ("n/a", url("10.0.0.1:8000"), "address"),
        ]


def test_by_model_where_one_variant_serves_it() -> None:
    """Its servers get names made of their labels; another namespace's are not meant."""
    attribution = Attribution([variant("a"), variant("b", model="other")])
    attributed = attribution.attribute(
        [
            sample("p"),
            sample("", "10.0.0.1:8000"),
            sample("", "10.0.0.2:8000", namespace=""),
            sample("q", namespace="elsewhere"),
            sample("r", model="unknown"),
        ]
    )
    assert told(attributed) == [
        ("n/a", "prometheus:n/p", "model"),
        ("n/a", "prometheus:n/10.0.0.1:8000", "model"),
        ("n/a", "prometheus:/10.0.0.2:8000", "model"),
    ]
    assert attribution.problems == {}


def test_one_model_in_two_namespaces() -> None:
    """The label tells; without it both are told that nothing does."""
    variants = [variant("a"), variant("a", namespace="other")]
    attributed = Attribution(variants).attribute([sample("p"), sample("p", namespace="other")])
    assert [item.key for item in attributed] == ["n/a", "other/a"]
    assert problems(*variants, samples=[sample("p", namespace="")]).keys() == {"n/a", "other/a"}


def test_a_model_of_two_variants_is_ambiguous() -> None:
    """Both say so, with what to set."""
    said = problems(variant("a"), variant("b"), samples=[sample("p")])
    assert said.keys() == {"n/a", "n/b"}
    for text in said.values():
        assert text.startswith("2 variants serve 'm', and no label distinguishes their series")
        assert "llmd.ai/metrics-endpoints" in text


@pytest.mark.parametrize("pods", [{}, {"known": "10.0.0.1:8000"}])
def test_variants_whose_pods_are_known_have_no_others(pods: dict[str, str]) -> None:
    """Their model attributes nothing to them, not even the series of a pod that is not ready."""
    assert problems(variant("a", pods=pods), samples=[sample("starting", "10.0.0.2:8000")]) == {}


def test_variants_with_given_endpoints_have_no_others() -> None:
    """What they do not name may be of one that says nothing."""
    given = variant("a", endpoints=(url("10.0.0.1:8000"),))
    rest = [sample("", "10.0.0.1:8000"), sample("", "10.0.0.2:8000")]
    assert told(Attribution([given]).attribute(rest)) == [("n/a", url("10.0.0.1:8000"), "address")]
    assert told(Attribution([given, variant("b")]).attribute(rest)) == [
        ("n/a", url("10.0.0.1:8000"), "address"),
        ("n/b", "prometheus:n/10.0.0.2:8000", "model"),
    ]


def test_pods_that_are_not_ready_are_not_anothers() -> None:
    """Where a variant's pods are looked at, others of its model may be its own and not ready."""
    known = variant("a", pods={"a-1": "10.0.0.1:8000"})
    attribution = Attribution([known, variant("b")])
    assert [item.key for item in attribution.attribute([sample("a-1"), sample("a-2")])] == ["n/a"]
    assert attribution.problems.keys() == {"n/b"}


def test_another_model_is_named() -> None:
    """A pod that serves something else than the variant says does not count, and the field is named."""
    for labels in ({"pod": "p"}, {"instance": "10.0.0.1:8000"}):
        said = problems(
            variant("a", pods={"p": "10.0.0.1:8000"}), samples=[sample(**labels, model="tuned")]
        )
        (name,) = labels.values()
        assert said == {
            "n/a": f"{name} serves model 'tuned', not 'm'; spec.modelID must be the served model name"
        }


def test_of_several_addresses_of_one_pod_ours_counts() -> None:
    """In any order; the pod counts once."""
    ours, others = sample("p", "10.0.0.1:8000"), [sample("p", "10.0.0.1:1"), sample("p", "z:9")]
    for samples in ([ours, *others], [*others, ours]):
        attribution = Attribution([variant("a", pods={"p": "10.0.0.1:8000"})])
        (attributed,) = attribution.attribute(samples)
        assert attributed.sampled is ours


def test_of_foreign_addresses_always_the_same_counts() -> None:
    """Whichever was sampled last: counters of two servers must not be mixed."""
    for times in ((1.0, 2.0), (2.0, 1.0)):
        samples = [
            sample("p", address, sampled_at=at) for address, at in zip("xy", times, strict=True)
        ]
        for ordered in (samples, samples[::-1]):
            attribution = Attribution([variant("a", pods={"p": "10.0.0.1:8000"})])
            (attributed,) = attribution.attribute(ordered)
            assert attributed.sampled.instance == "y"


@pytest.mark.parametrize("instance", ["10.0.0.1:8000", "elsewhere:1"])
@pytest.mark.parametrize("known", [True, False])
def test_two_jobs_of_one_pod_count_once(instance: str, known: bool) -> None:  # noqa: FBT001 - a parameter
    """The newer sample, in any order."""
    source = variant("a", pods={"p": "10.0.0.1:8000"}) if known else variant("a")
    older, newer = sample("p", instance), sample("p", instance, sampled_at=101.0)
    for samples in ([older, newer], [newer, older]):
        (attributed,) = Attribution([source]).attribute(samples)
        assert attributed.sampled is newer


# Any fleet, any series.

spaces = st.sampled_from(["n", "o"])
models = st.sampled_from(["m", "k"])
ADDRESSES = tuple(f"10.0.0.{n}:8000" for n in range(6))
addresses = st.sampled_from(ADDRESSES)
names = st.sampled_from(["p-0", "p-1", "p-2"])


@st.composite
def fleets(draw: st.DrawFn) -> list[VariantSource]:
    """Variants of each kind; pods may have the same names and models, but not addresses."""
    variants = []
    free = list(draw(st.permutations(ADDRESSES)))
    for number in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["pods", "endpoints", "neither"]))
        pods = None
        if kind == "pods":
            pods = dict(zip(draw(st.lists(names, max_size=3, unique=True)), free, strict=False))
            free = free[len(pods) :]
        some = st.lists(addresses, min_size=1, max_size=2, unique=True)
        endpoints = tuple(map(url, draw(some))) if kind == "endpoints" else ()
        variants.append(
            variant(
                f"v{number}",
                pods=pods,
                endpoints=endpoints,
                namespace=draw(spaces),
                model=draw(models),
            )
        )
    return variants


samples_ = st.lists(
    st.builds(
        sample,
        st.just("") | names,
        st.just("") | addresses | st.just("x:1"),
        namespace=st.just("") | spaces,
        model=models,
        sampled_at=st.sampled_from([99.0, 100.0]),
    ),
    max_size=12,
)


@given(fleet_=fleets(), samples=samples_)
def test_nothing_counts_twice(fleet_: list[VariantSource], samples: list[Sampled]) -> None:
    """No sample is of two variants, no endpoint is there twice, and models are right."""
    attributed = Attribution(fleet_).attribute(samples)
    assert len({id(item.sampled) for item in attributed}) == len(attributed)
    assert len({(item.key, item.endpoint) for item in attributed}) == len(attributed)
    # Names made of labels are those of one variant: a server may serve a second model.
    real = [item.endpoint for item in attributed if item.how != "model"]
    assert len(set(real)) == len(real)
    sources = {source.key: source for source in fleet_}
    for item in attributed:
        source = sources[item.key]
        assert item.sampled.model == source.model
        assert item.sampled.namespace in {"", source.namespace} or item.how == "address"
        if item.how == "model":
            assert not source.pods_known
            assert not source.endpoints
        else:
            assert item.endpoint in source.endpoints


@given(fleet_=fleets(), samples=samples_, data=st.data())
def test_the_order_of_series_does_not_matter(
    fleet_: list[VariantSource], samples: list[Sampled], data: st.DataObject
) -> None:
    """Prometheus promises none."""

    def places(ordered: list[Sampled]) -> set[tuple[str, str, str, float]]:
        return {
            (item.key, item.endpoint, item.sampled.instance, item.sampled.sampled_at)
            for item in Attribution(fleet_).attribute(ordered)
        }

    assert places(samples) == places(data.draw(st.permutations(samples)))
