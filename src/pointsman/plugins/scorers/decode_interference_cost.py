"""Cost: the running decode step a request waits for, and the slowdown it brings to requests already there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from pointsman.api.endpoint import Endpoint, InflightLoad
from pointsman.api.request import InferenceRequest
from pointsman.framework.plugin import CostScorer, Params, register
from pointsman.framework.state import CycleState


class DecodeInterferenceCostParams(Params, frozen=True):
    """Parameters of ``decode-interference-cost``."""

    expected_output_tokens: Annotated[
        int, Meta(ge=0, description="Output tokens of a typical request; no client says it in advance.")
    ] = 256
    interference_weight: Annotated[
        float,
        Meta(
            ge=0,
            description="Share of the others' slowdown that is charged. 0.01 keeps one endpoint from filling up and "
            "leaves TTFT alone; 0.25 costs TTFT.",
        ),
    ] = 0.01


@register("decode-interference-cost")
class DecodeInterferenceCost(CostScorer[DecodeInterferenceCostParams]):
    """Half a decode step while anything decodes, plus a small share of what the others lose.

    The context of a batch is taken as its requests' mean prompt plus half their expected output. What they lose per
    token is the step's growth by one more request with this prompt.
    """

    formula = (
        "0.5·step(decoding) [0 if none decodes] + interferenceWeight·requests·expectedOutputTokens·"
        "(step(requests + 1, context + prompt tokens) - step(requests, context))"
    )
    inputs = "ledger of work in flight, prompt length"

    def cost(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[float]:
        prompt = request.prompt_tokens
        return [self._one(self.handle.inflight.load(endpoint.id), prompt) for endpoint in endpoints]

    def _one(self, load: InflightLoad, prompt_tokens: int) -> float:
        count = load.requests
        if not count:
            return 0.0
        step, expected = self.handle.cost.decode_step_ms, self.params.expected_output_tokens
        mean_context = load.context_tokens / count + 0.5 * expected
        wait = 0.5 * step(load.decoding, load.decoding * mean_context) if load.decoding else 0.0
        context = count * mean_context
        slowdown = step(count + 1, context + prompt_tokens) - step(count, context)
        return wait + self.params.interference_weight * count * expected * slowdown
