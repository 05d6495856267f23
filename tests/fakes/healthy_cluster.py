"""An installation with which nothing is wrong, and many variants."""

from __future__ import annotations

import copy
from datetime import UTC, datetime

from adapter.installation import SYSTEM, Names
from adapter.kube.lease import LEASES
from tests.fakes import cluster_world as worlds
from tests.fakes.cluster_world import SCALERS, World, until
from tests.fakes.kubernetes_objects import VARIANTS

EXACT = {name: {"tolerance": "0"} for name in ("scaleUp", "scaleDown")}


async def healthy(world: World, number: int) -> None:
    """An adapter that has run, and that many variants that are as it left the first one."""
    world.api.put(SCALERS, "horizontalpodautoscalers", worlds.scaler("v", behavior=EXACT))
    async with world.replica("a"):
        await until(lambda: world.desired() == 1)
        await until(world.ca_bundle)
        world.available()
    first = copy.deepcopy(world.variant())
    world.api.external = {"v": "1"}
    for index in range(1, number):
        name = f"v{index}"
        item = {**worlds.variant(name), "status": first["status"]}
        world.api.objects[(VARIANTS, "variantautoscalings")]["team-a", name] = item
        world.api.put(SCALERS, "horizontalpodautoscalers", worlds.scaler(name, behavior=EXACT))
        world.api.external[name] = "1"
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    lease = {
        "metadata": {"namespace": SYSTEM, "name": Names().lease},
        "spec": {"holderIdentity": "a", "renewTime": now, "leaseDurationSeconds": 3600},
    }
    world.api.put(f"/apis/{LEASES}", "leases", lease)
