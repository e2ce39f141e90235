"""Knows from the engines' own events which prompt blocks each endpoint has in its KV cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import gcd
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.api.result import SchedulingResult
from pointsman.errors import ConfigError
from pointsman.framework.keys import APPROX_PREFIX_PRODUCER, PRECISE_PREFIX_PRODUCER, PrefixMatch, prefix_match_key
from pointsman.framework.kv import KvMatch
from pointsman.framework.plugin import DataProducer, EndpointObserver, Params, PickObserver, PluginSpec, register
from pointsman.framework.state import CycleState, StateKey
from pointsman.kvcache.shared_address import shared_address
from pointsman.plugins.filters.memory_pressure import duration_seconds
from pointsman.plugins.producers._tiers import Backend, Weights, tier_weights, worths

ENOUGH = 0.5
"""Confidence below which an endpoint's stream is not believed."""
CERTAIN = 0.98
"""Confidence below which the guess counts where it is more: batches that never came leave blocks unknown, and with one
in ten missing the guess alone is the better one (docs/design/0002-terms-of-the-default-cost.md)."""

BACKENDS = "parameters.indexerConfig.kvCacheBackendConfigs"

_APPROX = prefix_match_key(APPROX_PREFIX_PRODUCER)
_DURATION = r"^(\d+(\.\d+)?(ms|s|m|h))+$"
_Port = Annotated[int, Meta(ge=0, le=65_535)]


class TokenProcessor(Params, frozen=True):
    """How llm-d cuts and hashes prompts."""

    block_size_tokens: int = 16
    block_size: int = 16
    hash_seed: str = ""
    hash_algorithm: str = ""


class SharedIndex(Params, frozen=True):
    """A Redis or Valkey server; llm-d's fields and the scope."""

    address: str = "redis://127.0.0.1:6379"
    backend_type: str = ""
    enable_rdma: bool = msgspec.field(name="enableRDMA", default=False)
    scope: str = "default"


class BlockIndex(Params, frozen=True):
    """Where llm-d keeps its index."""

    in_memory_config: Mapping[str, Any] | None = None
    cost_aware_memory_config: Mapping[str, Any] | None = None
    redis_config: SharedIndex | None = None
    valkey_config: SharedIndex | None = None
    enable_metrics: bool = False
    metrics_logging_interval: str = ""


class Indexer(Params, frozen=True):
    """llm-d's index as a whole."""

    kv_block_index_config: BlockIndex | None = None
    kv_block_scorer_config: Mapping[str, Any] | None = None
    kv_cache_backend_configs: Sequence[Backend] = ()
    tokenizers_pool_config: Mapping[str, Any] | None = None


class PodDiscovery(Params, frozen=True):
    """Where pods publish. A port of 0 or none given: they are asked."""

    socket_port: _Port = 0
    replay_socket_port: _Port = 0
    pod_label_selector: str = ""
    pod_namespace: str = ""


class KvEvents(Params, frozen=True):
    """How events come."""

    zmq_endpoint: str = ""
    topic_filter: str = "kv@"
    concurrency: int = 4
    engine_type: str = ""
    discover_pods: bool = True
    pod_discovery_config: PodDiscovery = PodDiscovery()


class PrecisePrefixCacheParams(Params, frozen=True):
    """Parameters of ``precise-prefix-cache-producer``: llm-d's."""

    token_processor_config: Annotated[
        TokenProcessor,
        Meta(
            description="Accepted without effect: block sizes are learned from each pod, hash algorithm and seed of "
            "the engines do not matter."
        ),
    ] = TokenProcessor()
    indexer_config: Annotated[
        Indexer,
        Meta(
            description="kvBlockIndexConfig.redisConfig or valkeyConfig: share the index with other replicas over that "
            "server: address = redis://127.0.0.1:6379 (also rediss://, valkey://, unix://, HOST:PORT; needs the extra "
            "redis), scope = default: name of the pool, shared by those who give the same. What others hear fills in "
            "for endpoints that this picker does not hear (yet). kvCacheBackendConfigs = [{name: gpu, weight: 1.0}, "
            "{name: cpu, weight: 0.8}, {name: disk, weight: 0.5}]: worth of a block to prefix scorers by where it is; "
            "costs count it in full, and a medium that is not known counts as disk. backendType and enableRDMA, and "
            "all else here, are accepted without effect: the index itself is in the picker's memory and has room for "
            "16 M blocks."
        ),
    ] = Indexer()
    kv_events_config: Annotated[
        KvEvents,
        Meta(
            description="zmqEndpoint = an address that pods connect to, such as tcp://*:5557 (its topics begin with "
            "topicFilter = kv@); discoverPods = true: the picker connects to each pod, at the port of its label "
            "llm-d.ai/kv-events-port or kv-events-port, else at podDiscoveryConfig.socketPort (and replaySocketPort), "
            "else where the pod's /kv_event_sources or /server_info says. concurrency, engineType and the label "
            "selector are accepted without effect."
        ),
    ] = KvEvents()
    speculative_indexing: Annotated[
        bool, Meta(description="Expect at once, before its event comes, that a pod will hold what it was just sent.")
    ] = False
    speculative_ttl: Annotated[
        str,
        Meta(pattern=_DURATION, description="How long that is believed, on top of the observed delay of events."),
    ] = msgspec.field(name="speculativeTTL", default="2s")


