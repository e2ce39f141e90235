"""Cost: how much nearer to a full KV cache a request brings an endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.api.result import RequestOutcome
from pointsman.framework.gauges import DEFAULT_CAPACITY_TOKENS, capacity_tokens, kv_usage
from pointsman.framework.keys import APPROX_PREFIX_PRODUCER, PrefixMatch, prefix_match_key
from pointsman.framework.plugin import CostScorer, OutcomeObserver, Params, PluginSpec, register
from pointsman.framework.state import CycleState, StateKey
from pointsman.plugins.scorers._output import ExpectedOutput
from pointsman.plugins.scorers._prefix import ProducerName, cached_tokens, prefix_match, required_producers

_KNEE = 0.95


class KvPressureCostParams(Params, frozen=True):
    """Parameters of ``kv-pressure-cost``."""

    scale_ms: Annotated[
        float, Meta(ge=0, description="Milliseconds per unit of pressure; 200 to 3000 makes little difference.")
    ] = 1000.0
    expected_output_tokens: Annotated[
        int, Meta(ge=0, description="Output tokens of a typical request, until answers were seen.")
    ] = 256
    learn_output_tokens: Annotated[
        bool,
        Meta(
            description="Take the mean of the answers that are looked at (observeShare) and tell their usage, instead."
        ),
    ] = True
    default_capacity_tokens: Annotated[
        int, Meta(ge=1, description="KV cache in tokens while the endpoint's metrics do not say.")
    ] = DEFAULT_CAPACITY_TOKENS
    prefix_match_info_producer_name: ProducerName = APPROX_PREFIX_PRODUCER


@register("kv-pressure-cost")
class KvPressureCost(CostScorer[KvPressureCostParams], OutcomeObserver):
    """Charges the increment, not the level: on a full endpoint a hit stays cheap and a miss is dear.

    The used share before the request is the scraped one, plus what was charged for the requests picked since, less
    what was for those ended since. Without a fresh reading it is estimated from the ledger, at most 1: the ledger
    counts a prefix shared by several requests once per request.
    """

    formula = (
        "scaleMs·(phi(k1) - phi(k0)), phi(k) = 1/(1 - k) below 0.95, 20 + 400·(k - 0.95) above; "
        "k0 = kvUsage + (uncached prompt tokens + half the expected output of requests since) / capacity, "
        "or min(1, (context tokens + half the expected output of all requests) / capacity); "
        "k1 = k0 + (uncached prompt tokens + half the expected output) / capacity"
    )
    inputs = (
        "scraped kvUsage, num_gpu_blocks and block_size, ledger of work in flight, prefix match of the producer, "
        "lengths of observed answers"
    )

    def setup(self) -> None:
        self._output = ExpectedOutput(self.params.expected_output_tokens)

    def requires(self) -> tuple[PluginSpec, ...]:
        return required_producers(self.params.prefix_match_info_producer_name)

    def consumes(self) -> tuple[StateKey[PrefixMatch], ...]:
        return (prefix_match_key(self.params.prefix_match_info_producer_name),)

    def ended(self, outcome: RequestOutcome) -> None:
        if self.params.learn_output_tokens:
            self._output.learn(outcome)

    def cost(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[float]:
        match = prefix_match(state, self.params.prefix_match_info_producer_name)
        expected = self._output.tokens
        added = request.prompt_tokens + 0.5 * expected
        scale, default = self.params.scale_ms, self.params.default_capacity_tokens
        costs = []
        for endpoint, cached in zip(endpoints, cached_tokens(request, match, endpoints), strict=True):
            before = kv_usage(endpoint, self.handle, output_tokens=expected, default_capacity=default)
            after = before + (added - cached) / capacity_tokens(endpoint.metrics, default)
            costs.append(scale * (_pressure(after) - _pressure(before)))
        return costs


def _pressure(used: float) -> float:
    """Hyperbola up to the knee, where it reaches 20; its tangent from there on, so that it stays finite past 1."""
    return 1.0 / (1.0 - used) if used < _KNEE else 20.0 + 400.0 * (used - _KNEE)
