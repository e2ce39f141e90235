"""Keeps a burst of requests with one prompt together while no endpoint can have it in its cache yet."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import BYTES_PER_TOKEN, InferenceRequest
from pointsman.api.result import SchedulingResult
from pointsman.framework.keys import PrefixMatch, prefix_match_key
from pointsman.framework.plugin import DataProducer, EndpointObserver, Params, PickObserver, register
from pointsman.framework.state import CycleState, StateKey
from pointsman.kvcache.blocks import TOKEN_ID_BYTES, block_keys, chain_seed, pack_token_ids

_DEFAULT_BLOCKS = 2048


class BurstPrefixCacheParams(Params, frozen=True):
    """Parameters of ``burst-prefix-cache-producer``, as in llm-d."""

    window_duration_ms: Annotated[
        float, Meta(gt=0, description="Milliseconds from the first request with a prompt for which the next follow it.")
    ] = 100
    max_per_replica: Annotated[
        int,
        Meta(ge=-1, description="Requests with one prompt that an endpoint gets within the window; -1: any number."),
    ] = -1
    block_size_tokens: Annotated[int, Meta(ge=1, description="Tokens per block.")] = 64
    max_prefix_tokens_to_match: Annotated[
        int, Meta(ge=0, description=f"Leading prompt tokens that are looked at; 0: {_DEFAULT_BLOCKS} blocks.")
    ] = 0
    min_colocate_blocks: Annotated[
        int,
        Meta(ge=0, description="Leading blocks that other prompts must share to follow, too; 0: only the same prompt."),
    ] = 0
    max_batch_size: Annotated[int, Meta(ge=1, description="Prompts remembered at a time; the oldest makes room.")] = (
        1000
    )
    balance_by: Annotated[
        Literal["requests", "tokens"],
        Meta(description="What an endpoint's fair share of a window is counted in, for prompts that only share."),
    ] = "requests"


class _Group:
    """Where the requests of one kind went, and until when others follow."""

    __slots__ = ("endpoint", "placed", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self.endpoint: int | None = None
        self.placed: Counter[int] = Counter()


@register("burst-prefix-cache-producer")
class BurstPrefixCacheProducer(DataProducer[BurstPrefixCacheParams], PickObserver, EndpointObserver):
    """No request waits: llm-d holds all back for a window and places them together, here each follows the first one.

    An endpoint that has its fill is no longer followed; the next request with the prompt goes where the other scorers
    want it, and is followed from then on. Prompts that only share their beginning follow while the endpoint is no
    more than one of them above its even share of what came in the window.
    """

    formula = "all blocks at the endpoint that took the same prompt within windowDurationMs, else none"
    inputs = "prompt bytes (or token ids), model, cache_salt, own picks of the last window"

    def setup(self) -> None:
        self._match_key = prefix_match_key(self.name)
        self._keys_key: StateKey[list[int]] = StateKey(f"burst-block-keys/{self.name}")
        self._same: OrderedDict[int, _Group] = OrderedDict()
        self._sharing: OrderedDict[int, _Group] = OrderedDict()
        self._window: Counter[int] = Counter()
        self._window_ends = 0.0

    def produces(self) -> tuple[StateKey[Any], ...]:
        return (self._match_key, self._keys_key)

    def produce(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> None:
        keys = self._hash(request)
        size = self.params.block_size_tokens
        slot = self._followed(keys, self._share(request), endpoints) if keys else None
        blocks = [] if slot is None else [0] * slot + [len(keys)]
        state.write(self._keys_key, keys)
        state.write(self._match_key, PrefixMatch(block_tokens=size, total_blocks=len(keys), blocks=blocks))

    def picked(self, request: InferenceRequest, result: SchedulingResult, state: CycleState) -> None:
        keys = state.get(self._keys_key)
        if not keys or not result.targets:
            return
        slot, now, params = (result.prefiller or result.chosen).slot, self.handle.clock.now(), self.params
        if now >= self._window_ends:
            self._window.clear()
            self._window_ends = now + params.window_duration_ms / 1000
        self._window[slot] += self._share(request)
        self._place(self._same, keys[-1], slot, now)
        if 0 < params.min_colocate_blocks <= len(keys):
            self._place(self._sharing, keys[params.min_colocate_blocks - 1], slot, now)

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        for groups in (self._same, self._sharing):
            for group in groups.values():
                group.placed.pop(endpoint.slot, None)
                if group.endpoint == endpoint.slot:
                    group.endpoint = None
        self._window.pop(endpoint.slot, None)

    def _followed(self, keys: list[int], own: int, endpoints: Sequence[Endpoint]) -> int | None:
        """The slot that a request with these keys, adding ``own`` to its share, should follow to."""
        now, params = self.handle.clock.now(), self.params
        slots = {endpoint.slot for endpoint in endpoints}
        group = self._same.get(keys[-1])
        if group is not None and now < group.until and group.endpoint in slots:
            full = params.max_per_replica >= 0 and group.placed[group.endpoint] >= params.max_per_replica
            return None if full else group.endpoint
        if not 0 < params.min_colocate_blocks <= len(keys):
            return None
        group = self._sharing.get(keys[params.min_colocate_blocks - 1])
        if group is None or now >= group.until or group.endpoint not in slots:
            return None
        even = self._window.total() / len(slots)
        return group.endpoint if self._window[group.endpoint] <= even + own else None

    def _place(self, groups: OrderedDict[int, _Group], key: int, slot: int, now: float) -> None:
        group = groups.get(key)
        if group is None or now >= group.until:
            groups.pop(key, None)
            groups[key] = group = _Group(now + self.params.window_duration_ms / 1000)
            if len(groups) > self.params.max_batch_size:
                groups.popitem(last=False)
        group.endpoint = slot
        group.placed[slot] += 1

    def _share(self, request: InferenceRequest) -> int:
        return request.prompt_tokens if self.params.balance_by == "tokens" else 1

    def _hash(self, request: InferenceRequest) -> list[int]:
        size = self.params.block_size_tokens
        limit = self.params.max_prefix_tokens_to_match // size or _DEFAULT_BLOCKS
        ids = request.token_ids if not request.prompt else None
        kind = "text" if ids is None else "ids"
        seed = chain_seed(kind, request.target_model or request.model, request.cache_salt, str(size))
        if ids is None:
            return block_keys(request.prompt, size * BYTES_PER_TOKEN, seed, limit)
        return block_keys(pack_token_ids(ids[: limit * size]), size * TOKEN_ID_BYTES, seed, limit)
