"""Knows from an indexer outside the picker which prompt blocks each endpoint has in its KV cache.

The indexer is asked before producers run (:mod:`pointsman.kvcache.remote_index`), as producers must not wait; here its
answer is put together with the approximate match, and with what recent picks will have left where.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from math import gcd
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from pointsman.api.endpoint import Endpoint, EndpointId
from pointsman.api.request import InferenceRequest
from pointsman.api.result import SchedulingResult
from pointsman.errors import ConfigError
from pointsman.framework.keys import (
    APPROX_PREFIX_PRODUCER,
    REMOTE_MATCHES,
    REMOTE_PREFIX_PRODUCER,
    PrefixMatch,
    prefix_match_key,
)
from pointsman.framework.kv import Held, KvMatch, RemoteMatch
from pointsman.framework.plugin import DataProducer, EndpointObserver, Params, PickObserver, PluginSpec, register
from pointsman.framework.state import CycleState, StateKey
from pointsman.kvcache.blocks import token_block_keys
from pointsman.kvcache.event_keys import root_key
from pointsman.kvcache.kv_index import KVIndex
from pointsman.plugins.filters.memory_pressure import duration_seconds
from pointsman.plugins.producers._tiers import Backend, tier_weights, worths
from pointsman.plugins.producers.precise_prefix_cache import ENOUGH
from pointsman.plugins.producers.token_producer import is_url

_DURATION = r"^(\d+(\.\d+)?(ms|s|m|h))+$"


class RemotePrefixCacheParams(Params, frozen=True):
    """Parameters of ``remote-prefix-cache-producer``."""

    cache_indexer_url: Annotated[
        str, Meta(description="Address of the indexer (pointsman indexer), such as http://kv-cache-indexer:9095.")
    ] = msgspec.field(name="cacheIndexerURL", default="http://localhost:9095")
    timeout_ms: Annotated[
        float,
        Meta(
            gt=0,
            le=10_000,
            description="Milliseconds a request waits for the answer at the most; then the approximate match counts. "
            "After five failures in a row over a quarter of a second, nothing is asked but one probe a second.",
        ),
    ] = 5.0
    speculative_ttl: Annotated[
        str,
        Meta(
            pattern=_DURATION,
            description="How long a pod is expected to hold what it was just sent, before the indexer has heard of "
            "it. 0s: not at all.",
        ),
    ] = msgspec.field(name="speculativeTTL", default="2s")
    kv_cache_backend_configs: Annotated[
        Sequence[Backend],
        Meta(
            description="[{name: gpu, weight: 1.0}, {name: cpu, weight: 0.8}, {name: disk, weight: 0.5}]: worth of a "
            "block to prefix scorers by where it is, as in precise-prefix-cache-producer."
        ),
    ] = ()
    prefix_match_info_producer_name: Annotated[
        str,
        Meta(
            min_length=1,
            description="Name of the producer whose match counts where the indexer has nothing to say, or not in time.",
        ),
    ] = APPROX_PREFIX_PRODUCER


class _Asked(msgspec.Struct, frozen=True):
    """What a pick is remembered by."""

    held: Mapping[EndpointId, Held]
    keys: Mapping[int, Sequence[int]]
    """Keys of all full blocks of the prompt, by block size; none when its token ids are not known."""


@register(REMOTE_PREFIX_PRODUCER)
class RemotePrefixCacheProducer(DataProducer[RemotePrefixCacheParams], PickObserver, EndpointObserver):
    """Matches the prompt against what an indexer of its own process says that the engines hold.

    Where it is late, fails, or is not sure of an endpoint (confidence below 0.5), the approximate match counts: then
    the pick is as good as without an indexer.
    """

    formula = "leading blocks of the prompt that the indexer says the endpoint holds, or that it was sent just now"
    inputs = "answer of the indexer to token ids or prompt, approximate match for the rest, own picks"

    def setup(self) -> None:
        if not is_url(self.params.cache_indexer_url):
            raise ConfigError(
                f"parameters.cacheIndexerURL: {self.params.cache_indexer_url!r} is no address",
                hint="write it like http://kv-cache-indexer:9095",
            )
        self._match_key = prefix_match_key(self.name)
        self._guess_key = prefix_match_key(self.params.prefix_match_info_producer_name)
        self._asked_key: StateKey[_Asked] = StateKey(f"remote-asked/{self.name}")
        self._weights = tier_weights(self.params.kv_cache_backend_configs, "parameters.kvCacheBackendConfigs")
        self._ttl = duration_seconds(self.params.speculative_ttl)
        self._sent = KVIndex()
        self._counts: Counter[str] = Counter()

    def requires(self) -> tuple[PluginSpec, ...]:
        name = self.params.prefix_match_info_producer_name
        return (PluginSpec(APPROX_PREFIX_PRODUCER, name),) if name == APPROX_PREFIX_PRODUCER else ()

    def produces(self) -> tuple[StateKey[Any], ...]:
        return (self._match_key,)

    def consumes(self) -> tuple[StateKey[Any], ...]:
        return (self._guess_key,)

    def stats(self) -> dict[str, int]:
        """Requests by what could be said: ``exact``, ``no-answer``, ``unsure``; and ``approximate`` endpoints."""
        return dict(self._counts)

    def produce(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> None:
        guess = state.get(self._guess_key, PrefixMatch(1, 0))
        answers = state.get(REMOTE_MATCHES)
        match = answers.get(self.name) if answers else None
        if match is None:
            self._counts["no-answer"] += 1
            state.write(self._match_key, guess)
            return
        sure = {e.slot: held for e in endpoints if (held := match.held.get(e.id)) and held.confidence >= ENOUGH}
        if not sure:
            self._counts["unsure"] += 1
            state.write(self._match_key, guess)
            return
        self._counts["exact"] += 1
        self._counts["approximate"] += len(endpoints) - len(sure)
        keys = self._keys(request, match)
        if keys:
            state.write(self._asked_key, _Asked(match.held, keys))
        tokens = self._with_sent(request, sure, keys)
        unit = gcd(*(held.block_tokens for held in sure.values()))
        blocks = [0] * (1 + max(endpoint.slot for endpoint in endpoints))
        for endpoint in endpoints:
            slot = endpoint.slot
            known = tokens[slot] if slot in tokens else min(guess.tokens(slot), request.prompt_tokens)
            blocks[slot] = known // unit
        slower = {slot: held.slower for slot, held in sure.items() if any(held.slower)}
        trusted = [endpoint for endpoint in endpoints if endpoint.slot in slower]
        worth = worths(KvMatch(tokens, slower=slower), trusted, blocks, unit, self._weights)
        state.write(self._match_key, PrefixMatch(unit, request.prompt_tokens // unit, blocks, worth, slower))

    def picked(self, request: InferenceRequest, result: SchedulingResult, state: CycleState) -> None:
        asked = state.get(self._asked_key)
        if asked is None or not result.targets:
            return
        held = asked.held.get(result.chosen.id)
        if held is not None and asked.keys.get(held.block_tokens):
            until = self.handle.clock.now() + self._ttl
            self._sent.speculate(result.chosen.slot, asked.keys[held.block_tokens], until)

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        self._sent.clear(endpoint.slot)

    def _keys(self, request: InferenceRequest, match: RemoteMatch) -> dict[int, Sequence[int]]:
        if not self._ttl or not request.token_ids:
            return {}
        ids = array("I", request.token_ids)
        root = root_key(request.target_model or request.model, None, request.cache_salt or None)
        return {size: token_block_keys(ids, size, root) for size in {held.block_tokens for held in match.held.values()}}

    def _with_sent(
        self, request: InferenceRequest, sure: Mapping[int, Held], keys: Mapping[int, Sequence[int]]
    ) -> dict[int, int]:
        """Tokens by slot: what the indexer says, or what was sent there just now if that is more."""
        self._sent.expire(self.handle.clock.now())
        tokens = {slot: held.tokens for slot, held in sure.items()}
        for size, own in keys.items():
            found = self._sent.match(own[: (request.prompt_tokens - 1) // size])
            for slot, held in sure.items():
                if held.block_tokens == size:
                    tokens[slot] = max(tokens[slot], found.of(slot) * size)
        return tokens
