"""Worth of blocks by the memory they are in, from a pod's events to what scorers and costs see."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.builders import make_endpoint, make_handle, make_plugin, make_request

from pointsman.clock import ManualClock
from pointsman.errors import ConfigError
from pointsman.framework.keys import APPROX_PREFIX_PRODUCER, PrefixMatch, prefix_match_key
from pointsman.framework.kv import KvMatch
from pointsman.framework.state import CycleState
from pointsman.kvcache import _pure, kv_index
from pointsman.kvcache.events import BlockRemoved, BlockStored, EventBatch
from pointsman.kvcache.fleet import FleetIndex
from pointsman.plugins.producers._tiers import Backend, tier_weights, worths
from pointsman.plugins.producers.precise_prefix_cache import PrecisePrefixCacheParams, PrecisePrefixCacheProducer
from pointsman.plugins.scorers._prefix import cached_tokens
from pointsman.plugins.scorers.prefix_cache import PrefixCache

try:
    from pointsman import _speedups
except ImportError:  # pragma: no cover - no compiler
    TWINS = [_pure.BlockTable]
else:
    TWINS = [_pure.BlockTable, _speedups.BlockTable]  # type: ignore[list-item]

SIZE = 16
IDS = tuple(range(1000, 1000 + 10 * SIZE + 1))
BODY = b"x" * 4 * len(IDS)
PODS = [make_endpoint(slot, block_size=SIZE) for slot in range(4)]


def stored(blocks: int, medium: str) -> EventBatch:
    return EventBatch(0.0, (BlockStored(list(range(blocks)), None, list(IDS[: blocks * SIZE]), SIZE, medium=medium),))


@pytest.fixture(params=TWINS, ids=lambda twin: twin.__module__.rsplit(".", maxsplit=1)[-1])
def fleet(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FleetIndex:
    """The first pod holds 8 blocks in GPU memory, the second 4 there and 4 in CPU memory, the third 10 on some disk."""
    monkeypatch.setattr(kv_index, "BlockTable", request.param)
    fleet = FleetIndex(ManualClock(0.0))
    fleet.follow(dict, lambda _: 1.0, lambda _: 0.0)
    fleet.view(PODS[0]).apply(stored(8, "GPU"))
    view = fleet.view(PODS[1])
    view.apply(stored(8, "GPU"))
    view.apply(stored(8, "CPU_PINNED"))
    view.apply(EventBatch(0.0, (BlockRemoved([4, 5, 6, 7], medium="GPU"),)))
    fleet.view(PODS[2]).apply(stored(10, "a medium of next year"))
    return fleet


def produce(fleet: FleetIndex, **indexer: Any) -> CycleState:
    handle = msgspec.structs.replace(make_handle(), kv=fleet)
    producer = make_plugin(PrecisePrefixCacheProducer, handle, indexerConfig=indexer)
    state = CycleState()
    state.write(prefix_match_key(APPROX_PREFIX_PRODUCER), PrefixMatch(64, 2, [0, 0, 0, 0]))
    producer.produce(make_request(BODY, token_ids=IDS), PODS, state)
    state.seal()
    return state


def match_of(state: CycleState) -> PrefixMatch:
    return state.read(prefix_match_key("precise-prefix-cache-producer"))


def test_slower_tiers_are_worth_less_and_held_all_the_same(fleet: FleetIndex) -> None:
    state = produce(fleet)
    match = match_of(state)
    assert [match.share(slot) for slot in range(5)] == pytest.approx([0.8, 0.4 + 0.8 * 0.4, 0.5, 0, 0])
    assert [match.tokens(slot) for slot in range(4)] == [8 * SIZE, 8 * SIZE, 10 * SIZE, 0]
    assert match.slower == {1: (4 * SIZE, 0), 2: (0, 10 * SIZE)}, "what tier-copy-cost charges"
    request = make_request(BODY, token_ids=IDS)
    assert cached_tokens(request, match, PODS) == [8 * SIZE, 8 * SIZE, 10 * SIZE, 0]
    scorer = make_plugin(
        PrefixCache,
        make_handle(),
        prefixMatchInfoProducerName="precise-prefix-cache-producer",
        matchLengthWeight=1.0,
        matchLengthScaleTokens=160,
    )
    scores = scorer.score(request, PODS, state)
    assert scores == pytest.approx([0.8**2, 0.72**2, 0.5**2, 0])


def test_the_best_tier_of_a_block_counts(fleet: FleetIndex) -> None:
    found = fleet.match(make_request(BODY, token_ids=IDS), PODS)
    assert found is not None
    assert found.slower == {1: (4 * SIZE, 0), 2: (0, 10 * SIZE)}
    assert found.tokens == {0: 8 * SIZE, 1: 8 * SIZE, 2: 10 * SIZE, 3: 0}


def test_configured_weights(fleet: FleetIndex) -> None:
    backends = [{"name": "gpu", "weight": 0.9}, {"name": "DRAM", "weight": 0.5}, {"name": "fs", "weight": 0.0}]
    match = match_of(produce(fleet, kvCacheBackendConfigs=backends))
    assert [match.share(slot) for slot in range(4)] == pytest.approx([0.72, 0.4 * 0.9 + 0.4 * 0.5, 0.0, 0.0])
    assert match.of(2) == 10
    even = match_of(produce(fleet, kvCacheBackendConfigs=[{"name": name, "weight": 1} for name in ("cpu", "disk")]))
    assert [even.share(slot) for slot in range(4)] == pytest.approx([0.8, 0.8, 1.0, 0.0])


def test_in_gpu_memory_alone_nothing_is_reckoned(fleet: FleetIndex) -> None:
    fleet.forget(PODS[1].id)
    fleet.forget(PODS[2].id)
    match = match_of(produce(fleet))
    assert match.worth == ()
    assert [match.share(slot) for slot in range(4)] == [0.8, 0, 0, 0]


def test_weights_left_out() -> None:
    assert tier_weights((), "") == (1.0, 0.8, 0.5)
    assert tier_weights((Backend("gpu", 1.0), Backend("cpu", 0.8)), "") == (1.0, 0.8, 0.5)
    assert tier_weights((Backend("cpu", 0.3),), "") == (1.0, 0.3, 0.3)
    assert tier_weights((Backend("gpu", 0.2),), "") == (0.2, 0.2, 0.2)
    assert tier_weights((Backend("storage", 0.9), Backend("OBJ", 0.9)), "") == (1.0, 0.8, 0.9)


def test_guesses_count_as_in_gpu_memory() -> None:
    found = KvMatch({0: 160, 1: 160}, {}, {}, {0: (160, 0), 1: (160, 0)})
    assert worths(found, PODS[:1], [10, 10], SIZE, (1.0, 0.8, 0.5)) == pytest.approx([8, 10])
    assert worths(found, PODS[:1], [10, 10], SIZE, (0.5, 0.4, 0.4)) == pytest.approx([4, 5])


@pytest.mark.parametrize(
    ("backends", "message"),
    [
        ([Backend("tape", 0.1)], r"'tape' is no kind of memory.*gpu, .*cpu, .*disk"),
        ([Backend("cpu", 0.5), Backend("host", 0.6)], r"'host' is of a tier that has the weight 0\.5"),
    ],
)
def test_what_makes_no_sense_is_refused(backends: list[Backend], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        tier_weights(backends, "kvCacheBackendConfigs")
    assert caught.value.field in {"kvCacheBackendConfigs[0].name", "kvCacheBackendConfigs[1].weight"}


@pytest.mark.parametrize(
    "backend", [{"name": "cpu", "weight": 1.5}, {"name": "cpu", "weight": -0.1}, {"name": "cpu"}, {"weight": 1}]
)
def test_weights_are_shares(backend: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError, match="kvCacheBackendConfigs"):
        msgspec.convert({"indexerConfig": {"kvCacheBackendConfigs": [backend]}}, PrecisePrefixCacheParams)
