"""How many reviews a cluster is asked for: few, however many HPAs read."""

from __future__ import annotations

import pytest

from adapter.auth import authorization, users

CONTROLLER = users.User(
    name="system:serviceaccount:kube-system:horizontal-pod-autoscaler", groups=()
)


class Cluster:
    """Reviews access: a user is allowed in these namespaces; "" stands for all of them."""

    def __init__(self, *namespaces: str) -> None:
        self.now = 0.0
        self.asked: list[str] = []
        self._namespaces = namespaces
        self.policy = authorization.ClusterPolicy(self.review, clock=lambda: self.now)

    async def review(
        self, user: users.User, attributes: authorization.Attributes
    ) -> authorization.AccessDecision:
        assert user == CONTROLLER
        self.asked.append(attributes.namespace)
        allowed = "" in self._namespaces or attributes.namespace in self._namespaces
        return authorization.AccessDecision(allowed=allowed)

    async def reads(self, namespace: str) -> bool:
        attributes = authorization.Attributes(
            verb="list",
            path=f"/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/m",
            group="external.metrics.k8s.io",
            version="v1beta1",
            namespace=namespace,
            resource="m",
        )
        return (await self.policy.decide(CONTROLLER, attributes)).allowed


@pytest.mark.parametrize("namespaces", [1, 50, 1000])
async def test_a_thousand_hpas_cost_at_most_one_review_a_second(namespaces: int) -> None:
    """At 15 s each, evenly spread, in however many namespaces, from the first minute on."""
    cluster = Cluster("")
    seconds = 60
    for number in range(seconds * 1000 // 15):
        cluster.now = number * 15 / 1000
        assert await cluster.reads(f"n{number % 1000 % namespaces}")
    assert len(cluster.asked) <= seconds


async def test_rights_in_some_namespaces_are_no_rights_in_all() -> None:
    """However many these are: the review for all is denied, and each namespace has its own."""
    own = [f"own{number}" for number in range(3 * authorization.WIDE_AFTER)]
    cluster = Cluster(*own)
    for _ in range(2):
        for namespace in own:
            assert await cluster.reads(namespace)
            assert not await cluster.reads("other")
    assert cluster.asked.count("") == 1
