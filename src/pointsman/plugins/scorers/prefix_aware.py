"""Rates endpoints by the share of the prompt they hold, in small blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.errors import ConfigError
from pointsman.framework.keys import (
    APPROX_PREFIX_PRODUCER,
    REMOTE_PREFIX_PRODUCER,
    PrefixMatch,
    prefix_match_key,
)
from pointsman.framework.plugin import Params, PluginSpec, Scorer, register
from pointsman.framework.state import CycleState, StateKey
from pointsman.plugins.scorers._prefix import prefix_match


class PrefixAwareParams(Params, frozen=True):
    """Parameters of ``prefix-aware``."""

    hash_block_size: Annotated[
        Annotated[int, Meta(ge=3, le=20)] | Literal["auto"],
        Meta(
            description="Tokens per block: 3 for prompts below 500 tokens, 5 to 2k, 10 to 8k, 20 above. auto = mean "
            "prompt tokens / 200, within 3 to 20. Larger blocks cost less time per request."
        ),
    ] = 5
    cache_indexer_url: Annotated[
        str,
        Meta(
            description="Address of a KV-cache indexer (pointsman indexer), such as http://kv-cache-indexer:9090. It "
            "is asked before each decision; blocks of hashBlockSize count where it is late or does not know."
        ),
    ] = msgspec.field(name="cacheIndexerURL", default="")
    cache_indexer_timeout_ms: Annotated[
        float, Meta(gt=0, le=10_000, description="Milliseconds a request waits for the indexer at the most.")
    ] = 5.0
    prefix_match_info_producer_name: Annotated[
        str,
        Meta(
            description="Name of a producer to read instead of its own, such as precise-prefix-cache-producer; "
            "hashBlockSize has no effect then."
        ),
    ] = ""


@register("prefix-aware")
class PrefixAware(Scorer[PrefixAwareParams]):
    """Brings its own approximate producer, cut to the wanted block size, and with an indexer a remote one before it."""

    formula = "matched blocks / total blocks"
    inputs = "what the indexer at cacheIndexerURL says, else an approximate match in blocks of hashBlockSize tokens"

    def setup(self) -> None:
        given = self.params.prefix_match_info_producer_name
        url = self.params.cache_indexer_url
        if given and url:
            raise ConfigError(
                "parameters: cacheIndexerURL and prefixMatchInfoProducerName each name a source of prefix matches",
                hint="keep one of them",
            )
        self._guess = f"prefix-aware-blocks-{self.params.hash_block_size}"
        self._producer = given or (f"prefix-aware-remote-{self.params.hash_block_size}@{url}" if url else self._guess)

    def requires(self) -> tuple[PluginSpec, ...]:
        if self.params.prefix_match_info_producer_name:
            return ()  # it has to be configured: guessing its type would hide a typing error
        parameters: dict[str, Any] = {"blockSizeTokens": self.params.hash_block_size, "minBlockSizeTokens": 1}
        guess = PluginSpec(type=APPROX_PREFIX_PRODUCER, name=self._guess, parameters=parameters)
        if not self.params.cache_indexer_url:
            return (guess,)
        remote = {
            "cacheIndexerURL": self.params.cache_indexer_url,
            "timeoutMs": self.params.cache_indexer_timeout_ms,
            "prefixMatchInfoProducerName": self._guess,
        }
        return (guess, PluginSpec(type=REMOTE_PREFIX_PRODUCER, name=self._producer, parameters=remote))

    def consumes(self) -> tuple[StateKey[PrefixMatch], ...]:
        return (prefix_match_key(self._producer),)

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[float]:
        match = prefix_match(state, self._producer)
        return [match.share(endpoint.slot) for endpoint in endpoints]
