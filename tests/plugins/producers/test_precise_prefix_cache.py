from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest
from tests.builders import make_endpoints, make_handle, make_plugin, make_request, make_result

from pointsman.api.endpoint import Endpoint, EndpointId
from pointsman.api.request import InferenceRequest
from pointsman.errors import ConfigError
from pointsman.framework.keys import APPROX_PREFIX_PRODUCER, PrefixMatch, prefix_match_key
from pointsman.framework.kv import KvMatch
from pointsman.framework.state import CycleState
from pointsman.plugins.producers.precise_prefix_cache import PrecisePrefixCacheParams, PrecisePrefixCacheProducer

PODS = make_endpoints(3)
IDS = tuple(range(100))


class FakeKv:
    """Says what it was told."""

    def __init__(self, tokens: Mapping[int, int], sizes: Sequence[int], confidence: Mapping[int, float]) -> None:
        self.found = KvMatch(tokens, {size: list(range(100 // size)) for size in sizes})
        self.sure = {PODS[slot].id: value for slot, value in confidence.items()}
        self.told: list[tuple[str, float]] = []

    def block_tokens(self, endpoint: Endpoint) -> int | None:
        return 16

    def match(self, request: InferenceRequest, endpoints: Sequence[Endpoint]) -> KvMatch | None:
        return self.found if request.token_ids else None

    def confidence(self, endpoint: EndpointId) -> float:
        return self.sure.get(endpoint, 0.0)

    def speculate(self, endpoint: Endpoint, match: KvMatch, ttl: float) -> None:
        self.told.append((endpoint.id, ttl))


def run(kv: FakeKv | None, *, ids: tuple[int, ...] | None = IDS, **parameters: Any) -> tuple[PrefixMatch, Any]:
    handle = msgspec.structs.replace(make_handle(), kv=kv)
    producer = make_plugin(PrecisePrefixCacheProducer, handle, **parameters)
    request = make_request(b"x" * 400, token_ids=ids)
    state = CycleState()
    state.write(prefix_match_key(APPROX_PREFIX_PRODUCER), PrefixMatch(64, 1, [1, 1, 0]))
    producer.produce(request, PODS, state)
    state.seal()
    producer.picked(request, make_result(PODS[1]), state)
    return state.read(prefix_match_key(producer.name)), producer


@pytest.mark.parametrize(("trust", "tokens"), [(1.0, 16), (0.98, 16), (0.97, 64), (0.5, 64)])
def test_where_a_stream_has_gaps_a_larger_guess_counts(trust: float, tokens: int) -> None:
    found, producer = run(FakeKv({0: 16, 1: 96, 2: 48}, [16], {0: trust, 1: trust, 2: trust}))
    assert [found.tokens(slot) for slot in range(3)] == [tokens, 96, 48]  # guesses: 64, 64, 0
    assert producer.stats() == {"exact": 1, "approximate": 0}


def test_the_engines_word_counts_where_it_can_be_trusted() -> None:
    found, producer = run(FakeKv({0: 0, 1: 96, 2: 48}, [16], {0: 1.0, 1: 0.4, 2: 0.5}))
    assert [found.tokens(slot) for slot in range(3)] == [0, 64, 48]  # of the second one, the guess
    assert (found.block_tokens, found.total_blocks) == (16, 6)
    assert producer.stats() == {"exact": 1, "approximate": 1}


def test_different_block_sizes_are_told_in_one_and_never_rounded_up() -> None:
    found, _ = run(FakeKv({0: 96, 1: 64, 2: 72}, [16, 32, 24], {0: 1.0, 1: 1.0, 2: 1.0}))
    assert (found.block_tokens, [found.tokens(slot) for slot in range(3)]) == (8, [96, 64, 72])


@pytest.mark.parametrize(
    ("kv", "ids", "why"),
    [
        (None, IDS, "no-stream"),
        (FakeKv({0: 96}, [16], {}), IDS, "no-stream"),
        (FakeKv({}, [], {0: 1.0}), IDS, "no-stream"),
        (FakeKv({0: 96}, [16], {0: 1.0}), None, "no-tokens"),
    ],
)
def test_without_tokens_or_streams_it_is_the_approximate_match(
    kv: FakeKv | None, ids: tuple[int, ...] | None, why: str
) -> None:
    found, producer = run(kv, ids=ids)
    assert found == PrefixMatch(64, 1, [1, 1, 0])
    assert producer.stats() == {why: 1}


@pytest.mark.parametrize(
    ("parameters", "ttl"),
    [({}, 0.0), ({"speculativeIndexing": True}, 2.0), ({"speculativeIndexing": True, "speculativeTTL": "500ms"}, 0.5)],
)
def test_a_pick_is_told(parameters: dict[str, Any], ttl: float) -> None:
    kv = FakeKv({1: 0}, [16], {1: 1.0})
    run(kv, **parameters)
    assert kv.told == [("default/pod-1", ttl)]


def test_parameters_of_llm_d() -> None:
    written = {
        "speculativeIndexing": True,
        "tokenProcessorConfig": {"blockSizeTokens": 16, "hashSeed": "0"},
        "indexerConfig": {"kvBlockIndexConfig": {"enableMetrics": True}},
        "kvEventsConfig": {
            "topicFilter": "kv@",
            "concurrency": 32,
            "discoverPods": True,
            "podDiscoveryConfig": {"socketPort": 5557},
        },
    }
    params = msgspec.convert(written, PrecisePrefixCacheParams)
    assert params.kv_events_config.pod_discovery_config.socket_port == 5557


def test_what_is_only_remembered_counts_like_a_guess() -> None:
    kv = FakeKv({0: 96, 1: 0}, [16], {0: 1.0, 1: 0.3, 2: 0.3})
    kv.found = msgspec.structs.replace(kv.found, remembered={1: 80, 2: 32})
    found, producer = run(kv)
    assert [found.tokens(slot) for slot in range(3)] == [96, 80, 32]
    kv.sure.clear()
    found, producer = run(kv)
    assert [found.tokens(slot) for slot in range(3)] == [64, 80, 32]
    assert producer.stats() == {"remembered": 1, "approximate": 3}


@pytest.mark.parametrize("kind", ["redisConfig", "valkeyConfig"])
def test_llm_ds_fields_say_where_the_index_is_shared(kind: str) -> None:
    def made(**fields: Any) -> PrecisePrefixCacheProducer:
        config = {"kvBlockIndexConfig": {kind: fields}}
        return make_plugin(PrecisePrefixCacheProducer, make_handle(), indexerConfig=config)

    shared = made(address="cache:6379", enableRDMA=False, backendType="valkey", scope="pool").shared
    assert shared is not None
    assert (shared.address, shared.scope) == ("redis://cache:6379", "pool")
    shared = made().shared
    assert shared is not None
    assert (shared.address, shared.scope) == ("redis://127.0.0.1:6379", "default")
    with pytest.raises(ConfigError, match=rf"{kind}.address.*HOST:PORT"):
        made(address="http://cache")
    with pytest.raises(ConfigError, match="scope"):
        made(scope="")
    assert make_plugin(PrecisePrefixCacheProducer, make_handle()).shared is None
