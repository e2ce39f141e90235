"""Leader election over real HTTP."""

from __future__ import annotations

import random
from pathlib import Path

from tests.kube.emulation import LEASES
from tests.kube.world import World, everywhere, play, until

from pointsman.clock import SystemClock
from pointsman.kube.client import ApiClient, find_cluster
from pointsman.kube.election import LeaseTiming
from pointsman.kube.lease import LeaseKeeper

TIMING = LeaseTiming(duration=2.0, renew=1.5, retry=0.1)


class Candidate(LeaseKeeper):
    def __init__(self, world: World, name: str) -> None:
        self.said: list[str] = []
        self.client = ApiClient(find_cluster(world.kubeconfig))
        super().__init__(
            self.client,
            world.namespace,
            "pointsman-pool",
            name,
            self.said.append,
            clock=SystemClock(),
            rng=random.Random(name),
            timing=TIMING,
        )

    async def leave(self) -> None:
        await self.stop()
        await self.client.close()

    async def die(self) -> None:
        """End without a word."""
        task, self._task = self._task, None
        assert task is not None
        task.cancel()
        await self.client.close()


@everywhere
def test_one_leads_and_another_takes_over(place: str, tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        first, second, third = (Candidate(world, name) for name in ("first", "second", "third"))
        await first.start()
        await until(lambda: first.leading)
        await second.start()
        await until(lambda: second.election.holder == "first")
        assert not second.leading
        await first.leave()  # gives it up: nobody waits for it to run out
        assert not first.leading
        await until(lambda: second.leading)
        lease = await world.get(LEASES, "pointsman-pool")
        assert lease is not None
        assert lease["spec"]["holderIdentity"] == "second"
        assert lease["spec"]["leaseTransitions"] == 1
        await third.start()
        await until(lambda: third.election.holder == "second")
        await second.die()
        await until(lambda: third.leading)
        assert not second.leading
        assert any("second leads" in text for text in third.said)
        await third.leave()
        lease = await world.get(LEASES, "pointsman-pool")
        assert lease is not None
        assert lease["spec"]["holderIdentity"] == ""

    play(place, tmp_path, scenario)


def test_a_leader_that_cannot_renew_stops_before_the_lease_runs_out(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        leader = Candidate(world, "leader")
        await leader.start()
        await until(lambda: leader.leading)
        await world.emulation.stop()
        await until(lambda: not leader.leading)
        await until(lambda: "standing by" in leader.said[-1] or "Connect" in leader.said[-1])
        await world.emulation.start()
        await until(lambda: leader.leading)
        world.emulation.refuse[LEASES] = 403
        await until(lambda: "403" in leader.said[-1])
        await leader.leave()
        assert "could not be given up" in leader.said[-1]

    play("emulated", tmp_path, scenario)


def test_many_candidates_and_a_lease_that_cannot_be_read(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.emulation._store(LEASES, "default", "pointsman-pool", {"spec": {"leaseDurationSeconds": "long"}})
        candidates = [Candidate(world, f"c{number}") for number in range(5)]
        for candidate in candidates:
            await candidate.start()
        await until(lambda: any(candidate.leading for candidate in candidates))
        await until(lambda: len({candidate.election.holder for candidate in candidates}) == 1)
        assert sum(candidate.leading for candidate in candidates) == 1
        for candidate in candidates:
            await candidate.leave()

    play("emulated", tmp_path, scenario)
