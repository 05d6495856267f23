"""Requests counted per step from the past of pods: restarts, arrivals and departures of pods, gaps."""

from __future__ import annotations

import re
from http import HTTPStatus

import pytest

from adapter.collector.lookups.prometheus_api import PrometheusApi
from adapter.collector.prometheus import PrometheusError, PrometheusOptions
from adapter.formats.request_history import RequestHistory, Step
from tests.fakes.prometheus_history import HistoryServer, PodPast, poisson

T = 1_760_000_400
"""A whole minute."""
MINUTE = 60


def counted(*pods: PodPast, minutes: int = 10, namespace: str = "") -> list[Step]:
    """Steps of a minute from T."""
    with HistoryServer(list(pods)).running() as url:
        history = PrometheusApi(PrometheusOptions(url=url))
        try:
            return RequestHistory(history, model="m", namespace=namespace).steps(T, minutes, MINUTE)
        finally:
            history.close()


def always(
    name: str, *, rate: float = 1.0, seed: int = 0, model: str = "m", namespace: str = "team"
) -> PodPast:
    """A pod that was there before and after."""
    start, end = T - 3600, T + 7200
    return PodPast(
        name, start, end, model=model, namespace=namespace, seed=seed,
        arrivals=poisson(rate, start, end, seed=seed),
    )  # fmt: skip


def test_arrivals_completions_and_tokens_are_those_of_the_pods() -> None:
    """Each step has what its pods counted in it, whatever they counted before."""
    pods = [always("a", seed=1), always("b", rate=0.3, seed=2)]
    for step in counted(*pods):
        end = step.start + MINUTE
        assert step.pods == 2
        assert step.arrivals == sum(pod.arrived(step.start, end) for pod in pods)
        assert step.finished == sum(pod.finished(step.start, end) for pod in pods)
        assert step.inputs.count == step.finished == sum(step.inputs.buckets.values())
        assert step.outputs.count == step.finished
        assert step.inputs.tokens > 0
        lowest = sum(low * count for (low, _), count in step.outputs.buckets.items())
        highest = sum(high * count for (_, high), count in step.outputs.buckets.items())
        assert lowest <= step.outputs.tokens <= highest


@pytest.mark.parametrize("spelling", ["vllm_", "kserve_vllm:", "ray_vllm_"])
def test_every_spelling_of_the_names_is_counted(spelling: str) -> None:
    """Pods whose series have an underscore or a prefix count as others do, also beside those."""
    plain, other = always("a", seed=1), always("b", seed=2)
    other.spelling = spelling
    for step in counted(plain, other, minutes=3):
        end = step.start + MINUTE
        assert step.pods == 2
        assert step.finished == sum(pod.finished(step.start, end) for pod in (plain, other))
        assert sum(step.inputs.buckets.values()) == step.finished


def test_a_restart_counts_from_zero() -> None:
    """Counters that fall are a new process: no step is negative, and those after it are exact."""
    again = T + 2 * MINUTE + 5
    pod = always("a")
    pod.restarts = (again,)
    steps = counted(pod)
    assert steps[2].arrivals == pod.arrived(again, T + 3 * MINUTE)
    for step in (*steps[:2], *steps[3:]):
        assert step.arrivals == pod.arrived(step.start, step.start + MINUTE)


def test_a_pod_that_starts_counts_from_its_start() -> None:
    """All that it has counted by its first scrape is of that step; a model that wakes likewise."""
    start = T + 3 * MINUTE + 7
    pod = PodPast("new", start, T + 7200, arrivals=poisson(2.0, start, T + 7200))
    for others in ([], [always("a")]):
        step = counted(pod, *others)[3]
        came = [one.arrived(step.start, step.start + MINUTE) for one in (pod, *others)]
        assert step.arrivals == sum(came)
        assert step.pods == 1 + len(others)


