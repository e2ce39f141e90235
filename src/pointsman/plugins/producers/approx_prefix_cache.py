"""Guesses from our own picks which prompt blocks each endpoint has in its prefix cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import BYTES_PER_TOKEN, InferenceRequest
from pointsman.api.result import SchedulingResult
from pointsman.framework.keys import APPROX_PREFIX_PRODUCER, PrefixMatch, prefix_match_key
from pointsman.framework.plugin import DataProducer, EndpointObserver, Params, PickObserver, register
from pointsman.framework.state import CycleState, StateKey
from pointsman.kvcache.blocks import TOKEN_ID_BYTES, block_keys, chain_seed, pack_token_ids
from pointsman.kvcache.index import PrefixIndex

_REVIEW_EVERY = 1000
_WORTH_A_CHANGE = 0.25


class ApproxPrefixCacheParams(Params, frozen=True):
    """Parameters of ``approx-prefix-cache-producer``: llm-d's, and ``minBlockSizeTokens`` and ``auto`` of ours."""

    auto_tune: Annotated[
        bool,
        Meta(description="Take an endpoint's capacity from its metrics (num_gpu_blocks x block_size) when known."),
    ] = True
    block_size_tokens: Annotated[
        Annotated[int, Meta(ge=1)] | Literal["auto"],
        Meta(
            description="Tokens per block, raised to minBlockSizeTokens. auto = mean prompt tokens / 200, within "
            "3 to 20, decided by the first request and reviewed every 1000; a change of 25 % or more empties the index."
        ),
    ] = 16
    min_block_size_tokens: Annotated[
        int, Meta(ge=1, description="Lower bound on the block size; llm-d has it fixed at 64.")
    ] = 64
    max_prefix_tokens_to_match: Annotated[
        int, Meta(ge=1, description="Leading prompt tokens that are hashed and matched; the rest is not looked at.")
    ] = 131_072
    max_prefix_blocks_to_match: Annotated[
        int, Meta(ge=1, description="The same bound in blocks (deprecated in llm-d); the smaller of the two holds.")
    ] = 2048
    lru_capacity_per_server: Annotated[
        int, Meta(ge=1, description="Blocks remembered per endpoint when its capacity is not known from metrics.")
    ] = 31_250


@register(APPROX_PREFIX_PRODUCER)
class ApproxPrefixCacheProducer(DataProducer[ApproxPrefixCacheParams], PickObserver, EndpointObserver):
    """Hashes the prompt once, matches it against what earlier picks sent where, and records the pick.

    The chain starts from the model sent on, the cache salt and the block size, so that adapters, tenants and
    differently cut prompts never share a key.
    """

    formula = "leading blocks of the prompt that were sent to the endpoint before and fit its KV cache"
    inputs = "prompt bytes (or token ids), model, cache_salt, own picks, scraped num_gpu_blocks and block_size"

    def setup(self) -> None:
        self._index = PrefixIndex(self.params.lru_capacity_per_server)
        self._match_key = prefix_match_key(self.name)
        self._keys_key: StateKey[list[int]] = StateKey(f"prefix-block-keys/{self.name}")
        size = self.params.block_size_tokens
        self._block_tokens = 0 if size == "auto" else self._at_least(size)  # 0: the first request decides
        self._seen = self._seen_tokens = 0

    @property
    def index(self) -> PrefixIndex:
        """The index, for statistics; read only."""
        return self._index

    def produces(self) -> tuple[StateKey[Any], ...]:
        return (self._match_key, self._keys_key)

    def produce(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> None:
        if self.params.block_size_tokens == "auto" and request.prompt_tokens:
            self._review_block_size(request.prompt_tokens)
        keys = self._hash(request) if self._block_tokens else []
        match = PrefixMatch(
            block_tokens=self._block_tokens or 1, total_blocks=len(keys), blocks=self._index.match(keys)
        )
        state.write(self._match_key, match)
        state.write(self._keys_key, keys)

    def picked(self, request: InferenceRequest, result: SchedulingResult, state: CycleState) -> None:
        keys = state.get(self._keys_key)
        if not keys or not result.targets:
            return
        self._record(result.chosen, keys)
        if result.prefiller is not None:
            self._record(result.prefiller, keys)

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        self._index.remove(endpoint.slot)

    def _record(self, chosen: Endpoint, keys: list[int]) -> None:
        metrics = chosen.metrics
        if self.params.auto_tune and metrics.num_blocks and metrics.block_size:
            tokens = metrics.num_blocks * metrics.block_size
            self._index.set_capacity(chosen.slot, max(1, tokens // self._block_tokens))
        self._index.record(chosen.slot, keys)

    def _hash(self, request: InferenceRequest) -> list[int]:
        size = self._block_tokens
        limit = min(self.params.max_prefix_tokens_to_match // size, self.params.max_prefix_blocks_to_match)
        # Bytes where there are any: a tokenizer that is late for one turn must not cut the conversation in two.
        ids_alone = request.token_ids if not request.prompt else None
        kind = "text" if ids_alone is None else "ids"
        seed = chain_seed(kind, request.target_model or request.model, request.cache_salt, str(size))
        if ids_alone is None:
            return block_keys(request.prompt, size * BYTES_PER_TOKEN, seed, limit)
        ids = pack_token_ids(ids_alone[: limit * size])
        return block_keys(ids, size * TOKEN_ID_BYTES, seed, limit)

    def _review_block_size(self, prompt_tokens: int) -> None:
        # The mean is taken over the requests since the last review, so that it follows a change of workload.
        self._seen += 1
        self._seen_tokens += prompt_tokens
        if self._block_tokens and self._seen < _REVIEW_EVERY:
            return
        mean = self._seen_tokens / self._seen
        wanted = self._at_least(max(3, min(20, round(mean / 200))))
        if abs(wanted - self._block_tokens) >= _WORTH_A_CHANGE * self._block_tokens:
            self._block_tokens = wanted
            self._index.clear()
        self._seen = self._seen_tokens = 0

    def _at_least(self, tokens: int) -> int:
        return max(tokens, self.params.min_block_size_tokens)
