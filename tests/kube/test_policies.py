"""Which objectives and rewrites count for a pool, over the API; llm-d's own samples among them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import msgspec
from tests.kube.emulation import POOLS
from tests.kube.world import LLMD, OBJECTIVES, OBJECTIVES_V1, REWRITES, World, everywhere, play, until

from pointsman.kube.objects import POOL_GROUP, Metadata, Objective, Rewrite, RewriteSpec
from pointsman.kube.policies import PoolName, make_policies
from pointsman.kube.source import PoolChoice

POOL = {"poolRef": {"name": "pool"}}


def _objective(name: str = "o", labels: dict[str, str] | None = None, **spec: Any) -> int | None:
    """The priority that an objective ends up with, None when it does not count for the pool ``pool``."""
    item = msgspec.convert({"metadata": {"name": name}, "spec": spec}, Objective)
    return make_policies(PoolName("pool", POOL_GROUP, labels), [[item]], []).objectives.get(name)


def test_which_objectives_are_about_a_pool() -> None:
    assert _objective(priority=3, poolRef={"name": "pool"}) == 3
    assert _objective(poolRef={"name": "pool"}) == 0
    assert _objective(poolRef={"name": "pool", "group": "", "kind": ""}) == 0
    assert _objective(poolRef={"name": "another"}) is None
    assert _objective(poolRef={"name": "pool", "group": "inference.networking.x-k8s.io"}) is None
    assert _objective(poolRef={"name": "pool", "kind": "Service"}) is None
    assert _objective(priority=1) is None


def test_version_1_names_several_pools_or_selects_them() -> None:
    assert _objective(priority=2, poolRefs=[{"name": "x"}, {"name": "pool"}]) == 2
    assert _objective(priority=2, poolRefs=[{"name": "x"}]) is None
    selector = {"matchLabels": {"tier": "gold"}}
    assert _objective(priority=2, poolSelector=selector, labels={"tier": "gold"}) == 2
    assert _objective(priority=2, poolSelector=selector, labels={"tier": "silver"}) is None
    assert _objective(priority=2, poolSelector=selector, labels=None) is None
    assert _objective(priority=2, poolSelector={}, labels={"tier": "gold"}) is None
    expressions = {"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["gold"]}]}
    assert _objective(priority=2, poolSelector=expressions, labels={"tier": "silver"}) == 2


def test_the_first_version_that_is_about_the_pool_counts() -> None:
    items = [
        msgspec.convert({"metadata": {"name": "o"}, "spec": {"priority": p, "poolRef": {"name": pool}}}, Objective)
        for p, pool in ((1, "another"), (2, "pool"), (3, "pool"))
    ]
    pool = PoolName("pool", POOL_GROUP, {})
    assert make_policies(pool, [[item] for item in items], []).objectives == {"o": 2}


def test_an_object_on_its_way_out_does_not_count() -> None:
    meta = {"name": "o", "deletionTimestamp": "2026-01-01T00:00:00Z"}
    item = msgspec.convert({"metadata": meta, "spec": {"poolRef": {"name": "pool"}}}, Objective)
    assert not make_policies(PoolName("pool", POOL_GROUP, {}), [[item]], [])
    assert not make_policies(PoolName("", POOL_GROUP, None), [[item]], [])


def test_older_objects_come_first_then_names() -> None:
    def rewrite(name: str, created: str) -> Rewrite:
        rules = [{"targets": [{"modelRewrite": name}]}]
        return Rewrite(Metadata(name, creation_timestamp=created), msgspec.convert({"rules": rules}, RewriteSpec))

    items = [
        rewrite("c", "2026-01-02T00:00:00Z"),
        rewrite("b", "2026-01-01T00:00:00Z"),
        rewrite("a", "2026-01-02T00:00:00Z"),
    ]
    policies = make_policies(PoolName("", POOL_GROUP, None), [], [items])
    assert [rule.source for rule in policies.rules] == ["b", "a", "c"]


def test_alternatives_of_both_kinds_keep_their_own_precedence() -> None:
    rules = [
        {"targets": [{"modelRewrite": "first"}], "matches": [{"model": {"value": "a"}}, {}]},
        {"targets": [{"modelRewrite": "second"}], "matches": [{"model": {"value": "b"}}]},
    ]
    item = Rewrite(Metadata("r"), msgspec.convert({"rules": rules}, RewriteSpec))
    policies = make_policies(PoolName("", POOL_GROUP, None), [], [[item]])
    assert {model: policies.resolve(model, Random(0)) for model in "abc"} == {"a": "first", "b": "second", "c": "first"}


@everywhere
def test_objectives_come_and_go(place: str, tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.pool()
        await world.policy(OBJECTIVES, "high", {"priority": 10, **POOL})
        async with world.follower() as follower:
            assert follower.policies.objectives == {"high": 10}
            await world.policy(OBJECTIVES, "batch", {"priority": -10, **POOL})
            await until(lambda: follower.policies.priority("batch") == -10)
            await world.policy(OBJECTIVES, "high", {"priority": 20, **POOL})
            await until(lambda: follower.policies.priority("high") == 20)
            await world.delete(OBJECTIVES, "high")
            await until(lambda: "high" not in follower.policies.objectives)
            await world.policy(OBJECTIVES, "batch", {"priority": -10, "poolRef": {"name": "another"}})
            await until(lambda: not follower.policies.objectives)

    play(place, tmp_path, scenario)


@everywhere
def test_a_canary_grows(place: str, tmp_path: Path) -> None:
    def canary(old: int, new: int) -> dict[str, Any]:
        targets = [{"modelRewrite": "v1", "weight": old}, {"modelRewrite": "v2", "weight": new}]
        return {**POOL, "rules": [{"matches": [{"model": {"type": "Exact", "value": "m"}}], "targets": targets}]}

    async def scenario(world: World) -> None:
        await world.pool()
        await world.policy(REWRITES, "canary", canary(90, 10))
        async with world.follower() as follower:
            rng = Random(5)
            drawn = Counter(follower.policies.resolve("m", rng) for _ in range(5000))
            assert 0.08 < drawn["v2"] / 5000 < 0.12  # four and a half standard deviations
            await world.policy(REWRITES, "canary", canary(1, 999_999))
            await until(lambda: follower.policies.rules[0].targets[0].weight == 1)
            drawn = Counter(follower.policies.resolve("m", rng) for _ in range(1000))
            assert drawn["v2"] > 990
            # a broken one is refused and the last good one stays
            if place == "emulated":
                item = world.emulation.find(REWRITES, "canary")
                targets = [{"modelRewrite": "v1", "weight": 1}, {"modelRewrite": "v3"}]
                world.emulation._store(
                    REWRITES, "default", "canary", {**item, "spec": {**POOL, "rules": [{"targets": targets}]}}
                )
                await until(lambda: any("default/canary" in text for _, text in follower.reports))
                assert "v2" in {target.model for target in follower.policies.rules[0].targets}

    play(place, tmp_path, scenario)


def test_a_pool_of_the_old_group(tmp_path: Path) -> None:
    old = "inference.networking.x-k8s.io"

    async def scenario(world: World) -> None:
        spec = {"selector": {"app": "vllm"}, "targetPortNumber": 8000, "extensionRef": {"name": "epp"}}
        item = {"apiVersion": f"{old}/v1alpha2", "kind": "InferencePool", "metadata": {"name": "pool"}, "spec": spec}
        await world.apply(f"{old}/v1alpha2/inferencepools", item)
        await world.pod("a", "10.0.0.1")
        await world.policy(OBJECTIVES, "mine", {"priority": 1, "poolRef": {"name": "pool", "group": old}})
        await world.policy(OBJECTIVES, "theirs", {"priority": 1, "poolRef": {"name": "pool"}})
        choice = PoolChoice(namespace=world.namespace, name="pool", group=old)
        async with world.follower(choice) as follower:
            assert follower.now == {"a-rank-0": "10.0.0.1:8000"}
            assert follower.policies.objectives == {"mine": 1}

    play("emulated", tmp_path, scenario, f"{old}/v1alpha2/inferencepools", OBJECTIVES)


MY_POOL = {"group": POOL_GROUP, "name": "vllm-qwen3-32b"}
PICKER = {"name": "epp", "port": {"number": 9002}}
ALIAS = {
    "matches": [{"model": {"type": "Exact", "value": "food-review"}}],
    "targets": [{"modelRewrite": "food-review-v1"}],
}
FALLBACK = {"matches": [], "targets": [{"modelRewrite": "Qwen/Qwen3-32B"}]}
PODS_OF_POOL = {"selector": {"matchLabels": {"app": "vllm"}}, "targetPorts": [{"number": 8000}]}
SAMPLES = (
    (POOLS, "vllm-qwen3-32b", {**PODS_OF_POOL, "endpointPickerRef": PICKER}),
    (OBJECTIVES, "food-review", {"priority": 10, "poolRef": MY_POOL}),
    (OBJECTIVES_V1, "base-model", {"priority": -1, "poolRefs": [{"kind": "InferencePool", **MY_POOL}]}),
    (REWRITES, "alias", {"poolRef": MY_POOL, "rules": [ALIAS]}),
    (REWRITES, "fallback", {"poolRef": MY_POOL, "rules": [FALLBACK]}),
)
"""As in llm-d's and the inference extension's documentation."""


def test_samples_as_in_the_documentation_of_llm_d(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        for resource, name, spec in SAMPLES:
            group, version, _ = resource.split("/")
            await world.apply(
                resource, {"apiVersion": f"{group}/{version}", "kind": "x", "metadata": {"name": name}, "spec": spec}
            )
        await world.pod("a", "10.0.0.1")
        choice = PoolChoice(namespace=world.namespace, name="vllm-qwen3-32b")
        async with world.follower(choice) as follower:
            assert follower.now == {"a-rank-0": "10.0.0.1:8000"}
            policies, rng = follower.policies, Random(0)
            assert policies.objectives == {"food-review": 10, "base-model": -1}
            assert policies.resolve("food-review", rng) == "food-review-v1"
            assert policies.resolve("anything", rng) == "Qwen/Qwen3-32B"

    play("emulated", tmp_path, scenario, POOLS, OBJECTIVES, OBJECTIVES_V1, REWRITES)
    assert OBJECTIVES_V1.startswith(LLMD)