@register(PRECISE_PREFIX_PRODUCER)
class PrecisePrefixCacheProducer(DataProducer[PrecisePrefixCacheParams], PickObserver, EndpointObserver):
    """Matches the prompt's token ids against what the engines say they hold.

    Endpoints whose event stream is silent, gapped or missing count by the approximate match, and so do all when the
    token ids of the prompt are not known: then the pick is as good as with the approximate producer alone. Where a
    stream has gaps but is believed, the larger of both matches counts.
    """

    formula = "leading blocks of the prompt that the endpoint's own KV-cache events say it holds"
    inputs = "token ids of the prompt, model or adapter, cache_salt, KV-cache events, approximate match for the rest"

    def setup(self) -> None:
        self._match_key = prefix_match_key(self.name)
        self._found_key: StateKey[KvMatch] = StateKey(f"kv-match/{self.name}")
        self._ttl = duration_seconds(self.params.speculative_ttl) if self.params.speculative_indexing else 0.0
        self._counts: Counter[str] = Counter()
        self.shared = shared_index(self.params.indexer_config)
        self._weights = tier_weights(self.params.indexer_config.kv_cache_backend_configs, BACKENDS)

    def requires(self) -> tuple[PluginSpec, ...]:
        return (PluginSpec(APPROX_PREFIX_PRODUCER, APPROX_PREFIX_PRODUCER),)

    def produces(self) -> tuple[StateKey[Any], ...]:
        return (self._match_key,)

    def consumes(self) -> tuple[StateKey[Any], ...]:
        return (_APPROX,)

    def stats(self) -> dict[str, int]:
        """Requests by what could be said, and ``approximate`` endpoints.

        ``exact``; ``remembered``: no stream is believed, but what others told; ``no-tokens``; ``no-stream``.
        """
        return dict(self._counts)

    def produce(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> None:
        guess = state.get(_APPROX, PrefixMatch(1, 0))
        kv = self.handle.kv
        found = kv.match(request, endpoints) if kv is not None else None
        if kv is None or found is None:
            self._counts["no-stream" if kv is None else "no-tokens"] += 1
            state.write(self._match_key, guess)
            return
        state.write(self._found_key, found)
        trust = {e.slot: kv.confidence(e.id) for e in endpoints}
        sure = [e for e in endpoints if e.slot in found.tokens and trust[e.slot] >= ENOUGH]
        if not sure and not any(found.remembered.values()):
            self._counts["no-stream"] += 1
            state.write(self._match_key, guess)
            return
        self._counts["exact" if sure else "remembered"] += 1
        self._counts["approximate"] += len(endpoints) - len(sure)
        merged = _merged(request, found, sure, guess, endpoints, self._weights)
        doubtful = [e for e in sure if trust[e.slot] < CERTAIN]
        state.write(self._match_key, _with_guess(merged, guess, doubtful) if doubtful else merged)

    def picked(self, request: InferenceRequest, result: SchedulingResult, state: CycleState) -> None:
        found = state.get(self._found_key)
        if found is not None and self.handle.kv is not None and result.targets:
            self.handle.kv.speculate(result.chosen, found, self._ttl)
            if result.prefiller is not None:
                self.handle.kv.speculate(result.prefiller, found, self._ttl)

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        """Nothing: the index belongs to the picker, which forgets the endpoint itself."""


def shared_index(indexer: Indexer) -> SharedIndex | None:
    """With whom the index is shared, the address as the client wants it; None: with nobody.

    Raises:
        ConfigError: if the address is none, or the client's extra is not installed.
    """
    config = indexer.kv_block_index_config or BlockIndex()
    for name, found in (("redisConfig", config.redis_config), ("valkeyConfig", config.valkey_config)):
        if found is not None:
            field = f"parameters.indexerConfig.kvBlockIndexConfig.{name}"
            if not found.scope:
                raise ConfigError("a scope has a name", field=f"{field}.scope", hint="such as the pool's")
            return msgspec.structs.replace(found, address=shared_address(found.address, f"{field}.address"))
    return None


def _merged(
    request: InferenceRequest,
    found: KvMatch,
    sure: Sequence[Endpoint],
    guess: PrefixMatch,
    endpoints: Sequence[Endpoint],
    weights: Weights,
) -> PrefixMatch:
    """Both kinds of match in blocks of one size, rounded down, so that nobody is credited with more than he has."""
    unit = gcd(*found.keys)
    blocks = [0] * (1 + max(endpoint.slot for endpoint in endpoints))
    if len(sure) < len(endpoints) and (found.remembered or any(guess.blocks)):
        for endpoint in endpoints:
            likely = max(guess.tokens(endpoint.slot), found.remembered.get(endpoint.slot, 0))
            blocks[endpoint.slot] = min(likely, request.prompt_tokens) // unit
    for endpoint in sure:
        blocks[endpoint.slot] = found.tokens[endpoint.slot] // unit
    slower = {e.slot: found.slower[e.slot] for e in sure if e.slot in found.slower} if found.slower else {}
    worth = worths(found, sure, blocks, unit, weights)
    return PrefixMatch(unit, request.prompt_tokens // unit, blocks, worth, slower)


def _with_guess(match: PrefixMatch, guess: PrefixMatch, doubtful: Sequence[Endpoint]) -> PrefixMatch:
    """Credit for the guess where it is more than what an uncertain stream says; that part is taken to be on the GPU."""
    blocks, worth = list(match.blocks), list(match.worth)
    for endpoint in doubtful:
        slot = endpoint.slot
        likely = min(guess.tokens(slot) // match.block_tokens, match.total_blocks)
        more = likely - blocks[slot]
        if more > 0:
            blocks[slot] = likely
            if worth:
                worth[slot] += more
    return msgspec.structs.replace(match, blocks=blocks, worth=worth)