def test_a_pod_whose_past_is_not_known_is_a_baseline() -> None:
    """One that Prometheus begins to scrape in the middle brings no burst of all that it ever counted."""
    pod = always("late")
    pod.unscraped = (0.0, T + 3 * MINUTE + 1)
    steps = counted(pod)
    assert [step.pods for step in steps[:4]] == [0, 0, 0, 0]
    assert steps[3].in_service_joined > 0
    assert steps[4].arrivals == pod.arrived(steps[4].start, steps[4].start + MINUTE)


def test_a_pod_that_ends_takes_nothing_back() -> None:
    """Its counters go without making a negative count."""
    leaving = always("leaving")
    leaving.end = T + 4 * MINUTE - 16
    staying = always("staying", seed=1)
    steps = counted(leaving, staying)
    assert [step.pods for step in steps[3:6]] == [1, 1, 1]
    assert steps[4].arrivals == staying.arrived(steps[4].start, steps[4].start + MINUTE)


def test_a_pod_that_was_away_goes_on_from_where_it_was() -> None:
    """While others are scraped, what one counted meanwhile is of the step in which it is back."""
    away = always("away")
    away.unscraped = (T + 2 * MINUTE, T + 4 * MINUTE + 1)
    steps = counted(away, always("b", rate=0.0))
    assert [step.pods for step in steps[1:6]] == [2, 1, 1, 2, 2]
    assert steps[4].arrivals == away.arrived(T + 2 * MINUTE, T + 5 * MINUTE)


def test_time_without_a_scrape_is_a_gap() -> None:
    """Nothing of it is counted, nor all of it at its end; old samples that are repeated are none."""
    pods = [always("a"), always("b", seed=1)]
    for pod in pods:
        pod.unscraped = (T + 2 * MINUTE, T + 5 * MINUTE)
    steps = counted(*pods)
    assert [step.pods for step in steps] == [2, 2, 0, 0, 0, 2, 2, 2, 2, 2]
    after = steps[5]
    assert after.arrivals == sum(pod.arrived(after.start, after.start + MINUTE) for pod in pods)


def test_other_models_and_namespaces_do_not_count() -> None:
    """Only pods of the model, and of the namespace where one is given."""
    ours, elsewhere = always("a"), always("b", namespace="other")
    other = always("c", model="other")
    assert {step.pods for step in counted(ours, elsewhere, other)} == {2}
    assert {step.pods for step in counted(ours, elsewhere, other, namespace="team")} == {1}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (422, f"HTTP status 422: {HTTPStatus(422).phrase}; the query was understood"),
        (401, "HTTP status 401: Unauthorized; set --prometheus-token-file"),
        (302, "HTTP status 302: it redirects; set the URL that it redirects to"),
    ],
)
def test_errors_are_those_of_the_client(code: int, expected: str) -> None:
    """The same texts as in the scrape cycle, without quoting a body or the query."""
    server = HistoryServer([])
    server.before = lambda _: code
    with server.running() as url:
        history = PrometheusApi(PrometheusOptions(url=url))
        with pytest.raises(PrometheusError, match=re.escape(expected)) as caught:
            history.range("up", start=T, end=T + 60, step=60)
        history.close()
    assert "too many samples" not in str(caught.value)  # what the body says


def test_a_prometheus_that_is_down() -> None:
    """The reason is one short line with advice."""
    history = PrometheusApi(PrometheusOptions(url="http://prometheus.invalid:9"))
    with pytest.raises(PrometheusError, match="is it up, and is the URL right") as caught:
        history.range("up", start=T, end=T + 60, step=60)
    history.close()
    assert len(str(caught.value)) < 300


def test_credentials_are_sent() -> None:
    """The token and extra headers, with each query."""
    server = HistoryServer([])
    headers = (("X-Scope-OrgID", "team"),)
    with server.running() as url:
        history = PrometheusApi(PrometheusOptions(url=url, token="t", headers=headers))
        assert history.range('{model_name="m"}', start=T, end=T + 60, step=60) == []
        history.close()
    assert server.headers[0]["Authorization"] == "Bearer t"
    assert server.headers[0]["X-Scope-OrgID"] == "team"
